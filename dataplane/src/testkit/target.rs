//! Fuzz targets: what must hold whatever comes. The fuzzer and the replay of the stored inputs call the same functions.

mod errors;
mod fragments;

use std::sync::LazyLock;

use packet::{AnyKey, MacAddr, Protocol, TcpFlags, VlanTag, checksum, parse, testkit::PacketBuilder};
use tables::{FrontendKind, NatMode, PortSet, ServicePort};

use crate::{buf::ChecksumStatus, io::mem::MemBuf};

use super::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};

pub use errors::icmp;
pub use fragments::fragments;

/// A fuzz target: panics when something does not hold.
pub type Target = fn(&[u8]);

/// Makes the inputs where a fuzzer begins.
pub type Seeds = fn() -> Vec<Vec<u8>>;

/// Every target, under the name of its corpus folder, and the inputs where its fuzzer begins.
pub const ALL: [(&str, Target, Seeds); 3] = [
    ("fragments", fragments, fragments::seeds),
    ("icmp", icmp, errors::seeds),
    ("pipeline", pipeline, seeds),
];

/// Frames that one input may hold; the rest is ignored.
const STEPS_MAX: usize = 128;

/// Drives a worker with any frames, in any order, with time and tables moving. `input`: steps of a control byte, a length (2 bytes, big-endian) and so many bytes of frame.
///
/// Control byte: bit 0 the port, bit 1 set the receiver's Ethernet address right, bits 2-3 how far time jumps (0, 1 ms,
/// 1 s, 1 h), bit 4 new tables first, bit 5 finish the burst before the next step, bit 6 the port vouches for checksums.
///
/// # Panics
/// If the worker does, a packet has no verdict or two, or a frame is sent that does not parse or whose checksum went
/// wrong here.
pub fn pipeline(input: &[u8]) {
    // Every input begins in the same world, which is made once.
    static WORLD: LazyLock<Fixture> = LazyLock::new(world);
    let mut fixture = WORLD.clone();
    let config =
        RigConfig { flows: 64, mirrored: PortSet::of(OUTSIDE), ring_bytes: 1 << 16, ..RigConfig::default() };
    let mut rig = Rig::new(&config, fixture.tables());
    let mut rest = input;
    let mut sound = true;
    for _ in 0..STEPS_MAX {
        let [control, high, low, tail @ ..] = rest else { break };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len()).min(2_000);
        let (frame, next) = tail.split_at(len);
        rest = next;
        sound &= step(&mut rig, &mut fixture, *control, frame);
    }
    rig.settle();
    check(&mut rig, sound);
}

/// One step; false if its frame came with a wrong checksum, which may leave with one.
fn step(rig: &mut Rig, fixture: &mut Fixture, control: u8, frame: &[u8]) -> bool {
    let port = if control & 1 == 0 { OUTSIDE } else { INSIDE };
    let mut frame = frame.to_vec();
    if control & 2 != 0 {
        packet::ether::set_macs(&mut frame, Fixture::port_mac(port), Fixture::neighbor_mac(port, 11));
    }
    rig.now = rig.now.plus([0, 1, 1_000, 3_600_000][usize::from(control >> 2 & 3)]);
    if control & 16 != 0 {
        fixture.tables.fib_epoch += 1;
        rig.publisher.publish(fixture.tables());
    }
    let mut buf = MemBuf::from_frame(&frame).expect("a frame fits a buffer");
    if control & 64 != 0 {
        buf.set_rx_checksum(ChecksumStatus::Good);
    }
    rig.port(port).push_buf(buf);
    if control & 32 != 0 {
        rig.turn();
    }
    assert_eq!(rig.counts().imbalance(), 0, "{:?}", rig.counts());
    parse(&frame, frame.len()).map_or(true, |parsed| checksum::is_right(&parsed, [&frame[..]]))
}

/// What was sent is sound, from us, and counted.
fn check(rig: &mut Rig, sound: bool) {
    let sent = rig.all_sent();
    assert_eq!(rig.counts().packets.tx, sent.len() as u64);
    assert_eq!(rig.counts().imbalance(), 0, "{:?}", rig.counts());
    for (port, frame) in sent {
        let parsed = parse(&frame, frame.len()).expect("what is sent parses");
        assert_eq!(parsed.src_mac, Fixture::port_mac(port));
        assert!(parsed.vlan.is_none() || parsed.vlan.is_some_and(|tag| tag.id() == 0));
        assert!(!sound || checksum::is_right(&parsed, [&frame[..]]), "a checksum went wrong: {frame:02x?}");
    }
}

