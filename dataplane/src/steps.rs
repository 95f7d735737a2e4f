//! The steps that every burst takes: a look at its frames, the index lines of their flows, and then each packet its way.
//!
//! Most packets are done with here, so these are compiled for each [`Level`](cpu::Level), with all that is inlined into
//! them. They are functions of their own: in one, their variables would not fit into registers.

use cpu::Work;
use packet::{AnyKey, Body, MacAddr, plain::Plain};
use tables::{
    flow::{Candidate, FlowTable},
    hash::FlowHash,
};

use crate::{
    buf::{BURST, Burst, ChecksumStatus, PacketBuf},
    io::PortIo,
    pass::Pass,
    scratch::Scratch,
    stage::{begin::Outlooks, usual::may_be_usual},
};

/// Looks at every frame, and asks for the index lines of their flows; gives the bytes of all.
pub(crate) struct Look<'s, 'a, P: PortIo> {
    pub(crate) pass: &'s Pass<'a, P>,
    pub(crate) burst: &'s Burst<P::Buf>,
    /// The address of the port they came in by.
    pub(crate) mac: MacAddr,
    pub(crate) scratch: &'s mut Scratch,
}

impl<P: PortIo> Work for Look<'_, '_, P> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let Self { pass, burst, mac, scratch } = self;
        let flows = &pass.state.flows;
        // What leaves the short way is not seen. Of several workers, that has a packet which has its flow.
        let short = !pass.state.capture.takes_passing();
        let mut bytes = 0;
        scratch.portless = 0;
        for slot in 0..burst.len().min(BURST) {
            let Some(buf) = burst.slot(slot) else { continue };
            let (head, len, status) = (buf.head(), buf.total_len(), buf.rx_checksum());
            bytes += len as u64;
            let verify = status != ChecksumStatus::Good;
            let hash = if let Some(plain) = Plain::<u64>::of_frame(head, len, verify) {
                let usual = short && may_be_usual(&plain, head, status, mac);
                (scratch.usual[slot], scratch.unread[slot]) = (usual.then_some(plain.shape()), true);
                flows.hash_plain(&plain)
            } else if let Some(plain) = Plain::<[u64; 4]>::of_frame(head, len, verify) {
                let usual = short && may_be_usual(&plain, head, status, mac);
                (scratch.usual[slot], scratch.unread[slot]) = (usual.then_some(plain.shape()), true);
                flows.hash_plain(&plain)
            } else {
                less_plain(flows, (buf, slot), scratch)
            };
            flows.prefetch_bucket(hash);
            scratch.hashes[slot] = hash;
        }
        bytes
    }
}

/// The same for a frame that is not plain; gives the hash of its flow, or some other one: a wasted hint.
#[inline(never)]
fn less_plain<B: PacketBuf>(flows: &FlowTable, (buf, slot): (&B, usize), scratch: &mut Scratch) -> FlowHash {
    (scratch.usual[slot], scratch.unread[slot]) = (None, false);
    let parsed = &mut scratch.parsed[slot];
    scratch.refused[slot] = packet::parse_into(buf.head(), buf.total_len(), parsed).err();
    match &parsed.body {
        Body::Flow { key: AnyKey::V4(key), .. } => flows.hash(key),
        Body::Flow { key: AnyKey::V6(key), .. } => flows.hash(key),
        _ => {
            scratch.portless += 1;
            FlowHash(0)
        }
    }
}

/// Reads the index lines, and asks for the records they name; true if the line of some packet with ports names none.
pub(crate) struct Fetch<'s> {
    pub(crate) flows: &'s FlowTable,
    /// Packets of the burst.
    pub(crate) count: usize,
    pub(crate) scratch: &'s mut Scratch,
}

impl Work for Fetch<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { flows, count, scratch } = self;
        let mut unseen = 0;
        for slot in 0..count.min(BURST) {
            let candidate = flows.candidate(scratch.hashes[slot]);
            unseen += u32::from(candidate == Candidate::NONE);
            scratch.candidates[slot] = candidate;
        }
        unseen > scratch.portless
    }
}

/// Takes the packets to their ends, in their order; afterwards the burst is empty.
pub(crate) struct Send<'s, 'a, P: PortIo> {
    pub(crate) pass: &'s mut Pass<'a, P>,
    pub(crate) burst: &'s mut Burst<P::Buf>,
    /// The address of the port they came in by.
    pub(crate) mac: MacAddr,
    pub(crate) scratch: &'s mut Scratch,
    /// What to do with those that have no flow, as far as that was looked at.
    pub(crate) outlooks: Option<&'s Outlooks<'a>>,
}

impl<P: PortIo> Work for Send<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { pass, burst, mac, scratch, outlooks } = self;
        for slot in 0..burst.len().min(BURST) {
            let Some(buf) = burst.take(slot) else { continue };
            if let Some(port) = scratch.port(slot) {
                pass.port = port;
            }
            let unusual = match scratch.usual[slot] {
                Some(shape) => pass.pass_usual(buf, shape, scratch.candidates[slot]),
                None => Err(buf),
            };
            if let Err(buf) = unusual {
                pass.finish(buf, mac, (scratch, slot), outlooks);
            }
        }
        burst.emptied();
    }
}
