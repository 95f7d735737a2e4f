//! Whether the workers still go round. Pure: counters and time are arguments.

use std::time::{Duration, Instant};

/// A worker that did not go round for so long is stuck; even an idle one turns every 10 ms.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// When each worker was last seen to go round.
#[derive(Clone, Debug)]
pub struct Liveness {
    seen: Vec<(u64, Instant)>,
}

/// A worker that does not go round.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("worker {worker} has not gone round for {} s", stuck.as_secs())]
pub struct Stuck {
    /// The worker.
    pub worker: usize,
    /// Since when.
    pub stuck: Duration,
}

impl Liveness {
    /// For so many workers, all taken as alive at `now`.
    #[must_use]
    pub fn new(workers: usize, now: Instant) -> Self {
        Self { seen: vec![(0, now); workers] }
    }

    /// Takes in how many times each worker has gone round.
    ///
    /// # Errors
    /// The first worker that has not for 5 s.
    pub fn check(&mut self, turns: impl IntoIterator<Item = u64>, now: Instant) -> Result<(), Stuck> {
        let mut result = Ok(());
        for (worker, (turns, (last, since))) in turns.into_iter().zip(&mut self.seen).enumerate() {
            if turns != *last {
                (*last, *since) = (turns, now);
            }
            let stuck = now.saturating_duration_since(*since);
            if stuck >= STUCK_AFTER && result.is_ok() {
                result = Err(Stuck { worker, stuck });
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stops_is_found_and_forgiven_when_it_goes_on() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(2, start);
        assert_eq!(liveness.check([1, 1], after(1)), Ok(()));
        assert_eq!(liveness.check([2, 1], after(5)), Ok(()));
        let stuck = Stuck { worker: 1, stuck: Duration::from_secs(5) };
        assert_eq!(liveness.check([3, 1], after(6)), Err(stuck));
        assert_eq!(liveness.check([4, 2], after(7)), Ok(()));
    }
}
