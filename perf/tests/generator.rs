//! The generators against the worker, on memory ports: all that they open and send comes back translated, and what a bad wire
//! does to frames is told.

use std::time::Duration;

use dataplane::{
    buf::PacketBuf as _,
    io::mem::{MemBuf, MemPort},
    testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig},
};
use packet::Protocol;
use perf::{
    generator::{Ends, Generator, GeneratorError},
    load::{Connections, Plan, Player, Popularity, Ways},
    stand::tables,
};
use tables::{FrontendKind, NatMode, PortId};

/// Cables between the generator's two ports and the worker's, and a turn of the worker.
fn carry(rig: &mut Rig, wires: [&mut MemPort; 2]) {
    carry_through(rig, wires, &mut |_, wire, buf| wire.push_buf(buf));
}

/// The same, with what brings a frame of the gateway to the generator's port.
fn carry_through(
    rig: &mut Rig,
    [outside, inside]: [&mut MemPort; 2],
    deliver: &mut dyn FnMut(PortId, &mut MemPort, MemBuf),
) {
    for (port, wire) in [(OUTSIDE, outside), (INSIDE, inside)] {
        while let Some(buf) = wire.pop() {
            rig.port(port).push_buf(buf);
        }
        rig.turn();
        while let Some(buf) = rig.port(port).pop() {
            deliver(port, wire, buf);
        }
    }
}

/// A port of the generator's, and the stations at its link.
fn link(port: PortId, last: u8) -> (MemPort, Ends) {
    (MemPort::default(), Ends { gateway: Fixture::port_mac(port), ours: Fixture::neighbor_mac(port, last) })
}

/// A gateway with a Service at this address, and what is sent through it.
fn gateway(service: &str, protocol: Protocol, sizes: &str) -> (Rig, Plan) {
    let mut fixture = Fixture::data_centre();
    let v4 = !service.starts_with('[');
    let backends: Vec<_> = (2..250)
        .map(|n| if v4 { format!("10.244.1.{n}:8080") } else { format!("[fd00:244:1::{n:x}]:8080") })
        .collect();
    let backends: Vec<_> = backends.iter().map(String::as_str).collect();
    let id = fixture.service("measured", protocol, &backends, NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, service, id);
    let plan = Plan {
        service: service.parse().expect("address:port"),
        protocol,
        clients: if v4 { "198.18.0.0" } else { "2001:db8:18::" }.parse().expect("an address"),
        flows: 300,
        sizes: sizes.parse().expect("sizes"),
        popularity: Popularity::Uniform,
        ways: Ways::Both,
        check_every: 1,
        frames_only: false,
    };
    (Rig::new(&RigConfig { flows: 4096, ..RigConfig::default() }, fixture.tables()), plan)
}

/// Frames a second that a debug build on a busy machine sends and takes.
const RATE: Option<f64> = Some(20_000.0);

#[test]
fn numbered_frames_of_every_kind_come_back_whole_and_in_order() {
    for (service, protocol, sizes, popularity) in [
        ("203.0.113.20:53", Protocol::Udp, "64", Popularity::Uniform),
        ("203.0.113.20:80", Protocol::Tcp, "76:7,594:4,1518:1", Popularity::Zipf(1.0)),
        ("[2001:db8:f::20]:53", Protocol::Udp, "84", Popularity::Uniform),
        ("[2001:db8:f::20]:80", Protocol::Tcp, "1518", Popularity::Uniform),
    ] {
        let (mut rig, plan) = gateway(service, protocol, sizes);
        let plan = Plan { popularity, ..plan };
        let mut player = Player::new(plan, link(OUTSIDE, 254), link(INSIDE, 11)).expect("a plan");
        player.open(|wires| carry(&mut rig, wires)).expect("every flow opens");
        assert_eq!(rig.counts().flows.created, 300, "{service}");
        assert!(player.backends() > 100, "{service}: {}", player.backends());
        for ways in [Some(1.0), None] {
            let rate = ways.and(RATE);
            let outcome = player.run(rate, Duration::from_millis(100), |wires| carry(&mut rig, wires));
            assert!(outcome.received > 0, "{service}: {}", outcome.text());
            assert_eq!((outcome.lost, outcome.late, outcome.again), (0, 0, 0), "{}", outcome.text());
            assert_eq!((outcome.faults.total(), outcome.checked), (0, outcome.received));
            assert!(outcome.latency_us.p50 > 0.0 && outcome.latency_us.max < 60e6, "{}", outcome.text());
        }
    }
}

