//! How many packets of its own making a worker sends: a token bucket, so that a flood of hopeless SYNs is not
//! answered at line rate.

use tables::Millis;

/// Tokens gained a millisecond.
const PER_MS: u32 = 10;
/// Tokens a quiet spell saves up.
const BURST_MAX: u32 = 1_000;

/// A token bucket in whole milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    tokens: u32,
    filled: Millis,
}

impl Limit {
    pub(crate) const fn new(now: Millis) -> Self {
        Self { tokens: BURST_MAX, filled: now }
    }

    /// Takes a token, if there is one.
    pub(crate) fn allow(&mut self, now: Millis) -> bool {
        let gained = now.since(self.filled).saturating_mul(PER_MS);
        self.tokens = self.tokens.saturating_add(gained).min(BURST_MAX);
        self.filled = now;
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut limit = Limit::new(Millis(u32::MAX));
        let passed = (0..5_000).filter(|_| limit.allow(Millis(u32::MAX))).count();
        assert_eq!(passed, 1_000);
        assert_eq!((0..100).filter(|_| limit.allow(Millis(2))).count(), 30);
        assert_eq!((0..5_000).filter(|_| limit.allow(Millis(1_000_000))).count(), 1_000);
    }
}
