//! One immutable version of everything that control tells the workers.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use packet::{Family, Protocol};

use crate::{
    Action, AddressKind, Addresses, Adjacencies, Adjacency, Answers, Backend, BackendId, Backends,
    DropReason, Fib, Frontend, Generation, Index, Limits, Lpm, NextHopId, NodeId, Origins, PortId, PortInfo,
    PortSet, ServiceId, ServicePort, Services, Source, Vlan, publish::Published, rss::Rss,
};

/// A version of the tables. Control keeps one to edit and publishes clones: a clone shares every chunk, an edit copies
/// the chunk it touches. Inside an `Arc` it never changes; no worker clones an inner `Arc`.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Which version this is.
    pub generation: Generation,
    /// From a packet's destination to a Service port.
    pub index: Index,
    /// Service ports.
    pub services: Services,
    /// Endpoints.
    pub backends: Backends,
    /// From the endpoints of dnat Services back to their frontends.
    pub origins: Origins,
    /// Pods (podCIDRs) and Nodes (their addresses); what is not in it is outside.
    pub sources: Arc<Lpm<Source>>,
    /// The cluster's service CIDRs.
    pub service_cidrs: Arc<Lpm<()>>,
    /// Routes.
    pub fib: Fib,
    /// Counts up when a prefix changes its next hop or a `NextHopId` is given to another neighbour; not for a new MAC.
    /// A flow whose own copy differs looks its way up again.
    pub fib_epoch: u32,
    adjacencies: Adjacencies,
    /// Own addresses and VIPs.
    pub addresses: Addresses,
    ports: Arc<[PortInfo]>,
    /// The sub-ports, sorted.
    vlans: Arc<[(Vlan, PortId)]>,
    /// The ports that have some.
    trunks: PortSet,
    /// The addresses of everybody in the ports' networks.
    broadcasts: Arc<[Ipv4Addr]>,
    /// A port has a limit of its own for segments.
    clamps: bool,
    /// Source addresses and ports of translated flows.
    pub snat: Arc<SnatConfig>,
    /// The Node of the cluster that the appliance acts as (`nodeName`); `None`: it is off-node.
    pub acts_as: Option<NodeId>,
    /// Workers that share the traffic.
    pub workers: u16,
    /// How they share it; never changes.
    pub rss: Arc<Rss>,
    /// What senders may bring about in a second.
    pub limits: Limits,
    /// What senders are told of packets that go no further.
    pub answers: Answers,
    /// How long flows may stay at a backend that drains or is gone, in milliseconds; `None`: until they end.
    pub drain_deadline_ms: Option<u32>,
    /// Whether control asks the segments who has an address: ports without a mirror then punt news of neighbours too.
    pub asking: bool,
}

impl Tables {
    /// Tables that know nothing: no service, no route, no port; one worker.
    #[must_use]
    pub fn empty(generation: Generation) -> Self {
        Self {
            generation,
            index: Index::default(),
            services: Services::default(),
            backends: Backends::default(),
            origins: Origins::default(),
            sources: Arc::default(),
            service_cidrs: Arc::default(),
            fib: Fib::default(),
            fib_epoch: 0,
            adjacencies: Adjacencies::default(),
            addresses: Addresses::default(),
            ports: Arc::new([]),
            vlans: Arc::new([]),
            trunks: PortSet::NONE,
            broadcasts: Arc::new([]),
            clamps: false,
            snat: Arc::default(),
            acts_as: None,
            workers: 1,
            rss: Arc::default(),
            limits: Limits::default(),
            answers: Answers::default(),
            drain_deadline_ms: None,
            asking: false,
        }
    }

    /// Where a client is.
    #[inline]
    #[must_use]
    pub fn source_of(&self, client: IpAddr) -> Source {
        self.sources.lookup(client).unwrap_or(Source::Outside)
    }

    /// The frontend a packet is addressed to: a VIP, else a nodePort where the address serves them.
    #[inline]
    #[must_use]
    pub fn frontend(&self, dst: IpAddr, protocol: Protocol, port: u16) -> Option<Frontend> {
        self.index.vip(dst, protocol, port).or_else(|| {
            let frontend = self.index.node_port(Family::of(dst), protocol, port)?;
            self.addresses.get(dst)?.node_ports.then_some(frontend)
        })
    }

