//! SNAT ports against a naive twin that knows every reply key in use.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use packet::{Address, FlowKey, Protocol, TcpFlags};
use proptest::prelude::*;
use proptest::sample::select;
use tables::flow::{Direction, FlowRef, FlowTable, FlowTableConfig, NewFlow, Numbers};
use tables::rss::{self, Rss};
use tables::snat::{SnatExhausted, SnatPorts, SnatRequest};
use tables::tcp_state::{Phase, Timeouts};
use tables::{BackendId, Millis, NatMode, ServiceId, SnatRange, WorkerId};

/// Of every segment: each acknowledges the SYN of the other side.
const NUMBERS: Numbers = Numbers { seq: 1, ack: 2 };

const FIN: TcpFlags = TcpFlags(0x11);
const SYN: TcpFlags = TcpFlags(0x02);
const SYN_ACK: TcpFlags = TcpFlags(0x12);
const ACK: TcpFlags = TcpFlags(0x10);

fn table(flows: u32) -> FlowTable {
    let timeouts = Timeouts::default();
    FlowTable::new(&FlowTableConfig { flows, ipv6: true, secret: 3, timeouts }).expect("a little memory")
}

fn request(client: u16) -> SnatRequest<Ipv4Addr> {
    let src = Ipv4Addr::from(0x0a00_0000 + u32::from(client));
    let dst = Ipv4Addr::new(1, 2, 3, 4);
    let original = FlowKey { src, dst, sport: 40_000, dport: 80, protocol: Protocol::Tcp };
    SnatRequest { original, backend: Ipv4Addr::new(10, 244, 0, 1), port: 8080 }
}

static RSS: LazyLock<Rss> = LazyLock::new(|| Rss::of_secret(5));

const HOME: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SPARE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn enter<A: Address>(
    table: &mut FlowTable,
    request: &SnatRequest<A>,
    reply: FlowKey<A>,
    now: Millis,
) -> FlowRef {
    let (service, backend) = (ServiceId::NONE, BackendId::NONE);
    let flow = NewFlow { original: request.original, reply, service, backend, mode: NatMode::Snat };
    table.insert(&flow, now).expect("the chosen key is free")
}

/// Opens a flow of this client and brings it to an end, or not.
fn open(
    table: &mut FlowTable,
    ports: &SnatPorts,
    client: u16,
    phase: Phase,
    now: Millis,
) -> FlowKey<Ipv4Addr> {
    let reply = ports.choose(table, &request(client), [HOME], now).expect("a port is free");
    let flow = enter(table, &request(client), reply, now);
    let handshake = [(Direction::Reply, SYN_ACK), (Direction::Original, ACK)];
    let end: &[_] = match phase {
        Phase::ClosedByServer => &[(Direction::Reply, FIN), (Direction::Original, FIN)],
        Phase::ClosedByClient => &[(Direction::Original, FIN), (Direction::Reply, FIN)],
        Phase::Reset => &[(Direction::Original, TcpFlags::RST)],
        _ => &[],
    };
    for &(direction, flags) in handshake.iter().chain(end) {
        table.touch(flow, direction, (flags, || NUMBERS), now);
    }
    assert_eq!(table.phase(flow), phase);
    reply
}

#[test]
fn never_used_comes_before_closed_and_longest_closed_before_time_wait() {
    let range = SnatRange::new(2000, 2003, []);
    let ports = SnatPorts::new(&range, &RSS, WorkerId(0), 1);
    let mut table = table(100);
    let client_closed = open(&mut table, &ports, 1, Phase::ClosedByClient, Millis(0));
    let server_closed = open(&mut table, &ports, 2, Phase::ClosedByServer, Millis(10));
    let live = open(&mut table, &ports, 3, Phase::Established, Millis(20));
    let second_closed = open(&mut table, &ports, 4, Phase::ClosedByClient, Millis(30));
    let mut seen = vec![client_closed.dport, server_closed.dport, live.dport, second_closed.dport];
    seen.sort_unstable();
    assert_eq!(seen, [2000, 2001, 2002, 2003], "never-used first");
    // All four are known: the longest closed, then the other one, then the one that the server closed, then none.
    for (client, want) in [(5, client_closed), (6, second_closed), (7, server_closed)] {
        let got = ports.choose(&mut table, &request(client), [HOME], Millis(1000)).unwrap();
        assert_eq!(got, want, "client {client}");
        enter(&mut table, &request(client), got, Millis(1000));
    }
    assert_eq!(ports.choose(&mut table, &request(8), [HOME], Millis(1000)), Err(SnatExhausted));
    assert_eq!(ports.choose(&mut table, &request(8), [HOME, SPARE], Millis(1000)).unwrap().dst, SPARE);
}

