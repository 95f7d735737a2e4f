//! Tells the cluster what became of Services and pools, while this appliance leads: finalizer, status, events.
//!
//! Each object has one write at a time, decided on its newest outcome; a write that fails is tried again, later each time,
//! on the outcome that is newest then, and told meanwhile. Whoever hands outcomes over never waits for a write. Not here:
//! what is written (`steps`, `notify`), the requests (`write`), who leads (`leader`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::ApiServer;
use super::ask::{Ask, ask};
use super::fault::Fault;
use super::leader::stamp;
use super::notify::{self, Budget, Notice, Sender, Told};
use super::steps::{self, Step};
use super::write::{Done, Target, Wanted, write};
use crate::metrics::WriterMetrics;
use crate::model::ObjectKey;
use crate::outcome::{Batch, Outcome, Outcomes};

/// Writes on their way at once.
const WRITES_MAX: usize = 16;
/// Before a failed write is tried again: doubled each time, from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// An event tells of a write that failed so often in a row.
const FAILURES_TOLD: u32 = 3;
/// Between two writes of a pool's numbers.
const POOL_INTERVAL: Duration = Duration::from_secs(1);
/// The same step is not taken again sooner: the server's own news of it is on its way.
const ECHO: Duration = Duration::from_secs(1);
/// As often as this within so long, and somebody else undoes what we write; then it is left to them for as long.
const ECHOES_MAX: u32 = 5;
const CONTEST: Duration = Duration::from_secs(60);

/// What is known about a Service or pool that is to be written.
#[derive(Debug, Default)]
struct Entry {
    outcome: Option<Wanted>,
    told: Told,
    failures: u32,
    /// Not before.
    due: Option<Instant>,
    /// Nor before this, unless a newer outcome comes.
    quiet: Option<Instant>,
    /// The last step that succeeded.
    last: Option<Last>,
}

/// A step that was taken, and how often since when.
#[derive(Debug)]
struct Last {
    what: What,
    at: Instant,
    since: Instant,
    times: u32,
}

/// A step on an object, with the addresses it says.
type What = (Step, String, Vec<IpAddr>);

/// The writer.
pub(super) struct Writer {
    server: Arc<ApiServer>,
    outcomes: Arc<Outcomes>,
    metrics: WriterMetrics,
    /// Our name in events.
    reporter: String,
    /// Distinguishes our events; begins where no earlier run has been.
    number: u64,
    entries: BTreeMap<Target, Entry>,
    /// Entries to look at.
    due: BTreeSet<Target>,
    busy: BTreeSet<Target>,
    budget: Budget,
    leading: bool,
}

type Work = std::pin::Pin<Box<dyn Future<Output = Done> + Send>>;

impl Writer {
    pub(super) fn new(
        server: Arc<ApiServer>,
        outcomes: Arc<Outcomes>,
        metrics: WriterMetrics,
        reporter: String,
    ) -> Self {
        Self {
            server,
            outcomes,
            metrics,
            reporter,
            number: number(),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            busy: BTreeSet::new(),
            budget: Budget::new(Instant::now()),
            leading: false,
        }
    }

