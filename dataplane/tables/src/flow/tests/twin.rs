//! The table beside its naive twin: a list of flows that is searched from end to end.

use std::fmt::Debug;

use packet::nat::PlainRewrite;
use packet::plain::Ends;
use packet::{Address, AnyKey, Family, FlowKey, Protocol, TcpFlags};

use super::super::*;
use super::twin_flow::TwinFlow;
use super::world::{Op, Tuple, plain};
use super::{NUMBERS, TAGS, TIMEOUTS};
use crate::tcp_state::Phase;
use crate::{BackendId, Millis, NatMode, NextHopId, ServiceId};

/// Which backends are alive; the Service always is.
struct Alive([bool; 3]);

impl Liveness for Alive {
    fn service_is_live(&self, _: ServiceId) -> bool {
        true
    }

    fn backend_is_live(&self, backend: BackendId) -> bool {
        self.0[backend.slot() as usize]
    }
}

pub(super) struct Twin {
    table: FlowTable,
    capacity: u32,
    ipv6: bool,
    flows: Vec<TwinFlow>,
    now: Millis,
    alive: Alive,
    clock: u64,
    fresh: u32,
    cursor: u32,
}

/// Calls a generic method of the table with the key's own family.
macro_rules! by_family {
    ($key:expr, |$typed:ident| $body:expr) => {
        match $key {
            AnyKey::V4($typed) => $body,
            AnyKey::V6($typed) => $body,
        }
    };
}

impl Twin {
    pub(super) fn new(capacity: u32, ipv6: bool, start: u32) -> Self {
        let config = FlowTableConfig { flows: capacity, ipv6, secret: 1, timeouts: TIMEOUTS };
        Self {
            table: FlowTable::new(&config).unwrap(),
            capacity,
            ipv6,
            flows: Vec::new(),
            now: Millis(start),
            alive: Alive([true; 3]),
            clock: 0,
            fresh: 0,
            cursor: 0,
        }
    }

    fn is_over(&self, flow: &TwinFlow) -> bool {
        let view = &flow.view;
        self.now.since(view.last_seen) > TIMEOUTS.of(view.original.protocol(), view.phase)
    }

    /// The flow with this key; an expired one goes.
    fn lookup(&mut self, key: AnyKey) -> Option<(usize, Direction)> {
        let has = |flow: &TwinFlow| match key {
            _ if flow.view.original == key => Some(Direction::Original),
            _ if flow.view.reply == key => Some(Direction::Reply),
            _ => None,
        };
        let found =
            self.flows.iter().enumerate().find_map(|(at, flow)| has(flow).map(|direction| (at, direction)));
        let (at, _) = found?;
        if self.is_over(&self.flows[at]) {
            self.flows.remove(at);
            return None;
        }
        found
    }

    /// Looks up in both, compares, and gives both results.
    fn both(&mut self, key: AnyKey) -> Option<(usize, FlowRef, Direction)> {
        let want = self.lookup(key);
        let got = by_family!(key, |typed| self.table.lookup(&typed, self.now));
        let want_slot = want.map(|(at, direction)| (FlowRef(self.flows[at].slot), direction));
        assert_eq!(got, want_slot, "lookup of {key}");
        want.zip(got).map(|((at, direction), (flow, _))| (at, flow, direction))
    }

    fn insert(&mut self, tuple: Tuple) {
        let (original, reply) = (tuple.original(), tuple.reply());
        let ids = (ServiceId::new(1, 1).unwrap(), BackendId::new(tuple.backend.into(), 1).unwrap());
        let mode = if tuple.snat_port.is_some() { NatMode::Snat } else { NatMode::Dnat };
        let want = self.insert_refusal(original, reply);
        let got = match (original, reply) {
            (AnyKey::V4(original), AnyKey::V4(reply)) => self
                .table
                .insert(&NewFlow { original, reply, service: ids.0, backend: ids.1, mode }, self.now),
            (AnyKey::V6(original), AnyKey::V6(reply)) => self
                .table
                .insert(&NewFlow { original, reply, service: ids.0, backend: ids.1, mode }, self.now),
            _ => unreachable!("a tuple has one family"),
        };
        assert_eq!(got.err(), want);
        let Ok(FlowRef(slot)) = got else { return };
        self.clock += 1;
        self.fresh = self.fresh.max(slot + 1);
        let view = FlowView {
            original,
            reply,
            service: ids.0,
            backend: ids.1,
            mode,
            phase: Phase::Embryonic,
            answered: false,
            last_seen: self.now,
        };
        let queued = Some(self.clock);
        self.flows.push(TwinFlow {
            slot,
            view,
            queued,
            bypass_reported: false,
            syn_seen: false,
            epoch: 0,
            hops: [None; 2],
        });
    }

