//! What travels over the admin socket; also what `fairlead show -o json` prints.
//!
//! Fields are camelCase and keep their meaning: scripts read them. Absent values are empty lists, empty strings or null.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The body of every answer that is not 200.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// One sentence: what is wrong and what to do.
    pub error: String,
}

/// One service port, over both address families.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The port's name; empty when it has none.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The service port.
    pub port: u16,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `snat` or `dnat`.
    pub mode: String,
    /// Cluster addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    /// External addresses in force.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses in force.
    #[serde(rename = "loadBalancerIPs")]
    pub load_balancer_ips: Vec<IpAddr>,
    /// The nodePort; 0 when it has none.
    pub node_port: u16,
    /// Every endpoint, whatever its state.
    pub backends: Vec<ServiceBackend>,
    /// What keeps the Service from working as written, a sentence each.
    pub problems: Vec<String>,
}

/// One backend of a service port.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceBackend {
    /// Address and port.
    pub address: String,
    /// `Active`, `Draining` or `Down`.
    pub state: String,
    /// Share relative to its peers.
    pub weight: u16,
}

/// One backend with the service port it belongs to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The port's name; empty when it has none.
    pub port_name: String,
    /// Address and port.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `Active`, `Draining` or `Down`.
    pub state: String,
    /// Share relative to its peers.
    pub weight: u16,
    /// What its health check says; empty when it has none.
    pub health: String,
    /// The node it runs on; empty when unknown.
    pub node: String,
}

/// One flow of one worker.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The worker that owns it.
    pub worker: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The client's address and port.
    pub client: String,
    /// The address and port the client asked for.
    pub vip: String,
    /// The address and port the backend sees as the source.
    pub source: String,
    /// The backend's address and port.
    pub backend: String,
    /// `namespace/name:port`; empty when the Service is gone.
    pub service: String,
    /// `snat` or `dnat`.
    pub mode: String,
    /// Where the flow is in its life.
    pub phase: String,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
}

/// The header of a list of flows that has not all: more than were asked for match.
pub const MORE_HEADER: &str = "fairlead-more";

/// How many flows match, by Service port: all of them, or an estimate from a part of the flow tables.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowSample {
    /// 1: every flow was counted; else of so many slots of a flow table one was looked at, at the worker with the most.
    pub one_in: u32,
    /// The Service ports with flows that match, by name.
    pub services: Vec<ServiceFlows>,
}

/// A Service port's part of a [`FlowSample`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceFlows {
    /// `namespace/name:port`; empty for flows of no Service, and for those whose Service is gone.
    pub service: String,
    /// Its flows that match: all of them, by the share of the slots that was looked at.
    pub flows: u64,
    /// Those that were seen.
    pub seen: u64,
}

/// One port.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The port's name.
    pub name: String,
    /// The DPDK device behind it; of a sub-port its parent and VLAN, as in `wan vlan 100`.
    pub device: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU, bytes.
    pub mtu: u16,
    /// Address and prefix length, each.
    pub addresses: Vec<String>,
    /// Whether it has a kernel mirror.
    pub tap: bool,
    /// Packets received by every worker.
    pub rx_packets: u64,
    /// Bytes received by every worker.
    pub rx_bytes: u64,
    /// Packets sent by every worker.
    pub tx_packets: u64,
    /// Bytes sent by every worker.
    pub tx_bytes: u64,
}

/// A worker, and the packets that reached it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Worker {
    /// The worker; its queue of every port has the same number.
    pub worker: u16,
    /// The core it runs on.
    pub core: u16,
    /// What it does when nothing arrives: `polls`, `sleeps` for set times, or `interrupts`: it waits for those of its ports.
    pub idle: String,
    /// Packets that came to its own queues.
    pub rx_packets: u64,
    /// Of these, those that were for another worker.
    pub handoff_out_packets: u64,
    /// Packets for it that came to another worker's queues.
    pub handoff_in_packets: u64,
    /// Flows it has.
    pub flows: u64,
    /// Ports whose device brings packets to the worker that they are for (RSS).
    pub rss_ports: Vec<String>,
    /// Of the other ports, where there are several workers, what keeps their device from it: `PORT: why`.
    pub no_rss: Vec<String>,
}

