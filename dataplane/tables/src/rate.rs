//! How much of something may happen in a second: token buckets, one alone or one for each of many keys in bounded memory.
//! Time is an argument, and what is decided depends on nothing else.

use crate::Millis;

/// Thousandths of a token that one use takes: so a rate a second is a rate in thousandths a millisecond.
const TOKEN: u64 = 1_000;

/// A token bucket. Its rate is told at each use, so that it may change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bucket {
    /// Thousandths of tokens used up, of those that a quiet spell saves.
    used: u64,
    seen: Millis,
}

impl Bucket {
    /// Takes one of `rate` tokens a second, if there is one; a quiet spell saves up to `burst` of them.
    pub fn allow(&mut self, rate: u32, burst: u32, now: Millis) -> bool {
        let elapsed = now.since(self.seen);
        // Another reading of the clock may be slightly earlier.
        if elapsed <= i32::MAX as u32 {
            self.used = self.used.saturating_sub(u64::from(elapsed) * u64::from(rate));
            self.seen = now;
        }
        let allowed = self.used + TOKEN <= u64::from(burst) * TOKEN;
        self.used += if allowed { TOKEN } else { 0 };
        allowed
    }
}

/// Keys that share a place in a [`Meter`].
const WAYS: usize = 4;

/// A bucket for each of many keys, of which those used last are remembered.
#[derive(Debug)]
pub struct Meter {
    sets: Box<[[(u64, Bucket); WAYS]]>,
}

impl Meter {
    /// Room for at least this many keys, if they spread evenly.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        let sets = keys.div_ceil(WAYS).max(1);
        Self { sets: vec![[(0, Bucket::default()); WAYS]; sets].into() }
    }

    /// Takes one of the key's `rate` tokens a second, of which it saves up those of a second; `key` is a hash, not 0. A key
    /// that is new here has all it can have, in the place of the one that was not used for longest.
    pub fn allow(&mut self, key: u64, rate: u32, now: Millis) -> bool {
        let set = crate::hash::scale(crate::hash::lower(key), self.sets.len());
        let Some(ways) = self.sets.get_mut(set) else { return true };
        let known = ways.iter().position(|(known, _)| *known == key);
        let age =
            |(known, bucket): &(u64, Bucket)| if *known == 0 { u32::MAX } else { now.since(bucket.seen) };
        let at = known.or_else(|| (0..WAYS).max_by_key(|&at| age(&ways[at]))).unwrap_or(0);
        if known.is_none() {
            ways[at] = (key, Bucket { used: 0, seen: now });
        }
        ways[at].1.allow(rate, rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds_across_the_clocks_wrap() {
        let start = Millis(u32::MAX - 5);
        let mut bucket = Bucket { used: 0, seen: start };
        let passed =
            |bucket: &mut Bucket, at: Millis| (0..1_000).filter(|_| bucket.allow(40, 10, at)).count();
        assert_eq!(passed(&mut bucket, start), 10);
        assert_eq!(passed(&mut bucket, start.plus(24)), 0);
        assert_eq!(passed(&mut bucket, start.plus(25)), 1);
        assert_eq!(passed(&mut bucket, start.plus(20)), 0, "an earlier reading");
        assert_eq!(passed(&mut bucket, start.plus(125)), 4);
        assert_eq!(passed(&mut bucket, start.plus(1_000_000)), 10);
        assert_eq!((0..100).filter(|_| Bucket::default().allow(5, 0, start)).count(), 0);
    }

    #[test]
    fn each_key_has_its_own_rate_while_it_is_remembered() {
        let mut meter = Meter::new(1_000);
        let key = |n: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let now = Millis(7);
        for n in 0..200 {
            assert_eq!((0..9).filter(|_| meter.allow(key(n), 3, now)).count(), 3, "key {n}");
        }
        assert!((0..200).all(|n| !meter.allow(key(n), 3, now.plus(300))));
        assert!((0..200).all(|n| meter.allow(key(n), 3, now.plus(700))));
        // A flood of others: whatever comes, each gets what it could alone, and memory is as it was.
        let passed = (1_000..100_000).filter(|n| meter.allow(key(*n), 3, now.plus(701))).count();
        assert_eq!(passed, 99_000);
        assert_eq!(meter.sets.len(), 250);
    }

    #[test]
    fn the_key_that_was_not_used_for_longest_makes_room() {
        let mut meter = Meter::new(1);
        (1..=4u64).for_each(|key| assert!(meter.allow(key, 1, Millis(u32::try_from(key).unwrap()))));
        assert!(!meter.allow(1, 1, Millis(5)), "still known");
        assert!(meter.allow(5, 1, Millis(6)), "in the place of 2");
        assert!(!meter.allow(1, 1, Millis(7)) && !meter.allow(3, 1, Millis(7)));
        assert!(meter.allow(2, 1, Millis(8)), "new again");
    }
}
