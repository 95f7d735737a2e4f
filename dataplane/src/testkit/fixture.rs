//! Tables built by hand, as the compiler would build them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use packet::{Family, MacAddr, Protocol};
use tables::{
    Action, AddressInfo, AddressKind, Adjacency, AdjacencyState, Backend, BackendId, BackendState, Choice,
    DropReason, Frontend, FrontendKey, FrontendKind, Generation, IdleTimeout, Lpm, NatMode, NextHopId,
    Origin, Origins, Pool, PortAddress, PortId, PortInfo, PortSet, Prefix, Route, Rule, Serves, ServiceId,
    ServiceInfo, ServicePort, Source, Spread, Tables, Vlan,
    maglev::{Maglev, Member, name_of},
};

/// The port towards the clients: 192.0.2.1/24, 2001:db8:1::1/64.
pub const OUTSIDE: PortId = PortId(0);
/// The port towards the Nodes: 10.0.0.1/24, fd00::1/64.
pub const INSIDE: PortId = PortId(1);

/// Tables under construction; [`Fixture::tables`] gives a version of them, each with a new generation.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The tables so far, but for the tries.
    pub tables: Tables,
    routes: Vec<(Prefix, Route)>,
    sources: Vec<(Prefix, Source)>,
    service_cidrs: Vec<(Prefix, ())>,
    hops: u16,
    services: u32,
    backends: u32,
}

impl Fixture {
    /// Two ports with their connected networks, and nothing else.
    #[must_use]
    pub fn new() -> Self {
        let mut fixture = Self {
            tables: Tables::empty(Generation(0)),
            routes: Vec::new(),
            sources: Vec::new(),
            service_cidrs: Vec::new(),
            hops: 0,
            services: 0,
            backends: 0,
        };
        fixture.port(OUTSIDE, "outside", &[("192.0.2.1", 24), ("2001:db8:1::1", 64)]);
        fixture.port(INSIDE, "inside", &[("10.0.0.1", 24), ("fd00::1", 64)]);
        fixture
    }

    /// Clients 192.0.2.2 and 2001:db8:1::2 and the way to all others outside; two Nodes (10.0.0.11 and .12, fd00::11
    /// and ::12) with their pods (10.244.1.0/24 and .2.0/24, fd00:244:1::/64 and :2::/64); service CIDRs.
    #[must_use]
    pub fn data_centre() -> Self {
        let mut fixture = Self::new();
        for (address, last) in
            [("192.0.2.2", 2), ("192.0.2.254", 254), ("2001:db8:1::2", 2), ("2001:db8:1::fe", 254)]
        {
            fixture.neighbor(OUTSIDE, address, last);
        }
        fixture.route("0.0.0.0/0", "192.0.2.254");
        fixture.route("::/0", "2001:db8:1::fe");
        for node in [1, 2] {
            for (address, pods) in [
                (format!("10.0.0.1{node}"), format!("10.244.{node}.0/24")),
                (format!("fd00::1{node}"), format!("fd00:244:{node}::/64")),
            ] {
                fixture.neighbor(INSIDE, &address, 10 + node);
                fixture.route(&pods, &address);
                fixture.source(&pods, Source::Pod(tables::NodeId(node.into())));
                let host = Prefix::host(ip(&address));
                fixture.sources.push((host, Source::Node(tables::NodeId(node.into()))));
            }
        }
        fixture.service_cidr("10.96.0.0/16");
        fixture.service_cidr("fd00:96::/112");
        fixture
    }

    /// Adds a port with its addresses and connected networks.
    pub fn port(&mut self, id: PortId, name: &str, addresses: &[(&str, u8)]) {
        let at = |(address, length): &(&str, u8)| PortAddress::new(ip(address), *length).expect("a network");
        let addresses: Box<[PortAddress]> = addresses.iter().map(at).collect();
        for at in &addresses {
            self.routes.push((at.network, Route::Connected(id)));
            let info = AddressInfo {
                kind: AddressKind::Own(id),
                answer_arp: PortSet::of(id),
                usable: true,
                node_ports: true,
            };
            self.tables.addresses.insert(at.address, info);
        }
        let info = PortInfo {
            id,
            vlan: None,
            name: name.into(),
            mac: Self::port_mac(id),
            mtu: 1500,
            mss: None,
            serves: Serves::ALL,
            addresses,
        };
        let ports: Vec<_> = self.tables.ports().iter().cloned().chain([info]).collect();
        self.tables.set_ports(ports);
    }

    /// Adds a sub-port of another port, which comes before it, with its addresses and connected networks.
    pub fn sub_port(&mut self, id: PortId, (vlan, name): (Vlan, &str), addresses: &[(&str, u8)]) {
        self.port(id, name, addresses);
        let mut ports = self.tables.ports().to_vec();
        let mac = ports[vlan.parent.index()].mac;
        ports[id.index()] = PortInfo { vlan: Some(vlan), mac, ..ports[id.index()].clone() };
        self.tables.set_ports(ports);
    }

