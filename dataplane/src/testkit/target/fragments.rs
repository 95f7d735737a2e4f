//! The fuzz target of datagrams in parts: parts in any order, twice, over each other, late, and a receiver that puts
//! together what arrives byte by byte, as the judge.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use packet::{
    AnyKey, Body, Fragment, Parsed, Protocol, TcpFlags, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{Millis, PortId, PortSet};

use super::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig, socket, world};

/// Parts that one input may send; the rest is ignored. Fewer than may wait, or than one datagram may have.
const STEPS_MAX: usize = 96;
/// Datagrams under way at a time.
const DATAGRAMS: usize = 5;
/// Bytes of IP payload that a part has at most: it fits every way of IPv6.
const PART_MAX: usize = 1_024;
/// Milliseconds that a part waits for the first one, and that a datagram is followed.
const WAITING_MS: u32 = 1_000;
const DATAGRAM_MS: u32 = 5_000;
/// What the narrow network inside takes, in IPv4.
const NARROW: u16 = 600;

/// From a client: to a `snat` and a `dnat` Service, of TCP to a Service, to a pod itself, and to a port that no Service has.
const PLAN: [(Protocol, [(&str, &str); 2]); DATAGRAMS] = [
    (Protocol::Udp, [("192.0.2.2:700", "203.0.113.10:80"), ("[2001:db8:1::2]:700", "[2001:db8:f::10]:80")]),
    (Protocol::Udp, [("192.0.2.2:701", "203.0.113.10:81"), ("[2001:db8:1::2]:701", "[2001:db8:f::10]:81")]),
    (Protocol::Tcp, [("192.0.2.2:702", "203.0.113.10:80"), ("[2001:db8:1::2]:702", "[2001:db8:f::10]:80")]),
    (Protocol::Udp, [("192.0.2.2:703", "10.244.1.5:53"), ("[2001:db8:1::2]:703", "[fd00:244:1::5]:53")]),
    (Protocol::Udp, [("192.0.2.2:704", "10.96.0.10:9"), ("[2001:db8:1::2]:704", "[fd00:96::10]:9")]),
];
/// The last of the plan is refused.
const REFUSED: usize = DATAGRAMS - 1;

/// A part: its bytes of the datagram, and whether it says that it is the last one.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Part {
    start: usize,
    bytes: Vec<u8>,
    last: bool,
}

impl Part {
    const fn end(&self) -> usize {
        self.start + self.bytes.len()
    }

    /// No sound datagram has a part of an odd length in its middle.
    const fn is_sound(&self) -> bool {
        self.last || self.bytes.len().is_multiple_of(8)
    }
}

/// One datagram of the plan under one use of its name: what was accepted of it, and what left.
#[derive(Clone, Debug, Default)]
struct Account {
    began: Millis,
    parts: Vec<Part>,
    accepted: BTreeMap<usize, u8>,
    end: Option<usize>,
    /// It holds a contradiction: what is not gone yet may not go.
    spoiled: bool,
    /// Its first part is too short for its ports: nothing may go.
    portless: bool,
    /// A part may have waited too long for the first one.
    late: bool,
    /// When the first of those that wait came.
    waits_since: Option<Millis>,
    /// A part differs from what its sender would have sent.
    scrambled: bool,
    left: BTreeMap<usize, u8>,
}

impl Account {
    /// All of it is there.
    fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.accepted.len() == end)
    }

    /// The name may be used again.
    fn is_over(&self, now: Millis) -> bool {
        self.parts.is_empty() || self.is_complete() || now.since(self.began) >= DATAGRAM_MS
    }

    /// A part comes.
    fn add(&mut self, part: &Part, header_len: usize, now: Millis) {
        if self.spoiled
            || self.portless
            || self.parts.iter().any(|known| (known.start, known.end(), known.last) == key_of(part))
        {
            return;
        }
        let known = self.accepted.range(part.start..part.end()).next().is_some();
        let behind = self.end.is_some_and(|end| part.end() > end || part.last);
        let before = part.last && self.accepted.range(part.end()..).next().is_some();
        self.spoiled = known || behind || before;
        if self.spoiled {
            return;
        }
        self.portless = part.start == 0 && part.bytes.len() < header_len;
        self.parts.push(part.clone());
        self.accepted.extend((part.start..).zip(part.bytes.iter().copied()));
        self.end = self.end.or(part.last.then(|| part.end()));
        if part.start == 0 {
            self.late |= self.waits_since.is_some_and(|since| now.since(since) >= WAITING_MS);
        } else if !self.accepted.contains_key(&0) {
            self.waits_since = self.waits_since.or(Some(now));
        }
    }

    /// A part left.
    fn leave(&mut self, start: usize, last: bool, bytes: &[u8], header_len: usize) {
        assert!(!self.portless, "a part of what has no ports left");
        for (at, byte) in (start..).zip(bytes) {
            assert!(self.left.insert(at, *byte).is_none(), "byte {at} left twice");
            let came = self.accepted.get(&at);
            assert!(came.is_some_and(|came| came == byte || at < header_len), "byte {at}: {came:?}, {byte}");
        }
        let ends = Some(start + bytes.len()) == self.end;
        assert_eq!(last, ends, "the last one is the last one");
    }
}

