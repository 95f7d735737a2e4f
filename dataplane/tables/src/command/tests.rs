use std::{collections::BTreeSet, net::Ipv4Addr};

use packet::{AnyKey, FlowKey, Protocol};

use super::*;
use crate::{
    NatMode,
    capture::capture_ring,
    flow::{FlowTableConfig, NewFlow},
};

/// A table of flows, the n-th of which had its last packet at `seen(n)`.
fn table_of(flows: u32, seen: impl Fn(u32) -> Millis) -> FlowTable {
    // Not so full that a new flow takes the place of an older one.
    let flows_max = 1024 + flows * 2;
    let config = FlowTableConfig { flows: flows_max, ipv6: false, secret: 7, timeouts: Timeouts::default() };
    let mut table = FlowTable::new(&config).unwrap();
    for n in 0..flows {
        let original = key(n);
        let backend = Ipv4Addr::new(10, 0, 2, 1);
        let reply = FlowKey { src: backend, dport: original.sport, sport: 8080, ..original.reversed() };
        let flow = NewFlow {
            original,
            reply,
            service: ServiceId::new(n % 2, 0).unwrap(),
            backend: BackendId::new(3, 0).unwrap(),
            mode: NatMode::Dnat,
        };
        table.insert(&flow, seen(n)).unwrap();
    }
    table
}

fn table(flows: u32) -> FlowTable {
    table_of(flows, |_| Millis(5))
}

/// Of the n-th flow.
fn key(n: u32) -> FlowKey<Ipv4Addr> {
    let [_, high, c, d] = n.to_be_bytes();
    let (src, dst) = (Ipv4Addr::new(198, 51, high, 1), Ipv4Addr::new(203, 0, 113, 1));
    FlowKey { src, dst, sport: u16::from_be_bytes([c, d]), dport: 80, protocol: Protocol::Tcp }
}

/// Which one it is.
fn number(flow: &FlowView) -> u32 {
    match flow.original {
        AnyKey::V4(FlowKey { src, sport, .. }) => u32::from(src.octets()[2]) << 16 | u32::from(sport),
        AnyKey::V6(_) => panic!("{flow:?}"),
    }
}

/// Runs a command to its end, a few records a step; the reported flows and the end.
fn run(command: Command, table: &mut FlowTable, answers: usize) -> (BTreeSet<u32>, Done) {
    let (mut sender, mut desk) = command_rings(1, answers);
    let (mut capture, _) = capture_ring(0);
    assert!(sender.send(command));
    assert!(!sender.send(command), "the ring is full");
    let mut seen = BTreeSet::new();
    for _ in 0..=PAGE_SLOTS {
        assert!(desk.step((table, &mut capture), 16, Millis(25)));
        while let Some(answer) = sender.answer() {
            match answer {
                Answer::Flow { flow, idle_ms } => {
                    assert_eq!(idle_ms, 25 - flow.last_seen.0);
                    assert!(seen.insert(number(&flow)), "reported twice");
                }
                Answer::Done(done) => {
                    let idle = !desk.step((table, &mut capture), 16, Millis(25));
                    assert!(idle, "nothing left to do");
                    return (seen, done);
                }
            }
        }
    }
    panic!("the command never ended");
}

/// Of a table that one command sees the whole of.
fn done(matched: u32) -> Done {
    Done { matched, next: None, one_in: 1 }
}

/// A report from the first slot on.
fn list(filter: FlowFilter) -> Command {
    Command::ListFlows { filter, from: 0 }
}

#[test]
fn a_report_names_every_matching_flow_once_however_small_the_ring() {
    for answers in [2, 3, 64, 4096] {
        let mut table = table(300);
        let filter = FlowFilter { service: ServiceId::new(1, 0), ..FlowFilter::default() };
        let (seen, end) = run(list(filter), &mut table, answers);
        assert_eq!(seen, (0..300).filter(|n| n % 2 == 1).collect(), "{answers}");
        assert_eq!(end, done(150));
    }
}

#[test]
fn removal_takes_the_matching_flows_and_no_others() {
    let mut table = table(300);
    let filter = FlowFilter { service: ServiceId::new(0, 0), ..FlowFilter::default() };
    let (_, end) = run(Command::RemoveFlows { filter, from: 0 }, &mut table, 64);
    assert_eq!(end, done(150));
    for n in 0..300 {
        assert_eq!(table.lookup(&key(n), Millis(25)).is_some(), n % 2 == 1);
    }
}

