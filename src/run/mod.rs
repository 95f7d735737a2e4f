//! `fairlead run`: the appliance, from its configuration to its end.
//!
//! Everything that can be refused is refused before the first packet, in one sentence. The order matters: threads inherit
//! the affinity of their parent, so the control threads are confined before they exist; tables outlive workers, so that
//! nothing is freed on a packet core; the kernel's settings are put back last.

mod cores;
#[cfg_attr(feature = "dpdk", path = "engine/dpdk.rs")]
#[cfg_attr(not(feature = "dpdk"), path = "engine/none.rs")]
mod engine;
mod notify;
mod rig;
mod source;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use control::admin::{
    self,
    server::{Admin, bind},
};
use control::apply::{Applier, Control, Election, Parts};
use control::compile::HealthChecks;
use control::config::GatewayConfig;
use control::http::{self, Health};
use control::kube::{self, KubernetesCollector, LeaseName, Writing};
use control::metrics::Metrics;
use control::mirror::PortRange;
use control::probe::{self, board::Board};
use control::service_health;
use control::state_dir::StateDir;
use control::workers::Layout;
use tables::Tables;
use tables::rss::Rss;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::engine::Engine;
use self::rig::{Rig, Sharing};
use crate::cli::RunArgs;
use crate::explain;

/// Threads of the control runtime: they wait more than they work.
const CONTROL_THREADS: usize = 2;

/// Runs the appliance until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting, in one sentence (faults of the configuration: a line each).
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let file = &args.config;
    let config = GatewayConfig::load(file).map_err(|refused| anyhow!("{refused}"))?;
    log_to_stderr();
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    let cores = cores::plan(&config)?;
    // A key that is new at every start: nobody outside can aim at one of several workers.
    let rss = Arc::new(Rss::of_secret(RandomState::new().hash_one("rss")));
    let engine = Engine::open(&config, &cores, &rss)?;
    cores.confine_control().context("cannot confine the control threads to their cores")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("fairlead-control")
        .enable_all()
        .build()
        .context("cannot start the control threads")?;
    let layout = Arc::new(Layout { cores: cores.of_workers(), spread: engine.spread().to_vec() });
    let sharing = Sharing { rss, layout, idle: cores.idle(&config) };
    runtime.block_on(serve(config, file, state, engine, sharing))
}

fn log_to_stderr() {
    use std::io::IsTerminal;
    // The API client's library writes a line for every failed request; what fails is told once, by who asked.
    let filter = tracing_subscriber::EnvFilter::try_from_env("FAIRLEAD_LOG")
        .unwrap_or_else(|_| "info,kube_client=off".into());
    let stderr = std::io::stderr;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .init();
}

/// Brings everything up, waits for the end, takes everything down.
async fn serve(
    config: GatewayConfig,
    file: &Path,
    state: Arc<StateDir>,
    engine: Engine,
    sharing: Sharing,
) -> Result<()> {
    let signals = Signals::new()?;
    let admin_socket = bind(&config.admin.socket)
        .with_context(|| format!("cannot listen on admin.socket {}", config.admin.socket.display()))?;
    let _socket_file = SocketFile(config.admin.socket.clone());
    let metrics_socket = TcpListener::bind(config.metrics.listen)
        .await
        .with_context(|| format!("cannot listen on metrics.listen {}", config.metrics.listen))?;
    let source = source::follow(&config, &state)?;
    let mirrored = config.ports.iter().any(|port| port.tap);
    let range = if mirrored {
        PortRange::narrow(&state).map(Some)
    } else {
        PortRange::recover(&state).map(|()| None)
    };
    let range = range.context("cannot set net.ipv4.ip_local_port_range")?;
    let result = async {
        let rig = Rig::assemble(&config, engine, sharing).await?;
        appliance(config, file, &state, rig, source, (admin_socket, metrics_socket), signals).await
    }
    .await;
    if let Some(range) = range {
        range.restore(&state).context("cannot put net.ipv4.ip_local_port_range back")?;
    }
    result
}

