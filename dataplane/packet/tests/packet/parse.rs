//! What the parser finds, and what it refuses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{
    AnyAddrs, Arp, ArpOperation, Body, Fragment, Icmp, MacAddr, NdKind, ParseError, Parsed, Protocol,
    TcpFlags, VlanTag, parse, testkit::PacketBuilder,
};
use proptest::prelude::*;

use crate::strategy::{dress, key};

const CLIENT: &str = "203.0.113.2:40000";
const VIP: &str = "192.0.2.10:80";
const CLIENT6: &str = "[2001:db8::2]:40000";
const VIP6: &str = "[2001:db8:1::10]:80";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn whole(frame: &[u8]) -> Result<Parsed, ParseError> {
    parse(frame, frame.len())
}

/// A frame with one byte changed.
fn with(frame: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = byte;
    frame
}

#[test]
fn malformed_frames_are_refused_with_their_own_reason() {
    let tcp = PacketBuilder::tcp(CLIENT, VIP).build();
    let udp = PacketBuilder::udp(CLIENT, VIP).payload(b"0123").build();
    let tcp6 = PacketBuilder::tcp(CLIENT6, VIP6).build();
    let arp =
        PacketBuilder::arp_request(MacAddr([2; 6]), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2))
            .build();
    let ns = PacketBuilder::neighbor_solicitation(
        MacAddr([2; 6]),
        "fe80::1".parse().unwrap(),
        "fe80::2".parse().unwrap(),
    );
    let mut nine = PacketBuilder::tcp(CLIENT6, VIP6);
    let mut long = PacketBuilder::tcp(CLIENT6, VIP6);
    for _ in 0..9 {
        nine = nine.extension(60, &[0; 6]);
    }
    for _ in 0..2 {
        long = long.extension(60, &[0; 6 + 8 * 16]);
    }
    let cases = [
        ("nothing", vec![], ParseError::Truncated),
        ("13 bytes", tcp[..13].to_vec(), ParseError::Truncated),
        ("IPv4 header cut", tcp[..33].to_vec(), ParseError::Truncated),
        ("packet cut", tcp[..53].to_vec(), ParseError::Truncated),
        ("tag cut", with(&with(&tcp[..16], 12, 0x81), 13, 0), ParseError::Truncated),
        ("version 6 under 0x0800", with(&tcp, 14, 0x65), ParseError::BadIpVersion),
        ("IHL of four words", with(&tcp, 14, 0x44), ParseError::BadIpv4HeaderLen),
        ("IHL past the total length", with(&tcp, 14, 0x4f), ParseError::BadIpv4HeaderLen),
        ("total length below the header", with(&tcp, 17, 19), ParseError::BadIpv4HeaderLen),
        ("total length past the frame", with(&tcp, 17, 41), ParseError::Truncated),
        ("TCP in 19 bytes", with(&tcp, 17, 39), ParseError::ShortL4),
        ("data offset of four words", with(&tcp, 46, 0x40), ParseError::BadTcpOffset),
        ("data offset past the segment", with(&tcp, 46, 0x60), ParseError::BadTcpOffset),
        ("UDP length of 7", with(&udp, 39, 7), ParseError::BadUdpLength),
        ("UDP length past the packet", with(&udp, 39, 13), ParseError::BadUdpLength),
        ("version 4 under 0x86dd", with(&tcp6, 14, 0x45), ParseError::BadIpVersion),
        ("IPv6 payload past the frame", with(&tcp6, 19, 21), ParseError::Truncated),
        ("nine extension headers", nine.build(), ParseError::ExtensionHeaders),
        ("272 bytes of extension headers", long.build(), ParseError::ExtensionHeaders),
        ("extension past the packet", with(&tcp6, 20, 60), ParseError::Truncated),
        ("802.1ad", with(&with(&tcp, 12, 0x88), 13, 0xa8), ParseError::StackedVlan),
        (
            "two 802.1Q tags",
            PacketBuilder::ether(0x8100).vlan(VlanTag(1)).payload(&[0; 50]).build(),
            ParseError::StackedVlan,
        ),
        ("ARP for another hardware", with(&arp, 15, 6), ParseError::BadArp),
        ("ARP operation 3", with(&arp, 21, 3), ParseError::BadArp),
        ("ARP cut", arp[..41].to_vec(), ParseError::Truncated),
        ("solicitation from another link", ns.clone().ttl(254).build(), ParseError::BadNd),
        ("solicitation with code 1", with(&ns.build(), 55, 1), ParseError::BadNd),
        ("option without length", with(&ns.build(), 79, 0), ParseError::BadNd),
        ("solicitation in an atomic fragment", ns.clone().extension(44, &[0; 6]).build(), ParseError::BadNd),
        ("solicitation for a group", with(&ns.build(), 62, 0xff), ParseError::BadNd),
    ];
    for (name, frame, want) in cases {
        assert_eq!(whole(&frame), Err(want), "{name}");
    }
}