#[test]
fn an_address_matches_at_any_end() {
    let mut table = table(4);
    for (address, matched) in [("10.0.2.1", 4), ("203.0.113.1", 4), ("10.9.9.9", 0)] {
        let filter = FlowFilter { address: Some(address.parse().unwrap()), ..FlowFilter::default() };
        assert_eq!(run(list(filter), &mut table, 64).1, done(matched), "{address}");
    }
}

#[test]
fn flows_in_use_are_those_with_a_packet_lately() {
    let mut table = table_of(20, |n| Millis(n + 1));
    // It is 25 now: the last five were seen at 16 to 20, the others before.
    for (ms, matched) in [(4, 0), (5, 1), (9, 5), (1000, 20)] {
        let filter = FlowFilter { used_within_ms: Some(ms), ..FlowFilter::default() };
        let (seen, end) = run(list(filter), &mut table, 64);
        assert_eq!((seen, end), ((20 - matched..20).collect(), done(matched)), "{ms}");
    }
}

#[test]
fn a_step_looks_at_no_more_records_than_it_may() {
    let mut table = table(1000);
    let nobody = FlowFilter { used_within_ms: Some(0), ..FlowFilter::default() };
    for (records, steps) in [(1, 1000), (8, 125), (64, 16), (10_000, 4)] {
        for command in [list(nobody), Command::RemoveFlows { filter: nobody, from: 0 }] {
            let (mut sender, mut desk) = command_rings(1, 4096);
            let (mut capture, _) = capture_ring(0);
            assert!(sender.send(command));
            for step in 1..=steps {
                assert!(desk.step((&mut table, &mut capture), records, Millis(25)));
                assert_eq!(sender.answer().is_some(), step == steps, "{command:?}: step {step} of {steps}");
            }
        }
    }
}

#[test]
fn pages_cover_a_large_table_once() {
    let flows = 3 * PAGE_SLOTS + 1000;
    let mut table = table(flows);
    let filter = FlowFilter { service: ServiceId::new(1, 0), ..FlowFilter::default() };
    let (mut seen, mut ends) = (BTreeSet::new(), Vec::new());
    let mut from = Some(0);
    while let Some(slot) = from {
        let (page, end) = run(Command::ListFlows { filter, from: slot }, &mut table, 4096);
        assert!(page.iter().all(|n| seen.insert(*n)), "reported twice");
        ends.push((end.matched, end.next));
        from = end.next;
    }
    assert!(seen.into_iter().eq((0..flows).filter(|n| n % 2 == 1)));
    let half = PAGE_SLOTS / 2;
    let next = |page| Some(page * PAGE_SLOTS);
    assert_eq!(ends, [(half, next(1)), (half, next(2)), (half, next(3)), (500, None)]);

    let (mut removed, mut from) = (0, Some(0));
    while let Some(slot) = from {
        let (_, end) = run(Command::RemoveFlows { filter, from: slot }, &mut table, 64);
        (removed, from) = (removed + end.matched, end.next);
    }
    assert_eq!((removed, table.stats().used), (flows / 2, flows - flows / 2));
}

#[test]
fn a_page_that_ends_with_the_table_has_none_after_it() {
    for (flows, next) in [(PAGE_SLOTS - 1, None), (PAGE_SLOTS, None), (PAGE_SLOTS + 1, Some(PAGE_SLOTS))] {
        let (_, end) = run(list(FlowFilter::default()), &mut table(flows), 4096);
        assert_eq!(end.next, next, "{flows}");
    }
}

#[test]
fn samples_of_a_small_table_are_all_of_it_and_those_of_a_large_one_cover_it_together() {
    let filter = FlowFilter::default();
    for flows in [0, 1, 300, PAGE_SLOTS] {
        let (seen, end) = run(Command::SampleFlows { filter, shift: 5 }, &mut table(flows), 4096);
        assert!(seen.into_iter().eq(0..flows), "{flows}");
        assert_eq!(end, done(flows));
    }
    let flows = 3 * PAGE_SLOTS + 1000;
    let mut table = table(flows);
    let mut seen = BTreeSet::new();
    for shift in 7..7 + 4 {
        let (sample, end) = run(Command::SampleFlows { filter, shift }, &mut table, 4096);
        assert_eq!(end.one_in, 4);
        // Blocks of 64 in every stretch of four blocks.
        assert!(sample.len().abs_diff(flows as usize / 4) <= 64, "{}", sample.len());
        assert!(
            (0..flows / 256).all(|stretch| sample.range(stretch * 256..(stretch + 1) * 256).count() == 64)
        );
        assert!(sample.iter().all(|n| seen.insert(*n)), "two samples looked at the same");
    }
    assert_eq!(seen.len(), flows as usize);
}
