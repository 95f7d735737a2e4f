//! The flow table in bursts, as the worker uses it: hash and prefetch for all, candidates for all, then find and touch.

use std::{hint::black_box, net::Ipv4Addr};

use packet::{FlowKey, Protocol, TcpFlags};
use perf::{Random, Sampler, Unit, shuffle};
use tables::{
    BackendId, Millis, NatMode, ServiceId,
    flow::{Candidate, Direction, FlowTable, FlowTableConfig, NewFlow, Numbers},
    hash::FlowHash,
    tcp_state::Timeouts,
};

/// Of every segment: each acknowledges the SYN of the other side.
const NUMBERS: Numbers = Numbers { seq: 1, ack: 2 };

const BURST: usize = 32;
/// The same as the count of items a burst that rows are computed with.
const ITEMS: u32 = 32;
const MILLION: u32 = 1 << 20;

fn main() -> std::io::Result<()> {
    let mut sampler = Sampler::new("flow");
    for (name, flows) in [("1 k", 1000), ("1 M", sampler.options().pick(1_000_000, 100_000))] {
        let mut table = table(flows + flows / 4)?;
        fill(&mut table, flows);
        hits(&mut sampler, &format!("hit, {name} flows, both directions"), &mut table, flows);
        misses(&mut sampler, &format!("miss, {name} flows"), &mut table, flows);
    }
    inserts(&mut sampler)?;
    memory(&mut sampler)?;
    sampler.finish()
}

fn table(flows: u32) -> std::io::Result<FlowTable> {
    FlowTable::new(&FlowTableConfig { flows, ipv6: false, secret: 0x5eed, timeouts: Timeouts::default() })
}

/// The n-th flow: a client of 10/8 to one VIP, translated to one of 256 backends.
fn flow(n: u32) -> NewFlow<Ipv4Addr> {
    let [a, b, c, d] = n.to_be_bytes();
    let port = 1024 + (n & 0x7fff) as u16;
    let original = FlowKey {
        src: Ipv4Addr::new(10, a ^ b, c, d),
        dst: Ipv4Addr::new(192, 0, 2, 10),
        sport: port ^ u16::from(b),
        dport: 80,
        protocol: Protocol::Tcp,
    };
    let reply = FlowKey {
        src: Ipv4Addr::new(10, 244, c, 7),
        dst: Ipv4Addr::new(172, 16, b, d),
        sport: 8080,
        dport: port,
        protocol: Protocol::Tcp,
    };
    NewFlow { original, reply, service: ServiceId::NONE, backend: BackendId::NONE, mode: NatMode::Snat }
}

/// Enters flows 0 to `flows`, with an answer seen, so that they stay.
fn fill(table: &mut FlowTable, flows: u32) {
    for n in 0..flows {
        let entered = table.insert(&flow(n), Millis(0)).expect("room, and keys of their own");
        table.touch(entered, Direction::Reply, (TcpFlags::SYN | TcpFlags::ACK, || NUMBERS), Millis(0));
        table.touch(entered, Direction::Original, (TcpFlags::ACK, || NUMBERS), Millis(0));
    }
}

/// Looks a burst of keys up in the worker's steps, and notes the hits; how many there were.
#[inline(always)]
fn burst(table: &mut FlowTable, keys: &[FlowKey<Ipv4Addr>], now: Millis) -> usize {
    let mut hashes = [FlowHash(0); BURST];
    let mut candidates = [Candidate::NONE; BURST];
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = table.hash(key);
        table.prefetch_bucket(*hash);
    }
    for (candidate, hash) in candidates.iter_mut().zip(&hashes) {
        *candidate = table.candidate(*hash);
    }
    let mut found = 0;
    for (key, (hash, candidate)) in keys.iter().zip(hashes.into_iter().zip(candidates)) {
        if let Some((flow, direction)) = table.find(hash, candidate, key, now) {
            black_box(table.touch(flow, direction, (TcpFlags::ACK, || NUMBERS), now));
            black_box(table.rewrite::<Ipv4Addr>(flow, direction));
            found += 1;
        }
    }
    found
}

fn hits(sampler: &mut Sampler, case: &str, table: &mut FlowTable, flows: u32) {
    let both = |n| [flow(n).original, flow(n).reply];
    let mut keys: Vec<_> = (0..flows).flat_map(both).collect();
    shuffle(&mut keys, &mut Random::new(1));
    let (mut bursts, mut count) = (keys.chunks_exact(BURST).cycle(), 0u32);
    sampler.bursts(case, ITEMS, || {
        count += 1;
        let found = burst(table, bursts.next().expect("an endless cycle"), Millis(count / 4096));
        assert_eq!(found, BURST);
    });
}

fn misses(sampler: &mut Sampler, case: &str, table: &mut FlowTable, flows: u32) {
    let mut keys: Vec<_> = (0..flows.min(MILLION)).map(|n| flow(n + flows).original).collect();
    shuffle(&mut keys, &mut Random::new(2));
    let mut bursts = keys.chunks_exact(BURST).cycle();
    sampler.bursts(case, ITEMS, || {
        let found = burst(table, bursts.next().expect("an endless cycle"), Millis(0));
        assert_eq!(found, 0);
    });
}

/// Fills a table from empty to nine tenths, then goes on with each flow taking the place of the oldest.
fn inserts(sampler: &mut Sampler) -> std::io::Result<()> {
    let capacity = sampler.options().pick(4 * MILLION, MILLION / 8);
    let mut table = table(capacity)?;
    let full = capacity / 10 * 9;
    let mut next = 0;
    let insert = |table: &mut FlowTable, next: &mut u32| {
        let mut numbers = *next..;
        let flows = [(); BURST].map(|()| flow(numbers.next().expect("an endless range")));
        let keys = flows.iter().flat_map(|flow| [flow.original, flow.reply]);
        keys.for_each(|key| table.prefetch_bucket(table.hash(&key)));
        for flow in &flows {
            table.insert(flow, Millis(0)).expect("room, and keys of their own");
        }
        *next += ITEMS;
    };
    sampler.bursts_until(&format!("insert, to nine tenths of {capacity}"), ITEMS, u64::MAX, || {
        insert(&mut table, &mut next);
        next + 32 < full
    });
    sampler.bursts(&format!("insert, recycling at nine tenths of {capacity}"), ITEMS, || {
        insert(&mut table, &mut next);
    });
    Ok(())
}

fn memory(sampler: &mut Sampler) -> std::io::Result<()> {
    let flows = sampler.options().pick(8 * MILLION, MILLION / 8);
    for (name, ipv6) in [("IPv4 only", false), ("IPv6 reserved", true)] {
        let timeouts = Timeouts::default();
        let table = FlowTable::new(&FlowTableConfig { flows, ipv6, secret: 1, timeouts })?;
        let case = format!("memory a flow, table for {flows}, {name}");
        sampler.value(&case, Unit::Bytes, table.bytes() as f64 / f64::from(flows));
    }
    Ok(())
}
