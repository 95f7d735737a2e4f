//! Control's view of the running workers: their counters, and commands over their rings.
//!
//! One command a worker at a time. An answer that nobody waits for any more (a client that hung up) is read and thrown
//! away before the next command's. Not here: tables (`apply`) and frames (`mirror`).

mod flows;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

pub use flows::{Estimate, ListedFlow, Listing, Sample};
use tables::WorkerId;
use tables::capture::CaptureSpec;
use tables::command::{Answer, Command, CommandSender, Done};
use tables::counters::{Counts, WorkerCounters};
use tables::flow::FlowView;
use tables::tcp_state::Timeouts;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// A worker that gives no sign for so long will not answer: the [`PAGE_SLOTS`](tables::command::PAGE_SLOTS) of a command
/// are done by then if a turn, of 8 records when busy, takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at a ring.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Every worker.
#[derive(Clone)]
pub struct Workers {
    counters: Arc<[Arc<WorkerCounters>]>,
    desks: Arc<[Mutex<Desk>]>,
    /// Samples of flows taken.
    samples: Arc<AtomicU32>,
}

/// A worker did not answer a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("worker {0} does not answer; is it stuck? /healthz tells")]
pub struct NoAnswer(pub WorkerId);

/// Where the workers were put, and what brings packets to them; never changes.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The core of each worker.
    pub cores: Vec<u16>,
    /// How each port with a device spreads packets over the workers, where there are several.
    pub spread: Vec<PortSpread>,
}

/// How a port spreads packets over workers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortSpread {
    /// The port's name.
    pub port: String,
    /// What keeps its device from bringing packets to the worker that they are for (RSS); none: it does.
    pub fault: Option<String>,
}

struct Desk {
    worker: WorkerId,
    sender: CommandSender,
    /// Commands sent whose end was not read yet.
    owed: u32,
}

impl Workers {
    /// The workers in order, each with its counters and its command ring.
    #[must_use]
    pub fn new(workers: Vec<(Arc<WorkerCounters>, CommandSender)>) -> Self {
        let (counters, senders): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        let desk = |(index, sender)| {
            let worker = WorkerId(u16::try_from(index).expect("fewer than 65,536 workers"));
            Mutex::new(Desk { worker, sender, owed: 0 })
        };
        let desks = senders.into_iter().enumerate().map(desk).collect();
        Self { counters: counters.into(), desks, samples: Arc::default() }
    }

    /// Every worker's totals as of its last flush.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        self.counters.iter().map(|counters| counters.snapshot()).collect()
    }

    /// The shared counters themselves.
    #[must_use]
    pub fn counters(&self) -> Vec<Arc<WorkerCounters>> {
        self.counters.to_vec()
    }

    /// From now on these timeouts count.
    ///
    /// # Errors
    /// A worker that does not answer; others may have done it.
    pub async fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), NoAnswer> {
        for desk in self.desks.iter() {
            desk.lock().await.ask(Command::SetTimeouts(timeouts), |_, _| {}).await?;
        }
        Ok(())
    }

    /// From now on these packets are captured, or none.
    ///
    /// # Errors
    /// The first worker that does not answer; the others were told all the same.
    pub async fn capture(&self, spec: Option<CaptureSpec>) -> Result<(), NoAnswer> {
        let mut told = Ok(());
        for desk in self.desks.iter() {
            let done = desk.lock().await.ask(Command::Capture(spec), |_, _| {}).await;
            told = told.and(done.map(drop));
        }
        told
    }
}

impl Desk {
    async fn ask(&mut self, command: Command, mut each: impl FnMut(FlowView, u32)) -> Result<Done, NoAnswer> {
        while self.owed > 0 {
            self.end(&mut |_, _| {}).await?;
        }
        if !self.sender.send(command) {
            return Err(NoAnswer(self.worker));
        }
        self.owed += 1;
        self.end(&mut each).await
    }

    /// Reads answers up to the end of the oldest command.
    async fn end(&mut self, each: &mut impl FnMut(FlowView, u32)) -> Result<Done, NoAnswer> {
        let mut heard = Instant::now();
        loop {
            match self.sender.answer() {
                Some(Answer::Flow { flow, idle_ms }) => {
                    each(flow, idle_ms);
                    heard = Instant::now();
                }
                Some(Answer::Done(done)) => {
                    self.owed -= 1;
                    return Ok(done);
                }
                None if heard.elapsed() > PATIENCE => return Err(NoAnswer(self.worker)),
                None => sleep(LOOK_INTERVAL).await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
