//! The data centre of the vectors, and how packets are sent and looked at.

use std::net::{IpAddr, SocketAddr};

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    AnyKey, Body, Family, MacAddr, Protocol, TcpFlags, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{
    Action, BackendId, Choice, DropReason, FrontendKind, NatMode, Pool, PortId, Rule, ServiceId, ServicePort,
    Tables,
};

pub(crate) const CLIENT_MAC: MacAddr = Fixture::neighbor_mac(OUTSIDE, 2);

/// The addresses of one family.
pub(crate) struct World {
    pub(crate) family: Family,
    pub(crate) client: &'static str,
    pub(crate) pods: [&'static str; 2],
    pub(crate) node: &'static str,
    pub(crate) own: [&'static str; 2],
    pub(crate) cluster_ip: &'static str,
    pub(crate) external_ip: &'static str,
    pub(crate) lb: &'static str,
    /// Beyond the router outside.
    pub(crate) far: &'static str,
    pub(crate) unallocated: &'static str,
}

pub(crate) const WORLDS: [World; 2] = [
    World {
        family: Family::V4,
        client: "192.0.2.2",
        pods: ["10.244.1.5", "10.244.2.5"],
        node: "10.0.0.11",
        own: ["192.0.2.1", "10.0.0.1"],
        cluster_ip: "10.96.0.10",
        external_ip: "198.51.100.7",
        lb: "203.0.113.10",
        far: "8.8.8.8",
        unallocated: "10.96.0.99",
    },
    World {
        family: Family::V6,
        client: "2001:db8:1::2",
        pods: ["fd00:244:1::5", "fd00:244:2::5"],
        node: "fd00::11",
        own: ["2001:db8:1::1", "fd00::1"],
        cluster_ip: "fd00:96::10",
        external_ip: "2001:db8:e::7",
        lb: "2001:db8:f::10",
        far: "2001:db8:8::8",
        unallocated: "fd00:96::99",
    },
];

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub(crate) fn key(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> AnyKey {
    AnyKey::new(src, dst, protocol).unwrap()
}

/// A packet that arrives outside (from the client's router) or inside (from Node 1).
pub(crate) fn arriving(port: PortId, packet: PacketBuilder) -> Vec<u8> {
    let last = if port == OUTSIDE { 2 } else { 11 };
    packet.macs(Fixture::port_mac(port), Fixture::neighbor_mac(port, last)).build()
}

/// The first packet of a flow, small enough to need padding.
pub(crate) fn first(key: AnyKey) -> PacketBuilder {
    PacketBuilder::flow(key).flags(TcpFlags::SYN)
}

/// The backend's; a plain ACK of the builder acknowledges it.
pub(crate) fn answer(key: AnyKey) -> PacketBuilder {
    PacketBuilder::flow(key).flags(TcpFlags::SYN | TcpFlags::ACK).numbers(0, 2).payload(b"answer")
}

/// Both Services' frontends of every kind and protocol, at port 80 (snat) and 81 (dnat); nodePorts 30080 and 30081.
pub(crate) fn services(fixture: &mut Fixture, world: &World) {
    for protocol in Protocol::ALL {
        for (mode, port) in [(NatMode::Snat, 80), (NatMode::Dnat, 81)] {
            let backend = at(world.pods[0], 8080).to_string();
            let id = fixture.service("web", protocol, &[&backend], mode);
            fixture.vip(FrontendKind::ClusterIp, &at(world.cluster_ip, port).to_string(), id);
            fixture.vip(FrontendKind::ExternalIp, &at(world.external_ip, port).to_string(), id);
            fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, port).to_string(), id);
            fixture.node_port(world.family, 30_000 + port, id);
        }
    }
}

pub(crate) fn served(world: &World) -> Fixture {
    let mut fixture = Fixture::data_centre();
    services(&mut fixture, world);
    fixture
}

/// A Service at the balancer's address, port 80, with one of two backends; see [`Self::replace`].
pub(crate) struct Moving {
    service: ServiceId,
    backends: [BackendId; 2],
    pools: [Pool; 2],
}

impl Moving {
    pub(crate) fn new(fixture: &mut Fixture, world: &World, protocol: Protocol, mode: NatMode) -> Self {
        let backends = world.pods.map(|pod| fixture.backend(&at(pod, 80).to_string()));
        let pools = [fixture.pool_of(&backends[..1]), fixture.pool_of(&backends[1..])];
        let rule = Rule::same(Choice { action: Action::Balance(0), mode });
        let service =
            fixture.custom_service("moving", protocol, (rule.clone(), rule), vec![pools[0].clone()]);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 80).to_string(), service);
        Self { service, backends, pools }
    }

    /// The second backend serves instead of the first, which drains or is gone.
    pub(crate) fn replace(&self, fixture: &mut Fixture, drains: bool) {
        let service = fixture.get_service(self.service);
        fixture.put_service(ServicePort { pools: Box::new([self.pools[1].clone()]), ..service });
        if drains {
            fixture.drain_backend(self.backends[0]);
        } else {
            fixture.remove_backend(self.backends[0]);
        }
    }
}

