//! The whole pipeline on memory ports: established flows both ways, new flows, publications, two workers.

use std::{
    io,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cpu::Level;
use dataplane::handoff::{Handoff, handoff_rings};
use packet::Family;
use perf::{
    Laps, Sampler, Unit,
    replay::Replay,
    stand::{ROUND, Stand, Traffic, client},
};
use tables::{Tables, WorkerId, publish::Publisher};

fn main() -> io::Result<()> {
    let mut sampler = Sampler::new("worker");
    let million = sampler.options().pick(1_000_000, 100_000);
    for (name, flows) in [("1 k", 1024), ("1 M", million)] {
        established(&mut sampler, &format!("established, {name} flows, both directions"), flows, false)?;
    }
    let ipv6 = |stand: &mut Stand| Replay::of_ipv6(stand, 1_024);
    replayed(&mut sampler, ("established, 1 k flows of IPv6, both directions", 64), Replay::stand, ipv6)?;
    let in_vlan = |stand: &mut Stand| Replay::of_vlan(stand, 1_024);
    let case = "established, 1 k flows with clients in a VLAN, both directions";
    replayed(&mut sampler, (case, 64), Replay::stand_with_vlan, in_vlan)?;
    for (case, family) in [
        ("parts of datagrams in two, 1 k flows", Family::V4),
        ("parts of datagrams in two, 1 k flows of IPv6", Family::V6),
    ] {
        let parts = |stand: &mut Stand| Replay::of_parts(stand, family, 1_024);
        replayed(&mut sampler, (case, 32), Replay::stand, parts)?;
    }
    established(&mut sampler, "established, 1 k flows, 1,000 publications a second", 1024, true)?;
    empty_turns(&mut sampler)?;
    two_workers(&mut sampler)?;
    new_flows(&mut sampler)?;
    sampler.finish()
}

fn established(sampler: &mut Sampler, case: &str, flows: u32, publish: bool) -> io::Result<()> {
    if !sampler.options().wants(case) {
        return Ok(());
    }
    let mut stand = Stand::new(flows + flows / 4, Level::of_this_processor())?;
    let mut traffic = Traffic::new(&mut stand, flows);
    let (clock, time) = (sampler.clock(), sampler.options().time() * 2);
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = publish.then(|| {
        let (publisher, stop) = (stand.publisher.take().expect("taken once"), Arc::clone(&stop));
        thread::spawn(move || publications(publisher, &stop))
    });
    // The first rounds warm the caches and the branch predictor.
    traffic.rounds(&mut stand, time / 4, &clock);
    let laps = traffic.rounds(&mut stand, time, &clock);
    stop.store(true, Ordering::Relaxed);
    sampler.push(case, 64, &laps);
    if let Some(thread) = publishing {
        let published = thread.join().expect("the publisher does not panic");
        sampler.value("publications meanwhile", Unit::Count, published as f64);
    }
    Ok(())
}

/// What a burst may have to wait for: a turn that found nothing, soon after one that found something, and long after.
fn empty_turns(sampler: &mut Sampler) -> io::Result<()> {
    let case = "turn without packets, full table for 1 M";
    if !sampler.options().wants(case) {
        return Ok(());
    }
    let flows = sampler.options().pick(1_000_000, 100_000);
    let mut stand = Stand::new(flows + flows / 4, Level::of_this_processor())?;
    let mut traffic = Traffic::new(&mut stand, flows);
    let (clock, mut soon, mut late) = (sampler.clock(), Laps::new(), Laps::new());
    for _ in 0..sampler.options().pick(500, 20) {
        // One round.
        traffic.rounds(&mut stand, Duration::from_nanos(1), &clock);
        (0..16).for_each(|_| stand.idle(&mut soon));
        (0..64).for_each(|_| stand.idle(&mut Laps::new()));
        (0..64).for_each(|_| stand.idle(&mut late));
    }
    sampler.push(&format!("{case}: between bursts"), 1, &soon);
    sampler.push(&format!("{case}: in a long spell without"), 1, &late);
    Ok(())
}

/// The same frames again and again, so many in a turn.
fn replayed(
    sampler: &mut Sampler,
    (case, burst): (&str, u32),
    stand: impl Fn(u32, Level) -> io::Result<Stand>,
    of: impl Fn(&mut Stand) -> Replay,
) -> io::Result<()> {
    if !sampler.options().wants(case) {
        return Ok(());
    }
    let mut stand = stand(4_096, Level::of_this_processor())?;
    let replay = of(&mut stand);
    let (clock, time) = (sampler.clock(), sampler.options().time() * 2);
    // The first rounds warm the caches and the branch predictor.
    replay.rounds(&mut stand, time / 4, &clock);
    let laps = replay.rounds(&mut stand, time, &clock);
    sampler.push(case, burst, &laps);
    Ok(())
}

/// Publishes a version each millisecond; how many it were.
fn publications(mut publisher: Publisher<Tables>, stop: &AtomicBool) -> u64 {
    let (start, mut count) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let mut next = Tables::clone(publisher.newest());
        next.generation = next.generation.next();
        publisher.publish(next);
        count += 1;
        let due = Duration::from_millis(count);
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    count
}

/// One worker alone, then two that share the traffic as RSS brings it to them, each with a thousand flows: packets a second
/// of turn time. A packet that came to the wrong one would be missed, and end the bench.
fn two_workers(sampler: &mut Sampler) -> io::Result<()> {
    let case = "two workers at once against one";
    if !sampler.options().wants(case) {
        return Ok(());
    }
    let (clock, time) = (sampler.clock(), sampler.options().time());
    let run = move |workers: u16, (id, handoff), together: &Barrier| -> io::Result<f64> {
        let mut stand = Stand::one_of(workers, (id, handoff), 4096, Level::of_this_processor())?;
        let mut traffic = Traffic::new(&mut stand, 1024);
        traffic.rounds(&mut stand, time / 4, &clock);
        together.wait();
        let laps = traffic.rounds(&mut stand, time, &clock);
        // The median turn: another process on the core must not count as the other worker's doing.
        Ok(64.0 / clock.cycles_to_ns(laps.median()).max(1) as f64)
    };
    let one = run(1, (WorkerId(0), Handoff::none()), &Barrier::new(1))?;
    let both = Barrier::new(2);
    let sum = thread::scope(|scope| {
        let places = (0..).map(WorkerId).zip(handoff_rings(2));
        let threads: Vec<_> = places.map(|place| scope.spawn(|| run(2, place, &both))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker does not panic"))
            .sum::<io::Result<f64>>()
    })?;
    sampler.value(case, Unit::Ratio, sum / one);
    Ok(())
}

/// A SYN from a new client each: until the table is nine tenths full, then with each taking the place of the oldest.
fn new_flows(sampler: &mut Sampler) -> io::Result<()> {
    let full = sampler.options().pick(4_000_000, 100_000);
    let fill = format!("new flow, filling to {full}");
    let steady = "new flow, steady with recycling";
    if !sampler.options().wants(&fill) && !sampler.options().wants(steady) {
        return Ok(());
    }
    let clock = sampler.clock();
    let mut stand = Stand::new(full / 9 * 10 + 10, Level::of_this_processor())?;
    let mut next = 0;
    let mut laps = Laps::new();
    while next < full {
        next = open(&mut stand, next, &mut laps);
    }
    assert!(stand.worker().counts().flows.created >= u64::from(full));
    sampler.push(&fill, 32, &laps);
    sampler.value(&format!("{fill}: rate"), Unit::MillionPerSecond, rate(&laps, next, &clock));

    let (began, first, start) = (stand.now, next, Instant::now());
    let time = sampler.options().pick(Duration::from_secs(30), Duration::from_millis(500));
    let mut laps = Laps::new();
    while Duration::from_nanos(laps.ns(&clock)) < time && start.elapsed() < time * 4 {
        stand.now = began.plus(u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX));
        next = open(&mut stand, next, &mut laps);
    }
    sampler.push(steady, 32, &laps);
    sampler.value(&format!("{steady}: rate"), Unit::MillionPerSecond, rate(&laps, next - first, &clock));
    Ok(())
}

fn open(stand: &mut Stand, next: u32, laps: &mut Laps) -> u32 {
    let end = next + u32::try_from(ROUND).unwrap_or(u32::MAX);
    let keys: Vec<_> = (next..end).map(client).collect();
    stand.open(&keys, laps);
    end
}

fn rate(laps: &Laps, flows: u32, clock: &cpu::TscClock) -> f64 {
    f64::from(flows) * 1000.0 / laps.ns(clock) as f64
}
