//! One simulation from its beginning to its end: whoever has something to do next is given the time for it.

use std::{collections::HashMap, net::SocketAddr};

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE};
use packet::{Body, MacClass, parse};
use tables::Millis;

use crate::{
    asker::Asker,
    card::Card,
    datagrams::Datagrams,
    ends::Ends,
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
    vip: SocketAddr,
    site: Site,
    /// Machines that speak TCP.
    client: Host,
    servers: Vec<Host>,
    /// Machines that speak UDP.
    asker: Host,
    answerers: Vec<Host>,
    wire: Wire,
    model: Model,
    connections: Vec<Connection>,
    askers: Vec<Asker>,
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
    while !run.is_done() {
        run.step();
    }
    run.finish();
    for asker in &run.askers {
        let (port, plan) = (asker.port, asker.plan);
        assert!(asker.harmed || !asker.given_up, "no answer to the client of port {port}, {plan:?}");
        assert!(!scenario.is_calm() || asker.lost_nothing(), "port {port} asked again, {plan:?}");
    }
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
        let vip = SocketAddr::new(ip(known.vip), 80);
        let connected = if vip.is_ipv4() { (24, 32) } else { (64, 128) };
        let datagrams = |n: u16| Card::for_datagrams(scenario.cutting, 1 + n * (u16::MAX / 5));
        let client = |n: usize, card| {
            let mac = Fixture::neighbor_mac(OUTSIDE, [2, 3][n]);
            Host::new((seed, card), mac, &[(ip(known.clients[n]), connected.0)], ip(known.own[0]))
        };
        let (client, mut asker) = (client(0, Card::new()), client(1, datagrams(0)));
        let server = |n: u16, which: usize, card| {
            let (node, pods) = known.backends[usize::from(n)];
            let own = [(ip(node), connected.0), (ip(pods[which]), connected.1)];
            let seed = seed.wrapping_add(u64::from(n) + 1);
            Host::new((seed, card), machine(n.into()), &own, ip(known.own[1]))
        };
        let servers = (0..4).map(|n| server(n, 0, Card::new())).collect();
        let answerers = (0..4).map(|n| server(n, 1, datagrams(n + 1))).collect();
        let backends = |which: usize| -> HashMap<_, _> {
            let at = |(n, (_, pods)): (usize, &(&str, [&str; 2]))| {
                (SocketAddr::new(ip(pods[which]), SERVER_PORT), machine(n))
            };
            known.backends.iter().enumerate().map(at).collect()
        };
        let [one, two] = known.clients.map(ip);
        let datagrams = Datagrams::new(Ends::new(mode, two, vip, backends(1)));
        let model = Model::new(Ends::new(mode, one, vip, backends(0)), datagrams);
        let connections = scenario.connections.iter().zip(40_000..);
        let connections: Vec<_> = connections.map(|(plan, port)| Connection::new(*plan, port, now)).collect();
        let harmed = vec![false; connections.len()];
        let events = scenario.events.iter().rev().map(|(at, event)| (now.0 + at, *event)).collect();
        let wire = Wire::new(seed, network);
        let askers = scenario.askers.iter().zip(50_000..);
        let askers = askers.map(|(plan, port)| Asker::new(*plan, port, &mut asker, now)).collect();
        Self {
            now,
            vip,
            site,
            client,
            servers,
            asker,
            answerers,
            wire,
            model,
            connections,
            askers,
            harmed,
            events,
        }
    }

    fn is_done(&self) -> bool {
        self.connections.iter().all(|connection| connection.end.is_some())
            && self.askers.iter().all(Asker::is_done)
    }

    /// When all that waits has had its time, nothing is left.
    fn finish(&mut self) {
        self.site.answer(Millis(u32::MAX));
        // Parts that waited may be sent on, and wait again for a neighbour.
        for _ in 0..2 {
            self.now = self.now.plus(60_000);
            self.site.work(self.now);
        }
        assert_eq!(self.site.holds(), 0, "{:?}", self.site.rigs[0].counts());
        self.site.check_books();
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
        self.datagrams();
    }

    fn next(&mut self) -> u32 {
        let now = self.now;
        let clients = [&mut self.client, &mut self.asker].into_iter();
        let hosts = clients.chain(&mut self.servers).chain(&mut self.answerers);
        let hosts = hosts.filter_map(|host| host.poll_at(now));
        let programs = self.connections.iter().filter_map(|connection| connection.wakes_at(now));
        let programs = programs.chain(self.askers.iter().filter_map(Asker::wakes_at));
        let others = [self.events.last().map(|(at, _)| *at), self.wire.next(), self.site.next()];
        hosts.chain(programs).chain(others.into_iter().flatten()).min().unwrap_or(DEADLINE_MS)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Swap => self.site.change_ways(),
            Event::Backends(states) => {
                let gone = self.site.set_backends(states);
                self.model.set_gone(&gone, self.site.holds() > 0);
                let refuses = !states.contains(&State::Serving);
                // What is not established at a backend that goes may begin anew, and find the old answer under way.
                self.askers.iter_mut().for_each(|asker| asker.harmed |= refuses);
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
        if self.site.holds() == 0 {
            self.model.settled();
        }
        for (port, frame) in sent {
            self.wire.send(self.now, Flight { port, to_appliance: false, frame });
        }
    }

    /// A frame reaches the machines that it is addressed to.
    fn arrive(&mut self, port: tables::PortId, frame: &[u8]) {
        let parsed = parse(frame, frame.len()).expect("what is sent parses");
        let dst = parsed.addrs().map(|addrs| addrs.dst());
        let hosts: Vec<&mut Host> = if port == OUTSIDE {
            vec![&mut self.client, &mut self.asker]
        } else {
            self.servers.iter_mut().chain(&mut self.answerers).collect()
        };
        for host in hosts {
            let flow = matches!(parsed.body, Body::Flow { .. } | Body::Icmp(_) | Body::OtherIp { .. });
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
            connection.step(&mut self.client, (self.vip.ip(), self.vip.port()), self.now);
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

    /// The same of those that speak UDP.
    fn datagrams(&mut self) {
        self.asker.poll(self.now);
        for asker in &mut self.askers {
            asker.step(&mut self.asker, self.vip, self.now, self.model.datagrams.forgetful);
            if asker.is_done() {
                self.model.datagrams.ended(asker.port);
            }
        }
        self.asker.poll(self.now);
        for frame in self.asker.card.take_leaving() {
            self.wire.send(self.now, Flight { port: OUTSIDE, to_appliance: true, frame });
        }
        for answerer in &mut self.answerers {
            answerer.poll(self.now);
            answerer.answer();
            answerer.poll(self.now);
            for frame in answerer.card.take_leaving() {
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
