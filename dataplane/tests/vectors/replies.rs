//! Packets between endpoints of dnat Services and clients outside that no flow has.

use std::net::SocketAddr;

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig};
use packet::{
    AnyKey, Body, Protocol, TcpFlags, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use proptest::{collection::vec, prelude::*, sample::select};
use tables::{Access, Backend, BackendState, DropReason, FrontendKind, NatMode, PortId, ServicePort};

use crate::world::*;

const REPLY: DropReason = DropReason::ReplyWithoutFlow;
/// No answer of any protocol begins a connection.
const ANSWERS: [TcpFlags; 4] = [
    TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0),
    TcpFlags::ACK,
    TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0),
    TcpFlags::RST,
];

/// Four endpoints of a dnat Service at the clusterIP and one load-balancer address.
fn balanced(world: &World, protocol: Protocol) -> Fixture {
    let mut fixture = Fixture::data_centre();
    let backends: Vec<_> = pods(world).iter().map(|pod| at(pod, 8080).to_string()).collect();
    let backends: Vec<_> = backends.iter().map(String::as_str).collect();
    let id = fixture.service("web", protocol, &backends, NatMode::Dnat);
    fixture.vip(FrontendKind::ClusterIp, &at(world.cluster_ip, 80).to_string(), id);
    fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 80).to_string(), id);
    fixture.node_port(world.family, 30_080, id);
    fixture
}

fn pods(world: &World) -> Vec<String> {
    let more = |pod: &str| format!("{}6", pod.strip_suffix('5').expect("pods end in 5"));
    world.pods.iter().flat_map(|pod| [(*pod).to_owned(), more(pod)]).collect()
}

/// What leaves inside when a client begins a flow.
fn begun(rig: &mut Rig, to_service: AnyKey) -> AnyKey {
    flow_of(&one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service))), "a new flow").1)
}

/// The only frame that comes of a packet with this key, and by which port.
fn passed(rig: &mut Rig, port: PortId, packet: PacketBuilder, name: &str) -> (PortId, AnyKey) {
    let (port, frame) = one(rig.exchange(port, &arriving(port, packet.ttl(9))), name);
    assert_valid_checksums(&frame);
    assert_eq!(parse(&frame, frame.len()).unwrap().ttl, 8, "{name}");
    (port, flow_of(&frame))
}

#[test]
fn the_endpoint_that_a_forgotten_client_had_answers_as_the_vip() {
    for (world, protocol) in WORLDS.iter().flat_map(|world| Protocol::ALL.map(|protocol| (world, protocol))) {
        let mut fixture = balanced(world, protocol);
        let (mut before, mut after) = (rig(&mut fixture), rig(&mut fixture));
        for sport in 40_000..40_020 {
            let name = format!("{protocol} {} {sport}", world.client);
            let to_service = key(protocol, at(world.client, sport), at(world.lb, 80));
            let had = begun(&mut before, to_service);
            let flags = ANSWERS[usize::from(sport) % 4];
            for pod in pods(world) {
                let reply = key(protocol, at(&pod, 8080), at(world.client, sport));
                let packet = PacketBuilder::flow(reply).flags(flags).payload(b"the answer");
                if ip(&pod) == had.dst() {
                    let out = passed(&mut after, INSIDE, packet, &name);
                    assert_eq!(out, (OUTSIDE, to_service.reversed()), "{name}");
                } else {
                    expect_drop(&mut after, INSIDE, &arriving(INSIDE, packet), REPLY, &name);
                }
            }
        }
        let flows = after.counts().flows;
        assert_eq!((flows.created, flows.replies_restored), (0, 20), "an answer begins no flow");
        // The client's next packet does, at the same endpoint.
        let to_service = key(protocol, at(world.client, 40_000), at(world.lb, 80));
        let had = begun(&mut before, key(protocol, at(world.client, 50_000), at(world.lb, 80)));
        let now = passed(&mut after, OUTSIDE, PacketBuilder::flow(to_service), "goes on").1;
        assert_eq!((now.dport(), now.src()), (had.dport(), ip(world.client)));
        assert_eq!(
            passed(&mut after, INSIDE, answer(now.reversed()), "goes on"),
            (OUTSIDE, to_service.reversed())
        );
        assert_eq!((after.counts().flows.created, after.counts().flows.replies_restored), (1, 20));
    }
}

