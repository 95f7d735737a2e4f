//! Frames as they come: unsound, tagged, padded, scattered, with unfinished checksums.

use std::net::Ipv4Addr;

use dataplane::{
    buf::{ChecksumKind, ChecksumStatus},
    io::{Capabilities, mem::MemBuf},
    testkit::{Fixture, INSIDE, OUTSIDE, RigConfig},
};
use packet::{
    Family, MacAddr, Protocol, VlanTag, parse,
    testkit::{PacketBuilder, assert_valid_checksums},
};
use tables::DropReason;

use crate::world::*;

#[test]
fn frames_that_are_not_ours_or_not_sound_are_dropped() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let syn = || first(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80)));
    let own = |packet: PacketBuilder| arriving(OUTSIDE, packet);
    let from = |src: &str| own(first(key(Protocol::Tcp, at(src, 700), at(world.lb, 80))));
    let mut cut = own(syn());
    cut.truncate(40);
    let who_has = PacketBuilder::arp_request(CLIENT_MAC, Ipv4Addr::UNSPECIFIED, world.lb.parse().unwrap());
    let mut unlearned = syn().macs(MacAddr([2, 9, 9, 9, 9, 9]), CLIENT_MAC).build();
    unlearned.resize(60, 0);
    for (frame, reason) in [
        (unlearned, DropReason::NotForUs),
        (own(syn().vlan(VlanTag(7))), DropReason::BadVlan),
        (who_has.vlan(VlanTag(7)).build(), DropReason::BadVlan),
        (cut, DropReason::Truncated),
        (own(PacketBuilder::ether(0x88b5).payload(&[0; 46])), DropReason::UnsupportedEtherType),
        (from("127.0.0.1"), DropReason::MartianSource),
        (from("224.0.0.1"), DropReason::MartianSource),
        (from(world.own[0]), DropReason::MartianSource),
        (from("192.0.2.255"), DropReason::MartianSource),
        (from("10.0.0.255"), DropReason::MartianSource),
    ] {
        expect_drop(&mut rig, OUTSIDE, &frame, reason, "a row");
    }
}

#[test]
fn wrong_checksums_go_no_further_where_somebody_looked() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let mut frame = arriving(OUTSIDE, first(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80))));
    let mut buf = MemBuf::from_frame(&frame).unwrap();
    buf.set_rx_checksum(ChecksumStatus::Bad);
    assert!(rig.exchange_buf(OUTSIDE, buf).is_empty());
    assert_eq!(rig.dropped(DropReason::BadChecksum), 1, "the port looked");
    frame[24] ^= 1;
    expect_drop(&mut rig, OUTSIDE, &frame, DropReason::BadIpv4Checksum, "we looked");
}

#[test]
fn a_priority_tag_is_read_through_and_taken_off() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        for dst in [at(world.lb, 80), at(world.pods[0], 80)] {
            let tagged =
                first(key(Protocol::Tcp, at(world.client, 700), dst)).vlan(VlanTag(5 << 13)).pad_to(64);
            let (port, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, tagged)), "tagged");
            let parsed = parse(&frame, frame.len()).unwrap();
            assert_eq!(
                (port, parsed.vlan, parsed.dst_mac),
                (INSIDE, None, Fixture::neighbor_mac(INSIDE, 11))
            );
            assert_valid_checksums(&frame);
        }
    }
}

#[test]
fn unfinished_checksums_are_finished_here_or_by_the_port() {
    let offload = Capabilities {
        rx_checksum: true,
        tx_tcp_checksum: true,
        tx_udp_checksum: true,
        ..Capabilities::default()
    };
    for world in &WORLDS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (dst, payload) in
                [(at(world.lb, 80), 1), (at(world.lb, 81), 600), (at(world.pods[0], 80), 77)]
            {
                let packet = first(key(protocol, at(world.client, 700), dst)).payload(&vec![5; payload]);
                let frame = arriving(OUTSIDE, packet.unfinished_checksum());
                let mut software = rig(&mut served(world));
                let (_, sent) = one(software.exchange(OUTSIDE, &frame), "detected");
                assert_valid_checksums(&sent);

                let config = RigConfig { capabilities: offload, ..RigConfig::default() };
                let mut hardware = rig_of(&config, served(world).tables());
                let mut buf = MemBuf::from_frame(&frame).unwrap();
                buf.set_rx_checksum(ChecksumStatus::Partial);
                hardware.port(OUTSIDE).push_buf(buf);
                hardware.settle();
                let buf = hardware.port(INSIDE).pop().expect("sent");
                let request = buf.tx_request().expect("left to the port");
                let ip_len = if world.family == Family::V4 { 20 } else { 40 };
                assert_eq!((request.l2_len, request.l3_len), (14, ip_len));
                let kind = match (protocol, world.family) {
                    (Protocol::Tcp, Family::V4) => ChecksumKind::Tcp4,
                    (Protocol::Tcp, Family::V6) => ChecksumKind::Tcp6,
                    (_, Family::V4) => ChecksumKind::Udp4,
                    (_, Family::V6) => ChecksumKind::Udp6,
                };
                assert_eq!(request.kind, kind);
                let left = buf.to_vec();
                let parsed = parse(&left, left.len()).unwrap();
                assert!(packet::checksum::is_unfinished(&parsed, &left), "the pseudo header as it leaves");
            }
        }
    }
}

#[test]
fn the_kernel_gets_finished_checksums() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let multicast = if world.family == Family::V4 { "224.0.0.251" } else { "ff02::fb" };
        for dst in [at(world.own[0], 22), at(multicast, 5353)] {
            let packet =
                PacketBuilder::flow(key(Protocol::Udp, at(world.client, 700), dst)).payload(b"unfinished");
            rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet.unfinished_checksum()));
            let [(_, frame)] = &rig.punted()[..] else { panic!("{dst}: not punted") };
            assert_valid_checksums(frame);
        }
    }
}

#[test]
fn a_scattered_frame_is_summed_over_its_segments() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let packet = first(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80))).payload(&[9; 301]);
    let frame = arriving(OUTSIDE, packet.unfinished_checksum());
    let mut buf = MemBuf::from_frame(&frame[..75]).unwrap();
    buf.push_segment(&frame[75..200]);
    buf.push_segment(&frame[200..]);
    let (_, sent) = one(rig.exchange_buf(OUTSIDE, buf), "scattered");
    assert_eq!(sent.len(), frame.len());
    assert_valid_checksums(&sent);
}
