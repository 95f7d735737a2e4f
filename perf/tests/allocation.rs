//! The worker allocates nothing once it runs: not for packets, new flows, recycling, expiry, or new tables.

use std::hint::black_box;

use cpu::Level;
use perf::{
    Meter,
    stand::{Stand, client},
};
use tables::Tables;

/// Allocations of this thread in `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

/// Allocations of all turns.
struct Count(u64);

impl Meter for Count {
    fn turn<T>(&mut self, turn: impl FnOnce() -> T) -> T {
        let mut result = None;
        self.0 += allocations(|| result = Some(turn()));
        result.expect("a turn ends")
    }
}

#[test]
fn turns_of_the_worker_do_not_allocate() {
    const FLOWS: u32 = 2000;
    let mut stand = Stand::new(FLOWS, Level::of_this_processor()).expect("memory");
    let mut count = Count(0);

    let pairs = stand.establish(1000);
    stand.both_ways(&pairs, &pairs, &mut count);
    // Past nine tenths of the capacity each new flow takes the place of another.
    for from in (1000..4000).step_by(500) {
        let clients: Vec<_> = (from..from + 500).map(client).collect();
        stand.open(&clients, &mut count);
    }
    assert!(stand.worker().counts().flows.recycled > 0, "the table was full");
    // New tables; the old ones are freed by their publisher.
    let publisher = stand.publisher.as_mut().expect("not taken");
    let mut next = Tables::clone(publisher.newest());
    next.generation = next.generation.next();
    publisher.publish(next);
    stand.both_ways(&pairs, &pairs, &mut count);
    // Every flow expires.
    stand.now = stand.now.plus(8_000_000);
    for _ in 0..200 {
        stand.idle(&mut count);
    }
    assert!(stand.worker().counts().flows.expired > 0, "flows expire");

    assert_eq!(count.0, 0, "allocations in turns");
    assert!(allocations(|| drop(black_box(vec![0u8; 100]))) > 0, "the counter counts");
}
