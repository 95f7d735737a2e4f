//! The appliance under test: its workers on memory ports, and the tables that control would give them.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use dataplane::{
    handoff::handoff_rings,
    testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig},
};
use packet::{Family, MacAddr, Protocol};
use tables::{
    Action, AdjacencyState, Backend, BackendId, BackendState, Choice, DropReason, FrontendKind, Millis,
    NatMode, PortId, PortSet, Rule, ServiceId, WorkerId, punt::Message,
};

use crate::{
    host::SERVER_PORT,
    scenario::{BACKENDS, State},
};

/// How long control takes to find a neighbour.
const ASK_MS: u32 = 30;

/// Packets that a worker may hold: parts that wait for their first one, and packets for their neighbour.
const HELD_MAX: u64 = 256 + 64;

/// A Service, and where its backends are, of those that it has with their ids.
type Served = (ServiceId, [(SocketAddr, Option<BackendId>); BACKENDS]);

/// The addresses of one family.
pub(crate) struct Addresses {
    /// A client that speaks TCP, and one that speaks UDP.
    pub(crate) clients: [&'static str; 2],
    pub(crate) own: [&'static str; 2],
    pub(crate) vip: &'static str,
    /// Of each backend: its Node, and itself, as the Service of TCP and as that of UDP.
    pub(crate) backends: [(&'static str, [&'static str; 2]); BACKENDS],
}

pub(crate) const fn addresses(family: Family) -> Addresses {
    match family {
        Family::V4 => Addresses {
            clients: ["192.0.2.2", "192.0.2.3"],
            own: ["192.0.2.1", "10.0.0.1"],
            vip: "203.0.113.10",
            backends: [
                ("10.0.0.11", ["10.244.1.5", "10.244.1.7"]),
                ("10.0.0.12", ["10.244.2.5", "10.244.2.7"]),
                ("10.0.0.11", ["10.244.1.6", "10.244.1.8"]),
                ("10.0.0.12", ["10.244.2.6", "10.244.2.8"]),
            ],
        },
        Family::V6 => Addresses {
            clients: ["2001:db8:1::2", "2001:db8:1::3"],
            own: ["2001:db8:1::1", "fd00::1"],
            vip: "2001:db8:f::10",
            backends: [
                ("fd00::11", ["fd00:244:1::5", "fd00:244:1::7"]),
                ("fd00::12", ["fd00:244:2::5", "fd00:244:2::7"]),
                ("fd00::11", ["fd00:244:1::6", "fd00:244:1::8"]),
                ("fd00::12", ["fd00:244:2::6", "fd00:244:2::8"]),
            ],
        },
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The Ethernet address of the machine of a backend: that of its Node.
pub(crate) fn machine(backend: usize) -> MacAddr {
    Fixture::neighbor_mac(INSIDE, [11, 12][backend % 2])
}

pub(crate) struct Site {
    pub(crate) rigs: Vec<Rig>,
    fixture: Fixture,
    workers: u16,
    /// Of TCP and of UDP, with their backends.
    services: [Served; 2],
    mode: NatMode,
    /// Neighbours behind each port: address and last byte.
    neighbors: Vec<(PortId, &'static str, u8)>,
    /// When control will have found a neighbour.
    asked: VecDeque<(u32, PortId, IpAddr)>,
    /// Frames given to the workers, and taken from them.
    frames: [u64; 2],
}

impl Site {
    pub(crate) fn new(family: Family, mode: NatMode, workers: u16) -> Self {
        let addresses = addresses(family);
        let mut fixture = Fixture::data_centre();
        let none = Rule::same(Choice { action: Action::Reject(DropReason::NoEndpoints), mode });
        let vip = SocketAddr::new(ip(addresses.vip), 80).to_string();
        fixture.neighbor(OUTSIDE, addresses.clients[1], 3);
        let services = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
            let at = |(_, pods): (&str, [&str; 2])| {
                let pod = if protocol == Protocol::Tcp { pods[0] } else { pods[1] };
                (SocketAddr::new(ip(pod), SERVER_PORT), None)
            };
            let service = fixture.custom_service("echo", protocol, (none.clone(), none.clone()), Vec::new());
            fixture.vip(FrontendKind::LoadBalancer, &vip, service);
            (service, addresses.backends.map(at))
        });
        fixture.tables.workers = workers;
        let [(one, _), (two, _), ..] = addresses.backends;
        let [client, asker] = addresses.clients;
        let neighbors = vec![(OUTSIDE, client, 2), (OUTSIDE, asker, 3), (INSIDE, one, 11), (INSIDE, two, 12)];
        let (rigs, asked) = (Vec::new(), VecDeque::new());
        let mut site = Self { rigs, fixture, workers, services, mode, neighbors, asked, frames: [0; 2] };
        site.set_backends([State::Serving; BACKENDS]);
        site.start(Millis(1_000));
        site
    }

    /// Begins, or begins anew, without any flow.
    pub(crate) fn start(&mut self, now: Millis) {
        let tables = self.fixture.tables();
        let rig = |(ends, worker)| {
            let config =
                RigConfig { worker: WorkerId(worker), mirrored: PortSet::NONE, ..RigConfig::default() };
            let mut rig = Rig::new(&config, tables.clone());
            rig.worker.connect(ends);
            rig.now = now;
            rig
        };
        self.rigs = handoff_rings(self.workers).into_iter().zip(0..).map(rig).collect();
        self.frames = [0; 2];
    }

    /// Lets the workers take new tables.
    pub(crate) fn publish(&mut self) {
        let tables = self.fixture.tables();
        for rig in &mut self.rigs {
            rig.publisher.publish(tables.clone());
        }
    }

    /// The Services' backends are these; without one that serves, clients are refused. Gives those that are gone.
    pub(crate) fn set_backends(&mut self, states: [State; BACKENDS]) -> Vec<SocketAddr> {
        (0..self.services.len()).flat_map(|n| self.set_backends_of(n, states)).collect()
    }

    fn set_backends_of(&mut self, n: usize, states: [State; BACKENDS]) -> Vec<SocketAddr> {
        let (service, backends) = &mut self.services[n];
        for ((at, id), state) in backends.iter_mut().zip(states) {
            match (state, *id) {
                (State::Gone, Some(old)) => {
                    self.fixture.remove_backend(old);
                    *id = None;
                }
                (State::Gone, None) => {}
                (State::Serving | State::Draining, None) => *id = Some(self.fixture.backend(&at.to_string())),
                (State::Serving | State::Draining, Some(_)) => {}
            }
            if let Some(id) = *id {
                let old = *self.fixture.tables.backend(id).expect("it is there");
                let draining = state == State::Draining;
                let state = if draining { BackendState::Draining } else { BackendState::Active };
                self.fixture.tables.backends.insert(Backend { state, ..old });
            }
        }
        let ids = backends.iter().zip(states).filter(|(_, state)| *state == State::Serving);
        let ids: Vec<BackendId> = ids.filter_map(|((_, id), _)| *id).collect();
        let action =
            if ids.is_empty() { Action::Reject(DropReason::NoEndpoints) } else { Action::Balance(0) };
        let rule = Rule::same(Choice { action, mode: self.mode });
        // Those that drain are the Service's as well, in no pool that is chosen from.
        let all: Vec<BackendId> = backends.iter().filter_map(|(_, id)| *id).collect();
        let pools = vec![self.fixture.pool_of(&ids), self.fixture.pool_of(&all)];
        let old = self.fixture.get_service(*service);
        let (internal, external, pools) = (rule.clone(), rule, pools.into());
        self.fixture.put_service(tables::ServicePort { internal, external, pools, ..old });
        backends.iter().filter(|(_, id)| id.is_none()).map(|(at, _)| *at).collect()
    }

    /// Every way has to be looked up anew.
    pub(crate) fn change_ways(&mut self) {
        self.fixture.tables.fib_epoch += 1;
    }

    /// Sets what a port sends in one piece.
    pub(crate) fn set_mtu(&mut self, port: PortId, mtu: u16) {
        let mut ports = self.fixture.tables.ports().to_vec();
        ports[port.index()].mtu = mtu;
        self.fixture.tables.set_ports(ports);
        self.change_ways();
    }

    /// The neighbours behind a port are not known any more.
    pub(crate) fn forget_neighbors(&mut self, port: PortId) {
        for (_, address, _) in self.neighbors.iter().filter(|(behind, ..)| *behind == port) {
            self.fixture.set_neighbor(port, address, AdjacencyState::Incomplete);
        }
    }

    /// When control is done with something.
    pub(crate) fn next(&self) -> Option<u32> {
        self.asked.front().map(|(at, ..)| *at)
    }

    /// Neighbours that were asked for have answered.
    pub(crate) fn answer(&mut self, now: Millis) {
        let mut found = false;
        while self.asked.front().is_some_and(|(at, ..)| *at <= now.0) {
            let Some((_, port, address)) = self.asked.pop_front() else { break };
            for (_, known, last) in self.neighbors.iter().filter(|(_, known, _)| ip(known) == address) {
                self.fixture.neighbor(port, known, *last);
                found = true;
            }
        }
        if found {
            self.publish();
        }
    }

    /// A frame arrives at the queue of a worker.
    pub(crate) fn receive(&mut self, worker: usize, port: PortId, frame: &[u8]) {
        self.frames[0] += 1;
        self.rigs[worker].push(port, frame);
    }

    /// Packets wait, for their neighbour or for the first part of their datagram.
    pub(crate) fn holds(&self) -> u64 {
        self.rigs.iter().map(|rig| rig.counts().packets.held).sum()
    }

    /// The workers do what there is to do; what they send.
    pub(crate) fn work(&mut self, now: Millis) -> Vec<(PortId, Vec<u8>)> {
        self.rigs.iter_mut().for_each(|rig| rig.now = now);
        while self.rigs.iter_mut().map(Rig::turn).sum::<usize>() > 0 {}
        let mut sent = Vec::new();
        for rig in &mut self.rigs {
            assert!(rig.counts().packets.held <= HELD_MAX, "{:?}", rig.counts());
            sent.extend(rig.all_sent());
            for (message, _) in rig.punted() {
                let Message::Resolve { port, address } = message else { continue };
                if !self.asked.iter().any(|(_, _, other)| *other == address) {
                    self.asked.push_back((now.0 + ASK_MS, port, address));
                }
            }
        }
        self.frames[1] += sent.len() as u64;
        sent
    }

    /// Every packet had one verdict, and the counters tell of what was seen from outside.
    pub(crate) fn check_books(&self) {
        let sum = |of: fn(&Rig) -> u64| self.rigs.iter().map(of).sum::<u64>();
        for rig in &self.rigs {
            assert_eq!(rig.counts().imbalance(), 0, "{:?}", rig.counts());
        }
        let [received, sent] = self.frames;
        assert_eq!(sum(|rig| rig.counts().packets.rx), received);
        assert_eq!(sum(|rig| rig.counts().packets.tx), sent);
        let handed = sum(|rig| rig.counts().packets.handoff_out);
        assert_eq!(handed, sum(|rig| rig.counts().packets.handoff_in));
    }
}
