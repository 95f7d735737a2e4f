//! The flow table against a naive twin, and at its limits.

mod twin;
mod twin_flow;
mod world;

use std::net::Ipv4Addr;

use packet::{Protocol, TcpFlags};
use proptest::prelude::*;
use proptest::sample::select;

use self::twin::Twin;
use self::world::ops;
use super::*;
use crate::tcp_state::Phase;
use crate::{BackendId, NatMode, ServiceId};

/// Of every segment, where they make no difference: each acknowledges the SYN of the other side.
const NUMBERS: Numbers = Numbers { seq: 1, ack: 2 };
/// Of every SCTP packet, there: both sides ask for the same tag.
const TAGS: Numbers = Numbers::of_sctp(7, 7, false);

const TIMEOUTS: Timeouts = Timeouts {
    tcp_established_ms: 900,
    tcp_transient_ms: 300,
    udp_ms: 200,
    udp_stream_ms: 500,
    sctp_ms: 800,
};

/// A small table with one flow, after its first packet at time 0.
pub(super) fn begun(protocol: Protocol) -> (FlowTable, FlowRef) {
    let config = FlowTableConfig { flows: 8, ipv6: false, secret: 3, timeouts: Timeouts::default() };
    let mut table = FlowTable::new(&config).unwrap();
    let [client, vip, pod] = [[192, 0, 2, 2], [203, 0, 113, 1], [10, 244, 1, 5]].map(Ipv4Addr::from);
    let original = FlowKey { src: client, dst: vip, sport: 900, dport: 80, protocol };
    let reply = FlowKey { src: pod, dst: client, sport: 8080, dport: 900, protocol };
    let (service, backend) = (ServiceId::new(0, 0).unwrap(), BackendId::new(0, 0).unwrap());
    let new = NewFlow { original, reply, service, backend, mode: NatMode::Snat };
    let flow = table.insert(&new, Millis(0)).unwrap();
    (table, flow)
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
