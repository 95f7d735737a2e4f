//! Sub-ports: frames of a VLAN come and go as those of a port of its own.

use std::net::IpAddr;

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    Body, MacAddr, Protocol, VlanTag, ether, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{DropReason, FrontendKind, NatMode, PortId, PortInfo, PortSet, Serves, Vlan, punt::Message};

use crate::world::*;

/// VLAN 100 of the port outside: clients. VLAN 200 and 300 of the port inside: backends.
pub(crate) const CLIENTS: PortId = PortId(2);
pub(crate) const BACKENDS: [PortId; 2] = [PortId(3), PortId(4)];
pub(crate) const CLIENTS_VLAN: VlanTag = VlanTag(100);
pub(crate) const BACKENDS_VLAN: [VlanTag; 2] = [VlanTag(200), VlanTag(300)];

pub(crate) struct Tagged {
    pub(crate) client: &'static str,
    pub(crate) own: &'static str,
    pub(crate) vip: &'static str,
    pub(crate) backends: [&'static str; 2],
}

pub(crate) const FAMILIES: [Tagged; 2] = [
    Tagged {
        client: "198.51.100.2",
        own: "198.51.100.1",
        vip: "203.0.113.10",
        backends: ["10.2.0.11", "10.3.0.11"],
    },
    Tagged {
        client: "2001:db8:64::2",
        own: "2001:db8:64::1",
        vip: "2001:db8:f::10",
        backends: ["fd00:2::11", "fd00:3::11"],
    },
];

/// The machines of a port.
const fn station(port: PortId) -> MacAddr {
    Fixture::neighbor_mac(port, 11)
}

pub(crate) fn fixture(mode: NatMode) -> Fixture {
    let mut fixture = Fixture::data_centre();
    let vlan = |parent, tag: VlanTag| Vlan { parent, id: tag.id() };
    let clients = [("198.51.100.1", 24), ("2001:db8:64::1", 64)];
    fixture.sub_port(CLIENTS, (vlan(OUTSIDE, CLIENTS_VLAN), "outside.100"), &clients);
    let backends = [("10.2.0.1", 24), ("fd00:2::1", 64)];
    fixture.sub_port(BACKENDS[0], (vlan(INSIDE, BACKENDS_VLAN[0]), "inside.200"), &backends);
    let backends = [("10.3.0.1", 24), ("fd00:3::1", 64)];
    fixture.sub_port(BACKENDS[1], (vlan(INSIDE, BACKENDS_VLAN[1]), "inside.300"), &backends);
    for Tagged { client, vip, backends, .. } in &FAMILIES {
        fixture.neighbor(CLIENTS, client, 11);
        for (port, backend) in BACKENDS.iter().zip(backends) {
            fixture.neighbor(*port, backend, 11);
        }
        for protocol in Protocol::ALL {
            for (vip_port, backend) in (80..).zip(backends) {
                let backend = at(backend, 8_080).to_string();
                let id = fixture.service("web", protocol, &[&backend], mode);
                fixture.vip(FrontendKind::LoadBalancer, &at(vip, vip_port).to_string(), id);
            }
        }
    }
    fixture
}

pub(crate) fn rig(fixture: &mut Fixture) -> Rig {
    let tables = fixture.tables();
    rig_of(&RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() }, tables)
}

/// A frame from a machine of a sub-port.
pub(crate) fn from(port: PortId, parent: PortId, tag: VlanTag, packet: PacketBuilder) -> Vec<u8> {
    packet.macs(Fixture::port_mac(parent), station(port)).vlan(tag).build()
}

/// The frame with the tag that it must have taken out.
#[track_caller]
pub(crate) fn untag(frame: &[u8], tag: VlanTag) -> Vec<u8> {
    assert_eq!(parse(frame, frame.len()).unwrap().vlan, Some(tag));
    [&frame[..12], &frame[16..]].concat()
}

