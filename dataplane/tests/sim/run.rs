//! One simulation from its beginning to its end: whoever has something to do next is given the time for it.

use std::{collections::HashMap, net::SocketAddr};

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE};
use packet::{Body, MacClass, parse};
use tables::Millis;

use crate::{
    host::{Connection, End, Host, SERVER_PORT},
    model::Model,
    scenario::{BACKENDS, Event, Scenario, State},
    site::{Site, addresses, ip, machine},
    wire::{Flight, Wire},
};

/// Simulated milliseconds until everything must have come to an end.
const DEADLINE_MS: u32 = 7_200_000;

struct Run {
    now: Millis,
    vip: (std::net::IpAddr, u16),
    site: Site,
    client: Host,
    servers: Vec<Host>,
    wire: Wire,
    model: Model,
    connections: Vec<Connection>,
    /// Of each connection: something happened to it that may end it.
    harmed: Vec<bool>,
    events: Vec<(u32, Event)>,
}

/// Runs a scenario.
///
/// # Panics
/// If something does not hold that must.
pub(crate) fn simulate(scenario: &Scenario) {
    let mut run = Run::new(scenario);
    while run.connections.iter().any(|connection| connection.end.is_none()) {
        run.step();
    }
    run.site.check_books();
    for (connection, harmed) in run.connections.iter().zip(&run.harmed) {
        let (plan, received) = (connection.plan, connection.received);
        assert!(
            *harmed || connection.end == Some(End::Whole),
            "nothing happened to the connection from port {} that could end it, and it ended after {received} bytes \
             of {plan:?}",
            connection.port
        );
    }
}

impl Run {
    fn new(scenario: &Scenario) -> Self {
        let Scenario { seed, family, mode, workers, network, .. } = *scenario;
        let known = addresses(family);
        let site = Site::new(family, mode, workers);
        let now = Millis(1_000);
        let vip = (ip(known.vip), 80);
        let connected = if vip.0.is_ipv4() { (24, 32) } else { (64, 128) };
        let client = (ip(known.client), connected.0);
        let mac = Fixture::neighbor_mac(OUTSIDE, 2);
        let client = Host::new(seed, mac, &[client], ip(known.own[0]));
        let server = |(n, (node, backend)): (usize, &(&str, &str))| {
            let own = [(ip(node), connected.0), (ip(backend), connected.1)];
            Host::new(seed.wrapping_add(n as u64 + 1), machine(n), &own, ip(known.own[1]))
        };
        let servers = known.backends.iter().enumerate().map(server).collect();
        let backend = |(n, (_, backend)): (usize, &(&str, &str))| {
            (SocketAddr::new(ip(backend), SERVER_PORT), machine(n))
        };
        let backends: HashMap<_, _> = known.backends.iter().enumerate().map(backend).collect();
        let model = Model::new(mode, ip(known.client), SocketAddr::new(vip.0, vip.1), backends);
        let connections = scenario.connections.iter().zip(40_000..);
        let connections: Vec<_> = connections.map(|(plan, port)| Connection::new(*plan, port, now)).collect();
        let harmed = vec![false; connections.len()];
        let events = scenario.events.iter().rev().map(|(at, event)| (now.0 + at, *event)).collect();
        let wire = Wire::new(seed, network);
        Self { now, vip, site, client, servers, wire, model, connections, harmed, events }
    }

    /// Goes to the next moment at which something happens, and lets it happen.
    fn step(&mut self) {
        self.now = Millis(self.next().max(self.now.0 + 1));
        assert!(self.now.0 < DEADLINE_MS, "a connection never ends; {:?}", self.site.rigs[0].counts());
        while self.events.last().is_some_and(|(at, _)| *at <= self.now.0) {
            let Some((_, event)) = self.events.pop() else { break };
            self.happen(event);
        }
        self.site.answer(self.now);
        self.deliver();
        self.hosts();
    }