#[test]
fn headers_outside_the_head_are_told_from_a_short_frame() {
    for (packet, headers) in [(PacketBuilder::tcp(CLIENT, VIP), 54), (PacketBuilder::tcp(CLIENT6, VIP6), 74)]
    {
        let frame = packet.payload(&[7; 100]).build();
        assert_eq!(parse(&frame[..headers], frame.len()), whole(&frame));
        for cut in 14..headers {
            assert_eq!(parse(&frame[..cut], frame.len()), Err(ParseError::SplitHeader), "{cut}");
            assert!(matches!(parse(&frame[..cut], cut), Err(ParseError::Truncated)), "{cut}");
        }
    }
}

#[test]
fn fragments_never_yield_ports() {
    for (src, dst) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        let packet = PacketBuilder::udp(src, dst).payload(&[0; 64]);
        let first = whole(&packet.clone().fragment(77, 0, true).build()).expect("valid");
        let later = whole(&packet.clone().fragment(77, 1480, false).build()).expect("valid");
        let middle = whole(&packet.clone().fragment(77, 80, true).build()).expect("valid");
        assert_eq!(first.fragment, Fragment::First { id: 77 });
        assert_eq!(later.fragment, Fragment::Later { id: 77, offset: 1480, more: false });
        assert_eq!(middle.fragment, Fragment::Later { id: 77, offset: 80, more: true });
        for part in [first, later, middle] {
            assert_eq!(part.key(), None);
            assert!(matches!(part.body, Body::OtherIp { protocol: 17, .. }));
        }
    }
    let atomic = whole(&PacketBuilder::udp(CLIENT6, VIP6).fragment(77, 0, false).build()).expect("valid");
    assert_eq!(atomic.fragment, Fragment::Whole);
    assert!(atomic.key().is_some(), "RFC 6946");
}

#[test]
fn an_icmp_error_yields_the_tuple_it_quotes() {
    let cases = [
        (CLIENT, VIP, "198.51.100.1", vec![(3, 3), (3, 4), (4, 0), (5, 0), (11, 0), (12, 0)]),
        (CLIENT6, VIP6, "2001:db8::99", vec![(1, 4), (2, 0), (3, 0), (4, 0)]),
    ];
    for (src, dst, router, kinds) in cases {
        for protocol in
            [PacketBuilder::tcp(src, dst), PacketBuilder::udp(src, dst), PacketBuilder::sctp(src, dst)]
        {
            let quoted = protocol.build();
            let key = whole(&quoted).expect("valid").key();
            for (kind, code) in &kinds {
                let rest = [&[0; 4][..], &quoted[14..]].concat();
                let frame =
                    PacketBuilder::icmp(ip(router), key.expect("a flow").src(), *kind, *code, &rest).build();
                let Body::Icmp(icmp) = whole(&frame).expect("valid").body else { panic!("not ICMP") };
                let inner = icmp.inner.expect("quoted");
                assert_eq!(Some(inner.key), key);
                assert!(icmp.is_error());
                assert_eq!(
                    frame[usize::from(inner.l4)..][..4],
                    quoted[usize::from(inner.l4 - inner.l3) + 14..][..4]
                );
            }
        }
    }
}

