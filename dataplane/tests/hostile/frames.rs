//! What is sent: valid frames of every kind, answers to what the appliance sent, and what can be made of both.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, target::seeds};
use packet::{
    AnyKey, Body, Fragment, Parsed, Protocol, TcpFlags, VlanTag, checksum, first_fragment, parse,
    testkit::PacketBuilder,
};
use tables::PortId;

use crate::trunk::{CLIENT, CLIENTS, CLIENTS_VLAN, STORE, STORES_VLAN, longest, tagged};

/// xorshift64: the same frames at every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Frames the appliance sent of late, and what is answered to them.
const ECHOES: usize = 64;

pub(crate) struct Frames {
    pub(crate) random: Random,
    seeds: Vec<(PortId, Vec<u8>)>,
    echoes: Vec<(PortId, Vec<u8>)>,
    next_echo: usize,
}

impl Frames {
    pub(crate) fn new(seed: u64) -> Self {
        let port = |control: u8| if control & 1 == 0 { OUTSIDE } else { INSIDE };
        let mut seeds: Vec<_> = seeds().iter().map(|seed| (port(seed[0]), seed[3..].to_vec())).collect();
        for (port, frame) in &mut seeds {
            let last = if *port == OUTSIDE { 2 } else { 11 };
            if parse(frame, frame.len()).is_ok_and(|parsed| parsed.addrs().is_some()) {
                packet::ether::set_macs(frame, Fixture::port_mac(*port), Fixture::neighbor_mac(*port, last));
            }
        }
        let others: Vec<_> = seeds.iter().filter_map(|(port, frame)| behind_a_tag(*port, frame)).collect();
        seeds.extend(others);
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            seeds,
            echoes: Vec::new(),
            next_echo: 0,
        }
    }

    /// Takes note of what the appliance sent.
    pub(crate) fn sent(&mut self, port: PortId, frame: &[u8]) {
        let entry = (port, frame.to_vec());
        if self.echoes.len() < ECHOES {
            self.echoes.push(entry);
        } else {
            self.echoes[self.next_echo] = entry;
            self.next_echo = (self.next_echo + 1) % ECHOES;
        }
    }

    /// A frame, and the port it comes to. With `sound`, every checksum in it is right.
    pub(crate) fn next(&mut self, sound: bool) -> (PortId, Vec<u8>) {
        let (port, mut frame) = self.valid();
        if !self.random.one_in(4) {
            for _ in 0..=self.random.below(3) {
                self.mutate(&mut frame);
            }
        }
        if sound {
            mend(&mut frame);
        }
        frame.truncate(longest(&frame));
        (port, frame)
    }

    fn valid(&mut self) -> (PortId, Vec<u8>) {
        if !self.echoes.is_empty() && self.random.one_in(2) {
            let (port, frame) = self.echoes[self.random.below(self.echoes.len())].clone();
            if let Some(answer) = self.answer(port, &frame) {
                return (port, answer);
            }
        }
        let at = self.random.below(self.seeds.len());
        let (port, mut frame) = self.seeds[at].clone();
        self.vary(&mut frame);
        (port, frame)
    }

    /// Another client, other content.
    fn vary(&mut self, frame: &mut [u8]) {
        let Ok(parsed) = parse(frame, frame.len()) else { return };
        let (l4, end) = (usize::from(parsed.l4), frame.len());
        if let (Body::Flow { key, .. }, true) = (parsed.body, self.random.one_in(2)) {
            let client = u16::try_from(4_000 + self.random.below(64)).expect("a port");
            frame[l4..l4 + 2].copy_from_slice(&client.to_be_bytes());
            let content = l4 + key.protocol().header_len();
            let number = if key.protocol() == Protocol::Tcp { l4 + 4..l4 + 8 } else { content..content + 4 };
            if number.end <= end {
                frame[number].iter_mut().for_each(|byte| *byte = self.random.byte());
            }
        }
        mend(frame);
    }

    /// What the receiver of a frame may say to it: the packet turned round, or an error about it.
    fn answer(&mut self, port: PortId, frame: &[u8]) -> Option<Vec<u8>> {
        let parsed = parse(frame, frame.len()).ok()?;
        let addrs = parsed.addrs()?;
        let macs = (parsed.src_mac, parsed.dst_mac);
        if self.random.one_in(4) {
            let quoted = &frame[parsed.l3.into()..frame.len().min(600)];
            let rest = [&[0, 0][..], &1_300_u16.to_be_bytes(), quoted].concat();
            let (kind, code) = match addrs {
                packet::AnyAddrs::V4 { .. } => self.random.pick(&[(3, 3), (3, 4), (11, 0), (12, 0), (5, 1)]),
                packet::AnyAddrs::V6 { .. } => self.random.pick(&[(1, 4), (2, 0), (3, 0), (4, 1), (137, 0)]),
            };
            let from = if self.random.one_in(2) { addrs.dst() } else { router(addrs.dst()) };
            let error = PacketBuilder::icmp(from, addrs.src(), kind, code, &rest);
            return Some(
                parsed.vlan.into_iter().fold(error, PacketBuilder::vlan).macs(macs.0, macs.1).build(),
            );
        }
        let key = with_ports(&parsed, frame)?.1.reversed();
        let flags = self.random.pick(&[0x12, 0x10, 0x18, 0x11, 0x14, 0x04, 0x02]);
        let content: Vec<u8> = (0..8 + self.random.below(64)).map(|_| self.random.byte()).collect();
        let seq = u32::from(self.random.byte());
        let packet = PacketBuilder::flow(key).macs(macs.0, macs.1).payload(&content);
        let packet = packet.flags(TcpFlags(flags)).numbers(seq, seq + 1);
        debug_assert!(port == OUTSIDE || port == INSIDE);
        Some(parsed.vlan.into_iter().fold(packet, PacketBuilder::vlan).build())
    }

    /// Changes something that means something, or any byte.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        let Ok(parsed) = parse(frame, frame.len()) else { return self.mutate_byte(frame) };
        let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
        match self.random.below(12) {
            0 => self.mutate_byte(frame),
            1 => frame.truncate(14 + self.random.below(frame.len() - 13)),
            2 => frame.extend_from_slice(&[0; 40]),
            3 => {
                *frame = tagged(
                    frame,
                    VlanTag(self.random.pick(&[0, 0x2000, 1, 0x6000 | CLIENTS_VLAN, STORES_VLAN, 4_095])),
                )
            }
            4 if l4 > 0 => self.cut(frame, &parsed),
            5 if parsed.addrs().is_some() => self.swap_address(frame, &parsed),
            6 if l4 > 0 && l4 + 4 <= frame.len() => {
                let at = l4 + 2 * self.random.below(2);
                let port = self.random.pick(&[0_u16, 22, 53, 80, 81, 179, 4_000, 8_080, 30_000, 65_535]);
                frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
            }
            7 if l4 + 14 <= frame.len() && l4 > 0 => {
                frame[l4 + 13 - self.random.below(2)] = self.random.byte()
            }
            8 if l4 > 0 => {
                let at = if frame[l3] >> 4 == 4 { l3 + 8 } else { l3 + 7 };
                frame[at] = self.random.pick(&[0, 1, 2, 64, 255]);
            }
            9 if l4 > 0 => {
                let at = if frame[l3] >> 4 == 4 { l3 + 9 } else { l3 + 6 };
                frame[at] = self.random.pick(&[0, 1, 6, 17, 43, 44, 50, 58, 60, 132]);
            }
            10 if l4 > 0 => {
                let at = if frame[l3] >> 4 == 4 { l3 + 2 } else { l3 + 4 };
                let len = u16::try_from(self.random.below(1_600)).expect("short");
                frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
            }
            _ => {
                let grown = 1_200 + self.random.below(320);
                lengthen(frame, &parsed, grown);
            }
        }
    }

    fn mutate_byte(&mut self, frame: &mut [u8]) {
        // Mostly in the headers, where bytes mean something.
        let within = if self.random.one_in(4) { frame.len() } else { frame.len().min(80) };
        let at = self.random.below(within);
        frame[at] = match self.random.below(3) {
            0 => frame[at] ^ 1 << self.random.below(8),
            1 => 0xff,
            _ => self.random.byte(),
        };
    }

    /// Makes it a fragment, of IPv4.
    fn cut(&mut self, frame: &mut [u8], parsed: &Parsed) {
        let l3 = usize::from(parsed.l3);
        if frame[l3] >> 4 == 4 {
            let offset = u16::try_from(self.random.pick(&[0, 0, 1, 3, 185, 8_191])).expect("13 bits");
            let more = u16::from(self.random.one_in(2)) << 13;
            frame[l3 + 5] = self.random.byte() & 7;
            frame[l3 + 6..l3 + 8].copy_from_slice(&(offset | more).to_be_bytes());
        }
    }

    fn swap_address(&mut self, frame: &mut [u8], parsed: &Parsed) {
        let l3 = usize::from(parsed.l3);
        let second = self.random.below(2);
        if frame[l3] >> 4 == 4 {
            let address = self.random.pick(&ADDRESSES_V4);
            frame[l3 + 12 + 4 * second..][..4].copy_from_slice(&address);
        } else if frame.len() >= l3 + 40 {
            let address: std::net::Ipv6Addr = self.random.pick(&ADDRESSES_V6).parse().expect("an address");
            frame[l3 + 8 + 16 * second..][..16].copy_from_slice(&address.octets());
        }
    }
}