#[test]
fn a_port_in_time_wait_yields_to_the_next_address_until_60_s_have_passed() {
    let range = SnatRange::new(2000, 2000, []);
    let ports = SnatPorts::new(&range, &RSS, WorkerId(0), 1);
    for (later, want) in [(59_999, SPARE), (60_000, HOME)] {
        let mut table = table(100);
        open(&mut table, &ports, 1, Phase::ClosedByServer, Millis(5));
        let got = ports.choose(&mut table, &request(2), [HOME, SPARE], Millis(5 + later)).unwrap();
        assert_eq!(got.dst, want, "{later} ms after the close");
    }
}

#[test]
fn a_reset_flow_keeps_its_port_until_it_is_silent_for_2_s() {
    let range = SnatRange::new(2000, 2000, []);
    let ports = SnatPorts::new(&range, &RSS, WorkerId(0), 1);
    for (later, free) in [(0, false), (1_999, false), (2_000, true)] {
        let mut table = table(100);
        open(&mut table, &ports, 1, Phase::Reset, Millis(5));
        let got = ports.choose(&mut table, &request(2), [HOME], Millis(5 + later));
        assert_eq!(got.is_ok(), free, "{later} ms after the reset");
    }
}

#[test]
fn a_thousand_flows_to_one_backend_share_a_range_of_a_thousand_ports() {
    let range = SnatRange::new(10_000, 10_999, []);
    let ports = SnatPorts::new(&range, &RSS, WorkerId(0), 1);
    let mut table = table(4000);
    let mut entered = 0;
    for client in 0..1000 {
        if let Ok(reply) = ports.choose(&mut table, &request(client), [HOME], Millis(0)) {
            enter(&mut table, &request(client), reply, Millis(0));
            entered += 1;
        }
    }
    // 32 probes miss a free port only when hardly one in 32 is free.
    assert!(entered > 950, "{entered} of 1000");
}

#[test]
fn the_likely_key_is_chosen_if_it_is_free() {
    // Few ports, so that later flows find theirs taken.
    let range = SnatRange::new(1024, 1323, []);
    let ports = SnatPorts::new(&range, &RSS, WorkerId(1), 3);
    let (mut table, mut free) = (table(200), 0);
    for client in 0..60 {
        let request = request(client);
        let likely = ports.likely((&request, table.hash(&request.original)), HOME, 0).unwrap();
        let is_free = table.lookup(&likely, Millis(0)).is_none();
        let chosen = ports.choose(&mut table, &request, [HOME], Millis(0)).unwrap();
        assert_eq!(chosen == likely, is_free);
        free += u32::from(is_free);
        enter(&mut table, &request, chosen, Millis(0));
    }
    assert!((20..60).contains(&free), "{free} of 60 were free");
}

#[test]
fn an_empty_share_is_exhausted() {
    let mut table = table(10);
    for range in [SnatRange::new(10, 9, []), SnatRange::new(100, 101, [100, 101])] {
        let ports = SnatPorts::new(&range, &RSS, WorkerId(0), 1);
        assert_eq!(ports.choose(&mut table, &request(1), [HOME], Millis(0)), Err(SnatExhausted));
    }
    let range = SnatRange::new(100, 101, []);
    let mut choose = |worker| {
        let ports = SnatPorts::new(&range, &RSS, WorkerId(worker), 4);
        ports.choose(&mut table, &request(1), [HOME], Millis(0))
    };
    let exhausted = (0..4).filter(|&worker| choose(worker) == Err(SnatExhausted)).count();
    assert!(exhausted >= 2, "two ports cannot be the share of {} workers", 4 - exhausted);
}

