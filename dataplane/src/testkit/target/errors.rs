//! The fuzz target of ICMP: errors of routers and ends about the packets of flows, quoted whole, cut or garbled, and other
//! messages. The judge knows every flow by both its names and rewrites an error in the plainest way.

use std::{net::IpAddr, sync::LazyLock};

use packet::{
    AnyKey, Body, Parsed, Protocol, TcpFlags, checksum, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{PortId, PortSet};

use super::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig, world};

/// Messages that one input may send; the rest is ignored.
const STEPS_MAX: usize = 64;
/// Types of errors by family: those that a flow's sender is told of.
const ERRORS: [&[u8]; 2] = [&[3, 11, 12], &[1, 2, 3, 4]];

/// Addresses of a family.
struct Plan {
    client: &'static str,
    vip: &'static str,
    own: [&'static str; 2],
    /// Who may send an error, besides the ends.
    routers: [&'static str; 2],
    far: &'static str,
}

const PLANS: [Plan; 2] = [
    Plan {
        client: "192.0.2.2",
        vip: "203.0.113.10",
        own: ["192.0.2.1", "10.0.0.1"],
        routers: ["10.0.0.11", "192.0.2.254"],
        far: "8.8.8.8",
    },
    Plan {
        client: "2001:db8:1::2",
        vip: "2001:db8:f::10",
        own: ["2001:db8:1::1", "fd00::1"],
        routers: ["fd00::11", "2001:db8:1::fe"],
        far: "2001:db8:8::8",
    },
];

/// A flow: its packets as their senders and their receivers know them, the client's first.
struct Flow {
    sent: [AnyKey; 2],
    arrived: [Vec<u8>; 2],
}

struct Run {
    rig: Rig,
    plan: &'static Plan,
    flows: Vec<Flow>,
}

/// Sends messages about flows of each protocol and mode: a byte (bit 0: IPv6), then steps of eight bytes and what changes:
/// control, type, code, three bytes that follow the checksum, how much is quoted, how many pairs of a place and a byte follow
/// that are changed in what is quoted.
///
/// Control byte: bits 0-2 the flow, bit 3 which direction's packet is quoted, bits 4-5 the sender, bits 6-7 the receiver.
///
/// # Panics
/// If what leaves is no message that came, as the judge translates it or as it was, or an answer to a ping; if an error that
/// is sound is not translated; if a flow is not as it was afterwards.
pub fn icmp(input: &[u8]) {
    let [family, steps @ ..] = input else { return };
    let mut run = Run::new(usize::from(family & 1));
    let mut rest = steps;
    for _ in 0..STEPS_MAX {
        let Some((head, tail)) = rest.split_first_chunk::<8>() else { break };
        let changes = (2 * usize::from(head[7] & 15)).min(tail.len());
        let (changes, next) = tail.split_at(changes);
        rest = next;
        run.step(head, changes.as_chunks().0);
    }
    run.flows_are_as_they_were();
}

impl Run {
    fn new(family: usize) -> Self {
        static WORLD: LazyLock<Fixture> = LazyLock::new(world);
        let config =
            RigConfig { flows: 64, mirrored: PortSet::NONE, ring_bytes: 1 << 16, ..RigConfig::default() };
        let mut rig = Rig::new(&config, WORLD.clone().tables());
        rig.settle();
        rig.all_sent();
        let plan = &PLANS[family];
        let kinds = Protocol::ALL.into_iter().flat_map(|protocol| [(protocol, 80), (protocol, 81)]);
        let flows = kinds.zip(700..).map(|((protocol, port), sport)| {
            let ends = (at(plan.client, sport), at(plan.vip, port));
            Flow::open(&mut rig, AnyKey::new(ends.0, ends.1, protocol).expect("one family"))
        });
        let flows = flows.collect();
        Self { rig, plan, flows }
    }

    fn step(&mut self, head: &[u8; 8], changes: &[[u8; 2]]) {
        let [control, kind, code, a, b, c, len, _] = *head;
        let (n, direction) = (usize::from(control & 7) % self.flows.len(), usize::from(control >> 3 & 1));
        let flow = &self.flows[n];
        let whole = &flow.arrived[direction];
        let about = flow_of(whole);
        let mut quoted = whole[14..whole.len().min(14 + 4 * usize::from(len))].to_vec();
        for [place, byte] in changes {
            if let Some(changed) = quoted.get_mut(usize::from(*place)) {
                *changed = *byte;
            }
        }
        let from = [about.dst(), ip(self.plan.routers[direction]), ip(self.plan.vip), ip(self.plan.far)]
            [usize::from(control >> 4 & 3)];
        let to = [about.src(), ip(self.plan.vip), ip(self.plan.own[0]), ip(self.plan.client)]
            [usize::from(control >> 6)];
        let port = if direction == 0 { INSIDE } else { OUTSIDE };
        let rest = [&[a, b, c, 0][..], &quoted].concat();
        let frame = PacketBuilder::icmp(from, to, kind, code, &rest)
            .macs(Fixture::port_mac(port), Fixture::neighbor_mac(port, if direction == 0 { 11 } else { 2 }))
            .build();
        let sent = self.rig.exchange(port, &frame);
        self.rig.punted();
        assert_eq!(self.rig.counts().imbalance(), 0, "{:?}", self.rig.counts());
        assert!(sent.len() <= 1, "{} of one", sent.len());
        let family = usize::from(from.is_ipv6());
        let ports_at = usize::from(parse(whole, whole.len()).expect("it was sent").l4) - 14;
        // In both families a redirect, or a message that nobody knows, is no error of a flow.
        let sound = changes.is_empty()
            && quoted.len() >= ports_at + 8
            && ERRORS[family].contains(&kind)
            && control & 0b1110_0000 == 0;
        assert!(!sound || sent.len() == 1, "an error is lost: {frame:02x?} {:?}", self.rig.counts());
        for (out, frame_out) in sent {
            assert_valid_checksums(&frame_out);
            let parsed = parse(&frame_out, frame_out.len()).expect("it was checked");
            assert_eq!(parsed.src_mac, Fixture::port_mac(out));
            let explained = self.explains(&frame, &frame_out);
            assert!(explained, "nothing explains {frame_out:02x?} of {frame:02x?}");
        }
    }

    /// What left may leave for what came.
    fn explains(&self, came: &[u8], left: &[u8]) -> bool {
        let facts = |frame: &[u8]| parse(frame, frame.len()).expect("IP of ours");
        let (was, is) = (facts(came), facts(left));
        let (Body::Icmp(asked), Body::Icmp(told)) = (was.body, is.body) else { return false };
        let same_end = plain(came, &was) == plain(left, &is);
        if asked.is_echo_request() && told.is_echo_reply() {
            return asked.addrs.dst() == told.addrs.src() && asked.addrs.src() == told.addrs.dst();
        }
        if asked.addrs == told.addrs && is.ttl + 1 == was.ttl && same_end {
            return true;
        }
        let quoted_at = usize::from(was.l4) + 8;
        let Some(key) = asked.is_error().then(|| quoted_key(&came[quoted_at..])).flatten() else {
            // Behind extension headers the judge does not look.
            return asked.is_error() && came[14] >> 4 == 6;
        };
        let translated = |name| is.ttl + 1 == was.ttl && is_translated((came, &was), (left, &is), key, name);
        self.flows.iter().filter_map(|flow| flow.as_sent(key)).any(translated)
    }

    /// Errors say nothing about a flow's life, so each goes on as it did.
    fn flows_are_as_they_were(&mut self) {
        for flow in &self.flows {
            for (direction, port, out) in [(0, OUTSIDE, INSIDE), (1, INSIDE, OUTSIDE)] {
                let (sent, arrived) = (flow.sent[direction], flow_of(&flow.arrived[direction]));
                let (by, frame) = one(self.rig.exchange(port, &arriving(port, packet(sent))));
                assert_eq!((by, flow_of(&frame)), (out, arrived));
            }
        }
        assert_eq!(self.rig.counts().packets.held, 0);
    }
}

impl Flow {
    /// A packet each way.
    fn open(rig: &mut Rig, key: AnyKey) -> Self {
        let first = PacketBuilder::flow(key).flags(TcpFlags::SYN).payload(b"a question that is quoted");
        let (_, to_backend) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first)));
        let back = flow_of(&to_backend).reversed();
        let answer = PacketBuilder::flow(back).flags(TcpFlags::SYN | TcpFlags::ACK).numbers(0, 2);
        let (_, to_client) = one(rig.exchange(INSIDE, &arriving(INSIDE, answer.payload(b"an answer"))));
        let mut flow = Self { sent: [key, back], arrived: [to_backend, to_client] };
        // What ends a handshake may change what the flow takes; it is taken now.
        let (_, again) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet(key))));
        flow.arrived[0] = again;
        flow
    }

    /// A packet of the flow as its sender knows it, by the name that its receiver knows.
    fn as_sent(&self, arrived: AnyKey) -> Option<AnyKey> {
        let direction = self.arrived.iter().position(|frame| flow_of(frame) == arrived)?;
        Some(self.sent[direction])
    }
}

