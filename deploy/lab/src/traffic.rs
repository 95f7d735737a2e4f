//! Real clients against real servers: what the demo shows and what the end-to-end tests check.
//! Each function runs its client in the namespace `from`, waits a bounded time and says what came back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{self, Connection, WebAnswer};
use crate::netns::Namespace;
use crate::process::{self, Daemon};

/// Longest wait for one small answer.
pub const ANSWER: Duration = Duration::from_secs(5);
/// Longest wait for a file or a stream.
const TRANSFER: Duration = Duration::from_secs(90);

/// One request to a web pod.
///
/// # Errors
/// When it does not answer in time.
pub fn who(from: &Namespace, target: SocketAddr) -> Result<WebAnswer> {
    from.within(|| http::who(target, ANSWER))?
}

/// How often each pod answered `count` requests on connections of their own.
///
/// # Errors
/// When one of them is not answered.
pub fn balance(from: &Namespace, target: SocketAddr, count: u32) -> Result<BTreeMap<String, u32>> {
    from.within(|| {
        let mut pods = BTreeMap::new();
        for _ in 0..count {
            *pods.entry(http::who(target, ANSWER)?.pod).or_insert(0) += 1;
        }
        Ok(pods)
    })?
}

/// Many requests on one connection: all of them must be the same pod's. Gives that pod.
///
/// # Errors
/// When the connection breaks or changes its pod.
pub fn keep_alive(from: &Namespace, target: SocketAddr, count: u32) -> Result<String> {
    from.within(|| {
        let mut connection = Connection::open(target, ANSWER)?;
        let (_, first) = connection.get("/")?;
        for _ in 1..count {
            let (status, body) = connection.get("/")?;
            ensure!((status, &body) == (200, &first), "first {first:?}, then {status} {body:?}");
        }
        Ok(WebAnswer::parse(&first)?.pod)
    })?
}

/// SHA-256 of a file, by the system's own tool.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(file: &Path) -> Result<String> {
    let text = process::run(Command::new("sha256sum").arg(file), "", TRANSFER)?.ok()?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Fetches `http://target/files/<name>` into `file` with curl.
///
/// # Errors
/// When curl fails or takes too long.
pub fn download(from: &Namespace, target: SocketAddr, name: &str, file: &Path) -> Result<()> {
    let (url, file) = (format!("http://{target}/files/{name}"), file.to_string_lossy());
    let argv = ["curl", "-g", "-sS", "--fail", "--max-time", "80", "-o", &file, &url];
    from.run(&argv, TRANSFER)?.ok().map(drop).with_context(|| format!("curl {url}"))
}

/// Sends `file` to `http://target/files/<name>` with curl. Gives the pod's folder nothing to guess: the caller knows it.
///
/// # Errors
/// When curl fails or takes too long.
pub fn upload(from: &Namespace, target: SocketAddr, file: &Path, name: &str) -> Result<()> {
    let (url, file) = (format!("http://{target}/files/{name}"), file.to_string_lossy());
    let argv = ["curl", "-g", "-sS", "--fail", "--max-time", "80", "-T", &file, &url];
    from.run(&argv, TRANSFER)?.ok().map(drop).with_context(|| format!("curl -T {url}"))
}

/// Subscribes and publishes through `target`; gives the message that arrived.
///
/// # Errors
/// When the message does not arrive.
pub fn mqtt(
    subscriber: &Namespace,
    publisher: &Namespace,
    target: SocketAddr,
    message: &str,
) -> Result<String> {
    let (host, port) = (target.ip().to_string(), target.port().to_string());
    let topic = format!("lab/{message}");
    let base = ["-h", &host, "-p", &port, "-V", "mqttv311", "-q", "1", "-t", &topic];
    let arrived = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let argv = [&["mosquitto_sub", "-C", "1", "-W", "10"], &base[..]].concat();
            let outcome = subscriber.run(&argv, Duration::from_secs(15));
            arrived.store(true, Ordering::Relaxed);
            outcome?.ok()
        });
        // The subscription takes a moment to be there: say it again until it was heard.
        let argv = [&["mosquitto_pub", "-m", message], &base[..]].concat();
        let mut said = publisher.run(&argv, ANSWER)?.ok();
        for _ in 0..60 {
            if arrived.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            said = publisher.run(&argv, ANSWER)?.ok();
        }
        let heard = waiting.join().map_err(|_| anyhow::anyhow!("the subscriber panicked"))?;
        let heard = heard.context("mosquitto_sub")?.trim().to_owned();
        said.context("mosquitto_pub")?;
        ensure!(heard == message, "published {message:?}, heard {heard:?}");
        Ok(heard)
    })
}

