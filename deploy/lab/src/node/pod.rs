//! One pod on this node, from the moment it is bound to it until its object is gone: network, containers, status,
//! orderly end. Invariant: when [`run`] returns, nothing of the pod is left on the node.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use super::board::{Board, Phase, State};
use super::container::{Deadline, Policy, Task};
use super::host::Host;
use super::status::{Conditions, Known, patch};
use super::volume::Volumes;
use crate::netns::{self, Namespace};

/// Wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(300);

/// What the API server says about a pod.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The object as it is now.
    Object(Arc<Pod>),
    /// There is no such object any more.
    Gone,
}

impl Wanted {
    /// Seconds that the pod has to end, once it shall.
    fn grace(&self) -> Option<u64> {
        match self {
            Self::Object(pod) => {
                let meta = &pod.metadata;
                meta.deletion_timestamp.as_ref()?;
                Some(meta.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30))
            }
            Self::Gone => Some(0),
        }
    }
}

/// Runs a pod to its end.
pub(super) async fn run(host: Arc<Host>, pod: Arc<Pod>, mut wanted: watch::Receiver<Wanted>) {
    let api: Api<Pod> =
        Api::namespaced(host.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"));
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let board = Arc::new(Board::new(spec.map_or(0, |spec| spec.containers.len())));
    let (latest, writer) = status_writer(api.clone(), name.clone());
    let mut reporter = Reporter {
        host: &host,
        pod: &pod,
        board: &board,
        addresses: Vec::new(),
        started: Timestamp::now(),
        conditions: Conditions::default(),
        latest,
    };
    if let Some(sandbox) = sandbox(&host, &pod, &mut reporter, &mut wanted).await {
        reporter.addresses = sandbox.addresses.to_vec();
        live(&mut reporter, &sandbox, &mut wanted).await;
        if let Err(error) = sandbox.remove(&host).await {
            eprintln!("pod {name}: {error:#}");
        }
    }
    drop(reporter);
    finish(&api, &pod, writer, &mut wanted).await;
}

/// Makes the pod's network, again and again; `None` when the pod has to go before it succeeds.
async fn sandbox(
    host: &Arc<Host>,
    pod: &Arc<Pod>,
    reporter: &mut Reporter<'_>,
    wanted: &mut watch::Receiver<Wanted>,
) -> Option<Sandbox> {
    while wanted.borrow().grace().is_none() {
        match Sandbox::create(host, pod).await {
            Ok(sandbox) => return Some(sandbox),
            Err(error) => {
                let message = format!("{error:#}");
                eprintln!("pod {}: {message}", pod.metadata.name.as_deref().unwrap_or_default());
                let phase = Phase::Waiting { reason: "CreatePodSandboxError", message };
                for index in 0..reporter.board.read().len() {
                    reporter.board.update(index, |state| state.phase = phase.clone());
                }
                reporter.report();
                sleep(AGAIN).await;
            }
        }
    }
    None
}

/// Runs the containers until all have ended and the pod has to go.
async fn live(reporter: &mut Reporter<'_>, sandbox: &Sandbox, wanted: &mut watch::Receiver<Wanted>) {
    let (deadline, seen) = watch::channel(None);
    // Ends with this function.
    let mut keeper = JoinSet::new();
    keeper.spawn(sandbox.volumes.clone().keep());
    let mut tasks = JoinSet::new();
    for task in containers(reporter, sandbox, &seen) {
        tasks.spawn(task.run());
    }
    loop {
        reporter.report();
        let ending = deadline.borrow().is_some();
        if ending && tasks.is_empty() {
            return;
        }
        let board = reporter.board;
        tokio::select! {
            () = board.changed() => {}
            Some(_) = tasks.join_next() => {}
            changed = wanted.changed() => {
                // Without the node's loop nobody would ever say that the pod may go.
                let grace = if changed.is_err() { Some(0) } else { wanted.borrow_and_update().grace() };
                if let Some(grace) = grace {
                    shorten(&deadline, Instant::now() + Duration::from_secs(grace));
                }
            }
        }
    }
}

/// A deadline only ever moves forward: a second deletion may ask for less time, not for more.
fn shorten(deadline: &watch::Sender<Deadline>, to: Instant) {
    deadline.send_if_modified(|now| {
        let sooner = now.is_none_or(|now| to < now);
        if sooner {
            *now = Some(to);
        }
        sooner
    });
}

fn containers(reporter: &Reporter<'_>, sandbox: &Sandbox, deadline: &watch::Receiver<Deadline>) -> Vec<Task> {
    let Some(spec) = reporter.pod.spec.as_ref() else { return Vec::new() };
    let task = |(index, container): (usize, &k8s_openapi::api::core::v1::Container)| Task {
        index,
        spec: container.clone(),
        pod: reporter.pod.metadata.name.clone().unwrap_or_default(),
        namespace: Arc::clone(&sandbox.namespace),
        address: sandbox.addresses[0],
        pod_dir: sandbox.dir.clone(),
        policy: Policy::parse(spec.restart_policy.as_deref()),
        board: Arc::clone(reporter.board),
        deadline: deadline.clone(),
    };
    spec.containers.iter().enumerate().map(task).collect()
}

/// Tells the API server that the pod has ended, so that its object goes.
async fn finish(api: &Api<Pod>, pod: &Pod, writer: JoinHandle<()>, wanted: &mut watch::Receiver<Wanted>) {
    let gone = async {
        let _ = wanted.wait_for(|wanted| matches!(wanted, Wanted::Gone)).await;
    };
    let delete = async {
        // The last status first: whoever watches learns how it ended.
        let _ = writer.await;
        let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() }.grace_period(0);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        while let Err(error) = api.delete(name, &params).await {
            if matches!(&error, kube::Error::Api(status) if [404, 409].contains(&status.code)) {
                return;
            }
            sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = gone => {}
        () = delete => {}
    }
}

/// Writes the newest status, again until it is taken. Ends after the last one, once its sender is dropped.
fn status_writer(api: Api<Pod>, name: String) -> (watch::Sender<Value>, JoinHandle<()>) {
    let (latest, mut seen) = watch::channel(Value::Null);
    seen.borrow_and_update();
    let writer = tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            loop {
                let status = seen.borrow_and_update().clone();
                match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await {
                    Ok(_) => break,
                    // Gone, or another pod has the name now.
                    Err(kube::Error::Api(refused)) if [404, 409].contains(&refused.code) => return,
                    Err(error) => {
                        eprintln!("status of {name}: {error}");
                        sleep(AGAIN).await;
                    }
                }
            }
        }
    });
    (latest, writer)
}