/// The error is the one that came, about the packet as its sender knows it, and to that sender.
fn is_translated(
    (came, was): (&[u8], &Parsed),
    (left, is): (&[u8], &Parsed),
    key: AnyKey,
    name: AnyKey,
) -> bool {
    let (Some(from), Some(to)) = (was.addrs(), is.addrs()) else { return false };
    let renamed = if key.dst() == name.dst() { from.src() } else { name.dst() };
    let quoted_at = usize::from(was.l4) + 8;
    let (before, after) = (&came[quoted_at..was.frame_end()], &left[quoted_at..is.frame_end()]);
    let (mut before_plain, mut after_plain) = (before.to_vec(), after.to_vec());
    let spots = [&mut before_plain, &mut after_plain].map(|quoted| blank(quoted, key.protocol()));
    came[was.l4.into()..][..2] == left[is.l4.into()..][..2]
        && came[usize::from(was.l4) + 4..quoted_at] == left[usize::from(is.l4) + 4..quoted_at]
        && (to.src(), to.dst()) == (renamed, name.src())
        && quoted_key(after) == Some(name)
        && spots[0] == spots[1]
        && before_plain == after_plain
        && verdict(before) == verdict(after)
}

/// Whether the checksums in a quoted packet are right, as far as all of it is there.
fn verdict(quoted: &[u8]) -> (Option<bool>, Option<bool>) {
    let ip = (quoted[0] >> 4 == 4).then(|| {
        let len = 4 * usize::from(quoted[0] & 15);
        checksum::ipv4_header(&quoted[..len.min(quoted.len())]) == 0
    });
    let frame = [&[0; 12][..], if quoted[0] >> 4 == 4 { &[8, 0] } else { &[0x86, 0xdd] }, quoted].concat();
    let parsed = parse(&frame, frame.len()).ok().filter(|parsed| parsed.key().is_some());
    let l4 = parsed.filter(|parsed| parsed.key().is_some_and(|key| key.protocol() != Protocol::Sctp));
    (ip, l4.map(|parsed| checksum::is_right(&parsed, [&frame[..]])))
}

