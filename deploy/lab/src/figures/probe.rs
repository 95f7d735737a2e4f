//! What is measured with: clients that ask without pause and remember every answer, and a `kubectl` that watches beside.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::controlplane::Kubectl;
use lab::echo::UdpAsker;
use lab::http;
use lab::netns::Namespace;
use lab::process::until;

/// A request that takes longer has failed: the SYN's first repetition, after 1 s, would still be in time.
const ANSWER: Duration = Duration::from_secs(3);
/// A datagram that is answered later is taken for lost.
const DATAGRAM: Duration = Duration::from_millis(20);
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(1);

/// One request: when it was asked, when that ended, and which pod answered; none: nobody.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) at: Instant,
    pub(super) ended: Instant,
    pub(super) pod: Option<String>,
}

type Log<T> = Arc<Mutex<Vec<T>>>;

fn lock<T>(log: &Log<T>) -> MutexGuard<'_, Vec<T>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two clients on a machine that ask one server as long as this value lives, on connections of their own.
pub(super) struct Hammer {
    asked: Log<Asked>,
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Hammer {
    /// Web requests, each with this much patience.
    pub(super) fn web(from: &Arc<Namespace>, server: SocketAddr, patience: Duration) -> Self {
        let ask = move || http::who(server, patience).ok().map(|answer| answer.pod);
        Self::start((0..2).map(|_| (Arc::clone(from), ask)))
    }

    /// Web requests as users make them.
    pub(super) fn user(from: &Arc<Namespace>, server: SocketAddr) -> Self {
        Self::web(from, server, ANSWER)
    }

    /// One UDP flow: every datagram has the same addresses and ports.
    pub(super) fn flow(from: &Arc<Namespace>, server: SocketAddr) -> Result<Self> {
        let asker = from.within(|| UdpAsker::patient(server, DATAGRAM))??;
        let ask = move || asker.who().ok().map(|(pod, _)| pod);
        Ok(Self::start([(Arc::clone(from), ask)].into_iter()))
    }

    fn start<A: Fn() -> Option<String> + Send + Sync + 'static>(
        clients: impl Iterator<Item = (Arc<Namespace>, A)>,
    ) -> Self {
        let (asked, over) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let client = |(from, ask): (Arc<Namespace>, A)| {
            let (asked, over) = (Arc::clone(&asked), Arc::clone(&over));
            thread::spawn(move || {
                let run = || {
                    while !over.load(Ordering::Relaxed) {
                        let at = Instant::now();
                        let pod = ask();
                        lock(&asked).push(Asked { at, ended: Instant::now(), pod });
                        thread::sleep(PAUSE);
                    }
                };
                if let Err(error) = from.within(run) {
                    eprintln!("a client ended: {error:#}");
                }
            })
        };
        let clients = clients.map(client).collect();
        Self { asked, over, clients }
    }

    /// Every request so far, in the order of the answers.
    pub(super) fn asked(&self) -> Vec<Asked> {
        lock(&self.asked).clone()
    }

    /// Requests that nobody answered.
    pub(super) fn failed(&self) -> usize {
        lock(&self.asked).iter().filter(|asked| asked.pod.is_none()).count()
    }

    /// From `since` until the first request that `pod` answered was asked, once it was.
    pub(super) fn first(&self, pod: &str, since: Instant, limit: Duration) -> Option<Duration> {
        let find = || {
            let asked = lock(&self.asked);
            let mut by_pod = asked.iter().filter(|asked| asked.pod.as_deref() == Some(pod));
            by_pod.find(|asked| asked.at >= since).map(|asked| asked.at - since)
        };
        let mut found = None;
        let _ = until("the new pod answers", limit, || {
            found = find();
            found.is_some()
        });
        found
    }

    /// From `since` until the last request that `pod` answered was asked; zero if that was before.
    pub(super) fn last(&self, pod: &str, since: Instant) -> Duration {
        let asked = lock(&self.asked);
        let last = asked.iter().rev().find(|asked| asked.pod.as_deref() == Some(pod));
        last.map_or(Duration::ZERO, |asked| asked.at.saturating_duration_since(since))
    }

    /// The longest time from one answer to the next.
    pub(super) fn gap(&self) -> Duration {
        let asked = lock(&self.asked);
        let mut answered: Vec<Instant> =
            asked.iter().filter(|asked| asked.pod.is_some()).map(|asked| asked.ended).collect();
        answered.sort_unstable();
        answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| drop(client.join()));
    }
}

/// A `kubectl get --watch` beside: when it printed each line.
pub(super) struct Witness {
    lines: Log<(Instant, String)>,
    child: Child,
}

impl Witness {
    /// `arguments` say what is watched and how an object is printed, on a line of its own.
    pub(super) fn start(kubectl: &Kubectl, arguments: &[&str]) -> Result<Self> {
        let mut command = kubectl.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("kubectl")?;
        let (lines, output) = (Log::default(), child.stdout.take().context("piped above")?);
        let log = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lock(&log).push((Instant::now(), line));
            }
        });
        Ok(Self { lines, child })
    }

    /// When it first printed a line that contains `text`, after `since`.
    pub(super) fn saw(&self, text: &str, since: Instant) -> Result<Instant> {
        let mut seen = None;
        until(&format!("a watch beside shows {text}"), Duration::from_secs(20), || {
            seen = lock(&self.lines)
                .iter()
                .find(|(at, line)| *at >= since && line.contains(text))
                .map(|(at, _)| *at);
            seen.is_some()
        })?;
        seen.context("just seen")
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
