//! Real TCP stacks through the pipeline, over a network that loses, repeats and reorders, while backends come and go.
//!
//! Everything is seeded and time is simulated: a failure repeats.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, HashMap, VecDeque};

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{Body, MacAddr, Protocol, parse};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium},
    socket::tcp,
    time::Instant,
    wire::{EthernetAddress, IpCidr, Ipv4Address},
};
use tables::{Action, Choice, FrontendKind, Millis, NatMode, PortId, PortSet, Rule, ServiceId, ServicePort};

/// Bytes each connection sends and gets back.
const BYTES: usize = 30_000;
const CONNECTIONS: u16 = 12;
const SERVER_PORT: u16 = 8_080;
/// Simulated milliseconds until everything must be done.
const DEADLINE_MS: u32 = 600_000;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % bound
    }
}

/// A host's network card: frames in and out.
#[derive(Default)]
struct Card {
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl smoltcp::phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.arrived.pop_front()?), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1_514;
        capabilities
    }
}

/// A machine with a TCP stack.
struct Host {
    mac: MacAddr,
    card: Card,
    iface: Interface,
    sockets: SocketSet<'static>,
}

impl Host {
    fn new(mac: MacAddr, addresses: &[&str], gateway: Ipv4Address) -> Self {
        let mut card = Card::default();
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = u64::from(mac.0[5]);
        let mut iface = Interface::new(config, &mut card, Instant::ZERO);
        iface.update_ip_addrs(|list| {
            for address in addresses {
                list.push(address.parse::<IpCidr>().unwrap()).unwrap();
            }
        });
        iface.routes_mut().add_default_ipv4_route(gateway).unwrap();
        Self { mac, card, iface, sockets: SocketSet::new(Vec::new()) }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 8_192]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    fn poll(&mut self, now: Millis) {
        self.iface.poll(Instant::from_millis(i64::from(now.0)), &mut self.card, &mut self.sockets);
    }
}

/// Frames on their way, by the moment they arrive.
struct Wire {
    random: Random,
    flying: BTreeMap<(u32, u64), (PortId, bool, Vec<u8>)>,
    count: u64,
    loss_percent: u64,
}

impl Wire {
    /// Sends a frame to or from the appliance's port: lost, late or twice as the dice fall.
    fn send(&mut self, now: Millis, port: PortId, to_appliance: bool, frame: &[u8]) {
        let copies = match self.random.below(100) {
            dice if dice < self.loss_percent => 0,
            dice if dice < self.loss_percent + 3 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = 1 + if self.random.below(10) == 0 { self.random.below(20) } else { 0 };
            self.count += 1;
            let at = now.0 + u32::try_from(delay).unwrap();
            self.flying.insert((at, self.count), (port, to_appliance, frame.to_vec()));
        }
    }

    fn arrived(&mut self, now: Millis) -> Option<(PortId, bool, Vec<u8>)> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now.0).then(|| first.remove())
    }
}

/// What a connection has done.
struct Connection {
    handle: SocketHandle,
    sent: usize,
    received: usize,
    seed: u8,
}

/// The byte of a connection's stream at a position.
fn byte(seed: u8, at: usize) -> u8 {
    u8::try_from((at * 7 + at / 251 + usize::from(seed)) % 256).unwrap()
}

struct Sim {
    rig: Rig,
    fixture: Fixture,
    service: ServiceId,
    client: Host,
    servers: Vec<Host>,
    wire: Wire,
    connections: Vec<Connection>,
    /// The backend each client port was seen at, where the client's address is kept.
    pinned: HashMap<u16, u8>,
    mode: NatMode,
    swaps: u32,
}

