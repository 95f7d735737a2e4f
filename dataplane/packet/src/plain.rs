//! Plain packets: whole, valid TCP and UDP over IPv4 without options or IPv6 without extension headers. Nearly all
//! traffic is, and the packet path knows it by a few words instead of the hundred bytes of a [`Parsed`](crate::Parsed).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    AnyKey, Family, FlowKey, Protocol, TcpFlags,
    bytes::{be16, be32, be64, chunk, ne16, ne32, ne64, put},
    checksum::{fold, sum},
    ether, ipv4, ipv6, tcp,
};

/// The kinds of plain packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// TCP over IPv4.
    V4Tcp,
    /// UDP over IPv4.
    V4Udp,
    /// TCP over IPv6.
    V6Tcp,
    /// UDP over IPv6.
    V6Udp,
}

/// The facts of a plain packet of one family, whose addresses are `E`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plain<E> {
    /// Sender and receiver.
    pub ends: E,
    /// Both ports, the sender's in the upper half.
    pub ports: u32,
    /// Bytes of the IP packet.
    pub ip_len: u16,
    /// IPv4 TTL or IPv6 hop limit.
    pub ttl: u8,
    /// TCP flags; for UDP none.
    pub flags: TcpFlags,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The IPv4 header's checksum is right; so for IPv6, which has none, and where nobody asked.
    pub ip_checksum_right: bool,
    /// The sender seems to have left the transport checksum to hardware
    /// ([`is_unfinished`](crate::checksum::is_unfinished)); not where nobody asked.
    pub unfinished: bool,
}

/// Bytes at the start of an untagged frame with a plain IPv4 packet, by which the packet path knows it: the headers, of
/// TCP without options.
pub(crate) const V4_START: usize = 54;
/// The same for IPv6.
pub(crate) const V6_START: usize = 74;
/// First byte of a plain IPv4 packet: version 4, a header of 5 words.
pub(crate) const V4_BEGIN: u8 = 0x45;
/// The bits of its fragment field, as the machine reads it, that are not set where no fragments follow and the offset is 0.
pub(crate) const V4_FRAGMENT: u16 = u16::from_ne_bytes([0x3f, 0xff]);

impl Shape {
    /// TCP or UDP.
    #[inline]
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::V4Tcp | Self::V6Tcp => Protocol::Tcp,
            Self::V4Udp | Self::V6Udp => Protocol::Udp,
        }
    }
}

impl<E: Ends> Plain<E> {
    /// Which kind it is of.
    #[inline(always)]
    #[must_use]
    pub const fn shape(&self) -> Shape {
        match (E::FAMILY, self.protocol) {
            (Family::V4, Protocol::Udp) => Shape::V4Udp,
            (Family::V4, _) => Shape::V4Tcp,
            (Family::V6, Protocol::Udp) => Shape::V6Udp,
            (Family::V6, _) => Shape::V6Tcp,
        }
    }

