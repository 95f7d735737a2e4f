//! What the hot operations cost here. Not a judgement, a print-out:
//! `cargo test --release -p tables --test cost -- --ignored --nocapture --test-threads 1`

#![expect(clippy::disallowed_methods, reason = "measuring is the one thing that needs a clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use tables::maglev::{Maglev, Member};

/// Median of `rounds` timings.
fn median(rounds: usize, mut work: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2]
}

#[test]
#[ignore = "prints costs; run it in release"]
fn maglev_build() {
    for count in [2u64, 25, 100, 600, 5_000] {
        for (kind, spread) in [("equal", 1), ("weighted", 3)] {
            let member = |n: u64| Member {
                name: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                weight: 1 + u16::from(n.is_multiple_of(spread)) * 9,
            };
            let members: Vec<_> = (0..count).map(member).collect();
            let time = median(21, || drop(black_box(Maglev::build(black_box(&members)))));
            println!("maglev build, {count} members, {kind} weights: {time:?}");
        }
    }
}