    /// How a packet is refused that no frontend takes: an unknown port of a clusterIP is rejected, an unallocated
    /// address of a service CIDR dropped; `None` = not a service packet (load-balancer addresses and externalIPs too:
    /// the address may belong to a host).
    #[must_use]
    pub fn refusal(&self, dst: IpAddr) -> Option<Action> {
        if self.addresses.get(dst).is_some_and(|info| info.kind == AddressKind::ClusterIp) {
            return Some(Action::Reject(DropReason::VipPortUnknown));
        }
        self.service_cidrs.contains(dst).then_some(Action::Drop(DropReason::ServiceCidrUnallocated))
    }

    /// The Service port of this name.
    #[inline]
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&ServicePort> {
        self.services.get(id)
    }

    /// The backend of this name.
    #[inline]
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id)
    }

    /// Ports, by [`PortId`].
    #[inline]
    #[must_use]
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// Replaces the ports.
    pub fn set_ports(&mut self, ports: impl Into<Arc<[PortInfo]>>) {
        self.ports = ports.into();
        let vlans = self.ports.iter().filter_map(|port| port.vlan.map(|vlan| (vlan, port.id)));
        let mut vlans: Vec<_> = vlans.collect();
        vlans.sort_unstable();
        let mac = |id| self.port(id).map(|port| port.mac);
        debug_assert!(
            vlans.iter().all(|(vlan, id)| mac(vlan.parent) == mac(*id)),
            "a sub-port has its parent's address"
        );
        self.trunks = vlans.iter().map(|(vlan, _)| vlan.parent).collect();
        self.vlans = vlans.into();
        self.broadcasts = self.ports.iter().flat_map(PortInfo::broadcasts).collect();
        self.clamps = self.ports.iter().any(|port| port.mss.is_some());
        self.adjacencies.relink(&self.ports);
    }

    /// True for the address of everybody in a network of some port.
    #[inline]
    #[must_use]
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if self.broadcasts.contains(&v4))
    }

    /// True if some port lowers the segment sizes that SYNs offer.
    #[inline]
    #[must_use]
    pub const fn clamps_segments(&self) -> bool {
        self.clamps
    }

    /// Next hops.
    #[inline]
    #[must_use]
    pub const fn adjacencies(&self) -> &Adjacencies {
        &self.adjacencies
    }

    /// Sets a next hop; gives back what was there. Equal content copies nothing.
    pub fn set_adjacency(&mut self, id: NextHopId, adjacency: Adjacency) -> Option<Adjacency> {
        self.adjacencies.insert(id, adjacency, &self.ports)
    }

    /// Takes a next hop out; gives it back.
    pub fn remove_adjacency(&mut self, id: NextHopId) -> Option<Adjacency> {
        self.adjacencies.remove(id)
    }

    /// True if frames of sub-ports come in by this port.
    #[inline]
    #[must_use]
    pub const fn is_trunk(&self, port: PortId) -> bool {
        self.trunks.contains(port)
    }

    /// The sub-port with the frames of a VLAN at a port.
    #[must_use]
    pub fn sub_port(&self, vlan: Vlan) -> Option<PortId> {
        let at = self.vlans.binary_search_by_key(&vlan, |(vlan, _)| *vlan).ok()?;
        Some(self.vlans[at].1)
    }

    /// The port of this number.
    #[inline]
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&PortInfo> {
        self.ports.get(id.index())
    }
}

impl Published for Tables {
    fn generation(&self) -> Generation {
        self.generation
    }
}

/// Where translated flows may come from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SnatConfig {
    /// Addresses in the order of preference; where a family has none, the egress port's first address of it.
    pub addresses: Box<[IpAddr]>,
    /// Ports at those addresses.
    pub ports: SnatRange,
}

/// A range of ports with holes for nodePorts and the appliance's own listeners.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SnatRange {
    first: u16,
    last: u16,
    /// One bit for each of the 65,536 ports.
    reserved: Box<[u64; 1024]>,
}

