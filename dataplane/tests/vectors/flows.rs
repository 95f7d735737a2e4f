//! Flows over time: tables that change, limits, what control sees.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    Protocol, TcpFlags,
    testkit::{PacketBuilder, flow_of},
};
use tables::{DropReason, FrontendKind, NatMode, punt::Message};

use crate::world::*;

#[test]
fn a_worker_may_be_built_on_one_thread_and_run_on_another() {
    fn is_send<T: Send>() {}
    is_send::<dataplane::worker::Worker<dataplane::io::mem::MemPort>>();
}

#[test]
fn udp_leaves_a_backend_that_is_gone_and_tcp_stays() {
    for (protocol, moves) in [(Protocol::Udp, true), (Protocol::Tcp, false)] {
        let mut fixture = Fixture::data_centre();
        let moving = Moving::new(&mut fixture, &WORLDS[0], protocol, NatMode::Snat);
        let mut rig = rig(&mut fixture);
        let (client, vip) = (at("192.0.2.2", 900), at("203.0.113.10", 80));
        // As often as it takes until a datagram is a usual packet.
        for _ in 0..if moves { 3 } else { 1 } {
            round_trip(&mut rig, (OUTSIDE, client), vip, protocol, "before");
        }
        moving.replace(&mut fixture, false);
        // In the turn that takes them: only after it are flows of what is gone swept away.
        rig.publisher.publish(fixture.tables());
        let packet = PacketBuilder::flow(key(protocol, client, vip)).pad_to(60);
        let packet = arriving(OUTSIDE, packet);
        let (_, frame) = one(rig.exchange(OUTSIDE, &packet), "after");
        let want = if moves { "10.244.2.5" } else { "10.244.1.5" };
        assert_eq!(flow_of(&frame).dst(), ip(want), "{protocol}");
    }
}

#[test]
fn a_new_connection_does_not_join_an_old_one_at_a_leaving_backend_unless_that_may_live() {
    let fin = || TcpFlags::FIN | TcpFlags::ACK;
    // What came last, whether a new connection moves from a backend that is gone, and from one that drains.
    for (name, last, drains, moves) in [
        ("answered", vec![], true, false),
        ("established", vec![(OUTSIDE, TcpFlags::ACK)], false, false),
        ("half closed by the client", vec![(OUTSIDE, fin())], true, false),
        ("half closed by the server", vec![(INSIDE, fin())], true, false),
        ("closed by the client", vec![(OUTSIDE, fin()), (INSIDE, fin())], true, true),
        ("closed by the server", vec![(INSIDE, fin()), (OUTSIDE, fin())], true, true),
        ("reset", vec![(INSIDE, TcpFlags::RST)], true, true),
    ]
    .iter()
    .flat_map(|(name, last, dead, draining)| [(name, last, false, *dead), (name, last, true, *draining)])
    {
        let mut fixture = Fixture::data_centre();
        let moving = Moving::new(&mut fixture, &WORLDS[0], Protocol::Tcp, NatMode::Dnat);
        let mut rig = rig(&mut fixture);
        let (client, vip) = (at("192.0.2.2", 900), at("203.0.113.10", 80));
        let to_service = key(Protocol::Tcp, client, vip);
        let to_backend = round_trip(&mut rig, (OUTSIDE, client), vip, Protocol::Tcp, name);
        for (port, flags) in last {
            let key = if *port == OUTSIDE { to_service } else { to_backend.reversed() };
            one(rig.exchange(*port, &arriving(*port, PacketBuilder::flow(key).flags(*flags))), name);
        }
        moving.replace(&mut fixture, drains);
        rig.publish(fixture.tables());
        let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service))), name);
        let want = if moves { "10.244.2.5" } else { "10.244.1.5" };
        assert_eq!(flow_of(&frame).dst(), ip(want), "{name}, drains: {drains}");
    }
}

#[test]
fn replies_that_never_come_back_are_noticed_once_a_flow() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let to_service = key(Protocol::Tcp, at(world.client, 900), at(world.lb, 81));
    for _ in 0..3 {
        rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service)));
    }
    assert_eq!(rig.counts().flows.bypassed, 1);
    rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(to_service)));
    assert_eq!(rig.counts().flows.bypassed, 1);
}

