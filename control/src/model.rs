//! Desired cluster state in our own words. Sources (manifests, the API server) turn their objects into these values with the API
//! server's defaults filled in; nothing past this file knows Kubernetes types. Not here: what the state means (`compile`).

mod serial;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use packet::{Family, Protocol};
use serde::{Deserialize, Serialize};

use crate::pool::{Labels, Pool};

/// Namespace and name of an object.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: String,
    /// Name, unique among the objects of its kind in the namespace.
    pub name: String,
}

impl ObjectKey {
    /// A key of its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

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

impl Default for ObjectKey {
    fn default() -> Self {
        Self::new("default", "")
    }
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

/// An `EndpointSlice` of address type IPv4 or IPv6.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service it belongs to, by the label `kubernetes.io/service-name`.
    pub service: ObjectKey,
    /// `addressType`.
    #[serde(with = "serial::family")]
    pub family: Family,
    /// `ports` that have a number.
    pub ports: Vec<SlicePort>,
    /// Endpoints that have an address.
    pub endpoints: Vec<Endpoint>,
}

/// One entry of an `EndpointSlice`'s `ports`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SlicePort {
    /// Name; empty when unnamed.
    pub name: String,
    /// Protocol.
    #[serde(with = "serial::protocol")]
    pub protocol: Protocol,
    /// Number, not 0.
    pub port: u16,
}

/// One endpoint: its first address, its conditions with their defaults, its place and its hints.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// First address.
    pub address: IpAddr,
    /// `conditions.ready`, true when absent.
    pub ready: bool,
    /// `conditions.serving`, true when absent.
    pub serving: bool,
    /// `conditions.terminating`, false when absent.
    pub terminating: bool,
    /// `nodeName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// `hints.forNodes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hint_nodes: Vec<Arc<str>>,
    /// `hints.forZones`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hint_zones: Vec<Arc<str>>,
}

/// A `Node`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Node {
    /// Name.
    pub name: String,
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP.
    pub external_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Takes no traffic of load balancers: label `node.kubernetes.io/exclude-from-external-load-balancers`, or the taint
    /// `ToBeDeletedByClusterAutoscaler`.
    pub excluded: bool,
}

/// A `Namespace`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
}

/// An `AddressPool` of `fairlead.dev/v1alpha1`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct AddressPool {
    /// `metadata.creationTimestamp`, as in [`Service::created`].
    pub created: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Its name and `spec`.
    pub pool: Pool,
    /// Why it cannot be used, a sentence each; empty for a good one.
    pub faults: Vec<String>,
}

/// A `ServiceCIDR`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// Name.
    pub name: String,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}

/// One object that appeared, changed or (`None`) went away.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Service.
    Service(ObjectKey, Option<Arc<Service>>),
    /// An EndpointSlice.
    EndpointSlice(ObjectKey, Option<Arc<EndpointSlice>>),
    /// A Node.
    Node(String, Option<Arc<Node>>),
    /// A ServiceCIDR.
    ServiceCidr(String, Option<Arc<ServiceCidr>>),
    /// A Namespace.
    Namespace(String, Option<Arc<Namespace>>),
    /// An AddressPool.
    AddressPool(String, Option<Arc<AddressPool>>),
}

/// Everything the cluster asks for, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Model {
    revision: u64,
    services: BTreeMap<ObjectKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    slices_of: BTreeMap<ObjectKey, BTreeMap<ObjectKey, Arc<EndpointSlice>>>,
    nodes: BTreeMap<String, Arc<Node>>,
    service_cidrs: BTreeMap<String, Arc<ServiceCidr>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    address_pools: BTreeMap<String, Arc<AddressPool>>,
}

impl Model {
    /// Takes one change in.
    pub fn apply(&mut self, change: Change) {
        self.revision += 1;
        match change {
            Change::Service(key, service) => put(&mut self.services, key, service),
            Change::EndpointSlice(key, slice) => self.apply_slice(key, slice),
            Change::Node(name, node) => put(&mut self.nodes, name, node),
            Change::ServiceCidr(name, cidr) => put(&mut self.service_cidrs, name, cidr),
            Change::Namespace(name, namespace) => put(&mut self.namespaces, name, namespace),
            Change::AddressPool(name, pool) => put(&mut self.address_pools, name, pool),
        }
    }

    fn apply_slice(&mut self, key: ObjectKey, slice: Option<Arc<EndpointSlice>>) {
        if let Some(old) = self.slices.remove(&key)
            && let Some(siblings) = self.slices_of.get_mut(&old.service)
        {
            siblings.remove(&key);
            if siblings.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        if let Some(slice) = slice {
            self.slices_of.entry(slice.service.clone()).or_default().insert(key.clone(), Arc::clone(&slice));
            self.slices.insert(key, slice);
        }
    }

    /// How many changes were taken in; grows by one with each.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Services by namespace and name.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ObjectKey, Arc<Service>> {
        &self.services
    }

    /// EndpointSlices by namespace and name.
    #[must_use]
    pub fn slices(&self) -> &BTreeMap<ObjectKey, Arc<EndpointSlice>> {
        &self.slices
    }

    /// The slices of one Service, by name.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// Nodes by name.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, Arc<Node>> {
        &self.nodes
    }

    /// ServiceCIDRs by name.
    #[must_use]
    pub fn service_cidrs(&self) -> &BTreeMap<String, Arc<ServiceCidr>> {
        &self.service_cidrs
    }

    /// Namespaces by name.
    #[must_use]
    pub fn namespaces(&self) -> &BTreeMap<String, Arc<Namespace>> {
        &self.namespaces
    }

    /// AddressPools by name.
    #[must_use]
    pub fn address_pools(&self) -> &BTreeMap<String, Arc<AddressPool>> {
        &self.address_pools
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
