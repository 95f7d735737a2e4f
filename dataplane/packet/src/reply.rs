//! Frames that the packet path answers with, or says on its own: bytes in, bytes out.
//!
//! A function that takes `out` writes a whole frame there and returns its length, or nothing if there is nothing to say
//! or `out` is too short ([`LEN_MAX`] always suffices). The VLAN tag of the question is kept. Checksums are finished.
//! Not here: when to answer, and how often (RFC 1812 §4.3.2.8 wants ICMP errors limited; the caller does that).

mod arp;
mod icmp;
mod nd;
mod rst;

pub use arp::{arp_reply, arp_request, gratuitous_arp};
pub use icmp::{IcmpError, Sender, echo_reply, icmp_error, may_be_answered};
pub use nd::{neighbor_advertisement, neighbor_solicitation, unsolicited_advertisement};
pub use rst::tcp_reset;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{MacAddr, VlanTag, checksum, ether};

/// Bytes that suffice for every frame made here: a tagged header and the minimum MTU of IPv6.
pub const LEN_MAX: usize = 18 + 1280;
/// Bytes below which an Ethernet frame is padded, its check sequence not counted.
const FRAME_LEN_MIN: usize = 60;
/// TTL and hop limit of what is made here (the default of RFC 1700 and of Linux).
const TTL: u8 = 64;

/// Appends to a buffer; every step fails once the buffer is full.
struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

/// The Ethernet part of a frame.
#[derive(Clone, Copy)]
struct Link {
    dst: MacAddr,
    src: MacAddr,
    vlan: Option<VlanTag>,
}

impl<'a> Writer<'a> {
    /// Begins a frame.
    fn frame(out: &'a mut [u8], link: Link, ether_type: u16) -> Option<Self> {
        let mut writer = Self { out, len: 0 };
        writer.put(&link.dst.0)?;
        writer.put(&link.src.0)?;
        if let Some(tag) = link.vlan {
            writer.put(&ether::VLAN.to_be_bytes())?;
            writer.put(&tag.0.to_be_bytes())?;
        }
        writer.put(&ether_type.to_be_bytes())?;
        Some(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }

    /// An IPv4 header with DF and no identification (RFC 6864 §4.1), before `payload_len` bytes.
    fn ipv4(&mut self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload_len: usize) -> Option<()> {
        let len = u16::try_from(payload_len + 20).ok()?;
        let ([a, b], [c, d, e, f], [g, h, i, j]) = (len.to_be_bytes(), src.octets(), dst.octets());
        let mut header = [0x45, 0, a, b, 0, 0, 0x40, 0, TTL, protocol, 0, 0, c, d, e, f, g, h, i, j];
        let [k, l] = checksum::ipv4_header(&header).to_be_bytes();
        (header[10], header[11]) = (k, l);
        self.put(&header)
    }

    /// An IPv6 header before `payload_len` bytes.
    fn ipv6(&mut self, src: Ipv6Addr, dst: Ipv6Addr, next: (u8, u8), payload_len: usize) -> Option<()> {
        let (protocol, hop_limit) = next;
        let [a, b] = u16::try_from(payload_len).ok()?.to_be_bytes();
        self.put(&[0x60, 0, 0, 0, a, b, protocol, hop_limit])?;
        self.put(&src.octets())?;
        self.put(&dst.octets())
    }

    /// Stores a 16-bit value behind what was written.
    fn patch(&mut self, at: usize, value: u16) -> Option<()> {
        *self.out.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
        Some(())
    }

    /// What was written from `at` on.
    fn since(&self, at: usize) -> &[u8] {
        self.out.get(at..self.len).unwrap_or_default()
    }

    /// Pads to the shortest Ethernet frame, and gives the length.
    fn finish(mut self) -> Option<usize> {
        let missing = FRAME_LEN_MIN.saturating_sub(self.len);
        self.put([0; FRAME_LEN_MIN].get(..missing)?)?;
        Some(self.len)
    }
}
