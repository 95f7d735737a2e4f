//! Packets of 9,000 bytes in buffers of 2 KiB, on real devices of DPDK: memif, whose other ends the test plays. No huge pages
//! and no NIC. DPDK starts once a process, so this is one test.

use std::{path::Path, time::Duration};

use dataplane::{
    buf::PacketBuf,
    io::dpdk as devices,
    testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig},
};
use devices::{Eal, EalConfig, HugePages, Mempool, Port, PortConfig, QueuePair, StartedPort};
use packet::{
    AnyKey, Body, Family, MacAddr, Protocol, TcpFlags, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{PortId, PortSet, Tables};

use crate::{fragments::join, world::*};

/// Bytes of an IP packet.
const JUMBO: u16 = 9_000;
/// Looks at a link, a millisecond apart at least: longer than any host stops for.
const LOOKS_MAX: u32 = 60_000;
/// Turns of the worker until a frame is out; nobody else has a part in that.
const TURNS_MAX: u32 = 100_000;

/// One end of a link.
type End = (StartedPort, QueuePair);

/// The worker on its two devices, and what is at their other ends.
struct Site {
    rig: Rig<QueuePair>,
    wires: [QueuePair; 2],
    /// Whole frames in one buffer each.
    large: Mempool,
    _ports: Vec<StartedPort>,
}

impl Site {
    fn new(eal: &Eal, (small, large): (Mempool, Mempool), tables: Tables) -> Self {
        let folder = std::env::temp_dir().join(format!("fairlead-jumbo-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [outside, inside] = [0, 1].map(|link| connect(eal, (small, large), link, &folder));
        std::fs::remove_dir_all(&folder).unwrap();
        let config = RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() };
        let rig = Rig::with_ports(&config, tables, vec![outside.0.1, inside.0.1]);
        let wires = [outside.1.1, inside.1.1];
        Self { rig, wires, large, _ports: vec![outside.0.0, outside.1.0, inside.0.0, inside.1.0] }
    }

    /// Sends a frame to a port, and gives the first `count` that come out of one.
    fn exchange(&mut self, port: PortId, frame: &[u8], out: PortId, count: usize) -> Vec<Vec<u8>> {
        let mut buf = self.large.alloc().unwrap();
        buf.append(frame.len()).unwrap().copy_from_slice(frame);
        let mut burst = [Some(buf)];
        assert_eq!(self.wires[port.index()].tx(&mut burst), 1);
        let mut frames = Vec::new();
        for turn in 0.. {
            if frames.len() >= count {
                break;
            }
            assert!(turn < TURNS_MAX, "{} of {count} came: {:?}", frames.len(), self.rig.counts());
            self.rig.turn();
            let mut received = [const { None }; 32];
            self.wires[out.index()].rx(&mut received);
            // What the appliance announces of itself is no answer.
            let packets = received.iter().flatten().map(bytes_of).filter(|frame| {
                parse(frame, frame.len())
                    .is_ok_and(|parsed| !matches!(parsed.body, Body::Arp(_) | Body::Nd(_)))
            });
            frames.extend(packets);
        }
        assert_eq!(self.rig.counts().imbalance(), 0);
        frames
    }

    fn one(&mut self, port: PortId, packet: PacketBuilder, out: PortId) -> Vec<u8> {
        let frame = arriving(port, packet);
        let [only] = <[_; 1]>::try_from(self.exchange(port, &frame, out, 1)).expect("one");
        assert_valid_checksums(&only);
        only
    }
}

fn bytes_of<B: PacketBuf>(buf: &B) -> Vec<u8> {
    buf.segments().collect::<Vec<_>>().concat()
}

/// A link: the appliance's end with buffers of 2 KiB, the other one with large ones.
fn connect(eal: &Eal, (small, large): (Mempool, Mempool), link: u8, folder: &Path) -> (End, End) {
    let socket = folder.join(format!("wire{link}.sock"));
    let open = |number: u8, role: &str, pool: Mempool| -> End {
        let device = format!(
            "net_memif{number},role={role},id=0,socket={},socket-abstract=no,mac={}",
            socket.display(),
            MacAddr([2, 0, 0, 9, link, number])
        );
        // Memif names no MTU above the usual one, and carries whatever comes.
        let config = PortConfig {
            queues: 1,
            rx_descriptors: 512,
            tx_descriptors: 512,
            mtu: 1_500,
            rss_key: &[],
            rx_interrupts: false,
        };
        let port = Port::open(eal, &device).unwrap_or_else(|error| panic!("{error}"));
        let (port, mut queues) = port.start(pool, &config).unwrap_or_else(|error| panic!("{error}"));
        (port, queues.pop().unwrap())
    };
    let ends = (open(2 * link, "server", small), open(2 * link + 1, "client", large));
    let up = || [&ends.0, &ends.1].iter().all(|(port, _)| port.link().is_ok_and(|link| link.up));
    let mut looks = 0..LOOKS_MAX;
    while !up() {
        assert!(looks.next().is_some(), "no link {link}");
        std::thread::sleep(Duration::from_millis(1));
    }
    ends
}

/// Both families' Services, and ports that take so long packets.
fn fixture() -> Fixture {
    let mut fixture = Fixture::data_centre();
    WORLDS.iter().for_each(|world| services(&mut fixture, world));
    set_mtu(&mut fixture, [JUMBO; 2]);
    fixture
}

fn set_mtu(fixture: &mut Fixture, mtu: [u16; 2]) {
    let mut ports = fixture.tables.ports().to_vec();
    ports.iter_mut().zip(mtu).for_each(|(port, mtu)| port.mtu = mtu);
    fixture.tables.set_ports(ports);
}

/// A packet of 9,000 bytes of the flow, with content that differs from byte to byte.
fn jumbo(key: AnyKey) -> PacketBuilder {
    let headers = if matches!(key, AnyKey::V4(_)) { 20 } else { 40 } + key.protocol().header_len();
    let content: Vec<u8> =
        (0..usize::from(JUMBO) - headers).map(|n| (n * 7 + n / 251).to_le_bytes()[0]).collect();
    PacketBuilder::flow(key).flags(TcpFlags::ACK).numbers(1, 3).payload(&content)
}

#[test]
fn jumbo_frames_in_several_buffers_are_translated_and_cut() {
    let config = EalConfig { cores: vec![0], memory_mib: 128, hugepages: HugePages::Never, args: Vec::new() };
    let eal = Eal::init(&config).expect("DPDK starts without huge pages");
    let small = Mempool::new(&eal, "small", 2_047, 2_176, -1).expect("a pool fits");
    let large = Mempool::new(&eal, "large", 511, 9_216 + 128, -1).expect("a pool fits");
    let all = (small.available(), large.available());
    let mut fixture = fixture();
    let mut site = Site::new(&eal, (small, large), fixture.tables());
    for world in &WORLDS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            translated(&mut site, world, protocol);
        }
    }
    set_mtu(&mut fixture, [JUMBO, 1_500]);
    site.rig.publisher.publish(fixture.tables());
    WORLDS.iter().for_each(|world| cut(&mut site, world));
    drop(site);
    assert_eq!((small.available(), large.available()), all, "every buffer came back");
}

