//! What a Service port does with a packet: rules by where the client is, pools of backends.

use std::{net::IpAddr, sync::Arc};

use packet::Protocol;

use crate::{
    BackendId, DropReason, FrontendKind, IdleTimeout, Lpm, NodeId, ServiceId, chunked::Chunked,
    maglev::Maglev,
};

/// One port of a Service in one family: everything a new flow needs, decided beforehand.
///
/// The alignment keeps the reference count of its `Arc` off its first line.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct ServicePort {
    /// Its own name.
    pub id: ServiceId,
    /// Transport protocol.
    pub protocol: Protocol,
    /// For clusterIPs (internalTrafficPolicy).
    pub internal: Rule,
    /// For nodePorts, externalIPs and load-balancer addresses (externalTrafficPolicy).
    pub external: Rule,
    /// The sets of backends that the rules name; equal sets are one.
    pub pools: Box<[Pool]>,
    /// Seconds that a client stays with its backend (sessionAffinity ClientIP).
    pub affinity_timeout_s: Option<u32>,
    /// How long UDP flows may be silent.
    pub udp_idle: IdleTimeout,
    /// New flows a second that a worker admits, 0: any number; without it as [`crate::Limits`] say.
    pub flows_per_second: Option<u32>,
    /// Who may use the load-balancer addresses; `None` = everyone. No other frontend is guarded.
    pub source_ranges: Option<Arc<Lpm<()>>>,
    /// Who may use it, whatever the frontend; `None` = everyone.
    pub access: Option<Arc<Access>>,
    /// For people; no packet needs it.
    pub info: Arc<ServiceInfo>,
}

/// Who may use a Service: the longest prefix that holds a client's address decides.
#[derive(Clone, Debug)]
pub struct Access {
    /// Whether the clients of a prefix are let in.
    pub lists: Lpm<bool>,
    /// Whether clients that no prefix holds are let in.
    pub others: bool,
}

impl Access {
    /// Whether a client is let in.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.lists.lookup(client).unwrap_or(self.others)
    }
}

/// The cold part of a [`ServicePort`]: what `trace` and `show` print.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceInfo {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty if it has none.
    pub port_name: String,
    /// The Service's own port number.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How the external frontends translate, before exceptions for single flows.
    pub mode: NatMode,
}

/// Whether the client's address is replaced too.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NatMode {
    /// Destination only; the client's address is kept, so replies must come back through this appliance.
    Dnat,
    /// Both, the source to an address of the appliance; works with any topology.
    Snat,
}

/// What to do with a new flow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Choose from the pool of this position.
    Balance(u16),
    /// Drop without an answer.
    Drop(DropReason),
    /// Drop and tell the client (TCP: RST, else ICMP port unreachable).
    Reject(DropReason),
}

/// An action and the translation that goes with it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Choice {
    /// What to do.
    pub action: Action,
    /// How a balanced flow is translated.
    pub mode: NatMode,
}

/// Where a client is, by its address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// A Node's own address.
    Node(NodeId),
    /// Neither a pod nor a Node.
    Outside,
    /// A pod, by the podCIDRs of its Node.
    Pod(NodeId),
}

/// What to do by where the client is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// For clients that are neither pods nor Nodes.
    pub outside: Choice,
    /// For pods of Nodes without an override.
    pub pod: Choice,
    /// For Nodes without an override.
    pub node: Choice,
    /// Overrides, sorted by Node: Local policies and topology hints.
    pub by_node: Box<[NodeRule]>,
}

/// What clients at one Node get instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeRule {
    /// The Node.
    pub node: NodeId,
    /// For its pods.
    pub pod: Choice,
    /// For the Node itself.
    pub own: Choice,
}

/// A set of backends among which a hash chooses.
#[derive(Clone, Debug)]
pub struct Pool {
    /// From hash to position in `backends`; `None` where there is one backend or none.
    pub maglev: Option<Arc<Maglev>>,
    /// The eligible backends.
    pub backends: Arc<[BackendId]>,
}

impl Rule {
    /// The same for every client.
    #[must_use]
    pub fn same(choice: Choice) -> Self {
        Self { outside: choice, pod: choice, node: choice, by_node: Box::new([]) }
    }

    /// What this client gets.
    #[must_use]
    pub fn choose(&self, source: Source) -> Choice {
        match source {
            Source::Outside => self.outside,
            Source::Pod(node) => self.at(node).map_or(self.pod, |rule| rule.pod),
            Source::Node(node) => self.at(node).map_or(self.node, |rule| rule.own),
        }
    }

