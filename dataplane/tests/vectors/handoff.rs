//! Several workers: ports that put every packet on the wrong queue, and ports that have our RSS key.

use dataplane::{
    handoff::handoff_rings,
    testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig},
};
use packet::{
    AnyKey, Body, Family, Protocol, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{FrontendKind, NatMode, PortId, Tables, WorkerId, owner::of_key};

use crate::{
    fragments::{cut, join},
    world::*,
};

/// So many workers, connected.
pub(crate) fn team(tables: &Tables) -> Vec<Rig> {
    let rigs = handoff_rings(tables.workers).into_iter().zip(0..).map(|(ends, worker)| {
        let mut rig = rig_of(&RigConfig { worker: WorkerId(worker), ..RigConfig::default() }, tables.clone());
        rig.worker.connect(ends);
        rig
    });
    rigs.collect()
}

/// Lets a frame arrive at the worker that does not own it; what its owner sends.
fn cross(rigs: &mut [Rig], tables: &Tables, port: PortId, key: AnyKey, frame: &[u8]) -> AnyKey {
    flow_of(&cross_frame(rigs, tables, port, key, frame))
}

pub(crate) fn cross_frame(
    rigs: &mut [Rig],
    tables: &Tables,
    port: PortId,
    key: AnyKey,
    frame: &[u8],
) -> Vec<u8> {
    let owner = usize::from(of_key(key, tables).0);
    rigs[1 - owner].push(port, frame);
    rigs[1 - owner].settle();
    assert!(rigs[1 - owner].all_sent().is_empty(), "{key:?}: not by its receiver");
    rigs[owner].settle();
    one(rigs[owner].all_sent(), "by its owner").1
}

fn world_of_two(world: &World, protocol: Protocol, mode: NatMode) -> (Tables, Vec<Rig>) {
    world_of(2, world, protocol, mode)
}

/// Workers, and one VIP with two backends, quiet.
fn world_of(workers: u16, world: &World, protocol: Protocol, mode: NatMode) -> (Tables, Vec<Rig>) {
    let mut fixture = Fixture::data_centre();
    let backends = world.pods.map(|pod| at(pod, 80).to_string());
    let service = fixture.service("web", protocol, &[&backends[0], &backends[1]], mode);
    fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 80).to_string(), service);
    fixture.tables.workers = workers;
    let tables = fixture.tables();
    let mut rigs = team(&tables);
    rigs.iter_mut().for_each(|rig| drop((rig.settle(), rig.all_sent())));
    (tables, rigs)
}

#[test]
fn flows_survive_when_every_packet_comes_to_the_wrong_worker() {
    for world in &WORLDS {
        for protocol in Protocol::ALL {
            for mode in [NatMode::Snat, NatMode::Dnat] {
                let (tables, mut rigs) = world_of_two(world, protocol, mode);
                for sport in 2000..2032 {
                    let to_service = key(protocol, at(world.far, sport), at(world.lb, 80));
                    for _ in 0..2 {
                        let frame = arriving(OUTSIDE, first(to_service));
                        let to_backend = cross(&mut rigs, &tables, OUTSIDE, to_service, &frame);
                        let reply = to_backend.reversed();
                        let frame = arriving(INSIDE, answer(reply));
                        let back = cross(&mut rigs, &tables, INSIDE, reply, &frame);
                        assert_eq!(back, to_service.reversed(), "{protocol} {mode:?}");
                    }
                }
                let sum = |count: fn(&Rig) -> u64| rigs.iter().map(count).sum::<u64>();
                assert_eq!(sum(|rig| rig.counts().flows.created), 32, "one flow has one worker");
                assert_eq!(sum(|rig| rig.counts().packets.handoff_out), 128);
                assert_eq!(sum(|rig| rig.counts().packets.handoff_in), 128);
                assert!(rigs.iter().all(|rig| rig.counts().imbalance() == 0));
            }
        }
    }
}

/// Who took less in a turn than the others can hand over would lose packets in the end.
#[test]
fn what_several_ports_hand_over_is_taken_in_one_turn() {
    let world = &WORLDS[0];
    let (tables, mut rigs) = world_of_two(world, Protocol::Udp, NatMode::Snat);
    let keys = (2000..).map(|sport| key(Protocol::Udp, at(world.far, sport), at(world.lb, 80)));
    let keys = keys.filter(|key| of_key(*key, &tables) == WorkerId(1)).take(32);
    for (n, key) in keys.enumerate() {
        let port = if n % 2 == 0 { OUTSIDE } else { INSIDE };
        rigs[0].push(port, &arriving(port, first(key)));
        rigs[0].turn();
    }
    rigs[1].turn();
    let counts = rigs[1].counts();
    assert_eq!((counts.packets.handoff_in, counts.flows.created), (32, 32));
    assert!(rigs.iter().all(|rig| rig.counts().imbalance() == 0));
}

