//! The transport header in a first fragment, which the parse leaves alone: what is behind it is not the whole payload.

use super::ip::key;
use crate::{
    AnyKey, Body, Fragment, Parsed, Protocol, TcpFlags,
    bytes::{be16, chunk},
    sctp, tcp,
};

/// What a first fragment tells of its datagram: its 5-tuple, and flags as [`Body::Flow`] has them. `None` if it is no first
/// fragment of a protocol with ports, or its transport header is not all in it, and at hand: such a fragment hides what
/// filters look at (RFC 1858 §3, RFC 7112 §5).
#[must_use]
pub fn first_fragment(head: &[u8], parsed: &Parsed) -> Option<(AnyKey, TcpFlags)> {
    let (Fragment::First { .. }, Body::OtherIp { addrs, protocol }) = (parsed.fragment, parsed.body) else {
        return None;
    };
    let payload = payload(head, parsed)?;
    let protocol = Protocol::try_from(protocol).ok()?;
    let mut tcp_flags = TcpFlags::NONE;
    match protocol {
        Protocol::Tcp => {
            let tcp = tcp::Header(chunk(payload, 0)?);
            let len = usize::from(tcp.header_len());
            if len < tcp::HEADER_LEN || len > payload.len() {
                return None;
            }
            tcp_flags = tcp.flags();
        }
        Protocol::Udp => {
            if be16(chunk::<8>(payload, 0)?, 4) < 8 {
                return None;
            }
        }
        Protocol::Sctp => {
            let header: &[u8; sctp::HEADER_LEN] = chunk(payload, 0)?;
            tcp_flags = sctp::flags(sctp::Header(header).tag(), payload.get(header.len()..)?);
        }
    }
    let ports: &[u8; 4] = chunk(payload, 0)?;
    Some((key(addrs, ports, protocol), tcp_flags))
}

/// What the head holds of the IP payload.
fn payload<'a>(head: &'a [u8], parsed: &Parsed) -> Option<&'a [u8]> {
    head.get(parsed.l4.into()..parsed.frame_end().min(head.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse, testkit::PacketBuilder};

    fn of(packet: &PacketBuilder, keep: usize) -> Option<Body> {
        let mut frame = packet.clone().fragment(9, 0, true).build();
        let l4 = usize::from(parse(&frame, frame.len()).expect("valid").l4);
        // The IP length follows, so that the fragment really ends there.
        let ip_len = u16::try_from(l4 + keep - 14).expect("short");
        let (at, len) = if frame[14] >> 4 == 4 { (16, ip_len) } else { (18, ip_len - 40) };
        frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
        frame.truncate(l4 + keep);
        let parsed = parse(&frame, frame.len()).expect("valid");
        first_fragment(&frame, &parsed).map(|(key, tcp_flags)| Body::Flow { key, tcp_flags })
    }

    #[test]
    fn a_first_fragment_tells_its_flow_if_its_transport_header_is_whole() {
        for (src, dst) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fe80::1]:1", "[fe80::2]:2")] {
            for (packet, header) in [
                (PacketBuilder::tcp(src, dst).flags(TcpFlags::SYN).tcp_options(&[1; 12]), 32),
                (PacketBuilder::udp(src, dst), 8),
                (PacketBuilder::sctp(src, dst), 12),
            ] {
                let whole = packet.clone().build();
                let want = parse(&whole, whole.len()).expect("valid");
                let packet = packet.payload(&[0; 64]);
                for keep in 0..48 {
                    let found = of(&packet, keep);
                    assert_eq!(found, (keep >= header).then_some(want.body), "{keep}");
                }
            }
        }
    }

    #[test]
    fn nothing_else_is_a_first_fragment_with_ports() {
        let udp = PacketBuilder::udp("10.0.0.1:1", "10.0.0.2:2").payload(&[0; 64]);
        let gre = PacketBuilder::ip([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 47).payload(&[0; 64]);
        for packet in [udp.clone(), udp.fragment(9, 64, true), gre.fragment(9, 0, true)] {
            let frame = packet.build();
            let parsed = parse(&frame, frame.len()).expect("valid");
            assert_eq!(first_fragment(&frame, &parsed), None);
        }
    }
}