const ADDRESSES_V4: [[u8; 4]; 15] = [
    [198, 51, 100, 2],
    [198, 51, 100, 77],
    [10, 2, 0, 11],
    [192, 0, 2, 2],
    [192, 0, 2, 77],
    [8, 8, 8, 8],
    [203, 0, 113, 10],
    [10, 96, 0, 10],
    [10, 96, 0, 99],
    [10, 244, 1, 5],
    [10, 0, 0, 1],
    [10, 0, 0, 11],
    [127, 0, 0, 1],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
];

const ADDRESSES_V6: [&str; 12] = [
    "2001:db8:64::2",
    "fd00:2::11",
    "2001:db8:1::2",
    "2001:db8:8::8",
    "2001:db8:f::10",
    "fd00:96::10",
    "fd00:96::99",
    "fd00:244:1::5",
    "fd00::1",
    "::1",
    "ff02::1",
    "fe80::1",
];

/// The frame of a client as one in the VLAN outside sends it, and that to a pod as it goes to the VLAN inside.
fn behind_a_tag(port: PortId, frame: &[u8]) -> Option<(PortId, Vec<u8>)> {
    if port != OUTSIDE {
        return None;
    }
    let (plain, other) = (["192.0.2.2", "2001:db8:1::2"], ["10.244.1.5", "fd00:244:1::5"]);
    let mut frame = frame.to_vec();
    let moved = plain.iter().zip(CLIENT).chain(other.iter().zip(STORE));
    let found = moved.filter(|(from, to)| replace(&mut frame, from, to)).count();
    packet::ether::set_macs(&mut frame, Fixture::port_mac(OUTSIDE), Fixture::neighbor_mac(CLIENTS, 2));
    mend(&mut frame);
    (found > 0).then(|| (OUTSIDE, tagged(&frame, VlanTag(CLIENTS_VLAN))))
}

