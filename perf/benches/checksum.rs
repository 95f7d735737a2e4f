//! Full sums, and the rewrite of a frame with deltas made once a flow.

use std::hint::black_box;

use packet::{
    AnyKey, FlowKey, checksum, crc32c,
    nat::Rewrite,
    parse,
    testkit::{PacketBuilder, assert_valid_checksums},
};
use perf::Sampler;

fn main() -> std::io::Result<()> {
    let mut sampler = Sampler::new("checksum");
    for len in [20, 64, 1460] {
        let bytes = vec![0x5a; len];
        sampler.bursts(&format!("Internet checksum of {len} bytes"), 32, || {
            for _ in 0..32 {
                black_box(checksum::ipv4_header(black_box(&bytes)));
            }
        });
    }
    let bytes = vec![0x5a; 1460];
    sampler.bursts("CRC32c of 1460 bytes", 32, || {
        for _ in 0..32 {
            black_box(crc32c::update(crc32c::START, black_box(&bytes)));
        }
    });
    rewrite_v4(&mut sampler, "rewrite IPv4 TCP", &PacketBuilder::tcp("10.0.0.1:1", "192.0.2.10:80"));
    rewrite_v4(&mut sampler, "rewrite IPv4 UDP", &PacketBuilder::udp("10.0.0.1:1", "192.0.2.10:80"));
    rewrite_v4(&mut sampler, "rewrite IPv4 SCTP", &PacketBuilder::sctp("10.0.0.1:1", "192.0.2.10:80"));
    rewrite_v6(&mut sampler, "rewrite IPv6 TCP", &PacketBuilder::tcp("[fe80::1]:1", "[fe80::2]:80"));
    sampler.finish()
}

/// There and back again, so that the frames stay those that were parsed.
fn rewrite_v4(sampler: &mut Sampler, case: &str, packet: &PacketBuilder) {
    let mut frames = vec![packet.clone().ttl(255).pad_to(60).build(); 32];
    let parsed = parse(&frames[0], frames[0].len()).expect("a valid frame");
    let Some(AnyKey::V4(from)) = parsed.key() else { return };
    let to =
        FlowKey { src: [10, 9, 8, 7].into(), dst: [10, 6, 5, 4].into(), sport: 4000, dport: 8080, ..from };
    let (there, back) = (Rewrite::new(&from, &to), Rewrite::new(&to, &from));
    sampler.bursts(case, 64, || {
        frames.iter_mut().for_each(|frame| there.forward(black_box(frame), black_box(&parsed)));
        frames.iter_mut().for_each(|frame| back.forward(black_box(frame), black_box(&parsed)));
    });
    frames.iter().for_each(|frame| assert_valid_checksums(frame));
}

fn rewrite_v6(sampler: &mut Sampler, case: &str, packet: &PacketBuilder) {
    let mut frames = vec![packet.clone().ttl(255).build(); 32];
    let parsed = parse(&frames[0], frames[0].len()).expect("a valid frame");
    let Some(AnyKey::V6(from)) = parsed.key() else { return };
    let to = FlowKey { src: from.dst, dst: 7.into(), sport: 4000, dport: 8080, ..from };
    let (there, back) = (Rewrite::new(&from, &to), Rewrite::new(&to, &from));
    sampler.bursts(case, 64, || {
        frames.iter_mut().for_each(|frame| there.forward(black_box(frame), black_box(&parsed)));
        frames.iter_mut().for_each(|frame| back.forward(black_box(frame), black_box(&parsed)));
    });
    frames.iter().for_each(|frame| assert_valid_checksums(frame));
}
