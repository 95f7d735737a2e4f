//! Walks over the whole table a few slots at a time: expiry, deleted backends, reports.

use packet::Protocol;

use super::record::STATE;
use super::state::State;
use super::{FlowRef, FlowTable, FlowView, record};
use crate::{BackendId, BackendState, Millis, ServiceId, Tables};

/// Which ids still mean something.
pub trait Liveness {
    /// True if the Service port is there, in this epoch of its slot.
    fn service_is_live(&self, service: ServiceId) -> bool;
    /// True if the backend is there, in this epoch of its slot.
    fn backend_is_live(&self, backend: BackendId) -> bool;
    /// True if the backend is there and takes no new flows.
    fn backend_drains(&self, _backend: BackendId) -> bool {
        false
    }
    /// How long flows may stay at a backend that drains or is gone, in milliseconds; `None`: until they end.
    fn drain_deadline_ms(&self) -> Option<u32> {
        None
    }
}

impl Liveness for Tables {
    fn service_is_live(&self, service: ServiceId) -> bool {
        self.services.get(service).is_some()
    }

    fn backend_is_live(&self, backend: BackendId) -> bool {
        self.backends.is_live(backend)
    }

    fn backend_drains(&self, backend: BackendId) -> bool {
        self.backends.get(backend).is_some_and(|backend| backend.state != BackendState::Active)
    }

    fn drain_deadline_ms(&self) -> Option<u32> {
        self.drain_deadline_ms
    }
}

/// What one step of the sweep came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Flows taken out.
    pub removed: u32,
    /// The step reached the end: every flow was visited since the last time. The next step begins a new pass.
    pub pass_done: bool,
}

impl FlowTable {
    /// Goes on with the sweep for `slots` records, to the end of the pass at most: removes what expired, and UDP flows
    /// whose Service port or backend is gone; clears such ids from other flows, which live on by their own addresses.
    ///
    /// After a pass that began under some `Tables`, no flow names an id that these did not have: their slots may be
    /// used anew.
    pub fn sweep(&mut self, slots: u32, now: Millis, liveness: &impl Liveness) -> Swept {
        let end = self.sweep_cursor.saturating_add(slots).min(self.slab.fresh());
        let mut removed = 0;
        for slot in self.sweep_cursor..end {
            removed += u32::from(self.sweep_slot(slot, now, liveness));
        }
        let pass_done = end == self.slab.fresh();
        self.sweep_cursor = if pass_done { 0 } else { end };
        Swept { removed, pass_done }
    }

    /// How many slots have been in use at some time; a scan comes to its end there.
    #[must_use]
    pub const fn slots_used(&self) -> u32 {
        self.slab.fresh()
    }

    /// Shows `visit` the flows of the next `slots` records from `cursor` on; the cursor to go on from, or `None` at the
    /// end. Flows that come and go meanwhile may be missed.
    pub fn scan(&self, cursor: u32, slots: u32, mut visit: impl FnMut(FlowRef, FlowView)) -> Option<u32> {
        let end = cursor.saturating_add(slots).min(self.slab.fresh());
        for slot in (cursor..end).filter(|&slot| self.slab.state(slot).is_live()) {
            visit(FlowRef(slot), self.view(FlowRef(slot)));
        }
        (end < self.slab.fresh()).then_some(end)
    }

    /// True if the flow was removed.
    fn sweep_slot(&mut self, slot: u32, now: Millis, liveness: &impl Liveness) -> bool {
        let state = self.slab.state(slot);
        if !state.is_live() {
            return false;
        }
        if self.expiry.is_over(state, now) {
            self.expire(slot);
            return true;
        }
        let (service, backend) = record::ids(self.slab.head(slot));
        let service_gone = service != ServiceId::NONE && !liveness.service_is_live(service);
        let backend_gone = backend != BackendId::NONE && !liveness.backend_is_live(backend);
        if self.has_drained(slot, now, (backend, backend_gone), liveness) {
            self.stats.drained += 1;
            self.remove(FlowRef(slot));
            return true;
        }
        if !service_gone && !backend_gone {
            return false;
        }
        if state.protocol() == Protocol::Udp {
            self.remove(FlowRef(slot));
            return true;
        }
        let service = if service_gone { ServiceId::NONE } else { service };
        let backend = if backend_gone { BackendId::NONE } else { backend };
        record::set_ids(self.slab.head_mut(slot), service, backend);
        false
    }

    /// Whether the flow has been at a backend that drains or is gone for as long as it may. The time is taken from the first
    /// sweep that finds it so.
    fn has_drained(
        &mut self,
        slot: u32,
        now: Millis,
        (backend, gone): (BackendId, bool),
        liveness: &impl Liveness,
    ) -> bool {
        let Some(deadline_ms) = liveness.drain_deadline_ms() else { return false };
        let head = self.slab.head_mut(slot);
        if State(head[STATE]).is_queued() {
            return false;
        }
        let leaves = gone || backend == BackendId::NONE || liveness.backend_drains(backend);
        match record::leaving_since(head) {
            _ if !leaves => record::set_leaving(head, None),
            None => record::set_leaving(head, Some(now)),
            Some(since) => return now.since(since) >= deadline_ms && now.since(since) <= i32::MAX as u32,
        }
        false
    }
}
