//! Who is asked when: every wanted probe once in its interval, a bounded number at a time and a second.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::ask::ask;
use super::board::Board;
use super::hysteresis::Hysteresis;
use super::{Fault, Health, Probe};
use crate::metrics::ProbeMetrics;

/// Questions that wait for their answer at a time.
const ASKED_MAX: usize = 256;
/// From one question to the next: a thousand a second, which the punt limits of the dataplane let through.
const GAP: Duration = Duration::from_millis(1);
/// The first question of a probe comes within this time, so that those that begin together do not stay together.
const SPREAD: Duration = Duration::from_millis(500);
/// Changes of a second that the log names; the others are counted.
const NAMED_MAX: u32 = 20;

/// Asks until aborted.
pub async fn run(board: Arc<Board>, metrics: ProbeMetrics) {
    let mut prober = Prober {
        board,
        metrics,
        probes: BTreeMap::new(),
        due: BTreeSet::new(),
        running: JoinSet::new(),
        told: (Instant::now(), 0),
    };
    let mut last = Instant::now();
    loop {
        let next = prober.due.first().map(|(due, _)| (*due).max(last + GAP));
        let next = next.filter(|_| prober.running.len() < ASKED_MAX);
        tokio::select! {
            wanted = prober.board.wanted.take() => prober.follow(wanted),
            Some(done) = prober.running.join_next() => {
                if let Ok((probe, answer)) = done {
                    prober.note(&probe, answer);
                }
            }
            () = sleep_until(next.unwrap_or(last)), if next.is_some() => {
                last = Instant::now();
                prober.start();
            }
        }
    }
}

struct Prober {
    board: Arc<Board>,
    metrics: ProbeMetrics,
    probes: BTreeMap<Probe, Asked>,
    due: BTreeSet<(Instant, Probe)>,
    running: JoinSet<(Probe, Result<(), Fault>)>,
    /// Since when, and how many changes were named in the log since.
    told: (Instant, u32),
}

/// A wanted probe.
struct Asked {
    known: Hysteresis,
    /// An answer is on its way; else it is in the list of those that are due.
    waits: bool,
}

impl Prober {
    fn follow(&mut self, wanted: BTreeMap<Probe, bool>) {
        let now = Instant::now();
        for (probe, wanted) in wanted {
            if !wanted {
                self.probes.remove(&probe);
            } else if let Entry::Vacant(vacant) = self.probes.entry(probe) {
                self.due.insert((now + phase(vacant.key()), vacant.key().clone()));
                vacant.insert(Asked { known: Hysteresis::new(), waits: false });
            }
        }
        self.due.retain(|(_, probe)| self.probes.contains_key(probe));
        self.count();
    }

    /// Asks the one that is due first.
    fn start(&mut self) {
        if let Some((_, probe)) = self.due.pop_first() {
            if let Some(asked) = self.probes.get_mut(&probe) {
                asked.waits = true;
            }
            self.running.spawn(async move {
                let answer = ask(&probe).await;
                (probe, answer)
            });
        }
    }

    fn note(&mut self, probe: &Probe, answer: Result<(), Fault>) {
        self.metrics.answered(answer);
        // It may not be wanted any more, or only again.
        let Some(asked) = self.probes.get_mut(probe).filter(|asked| asked.waits) else { return };
        asked.waits = false;
        let before = asked.known.health();
        let news = asked.known.note(answer, probe.pace);
        self.due.insert((Instant::now() + probe.pace.interval, probe.clone()));
        if let Some(health) = news {
            self.count();
            self.tell(probe, before, health);
            self.board.health.put([(probe.clone(), health)]);
        }
    }

    fn count(&self) {
        let failing = self.probes.values().filter(|asked| asked.known.health().is_failing());
        self.metrics.probes.set(self.probes.len() as u64);
        self.metrics.failing.set(failing.count() as u64);
    }

    /// What people shall know: that it fails, for which reason, and that it is good again.
    fn tell(&mut self, probe: &Probe, before: Health, health: Health) {
        if !before.is_failing() && !health.is_failing() {
            tracing::debug!(%probe, %health, "health check");
            return;
        }
        let (since, named) = &mut self.told;
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *named) = (Instant::now(), 0);
        }
        *named += 1;
        match *named {
            1..=NAMED_MAX if health.is_failing() => tracing::warn!(%probe, %health, "health check"),
            1..=NAMED_MAX => tracing::info!(%probe, %health, "health check"),
            named if named == NAMED_MAX + 1 => {
                tracing::warn!(
                    "more health checks change in this second; `fairlead show backends` has them all"
                );
            }
            _ => {}
        }
    }
}

