//! Control as a whole, without a kernel mirror and without DPDK: changes in, tables taken by a worker, the admin API asked
//! over its socket.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod flows;
mod stale;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use control::admin::server::{Admin, bind, router};
use control::admin::{client, view};
use control::apply::{Applier, Control, Parts, Segments, SourceEvent};
use control::capture::Captures;
use control::compile::{HealthChecks, ServiceReport};
use control::config::GatewayConfig;
use control::inquiry::Heard;
use control::metrics::Metrics;
use control::mirror::{Bypass, Voice};
use control::model::{
    Change, Endpoint, EndpointSlice, ObjectKey, Service, ServicePort, ServiceType, SlicePort,
};
use control::network::{Network, NetworkPort};
use control::state_dir::StateDir;
use control::workers::{Layout, PortSpread, Workers};
use packet::{Family, MacAddr, Protocol};
use tables::command::command_rings;
use tables::counters::{Idling, WorkerCounters};
use tables::publish::mailboxes;
use tables::punt::{FrameReceiver, frame_ring};
use tables::{Generation, Tables};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const CONFIG: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{name: outside, device: net_null0, addresses: [192.0.2.1/24], tap: false}]
kubernetes: {manifests: /tmp}
routes: [{to: 10.244.0.0/16, via: 192.0.2.9}]
neighbors: [{address: 192.0.2.9, mac: '02:00:00:00:00:09', port: outside}]
";
const POOLS: &str = "pools: [{name: public, cidrs: [203.0.113.0/29]}]\n";
const WAIT: Duration = Duration::from_secs(5);

/// A running control with one worker that only takes tables.
struct Appliance {
    applier: Applier,
    control: Control,
    source: mpsc::Sender<SourceEvent>,
    bypasses: mpsc::Sender<Bypass>,
    /// What control sends beside the kernel, and hears.
    said: FrameReceiver,
    heard: mpsc::Sender<Heard>,
    ready: watch::Receiver<bool>,
    metrics: Metrics,
    workers: Workers,
    stop: Arc<AtomicBool>,
    worker: thread::JoinHandle<()>,
    _network: watch::Sender<Arc<Network>>,
}

/// A worker on core 5; of two ports one brings packets to their worker.
fn layout() -> Layout {
    let spread = |port: &str, fault: Option<&str>| PortSpread {
        port: port.to_owned(),
        fault: fault.map(ToOwned::to_owned),
    };
    let spread = vec![spread("outside", None), spread("inside", Some("the device takes no RSS key"))];
    Layout { cores: vec![5], spread }
}

fn network() -> Network {
    let port =
        NetworkPort::new(0, "outside", MacAddr([2, 0, 0, 0, 0, 1]), vec!["192.0.2.1/24".parse().unwrap()]);
    Network { ports: vec![port], ..Network::default() }
}

impl Appliance {
    fn start(folder: &Path, config: &str) -> Self {
        let file = folder.join("config.yaml");
        std::fs::write(&file, config).unwrap();
        let (publisher, mut subscribers) = mailboxes(1, Tables::empty(Generation(0)));
        let mut subscriber = subscribers.remove(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let worker = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                subscriber.take();
                subscriber.sweep_completed();
                thread::sleep(Duration::from_micros(100));
            }
        });
        let (sender, _desk) = command_rings(1, 1);
        let counters = Arc::new(WorkerCounters::new(1));
        counters.set_idling(Idling::Waits);
        let workers = Workers::new(vec![(counters, sender)]);
        let metrics = Metrics::new(workers.counters(), vec!["outside".into()], None);
        let (source, events) = mpsc::channel(16);
        let (bypasses, told) = mpsc::channel(16);
        let (network, seen) = watch::channel(Arc::new(network()));
        let ((voice, said), (hear, heard)) = (frame_ring(1 << 16), mpsc::channel(4));
        let parts = Parts {
            config: GatewayConfig::load(&file).unwrap(),
            config_file: file,
            publisher,
            source: events,
            network: seen,
            rss: Arc::default(),
            resolver: None,
            devices: None,
            health_checks: watch::channel(HealthChecks::default()).0,
            probes: Arc::default(),
            bypasses: told,
            segments: Segments { voice: Voice::new(vec![voice]), heard },
            state: Arc::new(StateDir::open(&folder.join("state")).unwrap()),
            workers: workers.clone(),
            metrics: metrics.control.clone(),
            election: None,
        };
        let (applier, control, ready) = Applier::start(parts).unwrap();
        Self {
            applier,
            control,
            source,
            bypasses,
            said,
            heard: hear,
            ready,
            metrics,
            workers,
            stop,
            worker,
            _network: network,
        }
    }

    fn admin(&self) -> Admin {
        Admin {
            control: self.control.clone(),
            workers: self.workers.clone(),
            layout: Arc::new(layout()),
            captures: Captures::new(self.workers.clone(), vec![], vec![]),
            tracer: Arc::new(|tables, asked| {
                if asked.is_null() { Err("nothing asked".into()) } else { Ok(tables.generation.0.into()) }
            }),
        }
    }

    async fn ready(&mut self) {
        timeout(WAIT, self.ready.wait_for(|ready| *ready)).await.expect("ready in time").unwrap();
    }

    async fn send(&self, changes: Vec<Change>) {
        self.source.send(SourceEvent::Changes(changes)).await.unwrap();
    }

    async fn services(&self) -> Vec<ServiceReport> {
        self.control.look(|look| look.compiler.services()).await.unwrap()
    }

    /// Waits until as many Services have load balancer addresses.
    async fn addressed(&self, count: usize) -> Vec<ServiceReport> {
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            let services = self.services().await;
            if services.iter().filter(|one| !one.load_balancer_ips.is_empty()).count() == count {
                return services;
            }
            assert!(tokio::time::Instant::now() < deadline, "{services:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn stop(self) {
        let stopped = self.applier.stop().unwrap();
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().unwrap();
        drop(stopped);
    }
}

