//! Plain packets: whole, valid TCP and UDP over IPv4 without options or IPv6 without extension headers. Nearly all
//! traffic is, and the packet path knows it by half a cache line of words instead of the hundred bytes of a
//! [`Parsed`](crate::Parsed).

use crate::{
    Family, Protocol, TcpFlags,
    bytes::{be16, be32, be64, chunk, ne16, ne32, ne64, put},
    checksum::{fold, halves},
    ether, ipv4, ipv6, tcp,
};

/// The facts of a plain packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plain {
    /// Sender and receiver as big-endian words: IPv4 in the halves of the first, IPv6 in two each. Void words say nothing.
    pub addresses: [u64; 4],
    /// Both ports, the sender's in the upper half.
    pub ports: u32,
    /// Bytes of the IP packet.
    pub ip_len: u16,
    /// IPv4 TTL or IPv6 hop limit.
    pub ttl: u8,
    /// TCP flags; for UDP none.
    pub flags: TcpFlags,
    /// The IP version.
    pub family: Family,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The IPv4 header's checksum is right; so for IPv6, which has none, and where nobody asked.
    pub ip_checksum_right: bool,
    /// The sender seems to have left the transport checksum to hardware
    /// ([`is_unfinished`](crate::checksum::is_unfinished)); not where nobody asked.
    pub unfinished: bool,
}

/// The first word of an IPv4 header as the machine reads it: what counts for a plain packet, and what that must be:
/// version 4 with a header of 5 words, no more fragments and offset 0.
const V4_MASK: u64 = u64::from_ne_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
const V4_PLAIN: u64 = u64::from_ne_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);

impl Plain {
    /// What is known before a packet is read.
    pub const NOTHING: Self = Self {
        addresses: [0; 4],
        ports: 0,
        ip_len: 0,
        ttl: 0,
        flags: TcpFlags::NONE,
        family: Family::V4,
        protocol: Protocol::Tcp,
        ip_checksum_right: true,
        unfinished: false,
    };

    /// Reads the plain packet of an untagged frame of `frame_len` bytes that begins with `head`, and looks at its
    /// checksums if it is to `verify` them. `None`: it has none, and the facts say nothing.
    #[inline(always)]
    pub fn read_frame(&mut self, head: &[u8], frame_len: usize, verify: bool) -> Option<()> {
        let (eth, packet) = head.split_first_chunk()?;
        let room = frame_len.max(head.len()) - ether::HEADER_LEN;
        match ether::Header(eth).ether_type() {
            ether::IPV4 => self.read_v4(packet, room, verify),
            ether::IPV6 => self.read_v6_apart(packet, room, verify),
            _ => None,
        }
    }

    /// Reads the plain packet of this type at the start of `packet`; `room` bytes of the frame are left for it. `None`:
    /// it is none, and the facts say nothing.
    #[inline(always)]
    pub fn read(&mut self, ether_type: u16, packet: &[u8], room: usize) -> Option<()> {
        match ether_type {
            ether::IPV4 => self.read_v4(packet, room, true),
            ether::IPV6 => self.read_v6(packet, room, true),
            _ => None,
        }
    }

    #[inline(always)]
    fn read_v4(&mut self, packet: &[u8], room: usize, verify: bool) -> Option<()> {
        let ip: &[u8; ipv4::HEADER_LEN] = packet.first_chunk()?;
        if ne64(ip, 0) & V4_MASK != V4_PLAIN {
            return None;
        }
        let transport = Transport::read(ip[9], (packet, 20), be16(ip, 2), room)?;
        let ends = ne64(ip, 12);
        (self.ip_checksum_right, self.unfinished) = (true, false);
        if verify {
            // Words in the machine's order: a sum of 0xffff is that in either (RFC 1071 §2 B).
            let sum = halves([ends, 0]);
            let first = u64::from(ne32(ip, 0)) + u64::from(ne32(ip, 4)) + u64::from(ne32(ip, 8));
            self.ip_checksum_right = fold(first + sum) == 0xffff;
            self.unfinished = transport.is_unfinished(sum);
        }
        self.addresses[0] = u64::from_be(ends);
        (self.ttl, self.family) = (ip[8], Family::V4);
        self.take(transport);
        Some(())
    }

    /// Apart from the loop that reads IPv4, whose registers it would take.
    #[inline(never)]
    fn read_v6_apart(&mut self, packet: &[u8], room: usize, verify: bool) -> Option<()> {
        self.read_v6(packet, room, verify)
    }

