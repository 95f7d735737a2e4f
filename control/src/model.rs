//! Desired cluster state in our own words. Sources (manifests, the API server) turn their objects into these values with the API
//! server's defaults filled in; nothing past this file knows Kubernetes types. Not here: what the state means (`compile`).

mod serial;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use packet::{Family, Protocol};
use serde::{Deserialize, Serialize};

use crate::pool::{Labels, Pool};

pub use self::service::{
    AddressRequest, FamilyPolicy, Ingress, IpMode, Service, ServicePort, ServiceType, TrafficPolicy, Upkeep,
};

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

impl Default for ObjectKey {
    fn default() -> Self {
        Self::new("default", "")
    }
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

impl Endpoint {
    /// An endpoint of which its slice says nothing but the address.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hint_nodes: Vec::new(),
            hint_zones: Vec::new(),
        }
    }
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
