//! The applier's loop: changes are taken in, versions published, workers watched taking them, and questions answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tables::publish::Published;
use tables::{Generation, Memory, Prefix};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::ask::{Look, Request};
use super::bypass::Bypassed;
use super::ledger::Ledger;
use super::{Election, Parts, SourceEvent, Stopped, flow_timeouts};
use crate::admin::view;
use crate::compile::{Compiler, Origin, Settings, Way};
use crate::config::GatewayConfig;
use crate::inquiry::Inquiry;
use crate::ipam::{Allocation, Assignments};
use crate::mirror::{Bypass, PodRoutes, Statics};
use crate::outcome::Batch;
use crate::probe::{Health, Probe};
use crate::reload;

/// Between two versions: a lone change is compiled at once, those that arrive within this time after it together.
const COALESCE: Duration = Duration::from_millis(1);
/// Between two looks at whether every worker has taken a version.
const PROGRAMMED_INTERVAL: Duration = Duration::from_millis(1);
/// Between two rounds of housekeeping: old versions, slots.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(250);
/// The memory of the tables is measured so often, where they change.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// The applier's thread: its state and its loop.
pub(super) struct Engine {
    pub(super) parts: Parts,
    pub(super) compiler: Compiler,
    pub(super) inquiry: Inquiry,
    /// When addresses that other hosts have are asked for again.
    pub(super) asked_again: Option<Instant>,
    sources: Vec<view::Source>,
    bypassed: Bypassed,
    ledger: Ledger,
    pub(super) synced: bool,
    /// Whether the API server itself has said what there is.
    current: bool,
    /// The first version that holds everything the source had at the start.
    pub(super) first_full: Option<Generation>,
    ready: watch::Sender<bool>,
    /// When the last version was published.
    published: Instant,
    /// When the oldest change not yet compiled arrived.
    arrived: Option<Instant>,
    /// Versions not yet taken by every worker.
    unprogrammed: VecDeque<Version>,
    /// Of which version the memory was measured last, and when.
    measured: Option<(Generation, Instant)>,
}

/// A published version of the tables.
struct Version {
    generation: Generation,
    /// When its oldest change arrived.
    arrived: Instant,
    /// What is to be told once every worker has it.
    outcomes: Batch,
}

