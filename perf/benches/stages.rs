//! Where the time of a packet goes, stage by stage: the loop of the worker's bench in a build that marks its stages with the
//! time-stamp counter. `cargo bench -p perf --features stages --bench stages`.
//!
//! Twice each: with a mark a burst, which costs next to nothing a packet, and with marks of single packets, which split what
//! is done packet by packet; those stop the processor from doing the next packet's work meanwhile, so that the parts are more
//! than their whole and tell of proportions. What the marks themselves cost is measured first, and taken off.

use std::{hint::black_box, io, time::Duration};

use cpu::{Level, TscClock, tsc};
use dataplane::stages::{Account, Stage};
use perf::{
    Laps, Sampler, Unit,
    stand::{ROUND, Stand, Traffic, client},
};

/// Marks that are timed for their cost.
const MARKS: u32 = 100_000;

fn main() -> io::Result<()> {
    let mut sampler = Sampler::new("stages");
    let clock = sampler.clock();
    let mark_ns = mark_ns(&clock);
    sampler.value("a mark, which is taken off below", Unit::NsPerItem, mark_ns);
    let million = sampler.options().pick(1_000_000, 100_000);
    for (name, flows) in [("1 k", 1024), ("1 M", million)] {
        let case = format!("established, {name} flows, both directions");
        if sampler.options().wants(&case) {
            established(&mut sampler, &case, flows, mark_ns)?;
        }
    }
    if sampler.options().wants("new flow") {
        new_flows(&mut sampler, mark_ns)?;
    }
    sampler.finish()
}

/// What a mark costs, next to others.
fn mark_ns(clock: &TscClock) -> f64 {
    let mut account = Account::new(true);
    let start = tsc();
    for _ in 0..MARKS {
        black_box(&mut account).mark_packet(Stage::Send);
    }
    clock.cycles_to_ns(tsc().wrapping_sub(start)) as f64 / f64::from(MARKS)
}

fn established(sampler: &mut Sampler, case: &str, flows: u32, mark_ns: f64) -> io::Result<()> {
    let mut stand = Stand::new(flows + flows / 4, Level::of_this_processor())?;
    let mut traffic = Traffic::new(&mut stand, flows);
    let (clock, time) = (sampler.clock(), sampler.options().time() * 2);
    traffic.rounds(&mut stand, time / 4, &clock);
    for packets in [false, true] {
        let before = begin(&mut stand, packets);
        let laps = traffic.rounds(&mut stand, time, &clock);
        tell(sampler, (case, packets, mark_ns), &mut stand, (&laps, before));
    }
    Ok(())
}

/// SYNs of new clients into an empty table: a quarter of it with either kind of marks.
fn new_flows(sampler: &mut Sampler, mark_ns: f64) -> io::Result<()> {
    let full = sampler.options().pick(2_000_000, 50_000);
    let mut stand = Stand::new(full * 2, Level::of_this_processor())?;
    let mut next = 0;
    for (packets, end) in [(false, full / 2), (true, full)] {
        let before = begin(&mut stand, packets);
        let mut laps = Laps::new();
        while next < end {
            let keys: Vec<_> = (next..).map(client).take(ROUND).collect();
            next += u32::try_from(keys.len()).unwrap_or(u32::MAX);
            stand.open(&keys, &mut laps);
        }
        let case = format!("new flow, filling to {full}");
        tell(sampler, (&case, packets, mark_ns), &mut stand, (&laps, before));
    }
    Ok(())
}

/// Begins an account; the packets so far.
fn begin(stand: &mut Stand, packets: bool) -> u64 {
    *stand.stages_mut() = Account::new(packets);
    stand.worker().counts().packets.rx
}

/// Rows of the stages that took anything, and of all together beside the whole turns.
fn tell(
    sampler: &mut Sampler,
    (case, marked, mark_ns): (&str, bool, f64),
    stand: &mut Stand,
    (laps, before): (&Laps, u64),
) {
    let clock = sampler.clock();
    let packets = (stand.worker().counts().packets.rx - before).max(1) as f64;
    let case = if marked { format!("{case}, packets marked") } else { case.to_owned() };
    let mut sum = 0.0;
    for stage in Stage::ALL {
        let spent = stand.stages_mut().spent(stage);
        let ns = (clock.cycles_to_ns(spent.cycles) as f64 - spent.marks as f64 * mark_ns).max(0.0) / packets;
        if spent.marks > 0 {
            sampler.value(&format!("{case}: {}", stage.name()), Unit::NsPerItem, ns);
        }
        sum += ns;
    }
    sampler.value(&format!("{case}: SUM OF THE STAGES"), Unit::NsPerItem, sum);
    let whole = Duration::from_nanos(laps.ns(&clock)).as_secs_f64() * 1e9 / packets;
    sampler.value(&format!("{case}: whole turns, marks and all"), Unit::NsPerItem, whole);
}
