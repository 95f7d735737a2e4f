//! A worker on memory ports with everything around it: a VIP, 256 backends, clients by the million, and the wire.
//!
//! Time is taken around whole turns of the shipped loop; making frames and checking them is outside of it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use cpu::{Level, TscClock};
use dataplane::{
    buf::PacketBuf,
    handoff::Handoff,
    idle::IdleMode,
    testkit::{Fixture, INSIDE, OUTSIDE},
    worker::{Worker, WorkerConfig, WorkerLinks},
};
use packet::{
    AnyKey, FlowKey, MacAddr, Protocol, TcpFlags, ether, parse, testkit::assert_valid_checksums, vlan,
};
use tables::{
    FrontendKind, Millis, NatMode, PortId, PortSet, Tables, WorkerId,
    capture::capture_ring,
    command::{CommandSender, command_rings},
    counters::WorkerCounters,
    flow::FlowTableConfig,
    publish::{Publisher, mailboxes},
    punt::{FrameReceiver, FrameSender, frame_ring},
    rss::Rss,
    tcp_state::Timeouts,
};

use crate::{
    Laps, Meter, Random, shuffle,
    template::Template,
    wire::{WireBuf, WirePort},
};

/// Frames that wait at a port at once: more than the caches nearest to the core hold.
pub const ROUND: usize = 8192;
/// Answers of the worker that may wait, as in the appliance.
const ANSWERS: usize = 4096;
/// One frame in as many is checked.
const SAMPLE: usize = 64;
/// Where the clients go to, at port 80.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// A flow as both sides see it.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Key of the client's packets as they arrive.
    pub original: FlowKey<Ipv4Addr>,
    /// Key of the backend's packets as they arrive.
    pub reply: FlowKey<Ipv4Addr>,
}

/// See the module.
pub struct Stand {
    worker: Worker<WirePort>,
    /// What brings packets to it: the ports' RSS, which worker it is, and of how many.
    share: (Arc<Rss>, WorkerId, u16),
    /// Control's publishing end; taken away by whoever publishes.
    pub publisher: Option<Publisher<Tables>>,
    /// Control's end of the commands; taken away by whoever asks.
    pub commands: Option<CommandSender>,
    /// The simulated time.
    pub now: Millis,
    syn: Template,
    syn_ack: Template,
    ack: Template,
    data_in: Template,
    _ends: (FrameReceiver, FrameSender),
}

impl Stand {
    /// A worker with these instructions whose table holds `flows`, before a VIP with 256 backends in SNAT mode.
    ///
    /// # Errors
    /// When there is no memory for the buffers or the flow table.
    pub fn new(flows: u32, level: Level) -> io::Result<Self> {
        Self::one_of(1, (WorkerId(0), Handoff::none()), flows, level)
    }

