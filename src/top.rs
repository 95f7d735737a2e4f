//! `fairlead top`: rates of the running appliance, asked for again and again over its admin socket.

mod rates;

use std::io::{IsTerminal as _, stdout};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use control::admin::{client, view};

use crate::cli::{Output, TopArgs};
use crate::columns::Columns;
use crate::output;
use crate::show::{block_on, socket};

use rates::{Rates, Sample};

/// Clears a terminal and goes to its upper left corner (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Tells rates, once or until nobody reads any more.
///
/// # Errors
/// No appliance there, or it refuses.
pub(crate) fn run(args: &TopArgs) -> Result<()> {
    let socket = socket(&args.appliance)?;
    let (mut before, mut since) = (sample(&socket)?, Instant::now());
    loop {
        sleep(args.interval);
        let (after, now) = (sample(&socket)?, Instant::now());
        let rates = Rates::between(&before, &after, now.duration_since(since));
        let more = output::print_more(&page(&rates, args)?)?;
        if args.once || !more {
            return Ok(());
        }
        (before, since) = (after, now);
    }
}

fn sample(socket: &Path) -> Result<Sample> {
    block_on(async {
        let ports: Vec<view::Port> = client::get(socket, "/v1/ports").await?;
        let counters: Vec<view::Counter> = client::get(socket, "/v1/counters").await?;
        let drops: Vec<view::Drops> = client::get(socket, "/v1/drops").await?;
        Ok(Sample { ports, counters, drops })
    })?
}

fn page(rates: &Rates, args: &TopArgs) -> Result<String> {
    if args.output == Output::Json {
        return Ok(format!("{}\n", serde_json::to_string(rates)?));
    }
    let tables = [ports(rates), workers(rates), drops(rates, args.output == Output::Wide)];
    let tables = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    // What is kept in a file or a terminal's scrollback stays readable one below the other.
    let clear = if !args.once && stdout().is_terminal() { CLEAR } else { "" };
    let time = Duration::from_secs_f64(rates.seconds).as_millis();
    Ok(format!("{clear}rates of {time} ms\n\n{tables}{}", if args.once { "" } else { "\n" }))
}

fn ports(rates: &Rates) -> Columns {
    let mut columns = Columns::new(&["PORT", "RX/S", "TX/S", "RX-BIT/S", "TX-BIT/S"]);
    for row in &rates.ports {
        let figures = [row.rx_packets, row.tx_packets, row.rx_bits, row.tx_bits].map(short);
        columns.row([vec![row.name.clone()], figures.to_vec()].concat());
    }
    columns
}

fn workers(rates: &Rates) -> Columns {
    let heads = ["WORKER", "RX/S", "TX/S", "PUNT/S", "HANDOFF/S", "DROP/S", "NEW-FLOWS/S", "FLOWS", "USED"];
    let mut columns = Columns::new(&heads);
    for row in &rates.workers {
        let figures = [row.rx, row.tx, row.punted, row.handed_off, row.dropped, row.flows_created].map(short);
        let used = format!("{:.0} %", row.flows as f64 / row.flows_capacity.max(1) as f64 * 100.0);
        let flows = vec![row.flows.to_string(), used];
        columns.row([vec![row.worker.to_string()], figures.to_vec(), flows].concat());
    }
    columns
}

/// Reasons of which there were packets meanwhile, or ever.
fn drops(rates: &Rates, ever: bool) -> Columns {
    let mut columns = Columns::new(&["DROP-REASON", "PACKETS/S", "PACKETS", "MEANING"]);
    for row in rates.drops.iter().filter(|row| ever || row.per_second > 0.0) {
        let figures =
            vec![row.reason.clone(), short(row.per_second), row.packets.to_string(), row.text.clone()];
        columns.row(figures);
    }
    columns
}

/// Three digits or four, with `k`, `M` or `G`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        0.0..1e4 => return format!("{value:.0}"),
        1e4..1e6 => (value / 1e3, "k"),
        1e6..1e9 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    format!("{value:.*}{unit}", if value < 100.0 { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (value, want) in [
            (0.0, "0"),
            (9_999.0, "9999"),
            (12_345.0, "12.35k"),
            (123_456.0, "123.5k"),
            (9_870_000.0, "9.87M"),
            (12.5e9, "12.50G"),
        ] {
            assert_eq!(short(value), want);
        }
    }
}
