//! Walks over the whole table a few slots at a time: expiry, deleted backends, reports.

use packet::Protocol;

use super::{FlowRef, FlowTable, FlowView, record};
use crate::{BackendId, Millis, ServiceId, Tables};

/// Which ids still mean something.
pub trait Liveness {
    /// True if the Service port is there, in this epoch of its slot.
    fn service_is_live(&self, service: ServiceId) -> bool;
    /// True if the backend is there, in this epoch of its slot.
    fn backend_is_live(&self, backend: BackendId) -> bool;
}

impl Liveness for Tables {
    fn service_is_live(&self, service: ServiceId) -> bool {
        self.services.get(service).is_some()
    }

    fn backend_is_live(&self, backend: BackendId) -> bool {
        self.backends.is_live(backend)
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
}
