//! Flows whose replies pass the appliance by, gathered by Service until control is told: of few Services at a time, and
//! seldom. What does not fit is in the worker's total only, so a flood costs the ring to control next to nothing.

use tables::{Millis, ServiceId};

use crate::{io::PortIo, pass::Pass};

/// Services gathered between two reports.
pub const SERVICES_MAX: usize = 16;
/// Between two reports, in milliseconds.
pub const REPORT_MS: u32 = 100;

/// Flows by Service since the last report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bypasses {
    flows: [(ServiceId, u32); SERVICES_MAX],
    services: usize,
    reported: Millis,
}

impl Bypasses {
    pub(crate) const fn new(now: Millis) -> Self {
        Self { flows: [(ServiceId::NONE, 0); SERVICES_MAX], services: 0, reported: now }
    }

    fn note(&mut self, service: ServiceId) {
        let known = self.flows[..self.services].iter_mut().find(|(known, _)| *known == service);
        if let Some((_, flows)) = known {
            *flows = flows.saturating_add(1);
        } else if self.services < SERVICES_MAX && !service.is_none() {
            self.flows[self.services] = (service, 1);
            self.services += 1;
        }
    }

    /// What is to be told now; the next gathering begins.
    fn due(&mut self, now: Millis) -> &[(ServiceId, u32)] {
        if self.services == 0 || now.since(self.reported) < REPORT_MS {
            return &[];
        }
        self.reported = now;
        &self.flows[..std::mem::take(&mut self.services)]
    }
}

impl<P: PortIo> Pass<'_, P> {
    /// A flow of this Service goes on although no packet of its backend was seen.
    #[cold]
    pub(crate) fn bypassed(&mut self, service: ServiceId) {
        // Whoever talks to an endpoint by its own address may have its answers by any way.
        if service.is_none() {
            return;
        }
        self.state.counts.flows.bypassed += 1;
        self.state.bypasses.note(service);
    }

    /// Tells control what was gathered, when it is time.
    #[inline]
    pub(crate) fn report_bypasses(&mut self) {
        for (service, flows) in self.state.bypasses.due(self.now) {
            if self.state.kernel.reply_bypass(*service, *flows).is_err() {
                self.state.counts.turns.messages_lost += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ServiceId {
        ServiceId::new(slot, 0).unwrap()
    }

    #[test]
    fn reports_are_few_and_seldom_and_lose_no_service_that_fits() {
        let start = Millis(u32::MAX - 50);
        let mut bypasses = Bypasses::new(start);
        assert_eq!(bypasses.due(start.plus(REPORT_MS)), [], "nothing to tell");
        for slot in (0..100).chain(0..100) {
            bypasses.note(id(slot));
        }
        bypasses.note(ServiceId::NONE);
        assert_eq!(bypasses.due(start.plus(REPORT_MS - 1)), [], "too early");
        let told: Vec<_> = (0..16).map(|slot| (id(slot), 2)).collect();
        assert_eq!(bypasses.due(start.plus(REPORT_MS)), told);
        bypasses.note(id(99));
        assert_eq!(bypasses.due(start.plus(2 * REPORT_MS - 1)), []);
        assert_eq!(bypasses.due(start.plus(2 * REPORT_MS)), [(id(99), 1)]);
        assert_eq!(bypasses.due(start.plus(10 * REPORT_MS)), []);
    }
}
