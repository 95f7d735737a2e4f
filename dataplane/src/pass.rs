//! One burst's way through the stages: the tables it sees, the lanes it leaves by, and the worker's own state.
//!
//! The stage files each add their step to [`Pass`]; this one has the burst's course and the few ways a packet ends.
//! Memory is fetched for the whole burst before it is read: frames, then index buckets, then flow records, and last
//! what the burst's new flows will want.

use cpu::Level;
use packet::{AnyKey, Body, Fragment, MacAddr, MacClass, Parsed, Protocol};
use tables::{
    DropReason, Millis, PortId, PortSet, Tables, WorkerId,
    affinity::Affinity,
    capture::{Capture, Event},
    counters::Counts,
    flow::FlowTable,
    owner::owner,
    punt::FrameSender,
};

use crate::{
    buf::{Burst, PacketBuf},
    fragments::Fragments,
    handoff::{Handoff, Origin},
    io::PortIo,
    lane::Lane,
    scratch::Scratch,
    stage::{
        begin::Outlooks,
        bypass::Bypasses,
        checksum::fault,
        hold::{Hold, Target},
        limit::Limit,
        police::{Kind, Police},
        translate::Outlook,
    },
    stages::{Account, Stage},
    steps::{Fetch, Look, Send},
};

/// What a worker keeps from burst to burst.
pub(crate) struct State<B> {
    pub(crate) worker: WorkerId,
    /// What the steps of a burst are compiled for.
    pub(crate) level: Level,
    pub(crate) flows: FlowTable,
    /// Which backend clients of Services with session affinity had last.
    pub(crate) affinity: Affinity,
    pub(crate) counts: Counts,
    pub(crate) hold: Hold<B>,
    /// Flows whose replies pass us by, until control is told.
    pub(crate) bypasses: Bypasses,
    pub(crate) fragments: Fragments<B>,
    /// Bounds the packets made here.
    pub(crate) limit: Limit,
    /// Bounds what others bring about.
    pub(crate) police: Police,
    /// To the kernel, by way of control.
    pub(crate) kernel: FrameSender,
    /// What control wants to see.
    pub(crate) capture: Capture,
    /// To and from the other workers.
    pub(crate) handoff: Handoff<B>,
    /// Ports with a kernel mirror.
    pub(crate) mirrored: PortSet,
    /// Where a turn's time goes.
    pub(crate) stages: Account,
}

/// See the module.
pub(crate) struct Pass<'a, P: PortIo> {
    pub(crate) tables: &'a Tables,
    pub(crate) lanes: &'a mut [Lane<P>],
    pub(crate) state: &'a mut State<P::Buf>,
    pub(crate) now: Millis,
    /// The port the packet at hand came in by; while a burst is looked at, the device's.
    pub(crate) port: PortId,
    /// They are fragments that were handed to us because we have their flow.
    pub(crate) settled: bool,
}

impl<'a, P: PortIo> Pass<'a, P> {
    /// Takes a received burst to its end; afterwards it is empty.
    pub(crate) fn run(&mut self, burst: &mut Burst<P::Buf>, scratch: &mut Scratch) {
        let packets = burst.len() as u64;
        let bytes = self.run_counted(burst, scratch);
        self.state.counts.receive(self.port, packets, bytes);
    }

    /// The same for packets that are already counted, by the worker that received them; gives their bytes.
    pub(crate) fn run_counted(&mut self, burst: &mut Burst<P::Buf>, scratch: &mut Scratch) -> u64 {
        let Some(mac) = self.tables.port(self.port).map(|info| info.mac) else {
            return self.refuse(burst);
        };
        burst.iter().for_each(PacketBuf::prefetch);
        if self.state.capture.takes_passing() {
            self.show_arrivals(burst);
        }
        scratch.ports = None;
        let tags = if self.tables.is_trunk(self.port) { self.untag(burst, scratch) } else { 0 };
        let (level, port) = (self.state.level, self.port);
        let bytes = level.run(Look { pass: self, burst, mac, scratch });
        self.state.stages.mark(Stage::Parse);
        let unseen = level.run(Fetch { flows: &self.state.flows, count: burst.len(), scratch });
        self.state.stages.mark(Stage::Lookup);
        let outlooks = unseen.then(|| self.foresee(burst, mac, scratch));
        self.state.stages.mark(Stage::Foresee);
        level.run(Send { pass: self, burst, mac, scratch, outlooks: outlooks.as_ref() });
        self.port = port;
        self.state.stages.mark(Stage::Send);
        tags + bytes
    }

    /// The tables do not know the port.
    #[cold]
    fn refuse(&mut self, burst: &mut Burst<P::Buf>) -> u64 {
        let bytes = burst.iter().map(|buf| buf.total_len() as u64).sum();
        self.state.counts.drop_packets(DropReason::BadDevice, burst.len() as u64);
        burst.clear();
        bytes
    }

