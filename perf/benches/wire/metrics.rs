//! What the appliance's own page of metrics says of a run, and what it must.

use std::{
    fmt,
    io::{self, Read, Write as _},
    net::TcpStream,
};

use perf::{load::Outcome, rounds::Failed};

use crate::{Result, bench::PATIENCE, traffic::METRICS};

/// The body of a page of the appliance, if it answers 200.
pub(crate) fn scrape(page: &str) -> Result<String> {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(METRICS)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {page} HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer =
        ask().map_err(|error| Failed(format!("the appliance does not answer for {page}: {error}")))?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(answer.lines().next().unwrap_or("no answer").to_owned().into());
    }
    Ok(answer)
}

/// The appliance has so many flows, at least and nearly at most, and has lost nothing but to a full link since it told
/// `early`: what comes before it is ready is lost, and that is all right.
pub(crate) fn verify(early: &str, metrics: &str, expected: f64) -> Result<()> {
    let of = |name| sum(metrics, name, "");
    let (received, sent) = (of("fairlead_rx_packets_total"), of("fairlead_tx_packets_total"));
    let flows = of("fairlead_flows_used");
    let since = |labels| {
        let of = |page| sum(page, "fairlead_dropped_packets_total", labels);
        of(metrics) - of(early)
    };
    let (dropped, full) = (since(""), since("TxFull"));
    let known = expected <= flows && flows <= expected * 1.2;
    if sent < received / 2.0 || received < 1e5 || dropped > full || !known {
        let name = "fairlead_dropped_packets_total";
        let reasons = metrics.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0"));
        let reasons: Vec<_> = reasons.map(|line| line.trim_start_matches(name)).collect();
        let dropped = reasons.join(", ");
        return Err(format!("received {received}, sent {sent}, {flows} flows, dropped: {dropped}").into());
    }
    Ok(())
}

/// What the appliance counted from one page to another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Account {
    /// Frames received.
    pub(crate) received: f64,
    /// Frames dropped for any reason but the next.
    pub(crate) dropped: f64,
    /// Frames dropped because a port took no more: its peer was too slow.
    pub(crate) full: f64,
    /// Frames that came less those that went: it must be 0, as every frame has one end.
    pub(crate) imbalance: f64,
    /// Versions of the tables that its worker took, a second.
    pub(crate) publications: f64,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, dropped, full, imbalance, publications } = self;
        write!(
            f,
            "received {received}, dropped {dropped}, and {full} as its peer took no more; {imbalance} without an end; {publications:.0} \
             publications a second"
        )
    }
}

impl Account {
    /// Of the time between two pages, in seconds.
    pub(crate) fn between(before: &str, after: &str, seconds: f64) -> Self {
        let of = |name: &str, labels: &str| sum(after, name, labels) - sum(before, name, labels);
        let packets = |kind: &str| of(&format!("fairlead_{kind}_packets_total"), "");
        let full = of("fairlead_dropped_packets_total", "TxFull");
        let came = ["rx", "injected", "originated", "handoff_in"].map(packets).iter().sum::<f64>();
        let went = ["tx", "punted", "consumed", "dropped", "handoff_out"].map(packets).iter().sum::<f64>();
        Self {
            received: packets("rx"),
            dropped: packets("dropped") - full,
            full,
            imbalance: came - went - of("fairlead_held_packets", ""),
            publications: of("fairlead_loop_publications_total", "") / seconds,
        }
    }

    /// Frames that the generator's link took and the appliance never received.
    pub(crate) fn missed(&self, outcome: &Outcome) -> f64 {
        outcome.sent as f64 - self.received
    }
}

/// The sum of the samples of a metric whose labels contain a text.
fn sum(metrics: &str, name: &str, labels: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
