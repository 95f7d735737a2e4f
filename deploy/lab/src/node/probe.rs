//! Readiness probes as the kubelet does them: periods, thresholds, and the three ways to ask.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container as Spec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::netns::Namespace;

/// How a container is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Question {
    /// GET of a path; any status from 200 to 399 is a yes.
    Http { server: SocketAddr, path: String },
    /// A connection.
    Tcp(SocketAddr),
    /// A command inside the pod that ends with 0.
    Exec(Vec<String>),
}

/// A probe with its defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    question: Question,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    verdict: Verdict,
}

impl Prober {
    /// Reads a container's readiness probe.
    ///
    /// # Errors
    /// When it asks in a way that a lab node does not know, or for a port that the container does not name.
    pub(super) fn new(probe: &Probe, spec: &Spec, pod: IpAddr) -> Result<Self> {
        let seconds = |value: Option<i32>, default: u32| {
            let given = value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0);
            Duration::from_secs(given.unwrap_or(default).into())
        };
        let count =
            |value: Option<i32>, default| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
        Ok(Self {
            question: question(probe, spec, pod)?,
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            verdict: Verdict::new(count(probe.success_threshold, 1), count(probe.failure_threshold, 3)),
        })
    }

    /// Asks for as long as it is polled; `tell` hears each change of the verdict.
    pub(super) async fn run(mut self, pod: &Namespace, tell: impl Fn(bool)) {
        sleep(self.initial_delay).await;
        loop {
            let answer = timeout(self.timeout, ask(&self.question, pod)).await;
            if let Some(ready) = self.verdict.note(matches!(answer, Ok(Ok(())))) {
                tell(ready);
            }
            sleep(self.period).await;
        }
    }
}

/// Consecutive answers that make a verdict.
#[derive(Clone, Debug)]
struct Verdict {
    ready: bool,
    /// Answers in a row that say the contrary.
    against: u32,
    successes: u32,
    failures: u32,
}

impl Verdict {
    fn new(successes: u32, failures: u32) -> Self {
        Self { ready: false, against: 0, successes, failures }
    }

    /// The new verdict, when this answer changes it.
    fn note(&mut self, yes: bool) -> Option<bool> {
        if yes == self.ready {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if yes { self.successes } else { self.failures };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.ready = yes;
        Some(yes)
    }
}

fn question(probe: &Probe, spec: &Spec, pod: IpAddr) -> Result<Question> {
    if let Some(get) = &probe.http_get {
        let scheme = get.scheme.as_deref().unwrap_or("HTTP");
        ensure!(scheme == "HTTP", "a lab node does not probe by {scheme}");
        let server = SocketAddr::new(pod, port(&get.port, spec)?);
        return Ok(Question::Http { server, path: get.path.clone().unwrap_or_else(|| "/".to_owned()) });
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Question::Tcp(SocketAddr::new(pod, port(&tcp.port, spec)?)));
    }
    if let Some(words) = probe.exec.as_ref().and_then(|exec| exec.command.clone()) {
        return Ok(Question::Exec(words));
    }
    bail!("a lab node probes by httpGet, tcpSocket or exec only")
}

fn port(given: &IntOrString, spec: &Spec) -> Result<u16> {
    let number = match given {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let ports = spec.ports.as_deref().unwrap_or_default();
            let named = ports.iter().find(|port| port.name.as_ref() == Some(name));
            named.with_context(|| format!("container {} has no port named {name}", spec.name))?.container_port
        }
    };
    u16::try_from(number).with_context(|| format!("{number} is no port"))
}

async fn ask(question: &Question, pod: &Namespace) -> Result<()> {
    match question {
        Question::Tcp(server) => TcpStream::connect(server).await.map(drop).map_err(Into::into),
        Question::Http { server, path } => {
            let status = status(*server, path).await?;
            ensure!((200..400).contains(&status), "status {status}");
            Ok(())
        }
        Question::Exec(words) => exec(words, pod).await,
    }
}

async fn status(server: SocketAddr, path: &str) -> Result<u16> {
    let mut stream = BufReader::new(TcpStream::connect(server).await?);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: kube-probe/lab\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.split(' ').nth(1).context("no status line")?.parse()?)
}

/// Runs a command inside the pod; it must end with 0.
///
/// # Errors
/// When it cannot be started or ends otherwise.
pub(super) async fn exec(words: &[String], pod: &Namespace) -> Result<()> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = tokio::process::Command::from(pod.command(program));
    let status = command.args(arguments).kill_on_drop(true).status().await?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_verdict_needs_as_many_answers_in_a_row_as_its_threshold() {
        let mut verdict = Verdict::new(2, 3);
        let said: Vec<_> = [true, false, true, true, false, false, true, false, false, false, true, true]
            .map(|yes| verdict.note(yes))
            .into();
        let changes: Vec<_> =
            said.iter().enumerate().filter_map(|(i, v)| v.map(|ready| (i, ready))).collect();
        assert_eq!(changes, [(3, true), (9, false), (11, true)]);
    }

    #[test]
    fn questions_are_read_with_named_ports() {
        let spec: Spec =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}))
                .unwrap();
        let pod: IpAddr = [10, 244, 0, 2].into();
        let server = SocketAddr::new(pod, 8080);
        for (probe, want) in [
            (
                json!({"httpGet": {"port": "http", "path": "/x"}}),
                Ok(Question::Http { server, path: "/x".into() }),
            ),
            (json!({"tcpSocket": {"port": 8080}}), Ok(Question::Tcp(server))),
            (json!({"exec": {"command": ["true"]}}), Ok(Question::Exec(vec!["true".into()]))),
            (json!({"tcpSocket": {"port": "none"}}), Err("no port named none")),
            (json!({"httpGet": {"port": 1, "scheme": "HTTPS"}}), Err("HTTPS")),
            (json!({"grpc": {"port": 1}}), Err("only")),
        ] {
            let probe: Probe = serde_json::from_value(probe).unwrap();
            match (question(&probe, &spec, pod), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(error), Err(said)) => assert!(error.to_string().contains(said), "{error}"),
                (got, want) => panic!("{got:?} instead of {want:?}"),
            }
        }
    }
}
