//! The usual packet: of a flow whose both ways work, found where the hint says, its next hop known. One look at the
//! record tells all that its forwarder wants. Any other packet takes the steps one by one, and comes to the same.

use packet::nat::Rewrite;
use packet::{Address, FlowKey, TcpFlags};

use super::record::{STATE, State};
use super::{Candidate, FlowRef, FlowTable, Numbers, record};
use crate::{BackendId, Millis, NextHopId};

/// All that the flow table knows for forwarding the usual packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usual<A> {
    /// Its flow.
    pub flow: FlowRef,
    /// The backend of that.
    pub backend: BackendId,
    /// What to make of the packet.
    pub rewrite: Rewrite<A>,
    /// Where it goes then.
    pub next_hop: NextHopId,
}

impl FlowTable {
    /// Notes a packet as [`find`](Self::find) and [`touch`](Self::touch) do, if it is a usual one; `None` says nothing,
    /// and nothing was noted.
    #[inline(always)]
    pub fn note_usual<A: Address>(
        &mut self,
        candidate: Candidate,
        (key, flags, numbers): (&FlowKey<A>, TcpFlags, impl FnOnce() -> Numbers),
        fib_epoch: u32,
        now: Millis,
    ) -> Option<Usual<A>> {
        let place = candidate.0?;
        let record = self.slab.record_mut(place.slot);
        let state = State(record.first()?[STATE]);
        let usual = state.is_settled_of(A::FAMILY, key.protocol) && !flags.steers();
        if !usual || !record::has_key(record, place.direction, key) {
            return None;
        }
        let head = record.first_mut()?;
        let next_hop = record::next_hop(head, place.direction, fib_epoch)?;
        // Most packets of a busy flow fall into the millisecond of the last one: their line stays clean.
        if state.last_seen() != now {
            if self.expiry.is_over(state, now) {
                return None;
            }
            head[STATE] = state.seen_at(now).0;
            numbers().note(head, place.direction);
        }
        let backend = record::ids(head).1;
        Some(Usual {
            flow: FlowRef(place.slot),
            backend,
            rewrite: record::rewrite(record, place.direction),
            next_hop,
        })
    }
}