impl Sim {
    fn new(seed: u64, mode: NatMode, loss_percent: u64) -> Self {
        let mut fixture = Fixture::data_centre();
        let pools = ["10.244.1.5:8080", "10.244.2.5:8080"].map(|at| fixture.backend(at));
        let pools = [&pools[..], &pools[..1], &pools[1..]].map(|ids| fixture.pool_of(ids));
        let rule = Rule::same(Choice { action: Action::Balance(0), mode });
        let service = fixture.custom_service("echo", Protocol::Tcp, (rule.clone(), rule), pools.to_vec());
        fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", service);
        let config = RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() };
        let rig = Rig::new(&config, fixture.tables());
        let client =
            Host::new(Fixture::neighbor_mac(OUTSIDE, 2), &["192.0.2.2/24"], Ipv4Address::new(192, 0, 2, 1));
        let server = |node: u8| {
            let addresses = [&format!("10.0.0.1{node}/24")[..], &format!("10.244.{node}.5/32")];
            Host::new(Fixture::neighbor_mac(INSIDE, 10 + node), &addresses, Ipv4Address::new(10, 0, 0, 1))
        };
        let wire = Wire { random: Random(seed), flying: BTreeMap::new(), count: 0, loss_percent };
        let servers = vec![server(1), server(2)];
        let (connections, pinned) = (Vec::new(), HashMap::new());
        let mut sim =
            Self { rig, fixture, service, client, servers, wire, connections, pinned, mode, swaps: 0 };
        sim.open();
        sim
    }

    /// Clients connect, servers listen.
    fn open(&mut self) {
        for server in &mut self.servers {
            for _ in 0..CONNECTIONS {
                let handle = server.socket();
                server.sockets.get_mut::<tcp::Socket<'_>>(handle).listen(SERVER_PORT).unwrap();
            }
        }
        for n in 0..CONNECTIONS {
            let handle = self.client.socket();
            let socket = self.client.sockets.get_mut::<tcp::Socket<'_>>(handle);
            let vip = (Ipv4Address::new(203, 0, 113, 10), 80);
            socket.connect(self.client.iface.context(), vip, 40_000 + n).unwrap();
            let seed = u8::try_from(n).unwrap();
            self.connections.push(Connection { handle, sent: 0, received: 0, seed });
        }
    }

    /// Runs until every connection has its bytes back.
    fn run(&mut self) {
        while !self.connections.iter().all(|connection| connection.received == BYTES) {
            self.rig.now = self.rig.now.plus(1);
            assert!(self.rig.now.0 < DEADLINE_MS, "stuck: {:?}", self.rig.counts());
            if self.wire.random.below(50) == 0 {
                self.swap();
            }
            self.hosts();
            self.carry();
        }
    }

    /// Another set of backends, in new tables.
    fn swap(&mut self) {
        let action = Action::Balance(u16::try_from(self.wire.random.below(3)).unwrap());
        let rule = Rule::same(Choice { action, mode: self.mode });
        let old = self.fixture.get_service(self.service);
        self.fixture.put_service(ServicePort { internal: rule.clone(), external: rule, ..old });
        self.fixture.tables.fib_epoch += 1;
        let tables = self.fixture.tables();
        self.rig.publisher.publish(tables);
        self.swaps += 1;
    }

    /// Everybody's stack and application does what it can.
    fn hosts(&mut self) {
        self.client.poll(self.rig.now);
        for connection in &mut self.connections {
            talk(self.client.sockets.get_mut(connection.handle), connection);
        }
        for server in &mut self.servers {
            server.poll(self.rig.now);
            for (_, socket) in server.sockets.iter_mut() {
                let smoltcp::socket::Socket::Tcp(socket) = socket;
                echo(socket);
            }
        }
    }

    /// Frames go onto the wire, come off it, and through the worker.
    fn carry(&mut self) {
        let now = self.rig.now;
        while let Some(frame) = self.client.card.leaving.pop_front() {
            self.wire.send(now, OUTSIDE, true, &frame);
        }
        for server in &mut self.servers {
            while let Some(frame) = server.card.leaving.pop_front() {
                self.wire.send(now, INSIDE, true, &frame);
            }
        }
        while let Some((port, to_appliance, frame)) = self.wire.arrived(now) {
            if to_appliance { self.rig.push(port, &frame) } else { self.arrive(port, &frame) }
        }
        self.rig.turn();
        for (port, frame) in self.rig.all_sent() {
            self.wire.send(now, port, false, &frame);
        }
    }

    /// A frame of the appliance reaches whom it is addressed to.
    fn arrive(&mut self, port: PortId, frame: &[u8]) {
        let parsed = parse(frame, frame.len()).unwrap();
        let hosts =
            if port == OUTSIDE { std::slice::from_mut(&mut self.client) } else { &mut self.servers[..] };
        for host in hosts {
            if parsed.dst_mac == host.mac || parsed.dst_mac == MacAddr::BROADCAST {
                host.card.arrived.push_back(frame.to_vec());
            }
        }
        if let Body::Flow { key, .. } = parsed.body
            && port == INSIDE
            && self.mode == NatMode::Dnat
        {
            let node = parsed.dst_mac.0[5];
            assert_eq!(*self.pinned.entry(key.sport()).or_insert(node), node, "a flow stays at its backend");
        }
    }
}

/// The client sends its stream and checks what comes back.
fn talk(socket: &mut tcp::Socket<'_>, connection: &mut Connection) {
    while connection.sent < BYTES && socket.can_send() {
        let chunk: Vec<u8> = (connection.sent..BYTES.min(connection.sent + 1_000))
            .map(|at| byte(connection.seed, at))
            .collect();
        connection.sent += socket.send_slice(&chunk).unwrap();
    }
    let mut buffer = [0; 2_048];
    while socket.can_recv() {
        let len = socket.recv_slice(&mut buffer).unwrap();
        for got in &buffer[..len] {
            assert_eq!(*got, byte(connection.seed, connection.received), "bytes arrive whole and in order");
            connection.received += 1;
        }
    }
}

/// The server sends back what it gets.
fn echo(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() && socket.can_send() {
        let room = socket.send_capacity() - socket.send_queue();
        let bytes = socket.recv(|bytes| {
            let len = bytes.len().min(room);
            (len, bytes[..len].to_vec())
        });
        let bytes = bytes.unwrap();
        assert_eq!(socket.send_slice(&bytes), Ok(bytes.len()));
    }
}

fn simulate(seed: u64, mode: NatMode, loss_percent: u64) {
    let mut sim = Sim::new(seed, mode, loss_percent);
    sim.run();
    sim.rig.settle();
    let counts = sim.rig.counts();
    assert_eq!(counts.imbalance(), 0);
    assert_eq!((counts.flows.created, counts.dropped()), (u64::from(CONNECTIONS), 0), "{counts:?}");
    assert!(sim.swaps > 0 && counts.turns.publications > 0);
}

#[test]
fn streams_survive_a_bad_network_and_changing_backends() {
    for seed in 1..=4 {
        for mode in [NatMode::Snat, NatMode::Dnat] {
            simulate(seed * 0x9e37_79b9, mode, 5);
        }
    }
}

#[test]
fn streams_survive_changing_backends_on_a_good_network() {
    for mode in [NatMode::Snat, NatMode::Dnat] {
        simulate(77, mode, 0);
    }
}
