//! The node's program: registers the Node, renews its Lease, keeps the ways to the other nodes' pods, and gives each pod
//! that the scheduler binds to it a task. It lives in the node's network namespace.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::addresses::Addresses;
use super::host::Host;
use super::pod::{self, Wanted};
use super::status::time;
use super::{NodeOptions, READY_FILE};
use crate::netns::{self, Namespace};
use crate::podnet::PodNet;

/// How often the Lease is renewed. The kubelet's default is 10 s; here a lost node is noticed after
/// [`NODE_GRACE_S`](crate::controlplane::NODE_GRACE_S).
const RENEW: Duration = Duration::from_secs(1);
/// Wait before a request that failed is sent again.
const AGAIN: Duration = Duration::from_millis(500);
/// Longest wait for the controllers to give the node its pod ranges.
const RANGES: Duration = Duration::from_secs(60);
/// Field manager of what the node applies.
const MANAGER: &str = "lab-node";

/// Runs until SIGTERM.
pub(super) async fn run(options: NodeOptions) -> Result<()> {
    let mut ended = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = serve(&options) => outcome,
        _ = ended.recv() => {
            clear(&options)?;
            Ok(())
        }
    }
}

/// Takes down what pods are there: nothing of an earlier run is adopted.
fn clear(options: &NodeOptions) -> Result<()> {
    for namespace in netns::existing(&format!("{}-{}", options.lab, options.name))? {
        netns::kill_all(&namespace)?;
        netns::delete(&namespace)?;
    }
    Ok(())
}

async fn serve(options: &NodeOptions) -> Result<()> {
    clear(options)?;
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    register(&client, options).await;
    let net = timeout(RANGES, ranges(&client, &options.name)).await.context("the node got no podCIDRs")??;
    let namespace = Namespace::attach(&options.lab, &options.name);
    if !namespace.has_device("cni0") {
        net.bridge(&namespace)?;
    }
    let host = Arc::new(Host {
        name: options.name.clone(),
        lab: options.lab.clone(),
        addresses: options.addresses.clone(),
        namespace,
        net,
        dir: options.dir.clone(),
        client,
        numbers: Mutex::new(Addresses::default()),
    });
    let (lease, routes, pods) = (renew(&host), routes(&host), Pods::new(&host).follow());
    tokio::select! {
        () = lease => bail!("the Lease is no longer renewed"),
        () = routes => bail!("Nodes are no longer watched"),
        () = pods => bail!("Pods are no longer watched"),
    }
}

/// The Node object, with the conditions of a healthy one. Tries until the API server takes it.
async fn register(client: &Client, options: &NodeOptions) {
    let nodes: Api<Node> = Api::all(client.clone());
    let (node, status) = node_object(options, &time(Timestamp::now()));
    let apply = PatchParams::apply(MANAGER).force();
    insist("register the Node", || async {
        nodes.patch(&options.name, &apply, &Patch::Apply(&node)).await?;
        // Not applied and not strategic: by their schema there is one address of a type, and we have two InternalIPs.
        nodes.patch_status(&options.name, &PatchParams::default(), &Patch::Merge(&status)).await
    })
    .await;
}

