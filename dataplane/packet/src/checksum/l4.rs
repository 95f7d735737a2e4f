//! The transport checksum of a parsed packet: is it right, was it left unfinished, what should it be.

use super::{Sum, fold};
use crate::{
    Address, AnyAddrs, AnyKey, Body, FlowKey, Parsed, Protocol,
    bytes::{be16, chunk},
    crc32c,
};

/// A checksum and where in the frame it is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field {
    at: usize,
    value: Value,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Value {
    Sum(u16),
    Crc(u32),
}

impl Field {
    /// Writes the checksum into the frame it was made for; false, and nothing written, if the frame is too short.
    pub fn store(self, head: &mut [u8]) -> bool {
        let place = head.get_mut(self.at..).unwrap_or_default();
        match self.value {
            Value::Sum(value) => place.first_chunk_mut().map(|bytes| *bytes = value.to_be_bytes()).is_some(),
            // RFC 9260 appendix A: the CRC travels lowest byte first.
            Value::Crc(value) => place.first_chunk_mut().map(|bytes| *bytes = value.to_le_bytes()).is_some(),
        }
    }
}

/// What of a packet its transport checksum covers.
struct Cover {
    kind: Kind,
    /// Where the checksum is in the frame.
    at: usize,
    /// Bytes covered from the transport header on.
    len: u16,
    /// Sum of the pseudo header.
    pseudo: Sum,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Sum,
    /// 0 says that there is no checksum (IPv4), and 0xffff stands for a sum of 0.
    Udp,
    Crc,
}

/// The checksum that `parsed` should carry, from every byte of the packet; the stored one does not count.
///
/// `segments` are those of the frame that was parsed, the first one its head. `None` for what carries no transport
/// checksum that we know (ARP, fragments, foreign protocols), and if the segments end before the packet does.
pub fn of_packet<'a>(parsed: &Parsed, segments: impl IntoIterator<Item = &'a [u8]>) -> Option<Field> {
    let mut segments = segments.into_iter();
    let head = segments.next()?;
    let cover = cover(parsed, head)?;
    let range = Range { start: usize::from(parsed.l4), len: cover.len.into() };
    let all = std::iter::once(head).chain(segments);
    let value = match cover.kind {
        Kind::Crc => Value::Crc(crc(range, cover.at, all)?),
        kind => {
            let mut sum = cover.pseudo;
            range.walk(all, |bytes| sum.add(bytes))?;
            // Taking the stored checksum out again equals summing it as 0.
            let stored = be16(chunk::<2>(head, cover.at)?, 0);
            let checksum = !fold(u64::from(sum.folded()) + u64::from(!stored));
            Value::Sum(if kind == Kind::Udp && checksum == 0 { 0xffff } else { checksum })
        }
    };
    Some(Field { at: cover.at, value })
}

/// True if the transport checksum of a packet is right, or the packet carries none that we know.
///
/// UDP over IPv4 may go without (RFC 768); over IPv6 it may not (RFC 8200 §8.1).
pub fn is_right<'a>(parsed: &Parsed, segments: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut segments = segments.into_iter().peekable();
    let Some(&head) = segments.peek() else { return false };
    let Some(cover) = cover(parsed, head) else { return true };
    let Some(Field { value, at }) = of_packet(parsed, segments) else { return false };
    match value {
        Value::Crc(crc) => chunk::<4>(head, at).is_some_and(|stored| *stored == crc.to_le_bytes()),
        Value::Sum(sum) => {
            let stored = chunk::<2>(head, at).map_or(0, |bytes| be16(bytes, 0));
            if stored == 0 && cover.kind == Kind::Udp {
                return matches!(parsed.addrs(), Some(AnyAddrs::V4 { .. }));
            }
            // The two zeros of ones' complement are one value to a receiver.
            stored == sum || (stored == 0 && sum == 0xffff) || (stored == 0xffff && sum == 0)
        }
    }
}

