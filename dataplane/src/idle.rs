//! What a worker does when nothing arrives: go on polling, or sleep longer and longer up to a bound.

use std::time::Duration;

/// How a worker idles.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IdleMode {
    /// Never sleeps: the lowest latency, for a core of its own.
    #[default]
    Poll,
    /// Backs off to [`SHORT`], then to [`LONG`], so that a laboratory shares its cores.
    Sleep,
}

/// The first sleep after a short spell without work.
pub const SHORT: Duration = Duration::from_micros(50);
/// The sleep after a long spell without work: with the kernel's slack (50 us) and its waking, less than a millisecond.
pub const LONG: Duration = Duration::from_micros(900);
/// Empty polls before the first sleep.
const SPINS: u32 = 64;
/// Empty polls before the long sleep: about 20 ms of short ones.
const SHORT_SLEEPS: u32 = 400;

/// Counts empty polls and says how long to sleep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle {
    mode: IdleMode,
    empty: u32,
}

impl Idle {
    /// A worker that was busy a moment ago.
    #[must_use]
    pub const fn new(mode: IdleMode) -> Self {
        Self { mode, empty: 0 }
    }

    /// Takes the work done by one poll; `None` means poll again at once.
    #[inline]
    pub fn after(&mut self, work: usize) -> Option<Duration> {
        if work > 0 || self.mode == IdleMode::Poll {
            self.empty = 0;
            return None;
        }
        self.empty = self.empty.saturating_add(1);
        match self.empty {
            0..=SPINS => None,
            n if n <= SPINS + SHORT_SLEEPS => Some(SHORT),
            _ => Some(LONG),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_never_sleeps() {
        let mut idle = Idle::new(IdleMode::Poll);
        assert!((0..10_000).all(|_| idle.after(0).is_none()));
    }

    #[test]
    fn sleeping_grows_to_a_bound_and_work_starts_over() {
        let mut idle = Idle::new(IdleMode::Sleep);
        assert!((0..SPINS).all(|_| idle.after(0).is_none()));
        assert!((0..SHORT_SLEEPS).all(|_| idle.after(0) == Some(SHORT)));
        assert!((0..10).all(|_| idle.after(0) == Some(LONG)));
        assert_eq!(idle.after(1), None);
        assert_eq!(idle.after(0), None);
    }
}