    /// Writes until nobody says any more who leads.
    pub(super) async fn run(mut self, mut leads: watch::Receiver<bool>) {
        let mut work: FuturesUnordered<Work> = FuturesUnordered::new();
        loop {
            self.lead(*leads.borrow_and_update());
            let next = self.begin(&mut work);
            let outcomes = Arc::clone(&self.outcomes);
            tokio::select! {
                changed = leads.changed() => if changed.is_err() { return },
                batch = outcomes.take() => {
                    // Outcomes of our lead may be here before the word of it.
                    self.lead(*leads.borrow());
                    self.take(batch);
                }
                Some(done) = work.next(), if !work.is_empty() => self.finish(done),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Whoever begins to lead is told everything anew; whoever ceases has nothing to say.
    fn lead(&mut self, leading: bool) {
        if leading != self.leading {
            self.leading = leading;
            self.metrics.leads.set(u64::from(leading));
            self.entries.clear();
            self.due.clear();
            self.outcomes.clear_faults();
        }
    }

    fn take(&mut self, batch: Batch) {
        if !self.leading {
            return;
        }
        let services =
            batch.services.into_iter().map(|(key, one)| (Target::Service(key), Wanted::Service(one)));
        let pools = batch.pools.into_iter().map(|(name, one)| (Target::Pool(name), Wanted::Pool(one)));
        for (target, wanted) in services.chain(pools) {
            let entry = self.entries.entry(target.clone()).or_default();
            if let (Wanted::Service(outcome), Target::Service(key)) = (&wanted, &target) {
                let news = entry.told.news(outcome);
                let uid =
                    outcome.service.as_ref().map(|service| service.upkeep.uid.clone()).unwrap_or_default();
                let target = Target::Service(key.clone());
                news.into_iter().for_each(|notice| self.notify(target.clone(), uid.clone(), notice));
            }
            let gone = match &wanted {
                Wanted::Service(outcome) => outcome.service.is_none(),
                Wanted::Pool(outcome) => outcome.generation.is_none(),
            };
            if gone {
                self.forget(&target);
                continue;
            }
            let entry = self.entries.entry(target.clone()).or_default();
            (entry.outcome, entry.quiet) = (Some(wanted), None);
            self.due.insert(target);
        }
        for (key, note) in batch.warnings {
            let target = Target::Service(key);
            if let Some(Wanted::Service(Outcome { service: Some(service), .. })) =
                self.entries.get(&target).and_then(|entry| entry.outcome.as_ref())
            {
                let (uid, notice) = (service.upkeep.uid.clone(), notify::of_traffic(service, note));
                self.notify(target, uid, notice);
            }
        }
    }

    fn forget(&mut self, target: &Target) {
        self.entries.remove(target);
        self.due.remove(target);
        if let Target::Service(key) = target {
            self.outcomes.set_fault(key, None);
        }
    }

    /// Begins what is due; when to look again.
    fn begin(&mut self, work: &mut FuturesUnordered<Work>) -> Option<Instant> {
        let now = Instant::now();
        let (mut next, mut ready) = (None::<Instant>, Vec::new());
        for target in self.due.iter().filter(|target| !self.busy.contains(target)) {
            if work.len() + ready.len() >= WRITES_MAX {
                break;
            }
            let entry = &self.entries[target];
            match entry.due.max(entry.quiet).filter(|due| *due > now) {
                Some(due) => next = Some(next.map_or(due, |next| next.min(due))),
                None => ready.push(target.clone()),
            }
        }
        for target in ready {
            self.due.remove(&target);
            let Some(wanted) = self.entries[&target].outcome.clone() else { continue };
            let Some(step) = self.step(&target, &wanted, now) else {
                next = Some(next.map_or(now + ECHO, |next| next.min(now + ECHO)));
                continue;
            };
            self.busy.insert(target.clone());
            work.push(Box::pin(write(Arc::clone(&self.server), target, step, wanted)));
        }
        next
    }

    /// The step to take; none when there is nothing to do, or not yet. `Some(None)` is a pool's only one.
    #[allow(clippy::option_option, reason = "a pool has one thing to write, and no name for it")]
    fn step(&mut self, target: &Target, wanted: &Wanted, now: Instant) -> Option<Option<Step>> {
        let Wanted::Service(outcome) = wanted else { return Some(None) };
        let entry = self.entries.get_mut(target)?;
        let (Some(step), Target::Service(key)) = (steps::next(outcome), target) else {
            if let Target::Service(key) = target
                && entry.due.is_none_or(|due| due <= now)
            {
                self.outcomes.set_fault(key, None);
            }
            return None;
        };
        let what = what(step, outcome);
        if let Some(last) = entry.last.as_ref().filter(|last| last.what == what && now < last.at + ECHO) {
            entry.quiet = Some(last.at + ECHO);
            self.due.insert(Target::Service(key.clone()));
            return None;
        }
        Some(Some(step))
    }

    fn finish(&mut self, done: Done) {
        let now = Instant::now();
        self.busy.remove(&done.target);
        let Some(entry) = self.entries.get_mut(&done.target) else { return };
        let kind = match done.step {
            None => "pool_status",
            Some(Step::Tell) => "service_status",
            Some(Step::Hold | Step::Release) => "service_finalizer",
        };
        match done.result {
            Ok(notice) => {
                self.metrics.wrote(kind, "ok");
                entry.failures = 0;
                entry.due = (done.step.is_none()).then_some(now + POOL_INTERVAL);
                if let (Target::Service(key), Some(step)) = (&done.target, done.step) {
                    self.succeeded(key, step, now);
                }
                if let Some((notice, uid)) = notice {
                    self.notify(done.target, uid, notice);
                }
            }
            Err(fault) => {
                self.metrics.wrote(kind, fault.kind.name());
                entry.failures = entry.failures.saturating_add(1);
                let pause =
                    PAUSE_MIN.saturating_mul(1 << entry.failures.saturating_sub(1).min(10)).min(PAUSE_MAX);
                entry.due = Some(now + fault.retry_after.unwrap_or(pause).max(pause).min(PAUSE_MAX));
                let failures = entry.failures;
                self.due.insert(done.target.clone());
                self.failed(&done.target, kind, failures, &fault);
            }
        }
    }

    fn succeeded(&mut self, key: &ObjectKey, step: Step, now: Instant) {
        let Some(entry) = self.entries.get_mut(&Target::Service(key.clone())) else { return };
        let Some(Wanted::Service(outcome)) = &entry.outcome else { return };
        let what = what(step, outcome);
        let before = entry.last.take().filter(|last| last.what == what && now < last.since + CONTEST);
        let (since, times) = before.map_or((now, 1), |last| (last.since, last.times + 1));
        entry.last = Some(Last { what, at: now, since, times });
        let contested = times > ECHOES_MAX;
        if contested {
            entry.due = Some(now + CONTEST);
        }
        let why = "somebody else undoes what is written to this Service; run one load balancer controller for its class";
        self.outcomes.set_fault(key, contested.then(|| why.to_owned()));
    }

    fn failed(&mut self, target: &Target, kind: &str, failures: u32, fault: &Fault) {
        match target {
            Target::Service(key) => {
                tracing::warn!(service = %key, kind, %fault, "not written; it is tried again");
                let why = format!("its address is not written to its status: {fault}; it is tried again");
                self.outcomes.set_fault(key, Some(why.clone()));
                let wanted = self.entries.get(target).and_then(|entry| entry.outcome.as_ref());
                if let Some(Wanted::Service(Outcome { service: Some(service), .. })) = wanted
                    && failures == FAILURES_TOLD
                {
                    let uid = service.upkeep.uid.clone();
                    self.notify(target.clone(), uid, notify::of_failure(&why));
                }
            }
            Target::Pool(name) => {
                tracing::warn!(pool = %name, %fault, "the status of the pool is not written; it is tried again")
            }
        }
    }

    /// Sends an event, if there is room for one; an event that is lost is not worth a second try.
    fn notify(&mut self, about: Target, uid: String, notice: Notice) {
        if uid.is_empty() || !self.budget.take(Instant::now()) {
            self.metrics.wrote("event", "left_out");
            return;
        }
        self.number += 1;
        let number = self.number;
        let (server, metrics, reporter) =
            (Arc::clone(&self.server), self.metrics.clone(), self.reporter.clone());
        tokio::spawn(async move {
            let by = Sender { reporter: &reporter, stamp: &stamp(), number };
            let event = notify::event(&notice, &about, &uid, &by);
            let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", notify::namespace(&about));
            match ask(&server, &path, &Ask::Create(event)).await {
                Ok(_) => metrics.wrote("event", "ok"),
                Err(fault) => {
                    // A namespace that goes takes no event any more, and good news can be missed.
                    if notice.normal {
                        tracing::debug!(?about, %fault, note = notice.note, "an event could not be sent");
                    } else {
                        tracing::warn!(?about, %fault, note = notice.note, "an event could not be sent");
                    }
                    metrics.wrote("event", fault.kind.name());
                }
            }
        });
    }
}

fn what(step: Step, outcome: &Outcome) -> What {
    let uid = outcome.service.as_ref().map(|service| service.upkeep.uid.clone());
    (step, uid.unwrap_or_default(), outcome.addresses.clone())
}

/// Nanoseconds since 1970: more than any event of ours before.
fn number() -> u64 {
    u64::try_from(k8s_openapi::jiff::Timestamp::now().as_nanosecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Access;
    use crate::model::{Ingress, IpMode, Service, ServiceType, Upkeep};

    fn given() -> Outcome {
        let upkeep = Upkeep { uid: "u".into(), finalizer: true, ..Upkeep::default() };
        let service = Service { kind: ServiceType::LoadBalancer, upkeep, ..Service::default() };
        let addresses = vec!["192.0.2.1".parse().expect("v4")];
        Outcome { service: Some(Arc::new(service)), ours: true, addresses, ..Outcome::default() }
    }

    #[tokio::test]
    async fn who_is_undone_again_and_again_stops_and_says_so() {
        let outcomes = Arc::new(Outcomes::default());
        let server = Arc::new(ApiServer::new(Access::InCluster));
        let mut writer = Writer::new(server, Arc::clone(&outcomes), WriterMetrics::default(), "gw-1".into());
        let key = ObjectKey::new("shop", "web");
        let target = Target::Service(key.clone());
        writer.take(Batch { services: [(key.clone(), given())].into(), ..Batch::default() });
        assert!(writer.entries.is_empty(), "who does not lead has nothing to write");
        writer.lead(true);
        writer.take(Batch { services: [(key.clone(), given())].into(), ..Batch::default() });
        for times in 1..=ECHOES_MAX + 1 {
            assert_eq!(outcomes.fault(&key), None, "{times}");
            let wanted = Wanted::Service(given());
            assert_eq!(
                writer.step(&target, &wanted, Instant::now() + ECHO),
                Some(Some(Step::Tell)),
                "{times}"
            );
            writer.finish(Done { target: target.clone(), step: Some(Step::Tell), result: Ok(None) });
            assert_eq!(
                writer.step(&target, &wanted, Instant::now()),
                None,
                "the news of it may be on its way"
            );
            let mut told = given();
            let address = told.addresses[0];
            let service = Arc::make_mut(told.service.as_mut().expect("there"));
            service.ingress = vec![Ingress { address, mode: IpMode::Vip }];
            assert_eq!(writer.step(&target, &Wanted::Service(told), Instant::now()), None, "and then undone");
        }
        assert!(outcomes.fault(&key).expect("told").contains("somebody else undoes"));
        writer.lead(false);
        assert!(writer.entries.is_empty() && outcomes.fault(&key).is_none());
    }
}