/// Asks a name server which pod it is, by UDP or TCP.
///
/// # Errors
/// When dig gets no answer.
pub fn dns_who(from: &Namespace, target: SocketAddr, tcp: bool) -> Result<String> {
    let text = dig(from, target, "whoami.lab", &[if tcp { "+tcp" } else { "+notcp" }])?;
    let pod = text.trim().trim_matches('"').to_owned();
    ensure!(pod.starts_with("dns-"), "an odd answer: {text:?}");
    Ok(pod)
}

/// Asks for an answer that does not fit into a datagram: dig comes back by TCP.
///
/// # Errors
/// When the whole answer does not arrive.
pub fn dns_truncated(from: &Namespace, target: SocketAddr) -> Result<()> {
    let text = dig(from, target, "long.lab", &["+noedns"])?;
    let records = text.lines().filter(|line| line.starts_with('"')).count();
    ensure!(records == 20, "{records} of 20 records:\n{text}");
    Ok(())
}

fn dig(from: &Namespace, target: SocketAddr, name: &str, options: &[&str]) -> Result<String> {
    let (server, port) = (format!("@{}", target.ip()), target.port().to_string());
    let argv =
        [&["dig", &server, "-p", &port, "+short", "+tries=1", "+time=3", "TXT", name], options].concat();
    from.run(&argv, Duration::from_secs(10))?.ok().with_context(|| argv.join(" "))
}

/// Publishes a test picture by RTMP from one host and plays 15 frames of it on another.
///
/// # Errors
/// When the player gets no picture.
pub fn rtmp(
    publisher: &Namespace,
    player: &Namespace,
    target: SocketAddr,
    name: &str,
    dir: &Path,
) -> Result<()> {
    let url = format!("rtmp://{target}/live/{name}");
    let source = "testsrc=size=160x120:rate=30";
    let mut command = publisher.command("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", source, "-t", "30"]);
    command.args(["-c:v", "flv", "-g", "15", "-f", "flv", &url]);
    let mut sender = Daemon::start("ffmpeg", &mut command, &dir.join("ffmpeg.log"))?;
    let argv = [
        "ffmpeg",
        "-nostdin",
        "-loglevel",
        "error",
        "-rw_timeout",
        "3000000",
        "-analyzeduration",
        "300000",
        "-i",
        &url,
    ];
    let argv = [&argv[..], &["-frames:v", "15", "-f", "null", "-"]].concat();
    let mut last = String::new();
    // nginx-rtmp lets a player wait for a stream; it ends one that came too early.
    for _ in 0..5 {
        sender.check_alive()?;
        let outcome = player.run(&argv, Duration::from_secs(12))?;
        if outcome.status.success() {
            return Ok(());
        }
        last = outcome.stderr;
    }
    bail!("no picture at {url}: {last}")
}

/// What iperf3 measured.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Received, in Mbit/s.
    pub mbps: f64,
    /// UDP: datagrams lost; TCP: segments sent again.
    pub lost: f64,
    /// UDP: datagrams sent.
    pub packets: f64,
}

/// Runs iperf3 for `seconds`; `options` such as `-u -b 50M` or `-R`.
///
/// # Errors
/// When the test does not come to its end.
pub fn iperf(from: &Namespace, target: SocketAddr, seconds: u32, options: &[&str]) -> Result<Throughput> {
    let (host, port, time) = (target.ip().to_string(), target.port().to_string(), seconds.to_string());
    let argv =
        [&["iperf3", "-c", &host, "-p", &port, "-t", &time, "-J", "--connect-timeout", "3000"], options]
            .concat();
    let mut said = String::new();
    // It serves one test at a time, and the end of the last one takes it a moment.
    for _ in 0..5 {
        let outcome = from.run(&argv, Duration::from_secs(u64::from(seconds) + 20))?;
        let json: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
        let end = &json["end"];
        let received = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
        if outcome.status.success() && received.is_object() {
            let udp = end["sum"]["lost_packets"].as_f64();
            return Ok(Throughput {
                mbps: received["bits_per_second"].as_f64().unwrap_or_default() / 1e6,
                lost: udp.or(end["sum_sent"]["retransmits"].as_f64()).unwrap_or_default(),
                packets: end["sum"]["packets"].as_f64().unwrap_or_default(),
            });
        }
        said = json["error"].as_str().map_or(outcome.stderr, str::to_owned);
        thread::sleep(Duration::from_millis(300));
    }
    bail!("{}: {said}", argv.join(" "))
}
