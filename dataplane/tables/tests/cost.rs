//! What the hot operations cost here. Not a judgement, a print-out:
//! `cargo test --release -p tables --test cost -- --ignored --nocapture --test-threads 1`

#![expect(clippy::disallowed_methods, reason = "measuring is the one thing that needs a clock")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use packet::{FlowKey, Protocol, TcpFlags};
use tables::flow::{Candidate, Direction, FlowTable, FlowTableConfig, NewFlow};
use tables::hash::FlowHash;

use tables::maglev::{Maglev, Member};
use tables::tcp_state::Timeouts;
use tables::{BackendId, Millis, NatMode, ServiceId};

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

fn table(flows: u32) -> FlowTable {
    FlowTable::new(&FlowTableConfig { flows, ipv6: false, secret: 0x5eed, timeouts: Timeouts::default() })
        .expect("memory for a flow table")
}

fn flow(n: u32) -> NewFlow<Ipv4Addr> {
    let client = Ipv4Addr::from_bits(0x0a00_0000 + n / 50_000);
    let (sport, backend) = (1024 + (n % 50_000) as u16, Ipv4Addr::from_bits(0x0af4_0000 + n % 100));
    let original =
        FlowKey { src: client, dst: Ipv4Addr::new(1, 2, 3, 4), sport, dport: 80, protocol: Protocol::Tcp };
    let reply = FlowKey { src: backend, dst: client, sport: 8080, dport: sport, protocol: Protocol::Tcp };
    NewFlow { original, reply, service: ServiceId::NONE, backend: BackendId::NONE, mode: NatMode::Dnat }
}

/// The keys of both directions of `flows` flows, shuffled.
fn shuffled_keys(flows: u32) -> Vec<FlowKey<Ipv4Addr>> {
    let mut keys: Vec<_> = (0..flows).flat_map(|n| [flow(n).original, flow(n).reply]).collect();
    let mut seed = 1u64;
    for n in (1..keys.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        keys.swap(n, (seed >> 33) as usize % (n + 1));
    }
    keys
}

/// One burst: look every key up, note the packet, work the rewrite out.
fn hit_burst(table: &mut FlowTable, keys: &[FlowKey<Ipv4Addr>], now: Millis) -> u64 {
    let mut hashes = [FlowHash(0); BURST];
    let mut candidates = [Candidate::NONE; BURST];
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = table.hash(key);
        table.prefetch_bucket(*hash);
    }
    for (candidate, &hash) in candidates.iter_mut().zip(&hashes) {
        *candidate = table.candidate(hash);
    }
    let mut sum = 0;
    for ((key, &hash), &candidate) in keys.iter().zip(&hashes).zip(&candidates) {
        let (flow, direction) = table.find(hash, candidate, key, now).expect("every key is in the table");
        table.touch(flow, direction, TcpFlags::ACK, now);
        let rewrite = table.rewrite::<Ipv4Addr>(flow, direction);
        sum += u64::from(rewrite.to.sport) + u64::from(rewrite.l4_delta.to_bits());
    }
    sum
}

#[test]
#[ignore = "prints costs; run it in release"]
fn flow_hits() {
    for (flows, capacity) in [(1_000, 1 << 20), (1 << 20, 1 << 20), (1 << 20, 4 << 20), (4 << 20, 4 << 20)] {
        let mut table = table(capacity);
        for n in 0..flows {
            let entered = table.insert(&flow(n), Millis(0)).unwrap();
            table.touch(entered, Direction::Reply, TcpFlags::SYN | TcpFlags::ACK, Millis(0));
            table.touch(entered, Direction::Original, TcpFlags::ACK, Millis(0));
        }
        let keys = shuffled_keys(flows);
        let mut now = 0;
        let rounds = (1 << 21) / keys.len() + 1;
        let time = median(9, || {
            for _ in 0..rounds {
                for burst in keys.chunks(BURST) {
                    now += 1;
                    black_box(hit_burst(&mut table, burst, Millis(now / 64)));
                }
            }
        });
        let each = time.as_secs_f64() * 1e9 / (rounds * keys.len()) as f64;
        println!("flow hit, {flows} flows of {capacity}: {each:.1} ns");
    }
}

fn insert_bursts(table: &mut FlowTable, flows: std::ops::Range<u32>) {
    for start in flows.clone().step_by(BURST) {
        let burst = (start..flows.end).take(BURST);
        for flow in burst.clone().map(flow) {
            table.prefetch_insert(&flow.original, &flow.reply);
        }
        for flow in burst.map(flow) {
            black_box(table.insert(&flow, Millis(0)).expect("embryonic flows make room"));
        }
    }
}

#[test]
#[ignore = "prints costs; run it in release"]
fn flow_inserts() {
    for capacity in [1 << 16, 1 << 20, 4 << 20] {
        let mut table = table(capacity);
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
