//! Load on a web server while something happens: requests on connections of their own, each of which is counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::http;
use crate::netns::Namespace;

/// A request that takes longer has failed: the SYN's first repetition, after 1 s, would still be in time.
const ANSWER: Duration = Duration::from_secs(3);
/// When a SYN is sent again.
const SLOW: Duration = Duration::from_secs(1);
/// Pause between two requests of one client.
const PAUSE: Duration = Duration::from_millis(2);
/// Clients that ask at the same time.
pub const CLIENTS: u64 = 2;
/// Requests that there are at least, however fast the machine is.
const ENOUGH: u64 = 200;
/// Longest that they are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures whose words are kept.
const TOLD: usize = 5;

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers by pod: how many, and when the last of them was asked for, counted from the start.
    pub pods: BTreeMap<String, (u64, Duration)>,
    /// Requests without an answer.
    pub failed: u64,
    /// What was wrong with the first of them, and when.
    pub failures: Vec<String>,
    /// The longest that an answer took.
    pub slowest: Duration,
    /// Answers that took a second or more, as those do whose SYN was lost. A machine that stands still makes some, too: at
    /// most one for each of [`CLIENTS`] at a time.
    pub slow: u64,
}

impl Tally {
    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.pods.values().map(|(count, _)| count).sum()
    }

    fn made(&self) -> u64 {
        self.failed + self.answered()
    }

    /// At least `least` requests, and every one of them was answered.
    ///
    /// # Errors
    /// What failed.
    pub fn flawless(&self, least: u64) -> Result<()> {
        if self.failed > 0 {
            bail!("{} of {} requests failed: {}", self.failed, self.made(), self.failures.join("; "));
        }
        if self.answered() < least {
            bail!("only {} requests were made", self.answered());
        }
        Ok(())
    }

    fn note(&mut self, asked: Duration, took: Duration, answer: Result<http::WebAnswer>) {
        match answer {
            Ok(answer) => {
                let (count, last) = self.pods.entry(answer.pod).or_default();
                *count += 1;
                *last = (*last).max(asked);
                self.slowest = self.slowest.max(took);
                self.slow += u64::from(took >= SLOW);
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < TOLD {
                    self.failures.push(format!("at {:.2} s: {error:#}", asked.as_secs_f64()));
                }
            }
        }
    }
}

/// Two clients in `from` ask `server` again and again for as long as `during` takes, and on until there were enough requests
/// to tell anything by.
///
/// # Errors
/// When `during` fails. Requests that fail are no error here: the tally has them.
pub fn while_asked<T>(
    from: &Namespace,
    server: SocketAddr,
    during: impl FnOnce() -> Result<T>,
) -> Result<(T, Tally)> {
    let (tally, over) = (Mutex::new(Tally::default()), AtomicBool::new(false));
    let start = Instant::now();
    let ask = || {
        while !over.load(Ordering::Relaxed) {
            let asked = start.elapsed();
            let answer = http::who(server, ANSWER);
            tally.lock().expect("noting cannot panic").note(asked, start.elapsed() - asked, answer);
            thread::sleep(PAUSE);
        }
    };
    let done = thread::scope(|scope| {
        let clients = [scope.spawn(|| from.within(ask)), scope.spawn(|| from.within(ask))];
        let done = during();
        let enough = || tally.lock().expect("noting cannot panic").made() >= ENOUGH;
        let ended = Instant::now();
        while done.is_ok() && !enough() && ended.elapsed() < PATIENCE {
            thread::sleep(PAUSE);
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        done
    })?;
    Ok((done, tally.into_inner().expect("no client panicked")))
}
