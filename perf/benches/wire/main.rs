//! The appliance against `dpdk-testpmd --forward-mode=macswap` on the same wire, in interleaved rounds. One core generates, one
//! works. The wire is memif, or `--wire=vhost` or `af_xdp`; with `--nic` the gateway is what there is at the other end of two
//! cables, and only the generator runs here.
//!
//! Two generators: testpmd's `flowgen`, that of published figures, sends UDP one way over one link; our own `pktgen` opens
//! TCP flows over two links, sends both ways, or makes each packet the first of a flow, and checks a sample of what comes
//! back. Of flowgen's traffic a capture of every flow is played first, and checked frame by frame. In each round the
//! appliance's own counters must tell of every flow, and of no loss but to a full link.
//!
//! While a device runs, its rate is told in short slices and the distance of the two cores is measured again and again:
//! that is what a wire in memory costs, and the host of a virtual machine changes it at will. A run below which it changed is
//! repeated; a ratio is of two runs next to each other over the same wire, and what is reported is the median of the rounds'
//! ratios with the least and the greatest. A run whose peer gives no link or does not come up is repeated, too; after some of them in
//! a row the case is given up, the others go on, and the bench ends with an error. `FAIRLEAD_BIN` names the appliance, else target/release/fairlead. Needs root and
//! huge pages.

mod api;
mod bench;
mod case;
mod metrics;
mod tell;
mod traffic;

use std::{env, error::Error};

use perf::{
    Options, Report, Row, Unit,
    links::Wire,
    play::{self, Turn, insist},
    rounds::{Failed, Unfit},
};

use bench::Bench;
use case::Case;
use tell::Played;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let options = Options::from_process();
    let wire = Wire::of(env::args().skip(1))?;
    let bench = Bench::new(options.clone(), wire.clone())?;
    let mut report = Report::new(wire.report());
    if wire.elsewhere().is_none() {
        let again = |failed: &Failed| eprintln!("flowgen's frames could not be checked, once more: {failed}");
        let checked = insist(|| bench.check_frames(), again).map_err(|error| bench.kept(&*error))?;
        let name = "frames of flowgen checked for addresses, ports, checksums, TTL";
        report.push(Row::value(name, Unit::Count, checked as f64));
    }
    let mut played = Vec::new();
    for (case, rounds) in Case::all(&options, &wire) {
        if options.wants(&case.to_string()) {
            let rounds = play(&bench, (&wire, case), rounds).map_err(|error| bench.kept(&*error))?;
            tell::rows(&mut report, &wire, case, &rounds);
            played.push((case, rounds));
        }
    }
    tell::shares(&mut report, &played);
    tell::pictures(&wire, &played)?;
    report.finish()?;
    let failed = |rounds: &Played| rounds.count() == 0 && !rounds.failures().is_empty();
    let hopeless = played.iter().filter(|(_, rounds)| rounds.is_hopeless() || failed(rounds));
    let hopeless: Vec<_> = hopeless.map(|(case, _)| case.to_string()).collect();
    if !hopeless.is_empty() {
        let names = hopeless.join("; ");
        return Err(bench.kept(&format!("given up, as one run after another failed: {names}")).into());
    }
    bench.clean();
    Ok(())
}

/// Plays the case until so many rounds count.
fn play(bench: &Bench, (wire, case): (&Wire, Case), wanted: usize) -> Result<Played> {
    let devices = case.devices(wire);
    let run = |device: usize| bench.run(devices[device], case);
    play::play(devices.len(), wanted, run, |attempt, device, outcome| {
        let said = match outcome {
            Turn::Fit(fit) => format!("{:.2} M/s, cores {:.0} ns apart", fit.rate, fit.distance),
            Turn::Unfit(unfit @ Unfit::OtherWire(_)) => unfit.to_string(),
            Turn::Unfit(unfit) => format!("does not count: {unfit}"),
            Turn::Failed(failed) => format!("failed: {failed}"),
        };
        eprintln!("{case}, run {attempt}: {}: {said}", devices[device]);
    })
}