    /// Bytes of the IP header.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> u16 {
        match E::FAMILY {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// Where the transport header begins in an untagged frame.
    #[inline]
    #[must_use]
    pub const fn l4(&self) -> u16 {
        14 + self.header_len()
    }

    /// Reads the plain packet of an untagged frame of `frame_len` bytes that begins with `head`, and looks at its
    /// checksums if it is to `verify` them. `None`: it has none of this family, or so few bytes at hand that it is no
    /// matter for haste.
    #[inline(always)]
    #[must_use]
    pub fn of_frame(head: &[u8], frame_len: usize, verify: bool) -> Option<Self> {
        let room = (frame_len.checked_sub(ether::HEADER_LEN)?, verify);
        match E::FAMILY {
            Family::V4 => Self::of_start::<V4_START>(head, ether::IPV4, room),
            Family::V6 => Self::of_start::<V6_START>(head, ether::IPV6, room),
        }
    }

    #[inline(always)]
    fn of_start<const N: usize>(head: &[u8], ether_type: u16, room: (usize, bool)) -> Option<Self> {
        let start: &[u8; N] = head.first_chunk()?;
        // With the length known at this place, none is asked for in the packet.
        if ne16(start, 12) != ether_type.to_be() {
            return None;
        }
        Self::of_packet(&head[ether::HEADER_LEN..], room)
    }

    /// The facts of a frame that is known to have a plain packet of this family and protocol, once more, but for its
    /// checksums. `None`: it had another head then.
    #[inline(always)]
    #[must_use]
    pub fn again(head: &[u8], protocol: Protocol) -> Option<Self> {
        match E::FAMILY {
            Family::V4 => head.first_chunk::<V4_START>().map(|start| Self::known(start, protocol)),
            Family::V6 => head.first_chunk::<V6_START>().map(|start| Self::known(start, protocol)),
        }
    }

    #[inline(always)]
    fn known<const N: usize>(start: &[u8; N], protocol: Protocol) -> Self {
        let l3 = ether::HEADER_LEN;
        let (l4, ip_len, ttl) = match E::FAMILY {
            Family::V4 => (l3 + ipv4::HEADER_LEN, be16(start, l3 + 2), start[l3 + 8]),
            Family::V6 => (l3 + ipv6::HEADER_LEN, be16(start, l3 + 4).wrapping_add(40), start[l3 + 7]),
        };
        Self {
            ends: E::read(start, l3),
            ports: be32(start, l4),
            ip_len,
            ttl,
            flags: if protocol == Protocol::Tcp { TcpFlags(start[l4 + 13]) } else { TcpFlags::NONE },
            protocol,
            ip_checksum_right: true,
            unfinished: false,
        }
    }

    /// Reads the plain packet of this family at the start of `packet`; `room` bytes of the frame are left for it, and its
    /// checksums are looked at if it is to `verify` them. `None`: it is none.
    #[inline(always)]
    pub(crate) fn of_packet(packet: &[u8], (room, verify): (usize, bool)) -> Option<Self> {
        match E::FAMILY {
            Family::V4 => Self::of_v4(packet, room, verify),
            Family::V6 => Self::of_v6(packet, room, verify),
        }
    }

    #[inline(always)]
    fn of_v4(packet: &[u8], room: usize, verify: bool) -> Option<Self> {
        let ip: &[u8; ipv4::HEADER_LEN] = packet.first_chunk()?;
        let ip_len = be16(ip, 2);
        if ip[0] != V4_BEGIN || ne16(ip, 6) & V4_FRAGMENT != 0 || usize::from(ip_len) > room {
            return None;
        }
        let transport = Transport::read(ip[9], (packet, 20), ip_len)?;
        let (mut ip_checksum_right, mut unfinished) = (true, false);
        if verify {
            // Words in the machine's order: a sum of 0xffff is that in either (RFC 1071 §2 B).
            let ends = ne64(ip, 12);
            ip_checksum_right = fold(sum(ne64(ip, 0), sum(ne32(ip, 8).into(), ends))) == 0xffff;
            unfinished = transport.is_unfinished(ends);
        }
        let plain = transport.plain(E::read(ip, 0), ip[8]);
        Some(Self { ip_checksum_right, unfinished, ..plain })
    }

    #[inline(always)]
    fn of_v6(packet: &[u8], room: usize, verify: bool) -> Option<Self> {
        let ip: &[u8; ipv6::HEADER_LEN] = packet.first_chunk()?;
        let ip_len = be16(ip, 4).checked_add(40)?;
        if ip[0] >> 4 != 6 || usize::from(ip_len) > room {
            return None;
        }
        let transport = Transport::read(ip[6], (packet, 40), ip_len)?;
        let addresses = || sum(sum(ne64(ip, 8), ne64(ip, 16)), sum(ne64(ip, 24), ne64(ip, 32)));
        let unfinished = verify && transport.is_unfinished(addresses());
        Some(Self { unfinished, ..transport.plain(E::read(ip, 0), ip[7]) })
    }
}

/// What a transport header tells.
#[derive(Clone, Copy)]
struct Transport {
    ports: u32,
    ip_len: u16,
    flags: TcpFlags,
    protocol: Protocol,
    /// As stored, in the machine's order.
    checksum: u16,
    /// Bytes that the checksum covers; big-endian, read in the machine's order.
    covered: u16,
}

impl Transport {
    /// The header behind the IP header of that length that begins `packet`: all of it valid and at hand, or nothing.
    #[inline(always)]
    fn read(protocol: u8, (packet, at): (&[u8], u16), ip_len: u16) -> Option<Self> {
        match protocol {
            6 => Self::tcp(chunk(packet, at.into())?, (at, ip_len), packet.len()),
            17 => Self::udp(chunk(packet, at.into())?, (at, ip_len)),
            _ => None,
        }
    }

    /// TCP at `at` of a packet of `ip_len` bytes, of which so many are at hand.
    #[inline(always)]
    fn tcp(header: &[u8; tcp::HEADER_LEN], (at, ip_len): (u16, u16), at_hand: usize) -> Option<Self> {
        let len = u16::from(header[12] >> 4) * 4;
        if usize::from(len) < tcp::HEADER_LEN || at + len > ip_len || usize::from(at + len) > at_hand {
            return None;
        }
        Some(Self {
            ports: be32(header, 0),
            ip_len,
            flags: TcpFlags(header[13]),
            protocol: Protocol::Tcp,
            checksum: ne16(header, 16),
            covered: ip_len.wrapping_sub(at).to_be(),
        })
    }

