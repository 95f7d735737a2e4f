//! What Services do with the first packets of flows.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    Family, Protocol,
    testkit::{PacketBuilder, flow_of},
};
use tables::{Action, Choice, DropReason, FrontendKind, Lpm, NatMode, NodeId, NodeRule, Route, Rule};

use crate::world::*;

#[test]
fn every_frontend_serves_both_modes_protocols_and_families() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let mut sport = 40_000;
        for protocol in Protocol::ALL {
            for (address, ports) in [
                (world.cluster_ip, [80, 81]),
                (world.external_ip, [80, 81]),
                (world.lb, [80, 81]),
                (world.own[0], [30_080, 30_081]),
            ] {
                for (port, snat) in ports.into_iter().zip([true, false]) {
                    sport += 1;
                    let (client, name) = (at(world.client, sport), format!("{protocol} {address} {port}"));
                    let to = round_trip(&mut rig, (OUTSIDE, client), at(address, port), protocol, &name);
                    assert_eq!((to.dst(), to.dport()), (ip(world.pods[0]), 8080), "{name}");
                    if snat {
                        assert_eq!(to.src(), ip(world.own[1]), "{name}");
                        assert!((1024..61_000).contains(&to.sport()), "{name}");
                    } else {
                        assert_eq!((to.src(), to.sport()), (client.ip(), client.port()), "{name}");
                    }
                }
            }
        }
        assert_eq!((rig.counts().dropped(), rig.counts().packets.punted), (0, 0));
        assert_eq!(rig.counts().flows.created, 24);
    }
}

#[test]
fn dnat_falls_back_where_the_reply_would_bypass() {
    for world in &WORLDS {
        let mut fixture = served(world);
        // A backend on the connected network inside, and a client beside it.
        let (beside, neighbor) =
            if world.family == Family::V4 { ("10.0.0.11", "10.0.0.77") } else { ("fd00::11", "fd00::77") };
        fixture.neighbor(INSIDE, neighbor, 77);
        let near = fixture.service("near", Protocol::Tcp, &[&at(beside, 9090).to_string()], NatMode::Dnat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 90).to_string(), near);
        let mut rig = rig(&mut fixture);
        for (name, client, port) in [
            ("the backend itself", world.pods[0], 81),
            ("another pod", world.pods[1], 81),
            ("a Node", world.node, 81),
            ("a neighbour of the next hop", neighbor, 81),
            ("a neighbour of the backend", neighbor, 90),
        ] {
            let to_service = key(Protocol::Tcp, at(client, 5_000), at(world.lb, port));
            let (_, frame) = one(rig.exchange(INSIDE, &arriving(INSIDE, first(to_service))), name);
            assert_eq!(flow_of(&frame).src(), ip(world.own[1]), "{name}");
            let reply = answer(flow_of(&frame).reversed());
            let (port, frame) = one(rig.exchange(INSIDE, &arriving(INSIDE, reply)), name);
            assert_eq!((port, flow_of(&frame)), (INSIDE, to_service.reversed()), "{name}");
        }
    }
}

#[test]
fn two_packets_of_a_new_flow_in_one_burst_are_one_flow() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let to_service = key(Protocol::Udp, at(world.client, 5353), at(world.lb, 80));
    for payload in [b"1", b"2", b"3"] {
        rig.push(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(to_service).payload(payload)));
    }
    rig.settle();
    let frames = rig.sent(INSIDE);
    assert_eq!(frames.len(), 3);
    assert!(frames.iter().all(|frame| flow_of(frame) == flow_of(&frames[0])));
    assert!(frames.iter().zip(b"123").all(|(frame, payload)| frame.last() == Some(payload)), "in order");
    assert_eq!(rig.counts().flows.created, 1);
}