    /// The Ethernet address of a port.
    #[must_use]
    pub fn port_mac(id: PortId) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, u8::try_from(id.0).expect("few ports") + 1])
    }

    /// The Ethernet address of a neighbour added with this `last`.
    #[must_use]
    pub const fn neighbor_mac(port: PortId, last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 1, (port.0 & 0xff) as u8, last])
    }

    /// Adds a neighbour that has answered, or makes one answer that had not.
    pub fn neighbor(&mut self, port: PortId, address: &str, last: u8) -> NextHopId {
        self.set_neighbor(port, address, AdjacencyState::Resolved { dst: Self::neighbor_mac(port, last) })
    }

    /// Adds a neighbour in this state, or changes one.
    pub fn set_neighbor(&mut self, port: PortId, address: &str, state: AdjacencyState) -> NextHopId {
        let adjacency = Adjacency { port, address: ip(address), state };
        let known = self.tables.adjacencies().iter().find(|(_, other)| other.address == adjacency.address);
        let hop = known.map(|(id, _)| id).unwrap_or(NextHopId(self.hops));
        self.hops = self.hops.max(hop.0 + 1);
        self.tables.set_adjacency(hop, adjacency);
        self.tables.fib.insert_host(ip(address), Route::Via(hop));
        hop
    }

    /// Adds a route over a neighbour.
    pub fn route(&mut self, to: &str, via: &str) {
        let hop = self.tables.adjacencies().iter().find(|(_, adjacency)| adjacency.address == ip(via));
        let hop = hop.expect("add the neighbour first").0;
        self.special_route(to, Route::Via(hop));
    }

    /// Adds a route over several neighbours.
    pub fn spread_route(&mut self, to: &str, via: &[&str]) {
        let known: Vec<_> = self.tables.adjacencies().iter().map(|(id, hop)| (hop.address, id)).collect();
        let hop = |via: &&str| known.iter().find(|(address, _)| *address == ip(via)).expect("add it first");
        let set = Spread::new(via.iter().map(hop).map(|(address, id)| (*id, *address)));
        let index = u16::try_from(self.tables.fib.spreads.len()).expect("few sets");
        self.tables.fib.spreads = self.tables.fib.spreads.iter().cloned().chain([set]).collect();
        self.special_route(to, Route::Spread(index));
    }

    /// Adds any route.
    pub fn special_route(&mut self, to: &str, route: Route) {
        self.routes.push((prefix(to), route));
        self.tables.fib_epoch += 1;
    }

    /// Says who has the addresses of a prefix.
    pub fn source(&mut self, of: &str, source: Source) {
        self.sources.push((prefix(of), source));
    }

    /// Adds a service CIDR.
    pub fn service_cidr(&mut self, cidr: &str) {
        self.service_cidrs.push((prefix(cidr), ()));
    }

    /// Adds a Service port whose every client gets any of these `address:port` backends; without any, a refusal.
    pub fn service(&mut self, name: &str, protocol: Protocol, backends: &[&str], mode: NatMode) -> ServiceId {
        let pool = self.pool(backends);
        let none = pool.backends.is_empty();
        let action = if none { Action::Reject(DropReason::NoEndpoints) } else { Action::Balance(0) };
        let rule = Rule::same(Choice { action, mode });
        self.custom_service(name, protocol, (rule.clone(), rule), vec![pool])
    }

    /// Adds a Service port with its own internal and external rules.
    pub fn custom_service(
        &mut self,
        name: &str,
        protocol: Protocol,
        (internal, external): (Rule, Rule),
        pools: Vec<Pool>,
    ) -> ServiceId {
        let id = ServiceId::new(self.services, 0).expect("few services");
        self.services += 1;
        let info = ServiceInfo {
            namespace: "default".into(),
            name: name.into(),
            port_name: String::new(),
            port: 80,
            protocol,
            mode: external.outside.mode,
        };
        self.put_service(ServicePort {
            id,
            protocol,
            internal,
            external,
            pools: pools.into(),
            affinity_timeout_s: None,
            udp_idle: IdleTimeout::NONE,
            flows_per_second: None,
            source_ranges: None,
            access: None,
            info: Arc::new(info),
        });
        id
    }

    /// Replaces a Service port.
    pub fn put_service(&mut self, service: ServicePort) {
        self.tables.services.insert(Arc::new(service));
    }

    /// A copy of a Service port, to be changed and put back.
    #[must_use]
    pub fn get_service(&self, id: ServiceId) -> ServicePort {
        self.tables.service(id).expect("a service of this fixture").clone()
    }

    /// New backends, and the pool of all of them.
    pub fn pool(&mut self, backends: &[&str]) -> Pool {
        let ids: Vec<_> = backends.iter().map(|at| self.backend(at)).collect();
        self.pool_of(&ids)
    }

    /// A pool of known backends.
    #[must_use]
    pub fn pool_of(&self, ids: &[BackendId]) -> Pool {
        let member = |id: &BackendId| {
            let backend = self.tables.backend(*id).expect("a backend of this fixture");
            Member { name: name_of(backend.address, backend.port), weight: backend.weight }
        };
        let members: Vec<Member> = ids.iter().map(member).collect();
        let maglev = (ids.len() > 1).then(|| Arc::new(Maglev::build(&members).expect("members with weight")));
        Pool { maglev, backends: ids.into() }
    }

    /// Gives a backend another weight; pools made from now on have it.
    pub fn weigh(&mut self, id: BackendId, weight: u16) {
        let backend = *self.tables.backend(id).expect("a backend of this fixture");
        self.tables.backends.insert(Backend { weight, ..backend });
    }

    /// Adds a backend at `address:port`.
    pub fn backend(&mut self, at: &str) -> BackendId {
        let at: std::net::SocketAddr = at.parse().expect("address:port");
        let id = BackendId::new(self.backends, 0).expect("few backends");
        self.backends += 1;
        let backend = Backend {
            id,
            address: at.ip(),
            port: at.port(),
            weight: 1,
            state: BackendState::Active,
            node: None,
        };
        self.tables.backends.insert(backend);
        id
    }

    /// Lets a backend drain.
    pub fn drain_backend(&mut self, id: BackendId) {
        let backend = *self.tables.backends.get(id).expect("a backend of this fixture");
        self.tables.backends.insert(Backend { state: BackendState::Draining, ..backend });
    }

    /// Takes a backend out.
    pub fn remove_backend(&mut self, id: BackendId) {
        self.tables.backends.remove(id);
    }

    /// Puts a Service port at a VIP; what is not a clusterIP is answered for on every port.
    pub fn vip(&mut self, kind: FrontendKind, at: &str, service: ServiceId) {
        let at: std::net::SocketAddr = at.parse().expect("address:port");
        let port = self.tables.service(service).expect("a service of this fixture");
        let usable = port.pools.iter().any(|pool| !pool.backends.is_empty());
        let key = FrontendKey { address: at.ip(), protocol: port.protocol, port: at.port() };
        self.tables.index.insert_vip(key, Frontend { service, kind });
        let (kind, answer_arp) = match kind {
            FrontendKind::ClusterIp => (AddressKind::ClusterIp, PortSet::NONE),
            FrontendKind::ExternalIp => (AddressKind::ExternalIp, PortSet::ALL),
            FrontendKind::LoadBalancer | FrontendKind::NodePort => (AddressKind::LoadBalancer, PortSet::ALL),
        };
        self.tables.addresses.insert(at.ip(), AddressInfo { kind, answer_arp, usable, node_ports: false });
    }

    /// Puts a Service port at a nodePort of a family.
    pub fn node_port(&mut self, family: Family, port: u16, service: ServiceId) {
        let protocol = self.tables.service(service).expect("a service of this fixture").protocol;
        self.tables.index.insert_node_port(family, protocol, port, service);
    }

    /// The frontends that a client outside reaches a backend by with its own address, from all that there are.
    fn origins(&self) -> Origins {
        let tables = &self.tables;
        let node_port = |(_, port, frontend)| (frontend, SocketAddr::new([0; 4].into(), port));
        let node_ports = tables.index.node_ports().map(node_port);
        let vips = tables.index.vips().map(|(key, at)| (at, SocketAddr::new(key.address, key.port)));
        let mut found = BTreeMap::<_, (BackendId, Vec<_>)>::new();
        for (Frontend { service, kind }, at) in vips.chain(node_ports) {
            let Some(port) = tables.service(service) else { continue };
            if port.rule(kind).outside.mode != NatMode::Dnat {
                continue;
            }
            for id in port.pools.iter().flat_map(|pool| pool.backends.iter()) {
                let Some(backend) = tables.backend(*id) else { continue };
                let end = (SocketAddr::new(backend.address, backend.port), port.protocol);
                found.entry(end).or_insert((*id, Vec::new())).1.push((kind, at));
            }
        }
        let mut origins = Origins::default();
        for ((at, protocol), (backend, frontends)) in found {
            let vip = Origin::sole_vip(frontends.iter().copied());
            origins.insert(at, protocol, Origin { backend, vip });
        }
        origins
    }

    /// The next version of the tables.
    pub fn tables(&mut self) -> Tables {
        self.tables.origins = self.origins();
        self.tables.generation = self.tables.generation.next();
        self.tables.fib.routes = Arc::new(Lpm::build(self.routes.iter().copied()));
        self.tables.sources = Arc::new(Lpm::build(self.sources.iter().copied()));
        self.tables.service_cidrs = Arc::new(Lpm::build(self.service_cidrs.iter().copied()));
        self.tables.clone()
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}
