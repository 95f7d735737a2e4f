//! Changes in, tables out: the one owner of the compiler and of the publisher.
//!
//! It runs on a thread of its own, so that a long compilation delays nothing else. There is at most one version a
//! millisecond. What a change costs is measured from its arrival until every worker has it. Addresses
//! given to Services are written down before anybody is told of them. Not here: where changes come from.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnet::IpNet;
use tables::publish::{Published, Publisher};
use tables::tcp_state::Timeouts;
use tables::{Generation, Prefix, Tables};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::admin::view;
use crate::compile::{Compiler, Origin, Settings, Way};
use crate::config::GatewayConfig;
use crate::ipam::Assignments;
use crate::metrics::ControlMetrics;
use crate::mirror::{Devices, PodRoutes, Statics};
use crate::model::Change;
use crate::netlink::Resolver;
use crate::network::Network;
use crate::reload;
use crate::state_dir::StateDir;
use crate::workers::Workers;

/// Between two versions: a lone change is compiled at once, those that arrive within this time after it together.
const COALESCE: Duration = Duration::from_millis(1);
/// Between two looks at whether every worker has taken a version.
const PROGRAMMED_INTERVAL: Duration = Duration::from_millis(1);
/// Between two rounds of housekeeping: old versions, slots.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(250);
/// Questions that may wait.
const REQUESTS_MAX: usize = 64;
/// The file in the state directory that keeps which Service has which address.
pub(crate) const ASSIGNMENTS: &str = "addresses";

/// What a source of cluster state reports.
#[derive(Debug)]
pub enum SourceEvent {
    /// Objects that appeared, changed or went.
    Changes(Vec<Change>),
    /// How each part of the source is.
    Status(Vec<view::Source>),
    /// Everything that was there at the start has been reported.
    Synced,
}

/// Everything the applier works with.
pub struct Parts {
    /// The running configuration.
    pub config: GatewayConfig,
    /// Its file, read again by a reload.
    pub config_file: PathBuf,
    /// The mailboxes.
    pub publisher: Publisher<Tables>,
    /// Cluster state.
    pub source: mpsc::Receiver<SourceEvent>,
    /// Ports, kernel routes and neighbours.
    pub network: watch::Receiver<Arc<Network>>,
    /// Asks the kernel for next hops; none without a mirror.
    pub resolver: Option<Resolver>,
    /// The mirror's devices; none without a mirror.
    pub devices: Option<Devices>,
    /// What survives a restart.
    pub state: Arc<StateDir>,
    /// Counters and commands.
    pub workers: Workers,
    /// What is measured.
    pub metrics: ControlMetrics,
}

/// Why the applier did not start.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The file of addresses is damaged: going on would move Services to other addresses.
    #[error(
        "{ASSIGNMENTS} in the stateDir is damaged: {0}; correct it, or remove it to give every Service a fresh address"
    )]
    Assignments(String),
    /// No thread or runtime.
    #[error("cannot start the control thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Asks the applier; cheap to clone.
#[derive(Clone)]
pub struct Control {
    requests: mpsc::Sender<Request>,
}

/// The applier has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the appliance is shutting down")]
pub struct Ended;

/// What may be looked at between two changes.
pub struct Look<'a> {
    /// The configuration in force.
    pub config: &'a GatewayConfig,
    /// The tables published last.
    pub tables: &'a Tables,
    /// Services, pools and the model.
    pub compiler: &'a Compiler,
    /// Ports, kernel routes and neighbours.
    pub network: &'a Network,
    /// How the sources are.
    pub sources: &'a [view::Source],
}

type See = Box<dyn FnOnce(&Look<'_>) + Send>;

enum Request {
    Look(See),
    Reload(oneshot::Sender<Result<view::Reload, String>>),
}

impl Control {
    /// Looks at the state in force. `see` runs on the applier's thread: make it short.
    ///
    /// # Errors
    /// When the applier has ended.
    pub async fn look<T: Send + 'static>(
        &self,
        see: impl FnOnce(&Look<'_>) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let (answer, seen) = oneshot::channel();
        // Nobody waits any more when the answer cannot be sent.
        let see: See = Box::new(move |look| drop(answer.send(see(look))));
        self.requests.send(Request::Look(see)).await.map_err(|_| Ended)?;
        seen.await.map_err(|_| Ended)
    }

    /// Reads the configuration again and brings what can change into force.
    ///
    /// # Errors
    /// Every fault of the new configuration, a line each; the running one stays.
    pub async fn reload(&self) -> Result<view::Reload, String> {
        let (answer, done) = oneshot::channel();
        self.requests.send(Request::Reload(answer)).await.map_err(|_| Ended.to_string())?;
        done.await.map_err(|_| Ended.to_string())?
    }
}

/// The running applier. It ends when every [`Control`] and the source are dropped, or [`Applier::stop`] is called.
pub struct Applier {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Stopped>,
}

/// What outlives the applier: drop it after the workers have ended.
pub struct Stopped {
    /// The mailboxes with every version still held.
    pub publisher: Publisher<Tables>,
    /// The mirror's devices.
    pub devices: Option<Devices>,
}

impl Applier {
    /// Starts the thread. The second value turns true once the first full state is programmed on every worker.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn start(parts: Parts) -> Result<(Self, Control, watch::Receiver<bool>), ApplyError> {
        let saved = parts.state.read(ASSIGNMENTS)?.unwrap_or_default();
        let saved = String::from_utf8(saved).map_err(|error| ApplyError::Assignments(error.to_string()))?;
        let assignments = Assignments::from_text(&saved).map_err(ApplyError::Assignments)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let (ready, is_ready) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let state = Engine::new(parts, assignments, saved, ready);
        let thread = thread::Builder::new()
            .name("fairlead-apply".into())
            .spawn(move || runtime.block_on(state.run(inbox, stopped)))?;
        Ok((Self { stop, thread }, Control { requests }, is_ready))
    }

    /// Ends the applier; the last published tables stay in force.
    ///
    /// # Errors
    /// When its thread has panicked.
    pub fn stop(self) -> thread::Result<Stopped> {
        self.stop.send_replace(true);
        self.thread.join()
    }
}