#[test]
fn control_is_told_which_services_replies_take_another_way() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let again = |rig: &mut Rig, sport, port| {
            let to_service = key(Protocol::Tcp, at(world.client, sport), at(world.lb, port));
            rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service)));
            rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service)));
        };
        (900..903).for_each(|sport| again(&mut rig, sport, 81));
        again(&mut rig, 903, 80);
        rig.now = rig.now.plus(100);
        rig.settle();
        let told: Vec<_> = rig.punted().into_iter().map(|(message, _)| message).collect();
        let vip = rig.publisher.newest().index.vip(ip(world.lb), Protocol::Tcp, 81).unwrap();
        // Of the dnat Service: replies to translated addresses cannot go astray. The first flow is told at once.
        let tell = |flows| Message::ReplyBypass { service: vip.service, flows };
        assert_eq!((told, rig.counts().flows.bypassed), (vec![tell(1), tell(2)], 3));
    }
}

#[test]
fn a_flow_begins_with_a_syn_or_in_its_middle_and_with_nothing_else() {
    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const FIN: TcpFlags = TcpFlags::FIN;
    const RST: TcpFlags = TcpFlags::RST;
    for world in &WORLDS {
        for (begins, flags) in [
            (true, SYN),
            (true, ACK),
            (true, ACK | TcpFlags::PSH),
            (true, SYN | TcpFlags(0xc0)),
            (false, SYN | ACK),
            (false, RST),
            (false, RST | ACK),
            (false, FIN),
            (false, FIN | ACK),
            (false, SYN | FIN),
            (false, TcpFlags::NONE),
        ] {
            let mut rig = rig(&mut served(world));
            for port in [80, 81] {
                let to_service = key(Protocol::Tcp, at(world.client, 900), at(world.lb, port));
                let segment = arriving(OUTSIDE, PacketBuilder::flow(to_service).flags(flags));
                if begins {
                    one(rig.exchange(OUTSIDE, &segment), &flags.to_string());
                } else {
                    let name = flags.to_string();
                    expect_drop(&mut rig, OUTSIDE, &segment, DropReason::TcpWithoutFlow, &name);
                }
            }
            assert_eq!(rig.counts().flows.created, if begins { 2 } else { 0 }, "{flags}");
        }
    }
}

#[test]
fn full_tables_refuse_and_exhausted_ports_are_told() {
    let world = &WORLDS[0];
    let config = RigConfig { flows: 8, ..RigConfig::default() };
    let mut rig = rig_of(&config, served(world).tables());
    for n in 0..20 {
        let (client, vip) = (at(world.client, 900 + n), at(world.lb, 80));
        let out = rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(key(Protocol::Tcp, client, vip))));
        if let [(_, frame)] = &out[..] {
            rig.exchange(INSIDE, &arriving(INSIDE, answer(flow_of(frame).reversed())));
            let acknowledged = PacketBuilder::flow(key(Protocol::Tcp, client, vip));
            rig.exchange(OUTSIDE, &arriving(OUTSIDE, acknowledged));
        }
    }
    assert!(rig.dropped(DropReason::FlowTableFull) >= 12, "{:?}", rig.counts());

    let mut fixture = served(world);
    fixture.tables.snat =
        tables::SnatConfig { addresses: Box::new([]), ports: tables::SnatRange::new(5_000, 5_001, []) }
            .into();
    let mut rig = self::rig(&mut fixture);
    for n in 0..2 {
        round_trip(&mut rig, (OUTSIDE, at(world.client, 900 + n)), at(world.lb, 80), Protocol::Tcp, "fits");
    }
    let third = key(Protocol::Tcp, at(world.client, 902), at(world.lb, 80));
    let (_, reset) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(third))), "told");
    assert_refusal(&reset, third, "exhausted");
    assert_eq!(rig.dropped(DropReason::SnatExhausted), 1);
}

/// Those of one burst look for theirs together, before any of them is entered.
#[test]
fn the_last_source_ports_are_found_and_no_two_flows_get_one() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let ports = tables::SnatRange::new(5_000, 5_031, []);
        fixture.tables.snat = tables::SnatConfig { addresses: Box::new([]), ports }.into();
        let mut rig = rig(&mut fixture);
        let mut used = std::collections::BTreeSet::new();
        for burst in [0..12, 12..24, 24..32] {
            let clients = burst.map(|n| key(Protocol::Tcp, at(world.client, 900 + n), at(world.lb, 80)));
            clients.for_each(|client| rig.push(OUTSIDE, &arriving(OUTSIDE, first(client))));
            rig.turn();
            used.extend(rig.sent(INSIDE).iter().map(|frame| flow_of(frame).sport()));
        }
        assert_eq!(used.into_iter().collect::<Vec<_>>(), (5_000..=5_031).collect::<Vec<_>>());
        let late = key(Protocol::Tcp, at(world.client, 999), at(world.lb, 80));
        let (_, reset) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(late))), "told");
        assert_refusal(&reset, late, "exhausted");
    }
}