#[test]
fn a_reset_of_whoever_was_guessed_wrongly_ends_nothing() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served_at(world, &[(FrontendKind::LoadBalancer, world.lb)], NatMode::Dnat));
    let reply = key(Protocol::Tcp, at(world.pods[0], 8080), at(world.client, 900));
    let (_, told) = passed(&mut rig, INSIDE, PacketBuilder::flow(reply), "an answer");
    let reset = arriving(OUTSIDE, PacketBuilder::flow(told.reversed()).flags(TcpFlags::RST));
    expect_drop(&mut rig, OUTSIDE, &reset, DropReason::TcpWithoutFlow, "a reset");
}

/// One endpoint, at these addresses' port 80.
fn served_at(world: &World, vips: &[(FrontendKind, &str)], mode: NatMode) -> Fixture {
    let mut fixture = Fixture::data_centre();
    for protocol in Protocol::ALL {
        let id = fixture.service("web", protocol, &[&at(world.pods[0], 8080).to_string()], mode);
        for (kind, vip) in vips {
            fixture.vip(*kind, &at(vip, 80).to_string(), id);
        }
        fixture.node_port(world.family, 30_080, id);
    }
    fixture
}

#[test]
fn an_answer_is_refused_where_several_frontends_are_possible_or_none_has_a_name() {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer};
    for world in &WORLDS {
        for (name, vips, answered) in [
            ("nodePorts only", vec![], None),
            ("a clusterIP", vec![(ClusterIp, world.cluster_ip)], Some(world.cluster_ip)),
            (
                "an externalIP",
                vec![(ClusterIp, world.cluster_ip), (ExternalIp, world.external_ip)],
                Some(world.external_ip),
            ),
            ("two", vec![(ExternalIp, world.external_ip), (LoadBalancer, world.lb)], None),
        ] {
            let mut rig = rig(&mut served_at(world, &vips, NatMode::Dnat));
            for protocol in Protocol::ALL {
                let reply = key(protocol, at(world.pods[0], 8080), at(world.client, 900));
                let packet = PacketBuilder::flow(reply).payload(b"the answer");
                match answered {
                    Some(vip) => {
                        let out = passed(&mut rig, INSIDE, packet, name).1;
                        assert_eq!((out.src(), out.sport()), (ip(vip), 80), "{name}");
                    }
                    None => expect_drop(&mut rig, INSIDE, &arriving(INSIDE, packet), REPLY, name),
                }
            }
        }
    }
}

#[test]
fn whatever_is_no_answer_of_a_dnat_service_is_routed_as_it_is() {
    for world in &WORLDS {
        let vip = [(FrontendKind::LoadBalancer, world.lb)];
        let neighbor = if world.family == packet::Family::V4 { "10.0.0.77" } else { "fd00::77" };
        for (name, mode, from, to) in [
            ("another port of the pod", NatMode::Dnat, at(world.pods[0], 8081), at(world.client, 900)),
            ("another pod", NatMode::Dnat, at(world.pods[1], 8080), at(world.client, 900)),
            ("an endpoint in snat mode", NatMode::Snat, at(world.pods[0], 8080), at(world.client, 900)),
            ("to a pod", NatMode::Dnat, at(world.pods[0], 8080), at(world.pods[1], 900)),
            ("to a Node", NatMode::Dnat, at(world.pods[0], 8080), at(world.node, 900)),
            ("to a neighbour of the Node", NatMode::Dnat, at(world.pods[0], 8080), at(neighbor, 900)),
        ] {
            let mut fixture = served_at(world, &vip, mode);
            fixture.neighbor(INSIDE, neighbor, 77);
            let mut rig = rig(&mut fixture);
            for (protocol, flags) in
                Protocol::ALL.iter().flat_map(|protocol| ANSWERS.map(|flags| (*protocol, flags)))
            {
                let key = key(protocol, from, to);
                let packet = PacketBuilder::flow(key).flags(flags).payload(b"anything");
                assert_eq!(passed(&mut rig, INSIDE, packet, name).1, key, "{name}");
            }
            assert_eq!((rig.counts().flows.created, rig.counts().dropped()), (0, 0), "{name}");
        }
    }
}