/// Ports whose NICs have our key bring either direction of a translated flow to its worker; of a dnat flow, whose worker
/// goes by the client alone, as many as by chance.
#[test]
fn with_our_rss_key_hardly_a_packet_of_a_translated_flow_is_handed_over() {
    for world in &WORLDS {
        for (workers, mode) in [
            (2, NatMode::Snat),
            (3, NatMode::Snat),
            (8, NatMode::Snat),
            (2, NatMode::Dnat),
            (8, NatMode::Dnat),
        ] {
            let (tables, mut rigs) = world_of(workers, world, Protocol::Tcp, mode);
            let mut arrive = |port: PortId, key: AnyKey, frame: PacketBuilder| {
                let queue = match key {
                    AnyKey::V4(key) => tables.rss.worker(&key, workers),
                    AnyKey::V6(key) => tables.rss.worker(&key, workers),
                };
                rigs[queue.index()].push(port, &arriving(port, frame));
                rigs.iter_mut().for_each(Rig::settle);
                rigs.iter_mut().for_each(Rig::settle);
                let out: Vec<_> = rigs.iter_mut().flat_map(Rig::all_sent).collect();
                flow_of(&one(out, "of all workers").1)
            };
            for sport in 2000..2200 {
                let to_service = key(Protocol::Tcp, at(world.far, sport), at(world.lb, 80));
                let to_backend = arrive(OUTSIDE, to_service, first(to_service));
                let reply = to_backend.reversed();
                assert_eq!(arrive(INSIDE, reply, answer(reply)), to_service.reversed());
                arrive(OUTSIDE, to_service, first(to_service));
            }
            let handed_over: u64 = rigs.iter().map(|rig| rig.counts().packets.handoff_out).sum();
            let share = handed_over as f64 / 600.0;
            println!("{workers} workers, {mode:?}: {:.1} % of the packets are handed over", share * 100.0);
            match mode {
                NatMode::Snat => assert_eq!(handed_over, 0, "{workers} workers"),
                NatMode::Dnat => assert!(share < 1.1 * f64::from(workers - 1) / f64::from(workers)),
            }
        }
    }
}

#[test]
fn an_error_finds_the_worker_of_the_flow_it_quotes() {
    for world in &WORLDS {
        for mode in [NatMode::Snat, NatMode::Dnat] {
            let (tables, mut rigs) = world_of_two(world, Protocol::Tcp, mode);
            for sport in 2000..2032 {
                let to_service = key(Protocol::Tcp, at(world.far, sport), at(world.lb, 80));
                let syn = arriving(OUTSIDE, first(to_service));
                let to_backend = cross(&mut rigs, &tables, OUTSIDE, to_service, &syn);
                let reply = arriving(INSIDE, answer(to_backend.reversed()));
                let to_client = cross(&mut rigs, &tables, INSIDE, to_backend.reversed(), &reply);
                for (port, about, from, want) in [
                    (INSIDE, to_backend, world.node, to_service),
                    (OUTSIDE, to_client, world.far, to_backend.reversed()),
                ] {
                    let rest = [&[0; 4][..], &PacketBuilder::flow(about).build()[14..]].concat();
                    let kind = if world.family == Family::V4 { 3 } else { 1 };
                    let error = PacketBuilder::icmp(ip(from), about.src(), kind, 3, &rest);
                    let frame = arriving(port, error);
                    let out = cross_frame(&mut rigs, &tables, port, about.reversed(), &frame);
                    assert_valid_checksums(&out);
                    let Body::Icmp(icmp) = parse(&out, out.len()).unwrap().body else { panic!("{out:02x?}") };
                    assert_eq!(icmp.inner.map(|inner| inner.key), Some(want), "{mode:?}");
                    assert_eq!(icmp.addrs.dst(), want.src());
                }
            }
        }
    }
}

#[test]
fn parts_of_a_datagram_meet_at_one_worker_and_end_at_that_of_their_flow() {
    for world in &WORLDS {
        for mode in [NatMode::Snat, NatMode::Dnat] {
            let (_, mut rigs) = world_of_two(world, Protocol::Udp, mode);
            for sport in 2000..2032u16 {
                let to_service = key(Protocol::Udp, at(world.far, sport), at(world.lb, 80));
                let whole = PacketBuilder::flow(to_service).payload(&[7; 2_500]);
                let parts = cut(&whole, sport.into(), 1_000);
                // Each part at any worker, in any order.
                for (n, at) in
                    [usize::from(sport % 3), usize::from(sport % 3 + 1) % 3, usize::from(sport % 3 + 2) % 3]
                        .into_iter()
                        .zip([sport & 1, sport >> 1 & 1, sport >> 2 & 1])
                {
                    rigs[usize::from(at)].push(OUTSIDE, &arriving(OUTSIDE, parts[n].clone()));
                    for _ in 0..3 {
                        rigs.iter_mut().for_each(Rig::settle);
                    }
                }
                let out: Vec<Vec<_>> = rigs.iter_mut().map(Rig::all_sent).collect();
                let [one, other] = &out[..] else { panic!("two workers") };
                assert!(one.is_empty() || other.is_empty(), "one worker sends them all");
                let frames: Vec<_> = one.iter().chain(other).map(|(_, frame)| frame.clone()).collect();
                let whole = join(&frames);
                assert_valid_checksums(&whole);
                let by = usize::from(one.is_empty());
                assert_eq!(rigs[by].counts().dropped(), 0);
            }
            let sum = |count: fn(&Rig) -> u64| rigs.iter().map(count).sum::<u64>();
            assert_eq!(sum(|rig| rig.counts().flows.created), 32);
            assert_eq!(sum(|rig| rig.counts().packets.held), 0);
            assert!(rigs.iter().all(|rig| rig.counts().imbalance() == 0));
        }
    }
}
