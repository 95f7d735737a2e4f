//! What the steps and stages know of a burst's packets.

use packet::{ParseError, Parsed, plain::Shape};
use tables::{PortId, flow::Candidate, hash::FlowHash};

use crate::{
    buf::{BURST, PacketBuf},
    pass::is_tagged,
};

/// What the stages know of a burst's packets, by slot; made once a worker.
pub(crate) struct Scratch {
    /// What kind of plain packet it is, if it may be a usual one ([`may_be_usual`]).
    pub(crate) usual: [Option<Shape>; BURST],
    /// Its facts are not read yet: a usual packet needs none.
    pub(crate) unread: [bool; BURST],
    pub(crate) parsed: [Parsed; BURST],
    /// Why a frame was refused; its facts are void then.
    pub(crate) refused: [Option<ParseError>; BURST],
    pub(crate) hashes: [FlowHash; BURST],
    pub(crate) candidates: [Candidate; BURST],
    /// Of a trunk's burst, each packet's port.
    pub(crate) ports: Option<[PortId; BURST]>,
    /// How many have no ports, so that they have no flow to be seen.
    pub(crate) portless: u32,
}

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self {
            usual: [None; BURST],
            unread: [false; BURST],
            parsed: [Parsed::NOTHING; BURST],
            refused: [None; BURST],
            hashes: [FlowHash(0); BURST],
            candidates: [Candidate::NONE; BURST],
            ports: None,
            portless: 0,
        }
    }

    /// The port that the packet in this slot came in by; `None`: the pass's.
    #[inline(always)]
    pub(crate) fn port(&self, slot: usize) -> Option<PortId> {
        self.ports.as_ref().map(|ports| ports[slot])
    }

    /// The facts of a sound frame of which nothing was seen in the flow table, and the hash of its flow if it has one; not of
    /// one with the tag of a VLAN.
    pub(crate) fn arrived(&self, slot: usize) -> Option<(&Parsed, FlowHash)> {
        let arrived = self.refused[slot].is_none() && self.is_unseen(slot) && !is_tagged(&self.parsed[slot]);
        arrived.then(|| (&self.parsed[slot], self.hashes[slot]))
    }

    /// Nothing was seen of it in the flow table.
    pub(crate) fn is_unseen(&self, slot: usize) -> bool {
        self.candidates[slot] == Candidate::NONE
    }

    /// Reads the facts of the frame in this slot, unless they are.
    #[inline(always)]
    pub(crate) fn read<B: PacketBuf>(&mut self, slot: usize, buf: &B) {
        if self.unread[slot] {
            self.read_now(slot, buf);
        }
    }

    #[inline(never)]
    fn read_now<B: PacketBuf>(&mut self, slot: usize, buf: &B) {
        let (head, parsed) = (buf.head(), &mut self.parsed[slot]);
        let known = self.usual[slot].and_then(|shape| packet::facts_of_plain(shape, head, parsed));
        self.refused[slot] = match known {
            Some(()) => None,
            None => packet::parse_into(head, buf.total_len(), parsed).err(),
        };
        self.unread[slot] = false;
    }
}