fn key_of(part: &Part) -> (usize, usize, bool) {
    (part.start, part.end(), part.last)
}

struct Run {
    rig: Rig,
    family: usize,
    /// Of each datagram of the plan: its IP payload, where its parts go, and its account.
    datagrams: Vec<(Vec<u8>, AnyKey, Account)>,
    to: [Option<(IpAddr, IpAddr)>; DATAGRAMS],
    burst_begun: bool,
}

/// Sends parts of datagrams: a byte of flags (bit 0 IPv6, bit 1 a narrow network inside), five that say how long the
/// datagrams are, then steps of three bytes: control, where the part begins, how long it is.
///
/// Control byte: bits 0-2 the datagram, bit 3 turn the word on what follows round, bit 4 finish the burst first, bits 5-6 how
/// far time jumps (0, 1 ms, 600 ms, 6 s), bit 7 change a byte.
///
/// # Panics
/// If what leaves is not what came, in whole or in part, is sent twice or to two receivers, is of a datagram that
/// contradicts itself, or if a sound datagram does not leave whole.
pub fn fragments(input: &[u8]) {
    let Some(([flags, lengths @ ..], steps)) = input.split_first_chunk::<{ DATAGRAMS + 1 }>() else { return };
    let mut run = Run::new(*flags, *lengths);
    for [control, start, len] in steps.as_chunks().0.iter().take(STEPS_MAX) {
        run.step(*control, usize::from(*start), usize::from(*len));
    }
    run.finish();
}

impl Run {
    fn new(flags: u8, lengths: [u8; DATAGRAMS]) -> Self {
        static WORLD: LazyLock<Fixture> = LazyLock::new(world);
        let mut fixture = WORLD.clone();
        let family = usize::from(flags & 1);
        if family == 0 && flags & 2 != 0 {
            let mut ports = fixture.tables.ports().to_vec();
            ports[INSIDE.index()].mtu = NARROW;
            fixture.tables.set_ports(ports);
        }
        let config = RigConfig {
            flows: 64,
            mirrored: PortSet::of(OUTSIDE),
            ring_bytes: 1 << 16,
            ..RigConfig::default()
        };
        let mut rig = Rig::new(&config, fixture.tables());
        rig.settle();
        rig.all_sent();
        let datagrams =
            (0..DATAGRAMS).map(|n| datagram(n, family, 64 + 12 * usize::from(lengths[n]))).collect();
        Self { rig, family, datagrams, to: [None; DATAGRAMS], burst_begun: false }
    }

    fn step(&mut self, control: u8, start: usize, len: usize) {
        let n = usize::from(control & 7) % DATAGRAMS;
        let jump = [0, 1, 600, 6_000][usize::from(control >> 5 & 3)];
        if jump > 0 {
            self.flush();
            self.rig.now = self.rig.now.plus(jump);
        }
        let (now, header_len) = (self.rig.now, PLAN[n].0.header_len());
        // What waits has had its time before something new comes, and a name ends with its burst.
        if jump > 0 || control & 16 != 0 || self.datagrams[n].2.is_over(now) && self.burst_begun {
            self.flush();
        }
        let (payload, key, account) = &mut self.datagrams[n];
        let mut part = part_of(payload, start, len, control & 8 != 0);
        let scramble = control & 128 != 0 && part.start >= header_len;
        if scramble {
            part.bytes[0] ^= 0xff;
        }
        if part.is_sound() {
            if account.is_over(now) {
                *account = Account { began: now, ..Account::default() };
            }
            account.scrambled |= scramble;
            account.add(&part, header_len, now);
        }
        let id = 100 + u32::try_from(n).expect("few");
        let offset = u16::try_from(part.start).expect("a short datagram");
        let packet = PacketBuilder::ip(key.src(), key.dst(), key.protocol().number())
            .payload(&part.bytes)
            .fragment(id, offset, !part.last)
            .macs(Fixture::port_mac(OUTSIDE), Fixture::neighbor_mac(OUTSIDE, 2));
        self.rig.push(OUTSIDE, &packet.build());
        self.burst_begun = true;
    }

    /// Lets the worker come to rest, and looks at what left.
    fn flush(&mut self) {
        self.rig.settle();
        self.burst_begun = false;
        assert_eq!(self.rig.counts().imbalance(), 0, "{:?}", self.rig.counts());
        for (port, frame) in self.rig.all_sent() {
            let parsed = parse(&frame, frame.len()).expect("what is sent parses");
            self.look(port, &parsed, &frame);
        }
        for n in 0..REFUSED {
            self.check_whole(n);
        }
    }