impl Engine {
    pub(super) fn new(
        parts: Parts,
        assignments: Assignments,
        ledger: Ledger,
        ready: watch::Sender<bool>,
    ) -> Self {
        let mut compiler = Compiler::new(Settings::from(&parts.config), assignments);
        compiler.set_rss(Arc::clone(&parts.rss));
        compiler.set_network((**parts.network.borrow()).clone());
        if parts.election.is_some() {
            compiler.set_allocation(Allocation::Follow);
        }
        Self {
            parts,
            compiler,
            inquiry: Inquiry::default(),
            asked_again: None,
            sources: Vec::new(),
            bypassed: Bypassed::default(),
            ledger,
            synced: false,
            current: false,
            first_full: None,
            ready,
            published: Instant::now(),
            arrived: Some(Instant::now()),
            unprogrammed: VecDeque::new(),
            measured: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Request>,
        mut stop: watch::Receiver<bool>,
    ) -> Stopped {
        self.set_statics().await;
        let mut programmed = interval(PROGRAMMED_INTERVAL);
        programmed.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut housekeeping = interval(HOUSEKEEPING_INTERVAL);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut source_open = true;
        loop {
            let due = self.arrived.map(|arrived| arrived.max(self.published + COALESCE));
            let step = self.next_step().filter(|_| self.arrived.is_none());
            let inquiry_due = self.inquiry_due();
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                () = reached(due), if due.is_some() => self.publish().await,
                event = self.parts.source.recv(), if source_open => match event {
                    Some(event) => self.take(event),
                    None => source_open = false,
                },
                Ok(()) = self.parts.network.changed() => self.take_network(),
                Ok(()) = lead_changed(self.parts.election.as_mut()) => self.set_allocation(),
                Some(request) = inbox.recv() => self.serve(request).await,
                news = self.parts.probes.health.take() => self.take_health(news),
                () = reached(step), if step.is_some() => self.changed(),
                Some(bypass) = self.parts.bypasses.recv() => self.note_bypass(bypass),
                Some(heard) = self.parts.segments.heard.recv() => self.hear(heard),
                () = reached(inquiry_due), if inquiry_due.is_some() => self.inquire(),
                _ = programmed.tick(), if !self.unprogrammed.is_empty() => self.check_programmed(),
                _ = housekeeping.tick() => self.keep_house(),
            }
        }
        Stopped { publisher: self.parts.publisher, devices: self.parts.devices }
    }

    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => {
                changes.into_iter().for_each(|change| self.compiler.apply(change));
                self.changed();
            }
            SourceEvent::Status(sources) => {
                let broken = sources.iter().filter(|source| source.state == view::Source::BROKEN).count();
                self.parts.metrics.broken_files.set(broken as u64);
                self.sources = sources;
            }
            SourceEvent::Synced => {
                self.synced = true;
                self.changed();
            }
            SourceEvent::Stale => self.set_stale(true),
            SourceEvent::Current => {
                self.current = true;
                self.set_stale(false);
                self.set_allocation();
            }
        }
    }

    fn take_health(&mut self, news: BTreeMap<Probe, Health>) {
        self.compiler.note_health(news);
        if self.compiler.is_dirty() {
            self.changed();
        }
    }

    /// When the next step of a slow start is due.
    fn next_step(&self) -> Option<Instant> {
        let now_ms = now_ms();
        let due_ms = self.compiler.next_step_ms(now_ms)?;
        Some(Instant::now() + Duration::from_millis(due_ms.saturating_sub(now_ms) + 1))
    }

    /// Nothing is decided before all is known that was decided earlier.
    fn set_allocation(&mut self) {
        let Some(election) = &self.parts.election else { return };
        let leads = self.current && *election.leads.borrow();
        self.compiler.set_allocation(if leads { Allocation::Lead } else { Allocation::Follow });
        if self.compiler.is_dirty() {
            self.changed();
        }
    }

    fn take_network(&mut self) {
        let network = Arc::clone(&self.parts.network.borrow_and_update());
        self.compiler.set_network((*network).clone());
        if self.compiler.is_dirty() {
            self.changed();
        }
    }

    pub(super) fn changed(&mut self) {
        self.arrived.get_or_insert_with(Instant::now);
    }

    async fn publish(&mut self) {
        let Some(arrived) = self.arrived.take() else { return };
        let began = Instant::now();
        // What is there at the start begins with its whole share.
        let settled = *self.ready.borrow();
        self.compiler.set_time(settled.then(now_ms));
        let tables = self.compiler.compile();
        self.parts.probes.wanted.put(self.compiler.take_wanted_probes());
        self.parts.metrics.compiled_in(began.elapsed());
        self.parts.metrics.services.set(tables.services.len() as u64);
        self.parts.metrics.backends.set(tables.backends.len() as u64);
        self.ask_segments();
        self.save_assignments();
        let generation = tables.generation();
        self.parts.metrics.published.set(generation.0);
        self.parts.publisher.publish(tables);
        self.published = Instant::now();
        if let Some(checks) = self.compiler.take_health_checks() {
            self.parts.health_checks.send_replace(checks);
        }
        if self.synced && !self.compiler.is_asking() {
            self.first_full.get_or_insert(generation);
        }
        let outcomes = self.compiler.take_outcomes();
        self.parts.metrics.pools_changed(&outcomes.pools);
        self.unprogrammed.push_back(Version { generation, arrived, outcomes });
        tracing::debug!(%generation, compile_us = began.elapsed().as_micros(), "published");
        if self.compiler.take_rerouted() {
            self.tell_routes().await;
        }
    }

    /// The kernel shall keep the next hops resolved, and send to pods as the tables do.
    async fn tell_routes(&mut self) {
        if let Some(resolver) = &self.parts.resolver {
            resolver.pin(self.compiler.gateways().clone()).await;
        }
        if let Some(devices) = &mut self.parts.devices {
            devices.set_pod_routes(pod_routes(&self.compiler)).await;
        }
    }

    /// Before anybody is told of an address it is on disk; a disk that fails costs stability over a restart, not service.
    fn save_assignments(&mut self) {
        let changed = self.compiler.take_reassigned();
        if self.parts.election.is_some() {
            return;
        }
        if let Err(error) = self.ledger.save(changed, &self.compiler, &self.parts.state) {
            tracing::error!(
                %error,
                "addresses of Services cannot be written to the stateDir; after a restart they may change"
            );
        }
    }

    fn check_programmed(&mut self) {
        let programmed = self.parts.publisher.programmed();
        while let Some(version) = self.unprogrammed.pop_front_if(|version| version.generation <= programmed) {
            self.parts.metrics.programmed_after(version.arrived.elapsed());
            if let Some(election) = &self.parts.election {
                election.outcomes.put(version.outcomes);
            }
        }
        self.parts.metrics.programmed.set(programmed.0);
        if self.first_full.is_some_and(|first| first <= programmed) && !*self.ready.borrow() {
            tracing::info!(generation = %programmed, "ready: the first full state is programmed on every worker");
            self.ready.send_replace(true);
        }
    }

    fn keep_house(&mut self) {
        let kept = self.parts.publisher.reclaim();
        self.parts.metrics.kept.set(kept as u64);
        self.compiler.swept(self.parts.publisher.swept());
        self.bypassed.forget_gone(self.parts.publisher.newest(), &self.parts.metrics);
        self.measure();
    }

    /// Tells what the tables take, on a thread of its own: it is a look at every Service.
    fn measure(&mut self) {
        let tables = self.parts.publisher.newest();
        let is_due = self.measured.is_none_or(|(generation, at)| {
            generation != tables.generation() && at.elapsed() >= MEASURE_INTERVAL
        });
        if is_due {
            self.measured = Some((tables.generation(), Instant::now()));
            let (tables, metrics) = (Arc::clone(tables), self.parts.metrics.clone());
            tokio::task::spawn_blocking(move || metrics.takes(&Memory::of(&tables)));
        }
    }

    fn note_bypass(&mut self, bypass: Bypass) {
        let tables = self.parts.publisher.newest();
        let told = self.bypassed.note(bypass, tables, &self.parts.metrics, Instant::now());
        if let (Some(warning), Some(election)) = (told, &self.parts.election) {
            election.outcomes.put(Batch { warnings: [warning].into(), ..Batch::default() });
        }
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Look(see) => {
                let network = Arc::clone(&self.parts.network.borrow());
                see(&Look {
                    config: &self.parts.config,
                    tables: self.parts.publisher.newest(),
                    compiler: &self.compiler,
                    network: &network,
                    sources: &self.sources,
                    bypassed: &self.bypassed,
                    now: Instant::now(),
                    outcomes: self.parts.election.as_ref().map(|election| &*election.outcomes),
                });
            }
            Request::Reload(answer) => {
                let result = self.reload().await;
                // Whoever asked may have hung up; what was asked for is done.
                let _ = answer.send(result);
            }
        }
    }

    async fn reload(&mut self) -> Result<view::Reload, String> {
        let new = GatewayConfig::load(&self.parts.config_file).map_err(|refused| {
            tracing::error!(%refused, "the new configuration is refused; the running one stays in force");
            refused.to_string()
        })?;
        let (merged, reload) = reload::merge(&self.parts.config, &new);
        tracing::info!(applied = ?reload.applied, needs_restart = ?reload.needs_restart, "configuration read again");
        let timeouts = merged.forwarding.timeouts != self.parts.config.forwarding.timeouts;
        self.parts.config = merged;
        self.compiler.set_settings(Settings::from(&self.parts.config));
        if self.compiler.is_dirty() {
            self.changed();
        }
        self.set_statics().await;
        if timeouts {
            let timeouts = flow_timeouts(&self.parts.config.forwarding.timeouts);
            self.parts.workers.set_timeouts(timeouts).await.map_err(|error| error.to_string())?;
        }
        Ok(reload)
    }

    async fn set_statics(&mut self) {
        let config = &self.parts.config;
        let port = |name: &str| config.ports.iter().position(|port| port.name == name);
        let neighbors = config.neighbors.iter().filter_map(|neighbor| {
            let port = u16::try_from(port(&neighbor.port)?).ok()?;
            Some((port, neighbor.address, neighbor.mac))
        });
        let statics = Statics {
            // One next hop is enough for what the appliance itself sends.
            routes: config.routes.iter().filter_map(|route| Some((route.to, *route.via.first()?))).collect(),
            neighbors: neighbors.collect(),
        };
        if let Some(devices) = &mut self.parts.devices {
            devices.set_statics(statics).await;
        }
    }
}

/// Milliseconds since 1970; a clock before that is broken.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until a time. The timer counts in milliseconds and rounds up, so what is due already must not ask it.
async fn reached(due: Option<Instant>) {
    if let Some(due) = due.filter(|due| *due > Instant::now()) {
        sleep_until(due).await;
    }
}

/// Waits until another appliance leads, or this one; forever where there is no election.
async fn lead_changed(election: Option<&mut Election>) -> Result<(), watch::error::RecvError> {
    match election {
        Some(election) => election.leads.changed().await,
        None => std::future::pending().await,
    }
}

/// The routes in force that only Nodes tell of.
fn pod_routes(compiler: &Compiler) -> PodRoutes {
    let route = |(to, (way, origin)): (&Prefix, &(Way, Origin))| match (origin, way.hops().first()) {
        (Origin::Node, Some(hop)) => Some((IpNet::new(to.address(), to.length()).ok()?, *hop)),
        _ => None,
    };
    compiler.ways().iter().filter_map(route).collect()
}