#[test]
fn control_sees_flows_and_counters() {
    use tables::command::{Answer, Command, Done, FlowFilter};
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    for n in 0..3 {
        round_trip(&mut rig, (OUTSIDE, at(world.client, 900 + n)), at(world.lb, 80), Protocol::Tcp, "a flow");
    }
    assert!(rig.commands.send(Command::ListFlows { filter: FlowFilter::default(), from: 0 }));
    rig.settle();
    let answers: Vec<_> = std::iter::from_fn(|| rig.commands.answer()).collect();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers.last(), Some(&Answer::Done(Done { matched: 3, next: None, one_in: 1 })));
    assert_eq!((rig.counts().flows.used, rig.counts().imbalance()), (3, 0));
    let mut shown = rig.counters.snapshot();
    // Turns without work are shown a few at a time.
    shown.turns = rig.counts().turns;
    assert_eq!(shown, *rig.counts());
}

#[test]
fn counters_are_shown_every_few_turns_with_work_and_in_the_first_without() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let (client, vip) = (at(world.client, 900), at(world.lb, 80));
    round_trip(&mut rig, (OUTSIDE, client), vip, Protocol::Tcp, "a flow");
    let packet = arriving(OUTSIDE, PacketBuilder::flow(key(Protocol::Tcp, client, vip)).flags(TcpFlags::ACK));
    let mut behind = std::collections::BTreeSet::new();
    for _ in 0..64 {
        rig.push(OUTSIDE, &packet);
        rig.turn();
        behind.insert(rig.counts().packets.rx - rig.counters.snapshot().packets.rx);
    }
    assert_eq!(behind, (0..8).collect());
    rig.turn();
    assert_eq!(rig.counters.snapshot(), *rig.counts());
}

#[test]
fn packets_of_one_new_flow_in_one_burst_become_one_flow_and_keep_their_order() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let mut rig = rig(&mut fixture);
        let to = |port| key(Protocol::Tcp, at(world.client, port), at(world.lb, 80));
        for port in [900, 901, 900, 902, 901, 900] {
            rig.push(OUTSIDE, &arriving(OUTSIDE, first(to(port))));
        }
        rig.turn();
        let keys: Vec<_> = rig.sent(INSIDE).iter().map(|frame| flow_of(frame)).collect();
        assert_eq!(keys.len(), 6);
        assert!(keys[0] == keys[2] && keys[2] == keys[5] && keys[1] == keys[4]);
        assert!(keys[0] != keys[1] && keys[1] != keys[3] && keys[0] != keys[3]);
        assert_eq!(rig.counts().flows.created, 3);
    }
}

#[test]
fn one_client_port_at_two_services_with_one_backend_is_two_flows() {
    for world in &WORLDS {
        let mut fixture = Fixture::data_centre();
        let backend = at(world.pods[0], 80).to_string();
        for vip in [world.lb, world.external_ip] {
            let service = fixture.service(vip, Protocol::Tcp, &[&backend], NatMode::Dnat);
            fixture.vip(FrontendKind::LoadBalancer, &at(vip, 80).to_string(), service);
        }
        let mut rig = rig(&mut fixture);
        // The client is far away, so that dnat replies come back through the appliance.
        let client = at(world.far, 900);
        let [one, two] = [world.lb, world.external_ip].map(|vip| {
            let to_service = key(Protocol::Tcp, client, at(vip, 80));
            let out = rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service)));
            let to_backend = flow_of(&crate::world::one(out, vip).1);
            (to_service, to_backend)
        });
        assert_eq!((one.1.src(), two.1.src()), (ip(world.far), ip(world.own[1])), "the second is translated");
        for (to_service, to_backend) in [one, two, one] {
            let out = rig.exchange(INSIDE, &arriving(INSIDE, answer(to_backend.reversed())));
            assert_eq!(flow_of(&crate::world::one(out, "reply").1), to_service.reversed());
        }
        assert_eq!(rig.dropped(DropReason::FlowKeyTaken), 0);
    }
}

