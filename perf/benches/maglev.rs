//! Building and reading Maglev tables.

use std::{hint::black_box, net::Ipv4Addr};

use perf::{Random, Sampler};
use tables::maglev::{Maglev, Member, name_of};

/// The weight of the n-th backend.
type Weight = fn(u32) -> u16;

/// Weights, and what a case is called for them.
const WEIGHTS: [(&str, Weight); 2] = [("", |_| 1), (", weights 1 to 100", |n| 1 + (n % 100) as u16)];

fn main() -> std::io::Result<()> {
    let mut sampler = Sampler::new("maglev");
    for (backends, runs) in [(2, 1000), (25, 1000), (100, 1000), (600, 300), (1000, 300), (5000, 40)] {
        let table = Maglev::build(&members(backends, |_| 1)).expect("members with weights");
        let (slots, runs) = (table.slots().len(), sampler.options().pick(runs, runs / 20));
        for (weights, weight) in WEIGHTS {
            let members = members(backends, weight);
            sampler.runs(&format!("build for {backends} backends ({slots} slots){weights}"), runs, || {
                black_box(Maglev::build(black_box(&members))).expect("members with weights");
            });
        }
        let mut random = Random::new(7);
        sampler.bursts(&format!("lookup among {backends} backends"), 32, || {
            for _ in 0..32 {
                black_box(table.lookup(random.next()));
            }
        });
    }
    sampler.finish()
}

fn members(count: u32, weight: fn(u32) -> u16) -> Vec<Member> {
    let address = |n| Ipv4Addr::from(0x0af4_0000 + n).into();
    (0..count).map(|n| Member { name: name_of(address(n), 8080), weight: weight(n) }).collect()
}