fn node_object(options: &NodeOptions, now: &str) -> (Value, Value) {
    let head = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let mut node = head(&options.name);
    let mut labels = json!({"kubernetes.io/hostname": options.name, "kubernetes.io/os": "linux"});
    for (key, value) in &options.labels {
        labels[key] = json!(value);
    }
    node["metadata"]["labels"] = labels;
    let condition = |name: &str, value: &str, reason: &str| {
        json!({"type": name, "status": value, "reason": reason, "message": "lab node",
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let resources = json!({"cpu": "64", "memory": "256Gi", "pods": "200"});
    let mut addresses: Vec<Value> =
        options.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    addresses.push(json!({"type": "Hostname", "address": options.name}));
    let mut status = head(&options.name);
    status["status"] = json!({
        "addresses": addresses, "capacity": resources, "allocatable": resources,
        "conditions": [
            condition("Ready", "True", "KubeletReady"),
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        ],
    });
    (node, status)
}

async fn ranges(client: &Client, name: &str) -> Result<PodNet> {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        let cidrs = nodes.get(name).await.ok().and_then(|node| node.spec?.pod_cidrs);
        match cidrs {
            Some(cidrs) if cidrs.len() == 2 => return PodNet::parse(&cidrs),
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Renews the Lease for ever, and says again that the node is ready: while it was silent the controllers said otherwise.
async fn renew(host: &Host) {
    let leases: Api<Lease> = Api::namespaced(host.client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(host.client.clone());
    let apply = PatchParams::apply(MANAGER).force();
    loop {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": host.name},
            "spec": {"holderIdentity": host.name, "leaseDurationSeconds": 40, "renewTime": micro(Timestamp::now())},
        });
        insist("renew the Lease", || async { leases.patch(&host.name, &apply, &Patch::Apply(&lease)).await })
            .await;
        if nodes.get(&host.name).await.is_ok_and(|node| !says_ready(&node)) {
            let now = time(Timestamp::now());
            let ready = json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "lab node",
                 "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
            let patch = PatchParams::default();
            insist("report the Node ready", || async {
                nodes.patch_status(&host.name, &patch, &Patch::Strategic(&ready)).await
            })
            .await;
        }
        sleep(RENEW).await;
    }
}

fn says_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Keeps a route to the pods of every other node.
async fn routes(host: &Host) {
    let events = watch_all(Api::<Node>::all(host.client.clone()), watcher::Config::default());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let (Event::Apply(node) | Event::InitApply(node)) = event else { continue };
        if node.name_any() == host.name {
            continue;
        }
        if let Err(error) = route(host, &node) {
            eprintln!("route to the pods of {}: {error:#}", node.name_any());
        }
    }
}

fn route(host: &Host, node: &Node) -> Result<()> {
    let cidrs = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    if cidrs.len() < 2 {
        return Ok(());
    }
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let via: Vec<IpAddr> = addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect();
    PodNet::parse(&cidrs)?.route(&host.namespace, &via)
}

/// The tasks of the pods that are bound to this node, by uid.
struct Pods<'a> {
    host: &'a Arc<Host>,
    tasks: HashMap<String, (watch::Sender<Wanted>, JoinHandle<()>)>,
}

impl<'a> Pods<'a> {
    fn new(host: &'a Arc<Host>) -> Self {
        Self { host, tasks: HashMap::new() }
    }

    /// Follows the API server for ever.
    async fn follow(mut self) {
        let bound = watcher::Config::default().fields(&format!("spec.nodeName={}", self.host.name));
        let events = watch_all(Api::<Pod>::all(self.host.client.clone()), bound);
        let mut events = std::pin::pin!(events);
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Event::Apply(pod) => self.want(pod),
                Event::Delete(pod) => self.gone(&pod.uid().unwrap_or_default()),
                Event::Init => listed.clear(),
                Event::InitApply(pod) => {
                    listed.extend(pod.uid());
                    self.want(pod);
                }
                Event::InitDone => {
                    let missed: Vec<String> =
                        self.tasks.keys().filter(|uid| !listed.contains(uid)).cloned().collect();
                    missed.iter().for_each(|uid| self.gone(uid));
                    // Whoever started this node waits for the file.
                    let _ = fs::write(self.host.dir.join(READY_FILE), "");
                }
            }
        }
    }

    fn want(&mut self, pod: Pod) {
        let (uid, pod) = (pod.uid().unwrap_or_default(), Arc::new(pod));
        self.tasks.retain(|_, (_, task)| !task.is_finished());
        match self.tasks.get(&uid) {
            Some((wanted, _)) => drop(wanted.send(Wanted::Object(pod))),
            None if finished(&pod) && pod.metadata.deletion_timestamp.is_none() => {}
            None => {
                let (wanted, seen) = watch::channel(Wanted::Object(Arc::clone(&pod)));
                let task = tokio::spawn(pod::run(Arc::clone(self.host), pod, seen));
                self.tasks.insert(uid, (wanted, task));
            }
        }
    }

    fn gone(&mut self, uid: &str) {
        if let Some((wanted, _)) = self.tasks.get(uid) {
            let _ = wanted.send(Wanted::Gone);
        }
    }
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Events of a watch that is resumed, soon, whatever happens to it.
fn watch_all<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    // The watcher goes on after an error once it is polled again.
    watcher::watcher(api, config).into_stream().filter_map(|event| async {
        match event {
            Ok(event) => Some(event),
            Err(error) => {
                eprintln!("watch: {error}");
                sleep(AGAIN).await;
                None
            }
        }
    })
}

/// Sends a request until it is taken.
async fn insist<T, F: Future<Output = kube::Result<T>>>(what: &str, mut request: impl FnMut() -> F) {
    let mut told = Instant::now() - Duration::from_secs(60);
    while let Err(error) = request().await {
        if told.elapsed() > Duration::from_secs(5) {
            eprintln!("cannot {what}, trying on: {error}");
            told = Instant::now();
        }
        sleep(AGAIN).await;
    }
}