#[test]
fn udp_flows_may_be_silent_for_as_long_as_their_service_says() {
    // Idle timeout, and for how long a lone question and a stream live at least and at most.
    for (world, (idle, question, stream)) in WORLDS.iter().flat_map(|world| {
        [
            (None, (30, 30), (180, 180)),
            (Some(4), (5, 5), (5, 5)),
            (Some(3_600), (3_600, 3_600), (3_600, 3_600)),
        ]
        .map(|(idle, (q, _), (s, _))| (world, (idle, q, s)))
    }) {
        for (protocol, streams, lives) in
            [(Protocol::Udp, false, question), (Protocol::Udp, true, stream), (Protocol::Tcp, true, 7_200)]
        {
            let mut fixture = served(world);
            let vip = fixture.tables.index.vip(ip(world.lb), protocol, 80).unwrap().service;
            let udp_idle = idle.map_or(tables::IdleTimeout::NONE, tables::IdleTimeout::of);
            fixture.put_service(tables::ServicePort { udp_idle, ..fixture.get_service(vip) });
            let mut rig = rig(&mut fixture);
            let (client, vip) = (at(world.client, 900), at(world.lb, 80));
            round_trip(&mut rig, (OUTSIDE, client), vip, protocol, "a flow");
            if streams {
                let more = arriving(OUTSIDE, PacketBuilder::flow(key(protocol, client, vip)));
                one(rig.exchange(OUTSIDE, &more), "more");
            }
            rig.now = rig.now.plus(lives * 1_000);
            rig.settle();
            assert_eq!(rig.counts().flows.expired, 0, "{protocol} {idle:?}: alive after {lives} s");
            rig.now = rig.now.plus(1_000);
            rig.settle();
            assert_eq!(rig.counts().flows.expired, 1, "{protocol} {idle:?}: gone after {lives} s");
        }
    }
}

#[test]
fn flows_leave_a_backend_that_drains_or_is_gone_at_the_deadline() {
    for (world, (protocol, gone)) in WORLDS.iter().flat_map(|world| {
        [(Protocol::Tcp, true), (Protocol::Tcp, false), (Protocol::Udp, false), (Protocol::Sctp, true)]
            .map(|case| (world, case))
    }) {
        for deadline_ms in [Some(60_000), None] {
            let mut fixture = Fixture::data_centre();
            fixture.tables.drain_deadline_ms = deadline_ms;
            let moving = Moving::new(&mut fixture, world, protocol, NatMode::Snat);
            let mut rig = rig(&mut fixture);
            let (client, vip) = (at(world.client, 900), at(world.lb, 80));
            let ack = if protocol == Protocol::Sctp { TcpFlags::NONE } else { TcpFlags::ACK };
            let segment = arriving(OUTSIDE, PacketBuilder::flow(key(protocol, client, vip)).flags(ack));
            round_trip(&mut rig, (OUTSIDE, client), vip, protocol, "a flow");
            one(rig.exchange(OUTSIDE, &segment), "established");
            moving.replace(&mut fixture, !gone);
            rig.publish(fixture.tables());
            // Whatever it sends, its time is over a minute later, and not before.
            for _ in 0..59 {
                rig.now = rig.now.plus(1_000);
                let (_, frame) = one(rig.exchange(OUTSIDE, &segment), "goes on");
                assert_eq!(flow_of(&frame).dst(), ip(world.pods[0]), "{protocol}");
            }
            rig.now = rig.now.plus(2_000);
            rig.settle();
            let ends = u64::from(deadline_ms.is_some());
            assert_eq!(
                (rig.counts().flows.drained, rig.counts().flows.removed),
                (ends, ends),
                "{protocol} {gone}"
            );
            let (_, frame) = one(rig.exchange(OUTSIDE, &segment), "afterwards");
            let want = world.pods[usize::from(deadline_ms.is_some())];
            assert_eq!(flow_of(&frame).dst(), ip(want), "{protocol} {gone} {deadline_ms:?}");
        }
    }
}

#[test]
fn a_backend_that_comes_back_keeps_its_flows() {
    let world = &WORLDS[0];
    let mut fixture = served(world);
    fixture.tables.drain_deadline_ms = Some(60_000);
    let vip = fixture.tables.index.vip(ip(world.lb), Protocol::Tcp, 80).unwrap().service;
    let backend = fixture.get_service(vip).pools[0].backends[0];
    let active = *fixture.tables.backends.get(backend).unwrap();
    let mut rig = rig(&mut fixture);
    let (client, vip) = (at(world.client, 900), at(world.lb, 80));
    round_trip(&mut rig, (OUTSIDE, client), vip, Protocol::Tcp, "a flow");
    one(
        rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(key(Protocol::Tcp, client, vip)))),
        "ACK",
    );
    for _ in 0..4 {
        fixture.drain_backend(backend);
        rig.publish(fixture.tables());
        rig.now = rig.now.plus(50_000);
        rig.settle();
        fixture.tables.backends.insert(active);
        rig.publish(fixture.tables());
    }
    assert_eq!((rig.counts().flows.drained, rig.counts().flows.used), (0, 1));
}
