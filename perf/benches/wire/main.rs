//! The appliance against `dpdk-testpmd --forward-mode=macswap` on the same wire, memif links, in interleaved rounds. One core
//! generates, one works.
//!
//! Two generators: testpmd's `flowgen`, that of published figures, sends UDP one way over one link; our own `pktgen` opens
//! TCP flows over two links, sends both ways, or makes each packet the first of a flow, and checks a sample of what comes
//! back. Of flowgen's traffic a capture of every flow is played first, and checked frame by frame. In each round the
//! appliance's own counters must tell of every flow, and of no loss but to a full link.
//!
//! While a device runs, its rate is told in short slices and the distance of the two cores is measured again and again:
//! that is what a wire in memory costs, and the host of a virtual machine changes it at will. A run below which it changed is
//! repeated; a ratio is of two runs next to each other over the same wire, and what is reported is the median of the rounds'
//! ratios with the least and the greatest. `FAIRLEAD_BIN` names the appliance, else target/release/fairlead. Needs root and
//! huge pages.

mod bench;
mod process;
mod traffic;

use std::error::Error;

use perf::{
    Options, Report, Row, Unit,
    rounds::{Place, Rounds, Spread, WAITED_MAX},
};

use bench::{Bench, Case};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs at most for each that is wanted: a host that never leaves the cores alone ends the bench, too.
const ATTEMPTS: usize = 3;

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
        let played = play(&bench, case, rounds).map_err(|error| bench.kept(&error))?;
        tell(&mut report, case, &played);
    }
    report.finish()?;
    bench.clean();
    Ok(())
}

/// Plays the case until so many rounds count.
fn play(bench: &Bench, case: Case, wanted: usize) -> Result<Rounds> {
    let devices = case.devices();
    let mut rounds = Rounds::new(devices.len());
    for attempt in 1..=ATTEMPTS * wanted * devices.len() {
        if rounds.count() == wanted {
            break;
        }
        let device = devices[rounds.next()];
        let run = bench.run(device, case)?;
        let said = match rounds.push(&run) {
            Ok(fit) => format!("{:.2} M/s, cores {:.0} ns apart", fit.rate, fit.distance),
            Err(unfit) => format!("does not count: {unfit}"),
        };
        eprintln!("{case}, run {attempt}: {device}: {said}");
    }
    Ok(rounds)
}

fn tell(report: &mut Report, case: Case, rounds: &Rounds) {
    for place in Place::ALL {
        let name = |what: &str, (Spread { min, max, .. }, count): (Spread, usize)| {
            format!("{case}, cores {place}: {what}, median of {count} runs from {min:.2} to {max:.2}")
        };
        for (n, device) in case.devices().iter().enumerate() {
            if let Some(rate) = rounds.rate(n, place) {
                let name = name(&device.to_string(), rate);
                report.push(Row::value(&name, Unit::MillionPerSecond, rate.0.median));
            }
        }
        if let Some(ratio) = rounds.ratio(place) {
            report.push(Row::value(&name("ratio, round by round", ratio), Unit::Ratio, ratio.0.median));
        }
    }
    let name = format!("{case}: runs that do not count: the host moved the cores, or other work had them");
    report.push(Row::value(&name, Unit::Count, rounds.discarded() as f64));
    if rounds.count() == 0 {
        let name = format!("{case}: NO COMPARISON; share of time that a run may wait for a core");
        report.push(Row::value(&name, Unit::Ratio, WAITED_MAX));
    }
}
