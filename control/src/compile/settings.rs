//! The part of the configuration that decides what the tables say.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tables::{Answers, Limits};

use crate::config::{GatewayConfig, Mode, NeighborConfig, RouteConfig, Target};
use crate::pool::Pool;
use crate::probe::Check;

/// What `compile` must know of the configuration; everything else in it is about processes and devices.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// The node that the appliance acts as; none: it is off-node.
    pub node_name: Option<String>,
    /// Pod networks besides those of the Nodes.
    pub pod_cidrs: Vec<IpNet>,
    /// Service networks besides those of the ServiceCIDRs.
    pub service_cidrs: Vec<IpNet>,
    /// Which of the ports' addresses serve nodePorts; a family without an entry serves on all.
    pub node_port_addresses: Vec<IpNet>,
    /// First and last nodePort that the API server gives out; (0, 0): not known.
    pub node_port_range: (u16, u16),
    /// Where externalIPs may lie.
    pub external_ip_allow: Vec<IpNet>,
    /// The load balancer class that is ours; empty: Services without a class.
    pub load_balancer_class: String,
    /// Whether MetalLB's annotations are heard.
    pub metallb_annotations: bool,
    /// Addresses to give to Services.
    pub pools: Vec<Pool>,
    /// Default mode.
    pub mode: Mode,
    /// Default target.
    pub target: Target,
    /// Addresses for SNAT.
    pub snat_addresses: Vec<IpAddr>,
    /// First and last port for SNAT.
    pub snat_ports: (u16, u16),
    /// Ports on which the appliance itself listens: left out of SNAT.
    pub listeners: Vec<u16>,
    /// Static routes.
    pub routes: Vec<RouteConfig>,
    /// Static neighbours.
    pub neighbors: Vec<NeighborConfig>,
    /// Names of the ports whose own traffic a kernel mirror answers.
    pub mirrored: Vec<String>,
    /// Number of workers.
    pub workers: u16,
    /// What senders may bring about in a second.
    pub protection: Limits,
    /// What senders are told of packets that go no further.
    pub answers: Answers,
    /// What backends are asked, where their Service does not say.
    pub check: Check,
    /// Whether the kernel has a way to backends, to ask them by.
    pub probes_reach: bool,
    /// Over which time an endpoint that becomes ready gets its share, where its Service does not say.
    pub slow_start: Option<Duration>,
    /// How long flows may stay at a backend that drains or is gone.
    pub drain_deadline: Option<Duration>,
}

/// Ports of BFD (RFC 5881, RFC 5883): a routing daemon of the appliance listens there.
const BFD: [u16; 3] = [3_784, 3_785, 4_784];

impl From<&GatewayConfig> for Settings {
    fn from(config: &GatewayConfig) -> Self {
        let (kubernetes, forwarding) = (&config.kubernetes, &config.forwarding);
        let mirrored = config.ports.iter().filter(|port| port.tap).map(|port| port.name.clone());
        Self {
            node_name: kubernetes.node_name.clone(),
            pod_cidrs: kubernetes.pod_cidrs.clone(),
            service_cidrs: kubernetes.service_cidrs.clone(),
            node_port_addresses: kubernetes.node_port_addresses.clone(),
            node_port_range: kubernetes.node_port_range,
            external_ip_allow: kubernetes.external_ip_allow.clone(),
            load_balancer_class: kubernetes.load_balancer_class.clone(),
            metallb_annotations: kubernetes.metallb_annotations,
            pools: config.pools.clone(),
            mode: forwarding.mode,
            target: forwarding.target,
            snat_addresses: forwarding.snat_addresses.clone(),
            snat_ports: forwarding.snat_ports,
            listeners: [&[config.metrics.listen.port()][..], &BFD].concat(),
            routes: config.routes.clone(),
            neighbors: config.neighbors.clone(),
            mirrored: mirrored.collect(),
            workers: config.workers.count(),
            protection: config.protection,
            answers: forwarding.answers,
            check: config.health_checks.clone(),
            probes_reach: config.ports.iter().any(|port| port.tap),
            slow_start: forwarding.slow_start,
            drain_deadline: forwarding.drain_deadline,
        }
    }
}
