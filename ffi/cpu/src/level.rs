//! Code that is compiled twice: for every processor that we run on, and for those of today.
//!
//! The levels are those of the x86-64 psABI: we are compiled for x86-64-v2, which some processors of small appliances do
//! not exceed; x86-64-v3 has shifts, byte swaps and vector instructions in which the packet path needs fewer steps.

/// What is known of a processor's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Level {
    /// True only where the processor has all of x86-64-v3.
    v3: bool,
}

/// Something to be done, compiled for each level.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it. Implementations are `#[inline(always)]`, as is all in them that is to be compiled with them.
    fn run(self) -> Self::Output;
}

impl Level {
    /// What every processor has that can run us.
    pub const BASELINE: Self = Self { v3: false };

    /// That of this processor.
    #[must_use]
    pub fn of_this_processor() -> Self {
        Self { v3: has_v3() }
    }

    /// Its name in the psABI, or that of the architecture.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.v3 {
            true => "x86-64-v3",
            false if cfg!(target_arch = "x86_64") => "x86-64-v2",
            false => std::env::consts::ARCH,
        }
    }

    /// Does something with the instructions of this level.
    #[inline(always)]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        if self.v3 {
            // SAFETY: `v3` is true only where `has_v3` found each of the features that `with_v3` is compiled for.
            return unsafe { with_v3(work) };
        }
        with_baseline(work)
    }
}

/// A function of its own, like the other.
#[inline(never)]
fn with_baseline<W: Work>(work: W) -> W::Output {
    work.run()
}

/// # Safety
/// The processor has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,avx2,bmi1,bmi2,f16c,fma,lzcnt,movbe")]
unsafe fn with_v3<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
fn has_v3() -> bool {
    is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_v3() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Swap([u64; 4], u32);

    impl Work for Swap {
        type Output = Vec<u64>;

        #[inline(always)]
        fn run(self) -> Vec<u64> {
            self.0.iter().map(|word| word.swap_bytes() >> self.1 & !(1 << self.1)).collect()
        }
    }

    #[test]
    fn each_level_comes_to_the_same() {
        let words = [1, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 40];
        for shift in 0..64 {
            let baseline = Level::BASELINE.run(Swap(words, shift));
            assert_eq!(Level::of_this_processor().run(Swap(words, shift)), baseline);
        }
    }

    #[test]
    fn the_baseline_is_named() {
        assert_ne!(Level::BASELINE.name(), "x86-64-v3");
    }
}
