//! Frames the packet path answers with, read back by the parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{
    AnyAddrs, AnyKey, Arp, ArpOperation, Body, MacAddr, NdKind, Parsed, Protocol, TcpFlags, VlanTag,
    checksum::ipv4_header,
    parse,
    reply::{self, IcmpError, LEN_MAX, Sender},
    tcp,
    testkit::{PacketBuilder, assert_valid_checksums},
};
use proptest::prelude::*;

use crate::strategy::{dress, key};

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn facts(frame: &[u8]) -> Parsed {
    parse(frame, frame.len()).expect("valid")
}

/// What a reply wrote, checked to be a good frame for the other station.
fn written(out: &[u8], len: Option<usize>) -> (&[u8], Parsed) {
    let frame = &out[..len.expect("a reply")];
    assert!(frame.len() >= 60);
    assert_valid_checksums(frame);
    (frame, facts(frame))
}

#[test]
fn an_arp_request_becomes_its_reply() {
    let (client, vip) = (Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 10));
    let mut frame = PacketBuilder::arp_request(THEIRS, client, vip).vlan(VlanTag(5)).pad_to(60).build();
    let request = facts(&frame);
    assert!(reply::arp_reply(&mut frame, &request, OURS));
    let answer = facts(&frame);
    let operation = ArpOperation::Reply;
    let want = Arp { operation, sender_mac: OURS, sender_ip: vip, target_mac: THEIRS, target_ip: client };
    assert_eq!(answer.body, Body::Arp(want));
    assert_eq!((answer.dst_mac, answer.src_mac, answer.vlan), (THEIRS, OURS, Some(VlanTag(5))));
    assert!(!reply::arp_reply(&mut frame, &answer, OURS), "a reply is not answered");

    let mut out = [0xee; 64];
    let len = reply::gratuitous_arp(&mut out, OURS, vip, None);
    let (_, said) = written(&out, len);
    let Body::Arp(arp) = said.body else { panic!("not ARP") };
    assert_eq!(
        (arp.sender_ip, arp.target_ip, arp.sender_mac, said.dst_mac),
        (vip, vip, OURS, MacAddr::BROADCAST)
    );
    assert_eq!(reply::gratuitous_arp(&mut out[..59], OURS, vip, None), None, "no room");
}

#[test]
fn a_solicitation_is_answered_to_its_sender_and_a_probe_to_all_nodes() {
    let target: Ipv6Addr = "2001:db8:1::10".parse().unwrap();
    for (src, dst, solicited) in [("fe80::7", "fe80::7", true), ("::", "ff02::1", false)] {
        let frame = PacketBuilder::neighbor_solicitation(THEIRS, src.parse().unwrap(), target).build();
        let mut out = [0; LEN_MAX];
        let len = reply::neighbor_advertisement(&mut out, &facts(&frame), OURS);
        let (_, answer) = written(&out, len);
        let Body::Nd(nd) = answer.body else { panic!("not ND") };
        assert_eq!((nd.kind, nd.target, nd.link_layer), (NdKind::NeighborAdvertisement, target, Some(OURS)));
        assert_eq!((nd.solicited, nd.overrides, nd.src), (solicited, true, target));
        assert_eq!(nd.dst, dst.parse::<Ipv6Addr>().unwrap());
        assert_eq!(answer.dst_mac, if solicited { THEIRS } else { MacAddr([0x33, 0x33, 0, 0, 0, 1]) });
        assert_eq!(reply::neighbor_advertisement(&mut [0; 80], &facts(&frame), OURS), None, "no room");
    }
    let mut out = [0; LEN_MAX];
    let len = reply::unsolicited_advertisement(&mut out, OURS, target, Some(VlanTag(9)));
    assert!(matches!(written(&out, len).1.body, Body::Nd(nd) if nd.target == target && !nd.solicited));
    let len = reply::neighbor_solicitation(&mut out, (OURS, "fe80::1".parse().unwrap()), target, None);
    let (_, asked) = written(&out, len);
    assert!(
        matches!(asked.body, Body::Nd(nd) if nd.kind == NdKind::NeighborSolicitation && nd.target == target)
    );
    assert_eq!(asked.dst_mac, MacAddr([0x33, 0x33, 0xff, 0, 0, 0x10]));
}

