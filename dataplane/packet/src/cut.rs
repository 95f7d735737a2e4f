//! Cutting an IPv4 packet, or a fragment of one, into fragments that fit a link (RFC 791 §3.2). IPv6 routers do not.

use crate::{AnyAddrs, Fragment, Parsed, bytes::put, checksum, ipv4};

/// In the flags and offset field: parts follow.
const MORE: u16 = 0x2000;
/// In the type of an option: every part has it.
const COPIED: u8 = 0x80;
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
/// Bytes of the longest header.
pub const HEADER_LEN_MAX: usize = 60;

/// How a packet is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    header_len: u16,
    payload_len: u16,
    /// Bytes of the payload that fit a part, a multiple of 8.
    room: u16,
    /// Where the payload lies in its datagram.
    offset: u16,
    /// Parts of the datagram follow the packet.
    more: bool,
}

/// One part of a packet: `len` bytes of its payload from `start` on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Bytes of the packet's payload before this part.
    pub start: u16,
    /// Bytes of it in this part.
    pub len: u16,
    /// The last one of the packet.
    pub last: bool,
}

/// The header of a part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartHeader {
    bytes: [u8; HEADER_LEN_MAX],
    len: u16,
}

impl PartHeader {
    /// Its bytes, checksum and all.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }
}

impl Cut {
    /// How to cut a packet for a link that takes IP packets of `mtu` bytes; `None` if it may not be cut, or no payload
    /// would fit, or it reaches beyond what a datagram has.
    #[must_use]
    pub fn new(parsed: &Parsed, mtu: u16) -> Option<Self> {
        let AnyAddrs::V4 { .. } = parsed.addrs()? else { return None };
        let header_len = parsed.l4.checked_sub(parsed.l3)?;
        let room = mtu.checked_sub(header_len)? & !7;
        let (offset, more) = match parsed.fragment {
            Fragment::Whole => (0, false),
            Fragment::First { .. } => (0, true),
            Fragment::Later { offset, more, .. } => (offset, more),
        };
        let payload_len = parsed.ip_len.checked_sub(header_len)?;
        offset.checked_add(payload_len)?;
        let may = !parsed.dont_fragment && room > 0 && usize::from(header_len) <= HEADER_LEN_MAX;
        may.then_some(Self { header_len, payload_len, room, offset, more })
    }

    /// Bytes of the IP packet that a part becomes.
    #[must_use]
    pub const fn len_of(self, part: Part) -> u16 {
        self.header_len + part.len
    }

    /// The parts, in order.
    pub fn parts(self) -> impl Iterator<Item = Part> {
        (0..self.payload_len).step_by(self.room.into()).map(move |start| {
            let rest = self.payload_len - start;
            Part { start, len: rest.min(self.room), last: rest <= self.room }
        })
    }

    /// The header of a part, after that of the packet, which begins with `header`. Options that only the first part of a
    /// datagram may have give way to such as do nothing, as in Linux.
    #[must_use]
    pub fn header(self, header: &[u8], part: Part) -> Option<PartHeader> {
        let mut bytes = [0; HEADER_LEN_MAX];
        let own = bytes.get_mut(..self.header_len.into())?;
        own.copy_from_slice(header.get(..self.header_len.into())?);
        let offset = self.offset + part.start;
        if offset > 0 {
            clear_options(own.get_mut(ipv4::HEADER_LEN..)?);
        }
        let more = if part.last && !self.more { 0 } else { MORE };
        let fixed: &mut [u8; ipv4::HEADER_LEN] = own.first_chunk_mut()?;
        put(fixed, 2, self.len_of(part).to_be_bytes());
        put(fixed, 6, ((offset / 8) | more).to_be_bytes());
        put(fixed, 10, [0, 0]);
        let sum = checksum::ipv4_header(own);
        put(own.first_chunk_mut::<{ ipv4::HEADER_LEN }>()?, 10, sum.to_be_bytes());
        Some(PartHeader { bytes, len: self.header_len })
    }
}

