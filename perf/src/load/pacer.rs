//! When the next frames are due, at a rate.

/// Frames that a sender may have to catch up with: a millisecond, and a burst.
const CATCH_UP_S: f64 = 0.001;
const BURST: f64 = 32.0;

/// Counts the frames that are due by the processor's counter.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// Frames a cycle; none where frames are always due.
    per_cycle: Option<f64>,
    limit: f64,
    last: u64,
    due: f64,
    missed: f64,
}

impl Pacer {
    /// Frames at this rate a second, by a counter of so many cycles a second, from `now` on; without a rate, always.
    #[must_use]
    pub fn new(rate: Option<f64>, cycles_per_second: u64, now: u64) -> Self {
        let per_cycle = rate.map(|rate| rate / cycles_per_second as f64);
        let limit = rate.unwrap_or(0.0) * CATCH_UP_S + BURST;
        Self { per_cycle, limit, last: now, due: 0.0, missed: 0.0 }
    }

    /// How many frames are due at this time, of `most` that could be sent now.
    #[inline]
    pub fn due(&mut self, now: u64, most: usize) -> usize {
        let Some(per_cycle) = self.per_cycle else { return most };
        self.due += now.saturating_sub(self.last) as f64 * per_cycle;
        self.last = self.last.max(now);
        if self.due > self.limit {
            // Later they would be a burst that nobody asked for.
            self.missed += self.due - self.limit;
            self.due = self.limit;
        }
        most.min(usize::try_from(crate::whole(self.due.floor())).unwrap_or(usize::MAX))
    }

    /// So many were sent.
    #[inline]
    pub fn sent(&mut self, count: usize) {
        self.due -= count as f64;
    }

    /// Frames that were due and will never be sent: the sender or the link was too slow.
    #[must_use]
    pub fn missed(&self) -> f64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_as_time_goes_by() {
        // A thousand frames a second by a counter of a million: one each thousand cycles.
        let mut pacer = Pacer::new(Some(1000.0), 1_000_000, 5000);
        assert_eq!(pacer.due(5000, 32), 0);
        assert_eq!(pacer.due(5999, 32), 0);
        assert_eq!(pacer.due(6001, 32), 1);
        pacer.sent(1);
        assert_eq!(pacer.due(8002, 32), 2);
        // Not sent: still due. A counter that goes back (another core's) changes nothing.
        assert_eq!(pacer.due(8001, 32), 2);
        assert_eq!(pacer.due(8003, 1), 1);
    }

    #[test]
    fn what_could_not_be_sent_in_time_is_missed() {
        let mut pacer = Pacer::new(Some(1000.0), 1_000_000, 0);
        assert_eq!(pacer.due(1_000_000, usize::MAX), 33);
        assert!((pacer.missed() - 967.0).abs() < 1.0);
    }

    #[test]
    fn without_a_rate_frames_are_always_due() {
        let mut pacer = Pacer::new(None, 1_000_000, 0);
        assert_eq!((pacer.due(0, 32), pacer.due(0, 32)), (32, 32));
        pacer.sent(64);
        assert_eq!(pacer.due(1, 32), 32);
    }
}
