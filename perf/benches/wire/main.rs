//! The appliance against `dpdk-testpmd --forward-mode=macswap` on the same wire, memif links, in interleaved rounds. One core
//! generates, one works.
//!
//! Two generators: testpmd's `flowgen`, that of published figures, sends UDP one way over one link; our own `pktgen` opens
//! TCP flows over two links, sends both ways, or makes each packet the first of a flow, and checks a sample of what comes
//! back. Of flowgen's traffic a capture of every flow is played first, and checked frame by frame. In each round the
//! appliance's own counters must tell of every flow, and of no loss but to a full link.
//!
//! A round counts the frames that come back a second, and measures before and after how long a line takes between the two
//! cores: that is what a wire in memory costs, and the host of a virtual machine changes it at will. Only runs with the same
//! distance are compared. `FAIRLEAD_BIN` names the appliance, else target/release/fairlead. Needs root and huge pages.

mod bench;
mod process;
mod traffic;

use std::error::Error;

use perf::{Options, Report, Row, Unit, cores::round_trip_ns};

use bench::{Bench, Case, Device};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Of a round's time, what its processes may wait for a core; beyond that it is the scheduler that is compared.
const WAITED_MAX: f64 = 0.05;
/// Below this, in nanoseconds for a line there and back, two cores have a cache in common; a few times as far they do not.
const NEAR_NS: f64 = 150.0;

fn main() -> Result<()> {
    let options = Options::from_process();
    let bench = Bench::new(options.pick(4, 3))?;
    let mut report = Report::new("wire");
    let checked = bench.check_frames().map_err(|error| bench.kept(&error))?;
    report.push(Row::value(
        "frames of flowgen checked for addresses, ports, checksums, TTL",
        Unit::Count,
        checked as f64,
    ));
    let rounds: usize = options.pick(11, 2);
    for (case, rounds) in [
        (Case::OneWay, rounds),
        (Case::BothWays(1024), rounds),
        (Case::BothWays(1_000_000), rounds.div_ceil(4)),
        (Case::New, rounds.div_ceil(4)),
    ] {
        if !options.wants(&case.to_string()) {
            continue;
        }
        let mut series = Series { case, runs: Vec::new(), waits: Vec::new() };
        for round in 1..=rounds {
            series.play(&bench, round).map_err(|error| bench.kept(&error))?;
        }
        series.report(&mut report);
    }
    report.finish()?;
    bench.clean();
    Ok(())
}

/// One device's turn in a round.
#[derive(Clone, Copy)]
struct Run {
    device: Device,
    /// Millions a second.
    rate: f64,
    /// How far the cores were from each other before and after it.
    trips: [f64; 2],
}

impl Run {
    /// The two cores had a cache in common all the time, or never; `None` if they were moved meanwhile.
    fn is_near(&self) -> Option<bool> {
        let [before, after] = self.trips.map(|trip| trip < NEAR_NS);
        (before == after).then_some(before)
    }
}

/// What the rounds of a case gave.
struct Series {
    case: Case,
    runs: Vec<Run>,
    waits: Vec<f64>,
}

impl Series {
    fn play(&mut self, bench: &Bench, round: usize) -> Result<()> {
        let mut order = self.case.devices().to_vec();
        // Who is first takes turns, so that what drifts in a round favours neither.
        let first = round % order.len();
        order.rotate_left(first);
        let mut waited = 0.0_f64;
        for device in order {
            let before = round_trip_ns([0, 1])?;
            let (rate, share) = bench.round(device, self.case)?;
            let trips = [before, round_trip_ns([0, 1])?];
            eprintln!(
                "{}, round {round}: {device}: {rate:.2} M/s, cores {:.0} to {:.0} ns apart, waited {share:.2}",
                self.case, trips[0], trips[1]
            );
            self.runs.push(Run { device, rate, trips });
            waited = waited.max(share);
        }
        self.waits.push(waited);
        Ok(())
    }

    /// Rates of a device in the runs with the cores near to each other, or far.
    fn rates(&self, device: Device, near: bool) -> Vec<f64> {
        let runs = self.runs.iter().filter(|run| run.device == device && run.is_near() == Some(near));
        runs.map(|run| run.rate).collect()
    }

    fn report(mut self, report: &mut Report) {
        let case = self.case;
        for (near, place) in [(true, "near"), (false, "far")] {
            let mut medians = Vec::new();
            for &device in case.devices() {
                let mut rates = self.rates(device, near);
                if rates.is_empty() {
                    continue;
                }
                let name = format!("{case}, cores {place}: {device}, median of {} runs", rates.len());
                medians.push(median(&mut rates));
                report.push(Row::value(&name, Unit::MillionPerSecond, median(&mut rates)));
            }
            if let [appliance, macswap] = medians[..] {
                report.push(Row::value(
                    &format!("{case}, cores {place}: ratio"),
                    Unit::Ratio,
                    appliance / macswap,
                ));
            }
        }
        let waited = median(&mut self.waits);
        report.push(Row::value(
            &format!("{case}: share of time spent waiting for a core, median"),
            Unit::Ratio,
            waited,
        ));
        if waited > WAITED_MAX {
            let name = format!("{case}: NO COMPARISON, other work had the cores; limit of that share");
            report.push(Row::value(&name, Unit::Ratio, WAITED_MAX));
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