#[test]
fn a_flow_goes_from_one_vlan_to_another_and_back() {
    for family in &FAMILIES {
        for (mode, protocol) in [NatMode::Snat, NatMode::Dnat].into_iter().flat_map(with_protocols) {
            let mut rig = rig(&mut fixture(mode));
            let name = format!("{} {protocol} {mode:?}", family.vip);
            let to_vip = key(protocol, at(family.client, 4_000), at(family.vip, 80));
            for round in 0..3 {
                let packet = if round == 0 { first(to_vip) } else { PacketBuilder::flow(to_vip) };
                let arriving = from(CLIENTS, OUTSIDE, VlanTag(0xe000 | 100), packet.pad_to(64));
                let (port, frame) = one(rig.exchange(OUTSIDE, &arriving), &name);
                assert_eq!(port, INSIDE, "{name}");
                let frame = untag(&frame, BACKENDS_VLAN[0]);
                let parsed = parse(&frame, frame.len()).unwrap();
                assert_valid_checksums(&frame);
                assert_eq!(
                    (parsed.src_mac, parsed.dst_mac),
                    (Fixture::port_mac(INSIDE), station(BACKENDS[0]))
                );
                assert_eq!((parsed.ttl, frame.len()), (63, parsed.frame_end()), "{name}: padding is gone");
                let to_backend = flow_of(&frame);
                assert_eq!((to_backend.dst(), to_backend.dport()), (ip(family.backends[0]), 8_080), "{name}");
                let reply = from(BACKENDS[0], INSIDE, BACKENDS_VLAN[0], answer(to_backend.reversed()));
                let (port, frame) = one(rig.exchange(INSIDE, &reply), &name);
                assert_eq!(port, OUTSIDE, "{name}");
                let frame = untag(&frame, CLIENTS_VLAN);
                assert_valid_checksums(&frame);
                assert_eq!(flow_of(&frame), to_vip.reversed(), "{name}");
            }
            let counts = rig.counts();
            assert_eq!((counts.imbalance(), counts.flows.created, counts.dropped()), (0, 1, 0), "{name}");
            let ports = [OUTSIDE, INSIDE, CLIENTS, BACKENDS[0], BACKENDS[1]];
            let seen =
                ports.map(|port| counts.ports()[port.index()]).map(|port| (port.rx_packets, port.tx_packets));
            // Every port announced the two VIPs of each protocol's Services before, and a port counts for its sub-ports.
            assert_eq!(seen, [(3, 7), (3, 9), (3, 5), (3, 5), (0, 2)], "{name}");
        }
    }
}

fn with_protocols(mode: NatMode) -> [(NatMode, Protocol); 3] {
    Protocol::ALL.map(|protocol| (mode, protocol))
}

#[test]
fn vlans_of_one_port_are_ports_to_each_other_and_to_the_untagged_one() {
    for family in &FAMILIES {
        let mut rig = rig(&mut fixture(NatMode::Dnat));
        // From one VLAN of the port inside to another, routed.
        let [one_side, other] = family.backends;
        let packet = PacketBuilder::flow(key(Protocol::Udp, at(one_side, 1), at(other, 2)));
        let (port, frame) =
            one(rig.exchange(INSIDE, &from(BACKENDS[0], INSIDE, BACKENDS_VLAN[0], packet)), family.vip);
        assert_eq!(port, INSIDE);
        assert_eq!(flow_of(&untag(&frame, BACKENDS_VLAN[1])).dst(), ip(other));
        // From a VLAN to a Node on the untagged port, and back.
        let node = if ip(other).is_ipv4() { "10.0.0.11" } else { "fd00::11" };
        let there = key(Protocol::Udp, at(one_side, 1), at(node, 2));
        let packet = PacketBuilder::flow(there);
        let (port, frame) =
            one(rig.exchange(INSIDE, &from(BACKENDS[0], INSIDE, BACKENDS_VLAN[0], packet)), family.vip);
        assert_eq!((port, parse(&frame, frame.len()).unwrap().vlan), (INSIDE, None));
        assert_eq!(flow_of(&frame), there);
        let packet = arriving(INSIDE, PacketBuilder::flow(there.reversed()));
        let (port, frame) = one(rig.exchange(INSIDE, &packet), family.vip);
        assert_eq!(port, INSIDE);
        assert_eq!(flow_of(&untag(&frame, BACKENDS_VLAN[0])), there.reversed());
    }
}