/// True if the sender left the transport checksum to hardware that never saw the packet.
///
/// Linux stores the folded sum of the pseudo header (`CHECKSUM_PARTIAL`), and 0 for SCTP. A finished checksum looks
/// like that once in 65,536 packets; finishing it again changes nothing then.
#[inline]
#[must_use]
pub fn is_unfinished(parsed: &Parsed, head: &[u8]) -> bool {
    match &parsed.body {
        Body::Flow { key: AnyKey::V4(key), .. } => is_key_unfinished(key, parsed, head),
        Body::Flow { key: AnyKey::V6(key), .. } => is_key_unfinished(key, parsed, head),
        _ => false,
    }
}

#[inline]
fn is_key_unfinished<A: Address>(key: &FlowKey<A>, parsed: &Parsed, head: &[u8]) -> bool {
    let at = usize::from(parsed.l4);
    let (stored, len) = match key.protocol {
        Protocol::Tcp => (chunk::<18>(head, at).map_or(0, |tcp| be16(tcp, 16)), parsed.l4_len()),
        Protocol::Udp => chunk::<8>(head, at).map_or((0, 0), |udp| (be16(udp, 6), be16(udp, 4))),
        Protocol::Sctp => return chunk::<12>(head, at).is_some_and(|sctp| sctp[8..] == [0; 4]),
    };
    // 0 says that there is no checksum.
    stored != 0 && stored == Sum::pseudo_of(key.src, key.dst, key.protocol.number(), len).folded()
}

fn cover(parsed: &Parsed, head: &[u8]) -> Option<Cover> {
    let (l4, len) = (usize::from(parsed.l4), parsed.l4_len());
    let v6 = |addrs| Cover { kind: Kind::Sum, at: l4 + 2, len, pseudo: Sum::pseudo(addrs, 58, len) };
    match parsed.body {
        Body::Flow { key, .. } => {
            let (kind, offset, len) = match key.protocol() {
                Protocol::Tcp => (Kind::Sum, 16, len),
                Protocol::Udp => (Kind::Udp, 6, be16(chunk::<2>(head, l4 + 4)?, 0)),
                Protocol::Sctp => (Kind::Crc, 8, len),
            };
            let pseudo = Sum::pseudo(key.addrs(), key.protocol().number(), len);
            Some(Cover { kind, at: l4 + offset, len, pseudo })
        }
        Body::Icmp(icmp) => match icmp.addrs {
            AnyAddrs::V4 { .. } => Some(Cover { kind: Kind::Sum, at: l4 + 2, len, pseudo: Sum::new() }),
            AnyAddrs::V6 { .. } => Some(v6(icmp.addrs)),
        },
        Body::Nd(nd) => Some(v6(AnyAddrs::V6 { src: nd.src, dst: nd.dst })),
        Body::Arp(_) | Body::OtherEther(_) | Body::OtherIp { .. } => None,
    }
}

/// CRC32c of the range, its checksum field counted as 0 (RFC 9260 §6.8).
fn crc<'a>(range: Range, at: usize, segments: impl Iterator<Item = &'a [u8]>) -> Option<u32> {
    let mut segments = segments;
    let head = segments.next()?;
    let before = head.get(range.start..at)?;
    let mut crc = crc32c::update(crc32c::update(crc32c::START, before), &[0; 4]);
    let rest = Range { start: at + 4, len: range.len.checked_sub(at + 4 - range.start)? };
    rest.walk(std::iter::once(head).chain(segments), |bytes| crc = crc32c::update(crc, bytes))?;
    Some(crc32c::finish(crc))
}

/// Bytes of a frame.
#[derive(Clone, Copy)]
struct Range {
    start: usize,
    len: usize,
}

impl Range {
    /// Visits the range over the segments; nothing if they end before it does.
    fn walk<'a>(
        self,
        segments: impl Iterator<Item = &'a [u8]>,
        mut visit: impl FnMut(&'a [u8]),
    ) -> Option<()> {
        let (mut skip, mut left) = (self.start, self.len);
        for segment in segments {
            let here = segment.get(skip.min(segment.len())..)?;
            skip -= skip.min(segment.len());
            let here = here.get(..left.min(here.len()))?;
            visit(here);
            left -= here.len();
            if left == 0 {
                return Some(());
            }
        }
        (left == 0).then_some(())
    }
}
