//! Services as their objects say they are.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::{Family, Protocol};
use serde::{Deserialize, Serialize};

use super::{ObjectKey, serial};
use crate::pool::Labels;

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum ServiceType {
    /// Cluster address only.
    #[default]
    ClusterIp,
    /// Also a port on every node.
    NodePort,
    /// Also an address for the outside.
    LoadBalancer,
    /// A DNS alias; never served.
    ExternalName,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum TrafficPolicy {
    /// Any usable endpoint.
    #[default]
    Cluster,
    /// Endpoints on the same node only.
    Local,
}

/// `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum FamilyPolicy {
    /// One family.
    #[default]
    SingleStack,
    /// Both where the cluster has both; each is as good as none of the other.
    PreferDualStack,
    /// Both or nothing.
    RequireDualStack,
}

/// `status.loadBalancer.ingress[].ipMode`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum IpMode {
    /// Packets arrive with the address as destination.
    #[default]
    Vip,
    /// Packets arrive rewritten, or a mode nobody here knows: the address is not programmed (SEMANTICS of KEP-1860).
    Other,
}

/// A `Service`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp` in RFC 3339 UTC, which sorts as text; empty when the manifest has none.
    pub created: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.selector`.
    pub selector: Labels,
    /// What the API server keeps about the object for those who write to it.
    pub upkeep: Upkeep,
    /// Value of the label `service.kubernetes.io/service-proxy-name`, when there is one and it is not ours.
    pub proxy_name: Option<String>,
    /// Value of the annotation `fairlead.dev/mode`, unchecked.
    pub mode: Option<String>,
    /// Value of the annotation `fairlead.dev/target`, unchecked.
    pub target: Option<String>,
    /// Value of the annotation `fairlead.dev/udp-idle-timeout`, unchecked.
    pub udp_idle: Option<String>,
    /// Value of the annotation `fairlead.dev/weights`, unchecked.
    pub weights: Option<String>,
    /// Value of the annotation `fairlead.dev/health-check`, unchecked.
    pub health_check: Option<String>,
    /// Value of the annotation `fairlead.dev/slow-start`, unchecked.
    pub slow_start: Option<String>,
    /// Value of the annotation `fairlead.dev/new-flows-per-second`, unchecked.
    pub new_flows: Option<String>,
    /// `spec.type`.
    pub kind: ServiceType,
    /// Whether `spec.clusterIP` is `None`.
    pub headless: bool,
    /// `spec.clusterIPs`, the first one first.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ipFamilies`, or the families of the cluster addresses.
    #[serde(with = "serial::families")]
    pub families: Vec<Family>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs` that parse.
    pub external_ips: Vec<IpAddr>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// Seconds of `sessionAffinity: ClientIP`; none: no affinity.
    pub affinity_timeout_s: Option<u32>,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    /// `spec.loadBalancerIP`.
    pub requested_ip: Option<IpAddr>,
    /// What the `fairlead.dev/` annotations ask for.
    pub asks: AddressRequest,
    /// What MetalLB's annotations ask for; heard where the configuration says so.
    pub asks_metallb: AddressRequest,
    /// `spec.healthCheckNodePort`; none when not allocated.
    pub health_check_node_port: Option<u16>,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<String>,
    /// Networks of the annotation `fairlead.dev/allow`; with it, nobody else may use the Service.
    pub allow: Option<Vec<IpNet>>,
    /// Networks of the annotation `fairlead.dev/deny`.
    pub deny: Vec<IpNet>,
    /// `spec.loadBalancerSourceRanges` that parse.
    pub source_ranges: Vec<IpNet>,
    /// `status.loadBalancer.ingress` entries that have an address.
    pub ingress: Vec<Ingress>,
    /// What was ignored while reading the object, one sentence each.
    pub notes: Vec<String>,
}

/// What a Service asks of address pools by annotations, unchecked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct AddressRequest {
    /// Addresses, a comma list of at most one a family.
    pub ips: Option<String>,
    /// Name of a pool.
    pub pool: Option<String>,
    /// Services with the same key may have one address together.
    pub sharing_key: Option<String>,
}

/// What only whoever writes to the API server must know of an object; objects come with it from there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Upkeep {
    /// `metadata.uid`.
    pub uid: String,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Whether our finalizer holds the object.
    pub finalizer: bool,
    /// Whether the condition `LoadBalancerPortsError` is true.
    pub ports_error: bool,
}

impl Upkeep {
    /// Our finalizer on Services.
    pub const FINALIZER: &str = "fairlead.dev/load-balancer";
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ingress {
    /// The address.
    pub address: IpAddr,
    /// How packets for it arrive.
    pub mode: IpMode,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServicePort {
    /// Name; empty when unnamed.
    pub name: String,
    /// Protocol.
    #[serde(with = "serial::protocol")]
    pub protocol: Protocol,
    /// Port of the service addresses.
    pub port: u16,
    /// Port of the nodes; none when not allocated.
    pub node_port: Option<u16>,
}