#[test]
fn every_worker_finds_a_port_though_few_are_its_own() {
    let range = SnatRange::default();
    for worker in 0..64 {
        let ports = SnatPorts::new(&range, &RSS, WorkerId(worker), 64);
        for client in 0..50 {
            let reply = ports.choose(&mut table(1), &request(client), [HOME], Millis(0)).unwrap();
            assert_eq!(RSS.worker(&reply, 64), WorkerId(worker));
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Step {
    ipv6: bool,
    client: u16,
    backend: u8,
    close: bool,
    pass_ms: u32,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<bool>(), 0u16..200, 0u8..2, any::<bool>(), select(vec![0, 1, 1000, 50_000]));
    let step = step.prop_map(|(ipv6, client, backend, close, pass_ms)| Step {
        ipv6,
        client,
        backend,
        close,
        pass_ms,
    });
    prop::collection::vec(step, 1..150)
}

/// Plays one step in a family; the reply keys in use, by original key, are the twin. Gives the port that was chosen, and the
/// RSS hash of its replies.
fn play<A: Address>(
    table: &mut FlowTable,
    ports: &SnatPorts,
    (request, addresses): (SnatRequest<A>, &[A]),
    (step, now): (Step, Millis),
    twin: &mut HashMap<String, String>,
) -> Result<Option<(u16, u32)>, TestCaseError> {
    let original = request.original.to_string();
    if let Some((flow, direction)) = table.lookup(&request.original, now) {
        prop_assert_eq!(direction, Direction::Original);
        let flags = if step.close { FIN } else { SYN };
        table.touch(flow, Direction::Reply, (if step.close { FIN } else { SYN_ACK }, || NUMBERS), now);
        table.touch(flow, Direction::Original, (flags, || NUMBERS), now);
        return Ok(None);
    }
    let Ok(reply) = ports.choose(table, &request, addresses.iter().copied(), now) else { return Ok(None) };
    prop_assert!(table.lookup(&reply, now).is_none(), "{} is taken", reply);
    prop_assert!(
        addresses.contains(&reply.dst) && reply.src == request.backend && reply.sport == request.port
    );
    enter(table, &request, reply, now);
    twin.insert(original.clone(), reply.to_string());
    // Flows that have the same reply key in the twin must be gone from the table.
    let same = twin.iter().filter(|(other, used)| **used == reply.to_string() && **other != original);
    let gone: Vec<_> = same.map(|(other, _)| other.clone()).collect();
    let mut live = Vec::new();
    table.scan(0, u32::MAX, |_, view| live.push(view.original.to_string()));
    for other in gone {
        prop_assert!(!live.contains(&other), "{} and {} share {}", original, other, reply);
        twin.remove(&other);
    }
    Ok(Some((reply.dport, RSS.hash(&reply))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_two_live_flows_share_a_reply_key_and_every_reply_is_the_workers_own(
        steps in steps(),
        (first, len) in (1u16..2000, 0u16..60),
        reserved in prop::collection::vec(1u16..2060, 0..20),
        workers in 1u16..5,
        worker in 0u16..5,
    ) {
        let range = SnatRange::new(first, first + len, reserved.iter().copied());
        let worker = WorkerId(worker % workers);
        let ports = SnatPorts::new(&range, &RSS, worker, workers);
        let (mut table, mut twin, mut now) = (table(400), HashMap::new(), Millis(u32::MAX - 100_000));
        for step in steps {
            now = now.plus(step.pass_ms);
            let v4 = request(step.client);
            let v4 = SnatRequest { backend: Ipv4Addr::new(10, 244, 0, step.backend), ..v4 };
            let mapped = |address: Ipv4Addr| -> Ipv6Addr { address.to_ipv6_mapped() };
            let FlowKey { src, dst, sport, dport, protocol } = v4.original;
            let original = FlowKey { src: mapped(src), dst: mapped(dst), sport, dport, protocol };
            let v6 = SnatRequest { original, backend: mapped(v4.backend), port: v4.port };
            let chosen = if step.ipv6 {
                play(&mut table, &ports, (v6, &[mapped(HOME)]), (step, now), &mut twin)?
            } else {
                play(&mut table, &ports, (v4, &[HOME, SPARE]), (step, now), &mut twin)?
            };
            if let Some((port, hash)) = chosen {
                prop_assert!((first..=first + len).contains(&port) && !reserved.contains(&port));
                prop_assert_eq!(rss::worker(hash, workers), worker);
            }
        }
    }

    /// With as many ports as probes at most, every free one is found.
    #[test]
    fn a_small_range_is_used_to_the_last_port(first in 1u16..60_000, len in 1u16..=32, workers in 1u16..5) {
        let range = SnatRange::new(first, first + len - 1, []);
        let mut table = table(400);
        let mut used = Vec::new();
        for worker in 0..workers {
            let ports = SnatPorts::new(&range, &RSS, WorkerId(worker), workers);
            for client in 0.. {
                let request = request(client + worker * 100);
                let Ok(reply) = ports.choose(&mut table, &request, [HOME], Millis(0)) else { break };
                enter(&mut table, &request, reply, Millis(0));
                used.push(reply.dport);
            }
        }
        used.sort_unstable();
        prop_assert_eq!(used, (first..first + len).collect::<Vec<_>>());
    }
}