impl SnatRange {
    /// The ports from `first` to `last`, both included, without those `reserved`. An empty range if `last < first`.
    #[must_use]
    pub fn new(first: u16, last: u16, reserved: impl IntoIterator<Item = u16>) -> Self {
        let mut map = Box::new([0u64; 1024]);
        for port in reserved {
            map[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        Self { first, last, reserved: map }
    }

    /// Lowest port.
    #[inline]
    #[must_use]
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// Highest port.
    #[inline]
    #[must_use]
    pub const fn last(&self) -> u16 {
        self.last
    }

    /// True if a flow may be translated to this port.
    #[inline]
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
            && self.reserved[usize::from(port >> 6)] >> (port & 63) & 1 == 0
    }
}

impl Default for SnatRange {
    /// 1024-60999: above it are the kernel's own ports.
    fn default() -> Self {
        Self::new(1024, 60_999, [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddressInfo, FrontendKey, FrontendKind, PortSet};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_have_holes() {
        let range = SnatRange::new(1024, 60_999, [30_080]);
        for (port, expected) in
            [(1023, false), (1024, true), (30_080, false), (60_999, true), (61_000, false)]
        {
            assert_eq!(range.contains(port), expected, "{port}");
        }
        assert!(!SnatRange::new(2000, 1000, []).contains(1500));
    }

    #[test]
    fn destinations_are_classified() {
        let mut tables = Tables::empty(Generation(1));
        let service = ServiceId::new(0, 0).unwrap();
        let vip = FrontendKey { address: ip("10.96.0.10"), protocol: Protocol::Tcp, port: 80 };
        tables.index.insert_vip(vip, Frontend { service, kind: FrontendKind::ClusterIp });
        tables.index.insert_node_port(Family::V4, Protocol::Tcp, 30_080, service);
        tables.service_cidrs = Arc::new(Lpm::build([("10.96.0.0/16".parse().unwrap(), ())]));
        let info =
            |kind, node_ports| AddressInfo { kind, answer_arp: PortSet::ALL, usable: true, node_ports };
        tables.addresses.insert(vip.address, info(AddressKind::ClusterIp, false));
        tables.addresses.insert(ip("192.0.2.1"), info(AddressKind::Own(PortId(0)), true));
        tables.addresses.insert(ip("192.0.2.2"), info(AddressKind::Own(PortId(0)), false));
        tables.addresses.insert(ip("203.0.113.1"), info(AddressKind::LoadBalancer, false));

        let kind = |dst, port| tables.frontend(ip(dst), Protocol::Tcp, port).map(|at| at.kind);
        assert_eq!(kind("10.96.0.10", 80), Some(FrontendKind::ClusterIp));
        assert_eq!(kind("192.0.2.1", 30_080), Some(FrontendKind::NodePort));
        assert_eq!(kind("192.0.2.2", 30_080), None, "no nodePorts on this address");
        assert_eq!(kind("10.96.0.10", 30_080), None, "a clusterIP is no nodePort address");
        assert_eq!(tables.refusal(ip("10.96.0.10")), Some(Action::Reject(DropReason::VipPortUnknown)));
        assert_eq!(tables.refusal(ip("10.96.0.11")), Some(Action::Drop(DropReason::ServiceCidrUnallocated)));
        assert_eq!(tables.refusal(ip("203.0.113.1")), None);
    }

    #[test]
    fn clients_are_placed() {
        let mut tables = Tables::empty(Generation(1));
        tables.sources = Arc::new(Lpm::build([
            ("10.244.1.0/24".parse().unwrap(), Source::Pod(NodeId(1))),
            ("10.0.0.11/32".parse().unwrap(), Source::Node(NodeId(1))),
        ]));
        assert_eq!(tables.source_of(ip("10.244.1.9")), Source::Pod(NodeId(1)));
        assert_eq!(tables.source_of(ip("10.0.0.11")), Source::Node(NodeId(1)));
        assert_eq!(tables.source_of(ip("10.0.0.12")), Source::Outside);
    }
}