    /// The same for one of several workers, with its ends of the rings between them.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn one_of(
        workers: u16,
        (id, handoff): (WorkerId, Handoff<WireBuf>),
        flows: u32,
        level: Level,
    ) -> io::Result<Self> {
        Self::before(tables(), (workers, id, handoff), (flows, false), level)
    }

    /// One worker before other tables, with room for flows of IPv6.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub(crate) fn dual(tables: Tables, flows: u32, level: Level) -> io::Result<Self> {
        Self::before(tables, (1, WorkerId(0), Handoff::none()), (flows, true), level)
    }

    fn before(
        mut tables: Tables,
        (workers, id, handoff): (u16, WorkerId, Handoff<WireBuf>),
        (flows, ipv6): (u32, bool),
        level: Level,
    ) -> io::Result<Self> {
        tables.workers = workers;
        let counters = WorkerCounters::new(tables.ports().len());
        let rss = Arc::clone(&tables.rss);
        let (publisher, mut subscribers) = mailboxes(1, tables);
        let (punt, kernel) = frame_ring(1 << 20);
        let (inject_sender, inject) = frame_ring(1 << 20);
        let (commands, desk) = command_rings(8, ANSWERS);
        let links = WorkerLinks {
            tables: subscribers.pop().expect("one worker"),
            counters: Arc::new(counters),
            punt,
            inject,
            commands: desk,
            capture: capture_ring(0).0,
            watch: None,
        };
        let flows = FlowTableConfig { flows, ipv6, secret: 0x5eed, timeouts: Timeouts::default() };
        let config = WorkerConfig {
            id,
            level,
            flows,
            affinity_clients: 1024,
            mirrored: PortSet::ALL,
            idle: IdleMode::Poll,
        };
        let ports = vec![WirePort::new(ROUND)?, WirePort::new(ROUND)?];
        let mut worker = Worker::new(&config, links, ports)?;
        worker.connect(handoff);
        Ok(Self {
            worker,
            share: (rss, id, workers),
            publisher: Some(publisher),
            commands: Some(commands),
            now: Millis(1000),
            syn: arriving(OUTSIDE, TcpFlags::SYN),
            syn_ack: arriving(INSIDE, TcpFlags::SYN | TcpFlags::ACK),
            ack: arriving(OUTSIDE, TcpFlags::ACK),
            data_in: arriving(INSIDE, TcpFlags::ACK | TcpFlags::PSH),
            _ends: (kernel, inject_sender),
        })
    }

    /// Opens the flows of the first so many clients whose packets come to this worker, and completes their handshakes.
    ///
    /// # Panics
    /// If a packet is lost or comes out wrong, or would have to be handed to another worker.
    pub fn establish(&mut self, flows: u32) -> Vec<Pair> {
        let mut pairs = Vec::new();
        let mut unused = Laps::new();
        let (rss, id, workers) = &self.share;
        let ours = (0..).map(client).filter(|key| rss.worker(key, *workers) == *id);
        let clients: Vec<_> = ours.take(flows as usize).collect();
        for originals in clients.chunks(ROUND) {
            let replies = self.open(originals, &mut unused);
            self.send(INSIDE, &replies, Kind::SynAck);
            self.drain(&mut unused);
            self.collect(OUTSIDE, replies.len(), |_, _| {});
            self.send(OUTSIDE, originals, Kind::Ack);
            self.drain(&mut unused);
            self.collect(INSIDE, originals.len(), |_, _| {});
            pairs.extend(originals.iter().zip(replies).map(|(&original, reply)| Pair { original, reply }));
        }
        pairs
    }

    /// Sends a SYN of each of these, a round at most, and gives the keys of their replies; turns go through `meter`.
    ///
    /// # Panics
    /// If one of them is not forwarded.
    pub fn open(
        &mut self,
        originals: &[FlowKey<Ipv4Addr>],
        meter: &mut impl Meter,
    ) -> Vec<FlowKey<Ipv4Addr>> {
        self.send(OUTSIDE, originals, Kind::Syn);
        self.drain(meter);
        let mut replies = Vec::with_capacity(originals.len());
        self.collect(INSIDE, originals.len(), |_, frame| {
            let key = parse(frame, frame.len()).ok().and_then(|parsed| parsed.key());
            let Some(AnyKey::V4(key)) = key else { unreachable!("an IPv4 flow was sent") };
            replies.push(key.reversed());
        });
        replies
    }

    /// One round of traffic of known flows, a packet of each client and of each backend; turns go through `meter`. The
    /// slices are a round at most; what comes out is checked on a sample.
    ///
    /// # Panics
    /// If a packet is lost or comes out wrong.
    pub fn both_ways(&mut self, clients: &[Pair], backends: &[Pair], meter: &mut impl Meter) {
        let keys =
            |pairs: &[Pair], key: fn(&Pair) -> FlowKey<Ipv4Addr>| pairs.iter().map(key).collect::<Vec<_>>();
        self.send(OUTSIDE, &keys(clients, |pair| pair.original), Kind::Ack);
        self.send(INSIDE, &keys(backends, |pair| pair.reply), Kind::Data);
        self.drain(meter);
        self.collect(INSIDE, clients.len(), |n, frame| check(frame, clients[n].reply.reversed()));
        self.collect(OUTSIDE, backends.len(), |n, frame| check(frame, backends[n].original.reversed()));
    }

    /// A turn with nothing to receive.
    pub fn idle(&mut self, meter: &mut impl Meter) {
        meter.turn(|| self.worker.poll(self.now));
    }

    /// The worker, for its counters.
    #[must_use]
    pub fn worker(&self) -> &Worker<WirePort> {
        &self.worker
    }

    /// Where the time of its turns goes.
    #[cfg(feature = "stages")]
    pub fn stages_mut(&mut self) -> &mut dataplane::stages::Account {
        self.worker.stages_mut()
    }

    fn send(&mut self, port: PortId, keys: &[FlowKey<Ipv4Addr>], kind: Kind) {
        let template = match kind {
            Kind::Syn => &self.syn,
            Kind::SynAck => &self.syn_ack,
            Kind::Ack => &self.ack,
            Kind::Data => &self.data_in,
        };
        let wire = self.worker.port_mut(port).expect("two ports");
        for key in keys {
            assert!(
                wire.arrive(template.bytes(), |bytes| template.readdress(bytes, *key)),
                "a round has a buffer for each frame"
            );
        }
    }

    /// Lets frames arrive at a port as they are.
    pub(crate) fn put(&mut self, port: PortId, frames: &[Vec<u8>]) {
        let wire = self.worker.port_mut(port).expect("two ports");
        for frame in frames {
            assert!(wire.arrive(frame, |_| {}), "a round has a buffer for each frame");
        }
    }

    /// Turns until every frame was received, each through the meter.
    pub(crate) fn drain(&mut self, meter: &mut impl Meter) {
        while self.waiting() > 0 {
            meter.turn(|| self.worker.poll(self.now));
        }
        // What still waits in a tx buffer.
        self.worker.poll(self.now);
    }

    fn waiting(&mut self) -> usize {
        [OUTSIDE, INSIDE].map(|port| self.worker.port_mut(port).expect("two ports").waiting()).iter().sum()
    }

    /// Takes the frames that were sent out of a port, and gives their buffers back where they came from.
    pub(crate) fn collect(&mut self, port: PortId, expected: usize, mut see: impl FnMut(usize, &[u8])) {
        let other = if port == OUTSIDE { INSIDE } else { OUTSIDE };
        let mut count = 0;
        while let Some(buf) = self.worker.port_mut(port).and_then(WirePort::sent) {
            // The worker announces the VIP by itself, in buffers of the port it goes out of.
            let announcement = is_announcement(buf.head());
            if !announcement {
                see(count, buf.head());
                count += 1;
            }
            let home = if announcement { port } else { other };
            self.worker.port_mut(home).expect("two ports").recycle(buf);
        }
        assert_eq!(count, expected, "{:?}", self.worker.counts().drops().collect::<Vec<_>>());
    }
}