    /// Makes room as the table would, and tells what it must refuse.
    fn insert_refusal(&mut self, original: AnyKey, reply: AnyKey) -> Option<InsertError> {
        if original.family() == Family::V6 && !self.ipv6 {
            return Some(InsertError::Ipv6NotReserved);
        }
        if !self.is_free(original) || !self.is_free(reply) {
            return Some(InsertError::KeyTaken);
        }
        if self.flows.len() as f64 >= f64::from(self.capacity) * 0.9 {
            let waiting = self.flows.iter().enumerate().filter_map(|(at, flow)| Some((at, flow.queued?)));
            if let Some(at) = waiting.min_by_key(|(_, queued)| *queued).map(|(at, _)| at) {
                self.flows.remove(at);
            }
        }
        (self.flows.len() == self.capacity as usize).then_some(InsertError::Full)
    }

    fn is_free(&mut self, key: AnyKey) -> bool {
        let Some((at, _)) = self.lookup(key) else { return true };
        let closed = self.flows[at].view.phase.is_closed();
        if closed {
            self.flows.remove(at);
        }
        closed
    }

    fn packet(&mut self, tuple: Tuple, direction: Direction, flags: TcpFlags) {
        let key = if direction == Direction::Original { tuple.original() } else { tuple.reply() };
        let mut usual = false;
        for epoch in 0..3 {
            let at = self.usual(key, flags, epoch);
            usual |= at.is_some();
            let seen = match key {
                AnyKey::V4(key) => self.note_usual::<u64, _>(&key, flags, epoch),
                AnyKey::V6(key) => self.note_usual::<[u64; 4], _>(&key, flags, epoch),
            };
            assert_eq!(seen, at.map(|at| (FlowRef(self.flows[at].slot), self.flows[at].view.backend)));
        }
        let Some((at, flow, direction)) = self.both(key) else { return };
        let before = FlowView { last_seen: self.now, ..self.flows[at].view };
        let queued = self.flows[at].queued;
        let want = self.twin_touch(at, direction, flags);
        if usual {
            let after = (want, self.flows[at].view, self.flows[at].queued);
            assert_eq!(after, (Touch::Same, before, queued), "a usual packet renews the time and no more");
        }
        let numbers = if key.protocol() == Protocol::Sctp { TAGS } else { NUMBERS };
        assert_eq!(self.table.touch(flow, direction, (flags, || numbers), self.now), want);
    }

    /// The flow of a packet that is a usual one.
    fn usual(&self, key: AnyKey, flags: TcpFlags, epoch: u32) -> Option<usize> {
        let known = |flow: &TwinFlow, hop: usize| epoch == flow.epoch && flow.hops[hop].is_some();
        let has = |flow: &TwinFlow| match key {
            _ if flow.view.original == key => known(flow, 0),
            _ if flow.view.reply == key => known(flow, 1),
            _ => false,
        };
        let at = self.flows.iter().position(has).filter(|_| !flags.steers())?;
        let flow = &self.flows[at];
        (flow.rests(key) && !self.is_over(flow)).then_some(at)
    }