#[test]
fn what_a_bad_wire_does_is_told() {
    let (mut rig, plan) = gateway("203.0.113.20:53", Protocol::Udp, "128");
    let mut player = Player::new(plan, link(OUTSIDE, 254), link(INSIDE, 11)).expect("a plan");
    player.open(|wires| carry(&mut rig, wires)).expect("every flow opens");
    let spoilt = || {
        let (mut count, mut kept) = (0_u64, Vec::new());
        player.run(RATE, Duration::from_millis(200), |wires| {
            carry_through(&mut rig, wires, &mut |port, wire, mut buf| {
                count += u64::from(port == OUTSIDE);
                let frame = buf.head_mut();
                // Not a divisor of the flows' number: each comes to every fate in time.
                match count % 101 {
                    _ if port == INSIDE => {}
                    10 => return,
                    20 => assert!(wire.push(frame)),
                    30 => frame[45] ^= 1,
                    40 => frame[30] ^= 1,
                    50 => frame[0] ^= 2,
                    60 => frame[90..94].rotate_left(2),
                    70 => return kept.push(buf),
                    _ => {}
                }
                wire.push_buf(buf);
                // Each flow has sent again by then.
                if port == OUTSIDE && count % 404 == 403 {
                    kept.drain(..).take(1).for_each(|late| wire.push_buf(late));
                }
            });
        })
    };
    // A machine that is stopped for a moment sends less in the time.
    let mut outcomes = std::iter::repeat_with(spoilt).take(100);
    let outcome = outcomes.find(|outcome| outcome.sent > 2000).expect("a run of some frames");
    let text = outcome.text();
    assert!(outcome.again > 0 && outcome.late > 0, "{text}");
    assert!(outcome.lost >= outcome.again, "{text}");
    let faults = outcome.faults;
    assert!(faults.damaged > 0 && faults.misdirected > 0 && faults.wrong_station > 0, "{text}");
    assert!(faults.wrong_payload > 0 && faults.wrong_checksum == 0, "{text}");
}

#[test]
fn a_rate_that_cannot_be_sent_is_told() {
    let (mut rig, plan) = gateway("203.0.113.20:53", Protocol::Udp, "64");
    let mut player = Player::new(plan, link(OUTSIDE, 254), link(INSIDE, 11)).expect("a plan");
    player.open(|wires| carry(&mut rig, wires)).expect("every flow opens");
    let outcome = player.run(Some(1e9), Duration::from_millis(50), |wires| carry(&mut rig, wires));
    assert!(!outcome.kept_pace() && outcome.missed > outcome.sent, "{}", outcome.text());
}

#[test]
fn a_device_that_does_not_translate_is_no_gateway() {
    let (_, plan) = gateway("203.0.113.20:53", Protocol::Udp, "64");
    let mut player = Player::new(plan, link(OUTSIDE, 254), link(INSIDE, 11)).expect("a plan");
    let cable = |[outside, inside]: [&mut MemPort; 2]| {
        while let Some(buf) = outside.pop() {
            inside.push_buf(buf);
        }
    };
    assert_eq!(player.open(cable), Err(GeneratorError::NotTranslated));
    let back = |[outside, _]: [&mut MemPort; 2]| {
        while let Some(buf) = outside.pop() {
            outside.push_buf(buf);
        }
    };
    assert_eq!(player.open(back), Err(GeneratorError::NotTranslated));
}

#[test]
fn connections_are_opened_answered_and_closed() {
    let (mut rig, plan) = gateway("203.0.113.20:80", Protocol::Tcp, "128");
    let plan = Plan { flows: 64, ..plan };
    let mut connections = Connections::new(plan, link(OUTSIDE, 254), link(INSIDE, 11)).expect("a plan");
    let counts = connections.run(Some(5000.0), Duration::from_millis(200), |wires| carry(&mut rig, wires));
    assert!(counts.begun > 0, "{counts:?}");
    assert_eq!((counts.completed, counts.failed, counts.mixed_up), (counts.begun, 0, 0), "{counts:?}");
    assert_eq!(rig.counts().flows.created, counts.begun);
    assert!(counts.time_us.p50 > 0.0);
    // Nobody answers: all that is begun is given up.
    let silent =
        connections.run(None, Duration::from_millis(10), |[outside, _]| while outside.pop().is_some() {});
    assert!(silent.begun > counts.begun, "{silent:?}");
    assert_eq!(silent.failed, silent.begun - counts.begun, "{silent:?}");
}

#[test]
fn flows_are_opened_and_traffic_returns() {
    let mut rig = Rig::new(&RigConfig { flows: 4096, ..RigConfig::default() }, tables());
    let mut generator = Generator::new(link(OUTSIDE, 254), link(INSIDE, 11));
    generator.establish(300, |wires| carry(&mut rig, wires)).expect("every flow opens");
    let time = Duration::from_millis(100);
    let traffic = generator.run(time, |wires| carry(&mut rig, wires)).expect("every packet is ours");
    assert!(traffic.returned > 1000 && traffic.checked > 0, "{traffic:?}");
    assert!(traffic.returned <= traffic.sent && traffic.returned + 2048 >= traffic.sent, "{traffic:?}");
    assert_eq!(rig.counts().flows.created, 300);
    let opened =
        generator.run_new(300, time, |wires| carry(&mut rig, wires)).expect("backends get every SYN");
    assert!(
        opened.returned > 1000 && opened.checked > 0 && opened.returned <= opened.sent + 2048,
        "{opened:?}"
    );
    assert!(rig.counts().flows.created >= 300 + opened.returned);
}
