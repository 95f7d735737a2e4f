//! Frame to 5-tuple, over more frames than the first-level cache holds predictions for.

use std::hint::black_box;

use packet::{ParseError, TcpFlags, VlanTag, parse, testkit::PacketBuilder};
use perf::{Random, Sampler, shuffle};

/// Frames of a case, in random order; 128 KiB of headers at one line each.
const FRAMES: usize = 2048;

/// The n-th frame of a case.
type Make = fn(usize) -> PacketBuilder;

fn main() -> std::io::Result<()> {
    let mut sampler = Sampler::new("parse");
    let cases: [(&str, Make); 7] = [
        ("IPv4 TCP", |n| PacketBuilder::tcp(&v4(n), "192.0.2.10:80").pad_to(60)),
        ("IPv4 UDP", |n| PacketBuilder::udp(&v4(n), "192.0.2.10:80").pad_to(60)),
        ("IPv4 TCP and UDP mixed", |n| match n % 2 {
            0 => PacketBuilder::tcp(&v4(n), "192.0.2.10:80").pad_to(60),
            _ => PacketBuilder::udp(&v4(n), "192.0.2.10:80").pad_to(60),
        }),
        ("IPv4 TCP in a VLAN", |n| PacketBuilder::tcp(&v4(n), "192.0.2.10:80").vlan(VlanTag(7)).pad_to(60)),
        ("IPv6 TCP", |n| PacketBuilder::tcp(&v6(n), "[2001:db8:1::10]:80").flags(TcpFlags::ACK)),
        ("IPv6 UDP", |n| PacketBuilder::udp(&v6(n), "[2001:db8:1::10]:80")),
        ("IPv6 TCP behind options", |n| {
            PacketBuilder::tcp(&v6(n), "[2001:db8:1::10]:80").extension(60, &[0; 6])
        }),
    ];
    for (case, make) in cases {
        let mut frames: Vec<_> = (0..FRAMES).map(|n| make(n).build()).collect();
        shuffle(&mut frames, &mut Random::new(1));
        let mut parsed = [Err(ParseError::Truncated); 32];
        let mut bursts = frames.chunks_exact(32).cycle();
        sampler.bursts(case, 32, || {
            for (frame, slot) in bursts.next().expect("an endless cycle").iter().zip(&mut parsed) {
                *slot = parse(frame, frame.len());
            }
            black_box(&mut parsed);
        });
        assert!(parsed.iter().all(Result::is_ok), "{case}");
    }
    sampler.finish()
}

fn v4(n: usize) -> String {
    format!("10.{}.{}.9:{}", n / 256 % 256, n % 256, 1024 + n)
}

fn v6(n: usize) -> String {
    format!("[2001:db8::{:x}]:{}", n + 1, 1024 + n)
}
