//! What runs on the core that sends and receives.

use std::{
    thread,
    time::{Duration, Instant},
};

use dataplane::io::PortIo;
use perf::{
    generator::{Ends, Generator},
    load::{Connections, Outcome, Player, Search},
};

use crate::{
    cli::{Cli, Course, Kind},
    results::{Failure, Printer, sound},
};

/// From the word that a share of the greatest rate is sent until it is.
const BETWEEN: Duration = Duration::from_millis(500);

/// Opens what is to be opened, sends, and prints what came of it.
pub(crate) fn play<P: PortIo>(cli: &Cli, outside: (P, Ends), inside: (P, Ends)) -> Result<(), Failure> {
    let mut printer = Printer::new(cli.output);
    let time = Duration::from_secs(cli.seconds);
    match cli.traffic {
        Kind::Established | Kind::New | Kind::Frames => {
            let mut generator = Generator::new(outside, inside);
            match cli.traffic {
                Kind::Established => generator.establish(cli.flows, |_| {})?,
                Kind::Frames => generator.assume(cli.flows),
                _ => {}
            }
            sending();
            let traffic = match cli.traffic {
                Kind::New => generator.run_new(0, time, |_| {})?,
                _ => generator.run(time, |_| {})?,
            };
            printer.traffic(&traffic);
            if traffic.returned == 0 { Err(Failure::Silence(traffic.sent)) } else { Ok(()) }
        }
        Kind::Numbered | Kind::NumberedFrames => {
            let plans = cli.load.plans(cli.traffic, cli.flows);
            let plan = plans.first().cloned().expect("one plan at least");
            let mut player = Player::new(plan, outside, inside)?;
            if cli.traffic == Kind::Numbered {
                player.open(|_| {})?;
                eprintln!("pktgen: {} flows are open, to {} backends", cli.flows, player.backends());
            }
            sending();
            for plan in plans {
                player.set_sizes(plan.sizes)?;
                numbered(&mut player, &cli.load.course(), time, &mut printer)?;
            }
            Ok(())
        }
        Kind::Connections => {
            let plan = cli.load.plans(cli.traffic, cli.flows).swap_remove(0);
            let mut connections = Connections::new(plan, outside, inside)?;
            sending();
            let counts = connections.run(cli.load.rate(), time, |_| {});
            printer.connections(&counts);
            match (counts.completed, counts.mixed_up) {
                (0, _) => Err(Failure::Silence(counts.begun)),
                (_, 0) => Ok(()),
                (_, count) => Err(Failure::MixedUp(count)),
            }
        }
    }
}

/// For who waits for it: what comes before is not traffic.
fn sending() {
    eprintln!("pktgen: sending");
}

fn numbered<P: PortIo>(
    player: &mut Player<P>,
    course: &Course,
    time: Duration,
    printer: &mut Printer,
) -> Result<(), Failure> {
    match course {
        Course::Rates(rates) => {
            for rate in rates {
                let outcome = sound(player.run(*rate, time, |_| {}))?;
                printer.outcome(&outcome);
                keeps_pace(&outcome)?;
            }
        }
        Course::Soak(rate, every) => {
            let start = Instant::now();
            while start.elapsed() < time {
                let left = time.saturating_sub(start.elapsed());
                let outcome = sound(player.run(*rate, left.min(*every), |_| {}))?;
                printer.outcome(&outcome);
                keeps_pace(&outcome)?;
            }
        }
        Course::Share(share) => {
            let most = sound(player.run(None, time, |_| {}))?;
            // Whoever looks at the gateway's counters now sees what came before, and nothing of this.
            eprintln!("pktgen: sending at {:.3} M/s", most.pps * share / 1e6);
            thread::sleep(BETWEEN);
            let outcome = sound(player.run(Some(most.pps * share), time, |_| {}))?;
            printer.outcome(&outcome);
        }
        Course::Search { precision, accept_loss, tries } => {
            let well = |outcome: &Outcome| outcome.kept_pace() && outcome.loss() <= *accept_loss;
            printer.outcome(&search(player, time, *precision, *tries, well)?);
        }
    }
    Ok(())
}

/// The outcome at the greatest rate that was well in one of so many tries; an outcome of nothing if none was.
fn search<P: PortIo>(
    player: &mut Player<P>,
    time: Duration,
    precision: f64,
    tries: u32,
    well: impl Fn(&Outcome) -> bool,
) -> Result<Outcome, Failure> {
    // As much as the links and this core take is where the search begins.
    let most = sound(player.run(None, time, |_| {}))?;
    let mut search = Search::new(most.sent as f64 / most.seconds, precision);
    let mut best = Outcome { sizes: most.sizes, ..Outcome::default() };
    while let Some(rate) = search.next() {
        let mut found = None;
        for _ in 0..tries {
            let outcome = sound(player.run(Some(rate), time, |_| {}))?;
            eprintln!("pktgen: trial: {}", outcome.text());
            if well(&outcome) {
                found = Some(outcome);
                break;
            }
        }
        search.tried(found.is_some());
        best = found.unwrap_or(best);
    }
    Ok(best)
}

fn keeps_pace(outcome: &Outcome) -> Result<(), Failure> {
    match outcome.asked_pps {
        Some(asked) if !outcome.kept_pace() => {
            Err(Failure::Pace { asked, sent: outcome.sent as f64 / outcome.seconds })
        }
        _ => Ok(()),
    }
}
