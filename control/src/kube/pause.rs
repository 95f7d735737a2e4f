//! How long to stay away after a fault: longer each time, never two appliances in step. Pure; chance is an argument.

use std::time::Duration;

use super::fault::{Fault, FaultKind};

/// After the first fault.
const FIRST: Duration = Duration::from_millis(100);
/// After many.
const LONGEST: Duration = Duration::from_secs(10);
/// Most of what a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Most while a server has only just come back: its refusals mean "not yet".
const SETTLING_MAX: Duration = Duration::from_millis(500);
/// For a kind that the server does not have. It may be given one.
const NOT_SERVED: Duration = Duration::from_secs(60);

/// The back-off of one follower.
#[derive(Debug)]
pub(super) struct Pause {
    next: Duration,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Something worked.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait after `fault`; `settling` while the server has only just come back, `chance` any number.
    pub(super) fn after(&mut self, fault: &Fault, settling: bool, chance: u64) -> Duration {
        let grown = self.next;
        self.next = (grown * 2).min(LONGEST);
        match fault.kind {
            FaultKind::NotServed if !settling => return spread(NOT_SERVED, chance),
            // Listing at once is what the answer asks for; only when that fails too is it a matter of patience.
            FaultKind::Gone if grown == FIRST => return Duration::ZERO,
            _ => {}
        }
        let asked = fault.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let wait = grown.max(asked);
        // What a server asks for is a least, so chance only adds.
        if settling { spread(wait.min(SETTLING_MAX), chance) } else { asked.max(spread(wait, chance)) }
    }
}

/// From half of `wait` to all of it and a quarter.
fn spread(wait: Duration, chance: u64) -> Duration {
    let parts = u32::try_from(chance % 768).expect("below 768");
    wait / 2 + wait * parts / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind, retry_after_s: Option<u64>) -> Fault {
        Fault { retry_after: retry_after_s.map(Duration::from_secs), ..Fault::new(kind, "") }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_success() {
        let mut pause = Pause::new();
        let cut = fault(FaultKind::Cut, None);
        let waits: Vec<_> = (0..12).map(|_| pause.after(&cut, false, 512)).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[11], LONGEST);
        pause.reset();
        assert_eq!(pause.after(&cut, false, 512), FIRST);
    }

    #[test]
    fn what_the_server_asks_for_is_kept_unless_it_has_only_just_come_back() {
        for (asked, settling, least, most) in [
            (Some(7), false, 7000, 8750),
            (Some(100_000), false, 60_000, 75_000),
            (Some(7), true, 250, 625),
            (None, true, 50, 125),
        ] {
            for chance in [0, 767, u64::MAX] {
                let wait =
                    Pause::new().after(&fault(FaultKind::Throttled, asked), settling, chance).as_millis();
                assert!((least..=most).contains(&wait), "{asked:?} {settling}: {wait} ms");
            }
        }
    }

    #[test]
    fn a_forgotten_version_is_listed_again_at_once_but_not_for_ever() {
        let mut pause = Pause::new();
        let gone = fault(FaultKind::Gone, None);
        assert_eq!(pause.after(&gone, false, 512), Duration::ZERO);
        assert_eq!(pause.after(&gone, false, 512), FIRST * 2);
    }
}
