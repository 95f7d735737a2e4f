//! The fuzz target over its stored inputs and over many mutations of its seeds.

#![expect(clippy::unwrap_used, reason = "a test")]

use dataplane::testkit::target::{pipeline, seeds};

/// Mutated frames in all, and frames an input.
const FRAMES: usize = 100_000;
const FRAMES_AN_INPUT: usize = 100;

#[test]
fn stored_inputs_hold() {
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/pipeline")).unwrap() {
        pipeline(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
    seeds().iter().for_each(|seed| pipeline(seed));
    pipeline(&seeds().concat());
}

#[test]
fn mutated_frames_hold() {
    let (seeds, mut random) = (seeds(), Random(0x9e37_79b9_7f4a_7c15));
    for _ in 0..FRAMES / FRAMES_AN_INPUT {
        let input: Vec<u8> = (0..FRAMES_AN_INPUT).flat_map(|_| mutated(&seeds, &mut random)).collect();
        pipeline(&input);
    }
}

/// A seed with a few bytes changed, or cut short, its control byte drawn anew.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    // Mostly past the checksum of the IPv4 header, which changed bytes rarely fit.
    let vouched = if random.below(4) == 0 { 0 } else { 64 };
    input[0] = input[0] & 1 | 2 | vouched | [0, 4, 8, 16, 32, 32][random.below(6)];
    for _ in 0..random.below(4) {
        // Mostly in the headers, where bytes mean something.
        let within = if random.below(4) == 0 { input.len() - 3 } else { (input.len() - 3).min(60) };
        let at = 3 + random.below(within);
        input[at] = match random.below(3) {
            0 => input[at] ^ 1 << random.below(8),
            1 => 0xff,
            _ => u8::try_from(random.below(256)).unwrap(),
        };
    }
    if random.below(16) == 0 {
        input.truncate(3 + random.below(input.len() - 3));
        let len = u16::try_from(input.len() - 3).unwrap().to_be_bytes();
        input[1..3].copy_from_slice(&len);
    }
    input
}

/// xorshift64: the same frames at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}
