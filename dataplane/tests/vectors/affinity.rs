//! Session affinity ClientIP: which backend a client's new flows get, over time and over changes of the set.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig};
use packet::{Family, Protocol, testkit::flow_of};
use tables::{Action, BackendId, Choice, FrontendKind, NatMode, Rule, ServiceId, ServicePort};

use crate::world::*;

const TIMEOUT_S: u32 = 600;

/// A Service port with four backends and affinity at every frontend, and one more of the same Service at port 81.
struct Sticky {
    fixture: Fixture,
    service: ServiceId,
    backends: Vec<BackendId>,
}

impl Sticky {
    fn new(world: &World, protocol: Protocol) -> Self {
        let mut fixture = Fixture::data_centre();
        let base = world.pods[0];
        let address = |n: usize| format!("{}{}", &base[..base.len() - 1], 5 + n);
        let backends: Vec<_> = (0..4).map(|n| fixture.backend(&at(&address(n), 8080).to_string())).collect();
        let pool = fixture.pool_of(&backends);
        let rule = Rule::same(Choice { action: Action::Balance(0), mode: NatMode::Snat });
        let [service, _] = [80, 81].map(|port| {
            let id = fixture.custom_service("s", protocol, (rule.clone(), rule.clone()), vec![pool.clone()]);
            fixture
                .put_service(ServicePort { affinity_timeout_s: Some(TIMEOUT_S), ..fixture.get_service(id) });
            fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, port).to_string(), id);
            fixture.vip(FrontendKind::ClusterIp, &at(world.cluster_ip, port).to_string(), id);
            fixture.node_port(world.family, 30_000 + port, id);
            id
        });
        Self { fixture, service, backends }
    }

    /// Only these are eligible from now on.
    fn eligible(&mut self, rig: &mut Rig, positions: &[usize]) {
        let ids: Vec<_> = positions.iter().map(|&n| self.backends[n]).collect();
        let pools = Box::new([self.fixture.pool_of(&ids)]);
        self.fixture.put_service(ServicePort { pools, ..self.fixture.get_service(self.service) });
        rig.publish(self.fixture.tables());
    }
}

/// The position of the backend that a new flow of the client gets, taken from the address's last digit.
fn backend_of(
    rig: &mut Rig,
    world: &World,
    protocol: Protocol,
    source: (&str, u16),
    dst: (&str, u16),
) -> usize {
    let to_service = key(protocol, at(source.0, source.1), at(dst.0, dst.1));
    let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service))), "a new flow");
    let address = flow_of(&frame).dst().to_string();
    let last = usize::from(address.as_bytes()[world.pods[0].len() - 1] - b'0');
    last - 5
}

#[test]
fn a_client_keeps_its_backend_at_every_frontend_while_it_is_eligible() {
    for world in &WORLDS {
        for protocol in Protocol::ALL {
            let mut sticky = Sticky::new(world, protocol);
            let mut rig = rig(&mut sticky.fixture);
            let vip = (world.lb, 80);
            // One eligible backend is remembered too: the set may grow.
            sticky.eligible(&mut rig, &[2]);
            assert_eq!(backend_of(&mut rig, world, protocol, (world.far, 1_000), vip), 2);
            sticky.eligible(&mut rig, &[0, 1, 2, 3]);
            for (n, frontend) in [vip, (world.cluster_ip, 80), (world.own[0], 30_080)].into_iter().enumerate()
            {
                let port = 1_001 + u16::try_from(n).unwrap();
                assert_eq!(
                    backend_of(&mut rig, world, protocol, (world.far, port), frontend),
                    2,
                    "{frontend:?}"
                );
            }
            assert_eq!(rig.counts().affinity.honoured, 3);
            // Away, so another is chosen and remembered, also when the first comes back.
            sticky.eligible(&mut rig, &[0, 1, 3]);
            let second = backend_of(&mut rig, world, protocol, (world.far, 1_010), vip);
            assert_ne!(second, 2);
            for positions in [&[0, 1, 2, 3][..], &[second, 2]] {
                sticky.eligible(&mut rig, positions);
                assert_eq!(backend_of(&mut rig, world, protocol, (world.far, 1_011), vip), second);
            }
            assert_eq!(rig.counts().affinity.used, 1, "one client at one Service port");
            backend_of(&mut rig, world, protocol, (world.far, 1_012), (world.lb, 81));
            assert_eq!(rig.counts().affinity.used, 2, "another Service port on its own");
        }
    }
}

