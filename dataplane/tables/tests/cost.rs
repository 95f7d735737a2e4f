//! What the hot operations cost here. Not a judgement, a print-out:
//! `cargo test --release -p tables --test cost -- --ignored --nocapture --test-threads 1`

#![expect(clippy::disallowed_methods, reason = "measuring is the one thing that needs a clock")]

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use packet::{Address, FlowKey, Protocol, TcpFlags};
use tables::flow::{Candidate, Direction, FlowTable, FlowTableConfig, NewFlow, Numbers};
use tables::hash::FlowHash;

use tables::maglev::{Maglev, Member};
use tables::rss::Rss;
use tables::snat::{SnatPorts, SnatRequest};
use tables::tcp_state::Timeouts;
use tables::{BackendId, Generation, Millis, NatMode, ServiceId, SnatRange, Tables, WorkerId};

/// Of every segment: each acknowledges the SYN of the other side.
const NUMBERS: Numbers = Numbers { seq: 1, ack: 2 };

/// Median of `rounds` timings.
fn median(rounds: usize, mut work: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2]
}

#[test]
#[ignore = "prints costs; run it in release"]
fn maglev_build() {
    for count in [2u64, 25, 100, 600, 5_000] {
        for (kind, spread) in [("equal", 1), ("weighted", 3)] {
            let member = |n: u64| Member {
                name: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                weight: 1 + u16::from(n.is_multiple_of(spread)) * 9,
            };
            let members: Vec<_> = (0..count).map(member).collect();
            let time = median(21, || drop(black_box(Maglev::build(black_box(&members)))));
            println!("maglev build, {count} members, {kind} weights: {time:?}");
        }
    }
}

const BURST: usize = 32;

fn table(flows: u32, ipv6: bool) -> FlowTable {
    FlowTable::new(&FlowTableConfig { flows, ipv6, secret: 0x5eed, timeouts: Timeouts::default() })
        .expect("memory for a flow table")
}

/// The n-th flow: 50,000 ports a client, 100 backends.
fn flow<A: Family>(n: u32) -> NewFlow<A> {
    let (client, sport) = (A::numbered(0x0a00_0000 + n / 50_000), 1024 + (n % 50_000) as u16);
    let (vip, backend) = (A::numbered(0x0102_0304), A::numbered(0x0af4_0000 + n % 100));
    let original = FlowKey { src: client, dst: vip, sport, dport: 80, protocol: Protocol::Tcp };
    let reply = FlowKey { src: backend, dst: client, sport: 8080, dport: sport, protocol: Protocol::Tcp };
    NewFlow { original, reply, service: ServiceId::NONE, backend: BackendId::NONE, mode: NatMode::Dnat }
}

/// Addresses by number.
trait Family: Address {
    fn numbered(n: u32) -> Self;
}

impl Family for Ipv4Addr {
    fn numbered(n: u32) -> Self {
        Self::from_bits(n)
    }
}

impl Family for Ipv6Addr {
    fn numbered(n: u32) -> Self {
        Self::from_bits(0x2001_0db8 << 96 | u128::from(n))
    }
}

fn shuffle<T>(items: &mut [T]) {
    let mut seed = 1u64;
    for n in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(n, (seed >> 33) as usize % (n + 1));
    }
}

/// The keys of both directions of `flows` flows, shuffled.
fn shuffled_keys<A: Family>(flows: u32) -> Vec<FlowKey<A>> {
    let mut keys: Vec<_> = (0..flows).map(flow).flat_map(|flow| [flow.original, flow.reply]).collect();
    shuffle(&mut keys);
    keys
}

/// One burst: look every key up, note the packet, work the rewrite out. How many were found, and something of each.
fn burst<A: Family>(table: &mut FlowTable, keys: &[FlowKey<A>], now: Millis) -> (usize, u64) {
    let mut hashes = [FlowHash(0); BURST];
    let mut candidates = [Candidate::NONE; BURST];
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = table.hash(key);
        table.prefetch_bucket(*hash);
    }
    for (candidate, &hash) in candidates.iter_mut().zip(&hashes) {
        *candidate = table.candidate(hash);
    }
    let (mut found, mut sum) = (0, 0);
    for ((key, &hash), &candidate) in keys.iter().zip(&hashes).zip(&candidates) {
        let Some((flow, direction)) = table.find(hash, candidate, key, now) else { continue };
        table.touch(flow, direction, (TcpFlags::ACK, || NUMBERS), now);
        let rewrite = table.rewrite::<A>(flow, direction);
        sum += u64::from(rewrite.sport) + u64::from(rewrite.l4.to_bits());
        found += 1;
    }
    (found, sum)
}

/// Looks `keys` up in bursts, often enough to measure; nanoseconds a key.
fn lookup_ns<A: Family>(table: &mut FlowTable, keys: &[FlowKey<A>], hits: bool) -> f64 {
    let rounds = (1 << 21) / keys.len() + 1;
    let mut now = 0;
    let time = median(9, || {
        for keys in (0..rounds).flat_map(|_| keys.chunks(BURST)) {
            now += 1;
            let (found, sum) = burst(table, keys, Millis(now / 64));
            assert_eq!(found, if hits { keys.len() } else { 0 });
            black_box(sum);
        }
    });
    time.as_secs_f64() * 1e9 / (rounds * keys.len()) as f64
}