struct Engine {
    parts: Parts,
    compiler: Compiler,
    sources: Vec<view::Source>,
    /// What the file of addresses holds.
    saved: String,
    synced: bool,
    /// The first version that holds everything the source had at the start.
    first_full: Option<Generation>,
    ready: watch::Sender<bool>,
    /// When the last version was published.
    published: Instant,
    /// When the oldest change not yet compiled arrived.
    arrived: Option<Instant>,
    /// Versions not yet taken by every worker, with the arrival of their oldest change.
    unprogrammed: VecDeque<(Generation, Instant)>,
}

impl Engine {
    fn new(parts: Parts, assignments: Assignments, saved: String, ready: watch::Sender<bool>) -> Self {
        let mut compiler = Compiler::new(Settings::from(&parts.config), assignments);
        compiler.set_network((**parts.network.borrow()).clone());
        Self {
            parts,
            compiler,
            sources: Vec::new(),
            saved,
            synced: false,
            first_full: None,
            ready,
            published: Instant::now(),
            arrived: Some(Instant::now()),
            unprogrammed: VecDeque::new(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, mut stop: watch::Receiver<bool>) -> Stopped {
        self.set_statics().await;
        let mut programmed = interval(PROGRAMMED_INTERVAL);
        programmed.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut housekeeping = interval(HOUSEKEEPING_INTERVAL);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut source_open = true;
        loop {
            let due = self.arrived.map(|arrived| arrived.max(self.published + COALESCE));
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.publish().await,
                event = self.parts.source.recv(), if source_open => match event {
                    Some(event) => self.take(event),
                    None => source_open = false,
                },
                Ok(()) = self.parts.network.changed() => self.take_network(),
                Some(request) = inbox.recv() => self.serve(request).await,
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
        }
    }

    fn take_network(&mut self) {
        let network = Arc::clone(&self.parts.network.borrow_and_update());
        self.compiler.set_network((*network).clone());
        if self.compiler.is_dirty() {
            self.changed();
        }
    }

    fn changed(&mut self) {
        self.arrived.get_or_insert_with(Instant::now);
    }

    async fn publish(&mut self) {
        let Some(arrived) = self.arrived.take() else { return };
        let began = Instant::now();
        let tables = self.compiler.compile();
        self.parts.metrics.compiled_in(began.elapsed());
        self.parts.metrics.services.set(tables.services.len() as u64);
        self.parts.metrics.backends.set(tables.backends.len() as u64);
        self.save_assignments();
        let generation = tables.generation();
        self.parts.metrics.published.set(generation.0);
        self.parts.publisher.publish(tables);
        self.published = Instant::now();
        if self.synced {
            self.first_full.get_or_insert(generation);
        }
        self.unprogrammed.push_back((generation, arrived));
        tracing::debug!(%generation, compile_us = began.elapsed().as_micros(), "published");
        if let Some(resolver) = &self.parts.resolver {
            resolver.pin(self.compiler.gateways().clone()).await;
        }
        if let Some(devices) = &mut self.parts.devices {
            devices.set_pod_routes(pod_routes(&self.compiler)).await;
        }
    }

    /// Before anybody is told of an address it is on disk; a disk that fails costs stability over a restart, not service.
    fn save_assignments(&mut self) {
        let text = self.compiler.assignments().to_text();
        if text == self.saved {
            return;
        }
        match self.parts.state.write(ASSIGNMENTS, text.as_bytes()) {
            Ok(()) => self.saved = text,
            Err(error) => tracing::error!(
                %error,
                "addresses of Services cannot be written to the stateDir; after a restart they may change"
            ),
        }
    }

    fn check_programmed(&mut self) {
        let programmed = self.parts.publisher.programmed();
        while let Some((generation, arrived)) = self.unprogrammed.front().copied()
            && generation <= programmed
        {
            self.parts.metrics.programmed_after(arrived.elapsed());
            self.unprogrammed.pop_front();
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
            routes: config.routes.iter().map(|route| (route.to, route.via)).collect(),
            neighbors: neighbors.collect(),
        };
        if let Some(devices) = &mut self.parts.devices {
            devices.set_statics(statics).await;
        }
    }
}

/// The routes in force that only Nodes tell of.
fn pod_routes(compiler: &Compiler) -> PodRoutes {
    let route = |(to, (way, origin)): (&Prefix, &(Way, Origin))| match (origin, way) {
        (Origin::Node, Way::Via(port, gateway)) => {
            Some((IpNet::new(to.address(), to.length()).ok()?, (*port, *gateway)))
        }
        _ => None,
    };
    compiler.ways().iter().filter_map(route).collect()
}

/// The configuration's timeouts as the flow table counts them.
#[must_use]
pub fn flow_timeouts(timeouts: &crate::config::Timeouts) -> Timeouts {
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    Timeouts {
        tcp_established_ms: ms(timeouts.tcp_established),
        tcp_transient_ms: ms(timeouts.tcp_transient),
        udp_ms: ms(timeouts.udp),
        udp_stream_ms: ms(timeouts.udp_stream),
        sctp_ms: ms(timeouts.sctp),
    }
}
