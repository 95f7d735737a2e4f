//! Slow start: an endpoint that becomes ready beside others gets its share of new flows in steps, over a time that the
//! Service says. Time is an argument: whoever owns the clock asks for the next step.
//!
//! Steps are taken at whole multiples of their length in the time of day, so that appliances which learn of an endpoint within the
//! same step give it the same weights at the same time, and all endpoints of a Service take them together: a Service's
//! tables are built at most [`STEPS`] times in its slow start, however many endpoints come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tables::BackendState;

use super::Compiler;
use super::endpoints::Candidates;
use super::service::CompiledPort;
use crate::model::ObjectKey;

/// Steps from the first share to the whole one; the first is taken at once.
pub(super) const STEPS: u16 = 8;

/// Since when endpoints that are not at their full share yet are ready, in milliseconds since 1970.
pub(super) type Ramps = BTreeMap<SocketAddr, u64>;

/// The next step of a Service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    due_ms: u64,
    length_ms: u64,
}

impl Step {
    /// When it is due, seen from now: at once if it is further away than a step, as the clock was set back.
    const fn due(self, now_ms: u64) -> u64 {
        if self.due_ms > now_ms + self.length_ms { now_ms } else { self.due_ms }
    }
}

impl Compiler {
    /// Tells what time it is, in milliseconds since 1970; Services with a step due by then are compiled anew. Without a time
    /// nothing starts slowly: so at the beginning, when all endpoints are new.
    pub fn set_time(&mut self, now_ms: Option<u64>) {
        self.now_ms = now_ms;
        let Some(now_ms) = now_ms else { return };
        let due =
            self.steps.iter().filter(|(_, step)| step.due(now_ms) <= now_ms).map(|(key, _)| key.clone());
        self.dirty.services.extend(due);
    }

    /// When the next step is due, in milliseconds since 1970.
    #[must_use]
    pub fn next_step_ms(&self, now_ms: u64) -> Option<u64> {
        self.steps.values().map(|step| step.due(now_ms)).min()
    }

    /// Weighs the endpoints that became ready a short while ago; gives those that go on with it.
    pub(super) fn ramp(
        &mut self,
        key: &ObjectKey,
        slow_start: Option<Duration>,
        before: Option<&CompiledPort>,
        candidates: &mut Candidates<'_>,
    ) -> Ramps {
        let (Some(slow_start), Some(before), Some(now)) = (slow_start, before, self.now_ms) else {
            return Ramps::new();
        };
        let step = step_ms(slow_start);
        let was_ready = |at: &SocketAddr| {
            let backend = before.backends.get(at).and_then(|id| self.tables.backends.get(*id));
            backend.is_some_and(|backend| backend.state == BackendState::Active)
        };
        // The first ones have nobody to leave the rest to.
        let others = before.backends.keys().any(was_ready);
        let mut ramps = Ramps::new();
        for candidate in candidates.ready_mut() {
            let since = match (before.ramps.get(&candidate.at), was_ready(&candidate.at)) {
                // A clock that was set back starts it anew.
                (Some(since), true) => (*since).min(now),
                (None, true) => continue,
                (_, false) if others => now,
                (_, false) => continue,
            };
            if taken(since, now, step) < u64::from(STEPS) {
                ramps.insert(candidate.at, since);
            }
        }
        if ramps.is_empty() {
            return ramps;
        }
        for candidate in candidates.ready_mut() {
            let share = ramps.get(&candidate.at).map_or(STEPS.into(), |since| taken(*since, now, step));
            candidate.weight = candidate.weight.saturating_mul(u16::try_from(share).unwrap_or(STEPS));
        }
        // The same for all ports of the Service.
        self.steps.insert(key.clone(), Step { due_ms: (now / step + 1) * step, length_ms: step });
        ramps
    }
}

/// Eighths of its share that an endpoint has.
const fn taken(since: u64, now: u64, step: u64) -> u64 {
    now / step - since / step + 1
}

fn step_ms(slow_start: Duration) -> u64 {
    u64::try_from(slow_start.as_millis() / u128::from(STEPS)).unwrap_or(u64::MAX).max(1)
}
