//! Control's view of the running workers: their counters, and commands over their rings.
//!
//! One command a worker at a time. An answer that nobody waits for any more (a client that hung up) is read and thrown
//! away before the next command's. Not here: tables (`apply`) and frames (`mirror`).

use std::sync::Arc;
use std::time::Duration;

use tables::WorkerId;
use tables::capture::CaptureSpec;
use tables::command::{Answer, Command, CommandSender, FlowFilter};
use tables::counters::{Counts, WorkerCounters};
use tables::flow::FlowView;
use tables::tcp_state::Timeouts;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// A worker that gives no sign for so long will not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at a ring.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Every worker.
#[derive(Clone)]
pub struct Workers {
    counters: Arc<[Arc<WorkerCounters>]>,
    desks: Arc<[Mutex<Desk>]>,
}

/// A worker did not answer a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("worker {0} does not answer; is it stuck? /healthz tells")]
pub struct NoAnswer(pub WorkerId);

/// One flow of one worker.
#[derive(Clone, Copy, Debug)]
pub struct ListedFlow {
    /// Who owns it.
    pub worker: WorkerId,
    /// The flow.
    pub flow: FlowView,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
}

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
        Self { counters: counters.into(), desks: senders.into_iter().enumerate().map(desk).collect() }
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

    /// The flows that match, `limit` at most over all workers; true when there were more.
    ///
    /// # Errors
    /// A worker that does not answer.
    pub async fn flows(&self, filter: FlowFilter, limit: u32) -> Result<(Vec<ListedFlow>, bool), NoAnswer> {
        let mut flows = Vec::new();
        let mut more = false;
        for desk in self.desks.iter() {
            let left = limit.saturating_sub(u32::try_from(flows.len()).unwrap_or(u32::MAX));
            let mut desk = desk.lock().await;
            let worker = desk.worker;
            let end = desk.ask(Command::ListFlows { filter, limit: left }, |flow, idle_ms| {
                flows.push(ListedFlow { worker, flow, idle_ms });
            });
            more |= end.await?.truncated;
        }
        Ok((flows, more))
    }

    /// Ends the flows that match; how many.
    ///
    /// # Errors
    /// A worker that does not answer; others may have done it.
    pub async fn remove_flows(&self, filter: FlowFilter) -> Result<u64, NoAnswer> {
        let mut removed = 0;
        for desk in self.desks.iter() {
            removed +=
                u64::from(desk.lock().await.ask(Command::RemoveFlows { filter }, |_, _| {}).await?.matched);
        }
        Ok(removed)
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

struct End {
    matched: u32,
    truncated: bool,
}

impl Desk {
    async fn ask(&mut self, command: Command, mut each: impl FnMut(FlowView, u32)) -> Result<End, NoAnswer> {
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
    async fn end(&mut self, each: &mut impl FnMut(FlowView, u32)) -> Result<End, NoAnswer> {
        let mut heard = Instant::now();
        loop {
            match self.sender.answer() {
                Some(Answer::Flow { flow, idle_ms }) => {
                    each(flow, idle_ms);
                    heard = Instant::now();
                }
                Some(Answer::Done { matched, truncated }) => {
                    self.owed -= 1;
                    return Ok(End { matched, truncated });
                }
                None if heard.elapsed() > PATIENCE => return Err(NoAnswer(self.worker)),
                None => sleep(LOOK_INTERVAL).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use packet::{FlowKey, Protocol};
    use tables::capture::capture_ring;
    use tables::command::{CommandDesk, command_rings};
    use tables::flow::{FlowTable, FlowTableConfig, NewFlow};
    use tables::{BackendId, Millis, NatMode, ServiceId};

    use super::*;

    fn table(flows: u16) -> FlowTable {
        let config = FlowTableConfig { flows: 64, ipv6: false, secret: 7, timeouts: Timeouts::default() };
        let mut table = FlowTable::new(&config).unwrap();
        for sport in 0..flows {
            let (client, vip, pod) =
                (Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(2, 2, 2, 2), Ipv4Addr::new(3, 3, 3, 3));
            let protocol = Protocol::Tcp;
            let flow = NewFlow {
                original: FlowKey { src: client, dst: vip, sport, dport: 80, protocol },
                reply: FlowKey { src: pod, dst: client, sport: 8080, dport: sport, protocol },
                service: ServiceId::new(0, 0).unwrap(),
                backend: BackendId::new(0, 0).unwrap(),
                mode: NatMode::Dnat,
            };
            table.insert(&flow, Millis(0)).unwrap();
        }
        table
    }

    /// Two workers that step their desks until the test ends.
    fn workers(flows: [u16; 2]) -> Workers {
        let worker = |flows: u16| {
            let (sender, mut desk): (_, CommandDesk) = command_rings(2, 8);
            let mut table = table(flows);
            let (mut capture, _) = capture_ring(0);
            tokio::spawn(async move {
                loop {
                    desk.step((&mut table, &mut capture), 16, Millis(1000));
                    sleep(Duration::from_micros(100)).await;
                }
            });
            (Arc::new(WorkerCounters::new(0)), sender)
        };
        Workers::new(flows.map(worker).into())
    }

    #[tokio::test]
    async fn flows_of_all_workers_share_one_limit() {
        let workers = workers([10, 10]);
        let (flows, more) = workers.flows(FlowFilter::default(), 100).await.unwrap();
        assert_eq!((flows.len(), more), (20, false));
        assert_eq!((flows[0].worker, flows[19].worker, flows[0].idle_ms), (WorkerId(0), WorkerId(1), 1000));
        let (flows, more) = workers.flows(FlowFilter::default(), 15).await.unwrap();
        assert_eq!((flows.len(), more), (15, true));
        assert_eq!(workers.remove_flows(FlowFilter::default()).await, Ok(20));
        assert_eq!(workers.flows(FlowFilter::default(), 15).await.unwrap().0.len(), 0);
    }

    #[tokio::test]
    async fn answers_nobody_waits_for_do_not_reach_the_next_command() {
        let workers = workers([10, 0]);
        let hung_up = tokio::time::timeout(Duration::ZERO, workers.flows(FlowFilter::default(), 100)).await;
        assert!(hung_up.is_err());
        let (flows, _) = workers.flows(FlowFilter::default(), 3).await.unwrap();
        assert_eq!(flows.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_worker_is_named() {
        let (sender, _desk) = command_rings(2, 8);
        let workers = Workers::new(vec![(Arc::new(WorkerCounters::new(0)), sender)]);
        assert_eq!(workers.remove_flows(FlowFilter::default()).await, Err(NoAnswer(WorkerId(0))));
    }
}
