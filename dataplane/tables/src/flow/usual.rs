//! The usual packet: a plain one of a flow whose both ways work, or of which one is used alone, so that it renews the
//! flow's time and does no more; found where the hint says, its next hop known. One look at the record tells all that its
//! forwarder wants. Any other packet takes the steps one by one, and comes to the same.

use packet::Family;
use packet::checksum::Delta;
use packet::nat::PlainRewrite;
use packet::plain::{Ends, Plain};

use super::record::{DELTAS, HOPS, Line, NO_HOP, PORTS, REPLY_ADDRESSES, STATE, upper};
use super::state::State;
use super::{Candidate, Direction, FlowRef, FlowTable, Numbers, record};
use crate::hash::lower;
use crate::{BackendId, Millis, NextHopId};

/// All that the flow table knows for forwarding the usual packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usual<E> {
    /// The backend of its flow.
    pub backend: BackendId,
    /// What to make of the packet.
    pub rewrite: PlainRewrite<E>,
    /// Where it goes then.
    pub next_hop: NextHopId,
}

impl FlowTable {
    /// Notes a packet as [`find`](Self::find) and [`touch`](Self::touch) do, if it is a usual one; `None` says nothing,
    /// and nothing was noted.
    #[inline(always)]
    pub fn note_usual<E: Ends>(
        &mut self,
        candidate: Candidate,
        (plain, numbers): (&Plain<E>, impl FnOnce() -> Numbers),
        fib_epoch: u32,
        now: Millis,
    ) -> Option<Usual<E>> {
        let (slot, reply) = (candidate.0.slot(), candidate.0.is_reply());
        let (head, tail) = match E::FAMILY {
            Family::V4 => (self.slab.get_head_mut(slot)?, &[0; 8]),
            Family::V6 => {
                let (head, tail) = self.slab.get_mut(slot)?.split_first_mut()?;
                (head, tail.first()? as &_)
            }
        };
        let side = Side::<E>::of(head, tail, reply)?;
        let state = State(head[STATE]);
        let usual = state.rests_of(E::FAMILY, plain.protocol, reply) && !plain.flags.steers();
        if !usual || side.from != (plain.ends, plain.ports) {
            return None;
        }
        let next_hop = side.next_hop(fib_epoch)?;
        // Most packets of a busy flow fall into the millisecond of the last one: their line stays clean.
        if state.last_seen() != now {
            if self.expiry.is_over(state, now) {
                return None;
            }
            head[STATE] = state.seen_at(now).0;
            if state.is_settled() {
                numbers().note(head, candidate.0.direction());
            }
        }
        Some(Usual { backend: record::ids(head).1, rewrite: side.rewrite, next_hop })
    }

    /// What a packet of this direction wants of a flow that was just found or entered, and for which it was noted;
    /// `None` if no next hop is known.
    #[inline]
    #[must_use]
    pub fn usual<E: Ends>(&self, flow: FlowRef, direction: Direction, fib_epoch: u32) -> Option<Usual<E>> {
        let (head, tail) = self.slab.record(flow.0).split_first()?;
        let side = Side::<E>::of(head, tail.first().unwrap_or(&[0; 8]), direction as u32)?;
        let next_hop = side.next_hop(fib_epoch)?;
        Some(Usual { backend: record::ids(head).1, rewrite: side.rewrite, next_hop })
    }
}

/// What the record of a plain packet's flow says of one of its directions, at once and without a branch on which.
struct Side<E> {
    /// The addresses and ports that its packets arrive with.
    from: (E, u32),
    /// Those that they leave with, and the checksum deltas.
    rewrite: PlainRewrite<E>,
    /// [`NO_HOP`] for none.
    hop: u16,
    hop_epoch: u32,
}

impl<E: Ends> Side<E> {
    /// Reads one direction from the lines of a record; `reply` is 1 for the reply, else 0. IPv4 has nothing in the tail.
    #[inline(always)]
    fn of(head: &Line, tail: &Line, reply: u32) -> Option<Self> {
        let (here, there) = ((reply & 1) as usize, (!reply & 1) as usize);
        let (from, to) = match E::FAMILY {
            Family::V4 => (
                E::from_words(&head[REPLY_ADDRESSES * here..])?,
                E::from_words(&head[REPLY_ADDRESSES * there..])?,
            ),
            Family::V6 => (E::from_words(&tail[4 * here..])?, E::from_words(&tail[4 * there..])?),
        };
        let ports = head[PORTS].rotate_left(32 * reply);
        // The deltas of the reply are the inverses.
        let deltas = upper(head[DELTAS]) ^ reply.wrapping_neg();
        let hops = head[HOPS];
        Some(Self {
            from: (from, upper(ports)),
            rewrite: PlainRewrite {
                ends: to.reversed(),
                ports: lower(ports).rotate_left(16),
                ip: Delta::from_bits((deltas >> 16) as u16),
                l4: Delta::from_bits((deltas & 0xffff) as u16),
            },
            hop: (hops >> (48 - 16 * reply) & 0xffff) as u16,
            hop_epoch: lower(hops),
        })
    }

    /// The next hop, if it was resolved under this epoch of the FIB.
    #[inline(always)]
    fn next_hop(&self, fib_epoch: u32) -> Option<NextHopId> {
        (self.hop_epoch == fib_epoch && self.hop != NO_HOP).then_some(NextHopId(self.hop))
    }
}