/// One counter of one worker.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counter {
    /// The worker.
    pub worker: u16,
    /// The counter's name as in `/metrics`, without the prefix.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// Packets dropped by one worker for one reason.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Drops {
    /// The worker.
    pub worker: u16,
    /// The reason's name as in `/metrics`.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// The reason for people.
    pub text: String,
}

/// One route.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The prefix.
    pub to: String,
    /// The next hop; null when the prefix is on the link, the appliance's own, or a blackhole.
    pub via: Option<IpAddr>,
    /// The port it leaves by; empty when it leaves by none.
    pub port: String,
    /// `config`, `kernel`, `node`, `connected` or `own`.
    pub origin: String,
    /// Packets for it are dropped.
    pub blackhole: bool,
    /// Whether it is in the tables. It is not when another for the same prefix goes before it, or its gateway is behind no port.
    pub in_force: bool,
}

/// One neighbour.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// The port it is behind.
    pub port: String,
    /// Its MAC; null while it is not resolved.
    pub mac: Option<String>,
    /// `Static`, `Resolved` or `Incomplete`.
    pub state: String,
}

/// One address pool.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// The pool's name.
    pub name: String,
    /// Whether a Service that names no pool may draw from it.
    pub auto_assign: bool,
    /// Its CIDRs and ranges as written.
    pub ranges: Vec<String>,
    /// Addresses in it; saturates for IPv6.
    pub addresses: u64,
    /// Addresses in use.
    pub used: u64,
    /// Who has what.
    pub assignments: Vec<Assignment>,
    /// Why the pool is not in force; empty when it is.
    pub problem: String,
}

/// One address of a pool in use.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Assignment {
    /// The address.
    pub address: IpAddr,
    /// `namespace/name`.
    pub service: String,
}

/// What `fairlead capture` asks for; all that is said must hold.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Capture {
    /// Dropped packets alone.
    pub drops: bool,
    /// `namespace/name` of the Service whose packets are meant; empty for all.
    pub service: String,
    /// Which packets, in words ([`crate::capture::filter`]); empty for all.
    pub filter: String,
    /// Bytes of each frame at most; 0: whole frames.
    pub snap_len: u16,
    /// One of so many.
    pub one_in: u32,
    /// Most in a second, of all workers together.
    pub per_second: u32,
    /// Ends after so many packets; 0: any number.
    pub count: u64,
    /// Ends after so many milliseconds; 0: when it is stopped.
    pub duration_ms: u64,
}

/// What came of `POST /v1/capture/stop`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stopped {
    /// A capture was running.
    pub running: bool,
}

/// One source of cluster state: a manifest file, or a kind of the API server's.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Source {
    /// The file or the kind.
    pub name: String,
    /// `Ok`, `Broken` (a file; its last good content is in force), `Stale` (the last known state is in force) or `Waiting`
    /// (nothing is known yet).
    pub state: String,
    /// Objects in force from it.
    pub objects: u64,
    /// Objects of kinds that mean nothing here.
    pub ignored: u64,
    /// What is wrong; empty when nothing is.
    pub error: String,
    /// Since the API server last confirmed the kind's state.
    #[serde(default, rename = "lastContactSeconds", skip_serializing_if = "Option::is_none")]
    pub last_contact_seconds: Option<u64>,
}

impl Source {
    /// `state` of a source that is as it should be.
    pub const OK: &str = "Ok";
    /// `state` of a source whose last good content is in force because the present one is broken.
    pub const BROKEN: &str = "Broken";
    /// `state` of a kind whose last known state is in force while the API server does not confirm it.
    pub const STALE: &str = "Stale";
    /// `state` of a kind that is not known yet.
    pub const WAITING: &str = "Waiting";
}

/// What a reload did.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reload {
    /// Keys whose new value is in force.
    pub applied: Vec<String>,
    /// Keys whose new value needs a restart; the running value stays.
    pub needs_restart: Vec<String>,
}

/// Which flows to end.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Purge {
    /// Flows with this address at any end; null: all flows.
    pub address: Option<IpAddr>,
}

/// How many flows were ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Purged {
    /// Flows.
    pub flows: u64,
}
