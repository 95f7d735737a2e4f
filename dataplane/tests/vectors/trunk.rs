//! What one device carries for several ports: bursts of tagged and untagged frames, beside other devices and workers.

use std::net::Ipv4Addr;

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig};
use packet::{
    Body, Protocol, VlanTag, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{DropReason, NatMode, Vlan};

use crate::{
    handoff::{cross_frame, team},
    vlan::{
        BACKENDS, BACKENDS_VLAN, CLIENTS, CLIENTS_VLAN, FAMILIES, fixture, from, rig, untag,
        with_narrow_ports,
    },
    world::*,
};

#[test]
fn packets_of_one_burst_are_each_of_the_port_that_their_tag_says() {
    for (family, world) in FAMILIES.iter().zip(&WORLDS) {
        let mut rig = rig(&mut fixture(NatMode::Snat));
        let (tagged, untagged) = (family.client, world.client);
        let to = |client, vip_port| key(Protocol::Udp, at(client, 4_000), at(family.vip, vip_port));
        let flows = [to(tagged, 80), to(untagged, 80), to(tagged, 81), to(untagged, 81)];
        for round in 0..3 {
            for (n, flow) in flows.iter().enumerate() {
                let packet = PacketBuilder::flow(*flow);
                rig.push(
                    OUTSIDE,
                    &match n % 2 {
                        0 => from(CLIENTS, OUTSIDE, CLIENTS_VLAN, packet),
                        _ => arriving(OUTSIDE, packet),
                    },
                );
            }
            // Of nobody, in their midst.
            rig.push(OUTSIDE, &from(CLIENTS, OUTSIDE, VlanTag(101), PacketBuilder::flow(flows[0])));
            rig.settle();
            let there = rig.sent(INSIDE);
            let tags: Vec<_> = there.iter().map(|frame| parse(frame, frame.len()).unwrap().vlan).collect();
            let [low, high] = BACKENDS_VLAN.map(Some);
            assert_eq!(tags, [low, low, high, high], "{} round {round}", family.vip);
            for (frame, at) in there.iter().zip([0, 0, 1, 1]) {
                let back = PacketBuilder::flow(flow_of(&untag(frame, BACKENDS_VLAN[at])).reversed());
                rig.push(INSIDE, &from(BACKENDS[at], INSIDE, BACKENDS_VLAN[at], back));
            }
            rig.settle();
            let back = rig.sent(OUTSIDE);
            for (frame, flow) in back.iter().zip(flows) {
                let is_tagged = flow.src() == ip(tagged);
                assert_eq!(parse(frame, frame.len()).unwrap().vlan, is_tagged.then_some(CLIENTS_VLAN));
                let frame = if is_tagged { untag(frame, CLIENTS_VLAN) } else { frame.clone() };
                assert_valid_checksums(&frame);
                assert_eq!(flow_of(&frame), flow.reversed());
            }
            assert_eq!((back.len(), rig.dropped(DropReason::BadVlan)), (4, round + 1));
        }
        let ports = [OUTSIDE, CLIENTS, INSIDE, BACKENDS[0], BACKENDS[1]];
        let received = ports.map(|port| rig.counts().ports()[port.index()]);
        assert_eq!(received.map(|port| port.rx_packets), [15, 6, 12, 6, 6]);
        // Their tags are the device's alone.
        let [_, _, inside, low, high] = received.map(|port| port.rx_bytes);
        assert_eq!(inside, low + high + 12 * 4);
        assert_eq!((rig.counts().imbalance(), rig.counts().flows.created), (0, 4));
    }
}

#[test]
fn a_burst_after_one_of_a_trunk_is_of_its_own_port() {
    let mut fixture = Fixture::data_centre();
    let vlan = Vlan { parent: OUTSIDE, id: CLIENTS_VLAN.id() };
    fixture.sub_port(CLIENTS, (vlan, "outside.100"), &[("198.51.100.1", 24)]);
    let mut rig = rig(&mut fixture);
    let packet = PacketBuilder::flow(key(Protocol::Udp, at("198.51.100.2", 1), at("10.0.0.11", 2)));
    rig.push(OUTSIDE, &from(CLIENTS, OUTSIDE, CLIENTS_VLAN, packet));
    let node = Ipv4Addr::new(10, 0, 0, 11);
    let question = PacketBuilder::arp_request(Fixture::neighbor_mac(INSIDE, 11), node, [10, 0, 0, 1].into());
    rig.push(INSIDE, &question.build());
    rig.settle();
    let sent = rig.all_sent();
    assert_eq!(sent.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [INSIDE, INSIDE]);
    assert!(matches!(parse(&sent[1].1, 60).unwrap().body, Body::Arp(arp) if arp.target_ip == node));
}

#[test]
fn what_is_malformed_behind_a_tag_is_its_ports_too() {
    let mut rig = rig(&mut fixture(NatMode::Snat));
    let to_vip = key(Protocol::Udp, at(FAMILIES[0].client, 1), at(FAMILIES[0].vip, 80));
    let mut frame = from(CLIENTS, OUTSIDE, CLIENTS_VLAN, first(to_vip));
    frame[18] = 0;
    expect_drop(&mut rig, OUTSIDE, &frame, DropReason::BadIpVersion, "no version");
    let received = [OUTSIDE, CLIENTS].map(|port| rig.counts().ports()[port.index()].rx_packets);
    assert_eq!((received, rig.counts().imbalance()), ([1, 1], 0));
}

#[test]
fn workers_hand_over_what_comes_in_a_vlan_without_its_tag() {
    let family = &FAMILIES[0];
    let mut fixture = fixture(NatMode::Snat);
    fixture.tables.workers = 2;
    let tables = fixture.tables();
    let mut rigs = team(&tables);
    for sport in 4_000..4_008 {
        let to_vip = key(Protocol::Tcp, at(family.client, sport), at(family.vip, 80));
        let frame = from(CLIENTS, OUTSIDE, CLIENTS_VLAN, first(to_vip));
        let there = cross_frame(&mut rigs, &tables, OUTSIDE, to_vip, &frame);
        let reply = flow_of(&untag(&there, BACKENDS_VLAN[0])).reversed();
        let frame = from(BACKENDS[0], INSIDE, BACKENDS_VLAN[0], answer(reply));
        let back = cross_frame(&mut rigs, &tables, INSIDE, reply, &frame);
        assert_eq!(flow_of(&untag(&back, CLIENTS_VLAN)), to_vip.reversed());
    }
    let sum = |count: fn(&Rig) -> u64| rigs.iter().map(count).sum::<u64>();
    assert_eq!(sum(|rig| rig.counts().ports()[CLIENTS.index()].rx_packets), 8, "once, by who received it");
    assert_eq!((sum(|rig| rig.counts().dropped()), sum(|rig| rig.counts().packets.handoff_in)), (0, 16));
}

#[test]
fn a_new_flow_begins_where_its_own_port_serves_it() {
    let family = &FAMILIES[0];
    let mut rig = rig(&mut with_narrow_ports(NatMode::Snat));
    let to_vip = |client, port| first(key(Protocol::Udp, at(client, port), at(family.vip, 80)));
    for port in 4_000..4_010 {
        rig.push(OUTSIDE, &from(CLIENTS, OUTSIDE, CLIENTS_VLAN, to_vip(family.client, port)));
        rig.push(OUTSIDE, &arriving(OUTSIDE, to_vip("192.0.2.2", port)));
    }
    rig.settle();
    assert_eq!((rig.sent(INSIDE).len(), rig.dropped(DropReason::NotServedHere)), (10, 10));
}