fn load_balancer(name: &str) -> Vec<Change> {
    let key = ObjectKey::new("default", name);
    let service = Service {
        key: key.clone(),
        kind: ServiceType::LoadBalancer,
        cluster_ips: vec![IpAddr::from([10, 96, 0, name.as_bytes()[0]])],
        families: vec![Family::V4],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..Service::default()
    };
    let slice = EndpointSlice {
        key: key.clone(),
        service: key.clone(),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![Endpoint::new("10.244.1.7".parse().unwrap())],
    };
    vec![
        Change::Service(key.clone(), Some(Arc::new(service))),
        Change::EndpointSlice(key, Some(Arc::new(slice))),
    ]
}

fn address_of(services: &[ServiceReport], name: &str) -> IpAddr {
    services.iter().find(|service| service.name == name).unwrap().load_balancer_ips[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_comes_with_the_first_full_state_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut appliance = Appliance::start(folder.path(), &format!("{CONFIG}{POOLS}"));
    appliance.send(load_balancer("web")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!*appliance.ready.borrow(), "the source has not said that this is all");
    appliance.source.send(SourceEvent::Synced).await.unwrap();
    appliance.ready().await;
    let text = appliance.metrics.text();
    assert!(text.contains("fairlead_service_ports 1\n") && text.contains("fairlead_backends 1\n"), "{text}");
    appliance.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_survive_a_restart_whatever_the_order_of_services() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("{CONFIG}{POOLS}");
    let appliance = Appliance::start(folder.path(), &config);
    appliance.send(load_balancer("b")).await;
    appliance.addressed(1).await;
    appliance.send(load_balancer("a")).await;
    let before = appliance.addressed(2).await;
    assert_ne!(address_of(&before, "a"), address_of(&before, "b"));
    appliance.stop();

    let appliance = Appliance::start(folder.path(), &config);
    appliance.send([load_balancer("a"), load_balancer("b")].concat()).await;
    let after = appliance.addressed(2).await;
    for name in ["a", "b"] {
        assert_eq!(address_of(&after, name), address_of(&before, name), "{name}");
    }
    appliance.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_addresses_is_refused_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("state")).unwrap();
    std::fs::write(folder.path().join("state/addresses"), "nonsense\n").unwrap();
    let config = format!("{CONFIG}{POOLS}");
    let refused = thread::spawn({
        let folder = folder.path().to_owned();
        move || drop(Appliance::start(&folder, &config))
    });
    assert!(refused.join().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_answers_over_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let mut appliance = Appliance::start(folder.path(), &format!("{CONFIG}{POOLS}"));
    appliance.send(load_balancer("web")).await;
    appliance.source.send(SourceEvent::Synced).await.unwrap();
    appliance.ready().await;
    let socket = folder.path().join("admin.sock");
    let (admin, listener) = (appliance.admin(), bind(&socket).unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router(admin)).await });

    let services: Vec<view::Service> = client::get(&socket, "/v1/services").await.unwrap();
    assert_eq!(services.len(), 1);
    let json = serde_json::to_value(&services[0]).unwrap();
    let fields: std::collections::BTreeSet<_> =
        json.as_object().unwrap().keys().map(String::as_str).collect();
    let want = "namespace name portName protocol port type mode clusterIPs externalIPs loadBalancerIPs nodePort \
                backends problems";
    assert_eq!(fields, want.split_whitespace().collect());
    assert_eq!(json["backends"][0]["address"], "10.244.1.7:8080");
    assert_eq!(
        (&json["backends"][0]["state"], &json["loadBalancerIPs"][0]),
        (&"Active".into(), &"203.0.113.0".into())
    );
    let none: Vec<view::Service> = client::get(&socket, "/v1/services?namespace=other").await.unwrap();
    assert_eq!(none, []);

    let id = appliance.services().await[0].ids[0];
    appliance.bypasses.send((id, 3)).await.unwrap();
    // Answered after what came before it.
    appliance.services().await;
    let services: Vec<view::Service> = client::get(&socket, "/v1/services").await.unwrap();
    let [problem] = &services[0].problems[..] else { panic!("{services:?}") };
    assert!(
        problem.starts_with("3 flows saw no reply") && problem.contains("fairlead.dev/mode: snat"),
        "{problem}"
    );
    let series =
        "fairlead_service_bypassed_flows_total{namespace=\"default\",service=\"web\",port=\"http\"} 3";
    assert!(appliance.metrics.text().contains(series), "{}", appliance.metrics.text());

    let pools: Vec<view::Pool> = client::get(&socket, "/v1/pools").await.unwrap();
    assert_eq!((pools[0].addresses, pools[0].used), (8, 1));
    let routes: Vec<view::Route> = client::get(&socket, "/v1/routes").await.unwrap();
    assert!(routes.iter().any(|route| route.to == "10.244.0.0/16"
        && route.port == "outside"
        && route.origin == "config"
        && route.in_force));
    let origins: Vec<_> = routes.iter().map(|route| (route.origin.as_str(), route.in_force)).collect();
    assert!(origins.contains(&("own", true)) && origins.contains(&("connected", true)), "{origins:?}");
    let neighbors: Vec<view::Neighbor> = client::get(&socket, "/v1/neighbors").await.unwrap();
    assert_eq!((neighbors.len(), neighbors[0].state.as_str()), (1, "Static"));
    let ports: Vec<view::Port> = client::get(&socket, "/v1/ports").await.unwrap();
    assert_eq!(
        (ports[0].mac.as_str(), ports[0].addresses[0].as_str()),
        ("02:00:00:00:00:01", "192.0.2.1/24")
    );
    let workers: Vec<view::Worker> = client::get(&socket, "/v1/workers").await.unwrap();
    assert_eq!((workers.len(), workers[0].core), (1, 5));
    assert_eq!(workers[0].idle, "interrupts");
    assert_eq!(workers[0].rss_ports, ["outside"]);
    assert_eq!(workers[0].no_rss, ["inside: the device takes no RSS key"]);
    for path in ["counters", "drops", "backends", "sources"] {
        let _: Vec<serde_json::Value> = client::get(&socket, &format!("/v1/{path}")).await.unwrap();
    }
    let generation: u64 = client::post(&socket, "/v1/trace", &serde_json::json!({})).await.unwrap();
    assert!(generation > 0);
    let refused = client::post::<_, u64>(&socket, "/v1/trace", &serde_json::Value::Null).await.unwrap_err();
    assert_eq!(refused.to_string(), "nothing asked");
    server.abort();
    appliance.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_brings_pools_into_force_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let appliance = Appliance::start(folder.path(), CONFIG);
    appliance.send(load_balancer("web")).await;
    appliance.addressed(0).await;

    let file = folder.path().join("config.yaml");
    std::fs::write(&file, format!("{CONFIG}pools: 7\n")).unwrap();
    let refused = appliance.control.reload().await.unwrap_err();
    assert!(refused.contains("config.yaml:") && refused.contains("pools"), "{refused}");

    std::fs::write(&file, format!("{CONFIG}{POOLS}workers: {{count: 3}}\n")).unwrap();
    let done = appliance.control.reload().await.unwrap();
    assert_eq!((done.applied, done.needs_restart), (vec!["pools".to_owned()], vec!["workers".to_owned()]));
    assert_eq!(address_of(&appliance.addressed(1).await, "web").to_string(), "203.0.113.0");
    appliance.stop();
}
