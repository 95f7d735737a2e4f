//! What a list of flows takes over a table of millions, from a worker that is never without packets and from an idle one,
//! and what the packets lose by it: with a filter that none matches, and with one that all match.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use control::workers::Workers;
use cpu::Level;
use perf::{
    Laps, Sampler, Unit,
    stand::{Stand, Traffic},
};
use tables::{command::FlowFilter, counters::WorkerCounters};

/// Flows of an address that none has.
const NOBODY: FlowFilter = FlowFilter {
    service: None,
    backend: None,
    address: Some(IpAddr::V4(Ipv4Addr::BROADCAST)),
    used_within_ms: None,
};

fn main() -> io::Result<()> {
    let mut sampler = Sampler::new("listing");
    let flows = sampler.options().pick(8_000_000, 100_000);
    let mut stand = Stand::new(flows + flows / 4, Level::of_this_processor())?;
    let commands = stand.commands.take().expect("taken once");
    let workers = Workers::new(vec![(Arc::new(WorkerCounters::new(0)), commands)]);
    let mut traffic = Traffic::new(&mut stand, flows);
    let (clock, time) = (sampler.clock(), sampler.options().time() * 2);

    // The first rounds warm the caches and the branch predictor.
    traffic.rounds(&mut stand, time / 4, &clock);
    let laps = traffic.rounds(&mut stand, time, &clock);
    sampler.push(&format!("established, {flows} flows, both directions"), 64, &laps);

    for (filter, matching) in [(NOBODY, "none"), (FlowFilter::default(), "all")] {
        let mut busy = Laps::new();
        let (began, start) = (stand.now, Instant::now());
        let took = asked(&workers, filter, || {
            traffic.round(&mut stand, &mut busy);
            stand.now = began.plus(u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX));
        });
        sampler.push(&format!("the same during a list, {matching} match"), 64, &busy);
        let case = format!("list, {matching} match, worker never idle");
        sampler.value(&case, Unit::Us, us(took));
        let turns = Duration::from_nanos(busy.ns(&clock));
        sampler.value(&format!("{case}: turns of the worker"), Unit::Us, us(turns));
        let took = asked(&workers, filter, || stand.idle(&mut Laps::new()));
        sampler.value(&format!("list, {matching} match, worker idle"), Unit::Us, us(took));
    }
    sampler.finish()
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Turns the worker until it has answered for all its flows, none of which is kept; how long that took.
fn asked(workers: &Workers, filter: FlowFilter, mut turn: impl FnMut()) -> Duration {
    let workers = workers.clone();
    let asker = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let start = Instant::now();
        let listing = runtime.expect("a runtime").block_on(workers.flows(filter, 1000, |_| false));
        (listing, start.elapsed())
    });
    while !asker.is_finished() {
        turn();
    }
    let (listing, took) = asker.join().expect("the asker does not panic");
    let listing = listing.expect("the worker answers however long it takes");
    assert!(listing.flows.is_empty() && !listing.more);
    took
}
