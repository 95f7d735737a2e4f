//! What can be read of a flow, and the few things that can be noted in it.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::nat::Rewrite;
use packet::{Address, AnyKey, Family, FlowKey};

use super::record::STATE;
use super::state::State;
use super::{Direction, FlowRef, FlowTable, record};
use crate::tcp_state::Phase;
use crate::{BackendId, IdleTimeout, Millis, NatMode, NextHopId, ServiceId};

/// All that is known of a flow; for reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowView {
    /// Key of the client's packets.
    pub original: AnyKey,
    /// Key of the backend's packets.
    pub reply: AnyKey,
    /// The Service port; `NONE` once it was deleted.
    pub service: ServiceId,
    /// The backend; `NONE` once it was deleted.
    pub backend: BackendId,
    /// How packets are rewritten.
    pub mode: NatMode,
    /// How far the flow has come.
    pub phase: Phase,
    /// A reply was seen.
    pub answered: bool,
    /// Time of the last packet.
    pub last_seen: Millis,
}

impl FlowTable {
    /// What to make of the flow's packets of one direction; `A` must be the flow's family.
    #[inline]
    #[must_use]
    pub fn rewrite<A: Address>(&self, flow: FlowRef, direction: Direction) -> Rewrite<A> {
        record::rewrite(self.slab.record(flow.0), direction)
    }

    /// True if the flow (still) has `key` in that direction.
    #[must_use]
    pub fn still_holds<A: Address>(&self, flow: FlowRef, direction: Direction, key: &FlowKey<A>) -> bool {
        record::holds(self.slab.record(flow.0), direction, key)
    }

    /// The next hop of one direction, if it was resolved under this epoch of the FIB.
    #[inline]
    #[must_use]
    pub fn next_hop(&self, flow: FlowRef, direction: Direction, fib_epoch: u32) -> Option<NextHopId> {
        record::next_hop(self.slab.head(flow.0), direction, fib_epoch)
    }

    /// Notes the next hop of one direction; what was resolved under another epoch is forgotten.
    #[inline]
    pub fn set_next_hop(&mut self, flow: FlowRef, direction: Direction, fib_epoch: u32, hop: NextHopId) {
        record::set_next_hop(self.slab.head_mut(flow.0), direction, fib_epoch, hop);
    }

    /// Lets the flow be silent for so long, whatever its phase.
    pub fn set_idle_timeout(&mut self, flow: FlowRef, idle: IdleTimeout) {
        let head = self.slab.head_mut(flow.0);
        head[STATE] = State(head[STATE]).idling_for(idle).0;
    }

    /// The Service port and the backend; `NONE` where the sweep found it deleted.
    #[inline]
    #[must_use]
    pub fn ids(&self, flow: FlowRef) -> (ServiceId, BackendId) {
        record::ids(self.slab.head(flow.0))
    }

    /// How far the flow has come.
    #[inline]
    #[must_use]
    pub fn phase(&self, flow: FlowRef) -> Phase {
        self.slab.state(flow.0).phase()
    }

    /// Time of the last packet.
    #[must_use]
    pub fn last_seen(&self, flow: FlowRef) -> Millis {
        self.slab.state(flow.0).last_seen()
    }

    /// All that is known of the flow.
    #[must_use]
    pub fn view(&self, flow: FlowRef) -> FlowView {
        let state = self.slab.state(flow.0);
        let (service, backend) = self.ids(flow);
        FlowView {
            original: self.any_key(flow, Direction::Original),
            reply: self.any_key(flow, Direction::Reply),
            service,
            backend,
            mode: state.mode(),
            phase: state.phase(),
            answered: state.is_answered(),
            last_seen: state.last_seen(),
        }
    }

    /// Which of several ways the packets of one direction take.
    #[must_use]
    pub fn way_hash(&self, flow: FlowRef, direction: Direction) -> u64 {
        let key = self.any_key(flow, direction);
        crate::hash::way_hash(key.addrs(), Some(key))
    }

    fn any_key(&self, flow: FlowRef, direction: Direction) -> AnyKey {
        let record = self.slab.record(flow.0);
        match self.slab.state(flow.0).family() {
            Family::V4 => AnyKey::V4(record::key::<Ipv4Addr>(record, direction)),
            Family::V6 => AnyKey::V6(record::key::<Ipv6Addr>(record, direction)),
        }
    }
}
