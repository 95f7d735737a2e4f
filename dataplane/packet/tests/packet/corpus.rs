//! Replays the stored inputs of every fuzz target, and keeps the seeds among them up to date with the builder.

use std::{fs, net::Ipv6Addr, path::PathBuf};

use packet::{
    MacAddr, TcpFlags, VlanTag,
    testkit::{PacketBuilder, targets},
};

fn folder(target: &str) -> PathBuf {
    PathBuf::from("fuzz/corpus").join(target)
}

#[test]
fn every_stored_input_passes_its_target() {
    for (target, run) in targets::ALL {
        let inputs: Vec<_> =
            fs::read_dir(folder(target)).expect("a corpus").map(|entry| entry.expect("an entry")).collect();
        assert!(inputs.len() >= seeds().len(), "{target}");
        for input in inputs {
            println!("{}", input.path().display());
            run(&fs::read(input.path()).expect("a file"));
        }
    }
}

#[test]
fn every_seed_passes_every_target_cut_anywhere() {
    for (_, frame) in seeds() {
        for len in 0..=frame.len() {
            targets::ALL.iter().for_each(|(_, run)| run(&frame[..len]));
        }
    }
}

/// `WRITE_SEEDS=1 cargo test -p packet` stores them anew.
#[test]
fn seeds_are_stored() {
    for (target, _) in targets::ALL {
        for (name, frame) in seeds() {
            let path = folder(target).join(name);
            if std::env::var_os("WRITE_SEEDS").is_some() {
                fs::create_dir_all(folder(target)).expect("a folder");
                fs::write(&path, &frame).expect("a file");
            }
            assert_eq!(fs::read(&path).ok().as_ref(), Some(&frame), "{}", path.display());
        }
    }
}

/// One frame of each shape that the parser tells apart.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (a, b) = ("203.0.113.2:40000", "192.0.2.10:80");
    let (a6, b6) = ("[2001:db8::2]:40000", "[2001:db8:1::10]:80");
    let (ip, ip6) = ([203, 0, 113, 2].into(), "2001:db8::2".parse().expect("an address"));
    let (router, router6) = ([198, 51, 100, 1].into(), "2001:db8::99".parse().expect("an address"));
    let link = |host| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host);
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let syn = PacketBuilder::tcp(a, b).flags(TcpFlags::SYN).tcp_options(&[2, 4, 5, 0xb4]);
    let quote = |packet: PacketBuilder| [&[0; 4][..], &packet.build()[14..]].concat();
    let builders = [
        (
            "arp-request",
            PacketBuilder::arp_request(mac, [10, 0, 0, 1].into(), [10, 0, 0, 2].into()).pad_to(60),
        ),
        ("icmp-error-tcp", PacketBuilder::icmp(router, ip, 3, 4, &quote(syn.clone()))),
        ("icmp-error-udp", PacketBuilder::icmp(router, ip, 11, 0, &quote(PacketBuilder::udp(a, b)))),
        ("icmpv6-error-sctp", PacketBuilder::icmp(router6, ip6, 2, 0, &quote(PacketBuilder::sctp(a6, b6)))),
        ("lldp", PacketBuilder::ether(0x88cc).payload(&[0; 46])),
        ("neighbour-solicitation", PacketBuilder::neighbor_solicitation(mac, link(1), link(2))),
        ("ping", PacketBuilder::ping(ip, router, 1, 2, b"payload")),
        ("ping6", PacketBuilder::ping(ip6, router6, 1, 2, b"payload")),
        ("sctp", PacketBuilder::sctp(a, b).payload(&[0; 16])),
        ("tcp", PacketBuilder::tcp(a, b).payload(b"payload")),
        ("tcp-options-vlan", PacketBuilder::tcp(a, b).ip_options(&[1; 8]).vlan(VlanTag(7)).pad_to(64)),
        ("tcp-syn", syn),
        ("tcp-unfinished", PacketBuilder::tcp(a, b).unfinished_checksum().payload(b"payload")),
        ("tcp6", PacketBuilder::tcp(a6, b6).payload(b"payload")),
        ("tcp6-extensions", PacketBuilder::tcp(a6, b6).extension(0, &[0; 6]).extension(60, &[0; 14])),
        ("udp-first-fragment", PacketBuilder::udp(a, b).fragment(7, 0, true).payload(&[0; 24])),
        ("udp-later-fragment", PacketBuilder::udp(a, b).fragment(7, 1480, false).payload(&[0; 24])),
        ("udp-without-checksum", PacketBuilder::udp(a, b).without_checksum().pad_to(60)),
        ("udp6-fragment", PacketBuilder::udp(a6, b6).fragment(7, 0, true).payload(&[0; 24])),
    ];
    builders.into_iter().map(|(name, builder)| (name, builder.build())).collect()
}