/// When in the first interval a probe is asked first.
fn phase(probe: &Probe) -> Duration {
    let mut hasher = DefaultHasher::new();
    probe.hash(&mut hasher);
    let share = u32::try_from(hasher.finish() % 1000).unwrap_or_default();
    SPREAD.min(probe.pace.interval) * share / 1000
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};
    use tokio::time::timeout;

    use super::super::{Method, Pace};
    use super::*;

    const PACE: Pace =
        Pace { interval: Duration::from_millis(20), timeout: Duration::from_millis(500), rise: 2, fall: 2 };

    /// Changes of health as they come.
    struct Watched {
        board: Arc<Board>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Watched {
        fn new() -> Self {
            let board = Arc::new(Board::default());
            let task = tokio::spawn(run(Arc::clone(&board), ProbeMetrics::default()));
            Self { board, task }
        }

        fn want(&self, at: SocketAddr, method: Method) -> Probe {
            let probe = Probe { at, method, pace: PACE };
            self.board.wanted.put([(probe.clone(), true)]);
            probe
        }

        async fn next(&self) -> Health {
            let news = timeout(Duration::from_secs(10), self.board.health.take()).await;
            *news.expect("news in time").values().next().expect("at least one")
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test]
    async fn a_listener_that_goes_and_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let watched = Watched::new();
        watched.want(at, Method::Tcp);
        assert_eq!(watched.next().await, Health::Good);
        drop(listener);
        assert_eq!(watched.next().await, Health::Failing(Fault::Refused));
        let _listener = TcpListener::bind(at).await.unwrap();
        assert_eq!(watched.next().await, Health::Good);
    }

    #[tokio::test]
    async fn a_web_server_is_asked_for_its_path_and_its_status_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let status = Arc::new(std::sync::Mutex::new("HTTP/1.1 204 No Content"));
        let said = Arc::clone(&status);
        let (asked, mut heard) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let _ = asked.try_send(String::from_utf8_lossy(&request[..length]).into_owned());
                let status = *said.lock().unwrap();
                let _ = stream.write_all(format!("{status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            }
        });
        let watched = Watched::new();
        watched.want(at, Method::Http("/up".into()));
        assert_eq!(watched.next().await, Health::Good);
        *status.lock().unwrap() = "HTTP/1.1 503 Service Unavailable";
        assert_eq!(watched.next().await, Health::Failing(Fault::Status(503)));
        *status.lock().unwrap() = "SSH-2.0-nobody";
        assert_eq!(watched.next().await, Health::Failing(Fault::NotHttp));
        let paths: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        let host = format!("host: {at}");
        assert!(
            paths.iter().all(|it| it.starts_with("GET /up HTTP/1.1\r\n") && it.contains(&host)),
            "{paths:?}"
        );
    }

    #[tokio::test]
    async fn a_datagram_that_nobody_answers_is_good_and_one_that_is_refused_is_not() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = silent.local_addr().unwrap();
        let watched = Watched::new();
        watched.want(at, Method::Udp);
        assert_eq!(watched.next().await, Health::Good);
        drop(silent);
        assert_eq!(watched.next().await, Health::Failing(Fault::Refused));
    }

    #[tokio::test]
    async fn a_probe_that_is_not_wanted_any_more_is_asked_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let watched = Watched::new();
        let probe = watched.want(listener.local_addr().unwrap(), Method::Tcp);
        watched.next().await;
        watched.board.wanted.put([(probe, false)]);
        let quiet = async {
            loop {
                if timeout(PACE.interval * 5, listener.accept()).await.is_err() {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(10), quiet).await.expect("it falls quiet");
    }

    #[tokio::test]
    async fn where_there_is_no_way_nothing_is_known() {
        let watched = Watched::new();
        // A link-local address without a scope cannot be asked.
        watched.want("[fe80::1]:80".parse().unwrap(), Method::Tcp);
        let health = watched.next().await;
        assert!(matches!(health, Health::Unknown(Some(Fault::Unasked(_)))), "{health}");
        assert!(!health.is_failing());
    }
}
