//! Times bursts with the processor's counter.

use std::hint::black_box;

use cpu::{TscClock, tsc};
use hdrhistogram::Histogram;

use crate::{Options, Report, Row, Unit};

/// Runs cases of a bench and adds a row for each to its report.
#[derive(Debug)]
pub struct Sampler {
    options: Options,
    clock: TscClock,
    report: Report,
}

impl Sampler {
    /// A sampler for the bench of this name; its first row is the empty loop.
    #[must_use]
    pub fn new(bench: &str) -> Self {
        let options = Options::from_process();
        let clock = TscClock::calibrate();
        let mut sampler = Self { options, clock, report: Report::new(bench) };
        sampler.bursts("empty loop of 32", 32, || {
            for item in 0..32u32 {
                black_box(item);
            }
        });
        sampler
    }

    /// The options of this run.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The clock that samples are read from.
    #[must_use]
    pub fn clock(&self) -> TscClock {
        self.clock
    }

    /// Measures `burst`, which handles `items` items a call, for the time of the options: nanoseconds an item.
    pub fn bursts(&mut self, case: &str, items: u32, mut burst: impl FnMut()) {
        let limit = u64::try_from(self.options.time().as_nanos()).unwrap_or(u64::MAX);
        self.bursts_until(case, items, limit, || {
            burst();
            true
        });
    }

    /// As [`bursts`](Self::bursts), for `limit_ns` at most or until `burst` says false.
    pub fn bursts_until(&mut self, case: &str, items: u32, limit_ns: u64, mut burst: impl FnMut() -> bool) {
        if !self.options.wants(case) && !case.starts_with("empty") {
            return;
        }
        let mut cycles = histogram();
        let start = tsc();
        loop {
            let before = tsc();
            let more = burst();
            let after = tsc();
            cycles.saturating_record(after.wrapping_sub(before));
            if !more || self.clock.cycles_to_ns(after.wrapping_sub(start)) > limit_ns {
                break;
            }
        }
        self.add(case, items, &cycles);
    }

    /// Adds a row of turns, `items` items each: nanoseconds an item.
    pub fn push(&mut self, case: &str, items: u32, laps: &Laps) {
        self.add(case, items, &laps.cycles);
    }

    fn add(&mut self, case: &str, items: u32, cycles: &Histogram<u64>) {
        let per_item =
            |cycles: u64| self.clock.cycles_to_ns(cycles * 1000) as f64 / 1000.0 / f64::from(items);
        self.report.push(Row::from_histogram(case, Unit::NsPerItem, cycles, per_item));
    }

    /// Measures single runs of something slow, `runs` of them: microseconds a run.
    pub fn runs(&mut self, case: &str, runs: u32, mut run: impl FnMut()) {
        self.prepared_runs(case, runs, || (), |()| run());
    }

    /// The same for runs that each need something made before, which is not measured.
    pub fn prepared_runs<T>(
        &mut self,
        case: &str,
        runs: u32,
        mut prepare: impl FnMut() -> T,
        mut run: impl FnMut(T),
    ) {
        if !self.options.wants(case) {
            return;
        }
        let mut cycles = histogram();
        for _ in 0..runs {
            let prepared = prepare();
            let before = tsc();
            run(prepared);
            cycles.saturating_record(tsc().wrapping_sub(before));
        }
        let us = |cycles: u64| self.clock.cycles_to_ns(cycles) as f64 / 1000.0;
        self.report.push(Row::from_histogram(case, Unit::Us, &cycles, us));
    }

    /// Adds a row that holds one value.
    pub fn value(&mut self, case: &str, unit: Unit, value: f64) {
        self.report.push(Row::value(case, unit, value));
    }

    /// Prints the table and writes the JSON.
    ///
    /// # Errors
    /// If the JSON cannot be written.
    pub fn finish(self) -> std::io::Result<()> {
        self.report.finish()
    }
}

/// Measures something about turns of a worker: their time, their allocations.
pub trait Meter {
    /// Runs one turn and measures it.
    fn turn<T>(&mut self, turn: impl FnOnce() -> T) -> T;
}

/// Times of single turns, in cycles.
#[derive(Clone, Debug)]
pub struct Laps {
    cycles: Histogram<u64>,
    total: u64,
}

impl Laps {
    /// No turn yet.
    #[must_use]
    pub fn new() -> Self {
        Self { cycles: histogram(), total: 0 }
    }

    /// Nanoseconds of all turns together.
    #[must_use]
    pub fn ns(&self, clock: &TscClock) -> u64 {
        clock.cycles_to_ns(self.total)
    }

    /// Cycles of the median turn.
    #[must_use]
    pub fn median(&self) -> u64 {
        self.cycles.value_at_quantile(0.5)
    }
}

impl Meter for Laps {
    #[inline]
    fn turn<T>(&mut self, turn: impl FnOnce() -> T) -> T {
        let before = tsc();
        let result = turn();
        let cycles = tsc().wrapping_sub(before);
        self.total += cycles;
        self.cycles.saturating_record(cycles);
        result
    }
}

impl Default for Laps {
    fn default() -> Self {
        Self::new()
    }
}

/// Three digits, up to 2^40 cycles: minutes.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1 << 40, 3).expect("constant bounds are valid")
}
