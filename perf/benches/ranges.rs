//! Who may use a Service's load balancer addresses: asked once a new flow, never of an established one.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use perf::{Random, Sampler};
use tables::{Lpm, Prefix};

/// Prefixes of a Service.
const COUNTS: [u32; 3] = [10, 1_000, 10_000];
/// Addresses asked for in turn: more than a cache line of each.
const ASKED: usize = 8_192;

fn main() -> std::io::Result<()> {
    let mut sampler = Sampler::new("ranges");
    for count in COUNTS {
        for (family, address) in [("IPv4", v4 as fn(u64) -> IpAddr), ("IPv6", v6)] {
            let mut random = Random::new(count.into());
            let prefixes: Vec<_> = (0..count).map(|_| prefix(address(random.next()), &mut random)).collect();
            let ranges: Lpm<()> = prefixes.iter().map(|prefix| (*prefix, ())).collect();
            let inside: Vec<_> = (0..ASKED).map(|n| prefixes[n * 7_919 % prefixes.len()].address()).collect();
            let outside: Vec<_> = (0..ASKED).map(|_| address(random.next())).collect();
            for (who, asked) in [("in one of them", &inside), ("anywhere", &outside)] {
                let mut turns = asked.iter().cycle();
                sampler.bursts(&format!("{count} {family} ranges, a client {who}"), 32, || {
                    for client in turns.by_ref().take(32) {
                        black_box(ranges.contains(black_box(*client)));
                    }
                });
            }
        }
    }
    sampler.finish()
}

/// Networks of customers and single hosts.
fn prefix(address: IpAddr, random: &mut Random) -> Prefix {
    let (least, most) = if address.is_ipv4() { (16, 32) } else { (32, 64) };
    let length = least + u8::try_from(random.next() % (most - u64::from(least) + 1)).unwrap_or(0);
    Prefix::new(address, length).expect("a length of the family")
}

/// Scattered over the whole of what is in use.
fn v4(random: u64) -> IpAddr {
    Ipv4Addr::from(0x0100_0000 + u32::try_from(random >> 32).unwrap_or(0) % 0xdf00_0000).into()
}

fn v6(random: u64) -> IpAddr {
    Ipv6Addr::from((0x2000_u128 << 112) + (u128::from(random >> 3) << 61)).into()
}
