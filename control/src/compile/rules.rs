//! From sets of endpoints to the rule of each frontend kind: who gets which set, with which translation.
//! Source: SEMANTICS of kube-proxy (policies, topology, masquerade) for an appliance that is a Node; without a Node the
//! client's Node stands in for "this node", and clients on Nodes are always translated because replies would not pass us.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tables::{Action, Choice, DropReason, IdleTimeout, NatMode, NodeId, NodeRule, Rule};

use super::cluster::{Cluster, Place};
use super::endpoints::{Candidates, Set};
use crate::model::TrafficPolicy;

/// What the rules of one Service port depend on besides its endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// `internalTrafficPolicy`.
    pub(super) internal: TrafficPolicy,
    /// `externalTrafficPolicy`.
    pub(super) external: TrafficPolicy,
    /// Whether pods of the family can be told from other clients.
    pub(super) detects_pods: bool,
    /// Mode that was asked for; none: `auto`.
    pub(super) mode: Option<NatMode>,
    /// New flows a second, where the Service says.
    pub(super) flows_per_second: Option<u32>,
    /// How long UDP flows may be silent.
    pub(super) udp_idle: IdleTimeout,
}

impl Policy {
    /// How clients outside the cluster are translated at the external frontends.
    pub(super) fn external_mode(&self) -> NatMode {
        self.mode.unwrap_or(match self.external {
            TrafficPolicy::Cluster => NatMode::Snat,
            TrafficPolicy::Local => NatMode::Dnat,
        })
    }
}

/// The rules and the sets they name by position.
#[derive(Debug)]
pub(super) struct Rules {
    /// For clusterIPs.
    pub(super) internal: Rule,
    /// For everything else.
    pub(super) external: Rule,
    /// The sets, each once.
    pub(super) sets: Vec<Set>,
}

/// Decides for one Service port.
pub(super) fn decide(candidates: &Candidates<'_>, policy: Policy, cluster: &Cluster) -> Rules {
    let mut rules =
        Builder { candidates, any: candidates.any(), sets: Vec::new(), positions: HashMap::new() };
    let (internal, external) = match &cluster.this {
        Some(this) => rules.on_node(policy, this),
        None => rules.off_node(policy, cluster),
    };
    Rules { internal, external, sets: rules.sets }
}

struct Builder<'a, 'b> {
    candidates: &'a Candidates<'b>,
    any: bool,
    sets: Vec<Set>,
    positions: HashMap<Set, u16>,
}

impl Builder<'_, '_> {
    /// The action for a set: an empty one is a DROP while another Node has endpoints, else a REJECT.
    fn action(&mut self, set: Set) -> Action {
        if set.is_empty() {
            return if self.any {
                Action::Drop(DropReason::NoLocalEndpoints)
            } else {
                Action::Reject(DropReason::NoEndpoints)
            };
        }
        if let Some(position) = self.positions.get(&set) {
            return Action::Balance(*position);
        }
        // More sets than a u16 counts would need as many Nodes with hints of their own; the last is shared then.
        let position = u16::try_from(self.sets.len()).unwrap_or(u16::MAX);
        if position < u16::MAX {
            self.positions.insert(set.clone(), position);
            self.sets.push(set);
            return Action::Balance(position);
        }
        Action::Balance(0)
    }

    fn cluster(&mut self, place: Option<&Place>, mode: NatMode) -> Choice {
        let set = self.candidates.cluster(place);
        Choice { action: self.action(set), mode }
    }

    fn local(&mut self, node: &str, mode: NatMode) -> Choice {
        let set = self.candidates.local(node);
        Choice { action: self.action(set), mode }
    }