/// The data centre with a Service of each protocol, family and mode: `snat` at port 80, `dnat` at port 81, each at a clusterIP
/// and at a LoadBalancer address, with two pods.
#[must_use]
pub fn world() -> Fixture {
    let mut fixture = Fixture::data_centre();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for (mode, port) in [(NatMode::Snat, 80), (NatMode::Dnat, 81)] {
            for (pods, cluster_ip, lb) in [
                (["10.244.1.5:8080", "10.244.2.5:8080"], "10.96.0.10", "203.0.113.10"),
                (["[fd00:244:1::5]:8080", "[fd00:244:2::5]:8080"], "[fd00:96::10]", "[2001:db8:f::10]"),
            ] {
                let id = fixture.service("web", protocol, &pods, mode);
                let affinity_timeout_s = (mode == NatMode::Dnat).then_some(60);
                fixture.put_service(ServicePort { affinity_timeout_s, ..fixture.get_service(id) });
                fixture.vip(FrontendKind::ClusterIp, &format!("{cluster_ip}:{port}"), id);
                fixture.vip(FrontendKind::LoadBalancer, &format!("{lb}:{port}"), id);
            }
        }
    }
    fixture
}

/// Inputs of one step that between them reach every stage: where the fuzzer begins, and what mutations are made of.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let ends = [
        ("192.0.2.2:4000", "203.0.113.10:80", "10.244.1.5:8080", "10.96.0.10:9", "192.0.2.1:22"),
        (
            "[2001:db8:1::2]:4000",
            "[2001:db8:f::10]:81",
            "[fd00:244:1::5]:8080",
            "[fd00:96::10]:9",
            "[2001:db8:1::1]:22",
        ),
    ];
    let mut frames = Vec::new();
    for (client, vip, pod, unknown, own) in ends {
        for protocol in Protocol::ALL {
            for (src, dst) in
                [(client, vip), (pod, client), (client, unknown), (client, own), (client, pod), (pod, vip)]
            {
                let key = AnyKey::new(socket(src), socket(dst), protocol).expect("one family");
                let packet = PacketBuilder::flow(key).payload(b"payload");
                frames.push(packet.clone().flags(TcpFlags::SYN).pad_to(64));
                frames.push(packet.clone().flags(TcpFlags::FIN | TcpFlags::ACK).ttl(1));
                // The two parts of a datagram.
                let part = packet.clone().payload(&vec![7; 64 - protocol.header_len()]);
                frames.push(part.clone().fragment(7, 0, true));
                frames.push(part.fragment(7, 64, false));
                frames.push(packet.clone().vlan(VlanTag(0)).unfinished_checksum());
                let quoted = [&[0; 4][..], &packet.build()[14..]].concat();
                frames.push(PacketBuilder::icmp(key.dst(), key.src(), 3, 3, &quoted));
            }
        }
        frames.push(PacketBuilder::ping(socket(client).ip(), socket(vip).ip(), 1, 1, b"ping"));
    }
    let mac = MacAddr([2, 0, 0, 1, 0, 2]);
    frames.push(PacketBuilder::arp_request(mac, [192, 0, 2, 2].into(), [203, 0, 113, 10].into()));
    let v6 = |text: &str| text.parse().expect("an address");
    frames.push(PacketBuilder::neighbor_solicitation(mac, v6("2001:db8:1::2"), v6("2001:db8:f::10")));
    frames.push(PacketBuilder::ether(0x88cc).payload(&[1; 50]));
    let encode =
        |(n, frame): (usize, PacketBuilder)| input_of(if n % 5 == 1 { 0x23 } else { 0x22 }, &frame.build());
    frames.into_iter().enumerate().map(encode).collect()
}

/// An input of one step.
#[must_use]
pub fn input_of(control: u8, frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len()).expect("a short frame").to_be_bytes();
    [&[control][..], &len, frame].concat()
}

fn socket(text: &str) -> std::net::SocketAddr {
    text.parse().expect("address:port")
}