#[test]
fn probes_for_a_duplicate_name_no_sender() {
    let mut out = [0xee; LEN_MAX];
    let target: Ipv6Addr = "2001:db8:1::10".parse().unwrap();
    let len = reply::neighbor_solicitation(&mut out, (OURS, Ipv6Addr::UNSPECIFIED), target, None);
    let (_, asked) = written(&out, len);
    let Body::Nd(nd) = asked.body else { panic!("the parser takes it for no solicitation: {asked:?}") };
    assert_eq!((nd.kind, nd.target, nd.link_layer), (NdKind::NeighborSolicitation, target, None));
    assert!(nd.src.is_unspecified() && asked.src_mac == OURS);
    let vip = Ipv4Addr::new(192, 0, 2, 10);
    let len = reply::arp_request(&mut out, (OURS, Ipv4Addr::UNSPECIFIED), vip, None);
    let Body::Arp(arp) = written(&out, len).1.body else { panic!("not ARP") };
    let (sender, target) = ((arp.sender_mac, arp.sender_ip), (arp.target_mac, arp.target_ip));
    assert_eq!((sender, target), ((OURS, Ipv4Addr::UNSPECIFIED), (MacAddr::ZERO, vip)), "RFC 5227 §2.1.1");
}

#[test]
fn a_ping_becomes_its_reply() {
    for (src, dst) in [("192.0.2.7", "192.0.2.10"), ("2001:db8::7", "2001:db8::10")] {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let ping = PacketBuilder::ping(src, dst, 77, 3, b"payload").ttl(3).vlan(VlanTag(5));
        let mut frame = ping.build();
        let request = facts(&frame);
        assert!(reply::echo_reply(&mut frame, &request));
        assert_valid_checksums(&frame);
        let answer = facts(&frame);
        assert!(matches!(answer.body, Body::Icmp(icmp) if icmp.is_echo_reply()));
        assert_eq!(answer.addrs().map(AnyAddrs::src), Some(dst));
        assert_eq!((answer.ttl, answer.dst_mac, answer.src_mac), (64, THEIRS, OURS));
        assert_eq!(frame[usize::from(answer.l4) + 4..], ping.build()[usize::from(answer.l4) + 4..]);
        assert!(!reply::echo_reply(&mut frame, &answer), "a reply is not answered");
        let mut everybody = ping.macs(MacAddr::BROADCAST, THEIRS).build();
        let request = facts(&everybody);
        assert!(!reply::echo_reply(&mut everybody, &request), "RFC 1122 §3.2.2.6 allows silence");
    }
}

#[test]
fn a_reset_takes_its_numbers_from_the_segment() {
    // RFC 9293 §3.10.7.1; the last column is (SEQ, ACK, flags) of the answer.
    let cases = [
        ("SYN", TcpFlags::SYN, &b""[..], Some((0, 1001, TcpFlags::RST | TcpFlags::ACK))),
        ("SYN with data", TcpFlags::SYN, b"abc", Some((0, 1004, TcpFlags::RST | TcpFlags::ACK))),
        ("FIN", TcpFlags::FIN, b"", Some((0, 1001, TcpFlags::RST | TcpFlags::ACK))),
        ("ACK", TcpFlags::ACK, b"abc", Some((2000, 0, TcpFlags::RST))),
        ("SYN ACK", TcpFlags::SYN | TcpFlags::ACK, b"", Some((2000, 0, TcpFlags::RST))),
        ("RST", TcpFlags::RST, b"", None),
        ("RST ACK", TcpFlags::RST | TcpFlags::ACK, b"", None),
    ];
    for (src, dst) in [("192.0.2.7:40000", "192.0.2.10:80"), ("[2001:db8::7]:40000", "[2001:db8::10]:80")] {
        for (name, flags, payload, want) in cases {
            let packet = PacketBuilder::tcp(src, dst).flags(flags).numbers(1000, 2000).payload(payload);
            let frame = packet.vlan(VlanTag(5)).pad_to(60).build();
            let request = facts(&frame);
            let mut out = [0xee; LEN_MAX];
            let len = reply::tcp_reset(&mut out, &frame, &request);
            let Some(want) = want else {
                assert_eq!(len, None, "{name}");
                continue;
            };
            let (bytes, answer) = written(&out, len);
            let segment = tcp::Header(bytes[answer.l4.into()..].first_chunk::<20>().expect("a header"));
            assert_eq!((segment.seq(), segment.ack(), segment.flags()), want, "{name}");
            assert_eq!(answer.key(), request.key().map(AnyKey::reversed));
            assert_eq!((answer.dst_mac, answer.vlan), (THEIRS, Some(VlanTag(5))));
        }
    }
}

/// A sum of nothing but zeros must travel as 0xffff: a receiver adds it up to 0xffff, and 0 to 0, which is wrong.
#[test]
fn the_reply_to_a_ping_of_zeros_has_a_checksum_that_adds_up() {
    let (src, dst) = ("192.0.2.7".parse().unwrap(), "192.0.2.10".parse().unwrap());
    let mut frame = PacketBuilder::ping(src, dst, 0, 0, &[0; 8]).build();
    let request = facts(&frame);
    assert!(reply::echo_reply(&mut frame, &request));
    assert_eq!(ipv4_header(&frame[request.l4.into()..request.frame_end()]), 0, "as a receiver verifies it");
}