    /// What kube-proxy on that Node does.
    fn on_node(&mut self, policy: Policy, this: &Place) -> (Rule, Rule) {
        let (snat, dnat) = (NatMode::Snat, NatMode::Dnat);
        let always_snat = policy.mode == Some(snat);
        let pod_mode = if always_snat { snat } else { dnat };
        // No way to tell pods from others: kube-proxy then leaves sources alone.
        let (outside, own) = if policy.detects_pods || always_snat {
            (policy.mode.unwrap_or(snat), snat)
        } else {
            (dnat, dnat)
        };
        let internal = match policy.internal {
            TrafficPolicy::Cluster => self.cluster(Some(this), outside),
            TrafficPolicy::Local => self.local(&this.node, outside),
        };
        let internal = Rule {
            outside: internal,
            pod: Choice { mode: pod_mode, ..internal },
            node: Choice { mode: own, ..internal },
            by_node: Box::new([]),
        };
        let external = match policy.external {
            TrafficPolicy::Cluster => {
                let all = self.cluster(Some(this), policy.external_mode());
                let inside = Choice { mode: snat, ..all };
                Rule { outside: all, pod: inside, node: inside, by_node: Box::new([]) }
            }
            TrafficPolicy::Local => {
                let local = self.local(&this.node, policy.external_mode());
                let pod = self.cluster(Some(this), pod_mode);
                let own = self.cluster(Some(this), snat);
                let by_node = Box::new([NodeRule { node: this.id, pod, own }]);
                Rule { outside: local, pod, node: local, by_node }
            }
        };
        (internal, external)
    }

    /// No endpoint is local to the appliance: Local means the client's Node for clusterIPs, and for the outside "keep
    /// the client's address and take no second hop", which any endpoint satisfies.
    fn off_node(&mut self, policy: Policy, cluster: &Cluster) -> (Rule, Rule) {
        let by_topology = self.by_topology(cluster);
        let inside = self.cluster(None, NatMode::Snat);
        let external = Rule {
            outside: Choice { mode: policy.external_mode(), ..inside },
            pod: inside,
            node: inside,
            by_node: by_topology.clone(),
        };
        let outside_mode = policy.mode.unwrap_or(NatMode::Snat);
        let internal = match policy.internal {
            TrafficPolicy::Cluster => {
                let outside = Choice { mode: outside_mode, ..inside };
                Rule { outside, pod: inside, node: inside, by_node: by_topology }
            }
            TrafficPolicy::Local => {
                let nowhere = Choice { action: self.action(Set::new()), mode: NatMode::Snat };
                let outside = Choice { mode: outside_mode, ..nowhere };
                Rule { outside, pod: nowhere, node: nowhere, by_node: self.by_locality(cluster) }
            }
        };
        (internal, external)
    }

    /// Overrides for the Nodes for which hints name fewer endpoints than all.
    fn by_topology(&mut self, cluster: &Cluster) -> Box<[NodeRule]> {
        let everywhere = self.candidates.cluster(None);
        let mut overrides = BTreeMap::new();
        for place in self.hinted_places(cluster) {
            let set = self.candidates.cluster(Some(place));
            if set != everywhere {
                let choice = Choice { action: self.action(set), mode: NatMode::Snat };
                overrides.insert(place.id, choice);
            }
        }
        node_rules(overrides)
    }

    /// The Nodes that some hint names, itself or by its zone.
    fn hinted_places<'c>(&self, cluster: &'c Cluster) -> impl Iterator<Item = &'c Place> + use<'c> {
        let mut names: BTreeMap<&str, &Place> = BTreeMap::new();
        let mut add = |name: &Arc<str>| {
            if let Some((name, place)) = cluster.places.get_key_value(name) {
                names.insert(name, place);
            }
        };
        for candidate in self.candidates.list() {
            if self.candidates.hints_nodes() {
                candidate.endpoint.hint_nodes.iter().for_each(&mut add);
            }
            if self.candidates.hints_zones() {
                let zones = candidate.endpoint.hint_zones.iter().filter_map(|zone| cluster.zones.get(zone));
                zones.flatten().for_each(&mut add);
            }
        }
        names.into_values()
    }

    /// Overrides for the Nodes that have endpoints.
    fn by_locality(&mut self, cluster: &Cluster) -> Box<[NodeRule]> {
        let names: std::collections::BTreeSet<_> =
            self.candidates.list().iter().filter_map(|candidate| candidate.endpoint.node.as_ref()).collect();
        let mut overrides = BTreeMap::new();
        for place in names.into_iter().filter_map(|name| cluster.places.get(name)) {
            let choice = self.local(&place.node, NatMode::Snat);
            overrides.insert(place.id, choice);
        }
        node_rules(overrides)
    }
}

fn node_rules(overrides: BTreeMap<NodeId, Choice>) -> Box<[NodeRule]> {
    overrides.into_iter().map(|(node, choice)| NodeRule { node, pod: choice, own: choice }).collect()
}