/// Everything that goes into the pod's status.
struct Reporter<'a> {
    host: &'a Host,
    pod: &'a Pod,
    board: &'a Arc<Board>,
    addresses: Vec<IpAddr>,
    started: Timestamp,
    conditions: Conditions,
    latest: watch::Sender<Value>,
}

impl Reporter<'_> {
    fn report(&mut self) {
        let containers: Vec<State> = self.board.read();
        let known = Known {
            pod: self.pod,
            containers: &containers,
            addresses: &self.addresses,
            hosts: &self.host.addresses,
            started: self.started,
        };
        let status = patch(&known, &mut self.conditions, Timestamp::now());
        self.latest.send_if_modified(|latest| {
            let changed = *latest != status;
            *latest = status;
            changed
        });
    }
}

/// A pod's network namespace and files.
struct Sandbox {
    namespace: Arc<Namespace>,
    number: u8,
    /// IPv4, then IPv6.
    addresses: [IpAddr; 2],
    dir: PathBuf,
    volumes: Volumes,
}

impl Sandbox {
    async fn create(host: &Arc<Host>, pod: &Arc<Pod>) -> Result<Self> {
        let name = pod.metadata.name.as_deref().context("a pod without a name")?;
        let space = pod.metadata.namespace.as_deref().unwrap_or("default");
        let dir = host.dir.join("pods").join(space).join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let volumes = Volumes::new(host, pod, &dir);
        volumes.write().await?;
        let (host, host_name) = (Arc::clone(host), format!("{}-{space}-{name}", host.name));
        let made = spawn_blocking(move || {
            let number = host.take_number()?;
            Self::connect(&host, &host_name, number).inspect_err(|_| host.free_number(number))
        });
        let (namespace, number, addresses) = made.await??;
        Ok(Self { namespace: Arc::new(namespace), number, addresses, dir, volumes })
    }

    fn connect(host: &Host, name: &str, number: u8) -> Result<(Namespace, u8, [IpAddr; 2])> {
        let namespace = Namespace::create(&host.lab, name)?;
        host.net.plug(&host.namespace, &namespace, number)?;
        let (v4, v6) = host.net.addresses(number);
        Ok((namespace, number, [v4.into(), v6.into()]))
    }

    /// Ends what still runs in it and takes it down.
    async fn remove(self, host: &Arc<Host>) -> Result<()> {
        let host = Arc::clone(host);
        let work = spawn_blocking(move || {
            let ended = netns::kill_all(self.namespace.name());
            // The kernel takes a namespace down when it has time; the cable's name must be free at once.
            let cable = host.net.unplug(&host.namespace, self.number);
            drop(self.namespace);
            host.free_number(self.number);
            ended.and(cable)
        });
        timeout(Duration::from_secs(20), work).await??
    }
}