    /// Takes one packet to its end; the outlooks say what to do if it has no flow, as far as that was looked at.
    #[inline(never)]
    pub(crate) fn finish(
        &mut self,
        buf: P::Buf,
        mac: MacAddr,
        (scratch, slot): (&mut Scratch, usize),
        outlooks: Option<&Outlooks<'a>>,
    ) {
        scratch.read(slot, &buf);
        if let Some(error) = scratch.refused[slot] {
            return self.drop(buf, error.into());
        }
        let parsed = &scratch.parsed[slot];
        if is_tagged(parsed) {
            return self.drop(buf, DropReason::BadVlan);
        }
        if parsed.dst_mac != mac {
            return match parsed.dst_mac.class() {
                MacClass::Unicast => self.drop(buf, DropReason::NotForUs),
                MacClass::Broadcast | MacClass::Multicast => self.take_multicast(buf, parsed),
            };
        }
        if let Some(reason) = fault(&buf, parsed) {
            return self.drop(buf, reason);
        }
        if let Some(owner) = self.foreign_owner(parsed) {
            return self.hand_over(buf, owner, false);
        }
        let outlook = Outlook {
            hash: scratch.hashes[slot],
            candidate: scratch.candidates[slot],
            known: outlooks.and_then(|outlooks| outlooks[slot].as_ref()),
            usual: scratch.usual[slot],
        };
        match &parsed.body {
            Body::Flow { key: AnyKey::V4(key), tcp_flags } => {
                self.flow(buf, parsed, (key, *tcp_flags), outlook)
            }
            Body::Flow { key: AnyKey::V6(key), tcp_flags } => {
                self.flow(buf, parsed, (key, *tcp_flags), outlook)
            }
            Body::OtherIp { protocol, .. } if parsed.fragment != Fragment::Whole && has_ports(*protocol) => {
                self.fragment(buf, parsed);
            }
            _ => self.other(buf, parsed),
        }
    }

    /// The other worker that has, or will have, the packet's flow.
    #[inline(always)]
    pub(crate) fn foreign_owner(&self, parsed: &Parsed) -> Option<WorkerId> {
        if self.tables.workers <= 1 {
            return None;
        }
        owner(parsed, self.tables).filter(|&owner| !self.settled && owner != self.state.worker)
    }

    /// Gives a packet to its owner, unchanged; a fragment whose flow is known is `settled`.
    pub(crate) fn hand_over(&mut self, buf: P::Buf, owner: WorkerId, settled: bool) {
        match self.state.handoff.send(owner, Origin { port: self.port, settled }, buf) {
            Ok(()) => self.state.counts.packets.handoff_out += 1,
            Err(buf) => self.drop(buf, DropReason::HandoffFull),
        }
    }

    /// Ends a packet here.
    pub(crate) fn drop(&mut self, buf: P::Buf, reason: DropReason) {
        if self.state.capture.is_armed() {
            self.show(&buf, Event::Dropped(reason), self.port);
        }
        drop(buf);
        self.state.counts.drop_packets(reason, 1);
    }

    /// A packet was answered or taken note of.
    pub(crate) fn consume(&mut self, buf: P::Buf) {
        drop(buf);
        self.state.counts.packets.consumed += 1;
    }

    /// Gives a packet to the kernel.
    pub(crate) fn punt(&mut self, buf: P::Buf, kind: Kind) {
        let asked = kind == Kind::Neighbors && self.tables.asking;
        if !asked && !self.state.mirrored.contains(self.port) {
            return self.drop(buf, DropReason::PuntUnavailable);
        }
        if !self.state.police.admits(kind, &self.tables.limits.kernel, self.now) {
            return self.drop(buf, DropReason::PuntLimit);
        }
        match self.state.kernel.frame(self.port, buf.segments()) {
            Ok(()) => self.state.counts.packets.punted += 1,
            Err(_) => self.drop(buf, DropReason::PuntRingFull),
        }
    }

    /// Asks control for a neighbour; a lost question is asked again by the next packet that must wait.
    pub(crate) fn resolve(&mut self, target: Target) {
        if self.state.kernel.resolve(target.port, target.address).is_err() {
            self.state.counts.turns.messages_lost += 1;
        }
    }

    /// Sends a frame made here out of a port; `write` fills the buffer and says how long the frame is.
    pub(crate) fn originate(&mut self, port: PortId, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let Some(lane) = self.lane_mut(port) else { return };
        let Some(mut buf) = lane.io.alloc() else { return };
        let Some(room) = buf.append(packet::reply::LEN_MAX) else { return };
        let Some(len) = write(room) else { return };
        buf.truncate(len);
        self.state.counts.packets.originated += 1;
        self.gather(buf, port, len);
    }

    /// Gathers a frame that is final for its port.
    #[inline(always)]
    pub(crate) fn gather(&mut self, buf: P::Buf, port: PortId, bytes: usize) {
        if self.state.capture.takes_passing() {
            self.show(&buf, Event::Left, port);
        }
        self.gather_unseen(buf, port, bytes);
    }

    /// The same where what passes is not captured.
    #[inline(always)]
    pub(crate) fn gather_unseen(&mut self, buf: P::Buf, port: PortId, bytes: usize) {
        let Some(lane) = self.lanes.get_mut(port.index()) else {
            return self.gather_tagged(buf, port, bytes);
        };
        if let Err(buf) = lane.send(buf, bytes) {
            self.drop(buf, DropReason::TxFull);
        }
    }
}

/// Datagrams of this IP protocol have ports.
#[inline]
fn has_ports(protocol: u8) -> bool {
    Protocol::try_from(protocol).is_ok()
}

/// The frame is of a VLAN; tag 0 carries a priority only.
#[inline]
pub(crate) fn is_tagged(parsed: &Parsed) -> bool {
    parsed.vlan.is_some_and(|tag| tag.id() != 0)
}