    #[inline(always)]
    fn read_v6(&mut self, packet: &[u8], room: usize, verify: bool) -> Option<()> {
        let ip: &[u8; ipv6::HEADER_LEN] = packet.first_chunk()?;
        if ip[0] >> 4 != 6 {
            return None;
        }
        let ip_len = be16(ip, 4).checked_add(40)?;
        let transport = Transport::read(ip[6], (packet, 40), ip_len, room)?;
        self.addresses = [be64(ip, 8), be64(ip, 16), be64(ip, 24), be64(ip, 32)];
        (self.ip_checksum_right, self.unfinished) = (true, false);
        if verify {
            let [s0, s1, d0, d1] = self.addresses.map(u64::to_be);
            self.unfinished = transport.is_unfinished(halves([s0, s1]) + halves([d0, d1]));
        }
        (self.ttl, self.family) = (ip[7], Family::V6);
        self.take(transport);
        Some(())
    }

    #[inline(always)]
    fn take(&mut self, transport: Transport) {
        (self.ports, self.ip_len) = (transport.ports, transport.ip_len);
        (self.flags, self.protocol) = (transport.flags, transport.protocol);
    }

    /// Where the transport header begins in an untagged frame.
    #[inline]
    #[must_use]
    pub const fn l4(&self) -> u16 {
        match self.family {
            Family::V4 => 34,
            Family::V6 => 54,
        }
    }

    /// Where in the packet the transport checksum is.
    #[inline]
    pub(crate) const fn checksum_at(family: Family, protocol: Protocol) -> usize {
        let header = match family {
            Family::V4 => ipv4::HEADER_LEN,
            Family::V6 => ipv6::HEADER_LEN,
        };
        header + if matches!(protocol, Protocol::Udp) { 6 } else { 16 }
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
    fn read(protocol: u8, (packet, header_len): (&[u8], u16), ip_len: u16, room: usize) -> Option<Self> {
        let (at, len) = (usize::from(header_len), usize::from(ip_len));
        if len > room {
            return None;
        }
        match protocol {
            6 => {
                let header: &[u8; tcp::HEADER_LEN] = chunk(packet, at)?;
                let end = at + usize::from(header[12] >> 4) * 4;
                (end >= at + tcp::HEADER_LEN && end <= len && end <= packet.len()).then(|| Self {
                    ports: be32(header, 0),
                    ip_len,
                    flags: TcpFlags(header[13]),
                    protocol: Protocol::Tcp,
                    checksum: ne16(header, 16),
                    covered: ip_len.wrapping_sub(header_len).to_be(),
                })
            }
            17 => {
                let header: &[u8; 8] = chunk(packet, at)?;
                let covered = usize::from(be16(header, 4));
                (covered >= 8 && at + covered <= len).then(|| Self {
                    ports: be32(header, 0),
                    ip_len,
                    flags: TcpFlags::NONE,
                    protocol: Protocol::Udp,
                    checksum: ne16(header, 6),
                    covered: ne16(header, 4),
                })
            }
            _ => None,
        }
    }

    /// True if the checksum is the bare sum of the pseudo header, whose addresses sum up to this in the machine's order; 0
    /// says that there is no checksum.
    #[inline(always)]
    fn is_unfinished(self, addresses: u64) -> bool {
        let protocol = u16::from(self.protocol.number()).to_be();
        let pseudo = addresses + u64::from(protocol) + u64::from(self.covered);
        self.checksum != 0 && fold(pseudo) == self.checksum
    }
}

/// Both addresses of a plain packet, sender and receiver, in the words of one family.
pub trait Ends: Copy + Eq {
    /// Which family this is.
    const FAMILY: Family;

    /// The first words of a slice; `None` if it has too few.
    fn from_words(words: &[u64]) -> Option<Self>;
    /// Those of the packets that go the other way.
    #[must_use]
    fn reversed(self) -> Self;
    /// Writes them to where the IP header at `l3` of a proven chunk has them.
    fn write<const N: usize>(self, head: &mut [u8; N], l3: usize);
}

/// IPv4.
impl Ends for u64 {
    const FAMILY: Family = Family::V4;

    #[inline]
    fn from_words(words: &[u64]) -> Option<Self> {
        words.first().copied()
    }

    #[inline]
    fn reversed(self) -> Self {
        self.rotate_left(32)
    }

    #[inline(always)]
    fn write<const N: usize>(self, head: &mut [u8; N], l3: usize) {
        put(head, l3 + 12, self.to_be_bytes());
    }
}

/// IPv6.
impl Ends for [u64; 4] {
    const FAMILY: Family = Family::V6;

    #[inline]
    fn from_words(words: &[u64]) -> Option<Self> {
        words.first_chunk().copied()
    }

    #[inline]
    fn reversed(self) -> Self {
        let [s0, s1, d0, d1] = self;
        [d0, d1, s0, s1]
    }

    #[inline(always)]
    fn write<const N: usize>(self, head: &mut [u8; N], l3: usize) {
        for (at, word) in self.into_iter().enumerate() {
            put(head, l3 + 8 + 8 * at, word.to_be_bytes());
        }
    }
}