#[test]
fn an_icmp_error_that_quotes_no_ports_yields_none() {
    let packet = PacketBuilder::udp(CLIENT, VIP).payload(&[0; 64]);
    let later = packet.clone().fragment(7, 80, true).build();
    let cut = packet.build()[..14 + 20 + 7].to_vec();
    let ping = PacketBuilder::ping(ip("10.0.0.1"), ip("10.0.0.2"), 1, 1, &[0; 20]).build();
    for quoted in [later, cut, ping, vec![0; 14]] {
        let rest = [&[0; 4][..], &quoted[14..]].concat();
        let frame =
            PacketBuilder::icmp(ip("198.51.100.1"), ip("203.0.113.2"), 3, 3, &rest).pad_to(60).build();
        let Body::Icmp(Icmp { inner, .. }) = whole(&frame).expect("valid").body else { panic!("not ICMP") };
        assert_eq!(inner, None);
    }
}

#[test]
fn echo_arp_and_neighbour_discovery_are_recognised() {
    let ping =
        whole(&PacketBuilder::ping(ip("10.0.0.1"), ip("10.0.0.2"), 1, 2, b"data").build()).expect("valid");
    let Body::Icmp(icmp) = ping.body else { panic!("not ICMP") };
    assert!(icmp.is_echo_request() && !icmp.is_error() && !icmp.is_echo_reply());
    let ping =
        whole(&PacketBuilder::ping(ip("fe80::1"), ip("fe80::2"), 1, 2, b"data").build()).expect("valid");
    let Body::Icmp(icmp) = ping.body else { panic!("not ICMP") };
    assert!(icmp.is_echo_request() && !icmp.is_error());

    let (mac, a, b) = (MacAddr([2, 0, 0, 0, 0, 9]), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let arp =
        whole(&PacketBuilder::arp_request(mac, a, b).vlan(VlanTag(7)).pad_to(60).build()).expect("valid");
    let operation = ArpOperation::Request;
    let want = Arp { operation, sender_mac: mac, sender_ip: a, target_mac: MacAddr::ZERO, target_ip: b };
    assert_eq!((arp.body, arp.l3, arp.l4), (Body::Arp(want), 18, 0));

    let (src, target): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse().unwrap(), "2001:db8::7".parse().unwrap());
    let frame = PacketBuilder::neighbor_solicitation(mac, src, target).build();
    let Body::Nd(nd) = whole(&frame).expect("valid").body else { panic!("not ND") };
    assert_eq!((nd.kind, nd.target, nd.link_layer), (NdKind::NeighborSolicitation, target, Some(mac)));
    let probe = PacketBuilder::neighbor_solicitation(mac, Ipv6Addr::UNSPECIFIED, target).build();
    let Body::Nd(nd) = whole(&probe).expect("valid").body else { panic!("not ND") };
    assert_eq!((nd.link_layer, nd.src), (None, Ipv6Addr::UNSPECIFIED));

    for (kind, rest, want) in [
        (133, vec![0; 4], NdKind::RouterSolicitation),
        (134, vec![0; 12], NdKind::RouterAdvertisement),
        (
            136,
            [&[0x60, 0, 0, 0][..], &target.octets(), &[2, 1, 2, 0, 0, 0, 0, 9]].concat(),
            NdKind::NeighborAdvertisement,
        ),
    ] {
        let frame = PacketBuilder::icmp(src.into(), target.into(), kind, 0, &rest).ttl(255).build();
        let Body::Nd(nd) = whole(&frame).expect("valid").body else { panic!("not ND") };
        assert_eq!(nd.kind, want);
        assert_eq!(
            (nd.solicited, nd.overrides, nd.link_layer.is_some()),
            (kind == 136, kind == 136, kind == 136)
        );
    }
}

#[test]
fn the_rest_is_named_not_guessed() {
    let gre = PacketBuilder::ip(ip("10.0.0.1"), ip("10.0.0.2"), 47).payload(&[0; 40]).build();
    let addrs = AnyAddrs::V4 { src: Ipv4Addr::new(10, 0, 0, 1), dst: Ipv4Addr::new(10, 0, 0, 2) };
    assert_eq!(whole(&gre).expect("valid").body, Body::OtherIp { addrs, protocol: 47 });
    let lldp = PacketBuilder::ether(0x88cc).payload(&[0; 46]).build();
    assert_eq!(whole(&lldp).expect("valid").body, Body::OtherEther(0x88cc));
    // The final receiver of a packet with segments left is not the address in its header.
    let routed = PacketBuilder::tcp(CLIENT6, VIP6).extension(43, &[4, 1, 0, 0, 0, 0]).build();
    assert!(matches!(whole(&routed).expect("valid").body, Body::OtherIp { protocol: 43, .. }));
    // Hop-by-hop options anywhere but first are no header that anybody has to know.
    let late = PacketBuilder::tcp(CLIENT6, VIP6).extension(60, &[0; 6]).extension(0, &[0; 6]).build();
    assert!(matches!(whole(&late).expect("valid").body, Body::OtherIp { protocol: 0, .. }));
    let arrived = PacketBuilder::tcp(CLIENT6, VIP6).extension(43, &[4, 0, 0, 0, 0, 0]).build();
    assert!(whole(&arrived).expect("valid").key().is_some());
}