    fn next(&mut self) -> u32 {
        let now = self.now;
        let hosts = std::iter::once(&mut self.client).chain(&mut self.servers);
        let hosts = hosts.filter_map(|host| host.poll_at(now));
        let programs = self.connections.iter().filter_map(|connection| connection.wakes_at(now));
        let others = [self.events.last().map(|(at, _)| *at), self.wire.next(), self.site.next()];
        hosts.chain(programs).chain(others.into_iter().flatten()).min().unwrap_or(DEADLINE_MS)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Swap => {}
            Event::Backends(states) => {
                self.model.set_gone(self.site.set_backends(states));
                let refuses = !states.contains(&State::Serving);
                // What is not established at a backend that goes may begin anew, and find the old answer under way.
                if refuses || states.contains(&State::Gone) {
                    self.model.unsettle();
                    self.harm(|model, connection| !model.is_established(connection.port));
                }
            }
            Event::PortMtu(port, mtu) => self.site.set_mtu(port, mtu),
            Event::PathMtu(port, mtu) => self.wire.path_mtu[port.index()] = mtu,
            Event::Forget(port) => self.site.forget_neighbors(port),
            Event::Cut(port, ms) => self.wire.cut_until[port.index()] = self.now.0 + ms,
            Event::Crash(server) => {
                self.servers[server % BACKENDS].crash();
                self.harm(|_, connection| connection.has_begun());
            }
            Event::Restart => {
                self.site.check_books();
                self.site.start(self.now);
                self.model.forget();
                self.harm(|_, connection| connection.has_begun());
            }
        }
        self.site.publish();
    }

    /// These may end from now on.
    fn harm(&mut self, which: impl Fn(&Model, &Connection) -> bool) {
        for (connection, harmed) in self.connections.iter().zip(&mut self.harmed) {
            *harmed |= which(&self.model, connection);
        }
    }

    /// Frames come off the wire, and through the appliance.
    fn deliver(&mut self) {
        while let Some(Flight { port, to_appliance, frame }) = self.wire.arrived(self.now) {
            if !to_appliance {
                self.arrive(port, &frame);
                continue;
            }
            let workers = self.site.rigs.len() as u64;
            let worker = usize::try_from(self.wire.dice.below(workers)).expect("few workers");
            self.site.receive(worker, port, &frame);
        }
        let sent = self.site.work(self.now);
        // Which of a burst's packets left first, the ports do not tell; clients' may begin what backends' go on with.
        for wanted in [OUTSIDE, INSIDE] {
            let those = sent.iter().filter(|(port, _)| *port == wanted);
            those.for_each(|(port, frame)| self.model.appliance_sends(*port, frame));
        }
        for (port, frame) in sent {
            self.wire.send(self.now, Flight { port, to_appliance: false, frame });
        }
    }

    /// A frame reaches the machines that it is addressed to.
    fn arrive(&mut self, port: tables::PortId, frame: &[u8]) {
        let parsed = parse(frame, frame.len()).expect("what is sent parses");
        let dst = parsed.addrs().map(|addrs| addrs.dst());
        let hosts =
            if port == OUTSIDE { std::slice::from_mut(&mut self.client) } else { &mut self.servers[..] };
        for host in hosts {
            let flow = matches!(parsed.body, Body::Flow { .. } | Body::Icmp(_));
            let mine = parsed.dst_mac == host.mac && (!flow || dst.is_some_and(|dst| host.has(dst)));
            if mine || parsed.dst_mac.class() != MacClass::Unicast {
                host.receive(&parsed, frame);
            }
        }
    }

    /// Everybody's stack and program does what it can, and frames go onto the wire.
    fn hosts(&mut self) {
        self.client.poll(self.now);
        for connection in &mut self.connections {
            connection.step(&mut self.client, self.vip, self.now);
            if connection.end.is_some() {
                self.model.ended(connection.port);
            }
        }
        self.client.poll(self.now);
        for frame in self.client.card.take_leaving() {
            self.note(&frame);
            self.wire.send(self.now, Flight { port: OUTSIDE, to_appliance: true, frame });
        }
        for server in &mut self.servers {
            server.poll(self.now);
            server.serve();
            server.poll(self.now);
            for frame in server.card.take_leaving() {
                self.wire.send(self.now, Flight { port: INSIDE, to_appliance: true, frame });
            }
        }
    }

    fn note(&mut self, frame: &[u8]) {
        let parsed = parse(frame, frame.len()).expect("a stack's frame parses");
        let Some(key) = parsed.key() else { return };
        let sender = self.connections.iter().find(|connection| connection.port == key.sport());
        self.model.client_sends(frame, sender.expect("a connection's port").plan.bytes());
    }
}