#[test]
fn only_new_flows_keep_the_memory_fresh() {
    let world = &WORLDS[0];
    let (protocol, vip) = (Protocol::Tcp, (world.lb, 80));
    for (name, again, want_kept) in [("a packet of an old flow", 1_000, false), ("a new flow", 1_001, true)] {
        let mut sticky = Sticky::new(world, protocol);
        let mut rig = rig(&mut sticky.fixture);
        sticky.eligible(&mut rig, &[2]);
        assert_eq!(backend_of(&mut rig, world, protocol, (world.far, 1_000), vip), 2);
        sticky.eligible(&mut rig, &[0, 1, 2, 3]);
        // The choice without memory, from a client of the same address at a rig without history.
        let hashed = {
            let mut fresh = self::rig(&mut sticky.fixture);
            backend_of(&mut fresh, world, protocol, (world.far, 1_000), vip)
        };
        assert_ne!(hashed, 2, "else this test shows nothing");
        for _ in 0..(TIMEOUT_S / 100) {
            rig.now = rig.now.plus(99_000);
            backend_of(&mut rig, world, protocol, (world.far, again), vip);
        }
        rig.now = rig.now.plus(99_000);
        let kept = backend_of(&mut rig, world, protocol, (world.far, 1_002), vip) == 2;
        assert_eq!(kept, want_kept, "{name}");
    }
}

#[test]
fn a_backend_takes_what_was_remembered_of_it_along() {
    let world = &WORLDS[0];
    let mut sticky = Sticky::new(world, Protocol::Tcp);
    let mut rig = rig(&mut sticky.fixture);
    for n in 0..40 {
        backend_of(&mut rig, world, Protocol::Tcp, (&format!("198.51.100.{n}"), 1_000), (world.lb, 80));
    }
    assert_eq!(rig.counts().affinity.used, 40);
    for id in sticky.backends.clone() {
        sticky.fixture.remove_backend(id);
    }
    rig.publish(sticky.fixture.tables());
    // A pass over both memories of this size ends within so many turns; control hears of it only then.
    for _ in 0..200 {
        rig.turn();
    }
    assert_eq!(rig.counts().affinity.used, 0);
    assert_eq!(rig.publisher.swept(), rig.publisher.programmed());
}

#[test]
fn a_full_memory_is_counted_and_clients_go_by_their_address() {
    for world in &WORLDS {
        let mut sticky = Sticky::new(world, Protocol::Udp);
        let tables = sticky.fixture.tables();
        let config = dataplane::testkit::RigConfig { flows: 8_192, ..Default::default() };
        let mut rig = rig_of(&config, tables);
        let client = |n: u16| match world.family {
            Family::V4 => format!("198.51.{}.{}", n >> 8, n & 0xff),
            Family::V6 => format!("2001:db8:9::{n:x}"),
        };
        for n in 0..2_000 {
            let first = backend_of(&mut rig, world, Protocol::Udp, (&client(n), 1_000), (world.lb, 80));
            let second = backend_of(&mut rig, world, Protocol::Udp, (&client(n), 1_001), (world.lb, 80));
            assert_eq!(first, second, "remembered or hashed, a client stays");
        }
        let counts = rig.counts().affinity;
        assert_eq!(counts.capacity, 1_024);
        assert!(counts.used > 1_000 && counts.refused > 1_900, "{counts:?}");
        assert_eq!((rig.counts().dropped(), rig.sent(INSIDE).len()), (0, 0));
    }
}
