//! What the appliance's own page of metrics says of a run, and what it must.

use std::{
    io::{self, Read, Write as _},
    net::TcpStream,
};

use perf::rounds::Failed;

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

/// The sum of the samples of a metric whose labels contain a text.
fn sum(metrics: &str, name: &str, labels: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
