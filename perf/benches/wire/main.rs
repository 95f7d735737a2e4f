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
mod case;
mod process;
mod tell;
mod traffic;

use std::error::Error;

use perf::{
    Options, Report, Row, Unit,
    rounds::{Rounds, Unfit},
};

use bench::Bench;
use case::Case;
use tell::Played;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs at most for each that is wanted: a host that never leaves the cores alone ends the bench, too.
const ATTEMPTS: usize = 3;

fn main() -> Result<()> {
    let options = Options::from_process();
    let bench = Bench::new(options.clone())?;
    let mut report = Report::new("wire");
    let checked = bench.check_frames().map_err(|error| bench.kept(&error))?;
    report.push(Row::value(
        "frames of flowgen checked for addresses, ports, checksums, TTL",
        Unit::Count,
        checked as f64,
    ));
    let mut played = Vec::new();
    for (case, rounds) in Case::all(&options) {
        if options.wants(&case.to_string()) {
            let rounds = play(&bench, case, rounds).map_err(|error| bench.kept(&error))?;
            tell::rows(&mut report, case, &rounds);
            played.push((case, rounds));
        }
    }
    tell::shares(&mut report, &played);
    tell::pictures(&played)?;
    report.finish()?;
    bench.clean();
    Ok(())
}

/// Plays the case until so many rounds count.
fn play(bench: &Bench, case: Case, wanted: usize) -> Result<Played> {
    let devices = case.devices();
    let mut rounds = Rounds::new(devices.len());
    for attempt in 1..=ATTEMPTS * wanted * devices.len() {
        if rounds.count() == wanted {
            break;
        }
        let device = devices[rounds.next()];
        let (run, detail) = bench.run(device, case)?;
        let said = match rounds.push(&run, detail) {
            Ok(fit) => format!("{:.2} M/s, cores {:.0} ns apart", fit.rate, fit.distance),
            Err(unfit @ Unfit::OtherWire(_)) => unfit.to_string(),
            Err(unfit) => format!("does not count: {unfit}"),
        };
        eprintln!("{case}, run {attempt}: {device}: {said}");
    }
    Ok(rounds)
}
