//! The flow table against a naive twin: a list of flows searched from end to end.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use packet::nat::PlainRewrite;
use packet::plain::{Ends, Plain};
use packet::{AnyKey, Family, Protocol, TcpFlags};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::tcp_state::Phase;
use crate::{BackendId, NatMode, NextHopId, ServiceId};

/// Of every segment, where they make no difference: each acknowledges the SYN of the other side.
const NUMBERS: Numbers = Numbers { seq: 1, ack: 2 };

const TIMEOUTS: Timeouts = Timeouts {
    tcp_established_ms: 900,
    tcp_transient_ms: 300,
    udp_ms: 200,
    udp_stream_ms: 500,
    sctp_ms: 800,
};

/// Keys come from a world so small that they collide all the time.
#[derive(Clone, Copy, Debug)]
struct Tuple {
    ipv6: bool,
    protocol: Protocol,
    client: u8,
    sport: u16,
    backend: u8,
    snat_port: Option<u16>,
}

impl Tuple {
    fn address(self, net: u8, host: u8) -> IpAddr {
        if self.ipv6 {
            Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, host.into()).into()
        } else {
            Ipv4Addr::new(10, net, 0, host).into()
        }
    }

    fn original(self) -> AnyKey {
        let src = SocketAddr::new(self.address(1, self.client), self.sport);
        AnyKey::new(src, SocketAddr::new(self.address(2, 1), 80), self.protocol).unwrap()
    }

    fn reply(self) -> AnyKey {
        let src = SocketAddr::new(self.address(3, self.backend), 8080);
        let dst = match self.snat_port {
            Some(port) => SocketAddr::new(self.address(4, 1), port),
            None => SocketAddr::new(self.address(1, self.client), self.sport),
        };
        AnyKey::new(src, dst, self.protocol).unwrap()
    }
}

/// The words of a packet with this key.
fn plain<A: Address>(key: &FlowKey<A>, flags: TcpFlags) -> Plain {
    let ([s0, s1], [d0, d1]) = (key.src.words(), key.dst.words());
    let addresses = match A::FAMILY {
        Family::V4 => [s0 << 32 | d0, 0, 0, 0],
        Family::V6 => [s0, s1, d0, d1],
    };
    let (ports, family, protocol) = (key.ports(), A::FAMILY, key.protocol);
    Plain { addresses, ports, flags, family, protocol, ..Plain::NOTHING }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Tuple),
    /// A packet with one of the tuple's keys.
    Packet(Tuple, Direction, TcpFlags),
    Remove(Tuple),
    Pass(u32),
    Sweep(u32),
    Kill(u8),
    Route(Tuple, Direction, u32, u16),
}

