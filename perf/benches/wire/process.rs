//! The processes of a round, and what they say of themselves.

use std::{
    fs::{self, File},
    io::{Read, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Result, bench::PATIENCE, traffic::METRICS};

/// A process that is ended with its owner.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        let child = command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self(child.map_err(|error| format!("{}: {error}", command.get_program().display()))?))
    }

    /// A line for its standard input, which stays open: testpmd ends when it does.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.0.stdin.as_mut().ok_or("no input")?, "{line}")?)
    }

    /// The first line of its log that is wanted, once it is there; what is awaited, for an error.
    pub(crate) fn line(
        &self,
        log: &Path,
        patience: Duration,
        what: &str,
        wanted: fn(&str) -> bool,
    ) -> Result<String> {
        let start = Instant::now();
        loop {
            let text = fs::read_to_string(log)?;
            if let Some(line) = text.lines().find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            let is_running = Path::new(&format!("/proc/{}/task/{0}", self.0.id())).exists();
            if !is_running || start.elapsed() > patience {
                let last = text.lines().last().unwrap_or_default();
                return Err(format!("the generator gives no {what}: {last}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Seconds that its busiest thread, the one that polls, was ready to run and had no core. The first two fields of
    /// `/proc/PID/task/TID/schedstat` are nanoseconds of running and of waiting.
    pub(crate) fn waited(&self) -> Result<f64> {
        let mut busiest = (0.0, 0.0);
        for task in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            let mut fields = stat.split_whitespace().map(|field| field.parse().unwrap_or(0.0) / 1e9);
            let (ran, waited) = (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0));
            if ran >= busiest.0 {
                busiest = (ran, waited);
            }
        }
        Ok(busiest.1)
    }

    /// Asks the process to end, and waits.
    pub(crate) fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status()?;
        let start = Instant::now();
        while self.0.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err("a process does not end".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The body of a page of the appliance, if it answers 200.
pub(crate) fn scrape(page: &str) -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
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
