//! The configuration's keys, one function a section. Each notes every fault it sees and goes on; a value whose key is
//! faulty is replaced by its default, or by one that stands for nothing, which is never used because the whole document
//! is then refused. So an item of the document's lists has the same place here, for faults between keys (`cross`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use packet::MacAddr;
use tables::Spread;

use super::checks::{health_checks, slow_start};
use super::port::ports;
use super::protection::{answers, protection};
use super::value::{
    absolute, address, label_value, network, node_port_range, nonempty, object_name, port_range, station,
    timeout,
};
use super::{
    AdminConfig, DpdkConfig, ForwardingConfig, GatewayConfig, Hugepages, Idle, KubernetesConfig, LeaseConfig,
    MetricsConfig, Mode, NODE_PORT_RANGE, NeighborConfig, Placement, RouteConfig, Source, Target, Timeouts,
    Workers,
};
use crate::pool::{self, Pool};
use crate::yaml::{At, Errors};

const API_VERSION: &str = "fairlead.dev/v1alpha1";
const KIND: &str = "GatewayConfig";
const WORKERS_MAX: u16 = 64;
const FLOWS_MIN: u32 = 1024;
const AFFINITY_CLIENTS_MIN: u32 = 1024;
const AFFINITY_CLIENTS_MAX: u32 = 1 << 24;
const FLOWS_MAX: u32 = 1 << 27;
/// In place of an address that could not be read.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Reads the whole document.
pub(super) fn document(at: &At<'_>, errors: &Errors) -> GatewayConfig {
    let known = [
        "apiVersion",
        "kind",
        "ports",
        "workers",
        "dpdk",
        "kubernetes",
        "pools",
        "forwarding",
        "protection",
        "healthChecks",
        "routes",
        "neighbors",
        "admin",
        "metrics",
        "stateDir",
    ];
    at.only(&known, errors);
    constant(at, "apiVersion", API_VERSION, errors);
    constant(at, "kind", KIND, errors);
    let path = |text: String| PathBuf::from(text);
    let state_dir = at.field("stateDir").and_then(|at| absolute(&at, errors)).map(path);
    GatewayConfig {
        ports: ports(at, errors),
        workers: at.field("workers").map(|at| workers(&at, errors)).unwrap_or_default(),
        dpdk: at.field("dpdk").map(|at| dpdk(&at, errors)).unwrap_or_default(),
        kubernetes: kubernetes(at, errors),
        pools: at.list("pools", errors, pool),
        forwarding: at.field("forwarding").map(|at| forwarding(&at, errors)).unwrap_or_default(),
        protection: at.field("protection").map(|at| protection(&at, errors)).unwrap_or_default(),
        health_checks: at.field("healthChecks").map(|at| health_checks(&at, errors)).unwrap_or_default(),
        routes: at.list("routes", errors, route),
        neighbors: at.list("neighbors", errors, neighbor),
        admin: at.field("admin").and_then(|at| admin(&at, errors)).unwrap_or_default(),
        metrics: at.field("metrics").and_then(|at| metrics(&at, errors)).unwrap_or_default(),
        state_dir: state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/fairlead")),
    }
}

fn constant(at: &At<'_>, key: &str, want: &str, errors: &Errors) {
    match at.field(key) {
        None => errors.add(at, format!("`{key}` is missing"), format!("`{key}: {want}` is expected")),
        Some(field) if field.scalar() != Some(want) => {
            let what = format!("`{}` is not known", field.scalar().unwrap_or_default());
            errors.add(&field, what, format!("{want} is expected"));
        }
        Some(_) => {}
    }
}

