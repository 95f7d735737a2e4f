//! Rows and pictures of what the rounds gave.

use std::io;

use perf::{
    Report, Row, Unit,
    links::Wire,
    plot::{Line, Plot},
    rounds::{Place, Rounds, Spread, WAITED_MAX},
};

use crate::case::{Case, Detail};

/// The rounds of a case.
pub(crate) type Played = Rounds<Detail>;

/// Adds the rows of a case.
pub(crate) fn rows(report: &mut Report, wire: &Wire, case: Case, rounds: &Played) {
    for place in Place::ALL {
        let name = |what: &str, (Spread { min, max, .. }, count): (Spread, usize)| {
            format!("{case}, cores {place}: {what}, median of {count} runs from {min:.2} to {max:.2}")
        };
        for figure in case.figures() {
            for (n, device) in case.devices(wire).iter().enumerate() {
                if let Some(value) = rounds.figure(n, place, figure.of) {
                    let name = name(&format!("{device}{}", figure.name), value);
                    report.push(Row::value(&name, figure.unit, value.0.median));
                }
            }
            if let Some(ratio) = rounds.ratio(place, figure.of).filter(|_| figure.unit != Unit::Count) {
                let name = name(&format!("ratio{}, round by round", figure.name), ratio);
                report.push(Row::value(&name, Unit::Ratio, ratio.0.median));
            }
        }
    }
    let name = format!("{case}: runs that do not count: the host moved the cores, or other work had them");
    report.push(Row::value(&name, Unit::Count, rounds.discarded() as f64));
    if let Some(last) = rounds.failures().last() {
        let name = format!("{case}: runs that failed and were repeated, the last: {}", cell(&last.0));
        report.push(Row::value(&name, Unit::Count, rounds.failures().len() as f64));
    }
    if rounds.count() == 0 {
        let name = format!("{case}: NO COMPARISON; share of time that a run may wait for a core");
        report.push(Row::value(&name, Unit::Ratio, WAITED_MAX));
    }
}

/// Words for a cell of a table: of one line and no bars.
fn cell(text: &str) -> String {
    text.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Adds rows of the appliance at many flows as shares of its own figure at few.
pub(crate) fn shares(report: &mut Report, played: &[(Case, Played)]) {
    let rate = |flows: u32, place| {
        let (_, rounds) = played.iter().find(|(case, _)| *case == Case::BothWays(flows))?;
        Some(rounds.figure(0, place, |fit, _| Some(fit.rate))?.0.median)
    };
    for place in Place::ALL {
        for flows in [100_000, 1_000_000] {
            if let (Some(few), Some(many)) = (rate(1024, place), rate(flows, place)) {
                let name =
                    format!("both ways, cores {place}: appliance, {flows} flows as a share of 1024 flows");
                report.push(Row::value(&name, Unit::Ratio, many / few));
            }
        }
    }
}

/// Keeps pictures of the figures, for the page.
pub(crate) fn pictures(wire: &Wire, played: &[(Case, Played)]) -> io::Result<()> {
    let bench = wire.report();
    let of =
        |wanted: fn(&Case) -> bool| played.iter().filter(move |(case, _)| wanted(case)).collect::<Vec<_>>();
    let rates = of(|case| matches!(case, Case::BothWays(_)));
    let loss_free = of(|case| matches!(case, Case::LossFree(_)));
    for (name, title, x, cases) in [
        ("both-ways", "Established flows, 64-byte frames, both ways", "flows", rates),
        ("loss-free", "Greatest rate without loss (RFC 2544), both ways", "bytes of a frame", loss_free),
    ] {
        let columns = cases.iter().map(|(case, _)| match case {
            Case::BothWays(flows) => flows.to_string(),
            Case::LossFree(size) => (*size).to_owned(),
            other => other.to_string(),
        });
        let columns = columns.collect();
        let figures = |device, place| {
            let figure = |(case, rounds): &&(Case, Played)| {
                let figure = case.figures().into_iter().next()?;
                Some(rounds.figure(device, place, figure.of)?.0.median)
            };
            cases.iter().map(figure).collect()
        };
        let (title, x, y) = (title.to_owned(), x.to_owned(), "million frames a second".to_owned());
        Plot {
            name: format!("{bench}.{name}"),
            title,
            x,
            columns,
            y,
            log: false,
            lines: lines(wire, figures),
        }
        .save()?;
    }
    let latency = of(|case| *case == Case::Latency);
    let figures: Vec<_> =
        Case::Latency.figures().into_iter().filter(|figure| figure.unit == Unit::Us).collect();
    let line = |device, place| {
        let rounds = latency.first().map(|(_, rounds)| rounds);
        let figure = |figure: &crate::case::Figure| Some(rounds?.figure(device, place, figure.of)?.0.median);
        figures.iter().map(figure).collect()
    };
    let plot = Plot {
        name: format!("{bench}.latency"),
        title: "Latency of 64-byte frames at half of the maximum rate, both ways".to_owned(),
        x: "share of frames that were faster".to_owned(),
        columns: figures.iter().map(|figure| figure.name.trim_start_matches(", ").to_owned()).collect(),
        y: "microseconds".to_owned(),
        log: true,
        lines: lines(wire, line),
    };
    plot.save()
}

/// A line for each device and place that has figures.
fn lines(wire: &Wire, figures: impl Fn(usize, Place) -> Vec<Option<f64>>) -> Vec<Line> {
    let devices = Case::Latency.devices(wire).iter().enumerate();
    let lines = devices.flat_map(|(n, device)| Place::ALL.map(|place| (n, device, place)));
    let lines = lines.map(|(n, device, place)| Line {
        name: format!("{device}, cores {place}"),
        figures: figures(n, place),
    });
    lines.filter(|line| line.figures.iter().any(Option::is_some)).collect()
}