#[test]
fn an_endpoint_s_own_connections_and_those_to_its_own_address_go_on() {
    for world in &WORLDS {
        let vip = [(FrontendKind::LoadBalancer, world.lb)];
        for (name, opens, (from, to)) in [
            ("its own", true, (at(world.pods[0], 8080), at(world.far, 443))),
            ("to it", true, (at(world.client, 900), at(world.pods[0], 8080))),
            ("to it, from its middle", false, (at(world.client, 901), at(world.pods[0], 8080))),
        ] {
            let mut rig = rig(&mut served_at(world, &vip, NatMode::Dnat));
            for protocol in Protocol::ALL {
                // A datagram of the endpoint is an answer whoever began.
                if protocol == Protocol::Udp && from.port() == 8080 {
                    continue;
                }
                let there = key(protocol, from, to);
                let (came, leaves) = if from.port() == 8080 { (INSIDE, OUTSIDE) } else { (OUTSIDE, INSIDE) };
                let flags = if opens { TcpFlags::SYN } else { TcpFlags::ACK };
                let init = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
                let payload = if protocol == Protocol::Sctp && opens { &init[..] } else { &[0; 20] };
                let begins = PacketBuilder::flow(there).flags(flags).payload(payload);
                assert_eq!(passed(&mut rig, came, begins, name), (leaves, there), "{name}");
                let back = answer(there.reversed());
                assert_eq!(passed(&mut rig, leaves, back, name), (came, there.reversed()), "{name}");
                for flags in ANSWERS {
                    let on = PacketBuilder::flow(there).flags(flags).payload(b"goes on");
                    assert_eq!(passed(&mut rig, came, on, name), (leaves, there), "{name}");
                    let back = PacketBuilder::flow(there.reversed()).flags(flags).payload(b"goes on");
                    assert_eq!(passed(&mut rig, leaves, back, name), (came, there.reversed()), "{name}");
                }
                // What its receiver is told of it comes from whoever tells it, as it does without a flow.
                let router = if world.family == packet::Family::V4 { "10.0.0.11" } else { "fd00::11" };
                let (kind, code) = if world.family == packet::Family::V4 { (3, 1) } else { (1, 0) };
                let quoted = PacketBuilder::flow(there).payload(b"quoted!!").build();
                let rest = [&[0; 4][..], &quoted[14..]].concat();
                let error = PacketBuilder::icmp(ip(router), there.src(), kind, code, &rest);
                let sent = rig.exchange(leaves, &arriving(leaves, error));
                let (_, frame) = one(sent, name);
                let Body::Icmp(icmp) = parse(&frame, frame.len()).unwrap().body else { panic!("{name}") };
                assert_eq!((icmp.addrs.src(), icmp.addrs.dst()), (ip(router), there.src()), "{name}");
            }
            assert_eq!((rig.counts().flows.bypassed, rig.counts().dropped()), (0, 0), "{name}");
        }
    }
}

#[test]
fn ends_without_a_beginning_are_routed_to_an_endpoint_and_leave_no_flow() {
    for world in &WORLDS {
        let vip = [(FrontendKind::LoadBalancer, world.lb)];
        let mut rig = rig(&mut served_at(world, &vip, NatMode::Dnat));
        let there = key(Protocol::Tcp, at(world.client, 900), at(world.pods[0], 8080));
        for flags in [TcpFlags::RST, TcpFlags::FIN | TcpFlags::ACK, TcpFlags::SYN | TcpFlags::ACK] {
            let packet = PacketBuilder::flow(there).flags(flags);
            assert_eq!(passed(&mut rig, OUTSIDE, packet, "an end"), (INSIDE, there));
        }
        assert_eq!(rig.counts().flows.created, 0);
    }
}

#[test]
fn an_answer_that_cannot_pass_is_told_or_dropped_as_any_other_packet() {
    for world in &WORLDS {
        let vip = [(FrontendKind::LoadBalancer, world.lb)];
        let mut rig = rig(&mut served_at(world, &vip, NatMode::Dnat));
        let reply = key(Protocol::Udp, at(world.pods[0], 8080), at(world.client, 900));
        let (port, frame) =
            one(rig.exchange(INSIDE, &arriving(INSIDE, PacketBuilder::flow(reply).ttl(1))), "a hop too many");
        let Body::Icmp(icmp) = parse(&frame, frame.len()).unwrap().body else { panic!("not told") };
        assert_eq!((port, icmp.inner.map(|inner| inner.key)), (INSIDE, Some(reply)), "its own packet");
        let first = arriving(INSIDE, PacketBuilder::flow(reply).payload(&[7; 64]).fragment(7, 0, true));
        expect_drop(&mut rig, INSIDE, &first, REPLY, "a first part");
        let later = arriving(INSIDE, PacketBuilder::flow(reply).payload(&[7; 64]).fragment(7, 72, false));
        expect_drop(&mut rig, INSIDE, &later, REPLY, "a later part");
        assert_eq!(rig.counts().flows.created, 0);
    }
}

