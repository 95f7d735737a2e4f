//! Random choices from a seed: the same seed makes the same cluster on every machine (SplitMix64, Steele et al. 2014).

/// A generator of choices.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u16) -> u16 {
        u16::try_from(self.next() % u64::from(end)).expect("below a u16")
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u16, high: u16) -> u16 {
        low + self.below(high - low + 1)
    }

    /// True that often of a hundred times.
    pub(crate) fn percent(&mut self, times: u16) -> bool {
        self.below(100) < times
    }

    /// One of several, all alike.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let end = u16::try_from(of.len()).expect("few choices");
        &of[usize::from(self.below(end))]
    }
}