/// An ARP packet, or an advertisement of ICMPv6, with a tag or without.
fn is_announcement(frame: &[u8]) -> bool {
    let is_tagged = frame.get(12..14) == Some(&[0x81, 0]);
    let frame = if is_tagged { frame.get(vlan::TAG_LEN..).unwrap_or_default() } else { frame };
    let ether_type = frame.get(12..14);
    ether_type == Some(&ether::ARP.to_be_bytes()[..])
        || ether_type == Some(&ether::IPV6.to_be_bytes()[..]) && frame.get(20) == Some(&58)
}

/// Endless rounds of pairs in random order, different for the two sides.
#[derive(Debug)]
pub struct Traffic {
    clients: Vec<Pair>,
    backends: Vec<Pair>,
    at: usize,
}

impl Traffic {
    /// Opens so many flows at the stand, and shuffles them.
    #[must_use]
    pub fn new(stand: &mut Stand, flows: u32) -> Self {
        let mut clients = stand.establish(flows);
        let mut backends = clients.clone();
        shuffle(&mut clients, &mut Random::new(1));
        shuffle(&mut backends, &mut Random::new(2));
        Self { clients, backends, at: 0 }
    }

    /// Runs one round; turns go through `meter`.
    pub fn round(&mut self, stand: &mut Stand, meter: &mut impl Meter) {
        let end = (self.at + ROUND).min(self.clients.len());
        stand.both_ways(&self.clients[self.at..end], &self.backends[self.at..end], meter);
        self.at = if end == self.clients.len() { 0 } else { end };
    }

    /// Runs rounds until `time` was spent in turns; simulated time passes with the real one.
    pub fn rounds(&mut self, stand: &mut Stand, time: Duration, clock: &TscClock) -> Laps {
        let (mut laps, start, began) = (Laps::new(), Instant::now(), stand.now);
        while Duration::from_nanos(laps.ns(clock)) < time && start.elapsed() < time * 20 {
            self.round(stand, &mut laps);
            stand.now = began.plus(u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX));
        }
        laps
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Syn,
    SynAck,
    Ack,
    Data,
}

/// Frames from the neighbour that the fixture has on a port.
fn arriving(port: PortId, flags: TcpFlags) -> Template {
    let last = if port == OUTSIDE { 254 } else { 11 };
    Template::new(Fixture::port_mac(port), Fixture::neighbor_mac(port, last), flags)
}

/// One frame in [`SAMPLE`] must be the right packet to the right neighbour.
fn check(frame: &[u8], key: FlowKey<Ipv4Addr>) {
    if usize::from(key.sport ^ key.dport) % SAMPLE != 0 {
        return;
    }
    assert_valid_checksums(frame);
    let parsed = parse(frame, frame.len()).expect("a valid frame");
    assert_eq!((parsed.key(), parsed.ttl), (Some(key.into()), 63));
    assert!(parsed.dst_mac.is_station() && parsed.src_mac != MacAddr::ZERO);
}

/// The key of the n-th client's flow: 64 Ki addresses of 198.18/15, so that every flow has a client and port of its own.
#[must_use]
pub fn client(n: u32) -> FlowKey<Ipv4Addr> {
    let [_, _, c, d] = n.to_be_bytes();
    let sport = 1024 + u16::try_from(n >> 16).unwrap_or(u16::MAX);
    FlowKey { src: Ipv4Addr::new(198, 18, c, d), dst: VIP, sport, dport: 80, protocol: Protocol::Tcp }
}

/// True for an address of such a client.
#[must_use]
pub fn is_client(address: Ipv4Addr) -> bool {
    address.octets()[..2] == [198, 18]
}

/// A data centre with the VIP 203.0.113.10:80 and its 256 backends.
#[must_use]
pub fn tables() -> Tables {
    let mut fixture = Fixture::data_centre();
    let backends: Vec<_> = (0..256).map(|n| format!("10.244.{}.{}:8080", 1 + n / 128, 2 + n % 128)).collect();
    let backends: Vec<_> = backends.iter().map(String::as_str).collect();
    let service = fixture.service("web", Protocol::Tcp, &backends, NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, &format!("{}:80", IpAddr::V4(VIP)), service);
    fixture.tables()
}