    /// The same from the table; what it says of the packet is what the flow itself says.
    fn note_usual<E: Ends + Debug, A: Address>(
        &mut self,
        key: &FlowKey<A>,
        flags: TcpFlags,
        epoch: u32,
    ) -> Option<(FlowRef, BackendId)> {
        let hash = self.table.hash(key);
        assert_eq!(self.table.hash_plain(&plain::<E, A>(key, flags)), hash);
        let packet = plain(key, flags);
        let nowhere = self.table.note_usual::<E>(Candidate::NONE, (&packet, || NUMBERS), epoch, self.now);
        assert_eq!(nowhere, None);
        let holds =
            |place: Place| record::holds(self.table.slab.record(place.slot()), place.direction(), key);
        // As a hint from either bucket.
        let place = self.table.index.find(hash, holds)?;
        let usual = self.table.note_usual::<E>(Candidate(place), (&packet, || NUMBERS), epoch, self.now)?;
        let flow = FlowRef(place.slot());
        let rewrite = self.table.rewrite::<A>(flow, place.direction());
        let to = plain::<E, A>(&rewrite.key(key.protocol), flags);
        assert_eq!(
            usual.rewrite,
            PlainRewrite { ends: to.ends, ports: to.ports, ip: rewrite.ip, l4: rewrite.l4 }
        );
        assert_eq!(Some(usual.next_hop), self.table.next_hop(flow, place.direction(), epoch));
        assert_eq!(self.table.last_seen(flow), self.now);
        Some((flow, usual.backend))
    }

    fn twin_touch(&mut self, at: usize, direction: Direction, flags: TcpFlags) -> Touch {
        let flow = &mut self.flows[at];
        let view = &mut flow.view;
        let (before, protocol) = (view.phase, view.original.protocol());
        let goes_on = before == Phase::Reset && flags.ack() && !flags.rst() && !flags.fin();
        let from = match direction {
            Direction::Original if goes_on && view.answered && !flags.syn() => flow.certain(),
            Direction::Reply if goes_on => flow.certain(),
            _ => before,
        };
        let unproven = protocol != Protocol::Udp
            && (from, direction) == (Phase::Answered, Direction::Original)
            && !flags.rst()
            && flow.queued.is_some()
            && !flow.syn_seen;
        // A server's SYN, with or without an ACK, or its INIT ACK: it has what a client must show.
        let asks = flags.syn() && (protocol == Protocol::Tcp || flags.ack());
        flow.syn_seen |= direction == Direction::Reply && asks && flow.queued.is_some();
        let view = &mut flow.view;
        view.phase = if unproven { before } else { from.after(protocol, direction, flags) };
        view.last_seen = self.now;
        let mut outcome = match view.phase {
            phase if phase == before => Touch::Same,
            _ if before == Phase::Reset => Touch::Revived,
            phase => Touch::Entered(phase),
        };
        if before.is_closed() && view.phase == Phase::Embryonic {
            self.clock += 1;
            (flow.queued, view.answered, flow.bypass_reported) = (Some(self.clock), false, false);
            flow.syn_seen = false;
            return Touch::Reopened;
        }
        let suspect = flags.opens() || flags.ack() && !flags.rst();
        if direction == Direction::Reply {
            view.answered = true;
        } else if !view.answered
            && !flow.bypass_reported
            && suspect
            && view.mode == NatMode::Dnat
            && protocol == Protocol::Tcp
        {
            flow.bypass_reported = true;
            outcome = Touch::ReplyBypass;
        }
        let half_open = [Phase::Embryonic, Phase::Answered, Phase::Reset].contains(&view.phase);
        if view.answered && (!half_open || protocol == Protocol::Udp) {
            flow.queued = None;
        }
        outcome
    }

    fn remove(&mut self, tuple: Tuple) {
        if let Some((at, flow, _)) = self.both(tuple.original()) {
            self.flows.remove(at);
            self.table.remove(flow);
        }
    }

    fn route(&mut self, tuple: Tuple, direction: Direction, epoch: u32, hop: u16) {
        let Some((at, flow, _)) = self.both(tuple.original()) else { return };
        let twin = &mut self.flows[at];
        if twin.epoch != epoch {
            (twin.epoch, twin.hops) = (epoch, [None; 2]);
        }
        twin.hops[direction as usize] = Some(hop);
        self.table.set_next_hop(flow, direction, epoch, NextHopId(hop));
    }

