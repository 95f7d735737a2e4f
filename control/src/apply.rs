//! Changes in, tables out: the one owner of the compiler and of the publisher.
//!
//! It runs on a thread of its own, so that a long compilation delays nothing else. There is at most one version a
//! millisecond. What a change costs is measured from its arrival until every worker has it. Addresses
//! given to Services are written down before anybody is told of them. Not here: where changes come from.

mod ask;
mod bypass;
mod doubt;
mod engine;
mod ledger;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tables::Tables;
use tables::publish::Publisher;
use tables::rss::Rss;
use tables::tcp_state::Timeouts;
use tokio::sync::{mpsc, watch};

pub use ask::{Control, Ended, Look};

use crate::admin::view;
use crate::compile::HealthChecks;
use crate::config::GatewayConfig;
use crate::inquiry::Heard;
use crate::ipam::Assignments;
use crate::metrics::ControlMetrics;
use crate::mirror::{Bypass, Devices, Voice};
use crate::model::Change;
use crate::netlink::Resolver;
use crate::network::Network;
use crate::outcome::Outcomes;
use crate::probe::board::Board;
use crate::state_dir::StateDir;
use crate::workers::Workers;
use engine::Engine;
use ledger::Ledger;

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
    /// What comes until `Current` is the state of an earlier run.
    Stale,
    /// Everything that was there at the start has been reported.
    Synced,
    /// What was reported is what the API server has, not only what it had at the last run.
    Current,
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
    /// How workers share packets, as the ports were told.
    pub rss: Arc<Rss>,
    /// Asks the kernel for next hops; none without a mirror.
    pub resolver: Option<Resolver>,
    /// The mirror's devices; none without a mirror.
    pub devices: Option<Devices>,
    /// The ports' segments, for questions of who has an address.
    pub segments: Segments,
    /// Services whose replies take another way, as workers tell.
    pub bypasses: mpsc::Receiver<Bypass>,
    /// Where healthCheckNodePorts are told of.
    pub health_checks: watch::Sender<HealthChecks>,
    /// Which backends are to be asked whether they serve, and what came of it.
    pub probes: Arc<Board>,
    /// What survives a restart.
    pub state: Arc<StateDir>,
    /// Counters and commands.
    pub workers: Workers,
    /// What is measured.
    pub metrics: ControlMetrics,
    /// Where addresses are decided together with other appliances; none: this one decides alone.
    pub election: Option<Election>,
}

/// The ports' segments, spoken on and heard.
pub struct Segments {
    /// Speaks.
    pub voice: Voice,
    /// What hosts say of their addresses, while the voice listens.
    pub heard: mpsc::Receiver<Heard>,
}

/// One of several appliances decides about addresses and writes them down for the others.
pub struct Election {
    /// Whether it is this one.
    pub leads: watch::Receiver<bool>,
    /// Where decisions go once every worker has them.
    pub outcomes: Arc<Outcomes>,
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
        // Where a status is written, it is the memory: a file of one appliance could only contradict it.
        let saved = if parts.election.is_none() { parts.state.read(ASSIGNMENTS)? } else { None };
        let saved = saved.unwrap_or_default();
        let saved = String::from_utf8(saved).map_err(|error| ApplyError::Assignments(error.to_string()))?;
        let assignments = Assignments::from_text(&saved).map_err(ApplyError::Assignments)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let (ready, is_ready) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let state = Engine::new(parts, assignments, Ledger::of(&saved), ready);
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