#[test]
fn an_error_is_never_answered_nor_a_group_nor_a_later_fragment() {
    let udp = PacketBuilder::udp("192.0.2.7:1", "192.0.2.10:2").payload(&[0; 32]);
    let (router, client) = ("198.51.100.1".parse().unwrap(), "192.0.2.7".parse().unwrap());
    let quoted = [&[0; 4][..], &udp.build()[14..]].concat();
    for (name, packet, may) in [
        ("plain", udp.clone(), true),
        ("first fragment", udp.clone().fragment(1, 0, true), true),
        ("later fragment", udp.clone().fragment(1, 64, true), false),
        ("broadcast frame", udp.clone().macs(MacAddr::BROADCAST, THEIRS), false),
        ("broadcast station as sender", udp.clone().macs(OURS, MacAddr::BROADCAST), false),
        ("to a group", PacketBuilder::udp("192.0.2.7:1", "224.0.0.5:2"), false),
        ("from nobody", PacketBuilder::udp("0.0.0.0:68", "192.0.2.10:67"), false),
        ("from loopback", PacketBuilder::udp("127.0.0.1:68", "192.0.2.10:67"), false),
        ("an error", PacketBuilder::icmp(router, client, 3, 3, &quoted), false),
        (
            "the first fragment of an error",
            PacketBuilder::icmp(router, client, 3, 3, &quoted).fragment(1, 0, true),
            false,
        ),
        ("a redirect", PacketBuilder::icmp(router, client, 5, 1, &quoted), false),
        (
            "an ICMPv6 redirect",
            PacketBuilder::icmp("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap(), 137, 0, &[0; 36]),
            false,
        ),
        ("a ping", PacketBuilder::ping(router, client, 1, 1, b""), true),
    ] {
        let (frame, from) = (packet.build(), Sender { mac: OURS, address: router });
        let len =
            reply::icmp_error(&mut [0; LEN_MAX], &frame, &facts(&frame), from, IcmpError::PortUnreachable);
        assert_eq!(len.is_some(), may, "{name}");
    }
}

proptest! {
    #[test]
    fn an_icmp_error_quotes_the_packet_within_the_limits(
        key in key(), dress in dress(), more in 0usize..1300, which in 0usize..5,
    ) {
        let payload = vec![7; dress.payload.len() + more];
        let frame = dress.on(PacketBuilder::flow(key)).payload(&payload).build();
        let request = facts(&frame);
        let errors = [
            (IcmpError::NoRoute, (3, 0), (1, 0)),
            (IcmpError::HostUnreachable, (3, 1), (1, 3)),
            (IcmpError::PortUnreachable, (3, 3), (1, 4)),
            (IcmpError::TooBig { mtu: 1400 }, (3, 4), (2, 0)),
            (IcmpError::TtlExceeded, (11, 0), (3, 0)),
        ];
        let (error, v4, v6) = errors[which];
        let (address, want, limit) = match key {
            AnyKey::V4(_) => ("198.51.100.1".parse::<IpAddr>().unwrap(), v4, 576),
            AnyKey::V6(_) => ("2001:db8::1".parse::<IpAddr>().unwrap(), v6, 1280),
        };
        let mut out = [0xee; LEN_MAX];
        let from = Sender { mac: OURS, address };
        let len = reply::icmp_error(&mut out, &frame, &request, from, error);
        prop_assert_eq!(len.is_some(), reply::may_be_answered(&request));
        if len.is_some() {
            let (_, answer) = written(&out, len);
            let Body::Icmp(icmp) = answer.body else { panic!("not ICMP") };
            prop_assert_eq!((icmp.kind, icmp.code), want);
            prop_assert_eq!(icmp.inner.map(|inner| inner.key), Some(key));
            prop_assert!(usize::from(answer.ip_len) <= limit);
            prop_assert_eq!(answer.addrs().map(AnyAddrs::dst), Some(key.src()));
        }
    }

    #[test]
    fn no_buffer_is_too_short_to_be_safe(key in key(), dress in dress(), room in 0usize..200) {
        let frame = dress.on(PacketBuilder::flow(key)).build();
        let (request, mut out) = (facts(&frame), vec![0; room]);
        let address = key.dst();
        let from = Sender { mac: OURS, address };
        let _ = reply::icmp_error(&mut out, &frame, &request, from, IcmpError::NoRoute);
        let _ = reply::tcp_reset(&mut out, &frame, &request);
        if key.protocol() == Protocol::Udp {
            prop_assert_eq!(reply::tcp_reset(&mut [0; LEN_MAX], &frame, &request), None);
        }
    }
}
