//! The maximum segment size that a TCP handshake offers (RFC 9293 §3.7.1), made smaller where a path is known to be narrow.

use crate::{
    Body, Parsed, Protocol,
    bytes::{be16, chunk, chunk_mut, put},
    checksum::{Delta, is_unfinished},
    tcp,
};

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
/// Options that are looked at: of 40 bytes the shortest has one.
const OPTIONS_MAX: usize = 40;

/// Lowers the segment size that a SYN offers to `mss`, and patches the checksum unless that is left to hardware; false,
/// and nothing changed, if there is no such offer or it is small enough.
pub fn clamp_mss(head: &mut [u8], parsed: &Parsed, mss: u16) -> bool {
    let Some(at) = offer(head, parsed) else { return false };
    let unfinished = is_unfinished(parsed, head);
    let Some(bytes) = chunk_mut::<2>(head, at) else { return false };
    let old = be16(bytes, 0);
    if old <= mss {
        return false;
    }
    *bytes = mss.to_be_bytes();
    if !unfinished && let Some(bytes) = chunk_mut::<2>(head, usize::from(parsed.l4) + 16) {
        let even = (at - usize::from(parsed.l4)) % 2 == 0;
        // At an odd place the two bytes belong to two words of the sum, in the other order (RFC 1071 §2 B).
        let (old, new) = if even { (old, mss) } else { (old.swap_bytes(), mss.swap_bytes()) };
        let sum = Delta::of_u16(old, new).apply(be16(bytes, 0));
        put(bytes, 0, sum.to_be_bytes());
    }
    true
}

/// Where the offer of a SYN is in the frame.
fn offer(head: &[u8], parsed: &Parsed) -> Option<usize> {
    let Body::Flow { key, tcp_flags } = parsed.body else { return None };
    if key.protocol() != Protocol::Tcp || !tcp_flags.syn() {
        return None;
    }
    let l4 = usize::from(parsed.l4);
    let end = l4 + usize::from(tcp::Header(chunk(head, l4)?).header_len());
    let mut at = l4 + tcp::HEADER_LEN;
    for _ in 0..OPTIONS_MAX {
        let option: &[u8; 2] = chunk(head.get(..end)?, at)?;
        match option {
            [END, _] => return None,
            [NOTHING, _] => at += 1,
            [MSS, 4] => return (at + 4 <= end).then_some(at + 2),
            // A length below 2 would stand still.
            [_, len] => at += usize::from(*len).max(2),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        TcpFlags, parse,
        testkit::{PacketBuilder, assert_valid_checksums},
    };

    const OFFER: [u8; 4] = [2, 4, 0x05, 0xb4];

    fn syn(options: &[u8]) -> PacketBuilder {
        PacketBuilder::tcp("10.0.0.1:1", "10.0.0.2:2").flags(TcpFlags::SYN).tcp_options(options)
    }

    fn clamped(packet: &PacketBuilder, mss: u16) -> Option<Vec<u8>> {
        let mut frame = packet.build();
        let parsed = parse(&frame, frame.len()).expect("valid");
        clamp_mss(&mut frame, &parsed, mss).then_some(frame)
    }

    #[test]
    fn an_offer_is_lowered_wherever_it_stands() {
        for (name, options, want) in [
            ("alone", &OFFER[..], Some(&[2, 4, 0x05, 0x50][..])),
            ("at an odd place", &[1, 2, 4, 0x05, 0xb4, 1, 1, 1], Some(&[1, 2, 4, 0x05, 0x50, 1, 1, 1])),
            ("behind another", &[3, 3, 7, 1, 2, 4, 0x05, 0xb4], Some(&[3, 3, 7, 1, 2, 4, 0x05, 0x50])),
            ("small enough", &[2, 4, 0x05, 0x50], None),
            ("behind the end", &[0, 0, 0, 0, 2, 4, 0x05, 0xb4], None),
            ("cut off", &[1, 1, 2, 4], None),
            ("of another length", &[2, 3, 0x05, 0xb4], None),
            ("behind a length of 0", &[9, 0, 2, 4, 0x05, 0xb4, 1, 1], Some(&[9, 0, 2, 4, 0x05, 0x50, 1, 1])),
            ("none", &[], None),
        ] {
            let packet = syn(options).payload(b"data");
            let want = want.map(|options| syn(options).payload(b"data").build());
            assert_eq!(clamped(&packet, 0x0550), want, "{name}");
            assert_eq!(clamped(&packet.flags(TcpFlags::ACK), 0x0550), None, "{name}: no SYN");
        }
    }

    #[test]
    fn a_checksum_that_is_left_to_hardware_stays_so() {
        let frame = clamped(&syn(&OFFER).unfinished_checksum(), 1_000).expect("lowered");
        assert!(is_unfinished(&parse(&frame, frame.len()).expect("valid"), &frame));
    }

    proptest! {
        #[test]
        fn any_options_leave_the_checksum_right(words in vec(any::<[u8; 4]>(), 0..10), mss: u16) {
            let packet = syn(&words.concat());
            if let Some(frame) = clamped(&packet, mss) {
                assert_valid_checksums(&frame);
            }
        }
    }
}