/// Blots out the options that only the first part may have; malformed ones are left as they are.
fn clear_options(options: &mut [u8]) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match (kind, options.get(at + 1)) {
            (OPTION_END, _) => return,
            (OPTION_NOTHING, _) => 1,
            (_, Some(&len)) if len >= 2 => usize::from(len),
            _ => return,
        };
        let Some(option) = options.get_mut(at..at + len) else { return };
        if kind & COPIED == 0 {
            option.fill(OPTION_NOTHING);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse, testkit::PacketBuilder};

    const RECORD_ROUTE: [u8; 3] = [7, 3, 4];
    const SECURITY: [u8; 4] = [130, 4, 1, 2];

    fn datagram(len: usize, mtu: u16, part_of: Option<(u16, bool)>) -> (Vec<u8>, Parsed, Option<Cut>) {
        let payload: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let options = [&RECORD_ROUTE[..], &SECURITY, &[0]].concat();
        let mut builder =
            PacketBuilder::udp("192.0.2.2:9", "10.0.0.1:53").payload(&payload).ip_options(&options);
        if let Some((offset, more)) = part_of {
            builder = builder.fragment(77, offset, more);
        }
        let frame = builder.build();
        let parsed = parse(&frame, frame.len()).unwrap();
        (frame, parsed, Cut::new(&parsed, mtu))
    }

    #[test]
    fn the_parts_fit_and_make_up_the_packet_again() {
        for (len, mtu, part_of) in [
            (1_400, 576, None),
            (1_400, 1_399, None),
            (100, 68, None),
            (1_400, 700, Some((0, true))),
            (1_400, 700, Some((2_960, true))),
            (1_400, 700, Some((2_960, false))),
        ] {
            let (frame, parsed, cut) = datagram(len, mtu, part_of);
            let (cut, mut whole) = (cut.unwrap(), Vec::new());
            let parts: Vec<Part> = cut.parts().collect();
            assert!(parts.len() > 1);
            for part in parts {
                let header = cut.header(&frame[parsed.l3.into()..], part).unwrap();
                let start = usize::from(parsed.l4 + part.start);
                let payload = &frame[start..start + usize::from(part.len)];
                let made = [&frame[..14], header.as_bytes(), payload].concat();
                let facts = parse(&made, made.len()).unwrap();
                assert!(facts.ip_checksum_right && facts.ip_len <= mtu && facts.ip_len == cut.len_of(part));
                let (base, more_follow) = part_of.unwrap_or((0, false));
                let more = !part.last || more_follow;
                let id = if part_of.is_some() { 77 } else { 0x1234 };
                let want = match base + part.start {
                    0 => Fragment::First { id },
                    offset => Fragment::Later { id, offset, more },
                };
                assert_eq!(facts.fragment, want);
                let options = &header.as_bytes()[20..];
                let first: &[u8] = if base + part.start == 0 { &RECORD_ROUTE } else { &[OPTION_NOTHING; 3] };
                assert_eq!(options, [first, &SECURITY, &[0]].concat());
                whole.extend_from_slice(payload);
            }
            assert_eq!(whole, frame[parsed.l4.into()..]);
        }
    }

    #[test]
    fn what_may_not_be_cut_is_not() {
        let (_, parsed, cut) = datagram(1_400, 700, None);
        assert!(cut.is_some());
        assert_eq!(Cut::new(&Parsed { dont_fragment: true, ..parsed }, 700), None);
        assert_eq!(Cut::new(&parsed, 35), None, "no payload fits");
        let v6 = PacketBuilder::udp("[2001:db8::1]:9", "[2001:db8::2]:53").payload(&[0; 900]).build();
        assert_eq!(Cut::new(&parse(&v6, v6.len()).unwrap(), 700), None);
        let beyond = Fragment::Later { id: 1, offset: 65_528, more: false };
        assert_eq!(Cut::new(&Parsed { fragment: beyond, ..parsed }, 700), None, "more than a datagram has");
        let arp = Parsed { body: crate::Body::OtherEther(7), ..parsed };
        assert_eq!(Cut::new(&arp, 700), None);
    }

    #[test]
    fn malformed_options_end_the_walk() {
        for options in [&[7u8, 0, 4, 4][..], &[7, 200, 4, 4], &[7], &[130, 1, 7, 3], &[]] {
            let mut cleared = options.to_vec();
            clear_options(&mut cleared);
            assert_eq!(cleared, options);
        }
        let mut cleared = [1, 7, 3, 4, 0, 7, 3, 4];
        clear_options(&mut cleared);
        assert_eq!(cleared, [1, 1, 1, 1, 0, 7, 3, 4], "nothing counts behind the end");
    }
}