fn tuples() -> impl Strategy<Value = Tuple> {
    let protocol = select(Protocol::ALL.to_vec());
    (any::<bool>(), protocol, 0u8..4, 0u16..6, 0u8..3, prop::option::of(0u16..6)).prop_map(
        |(ipv6, protocol, client, sport, backend, snat_port)| Tuple {
            ipv6,
            protocol,
            client,
            sport,
            backend,
            snat_port,
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    let direction = || select(vec![Direction::Original, Direction::Reply]);
    let flags = select(vec![0x02, 0x12, 0x10, 0x11, 0x04, 0x14]).prop_map(TcpFlags);
    prop_oneof![
        8 => tuples().prop_map(Op::Insert),
        8 => (tuples(), direction(), flags).prop_map(|(tuple, direction, flags)| Op::Packet(tuple, direction, flags)),
        1 => tuples().prop_map(Op::Remove),
        3 => (0u32..200).prop_map(Op::Pass),
        2 => (0u32..20).prop_map(Op::Sweep),
        1 => (0u8..3).prop_map(Op::Kill),
        2 => (tuples(), direction(), 0u32..3, 0u16..5).prop_map(|(t, d, e, h)| Op::Route(t, d, e, h)),
    ]
}

#[derive(Clone, Copy, Debug)]
struct TwinFlow {
    slot: u32,
    view: FlowView,
    /// Position in the queue while the flow is half-open.
    queued: Option<u64>,
    bypass_reported: bool,
    /// The server's SYN was seen while the flow was in the queue: what the client must acknowledge is known.
    syn_seen: bool,
    epoch: u32,
    hops: [Option<u16>; 2],
}

impl TwinFlow {
    /// How far the flow had come for certain before it was reset.
    fn certain(&self) -> Phase {
        match (self.view.answered, self.queued) {
            (false, _) => Phase::Embryonic,
            (true, Some(_)) => Phase::Answered,
            (true, None) => Phase::Established,
        }
    }

    /// A packet with this key and no flag that steers renews the time and does no more.
    fn rests(&self, key: AnyKey) -> bool {
        let tcp = self.view.original.protocol() == Protocol::Tcp;
        match (self.view.phase, self.view.answered) {
            (Phase::Established, true) => true,
            (Phase::Embryonic, false) if self.view.original == key => {
                !tcp || self.view.mode == NatMode::Snat || self.bypass_reported
            }
            (Phase::Answered, true) => !tcp && self.view.reply == key,
            _ => false,
        }
    }
}

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

struct Twin {
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
    fn new(capacity: u32, ipv6: bool, start: u32) -> Self {
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
        assert_eq!(self.table.touch(flow, direction, (flags, || NUMBERS), self.now), want);
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
        assert_eq!(self.table.hash_plain(&plain(key, flags)), hash);
        let holds =
            |place: Place| record::holds(self.table.slab.record(place.slot()), place.direction(), key);
        // As a hint from either bucket.
        let place = self.table.index.find(hash, holds)?;
        let usual = self.table.note_usual::<E>(
            Candidate(place),
            (&plain(key, flags), || NUMBERS),
            epoch,
            self.now,
        )?;
        let flow = FlowRef(place.slot());
        let rewrite = self.table.rewrite::<A>(flow, place.direction());
        let to = plain(&rewrite.key(key.protocol), flags);
        let ends = E::from_words(&to.addresses).unwrap();
        assert_eq!(usual.rewrite, PlainRewrite { ends, ports: to.ports, ip: rewrite.ip, l4: rewrite.l4 });
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
        let unproven = protocol == Protocol::Tcp
            && (from, direction) == (Phase::Answered, Direction::Original)
            && !flags.rst()
            && flow.queued.is_some()
            && !flow.syn_seen;
        flow.syn_seen |= direction == Direction::Reply && flags.syn() && flow.queued.is_some();
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

    fn apply(&mut self, op: &Op) {
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
    fn check(&self) {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_table_does_what_a_list_of_flows_does(
        capacity in 1u32..=40,
        ipv6 in prop::bool::weighted(0.8),
        start in select(vec![0, 5_000, u32::MAX - 600]),
        ops in prop::collection::vec(ops(), 1..250),
    ) {
        let mut twin = Twin::new(capacity, ipv6, start);
        for op in &ops {
            twin.apply(op);
            twin.check();
        }
    }
}

fn flow(n: u32) -> NewFlow<Ipv4Addr> {
    let client = Ipv4Addr::from_bits(0x0a00_0000 + n / 50_000);
    let (sport, backend) = ((n % 50_000) as u16, Ipv4Addr::new(10, 244, 0, 1));
    let original =
        FlowKey { src: client, dst: Ipv4Addr::new(1, 2, 3, 4), sport, dport: 80, protocol: Protocol::Tcp };
    let reply = FlowKey { src: backend, dst: client, sport: 8080, dport: sport, protocol: Protocol::Tcp };
    let (service, backend) = (ServiceId::new(0, 0).unwrap(), BackendId::new(0, 0).unwrap());
    NewFlow { original, reply, service, backend, mode: NatMode::Dnat }
}

const SYN_ACK: TcpFlags = TcpFlags(0x12);

/// The server answers the SYN, and the client acknowledges that.
fn shake_hands(table: &mut FlowTable, flow: FlowRef) {
    table.touch(flow, Direction::Reply, (SYN_ACK, || NUMBERS), Millis(1));
    table.touch(flow, Direction::Original, (TcpFlags::ACK, || NUMBERS), Millis(1));
}

fn table(flows: u32) -> FlowTable {
    FlowTable::new(&FlowTableConfig { flows, ipv6: false, secret: 9, timeouts: Timeouts::default() }).unwrap()
}

#[test]
fn every_flow_up_to_the_capacity_finds_room_and_proven_ones_are_never_recycled() {
    let mut table = table(20_000);
    for n in 0..20_000 {
        let entered = table.insert(&flow(n), Millis(0)).unwrap();
        shake_hands(&mut table, entered);
    }
    assert_eq!(table.insert(&flow(20_000), Millis(2)), Err(InsertError::Full));
    assert_eq!(table.stats().refused, 1);
    for n in 0..20_000 {
        assert!(table.lookup(&flow(n).original, Millis(3)).is_some(), "flow {n}");
        assert!(table.lookup(&flow(n).reply, Millis(3)).is_some(), "flow {n}");
    }
}

#[test]
fn the_index_keeps_finding_room_while_a_full_table_churns() {
    let mut table = table(1000);
    let mut held: Vec<u32> = (0..1000).collect();
    let enter = |table: &mut FlowTable, n: u32| {
        let entered = table.insert(&flow(n), Millis(0)).unwrap();
        table.touch(entered, Direction::Reply, (TcpFlags::ACK, || NUMBERS), Millis(0));
    };
    held.iter().for_each(|&n| enter(&mut table, n));
    for n in 1000..100_000u32 {
        let at = n.wrapping_mul(0x9e37_79b1) as usize % held.len();
        let (gone, _) = table.lookup(&flow(held[at]).original, Millis(0)).unwrap();
        table.remove(gone);
        enter(&mut table, n);
        held[at] = n;
    }
    assert_eq!(table.stats().refused, 0);
    assert_eq!(table.index.used(), 2000);
}

#[test]
fn a_flood_of_syns_recycles_its_own_oldest() {
    let mut table = table(1000);
    for n in 0..500 {
        let entered = table.insert(&flow(n), Millis(0)).unwrap();
        shake_hands(&mut table, entered);
    }
    // Whatever the backend says, and whatever is said in the client's name without knowing that.
    for n in 500..50_000 {
        let entered = table.insert(&flow(n), Millis(2)).unwrap();
        let answer = [SYN_ACK, TcpFlags::RST | TcpFlags::ACK, TcpFlags::NONE][n as usize % 3];
        let numbers = Numbers { seq: n.wrapping_mul(0x9e37_79b1), ack: 2 };
        if answer != TcpFlags::NONE {
            table.touch(entered, Direction::Reply, (answer, || numbers), Millis(2));
        }
        table.touch(entered, Direction::Original, (TcpFlags::ACK, || NUMBERS), Millis(2));
    }
    let stats = table.stats();
    assert_eq!((stats.used, stats.embryonic, stats.refused), (900, 400, 0));
    assert_eq!(stats.recycled, 50_000 - 900);
    assert!((0..500).chain(49_600..50_000).all(|n| table.lookup(&flow(n).original, Millis(3)).is_some()));
    assert!(table.lookup(&flow(49_599).original, Millis(3)).is_none());
}

#[test]
fn a_bypassed_reply_is_told_once_and_again_after_a_reopening() {
    let mut table = table(8);
    let entered = table.insert(&flow(0), Millis(0)).unwrap();
    for (flags, want) in [
        (TcpFlags::RST | TcpFlags::ACK, Touch::Entered(Phase::Reset)),
        (TcpFlags::SYN, Touch::Reopened),
        (TcpFlags::ACK, Touch::ReplyBypass),
        (TcpFlags::ACK, Touch::Same),
        (TcpFlags::SYN, Touch::Same),
        (TcpFlags::RST, Touch::Entered(Phase::Reset)),
        (TcpFlags::SYN, Touch::Reopened),
        (TcpFlags::SYN, Touch::ReplyBypass),
    ] {
        assert_eq!(
            table.touch(entered, Direction::Original, (flags, || NUMBERS), Millis(1)),
            want,
            "{flags:?}"
        );
    }
    table.touch(entered, Direction::Reply, (TcpFlags::SYN | TcpFlags::ACK, || NUMBERS), Millis(2));
    assert_eq!(
        table.touch(entered, Direction::Original, (TcpFlags::ACK, || NUMBERS), Millis(2)),
        Touch::Entered(Phase::Established)
    );
}

#[test]
fn memory_is_96_bytes_a_flow_and_160_with_ipv6() {
    for (ipv6, bytes) in [(false, 96), (true, 160)] {
        let config = FlowTableConfig { flows: 100_000, ipv6, secret: 0, timeouts: TIMEOUTS };
        assert_eq!(FlowTable::new(&config).unwrap().bytes(), 100_000 * bytes);
    }
}

#[test]
fn a_clock_read_slightly_earlier_expires_nothing() {
    let mut table = table(8);
    table.insert(&flow(0), Millis(5)).unwrap();
    assert!(table.lookup(&flow(0).original, Millis(3)).is_some());
    assert!(table.lookup(&flow(0).original, Millis(5 + 120_000)).is_some());
    assert!(table.lookup(&flow(0).original, Millis(5 + 120_001)).is_none());
    assert_eq!(table.stats().used, 0);
}

#[test]
fn a_flow_with_the_longest_timeout_ends_all_the_same() {
    let timeouts = Timeouts { udp_ms: u32::MAX, ..TIMEOUTS };
    let mut table = FlowTable::new(&FlowTableConfig { flows: 1, ipv6: false, secret: 1, timeouts }).unwrap();
    let udp = |key| FlowKey { protocol: Protocol::Udp, ..key };
    let flow = NewFlow { original: udp(flow(0).original), reply: udp(flow(0).reply), ..flow(0) };
    let born = Millis(u32::MAX - 5);
    table.insert(&flow, born).unwrap();
    assert!(table.lookup(&flow.original, born.plus(14 * 86_400_000)).is_some());
    assert!(table.lookup(&flow.original, born.plus(24 * 86_400_000)).is_none());
}

#[test]
fn scan_shows_every_flow_once_in_bounded_steps() {
    let mut table = table(100);
    for n in 0..37 {
        table.insert(&flow(n), Millis(0)).unwrap();
    }
    let (gone, _) = table.lookup(&flow(5).original, Millis(0)).unwrap();
    table.remove(gone);
    let (mut cursor, mut seen, mut steps) = (Some(0), Vec::new(), 0);
    while let Some(from) = cursor {
        cursor = table.scan(from, 10, |_, view| seen.push(view.original.sport()));
        steps += 1;
    }
    assert_eq!(steps, 4);
    assert_eq!(seen, (0..37).filter(|&n| n != 5).collect::<Vec<_>>());
}

#[test]
fn impossible_sizes_are_refused() {
    for flows in [0, (1 << 30) + 1] {
        let config = FlowTableConfig { flows, ipv6: true, secret: 0, timeouts: TIMEOUTS };
        assert!(FlowTable::new(&config).is_err());
    }
}