/// Puts another address at every place of an address.
fn replace(frame: &mut [u8], from: &str, to: &str) -> bool {
    let bytes = |text: &str| match text.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (from, to) = (bytes(from), bytes(to));
    let places: Vec<_> = frame.windows(from.len()).enumerate().filter(|(_, at)| *at == from).collect();
    let places: Vec<usize> = places.into_iter().map(|(at, _)| at).collect();
    places.iter().for_each(|at| frame[*at..*at + to.len()].copy_from_slice(&to));
    !places.is_empty()
}

/// Somebody on the way to an address.
fn router(beyond: std::net::IpAddr) -> std::net::IpAddr {
    if beyond.is_ipv4() { [198, 18, 0, 1].into() } else { "2001:db8:ffff::1".parse().expect("an address") }
}

/// The facts and ports of a whole packet, or of a first fragment.
pub(crate) fn with_ports(parsed: &Parsed, frame: &[u8]) -> Option<(Parsed, AnyKey)> {
    match parsed.fragment {
        Fragment::Whole => parsed.key().map(|key| (*parsed, key)),
        _ => first_fragment(frame, parsed).map(|(key, flags)| (parsed.as_whole(key, flags), key)),
    }
}

/// Gives an IP packet this length, with what fits of its content.
fn lengthen(frame: &mut Vec<u8>, parsed: &Parsed, len: usize) {
    let l3 = usize::from(parsed.l3);
    if parsed.l4 == 0 || len < usize::from(parsed.ip_len) {
        return;
    }
    frame.truncate(parsed.frame_end());
    frame.resize(l3 + len, 0x5a);
    let grown = u16::try_from(len).expect("short");
    let (at, value) = if frame[l3] >> 4 == 4 { (l3 + 2, grown) } else { (l3 + 4, grown.saturating_sub(40)) };
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    if parsed.key().is_some_and(|key| key.protocol() == Protocol::Udp) {
        let l4 = usize::from(parsed.l4);
        frame[l4 + 4..l4 + 6].copy_from_slice(&(grown - (parsed.l4 - parsed.l3)).to_be_bytes());
    }
}

/// Makes every checksum right, as far as the packet can be understood.
fn mend(frame: &mut [u8]) {
    let ether_type = frame.get(12..14).map(|bytes| [bytes[0], bytes[1]]);
    let l3 = if ether_type == Some([0x81, 0]) { 18 } else { 14 };
    if let Some(header) = frame.get_mut(l3..).filter(|ip| ip.len() >= 20 && ip[0] >> 4 == 4) {
        let len = (usize::from(header[0] & 15) * 4).clamp(20, header.len());
        header[10..12].fill(0);
        let sum = checksum::ipv4_header(&header[..len]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(parsed) = parse(frame, frame.len()) else { return };
    if let Some(field) = checksum::of_packet(&parsed, [&*frame]) {
        field.store(frame);
    }
}