pub(crate) fn rig(fixture: &mut Fixture) -> Rig {
    let tables = fixture.tables();
    rig_of(&RigConfig::default(), tables)
}

pub(crate) fn rig_of(config: &RigConfig, tables: Tables) -> Rig {
    let mut rig = Rig::new(config, tables);
    rig.settle();
    rig.all_sent();
    rig
}

/// The only frame that came of a packet.
pub(crate) fn one(out: Vec<(PortId, Vec<u8>)>, name: &str) -> (PortId, Vec<u8>) {
    let [only] = <[_; 1]>::try_from(out).unwrap_or_else(|out| panic!("{name}: {} frames", out.len()));
    only
}

pub(crate) fn expect_drop(rig: &mut Rig, port: PortId, frame: &[u8], reason: DropReason, name: &str) {
    let before = rig.dropped(reason);
    let out = rig.exchange(port, frame);
    assert_eq!(rig.dropped(reason), before + 1, "{name}: {reason}; {:?}", rig.counts());
    assert!(out.is_empty(), "{name}: {out:?}");
}

/// Client to frontend, backend's answer back to the client; checks every header on the way.
pub(crate) fn round_trip(
    rig: &mut Rig,
    client: (PortId, SocketAddr),
    frontend: SocketAddr,
    protocol: Protocol,
    name: &str,
) -> AnyKey {
    let to_service = key(protocol, client.1, frontend);
    let (port, frame) =
        one(rig.exchange(client.0, &arriving(client.0, first(to_service).ttl(9).pad_to(60))), name);
    assert_eq!(port, INSIDE, "{name}");
    assert_valid_checksums(&frame);
    let parsed = parse(&frame, frame.len()).unwrap();
    assert_eq!((parsed.ttl, parsed.frame_end()), (8, frame.len()), "{name}: one hop, no padding");
    let to_backend = flow_of(&frame);
    let node =
        if to_backend.dst().to_string().contains("244.2") || to_backend.dst().to_string().contains("244:2") {
            12
        } else {
            11
        };
    assert_eq!(parsed.src_mac, Fixture::port_mac(INSIDE), "{name}");
    assert_eq!(parsed.dst_mac, Fixture::neighbor_mac(INSIDE, node), "{name}");
    let (port, frame) = one(rig.exchange(INSIDE, &arriving(INSIDE, answer(to_backend.reversed()))), name);
    assert_eq!((port, flow_of(&frame)), (client.0, to_service.reversed()), "{name}");
    assert_valid_checksums(&frame);
    to_backend
}

/// A reset of a TCP flow, or a port unreachable about another, from the address that was asked.
pub(crate) fn assert_refusal(frame: &[u8], refused: AnyKey, name: &str) {
    assert_valid_checksums(frame);
    let parsed = parse(frame, frame.len()).unwrap();
    assert_eq!(parsed.dst_mac, CLIENT_MAC, "{name}");
    match parsed.body {
        Body::Flow { key, tcp_flags } => {
            assert!(tcp_flags.rst(), "{name}");
            assert_eq!(key, refused.reversed(), "{name}");
        }
        Body::Icmp(icmp) => {
            assert_eq!((icmp.addrs.src(), icmp.addrs.dst()), (refused.dst(), refused.src()), "{name}");
            assert_eq!(icmp.inner.map(|inner| inner.key), Some(refused), "{name}");
        }
        other => panic!("{name}: {other:?}"),
    }
}
