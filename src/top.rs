//! `fairlead top`: rates of the running appliance, asked for again and again over its admin socket.

mod page;
mod rates;
mod screen;

use std::io::{IsTerminal as _, stdin, stdout};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use control::admin::{client, view};
use cpu::TscClock;

use crate::cli::{Output, TopArgs};
use crate::output;
use crate::show::{block_on, millis, socket};

use page::Table;
use rates::{Rates, Sample};

/// Tells rates, once or until nobody reads any more; on a terminal on the whole of it, until it is left.
///
/// # Errors
/// No appliance there, or it refuses.
pub(crate) fn run(args: &TopArgs) -> Result<()> {
    let socket = socket(&args.appliance)?;
    // Workers tell their busy time in ticks of a counter that this machine has, too.
    let hz = TscClock::calibrate().hz();
    let (mut before, mut since) = (sample(&socket, None)?, Instant::now());
    let mut look = || -> Result<Rates> {
        let (after, now) = (sample(&socket, Some(since.elapsed()))?, Instant::now());
        let rates = Rates::between(&before, &after, now.duration_since(since), hz);
        (before, since) = (after, now);
        Ok(rates)
    };
    if !args.once && args.output != Output::Json && stdin().is_terminal() && stdout().is_terminal() {
        return screen::run(args.interval, is_wide(args), look);
    }
    loop {
        sleep(args.interval);
        let more = output::print_more(&page(&look()?, args)?)?;
        if args.once || !more {
            return Ok(());
        }
    }
}

/// With the flows in use, those that had a packet in this time; without, if there is none.
fn sample(socket: &Path, used_within: Option<Duration>) -> Result<Sample> {
    block_on(async {
        let ports: Vec<view::Port> = client::get(socket, "/v1/ports").await?;
        let counters: Vec<view::Counter> = client::get(socket, "/v1/counters").await?;
        let drops: Vec<view::Drops> = client::get(socket, "/v1/drops").await?;
        let flows = match used_within {
            Some(time) => client::get(socket, &in_use(time)).await?,
            None => view::FlowSample::default(),
        };
        Ok(Sample { ports, counters, drops, flows })
    })?
}

fn in_use(time: Duration) -> String {
    format!("/v1/flows/services?usedWithinMs={}", millis(time))
}

fn page(rates: &Rates, args: &TopArgs) -> Result<String> {
    if args.output == Output::Json {
        return Ok(format!("{}\n", serde_json::to_string(rates)?));
    }
    let tables = page::tables(rates, is_wide(args));
    let tables = tables.iter().map(Table::text).collect::<Vec<_>>().join("\n");
    let time = Duration::from_secs_f64(rates.seconds).as_millis();
    let services = page::services_title(rates);
    Ok(format!("rates of {time} ms; {services}\n\n{tables}{}", if args.once { "" } else { "\n" }))
}

/// Every drop reason is shown.
fn is_wide(args: &TopArgs) -> bool {
    args.output == Output::Wide
}