    fn sweep(&mut self, slots: u32) {
        let end = (self.cursor + slots).min(self.fresh);
        let swept = self.table.sweep(slots, self.now, &self.alive);
        let before = self.flows.len();
        for slot in self.cursor..end {
            let Some(at) = self.flows.iter().position(|flow| flow.slot == slot) else { continue };
            let dead = self.flows[at].view.backend != BackendId::NONE
                && !self.alive.backend_is_live(self.flows[at].view.backend);
            let udp = self.flows[at].view.original.protocol() == Protocol::Udp;
            if self.is_over(&self.flows[at]) || dead && udp {
                self.flows.remove(at);
            } else if dead {
                self.flows[at].view.backend = BackendId::NONE;
            }
        }
        assert_eq!(
            swept,
            Swept {
                removed: u32::try_from(before - self.flows.len()).unwrap(),
                pass_done: end == self.fresh
            }
        );
        self.cursor = if end == self.fresh { 0 } else { end };
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Insert(tuple) => self.insert(tuple),
            Op::Packet(tuple, direction, flags) => self.packet(tuple, direction, flags),
            Op::Remove(tuple) => self.remove(tuple),
            Op::Pass(ms) => self.now = self.now.plus(ms),
            Op::Sweep(slots) => self.sweep(slots),
            Op::Kill(backend) => self.alive.0[usize::from(backend)] ^= true,
            Op::Route(tuple, direction, epoch, hop) => self.route(tuple, direction, epoch, hop),
        }
    }

    /// Every flow of the twin is in the table, whole, under both keys; nothing else is; no slot is lost.
    pub(super) fn check(&self) {
        for twin in &self.flows {
            let flow = FlowRef(twin.slot);
            assert_eq!(self.table.view(flow), twin.view);
            for (direction, key) in
                [(Direction::Original, twin.view.original), (Direction::Reply, twin.view.reply)]
            {
                by_family!(key, |key| self.check_key(flow, direction, key));
                for epoch in 0..3 {
                    let want = (epoch == twin.epoch).then_some(twin.hops[direction as usize]).flatten();
                    assert_eq!(self.table.next_hop(flow, direction, epoch), want.map(NextHopId));
                }
            }
        }
        let stats = self.table.stats();
        assert_eq!(stats.used as usize, self.flows.len());
        assert_eq!(self.table.index.used(), self.flows.len() * 2, "index entries");
        let mut slots = self.table.slab.free_slots();
        slots.extend(self.flows.iter().map(|flow| flow.slot));
        slots.sort_unstable();
        assert_eq!(slots, (0..self.capacity).collect::<Vec<_>>(), "free + used = all");
        let mut waiting: Vec<_> = self.flows.iter().filter(|flow| flow.queued.is_some()).collect();
        waiting.sort_by_key(|flow| flow.queued);
        let waiting: Vec<_> = waiting.into_iter().map(|flow| flow.slot).collect();
        assert_eq!(self.table.half_open.slots(&self.table.slab), waiting, "oldest first");
        assert_eq!(stats.embryonic as usize, waiting.len());
        assert_eq!(stats.created, u64::from(stats.used) + stats.expired + stats.recycled + stats.removed);
    }

    fn check_key<A: Address>(&self, flow: FlowRef, direction: Direction, key: FlowKey<A>) {
        let (table, hash) = (&self.table, self.table.hash(&key));
        let found = table
            .index
            .find(hash, |place| record::holds(table.slab.record(place.slot()), place.direction(), &key));
        assert_eq!(found, Some(Place::new(flow.0, direction)), "{key}");
        assert!(table.still_holds(flow, direction, &key));
        let there = table.rewrite::<A>(flow, Direction::Original);
        let back = table.rewrite::<A>(flow, Direction::Reply);
        assert_eq!((there.ip.inverse(), there.l4.inverse()), (back.ip, back.l4));
        assert_eq!(A::any(there.key(key.protocol)), table.view(flow).reply.reversed());
        assert_eq!(A::any(back.key(key.protocol)), table.view(flow).original.reversed());
    }
}