/// The admin socket's file: gone with whoever listened on it, since a socket nobody listens on would only confuse.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; nobody needs it any more.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn appliance(
    config: GatewayConfig,
    file: &Path,
    state: &Arc<StateDir>,
    rig: Rig,
    source: source::Followed,
    (admin_socket, metrics_socket): (tokio::net::UnixListener, TcpListener),
    signals: Signals,
) -> Result<()> {
    let names = config.ports.iter().map(|port| port.name.clone()).collect();
    let pump = rig.pump.counters();
    let mut metrics = Metrics::new(rig.workers.counters(), names, Some(Arc::clone(pump)));
    let (election, writing) = match source.api {
        Some(api) => {
            take_part(api, &config, state, &mut metrics).map(|(one, other)| (Some(one), Some(other)))?
        }
        None => (None, None),
    };
    let (probes, probe_metrics) = (Arc::new(Board::default()), metrics.add_prober());
    let metrics = Arc::new(metrics);
    let (health_checks, wanted_checks) = watch::channel(HealthChecks::default());
    let service_metrics = metrics.control.clone();
    let parts = Parts {
        config,
        config_file: file.to_owned(),
        publisher: rig.publisher,
        source: source.events,
        network: rig.network,
        rss: rig.sharing.rss,
        resolver: rig.resolver,
        devices: rig.devices,
        segments: rig.segments,
        bypasses: rig.bypasses,
        health_checks,
        probes: Arc::clone(&probes),
        state: Arc::clone(state),
        workers: rig.workers.clone(),
        metrics: metrics.control.clone(),
        election,
    };
    let (applier, control, ready) = Applier::start(parts)?;
    let health = Arc::new(Health::new(rig.workers.clone(), ready.clone()));
    let admin = Admin {
        control: control.clone(),
        workers: rig.workers,
        layout: rig.sharing.layout,
        captures: rig.captures,
        tracer: Arc::new(trace),
    };
    let servers = [
        tokio::spawn(admin::server::serve(admin_socket, admin)),
        tokio::spawn(http::serve(metrics_socket, metrics, Arc::clone(&health))),
        tokio::spawn(service_health::serve(wanted_checks, Arc::clone(&health), service_metrics)),
        tokio::spawn(probe::run(probes, probe_metrics)),
        tokio::spawn(notify::watchdog(health)),
    ];
    let ended = until_the_end(signals, &control, ready, rig.running.ended()).await;
    notify::stopping();
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    // While there are workers the API server can be reached: the way to it may be through our own ports.
    if let Some(writing) = writing {
        writing.end().await;
    }
    // Workers before the applier: they hold tables, which are freed here and not on their cores.
    let joined = rig.running.stop();
    drop(rig.pump);
    let stopped = applier.stop().map_err(|_| anyhow!("the control thread had failed"))?;
    drop(stopped);
    // A worker that ended by itself says why.
    joined.and(ended)
}

/// Decides about addresses together with the other appliances on this API server.
fn take_part(
    api: source::Api,
    config: &GatewayConfig,
    state: &StateDir,
    metrics: &mut Metrics,
) -> Result<(Election, Writing)> {
    metrics.add(Box::new(KubernetesCollector(api.counters)));
    let lease = &config.kubernetes.lease;
    let lease = LeaseName {
        namespace: lease.namespace.clone(),
        name: lease.name.clone(),
        identity: kube::identity(state).context("cannot keep a name of our own in the stateDir")?,
    };
    Ok(kube::write(api.server, lease, metrics.add_writer()))
}

/// Answers `fairlead trace --live`: one question, or a list of them.
fn trace(tables: &Tables, asked: serde_json::Value) -> Result<serde_json::Value, String> {
    let one = |question| {
        let question =
            serde_json::from_value(question).map_err(|error| format!("not a trace question: {error}"))?;
        serde_json::to_value(explain::answer(tables, &question)?).map_err(|error| error.to_string())
    };
    match asked {
        serde_json::Value::Array(questions) => questions.into_iter().map(one).collect(),
        question => one(question),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let take = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
        })
    }
}

/// Tells systemd when ready, reloads on SIGHUP; returns on SIGTERM or SIGINT, or with an error when a worker ends.
async fn until_the_end(
    mut signals: Signals,
    control: &Control,
    mut ready: watch::Receiver<bool>,
    worker_ended: impl Future<Output = ()>,
) -> Result<()> {
    let mut told = false;
    tokio::pin!(worker_ended);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                notify::reloading();
                // Refusals and what waits for a restart are in the log.
                let _ = control.reload().await;
                notify::ready();
            }
            Ok(_) = ready.wait_for(|ready| *ready), if !told => {
                told = true;
                notify::ready();
            }
            () = &mut worker_ended => return Err(anyhow!("a worker ended by itself")),
        }
    }
    tracing::info!("stopping");
    Ok(())
}