#[test]
fn refusals_are_told_or_not() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let empty = fixture.service("empty", Protocol::Tcp, &[], NatMode::Snat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 9000).to_string(), empty);
        let none = Choice { action: Action::Drop(DropReason::NoLocalEndpoints), mode: NatMode::Dnat };
        let local =
            fixture.custom_service("local", Protocol::Tcp, (Rule::same(none), Rule::same(none)), vec![]);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 9001).to_string(), local);
        let guarded = fixture.service("guarded", Protocol::Tcp, &[], NatMode::Snat);
        let range = if world.family == Family::V4 { "198.18.0.0/15" } else { "2001:2::/48" };
        let ranges = Lpm::build([(range.parse().unwrap(), ())]).into();
        fixture
            .put_service(tables::ServicePort { source_ranges: Some(ranges), ..fixture.get_service(guarded) });
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 9002).to_string(), guarded);
        fixture.special_route(&format!("{}/{}", world.pods[1], world.family.bits()), Route::Blackhole);
        let mut rig = rig(&mut fixture);
        let tcp = Protocol::Tcp;
        for (name, protocol, dst, reason, told) in [
            ("no endpoints", tcp, at(world.lb, 9000), DropReason::NoEndpoints, true),
            ("no local endpoints", tcp, at(world.lb, 9001), DropReason::NoLocalEndpoints, false),
            ("source range before endpoints", tcp, at(world.lb, 9002), DropReason::SourceRange, false),
            ("unknown port of a clusterIP", tcp, at(world.cluster_ip, 9), DropReason::VipPortUnknown, true),
            ("the same by UDP", Protocol::Udp, at(world.cluster_ip, 9), DropReason::VipPortUnknown, true),
            ("unknown port of a VIP", tcp, at(world.lb, 9), DropReason::VipPortUnknown, false),
            (
                "unknown port of an externalIP",
                tcp,
                at(world.external_ip, 9),
                DropReason::VipPortUnknown,
                false,
            ),
            ("unallocated", tcp, at(world.unallocated, 80), DropReason::ServiceCidrUnallocated, false),
            (
                "a translated port without a flow",
                tcp,
                at(world.own[0], 40_000),
                DropReason::SnatPortUnowned,
                false,
            ),
            ("a blackhole", tcp, at(world.pods[1], 80), DropReason::Blackhole, false),
        ] {
            let to_service = key(protocol, at(world.client, 4_000), dst);
            let before = rig.counts().clone();
            let out = rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service).payload(b"hello")));
            assert_eq!(rig.dropped(reason), before.dropped_for(reason) + 1, "{name}: {:?}", rig.counts());
            assert_eq!(out.len(), usize::from(told), "{name}");
            assert_eq!(
                rig.counts().packets.originated - before.packets.originated,
                u64::from(told),
                "{name}"
            );
            for (port, frame) in out {
                assert_eq!(port, OUTSIDE, "{name}");
                assert_refusal(&frame, to_service, name);
            }
        }
        assert_eq!(rig.counts().flows.created, 0);
    }
}

#[test]
fn clients_get_what_their_place_gets() {
    let world = &WORLDS[0];
    let mut fixture = served(world);
    let pools = vec![fixture.pool(&["10.244.1.5:80"]), fixture.pool(&["10.244.2.5:80"])];
    let to = |pool| Choice { action: Action::Balance(pool), mode: NatMode::Snat };
    let none = Choice { action: Action::Drop(DropReason::NoLocalEndpoints), mode: NatMode::Snat };
    let rule = Rule {
        outside: none,
        pod: none,
        node: none,
        by_node: Box::new([
            NodeRule { node: NodeId(1), pod: to(0), own: to(1) },
            NodeRule { node: NodeId(2), pod: to(1), own: none },
        ]),
    };
    let id = fixture.custom_service("local", Protocol::Tcp, (rule.clone(), rule), pools);
    fixture.vip(FrontendKind::ClusterIp, "10.96.0.20:80", id);
    let mut rig = rig(&mut fixture);
    for (client, port, pod) in [
        ("10.244.1.9", INSIDE, Some("10.244.1.5")),
        ("10.244.2.9", INSIDE, Some("10.244.2.5")),
        ("10.0.0.11", INSIDE, Some("10.244.2.5")),
        ("10.0.0.12", INSIDE, None),
        ("192.0.2.2", OUTSIDE, None),
    ] {
        let syn = arriving(port, first(key(Protocol::Tcp, at(client, 1_000), at("10.96.0.20", 80))));
        let out = rig.exchange(port, &syn);
        assert_eq!(out.first().map(|(_, frame)| flow_of(frame).dst()), pod.map(ip), "{client}");
    }
    assert_eq!(rig.dropped(DropReason::NoLocalEndpoints), 2);
}

