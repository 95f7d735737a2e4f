//! Which endpoints a Service port has, and which of them may be chosen from where: kube-proxy's CategorizeEndpoints.
//! Source: k8s.io/kubernetes pkg/proxy/topology.go and endpointslicecache.go; KEP-1669, KEP-2086, KEP-2433, KEP-3015.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use packet::Family;

use super::annotations::Weights;
use super::cluster::{Cluster, Place};
use super::frontends::unusable;
use super::pools::Weighted;
use crate::model::{Endpoint, EndpointSlice, ServicePort, SlicePort, TrafficPolicy};

/// An endpoint of one Service port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// Address and port.
    pub(super) at: SocketAddr,
    /// Its conditions, place and hints.
    pub(super) endpoint: &'a Endpoint,
    /// Its share of new flows, compared to the others'.
    pub(super) weight: u16,
    /// It is ready, and fails its health check.
    pub(super) failing: bool,
}

impl Candidate<'_> {
    /// Address and port, and the weight.
    pub(super) fn weighted(&self) -> Weighted {
        (self.at, self.weight)
    }

    /// Kubernetes says that it is ready, and nothing speaks against it.
    pub(super) fn ready(&self) -> bool {
        self.endpoint.ready && !self.failing
    }

    /// What is used when nothing is ready.
    fn fallback(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }

    fn on(&self, node: &str) -> bool {
        self.endpoint.node.as_deref() == Some(node)
    }

    fn hints_node(&self, node: &str) -> bool {
        self.endpoint.hint_nodes.iter().any(|hint| &**hint == node)
    }

    fn hints_zone(&self, zone: &str) -> bool {
        self.endpoint.hint_zones.iter().any(|hint| &**hint == zone)
    }
}

/// Most endpoints of one Service port: a Maglev slot names its backend by a u16.
pub(super) const OF_A_PORT_MAX: usize = 65_535;
/// Most endpoints of one Service over all its ports, each looked at counting once: no object can take the tables from others,
/// nor much of the compiler's time.
pub(super) const OF_A_SERVICE_MAX: usize = 1 << 17;
/// Refused endpoints of a port that are named; the others are counted.
const REFUSED_NAMED: usize = 8;

/// The endpoints of a Service port in one family, each address and port once, in their order.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    list: Vec<Candidate<'a>>,
    refused: BTreeMap<IpAddr, &'static str>,
    refused_more: usize,
    /// Whether some were not looked at.
    cut: bool,
    hints_nodes: bool,
    hints_zones: bool,
}

/// Positions in [`Candidates`], ascending.
pub(super) type Set = Vec<u32>;

impl<'a> Candidates<'a> {
    /// Collects the endpoints whose slice port has this port's name and protocol; `room` is how many more of this Service
    /// are looked at, and is less afterwards.
    pub(super) fn collect(
        slices: &'a [Arc<EndpointSlice>],
        port: &ServicePort,
        family: Family,
        room: &mut usize,
    ) -> Self {
        let mut by_address: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
        let (mut refused, mut refused_more, mut cut) = (BTreeMap::new(), 0, false);
        for (endpoint, number) in matching(slices, port, family) {
            if *room == 0 || by_address.len() == OF_A_PORT_MAX {
                cut = true;
                break;
            }
            *room -= 1;
            if let Some(reason) = unusable(endpoint.address) {
                if refused.len() < REFUSED_NAMED {
                    refused.insert(endpoint.address, reason);
                } else {
                    refused_more += usize::from(!refused.contains_key(&endpoint.address));
                }
                continue;
            }
            let known = by_address.entry(SocketAddr::new(endpoint.address, number)).or_insert(endpoint);
            if preference(endpoint) > preference(known) {
                *known = endpoint;
            }
        }
        let of = |(at, endpoint)| Candidate { at, endpoint, weight: 1, failing: false };
        let list: Vec<_> = by_address.into_iter().map(of).collect();
        let every_ready = |test: fn(&Endpoint) -> bool| {
            let mut ready = list.iter().filter(|candidate| candidate.ready()).peekable();
            ready.peek().is_some() && ready.all(|candidate| test(candidate.endpoint))
        };
        let hints_nodes = every_ready(|endpoint| !endpoint.hint_nodes.is_empty());
        let hints_zones = every_ready(|endpoint| !endpoint.hint_zones.is_empty());
        Self { list, refused, refused_more, cut, hints_nodes, hints_zones }
    }

    /// Gives every endpoint its weight.
    pub(super) fn weigh(&mut self, weights: &Weights) {
        self.list.iter_mut().for_each(|candidate| candidate.weight = weights.weight(candidate.endpoint));
    }

    /// Nodes as the endpoints, each at its nodePort.
    pub(super) fn of_nodes(nodes: &'a [Endpoint], node_port: u16) -> Self {
        let at = |endpoint: &'a Endpoint| SocketAddr::new(endpoint.address, node_port);
        let of = |endpoint| Candidate { at: at(endpoint), endpoint, weight: 1, failing: false };
        let mut list: Vec<_> = nodes.iter().map(of).collect();
        list.sort_unstable_by_key(|candidate| candidate.at);
        let refused = BTreeMap::new();
        Self { list, refused, refused_more: 0, cut: false, hints_nodes: false, hints_zones: false }
    }