proptest! {
    #[test]
    fn what_was_built_is_found(key in key(), dress in dress()) {
        let frame = dress.on(PacketBuilder::flow(key)).build();
        let parsed = whole(&frame).expect("a valid frame");
        let flags = match key.protocol() {
            Protocol::Tcp => TcpFlags(dress.flags),
            Protocol::Udp => TcpFlags::NONE,
            Protocol::Sctp => {
                let chunks = &frame[usize::from(parsed.l4) + 12..parsed.frame_end()];
                packet::sctp::flags(if chunks.first() == Some(&1) { 0 } else { 7 }, chunks)
            }
        };
        prop_assert_eq!(parsed.body, Body::Flow { key, tcp_flags: flags });
        prop_assert_eq!(parsed.ttl, dress.ttl);
        prop_assert_eq!(parsed.vlan, dress.vlan.map(VlanTag));
        prop_assert_eq!(parsed.l3, if dress.vlan.is_some() { 18 } else { 14 });
        prop_assert_eq!(&frame[parsed.l4.into()..][..2], &key.sport().to_be_bytes());
        prop_assert_eq!(parsed.frame_end(), frame.len().min(parsed.frame_end()));
    }

    /// The straight line for plain IPv4 and the general way agree: a priority tag sends the same packet the other way.
    #[test]
    fn the_fast_way_and_the_general_way_agree(
        key in key(), dress in dress(), garble in any::<prop::sample::Index>(), byte: u8,
    ) {
        let mut plain = dress.on(PacketBuilder::flow(key)).build();
        if dress.vlan.is_some() {
            plain.drain(12..16);
        }
        let at = 14 + garble.index(plain.len() - 14);
        plain[at] = byte;
        let tagged = [&plain[..12], &[0x81, 0, 0, 0], &plain[12..]].concat();
        let (plain, tagged) = (whole(&plain), whole(&tagged));
        prop_assert_eq!(plain.is_ok(), tagged.is_ok());
        if let (Ok(plain), Ok(tagged)) = (plain, tagged) {
            let shifted = |parsed: Parsed| (parsed.ip_len, parsed.ttl, parsed.fragment, parsed.l4_len(), parsed.key());
            prop_assert_eq!(shifted(plain), shifted(tagged));
        } else {
            prop_assert_eq!(plain.err(), tagged.err());
        }
    }

    #[test]
    fn an_independent_parser_agrees(key in key(), dress in dress()) {
        let frame = dress.on(PacketBuilder::flow(key)).build();
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).expect("valid to etherparse");
        let parsed = whole(&frame).expect("valid to us");
        let key = parsed.key().expect("a flow");
        let (src, dst) = match sliced.net {
            Some(etherparse::NetSlice::Ipv4(ip)) => {
                (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr()))
            }
            Some(etherparse::NetSlice::Ipv6(ip)) => {
                (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
            }
            other => panic!("{other:?}"),
        };
        prop_assert_eq!((src, dst), (key.src(), key.dst()));
        match sliced.transport {
            Some(etherparse::TransportSlice::Tcp(tcp)) => {
                prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (key.sport(), key.dport()));
            }
            Some(etherparse::TransportSlice::Udp(udp)) => {
                prop_assert_eq!((udp.source_port(), udp.destination_port()), (key.sport(), key.dport()));
            }
            _ => prop_assert_eq!(key.protocol(), Protocol::Sctp),
        }
    }

    #[test]
    fn any_bytes_are_accepted(bytes in prop::collection::vec(any::<u8>(), 0..200), more in 0usize..100) {
        let _ = parse(&bytes, bytes.len() + more);
    }
}