    fn at(&self, node: NodeId) -> Option<&NodeRule> {
        debug_assert!(self.by_node.is_sorted_by_key(|rule| rule.node), "compiled in order");
        let at = self.by_node.binary_search_by_key(&node, |rule| rule.node).ok()?;
        Some(&self.by_node[at])
    }
}

impl Pool {
    /// The backend for a hash; `None` only from an empty pool.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Option<BackendId> {
        let local = self.maglev.as_ref().map_or(0, |maglev| maglev.lookup(hash));
        self.backends.get(usize::from(local)).copied()
    }
}

impl ServicePort {
    /// The rule for packets that came in by this kind of frontend.
    #[inline]
    #[must_use]
    pub const fn rule(&self, kind: FrontendKind) -> &Rule {
        match kind {
            FrontendKind::ClusterIp => &self.internal,
            FrontendKind::ExternalIp | FrontendKind::LoadBalancer | FrontendKind::NodePort => &self.external,
        }
    }

    /// False where loadBalancerSourceRanges keep this client out; asked before anything else.
    #[must_use]
    pub fn admits(&self, kind: FrontendKind, client: IpAddr) -> bool {
        match &self.source_ranges {
            Some(ranges) if kind == FrontendKind::LoadBalancer => ranges.contains(client),
            _ => true,
        }
    }

    /// What a new flow of this client gets, source ranges and lists included.
    #[must_use]
    pub fn choose(&self, kind: FrontendKind, client: IpAddr, source: Source) -> Choice {
        let choice = self.rule(kind).choose(source);
        if !self.admits(kind, client) {
            return Choice { action: Action::Drop(DropReason::SourceRange), ..choice };
        }
        match &self.access {
            Some(access) if !access.admits(client) => {
                Choice { action: Action::Drop(DropReason::SourceListed), ..choice }
            }
            _ => choice,
        }
    }

    /// The pool of this position.
    #[inline]
    #[must_use]
    pub fn pool(&self, index: u16) -> Option<&Pool> {
        self.pools.get(usize::from(index))
    }
}

/// Every [`ServicePort`] by its [`ServiceId`].
#[derive(Clone, Debug, Default)]
pub struct Services {
    slots: Chunked<Arc<ServicePort>, 128>,
}

impl Services {
    /// The Service port of this name, if the slot is still in the same use.
    #[inline]
    #[must_use]
    pub fn get(&self, id: ServiceId) -> Option<&ServicePort> {
        let service = self.slots.get(id.slot() as usize)?;
        (service.id == id).then_some(service)
    }

    /// Puts a Service port in the slot of its id; gives back what was there.
    pub fn insert(&mut self, service: Arc<ServicePort>) -> Option<Arc<ServicePort>> {
        self.slots.set(service.id.slot() as usize, service)
    }

    /// Takes out the Service port of this name; another use of its slot stays.
    pub fn remove(&mut self, id: ServiceId) -> Option<Arc<ServicePort>> {
        self.get(id)?;
        self.slots.clear(id.slot() as usize)
    }