/// A key that must be there.
pub(super) fn required<T>(
    at: &At<'_>,
    key: &str,
    errors: &Errors,
    read: impl Fn(&At<'_>) -> Option<T>,
) -> Option<T> {
    match at.field(key) {
        Some(field) => read(&field),
        None => {
            errors.add(at, format!("`{key}` is missing"), "a value is expected");
            None
        }
    }
}

fn workers(at: &At<'_>, errors: &Errors) -> Workers {
    at.only(&["count", "cores", "idle"], errors);
    if let (Some(_), Some(cores)) = (at.field("count"), at.field("cores")) {
        errors.add(&cores, "`count` and `cores` together", "one of them is expected");
    }
    let count = at.field("count").and_then(|at| at.number(1..=WORKERS_MAX, errors)).map(Placement::Count);
    let cores = at.field("cores").and_then(|at| cores(&at, errors)).map(Placement::Cores);
    let idle =
        at.field("idle").and_then(|at| at.choice(&[("poll", Idle::Poll), ("sleep", Idle::Sleep)], errors));
    Workers { placement: cores.or(count).unwrap_or(Placement::Count(1)), idle: idle.unwrap_or_default() }
}

fn cores(at: &At<'_>, errors: &Errors) -> Option<Vec<u16>> {
    let mut cores = Vec::new();
    for item in at.items(errors) {
        let Some(core) = item.number(0..=1023, errors) else { continue };
        if cores.contains(&core) {
            errors.add(&item, format!("core {core} stands twice"), "one worker a core is expected");
        }
        cores.push(core);
    }
    if cores.is_empty() || cores.len() > usize::from(WORKERS_MAX) {
        errors.add(at, format!("{} cores", cores.len()), format!("1 to {WORKERS_MAX} are expected"));
        return None;
    }
    Some(cores)
}

fn dpdk(at: &At<'_>, errors: &Errors) -> DpdkConfig {
    at.only(&["memoryMiB", "hugepages", "args"], errors);
    let default = DpdkConfig::default();
    let words = [("auto", Hugepages::Auto), ("require", Hugepages::Require), ("never", Hugepages::Never)];
    DpdkConfig {
        memory_mib: at
            .field("memoryMiB")
            .and_then(|at| at.number(64..=1_048_576, errors))
            .unwrap_or(default.memory_mib),
        hugepages: at.field("hugepages").and_then(|at| at.choice(&words, errors)).unwrap_or_default(),
        args: at.list("args", errors, nonempty),
    }
}

fn kubernetes(root: &At<'_>, errors: &Errors) -> KubernetesConfig {
    let Some(at) = root.field("kubernetes") else {
        errors.add(
            root,
            "`kubernetes` is missing",
            "`manifests`, `kubeconfig` or `inCluster: true` under it is expected",
        );
        return empty_kubernetes();
    };
    let known = [
        "manifests",
        "kubeconfig",
        "inCluster",
        "nodeName",
        "podCIDRs",
        "serviceCIDRs",
        "nodePortAddresses",
        "nodePortRange",
        "externalIPAllow",
        "loadBalancerClass",
        "metallbAnnotations",
        "serviceProxyName",
        "lease",
    ];
    at.only(&known, errors);
    KubernetesConfig {
        source: source(&at, errors).unwrap_or(Source::InCluster),
        node_name: at.field("nodeName").and_then(|at| nonempty(&at, errors)),
        pod_cidrs: at.list("podCIDRs", errors, network),
        service_cidrs: at.list("serviceCIDRs", errors, network),
        node_port_addresses: at.list("nodePortAddresses", errors, network),
        node_port_range: at
            .field("nodePortRange")
            .and_then(|at| node_port_range(&at, errors))
            .unwrap_or(NODE_PORT_RANGE),
        external_ip_allow: at.list("externalIPAllow", errors, network),
        load_balancer_class: at
            .field("loadBalancerClass")
            .and_then(|at| at.text(errors).map(str::to_owned))
            .unwrap_or_default(),
        metallb_annotations: at
            .field("metallbAnnotations")
            .and_then(|at| at.boolean(errors))
            .unwrap_or_default(),
        service_proxy_name: at.field("serviceProxyName").and_then(|at| label_value(&at, errors)),
        lease: at.field("lease").map(|at| lease(&at, errors)).unwrap_or_default(),
    }
}

fn lease(at: &At<'_>, errors: &Errors) -> LeaseConfig {
    at.only(&["namespace", "name"], errors);
    let default = LeaseConfig::default();
    let read = |key: &str, default| at.field(key).and_then(|at| object_name(&at, errors)).unwrap_or(default);
    LeaseConfig { namespace: read("namespace", default.namespace), name: read("name", default.name) }
}

fn empty_kubernetes() -> KubernetesConfig {
    KubernetesConfig {
        source: Source::InCluster,
        node_name: None,
        pod_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        node_port_addresses: Vec::new(),
        node_port_range: NODE_PORT_RANGE,
        external_ip_allow: Vec::new(),
        load_balancer_class: String::new(),
        metallb_annotations: false,
        service_proxy_name: None,
        lease: LeaseConfig::default(),
    }
}

fn source(at: &At<'_>, errors: &Errors) -> Option<Source> {
    let faults = errors.count();
    let manifests = at.field("manifests").and_then(|at| nonempty(&at, errors));
    let kubeconfig = at.field("kubeconfig").and_then(|at| nonempty(&at, errors));
    let in_cluster = at.field("inCluster").and_then(|at| at.boolean(errors)).filter(|yes| *yes);
    let mut sources: Vec<_> = manifests.map(|path| Source::Manifests(path.into())).into_iter().collect();
    sources.extend(kubeconfig.map(|path| Source::Kubeconfig(path.into())));
    sources.extend(in_cluster.map(|_| Source::InCluster));
    if sources.len() != 1 && errors.count() == faults {
        let what = format!("{} sources of cluster state", sources.len());
        errors.add(at, what, "exactly one of `manifests`, `kubeconfig` and `inCluster: true` is expected");
    }
    sources.pop()
}

fn pool(at: &At<'_>, errors: &Errors) -> Option<Pool> {
    let known: Vec<_> = ["name"].into_iter().chain(pool::read::KEYS).collect();
    at.only(&known, errors);
    let name = required(at, "name", errors, |at| nonempty(at, errors));
    let pool = pool::read::pool(at, errors);
    Some(Pool { name: name.unwrap_or_default(), ..pool })
}

fn forwarding(at: &At<'_>, errors: &Errors) -> ForwardingConfig {
    let known = [
        "mode",
        "target",
        "snatAddresses",
        "snatPorts",
        "flowsPerWorker",
        "affinityClients",
        "drainDeadline",
        "slowStart",
        "answerEcho",
        "reject",
        "midstream",
        "timeouts",
    ];
    at.only(&known, errors);
    let default = ForwardingConfig::default();
    let modes = [("auto", Mode::Auto), ("snat", Mode::Snat), ("dnat", Mode::Dnat)];
    let targets = [("pods", Target::Pods), ("nodePorts", Target::NodePorts)];
    ForwardingConfig {
        mode: at.field("mode").and_then(|at| at.choice(&modes, errors)).unwrap_or_default(),
        target: at.field("target").and_then(|at| at.choice(&targets, errors)).unwrap_or_default(),
        snat_addresses: at.list("snatAddresses", errors, address),
        snat_ports: at
            .field("snatPorts")
            .and_then(|at| port_range(&at, errors))
            .unwrap_or(default.snat_ports),
        flows_per_worker: at
            .field("flowsPerWorker")
            .and_then(|at| at.number(FLOWS_MIN..=FLOWS_MAX, errors))
            .unwrap_or(default.flows_per_worker),
        affinity_clients: at
            .field("affinityClients")
            .and_then(|at| at.number(AFFINITY_CLIENTS_MIN..=AFFINITY_CLIENTS_MAX, errors))
            .unwrap_or(default.affinity_clients),
        drain_deadline: at.field("drainDeadline").and_then(|at| drain_deadline(&at, errors)),
        slow_start: at.field("slowStart").and_then(|at| slow_start(&at, errors)),
        answers: answers(at, errors),
        timeouts: at.field("timeouts").map(|at| timeouts(&at, errors)).unwrap_or_default(),
    }
}

/// A duration, or `none`.
fn drain_deadline(at: &At<'_>, errors: &Errors) -> Option<Duration> {
    if at.scalar() == Some("none") { None } else { timeout(at, errors) }
}

fn timeouts(at: &At<'_>, errors: &Errors) -> Timeouts {
    at.only(&["tcpEstablished", "tcpTransient", "udp", "udpStream", "sctp"], errors);
    let default = Timeouts::default();
    let read = |key: &str, default| at.field(key).and_then(|at| timeout(&at, errors)).unwrap_or(default);
    Timeouts {
        tcp_established: read("tcpEstablished", default.tcp_established),
        tcp_transient: read("tcpTransient", default.tcp_transient),
        udp: read("udp", default.udp),
        udp_stream: read("udpStream", default.udp_stream),
        sctp: read("sctp", default.sctp),
    }
}

fn route(at: &At<'_>, errors: &Errors) -> Option<RouteConfig> {
    at.only(&["to", "via", "blackhole"], errors);
    let to = required(at, "to", errors, |at| network(at, errors));
    let blackhole = at.field("blackhole").and_then(|at| at.boolean(errors)).unwrap_or(false);
    let via = match at.field("via") {
        Some(via) if blackhole => {
            errors.add(&via, "a blackhole has no next hop", "either `via` or `blackhole: true` is expected");
            Vec::new()
        }
        None if blackhole => Vec::new(),
        _ => required(at, "via", errors, |at| next_hops(at, errors)).unwrap_or_default(),
    };
    Some(RouteConfig { to: to.unwrap_or_default(), via })
}

/// One address, or a list of them.
fn next_hops(at: &At<'_>, errors: &Errors) -> Option<Vec<IpAddr>> {
    if !at.is_list() {
        return Some(vec![address(at, errors)?]);
    }
    let hops: Vec<_> = at.items(errors).filter_map(|item| address(&item, errors)).collect();
    let count = at.items(errors).count();
    if !(1..=Spread::HOPS_MAX).contains(&count) {
        errors.add(at, format!("{count} next hops"), format!("1 to {} are expected", Spread::HOPS_MAX));
    }
    Some(hops)
}

fn neighbor(at: &At<'_>, errors: &Errors) -> Option<NeighborConfig> {
    at.only(&["address", "mac", "port"], errors);
    let address = required(at, "address", errors, |at| address(at, errors));
    let mac = required(at, "mac", errors, |at| station(at, errors));
    let port = required(at, "port", errors, |at| nonempty(at, errors));
    Some(NeighborConfig {
        address: address.unwrap_or(NO_ADDRESS),
        mac: mac.unwrap_or(MacAddr::ZERO),
        port: port.unwrap_or_default(),
    })
}

fn admin(at: &At<'_>, errors: &Errors) -> Option<AdminConfig> {
    at.only(&["socket"], errors);
    let socket = at.field("socket").and_then(|at| absolute(&at, errors))?;
    // sockaddr_un: 108 bytes with the final NUL.
    if socket.len() > 107 {
        errors.add(at, "the socket's path is too long", "at most 107 bytes are expected");
    }
    Some(AdminConfig { socket: PathBuf::from(socket) })
}

fn metrics(at: &At<'_>, errors: &Errors) -> Option<MetricsConfig> {
    at.only(&["listen"], errors);
    let at = at.field("listen")?;
    let listen: SocketAddr =
        at.parsed("an address with a port such as 127.0.0.1:9472 or [::1]:9472", errors)?;
    Some(MetricsConfig { listen })
}