fn lookups<A: Family>(flows: u32, capacity: u32, ipv6: bool) {
    let mut table = table(capacity, ipv6);
    for n in 0..flows {
        let entered = table.insert(&flow::<A>(n), Millis(0)).expect("room");
        table.touch(entered, Direction::Reply, (TcpFlags::SYN | TcpFlags::ACK, || NUMBERS), Millis(0));
        table.touch(entered, Direction::Original, (TcpFlags::ACK, || NUMBERS), Millis(0));
    }
    let keys = shuffled_keys::<A>(flows);
    let hit = lookup_ns(&mut table, &keys, true);
    let absent: Vec<_> = keys.iter().map(|key| FlowKey { protocol: Protocol::Udp, ..*key }).collect();
    let miss = lookup_ns(&mut table, &absent, false);
    let (family, room) = (A::FAMILY, if ipv6 { 160 } else { 96 });
    println!("{family}, {flows} flows of {capacity} at {room} B: hit {hit:.1} ns, miss {miss:.1} ns");
}

#[test]
#[ignore = "prints costs; run it in release"]
fn flow_lookups() {
    for (flows, capacity) in [(1_000, 1 << 20), (1 << 20, 1 << 20), (4 << 20, 4 << 20)] {
        lookups::<Ipv4Addr>(flows, capacity, false);
        lookups::<Ipv4Addr>(flows, capacity, true);
        lookups::<Ipv6Addr>(flows, capacity, true);
    }
}

fn insert_bursts(table: &mut FlowTable, flows: std::ops::Range<u32>) {
    for start in flows.clone().step_by(BURST) {
        let burst = (start..flows.end).take(BURST);
        for flow in burst.clone().map(flow::<Ipv4Addr>) {
            [flow.original, flow.reply].iter().for_each(|key| table.prefetch_bucket(table.hash(key)));
        }
        for flow in burst.map(flow::<Ipv4Addr>) {
            black_box(table.insert(&flow, Millis(0)).expect("embryonic flows make room"));
        }
    }
}

#[test]
#[ignore = "prints costs; run it in release"]
fn flow_inserts() {
    for capacity in [1 << 16, 1 << 20, 4 << 20] {
        let mut table = table(capacity, false);
        let fill = capacity / 10 * 9;
        let start = Instant::now();
        insert_bursts(&mut table, 0..fill);
        let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(fill);
        println!("flow insert, filling {fill} of {capacity}: {each:.1} ns");
        let start = Instant::now();
        insert_bursts(&mut table, fill..2 * fill);
        let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(fill);
        println!("flow insert, recycling the oldest of {fill}: {each:.1} ns");
    }
}

#[test]
#[ignore = "prints costs; run it in release"]
fn flow_sweep() {
    let flows = 1 << 20;
    let mut table = table(flows, false);
    (0..flows).map(flow::<Ipv4Addr>).for_each(|flow| {
        black_box(table.insert(&flow, Millis(0)).expect("room"));
    });
    let tables = Tables::empty(Generation(0));
    let used = f64::from(table.stats().used);
    let pass = median(9, || while !table.sweep(64, Millis(1), &tables).pass_done {});
    println!("flow sweep, nothing to do: {:.1} ns a flow", pass.as_secs_f64() * 1e9 / used);
    let start = Instant::now();
    while !table.sweep(64, Millis(1 << 30), &tables).pass_done {}
    println!("flow sweep, all expired: {:.1} ns a flow", start.elapsed().as_secs_f64() * 1e9 / used);
    assert_eq!(table.stats().used, 0);
}

#[test]
#[ignore = "prints costs; run it in release"]
fn snat_flows() {
    let range = SnatRange::default();
    let rss = Rss::default();
    let ports = SnatPorts::new(&range, &rss, WorkerId(0), 1);
    for flows in [100_000, 1 << 20, 4 << 20] {
        let mut table = table(flows / 9 * 10 + 10, false);
        let start = Instant::now();
        let mut exhausted = 0;
        for first in (0..flows).step_by(BURST) {
            let burst = (first..flows).take(BURST).map(flow::<Ipv4Addr>);
            let requests = burst.map(|flow| SnatRequest {
                original: flow.original,
                backend: flow.reply.src,
                port: 8080,
            });
            for request in requests.clone() {
                let hash = table.hash(&request.original);
                let likely = ports.likely((&request, hash), SNAT_ADDRESS, 0).expect("the range is not empty");
                [request.original, likely].iter().for_each(|key| table.prefetch_bucket(table.hash(key)));
            }
            for request in requests {
                match ports.choose(&mut table, &request, [SNAT_ADDRESS], Millis(0)) {
                    Ok(reply) => drop(black_box(
                        table.insert(&NewFlow { original: request.original, reply, ..flow(0) }, Millis(0)),
                    )),
                    Err(_) => exhausted += 1,
                }
            }
        }
        let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(flows);
        println!(
            "snat choice and insert, {flows} flows to 100 backends: {each:.1} ns, {exhausted} exhausted"
        );
    }
}

const SNAT_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