    /// Every Service port, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &ServicePort> {
        self.slots.iter().map(|(_, service)| &**service)
    }

    /// Bytes on the heap, without the Service ports themselves.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// True without any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Chunks that edits since `older` have copied.
    #[must_use]
    pub fn chunks_changed_since(&self, older: &Self) -> usize {
        self.slots.chunks_changed_since(&older.slots)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn to(pool: u16, mode: NatMode) -> Choice {
        Choice { action: Action::Balance(pool), mode }
    }

    fn service(slot: u32, epoch: u8) -> Arc<ServicePort> {
        let info = ServiceInfo {
            namespace: "default".into(),
            name: "web".into(),
            port_name: String::new(),
            port: 80,
            protocol: Protocol::Tcp,
            mode: NatMode::Snat,
        };
        Arc::new(ServicePort {
            id: ServiceId::new(slot, epoch).unwrap(),
            protocol: Protocol::Tcp,
            internal: Rule::same(to(0, NatMode::Dnat)),
            external: Rule::same(to(1, NatMode::Snat)),
            pools: Box::new([]),
            affinity_timeout_s: None,
            udp_idle: IdleTimeout::NONE,
            flows_per_second: None,
            source_ranges: Some(Arc::new(Lpm::build([("203.0.113.0/24".parse().unwrap(), ())]))),
            access: None,
            info: Arc::new(info),
        })
    }

    #[test]
    fn a_node_override_beats_the_general_choice() {
        let none = Choice { action: Action::Drop(DropReason::NoLocalEndpoints), mode: NatMode::Dnat };
        let rule = Rule {
            outside: none,
            pod: to(0, NatMode::Dnat),
            node: to(0, NatMode::Snat),
            by_node: [3, 9]
                .map(|n| NodeRule { node: NodeId(n), pod: to(1, NatMode::Dnat), own: none })
                .into(),
        };
        for (source, expected) in [
            (Source::Outside, none),
            (Source::Pod(NodeId(4)), to(0, NatMode::Dnat)),
            (Source::Node(NodeId(4)), to(0, NatMode::Snat)),
            (Source::Pod(NodeId(9)), to(1, NatMode::Dnat)),
            (Source::Node(NodeId(3)), none),
        ] {
            assert_eq!(rule.choose(source), expected, "{source:?}");
        }
    }

    #[test]
    fn source_ranges_guard_load_balancer_addresses_alone() {
        let service = service(0, 0);
        let (inside, outside) = ("203.0.113.9".parse().unwrap(), "198.51.100.9".parse().unwrap());
        let choose = |kind, client| service.choose(kind, client, Source::Outside).action;
        assert_eq!(choose(FrontendKind::LoadBalancer, inside), Action::Balance(1));
        assert_eq!(choose(FrontendKind::LoadBalancer, outside), Action::Drop(DropReason::SourceRange));
        assert_eq!(choose(FrontendKind::NodePort, outside), Action::Balance(1));
        assert_eq!(choose(FrontendKind::ClusterIp, outside), Action::Balance(0));
    }

    #[test]
    fn lists_guard_every_frontend_and_the_longest_prefix_decides() {
        let prefix = |text: &str, admitted| (text.parse().unwrap(), admitted);
        let lists = [
            prefix("198.51.0.0/16", false),
            prefix("198.51.100.0/24", true),
            prefix("198.51.100.7/32", false),
        ];
        for others in [true, false] {
            let access = Some(Arc::new(Access { lists: lists.into_iter().collect(), others }));
            let service = ServicePort { access, source_ranges: None, ..(*service(0, 0)).clone() };
            for (client, admitted) in [
                ("198.51.1.1", false),
                ("198.51.100.1", true),
                ("198.51.100.7", false),
                ("192.0.2.1", others),
                ("2001:db8::1", others),
            ] {
                for kind in [
                    FrontendKind::ClusterIp,
                    FrontendKind::ExternalIp,
                    FrontendKind::LoadBalancer,
                    FrontendKind::NodePort,
                ] {
                    let action = service.choose(kind, client.parse().unwrap(), Source::Outside).action;
                    let denied = action == Action::Drop(DropReason::SourceListed);
                    assert_eq!(denied, !admitted, "{client} {kind:?} {others}");
                }
            }
        }
    }

    #[test]
    fn an_old_epoch_names_nothing() {
        let mut services = Services::default();
        services.insert(service(5, 1));
        let [old, new] = [0, 1].map(|epoch| ServiceId::new(5, epoch).unwrap());
        assert!(services.get(old).is_none() && services.get(new).is_some());
        assert!(services.remove(old).is_none() && services.len() == 1);
        assert!(services.remove(new).is_some() && services.is_empty());
        assert!(services.get(ServiceId::NONE).is_none());
    }

    proptest! {
        #[test]
        fn a_rule_equals_a_linear_scan(overrides in btree_map(0u32..20, (1u16..9, 1u16..9), 0..12), node in 0u32..20) {
            let by_node: Vec<_> = overrides
                .iter()
                .map(|(&node, &(pod, own))| NodeRule {
                    node: NodeId(node),
                    pod: to(pod, NatMode::Dnat),
                    own: to(own, NatMode::Snat),
                })
                .collect();
            let rule = Rule { by_node: by_node.clone().into(), ..Rule::same(to(0, NatMode::Snat)) };
            let found = by_node.iter().find(|rule| rule.node == NodeId(node));
            prop_assert_eq!(rule.choose(Source::Outside), rule.outside);
            prop_assert_eq!(rule.choose(Source::Pod(NodeId(node))), found.map_or(rule.pod, |rule| rule.pod));
            prop_assert_eq!(rule.choose(Source::Node(NodeId(node))), found.map_or(rule.node, |rule| rule.own));
        }
    }
}