#[test]
fn affinity_keeps_a_client_at_its_backend() {
    let mut fixture = Fixture::data_centre();
    let backends: Vec<String> = (1..=20).map(|n| format!("10.244.1.{n}:80")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let id = fixture.service("sticky", Protocol::Tcp, &backends, NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", id);
    let spread = |rig: &mut Rig| {
        let mut seen: Vec<_> = (0..50)
            .map(|n| {
                let syn = first(key(Protocol::Tcp, at("192.0.2.2", 2_000 + n), at("203.0.113.10", 80)));
                flow_of(&one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, syn)), "a SYN").1).dst()
            })
            .collect();
        seen.sort();
        seen.dedup();
        seen.len()
    };
    let mut rig_ = rig(&mut fixture);
    assert!(spread(&mut rig_) > 10);
    fixture.put_service(tables::ServicePort { affinity_timeout_s: Some(10_800), ..fixture.get_service(id) });
    assert_eq!(spread(&mut rig(&mut fixture)), 1);
}

#[test]
fn lists_keep_new_flows_out_and_let_those_that_are_there_go_on() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let id = fixture.tables().frontend(ip(world.lb), Protocol::Tcp, 80).expect("it is served").service;
        let mut rig = rig(&mut fixture);
        let (client, vip) = ((OUTSIDE, at(world.client, 40_000)), at(world.lb, 80));
        round_trip(&mut rig, client, vip, Protocol::Tcp, "before");
        let lists = [(tables::Prefix::host(ip(world.client)), false)].into_iter().collect();
        let access = Some(std::sync::Arc::new(tables::Access { lists, others: true }));
        let service = tables::ServicePort { access, ..fixture.get_service(id) };
        fixture.put_service(service);
        rig.publish(fixture.tables());
        rig.all_sent();
        let refused = key(Protocol::Tcp, at(world.client, 40_001), vip);
        expect_drop(
            &mut rig,
            OUTSIDE,
            &arriving(OUTSIDE, first(refused)),
            DropReason::SourceListed,
            "a new one",
        );
        let established = key(Protocol::Tcp, client.1, vip);
        let packet = PacketBuilder::flow(established).numbers(2, 1).payload(b"more");
        one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet)), "the one that is there");
    }
}

/// How many of 600 clients that were not seen before each backend of a pool of two gets.
fn shares(rig: &mut Rig, world: &World, first_port: u16) -> [usize; 2] {
    let mut shares = [0; 2];
    for sport in first_port..first_port + 600 {
        let to_service = key(Protocol::Udp, at(world.client, sport), at(world.lb, 70));
        let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service))), "a new flow");
        let to = flow_of(&frame).dst();
        shares[world.pods.iter().position(|pod| ip(pod) == to).expect("one of both")] += 1;
    }
    shares
}

#[test]
fn new_flows_follow_the_weights_and_flows_that_are_there_stay() {
    for world in &WORLDS {
        let mut fixture = Fixture::data_centre();
        let backends = world.pods.map(|pod| fixture.backend(&at(pod, 8080).to_string()));
        fixture.weigh(backends[0], 3);
        let pool = fixture.pool_of(&backends);
        let rule = Rule::same(Choice { action: Action::Balance(0), mode: NatMode::Dnat });
        let id = fixture.custom_service("heavy", Protocol::Udp, (rule.clone(), rule), vec![pool]);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 70).to_string(), id);
        let config = RigConfig { flows: 4096, ..RigConfig::default() };
        let mut rig = rig_of(&config, fixture.tables());
        let [heavy, light] = shares(&mut rig, world, 10_000);
        assert!(heavy.abs_diff(450) < 45, "{heavy} of 600 for three quarters");
        assert_eq!(heavy + light, 600);

        // A step of a slow start, say, turns the weights round: flows that are there go on where they are.
        fixture.weigh(backends[0], 1);
        fixture.weigh(backends[1], 9);
        let service =
            tables::ServicePort { pools: [fixture.pool_of(&backends)].into(), ..fixture.get_service(id) };
        fixture.put_service(service);
        rig.publish(fixture.tables());
        assert_eq!(shares(&mut rig, world, 10_000), [heavy, light], "the same flows");
        let [now_light, now_heavy] = shares(&mut rig, world, 20_000);
        assert!(
            now_light.abs_diff(60) < 30 && now_heavy + now_light == 600,
            "{now_light} of 600 for a tenth"
        );
    }
}