    /// The Nodes behind whose nodePort these endpoints are served: all of them, or with externalTrafficPolicy Local those
    /// that have a ready one, as a health check of the Node would tell; where none is ready, those that a Node itself
    /// falls back to.
    pub(super) fn nodes(&self, policy: TrafficPolicy, cluster: &Cluster, family: Family) -> Vec<Endpoint> {
        let serves = |node: &str| match policy {
            TrafficPolicy::Cluster => (self.any(), false),
            TrafficPolicy::Local => {
                let has =
                    |test: fn(&Candidate<'a>) -> bool| self.list.iter().any(|at| at.on(node) && test(at));
                (has(Candidate::ready), has(Candidate::fallback))
            }
        };
        let targets = cluster.targets.iter().filter_map(|(node, addresses)| {
            let address = *addresses.iter().find(|address| Family::of(**address) == family)?;
            let (ready, fallback) = serves(node);
            (ready || fallback).then(|| Endpoint {
                ready,
                terminating: !ready,
                node: Some(Arc::clone(node)),
                ..Endpoint::new(address)
            })
        });
        targets.collect()
    }

    /// Every endpoint, usable or not.
    pub(super) fn list(&self) -> &[Candidate<'a>] {
        &self.list
    }

    /// The ready ones, to be weighed or taken for failing.
    pub(super) fn ready_mut(&mut self) -> impl Iterator<Item = &mut Candidate<'a>> {
        self.list.iter_mut().filter(|candidate| candidate.ready())
    }

    /// Takes none for failing where all that are ready do; true if so.
    pub(super) fn pardon_all_failing(&mut self) -> bool {
        let fail = self.list.iter().any(|candidate| candidate.failing);
        let all = fail && !self.list.iter().any(Candidate::ready);
        if all {
            self.list.iter_mut().for_each(|candidate| candidate.failing = false);
        }
        all
    }

    /// What is wrong with endpoints that were left out, a sentence each; few, however many they are.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let named = self.refused.iter().map(|(at, reason)| format!("endpoint {at} refused: {reason}"));
        let more = (self.refused_more > 0).then(|| format!("{} more endpoints refused", self.refused_more));
        let cut = self.cut.then(|| {
            format!("over {OF_A_PORT_MAX} endpoints of a port, or {OF_A_SERVICE_MAX} of all ports: the rest are left out; split the Service")
        });
        named.chain(more).chain(cut)
    }

    /// Whether hints say where to go from some zones.
    pub(super) fn hints_zones(&self) -> bool {
        self.hints_zones
    }

    /// Whether hints say where to go from some Nodes.
    pub(super) fn hints_nodes(&self) -> bool {
        self.hints_nodes
    }

    /// Whether anything may be used at all, from anywhere: decides between REJECT and DROP.
    pub(super) fn any(&self) -> bool {
        self.list.iter().any(|candidate| candidate.ready() || candidate.fallback())
    }

    /// Addresses of ready endpoints on a Node; none: on any, for an appliance that goes straight to pods.
    pub(super) fn ready_on(&self, node: Option<&str>) -> impl Iterator<Item = IpAddr> {
        let ready = self.list.iter().filter(|at| at.ready());
        ready.filter(move |at| node.is_none_or(|node| at.on(node))).map(|at| at.at.ip())
    }

    /// The Cluster set as seen from a place; none: from outside, where hints mean nothing.
    pub(super) fn cluster(&self, place: Option<&Place>) -> Set {
        let ready = self.positions(Candidate::ready);
        if ready.is_empty() {
            return self.positions(Candidate::fallback);
        }
        let hinted = place.and_then(|place| self.hinted(place));
        hinted.unwrap_or(ready)
    }

    /// The ready endpoints that hints name for a place; none when hints do not decide there.
    fn hinted(&self, place: &Place) -> Option<Set> {
        let by_node = self.hints_nodes.then(|| self.positions(|at| at.ready() && at.hints_node(&place.node)));
        if let Some(set) = by_node.filter(|set| !set.is_empty()) {
            return Some(set);
        }
        let zone = place.zone.as_deref().filter(|_| self.hints_zones)?;
        Some(self.positions(|at| at.ready() && at.hints_zone(zone))).filter(|set| !set.is_empty())
    }

    /// The Local set of a Node: hints mean nothing, and the fallback is its own.
    pub(super) fn local(&self, node: &str) -> Set {
        let ready = self.positions(|at| at.ready() && at.on(node));
        if ready.is_empty() { self.positions(|at| at.fallback() && at.on(node)) } else { ready }
    }

    fn positions(&self, test: impl Fn(&Candidate<'a>) -> bool) -> Set {
        (0u32..)
            .zip(&self.list)
            .filter(|(_, candidate)| test(candidate))
            .map(|(position, _)| position)
            .collect()
    }
}

/// Endpoints of a family with the number of each slice port that is this port's.
fn matching<'a>(
    slices: &'a [Arc<EndpointSlice>],
    port: &ServicePort,
    family: Family,
) -> impl Iterator<Item = (&'a Endpoint, u16)> {
    let of_family = slices.iter().filter(move |slice| slice.family == family);
    of_family.flat_map(move |slice| {
        let same = |at: &&SlicePort| at.name == port.name && at.protocol == port.protocol;
        let ports: Vec<_> = slice.ports.iter().filter(same).map(|at| at.port).collect();
        let all = ports.into_iter().flat_map(|number| slice.endpoints.iter().map(move |at| (at, number)));
        all.filter(move |(endpoint, _)| Family::of(endpoint.address) == family)
    })
}

/// Of two entries for one address and port (pod address reuse) the higher one counts; equal ones: the first slice by name.
fn preference(endpoint: &Endpoint) -> (bool, bool, bool) {
    (!endpoint.terminating, endpoint.ready, endpoint.serving)
}