#[test]
fn a_tag_that_no_sub_port_has_is_dropped_and_an_empty_one_is_none() {
    let family = &FAMILIES[0];
    let mut rig = rig(&mut fixture(NatMode::Snat));
    let to_vip = key(Protocol::Tcp, at(family.client, 4_000), at(family.vip, 80));
    for (port, tag) in [(OUTSIDE, 200), (OUTSIDE, 101), (INSIDE, 100), (OUTSIDE, 4_095)] {
        let frame = from(CLIENTS, port, VlanTag(tag), first(to_vip));
        expect_drop(&mut rig, port, &frame, DropReason::BadVlan, &format!("{tag} at {port:?}"));
    }
    // Priority alone: a frame of the port itself, as without.
    let untagged = key(Protocol::Tcp, at("192.0.2.2", 4_000), at(family.vip, 80));
    let packet = first(untagged).macs(Fixture::port_mac(OUTSIDE), CLIENT_MAC).vlan(VlanTag(0xa000));
    let (port, frame) = one(rig.exchange(OUTSIDE, &packet.build()), "priority");
    assert_eq!((port, parse(&frame, frame.len()).unwrap().vlan), (INSIDE, Some(BACKENDS_VLAN[0])));
    assert_eq!(rig.counts().ports()[CLIENTS.index()].rx_packets, 0);
    // For another station, in a VLAN of ours.
    let frame = first(to_vip).macs(MacAddr([2, 9, 9, 9, 9, 9]), station(CLIENTS)).vlan(CLIENTS_VLAN).build();
    expect_drop(&mut rig, OUTSIDE, &frame, DropReason::NotForUs, "another station");
}

#[test]
fn who_asks_in_a_vlan_is_answered_there() {
    let family = &FAMILIES[0];
    let mut rig = rig(&mut fixture(NatMode::Snat));
    let IpAddr::V4(client) = ip(family.client) else { unreachable!() };
    for (asked, answered) in
        [(family.own, true), (family.vip, true), ("192.0.2.1", false), ("10.2.0.1", false)]
    {
        let IpAddr::V4(target) = ip(asked) else { unreachable!() };
        let question =
            PacketBuilder::arp_request(station(CLIENTS), client, target).vlan(CLIENTS_VLAN).build();
        let out = rig.exchange(OUTSIDE, &question);
        assert_eq!(out.len(), usize::from(answered), "{asked}");
        for (port, frame) in out {
            let frame = untag(&frame, CLIENTS_VLAN);
            let Body::Arp(arp) = parse(&frame, frame.len()).unwrap().body else { panic!("{asked}: no ARP") };
            assert_eq!((port, arp.sender_ip, arp.sender_mac), (OUTSIDE, target, Fixture::port_mac(OUTSIDE)));
        }
    }
    let v6 = |text: &str| text.parse().unwrap();
    let question =
        PacketBuilder::neighbor_solicitation(station(CLIENTS), v6(FAMILIES[1].client), v6(FAMILIES[1].own));
    let (_, frame) = one(rig.exchange(OUTSIDE, &question.vlan(CLIENTS_VLAN).build()), "ND");
    assert!(matches!(parse(&untag(&frame, CLIENTS_VLAN), 200).unwrap().body, Body::Nd(nd) if nd.solicited));
    // Pings of the VLAN's address and refused connections too.
    for family in &FAMILIES {
        let ping = PacketBuilder::ping(ip(family.client), ip(family.own), 1, 1, b"ping");
        let (_, frame) = one(rig.exchange(OUTSIDE, &from(CLIENTS, OUTSIDE, CLIENTS_VLAN, ping)), family.own);
        let frame = untag(&frame, CLIENTS_VLAN);
        assert_valid_checksums(&frame);
        assert!(matches!(parse(&frame, frame.len()).unwrap().body, Body::Icmp(icmp) if icmp.is_echo_reply()));
        let expired = first(key(Protocol::Udp, at(family.client, 1), at(family.vip, 80))).ttl(1);
        let (_, frame) =
            one(rig.exchange(OUTSIDE, &from(CLIENTS, OUTSIDE, CLIENTS_VLAN, expired)), family.vip);
        let frame = untag(&frame, CLIENTS_VLAN);
        assert_valid_checksums(&frame);
        let Body::Icmp(icmp) = parse(&frame, frame.len()).unwrap().body else { panic!("no error") };
        assert_eq!((icmp.addrs.src(), icmp.addrs.dst()), (ip(family.own), ip(family.client)));
    }
}

#[test]
fn new_vips_are_announced_in_every_vlan() {
    let mut fixture = fixture(NatMode::Snat);
    let mut rig = Rig::new(&RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() }, fixture.tables());
    rig.settle();
    let tags = |out: &[(PortId, Vec<u8>)]| {
        let mut tags: Vec<_> = out
            .iter()
            .filter_map(|(port, frame)| {
                let parsed = parse(frame, frame.len()).unwrap();
                matches!(parsed.body, Body::Arp(_)).then_some((port.0, parsed.vlan.map(VlanTag::id)))
            })
            .collect();
        tags.sort_unstable();
        tags
    };
    let everywhere = [(0, None), (0, Some(100)), (1, None), (1, Some(200)), (1, Some(300))];
    assert_eq!(tags(&rig.all_sent()), everywhere);
}

