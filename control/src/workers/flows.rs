//! The flows of all workers: listed, sampled and ended.
//!
//! Workers are asked at the same time, each for a page of its table after the other, so that no table is too large to be
//! answered for, other commands come between, and nobody works long for a client that hung up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::try_join_all;
use tables::command::{Command, Done, FlowFilter};
use tables::flow::FlowView;
use tables::{ServiceId, WorkerId};
use tokio::sync::Mutex;

use super::{Desk, NoAnswer, Workers};

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

/// Flows that were asked for.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Those of the first worker first; as many as were asked for at most.
    pub flows: Vec<ListedFlow>,
    /// There are more.
    pub more: bool,
}

/// How many flows match, of each Service port.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sample {
    /// Those with flows that match; flows of no Service port are under `NONE`.
    pub services: HashMap<ServiceId, Estimate>,
    /// Of so many slots of a flow table one was looked at, at the worker with the most; 1: every flow was counted.
    pub one_in: u32,
}

/// How many flows there are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Estimate {
    /// Those that were seen.
    pub seen: u64,
    /// All, by the share of the slots that was looked at.
    pub flows: u64,
}

impl Workers {
    /// The flows that match and that `keep` is true of, `limit` at most over all workers.
    ///
    /// # Errors
    /// A worker that does not answer.
    pub async fn flows(
        &self,
        filter: FlowFilter,
        limit: u32,
        keep: impl Fn(&FlowView) -> bool,
    ) -> Result<Listing, NoAnswer> {
        let found = AtomicU32::new(0);
        let parts = try_join_all(self.desks.iter().map(|desk| list(desk, filter, (&found, limit), &keep)));
        let flows = parts.await?.concat();
        Ok(Listing { flows, more: found.into_inner() > limit })
    }

    /// How many flows of each Service port match, from a look at a part of each worker's table, another with each call;
    /// of tables without more slots in use than [`PAGE_SLOTS`](tables::command::PAGE_SLOTS), at all.
    ///
    /// # Errors
    /// A worker that does not answer.
    pub async fn sample(&self, filter: FlowFilter) -> Result<Sample, NoAnswer> {
        let shift = self.samples.fetch_add(1, Ordering::Relaxed);
        let parts = self.desks.iter().map(|desk| count(desk, Command::SampleFlows { filter, shift }));
        let mut sample = Sample { one_in: 1, ..Sample::default() };
        for (services, one_in) in try_join_all(parts).await? {
            sample.one_in = sample.one_in.max(one_in);
            for (service, seen) in services {
                let estimate = sample.services.entry(service).or_default();
                estimate.seen += seen;
                estimate.flows += seen * u64::from(one_in);
            }
        }
        Ok(sample)
    }

    /// Ends the flows that match; how many.
    ///
    /// # Errors
    /// A worker that does not answer; others may have done it, or a part of it.
    pub async fn remove_flows(&self, filter: FlowFilter) -> Result<u64, NoAnswer> {
        let removed = try_join_all(self.desks.iter().map(|desk| remove(desk, filter)));
        Ok(removed.await?.into_iter().sum())
    }
}

/// The flows of one worker, until more than `limit` were `found` at all of them.
async fn list(
    desk: &Mutex<Desk>,
    filter: FlowFilter,
    (found, limit): (&AtomicU32, u32),
    keep: &impl Fn(&FlowView) -> bool,
) -> Result<Vec<ListedFlow>, NoAnswer> {
    let (mut flows, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next.filter(|_| found.load(Ordering::Relaxed) <= limit) {
        let mut desk = desk.lock().await;
        let worker = desk.worker;
        let page = desk.ask(Command::ListFlows { filter, from }, |flow, idle_ms| {
            if keep(&flow) && found.fetch_add(1, Ordering::Relaxed) < limit {
                flows.push(ListedFlow { worker, flow, idle_ms });
            }
        });
        next = page.await?.next;
    }
    Ok(flows)
}

/// The flows of one worker that are reported, by Service port, and of how many slots one was looked at.
async fn count(desk: &Mutex<Desk>, command: Command) -> Result<(HashMap<ServiceId, u64>, u32), NoAnswer> {
    let mut services = HashMap::new();
    let mut desk = desk.lock().await;
    let done = desk.ask(command, |flow, _| *services.entry(flow.service).or_default() += 1).await?;
    Ok((services, done.one_in))
}

/// Ends flows of one worker; how many.
async fn remove(desk: &Mutex<Desk>, filter: FlowFilter) -> Result<u64, NoAnswer> {
    let (mut removed, mut next) = (0, Some(0));
    while let Some(from) = next {
        let page: Done = desk.lock().await.ask(Command::RemoveFlows { filter, from }, |_, _| {}).await?;
        removed += u64::from(page.matched);
        next = page.next;
    }
    Ok(removed)
}