#[test]
fn who_is_kept_out_or_no_longer_chosen_gets_no_answer() {
    let world = &WORLDS[0];
    let vip = [(FrontendKind::LoadBalancer, world.lb)];
    let reply = key(Protocol::Udp, at(world.pods[0], 8080), at(world.client, 900));
    let packet = || arriving(INSIDE, PacketBuilder::flow(reply).payload(b"the answer"));
    let mut fixture = served_at(world, &vip, NatMode::Dnat);
    let id = fixture.tables.index.vip(ip(world.lb), Protocol::Udp, 80).unwrap().service;
    let mut rig = rig(&mut fixture);
    let lists = [(format!("{}/32", world.client).parse().unwrap(), false)].into_iter().collect();
    let access = Some(std::sync::Arc::new(Access { lists, others: true }));
    fixture.put_service(ServicePort { access, ..fixture.get_service(id) });
    rig.publish(fixture.tables());
    expect_drop(&mut rig, INSIDE, &packet(), REPLY, "kept out");
    fixture.put_service(ServicePort { access: None, ..fixture.get_service(id) });
    rig.publish(fixture.tables());
    assert_eq!(passed(&mut rig, INSIDE, PacketBuilder::flow(reply), "let in").1.src(), ip(world.lb));
}

#[test]
fn with_affinity_the_client_s_address_decides_or_what_is_remembered_of_it() {
    for world in &WORLDS {
        let mut fixture = balanced(world, Protocol::Tcp);
        let id = fixture.tables.index.vip(ip(world.lb), Protocol::Tcp, 80).unwrap().service;
        let port = fixture.get_service(id);
        fixture.put_service(ServicePort { affinity_timeout_s: Some(60), ..port.clone() });
        let mut rig = rig(&mut fixture);
        let had = begun(&mut rig, key(Protocol::Tcp, at(world.client, 900), at(world.lb, 80)));
        for pod in pods(world) {
            let reply = key(Protocol::Tcp, at(&pod, 8080), at(world.client, 901));
            let packet = PacketBuilder::flow(reply);
            match ip(&pod) == had.dst() {
                true => assert_eq!(passed(&mut rig, INSIDE, packet, "the client's").1.src(), ip(world.lb)),
                false => expect_drop(&mut rig, INSIDE, &arriving(INSIDE, packet), REPLY, "another one"),
            }
        }
    }
}

/// A Service of the twin: its mode, its VIPs (kind and last part of the address), its endpoints by number.
type Plan = (bool, Vec<(FrontendKind, u8)>, Vec<usize>);

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let kind = select(vec![FrontendKind::ClusterIp, FrontendKind::ExternalIp, FrontendKind::LoadBalancer]);
    vec((any::<bool>(), vec((kind, 1..250_u8), 0..3), vec(0..4_usize, 1..5)), 1..4)
}