#[test]
fn the_mirror_of_a_sub_port_sees_frames_without_their_tag_and_sends_such() {
    let family = &FAMILIES[0];
    let mut fixture = fixture(NatMode::Snat);
    let mut rig =
        rig_of(&RigConfig { mirrored: PortSet::of(CLIENTS), ..RigConfig::default() }, fixture.tables());
    rig.punted();
    let ssh = first(key(Protocol::Tcp, at(family.client, 4_000), at(family.own, 22)));
    let out = rig.exchange(OUTSIDE, &from(CLIENTS, OUTSIDE, CLIENTS_VLAN, ssh.clone()));
    assert!(out.is_empty());
    let punted = rig.punted();
    let [(Message::Frame { port: CLIENTS, .. }, frame)] = &punted[..] else { panic!("{punted:?}") };
    assert_eq!(*frame, ssh.macs(Fixture::port_mac(OUTSIDE), station(CLIENTS)).build());
    let back = arriving(CLIENTS, answer(flow_of(frame).reversed()));
    rig.inject.frame(CLIENTS, [&back[..]].into_iter()).unwrap();
    rig.settle();
    let (port, frame) = one(rig.all_sent(), "injected");
    assert_eq!((port, untag(&frame, CLIENTS_VLAN)), (OUTSIDE, back));
    assert_eq!(rig.counts().imbalance(), 0);
}

/// The clients' sub-port serves no VIP, that of some backends takes short packets only.
pub(crate) fn with_narrow_ports(mode: NatMode) -> Fixture {
    let mut fixture = fixture(mode);
    let change = |port: &PortInfo| match port.id {
        CLIENTS => PortInfo { serves: Serves { vip: false, ..Serves::ALL }, ..port.clone() },
        id if id == BACKENDS[0] => PortInfo { mtu: 1_400, ..port.clone() },
        _ => port.clone(),
    };
    let ports: Vec<_> = fixture.tables.ports().iter().map(change).collect();
    fixture.tables.set_ports(ports);
    fixture
}

#[test]
fn an_established_flow_keeps_to_the_mtu_of_its_sub_port() {
    let family = &FAMILIES[0];
    let mut rig = rig(&mut with_narrow_ports(NatMode::Snat));
    let to_vip = key(Protocol::Udp, at("192.0.2.2", 4_000), at(family.vip, 80));
    let packet = |len: usize| arriving(OUTSIDE, PacketBuilder::flow(to_vip).payload(&vec![7; len]));
    let (_, frame) = one(rig.exchange(OUTSIDE, &packet(10)), "the first");
    let reply = PacketBuilder::flow(flow_of(&untag(&frame, BACKENDS_VLAN[0])).reversed());
    one(rig.exchange(INSIDE, &from(BACKENDS[0], INSIDE, BACKENDS_VLAN[0], reply)), "the reply");
    for (len, frames) in [(1_372, 1), (1_373, 2)] {
        assert_eq!(rig.exchange(OUTSIDE, &packet(len)).len(), frames, "{len}");
    }
}

#[test]
fn frontends_and_mtu_are_those_of_the_sub_port() {
    let family = &FAMILIES[0];
    let mut rig = rig(&mut with_narrow_ports(NatMode::Snat));
    let to_vip = |client: &str| key(Protocol::Udp, at(client, 4_000), at(family.vip, 80));
    let frame = from(CLIENTS, OUTSIDE, CLIENTS_VLAN, first(to_vip(family.client)));
    expect_drop(&mut rig, OUTSIDE, &frame, DropReason::NotServedHere, "the sub-port serves no VIP");
    let long = |dont| {
        let packet = PacketBuilder::flow(to_vip("192.0.2.2")).payload(&[7; 1_432]);
        arriving(OUTSIDE, if dont { PacketBuilder::dont_fragment(packet) } else { packet })
    };
    let out = rig.exchange(OUTSIDE, &long(false));
    assert_eq!(out.len(), 2, "it leaves in two parts");
    for (port, frame) in out {
        assert_eq!(port, INSIDE);
        assert!(frame.len() <= 1_400 + ether::HEADER_LEN + 4);
        untag(&frame, BACKENDS_VLAN[0]);
    }
    let (port, frame) = one(rig.exchange(OUTSIDE, &long(true)), "too big");
    let Body::Icmp(icmp) = parse(&frame, frame.len()).unwrap().body else { panic!("no error") };
    assert_eq!((port, icmp.is_too_big()), (OUTSIDE, true));
    assert_eq!(rig.counts().imbalance(), 0);
}