    fn look(&mut self, port: PortId, parsed: &Parsed, frame: &[u8]) {
        let (id, start, last) = match parsed.fragment {
            Fragment::First { id } => (id, 0, false),
            Fragment::Later { id, offset, more } => (id, offset, !more),
            Fragment::Whole => return assert_refusal(port, parsed, self.datagrams[REFUSED].1),
        };
        let n = usize::try_from(id).expect("as sent") - 100;
        assert!(n != REFUSED && port == INSIDE && parsed.ttl == 63, "{parsed:?}");
        let Body::OtherIp { addrs, .. } = parsed.body else { return assert_eq!(n, DATAGRAMS, "{parsed:?}") };
        let ends = (addrs.src(), addrs.dst());
        assert_eq!(*self.to[n].get_or_insert(ends), ends, "one datagram, one receiver");
        let bytes = &frame[parsed.l4.into()..parsed.frame_end()];
        self.datagrams[n].2.leave(start.into(), last, bytes, PLAN[n].0.header_len());
    }

    /// A sound datagram has left whole, to a backend of its Service, with a right checksum.
    fn check_whole(&self, n: usize) {
        let (payload, key, account) = &self.datagrams[n];
        if !account.is_complete() || account.late || account.portless {
            return;
        }
        assert_eq!(account.left.len(), account.accepted.len(), "{n} is not whole: {account:?}");
        if account.scrambled || account.left.len() != payload.len() {
            return;
        }
        let (src, dst) = self.to[n].expect("it left");
        let bytes: Vec<u8> = account.left.values().copied().collect();
        let whole = PacketBuilder::ip(src, dst, key.protocol().number()).payload(&bytes).build();
        assert_valid_checksums(&whole);
        let arrived = flow_of(&whole);
        let pods = [["10.244.1.5", "10.244.2.5"], ["fd00:244:1::5", "fd00:244:2::5"]][self.family];
        assert!(pods.iter().any(|pod| pod.parse() == Ok(dst)), "{arrived:?}");
        assert_eq!(arrived.dport(), if n < 3 { 8_080 } else { key.dport() });
        let kept = (arrived.src(), arrived.sport()) == (key.src(), key.sport());
        assert_eq!(kept, n == 1 || n == 3, "the client's own address: {arrived:?}");
    }

    fn finish(mut self) {
        self.flush();
        self.rig.now = self.rig.now.plus(60_000);
        self.flush();
        assert_eq!(self.rig.counts().packets.held, 0, "{:?}", self.rig.counts());
    }
}

/// The IP payload of a datagram of the plan, its key, and an empty account.
fn datagram(n: usize, family: usize, len: usize) -> (Vec<u8>, AnyKey, Account) {
    let (protocol, ends) = PLAN[n];
    let (src, dst): (SocketAddr, SocketAddr) = (socket(ends[family].0), socket(ends[family].1));
    let key = AnyKey::new(src, dst, protocol).expect("one family");
    let content: Vec<u8> =
        (0..len - protocol.header_len()).map(|at| (at * 7 + at / 251).to_le_bytes()[0]).collect();
    let frame = PacketBuilder::flow(key).flags(TcpFlags::SYN).payload(&content).build();
    let l4 = parse(&frame, frame.len()).expect("a frame of ours").l4;
    (frame[l4.into()..].to_vec(), key, Account::default())
}

/// A part of the datagram: not the whole of it, which is no part.
fn part_of(payload: &[u8], start: usize, len: usize, lies: bool) -> Part {
    let start = start * 16 % (payload.len() - payload.len() % 8);
    let len = (8 * (1 + len / 2)).min(PART_MAX);
    let room = if start == 0 { payload.len() / 2 / 8 * 8 } else { payload.len() - start };
    let bytes = payload[start..start + len.min(room)].to_vec();
    let last = start > 0 && (start + bytes.len() == payload.len()) != lies;
    Part { start, bytes, last }
}

/// The only answer that there is: what no Service has is refused.
fn assert_refusal(port: PortId, parsed: &Parsed, refused: AnyKey) {
    let Body::Icmp(icmp) = parsed.body else { return assert_eq!(port, PortId(u16::MAX), "{parsed:?}") };
    assert_eq!((port, icmp.addrs.dst()), (OUTSIDE, refused.src()));
    assert_eq!(icmp.inner.map(|inner| inner.key), Some(refused));
}

/// Inputs where the fuzzer begins: every datagram in order, backwards, with a part twice, over another, late, and in two uses
/// of its name.
#[must_use]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for flags in 0..3 {
        for n in 0..DATAGRAMS {
            let n = u8::try_from(n).expect("few");
            // 304 bytes: three parts of 128, 128 and 48.
            let parts = [[n, 0, 31], [n, 8, 31], [n, 16, 31]];
            let [a, b, c] = parts;
            let twice = [a, a, b, b, c, c];
            let late = [b, [n | 2 << 5, 16, 31], [n | 2 << 5, 0, 31]];
            let over = [a, [n, 4, 31], c];
            let scrambled = [[n | 128, 8, 31], b, a, c];
            let two_ends = [c, [n | 8 | 16, 8, 31], a];
            let orders: [&[[u8; 3]]; 8] =
                [&parts, &[c, b, a], &twice, &late, &over, &scrambled, &two_ends, &[a, b, c, c, b, a]];
            for steps in orders {
                seeds.push([&[flags, 20, 20, 20, 20, 20][..], steps.as_flattened()].concat());
            }
        }
    }
    seeds
}