proptest! {
    /// The way there is the judge of the way back: an answer leaves as a VIP only if the client's packets to that VIP go
    /// to its sender, with the client's address; and if no other frontend of the first rank leads there.
    #[test]
    fn an_answer_is_let_through_only_where_the_question_would_have_come_from(
        plans in plans(), v6: bool, pod in 0..4_usize, sport in 1024..60_000_u16,
    ) {
        let world = &WORLDS[usize::from(v6)];
        let (mut fixture, pods) = (Fixture::data_centre(), pods(world));
        let mut vips: Vec<(SocketAddr, FrontendKind, bool)> = Vec::new();
        for (n, (dnat, wanted, endpoints)) in plans.iter().enumerate() {
            let mut endpoints: Vec<_> = endpoints.iter().map(|n| at(&pods[*n], 8080).to_string()).collect();
            endpoints.sort();
            endpoints.dedup();
            let texts: Vec<_> = endpoints.iter().map(String::as_str).collect();
            let mode = if *dnat { NatMode::Dnat } else { NatMode::Snat };
            let id = fixture.service(&format!("s{n}"), Protocol::Tcp, &texts, mode);
            for (kind, last) in wanted {
                let vip = if v6 { format!("[2001:db8:f::{last}]:80") } else { format!("203.0.113.{last}:80") };
                let vip: SocketAddr = vip.parse().unwrap();
                // The first to have an address keeps it.
                if !vips.iter().any(|(known, ..)| *known == vip) {
                    fixture.vip(*kind, &vip.to_string(), id);
                    vips.push((vip, *kind, *dnat && endpoints.contains(&at(&pods[pod], 8080).to_string())));
                }
            }
        }
        let reply = key(Protocol::Tcp, at(&pods[pod], 8080), at(world.client, sport));
        let mut there = rig(&mut fixture);
        let mut leads_back = |vip| begun(&mut there, key(Protocol::Tcp, at(world.client, sport), vip)) == reply.reversed();
        let told: Vec<_> = vips.iter().filter(|(_, _, leads)| *leads).collect();
        let told_outside: Vec<_> = told.iter().filter(|(_, kind, _)| *kind != FrontendKind::ClusterIp).collect();
        let expected = match (&told_outside[..], &told[..]) {
            ([], []) => Ok(None),
            ([only], _) => Err(only.0),
            ([], [only]) => Err(only.0),
            _ => Ok(Some(REPLY)),
        };
        let expected = expected.or_else(|vip| if leads_back(vip) { Err(vip) } else { Ok(Some(REPLY)) });
        let packet = PacketBuilder::flow(reply).payload(b"the answer");
        let mut rig = rig(&mut fixture);
        match expected {
            Ok(None) => prop_assert_eq!(passed(&mut rig, INSIDE, packet, "routed").1, reply),
            Ok(Some(reason)) => expect_drop(&mut rig, INSIDE, &arriving(INSIDE, packet), reason, "refused"),
            Err(vip) => {
                let out = passed(&mut rig, INSIDE, packet, "answered").1;
                prop_assert_eq!((out.src(), out.sport(), out.dst(), out.dport()), (vip.ip(), 80, reply.dst(), sport));
            }
        }
    }
}

#[test]
fn what_another_endpoint_says_of_a_client_with_a_flow_is_refused() {
    for world in &WORLDS {
        let mut fixture = balanced(world, Protocol::Tcp);
        let id = fixture.tables.index.vip(ip(world.lb), Protocol::Tcp, 80).unwrap().service;
        let port = fixture.get_service(id);
        let mut rig = rig(&mut fixture);
        let to_service = key(Protocol::Tcp, at(world.client, 900), at(world.lb, 80));
        let had = begun(&mut rig, to_service);
        // From now on every client would go to another one.
        let other = port.pools[0].backends.iter().copied();
        let other = other.map(|id| *fixture.tables.backend(id).unwrap()).find(|at| at.address != had.dst());
        let pool = fixture.pool_of(&[other.unwrap().id]);
        fixture.put_service(ServicePort { pools: Box::new([pool, port.pools[0].clone()]), ..port });
        rig.publish(fixture.tables());
        let reply = |sport| {
            key(Protocol::Tcp, SocketAddr::new(other.unwrap().address, 8080), at(world.client, sport))
        };
        let packet = |sport| PacketBuilder::flow(reply(sport));
        expect_drop(&mut rig, INSIDE, &arriving(INSIDE, packet(900)), REPLY, "it has a flow");
        assert_eq!(passed(&mut rig, INSIDE, packet(901), "it has none").1.src(), ip(world.lb));
        let answered = passed(&mut rig, INSIDE, answer(had.reversed()), "the flow's own");
        assert_eq!(answered, (OUTSIDE, to_service.reversed()));
    }
}

#[test]
fn a_draining_endpoint_s_forgotten_clients_are_refused() {
    let world = &WORLDS[0];
    let mut fixture = balanced(world, Protocol::Tcp);
    let id = fixture.tables.index.vip(ip(world.lb), Protocol::Tcp, 80).unwrap().service;
    let drains = *fixture.tables.backends.iter().next().unwrap();
    fixture.tables.backends.insert(Backend { state: BackendState::Draining, ..drains });
    let rest: Vec<_> = fixture.tables.backends.iter().map(|backend| backend.id).skip(1).collect();
    let rest = fixture.pool_of(&rest);
    let port = fixture.get_service(id);
    // As the compiler has it: the endpoint is still the Service's, and in no pool that is chosen from.
    fixture.put_service(ServicePort { pools: Box::new([rest, port.pools[0].clone()]), ..port });
    let mut rig = rig(&mut fixture);
    let reply = key(Protocol::Tcp, SocketAddr::new(drains.address, 8080), at(world.client, 900));
    expect_drop(&mut rig, INSIDE, &arriving(INSIDE, PacketBuilder::flow(reply)), REPLY, "it drains");
}