/// Takes away what a translation changes: addresses, ports and checksums. Gives where the ports are.
fn blank(quoted: &mut [u8], protocol: Protocol) -> usize {
    let (l4, addresses) = if quoted[0] >> 4 == 4 {
        quoted[10..12].fill(0);
        (4 * usize::from(quoted[0] & 15), 12..20)
    } else {
        (40, 8..40)
    };
    quoted[addresses].fill(0);
    quoted[l4..l4 + 4].fill(0);
    let sum = match protocol {
        Protocol::Tcp => l4 + 16..l4 + 18,
        Protocol::Udp => l4 + 6..l4 + 8,
        Protocol::Sctp => l4..l4,
    };
    if let Some(sum) = quoted.get_mut(sum) {
        sum.fill(0);
    }
    l4
}

/// The 5-tuple at the places where it is in a packet without extension headers.
fn quoted_key(quoted: &[u8]) -> Option<AnyKey> {
    let (l4, protocol, src, dst): (usize, u8, IpAddr, IpAddr) = match quoted.first()? >> 4 {
        4 => {
            let ip: &[u8; 20] = quoted.first_chunk()?;
            let address = |at: usize| <[u8; 4]>::try_from(&ip[at..at + 4]).expect("four");
            (4 * usize::from(ip[0] & 15), ip[9], address(12).into(), address(16).into())
        }
        6 => {
            let ip: &[u8; 40] = quoted.first_chunk()?;
            let address = |at: usize| <[u8; 16]>::try_from(&ip[at..at + 16]).expect("sixteen");
            (40, ip[6], address(8).into(), address(24).into())
        }
        _ => return None,
    };
    let ports: &[u8; 8] = quoted.get(l4..)?.first_chunk()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    AnyKey::new((src, port(0)).into(), (dst, port(2)).into(), Protocol::try_from(protocol).ok()?)
}

/// Everything behind the IP header.
fn plain<'a>(frame: &'a [u8], parsed: &Parsed) -> &'a [u8] {
    &frame[parsed.l4.into()..parsed.frame_end()]
}

fn packet(key: AnyKey) -> PacketBuilder {
    PacketBuilder::flow(key).numbers(2, 1).payload(b"and so on, and so forth")
}

fn arriving(port: PortId, packet: PacketBuilder) -> Vec<u8> {
    let last = if port == OUTSIDE { 2 } else { 11 };
    packet.macs(Fixture::port_mac(port), Fixture::neighbor_mac(port, last)).build()
}

fn one(sent: Vec<(PortId, Vec<u8>)>) -> (PortId, Vec<u8>) {
    let [only] = <[_; 1]>::try_from(sent).expect("a packet leaves as one");
    only
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(address: &str, port: u16) -> std::net::SocketAddr {
    (ip(address), port).into()
}

/// Inputs where the fuzzer begins: every kind of error about every flow, quoted to the ports and whole, from the end and from a
/// router; one with a changed byte; a ping of each address.
#[must_use]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for family in 0..2_u8 {
        let (echo, ports) = if family == 0 { (8, 7) } else { (128, 12) };
        for kind in ERRORS[usize::from(family)] {
            let steps = (0..32_u8).flat_map(|control| {
                let (flow, far) = (control & 15, (control >> 4) << 4);
                let step = |len| [flow | far, *kind, 4, 0, 0, 5, len, 0];
                [step(ports), step(255)]
            });
            let steps: Vec<[u8; 8]> = steps.collect();
            seeds.push([&[family][..], steps.as_flattened()].concat());
        }
        for flow in 0..16 {
            let garbled = [flow, ERRORS[usize::from(family)][0], 3, 0, 0, 0, 255, 2, 1, 0xff, 50, 0];
            let ping = [flow << 4, echo, 0, 0, 7, 0, 20, 0];
            seeds.push([&[family][..], &garbled, &ping].concat());
        }
    }
    seeds
}