    /// UDP at `at` of a packet of `ip_len` bytes.
    #[inline(always)]
    fn udp(header: &[u8; 8], (at, ip_len): (u16, u16)) -> Option<Self> {
        let covered = be16(header, 4);
        if covered < 8 || usize::from(at) + usize::from(covered) > usize::from(ip_len) {
            return None;
        }
        Some(Self {
            ports: be32(header, 0),
            ip_len,
            flags: TcpFlags::NONE,
            protocol: Protocol::Udp,
            checksum: ne16(header, 6),
            covered: covered.to_be(),
        })
    }

    /// The facts of its packet.
    #[inline(always)]
    const fn plain<E>(self, ends: E, ttl: u8) -> Plain<E> {
        let Self { ports, ip_len, flags, protocol, .. } = self;
        Plain { ends, ports, ip_len, ttl, flags, protocol, ip_checksum_right: true, unfinished: false }
    }

    /// True if the checksum is the bare sum of the pseudo header, whose addresses sum up to this in the machine's order; 0
    /// says that there is no checksum.
    #[inline(always)]
    fn is_unfinished(self, addresses: u64) -> bool {
        let protocol = u16::from(self.protocol.number()).to_be();
        let pseudo = sum(addresses, u64::from(protocol) + u64::from(self.covered));
        self.checksum != 0 && fold(pseudo) == self.checksum
    }
}

/// Both addresses of a plain packet as big-endian words, sender and receiver: IPv4 in the halves of one, IPv6 in two each.
pub trait Ends: Copy + Eq {
    /// Which family this is.
    const FAMILY: Family;

    /// The first words of a slice; `None` if it has too few.
    fn from_words(words: &[u64]) -> Option<Self>;
    /// The words: one, or four.
    fn words(&self) -> &[u64];
    /// Those of the packets that go the other way.
    #[must_use]
    fn reversed(self) -> Self;
    /// Reads them where the IP header at `l3` of a proven chunk has them.
    fn read<const N: usize>(head: &[u8; N], l3: usize) -> Self;
    /// Writes them there.
    fn write<const N: usize>(self, head: &mut [u8; N], l3: usize);
    /// With the protocol and both ports, the sender's in the upper half: the key of the packet's flow.
    fn key(self, protocol: Protocol, ports: u32) -> AnyKey;
}

/// IPv4.
impl Ends for u64 {
    const FAMILY: Family = Family::V4;

    #[inline]
    fn from_words(words: &[u64]) -> Option<Self> {
        words.first().copied()
    }

    #[inline(always)]
    fn words(&self) -> &[u64] {
        std::slice::from_ref(self)
    }

    #[inline]
    fn reversed(self) -> Self {
        self.rotate_left(32)
    }

    #[inline(always)]
    fn read<const N: usize>(head: &[u8; N], l3: usize) -> Self {
        be64(head, l3 + 12)
    }

    #[inline(always)]
    fn write<const N: usize>(self, head: &mut [u8; N], l3: usize) {
        put(head, l3 + 12, self.to_be_bytes());
    }

    #[inline(always)]
    fn key(self, protocol: Protocol, ports: u32) -> AnyKey {
        let [a, b, c, d, e, f, g, h] = self.to_be_bytes();
        let (sport, dport) = halves(ports);
        let (src, dst) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
        AnyKey::V4(FlowKey { src, dst, sport, dport, protocol })
    }
}

/// IPv6.
impl Ends for [u64; 4] {
    const FAMILY: Family = Family::V6;

    #[inline]
    fn from_words(words: &[u64]) -> Option<Self> {
        words.first_chunk().copied()
    }

    #[inline(always)]
    fn words(&self) -> &[u64] {
        self
    }

    #[inline]
    fn reversed(self) -> Self {
        let [s0, s1, d0, d1] = self;
        [d0, d1, s0, s1]
    }

    #[inline(always)]
    fn read<const N: usize>(head: &[u8; N], l3: usize) -> Self {
        [be64(head, l3 + 8), be64(head, l3 + 16), be64(head, l3 + 24), be64(head, l3 + 32)]
    }

    #[inline(always)]
    fn write<const N: usize>(self, head: &mut [u8; N], l3: usize) {
        for (at, word) in self.into_iter().enumerate() {
            put(head, l3 + 8 + 8 * at, word.to_be_bytes());
        }
    }

    #[inline(always)]
    fn key(self, protocol: Protocol, ports: u32) -> AnyKey {
        let [s0, s1, d0, d1] = self;
        let (sport, dport) = halves(ports);
        let address = |high, low| Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        AnyKey::V6(FlowKey { src: address(s0, s1), dst: address(d0, d1), sport, dport, protocol })
    }
}

/// Both ports of a word.
#[inline(always)]
const fn halves(ports: u32) -> (u16, u16) {
    let [s0, s1, d0, d1] = ports.to_be_bytes();
    (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
}