/// Packets each way, both as long as can be, whole at the other side; with the sender's checksum, or with one for us to finish.
fn translated(site: &mut Site, world: &World, protocol: Protocol) {
    for (port, sport) in [(80, 700), (81, 701)] {
        let to_service = key(protocol, at(world.client, sport), at(world.lb, port));
        let to_backend = flow_of(&site.one(OUTSIDE, first(to_service), INSIDE));
        assert_eq!(to_backend.dst(), ip(world.pods[0]));
        site.one(INSIDE, answer(to_backend.reversed()), OUTSIDE);
        for unfinished in [false, true] {
            for (from, packet, out, want) in [
                (OUTSIDE, jumbo(to_service), INSIDE, to_backend),
                (INSIDE, jumbo(to_backend.reversed()), OUTSIDE, to_service.reversed()),
            ] {
                let sent = if unfinished { packet.clone().unfinished_checksum() } else { packet.clone() };
                let frame = site.one(from, sent, out);
                let parsed = parse(&frame, frame.len()).unwrap();
                assert_eq!((flow_of(&frame), parsed.ip_len, parsed.ttl), (want, JUMBO, 63));
                let content = usize::from(parsed.l4) + protocol.header_len();
                assert!(packet.build().ends_with(&frame[content..]), "as it was sent");
            }
        }
    }
}

/// Where the network inside takes less, IPv4 leaves in parts, and of IPv6 the sender is told.
fn cut(site: &mut Site, world: &World) {
    let to_service = key(Protocol::Udp, at(world.client, 710), at(world.lb, 80));
    let packet = jumbo(to_service);
    let frame = arriving(OUTSIDE, packet.clone().ttl(9));
    if world.family == Family::V4 {
        // 8,980 bytes of payload, 1,480 in a part.
        let parts = site.exchange(OUTSIDE, &frame, INSIDE, 7);
        assert!(parts.iter().all(|part| part.len() <= 14 + 1_500));
        let whole = join(&parts);
        assert_valid_checksums(&whole);
        assert_eq!(flow_of(&whole).dst(), ip(world.pods[0]));
        assert!(packet.build().ends_with(&whole[42..]), "as it was sent");
        return;
    }
    let told = site.one(OUTSIDE, packet, OUTSIDE);
    let parsed = parse(&told, told.len()).unwrap();
    let Body::Icmp(icmp) = parsed.body else { panic!("{parsed:?}") };
    assert!(icmp.is_too_big() && icmp.inner.is_some_and(|inner| inner.key == to_service), "{icmp:?}");
    let mtu = &told[usize::from(parsed.l4) + 4..][..4];
    assert_eq!(mtu, 1_500_u32.to_be_bytes());
}
