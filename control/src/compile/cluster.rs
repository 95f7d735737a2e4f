//! What the Nodes and ServiceCIDRs say about places: who is a pod, who a Node, which zone, which service networks.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use packet::Family;
use tables::{Lpm, NodeId, Prefix, Source};

use super::Settings;
use crate::model::{Model, Node};
use crate::network::Network;

/// The "Node" of pods in `kubernetes.podCIDRs`, whose Node nobody knows: no rule names it.
const UNKNOWN_NODE: NodeId = NodeId(u32::MAX);

/// Numbers for Node names, given once and kept: a name in a slice has one before (or without) its Node object.
#[derive(Debug, Default)]
pub(super) struct NodeIds(HashMap<Arc<str>, NodeId>);

impl NodeIds {
    /// The number of a name.
    pub(super) fn of(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.0.get(name) {
            return *id;
        }
        let id = NodeId(u32::try_from(self.0.len()).expect("fewer Nodes than 2^32 fit in memory"));
        self.0.insert(name.into(), id);
        id
    }

    /// The number of a name that was seen before.
    pub(super) fn known(&self, name: &str) -> Option<NodeId> {
        self.0.get(name).copied()
    }
}

/// The client's place as far as topology cares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// Node name.
    pub(super) node: Arc<str>,
    /// Its number.
    pub(super) id: NodeId,
    /// Its zone, when labelled.
    pub(super) zone: Option<Arc<str>>,
}

/// The places of the cluster. Equal values give equal rules.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Cluster {
    /// Every Node by name.
    pub(super) places: BTreeMap<Arc<str>, Place>,
    /// Nodes by zone.
    pub(super) zones: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// The Node the appliance acts as.
    pub(super) this: Option<Place>,
    /// That Node's first address of each family.
    pub(super) this_addresses: Vec<IpAddr>,
    /// Addresses of the Nodes that load balancers may send to, the first InternalIP of each family.
    pub(super) targets: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// Families in which pods can be told from others: some podCIDR is known.
    pub(super) detects_pods: Vec<Family>,
}

impl Cluster {
    pub(super) fn new(model: &Model, settings: &Settings, ids: &mut NodeIds) -> Self {
        let mut cluster = Self::default();
        for node in model.nodes().values() {
            let name: Arc<str> = node.name.as_str().into();
            let place = Place { id: ids.of(&name), node: Arc::clone(&name), zone: node.zone.clone() };
            if let Some(zone) = &node.zone {
                cluster.zones.entry(Arc::clone(zone)).or_default().push(Arc::clone(&name));
            }
            if !node.excluded {
                let families = [Family::V4, Family::V6].into_iter();
                let addresses = families.filter_map(|family| internal_ip(node, family)).collect();
                cluster.targets.insert(Arc::clone(&name), addresses);
            }
            cluster.places.insert(name, place);
        }
        if let Some(name) = &settings.node_name {
            let unlisted = || Place { id: ids.of(name), node: name.as_str().into(), zone: None };
            cluster.this = Some(cluster.places.get(name.as_str()).cloned().unwrap_or_else(unlisted));
            let node = model.nodes().get(name);
            cluster.this_addresses = [Family::V4, Family::V6]
                .into_iter()
                .filter_map(|family| internal_ip(node?, family))
                .collect();
        }
        let pods = || model.nodes().values().flat_map(|node| &node.pod_cidrs).chain(&settings.pod_cidrs);
        cluster.detects_pods = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| pods().any(|net| Family::of(net.addr()) == *family))
            .collect();
        cluster
    }
}

/// A Node's first InternalIP of a family.
pub(super) fn internal_ip(node: &Node, family: Family) -> Option<IpAddr> {
    node.internal_ips.iter().copied().find(|address| Family::of(*address) == family)
}

/// The table of clients: podCIDRs and Node addresses (a cluster-wide detector).
pub(super) fn sources(
    model: &Model,
    settings: &Settings,
    network: &Network,
    ids: &mut NodeIds,
) -> BTreeMap<Prefix, Source> {
    let mut sources = BTreeMap::new();
    for net in &settings.pod_cidrs {
        sources.insert(prefix(*net), Source::Pod(UNKNOWN_NODE));
    }
    for node in model.nodes().values() {
        let id = ids.of(&node.name);
        for net in &node.pod_cidrs {
            sources.insert(prefix(*net), Source::Pod(id));
        }
    }
    for node in model.nodes().values() {
        let id = ids.of(&node.name);
        for address in node.internal_ips.iter().chain(&node.external_ips) {
            sources.insert(Prefix::host(*address), Source::Node(id));
        }
    }
    // The Node that we are is every address of our ports, not only those that its status names.
    if let Some(name) = &settings.node_name {
        let id = ids.of(name);
        let own = network.ports.iter().flat_map(|port| &port.addresses);
        sources.extend(own.map(|net| (Prefix::host(net.addr()), Source::Node(id))));
    }
    sources
}

/// All service networks, sorted.
pub(super) fn service_cidrs(model: &Model, settings: &Settings) -> Vec<Prefix> {
    let objects = model.service_cidrs().values().flat_map(|object| &object.cidrs);
    let mut cidrs: Vec<_> = objects.chain(&settings.service_cidrs).map(|net| prefix(*net)).collect();
    cidrs.sort_unstable();
    cidrs.dedup();
    cidrs
}

/// The same network in the tables' words.
pub(super) fn prefix(net: IpNet) -> Prefix {
    Prefix::new(net.network(), net.prefix_len()).expect("IpNet keeps the length within its family")
}

/// A set of networks to look up in.
pub(super) fn set_of(prefixes: &[Prefix]) -> Lpm<()> {
    Lpm::build(prefixes.iter().map(|prefix| (*prefix, ())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_detected_only_in_the_families_of_their_networks() {
        for (nets, want) in [
            (&[][..], &[][..]),
            (&["10.244.0.0/16"], &[Family::V4]),
            (&["fd01::/48"], &[Family::V6]),
            (&["fd01::/48", "10.244.0.0/16"], &[Family::V4, Family::V6]),
        ] {
            let pod_cidrs = nets.iter().map(|net| net.parse().expect("a CIDR")).collect();
            let settings = Settings { pod_cidrs, ..Settings::default() };
            let cluster = Cluster::new(&Model::default(), &settings, &mut NodeIds::default());
            assert_eq!(cluster.detects_pods, want, "{nets:?}");
        }
    }
}
