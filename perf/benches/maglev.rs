//! Building and reading Maglev tables.

use std::{hint::black_box, net::Ipv4Addr};

use perf::{Random, Sampler};
use tables::maglev::{Maglev, Member, name_of};

fn main() -> std::io::Result<()> {
    let mut sampler = Sampler::new("maglev");
    for (backends, runs) in [(2, 1000), (25, 1000), (100, 1000), (600, 300), (5000, 40)] {
        let members = members(backends);
        let table = Maglev::build(&members).expect("members of weight 1");
        let runs = sampler.options().pick(runs, runs / 20);
        sampler.runs(&format!("build for {backends} backends ({} slots)", table.slots().len()), runs, || {
            black_box(Maglev::build(black_box(&members))).expect("members of weight 1");
        });
        let mut random = Random::new(7);
        sampler.bursts(&format!("lookup among {backends} backends"), 32, || {
            for _ in 0..32 {
                black_box(table.lookup(random.next()));
            }
        });
    }
    sampler.finish()
}

fn members(count: u32) -> Vec<Member> {
    let address = |n| Ipv4Addr::from(0x0af4_0000 + n).into();
    (0..count).map(|n| Member { name: name_of(address(n), 8080), weight: 1 }).collect()
}
