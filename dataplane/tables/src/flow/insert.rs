//! A new flow, and how it is entered: room for it, in a flood that of the oldest half-open one, and both of its keys.

use std::fmt;

use packet::{Address, Family, FlowKey};

use super::index::Place;
use super::record;
use super::slab::Queue;
use super::state::State;
use super::{Candidate, Direction, FlowRef, FlowTable};
use crate::hash::FlowHash;
use crate::{BackendId, Millis, NatMode, ServiceId};

/// A flow to be entered. Its first packet is counted as seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewFlow<A> {
    /// Key of the client's packets as they arrive.
    pub original: FlowKey<A>,
    /// Key of the backend's packets as they arrive.
    pub reply: FlowKey<A>,
    /// The Service port it belongs to.
    pub service: ServiceId,
    /// The backend it is pinned to.
    pub backend: BackendId,
    /// How it is rewritten; for reports, since the keys say all.
    pub mode: NatMode,
}

/// Why a flow was not entered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InsertError {
    /// The table is full of flows that may not be recycled, or (never seen) both buckets of a key are.
    Full,
    /// A flow that is not closed has one of the two keys, or the two are equal.
    KeyTaken,
    /// An IPv6 flow in a table that reserved no room for its addresses.
    Ipv6NotReserved,
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the flow table is full",
            Self::KeyTaken => "another flow has this key",
            Self::Ipv6NotReserved => "the flow table has no room for IPv6",
        })
    }
}

impl std::error::Error for InsertError {}

/// Flows whose lines are asked for before they go.
const AHEAD: usize = 4;

/// The hashes of flows that go soon, made when their lines were asked for; a ring.
pub(super) struct Ahead {
    known: [(u32, [FlowHash; 2]); AHEAD],
    /// Where the next is noted.
    at: usize,
}

impl Ahead {
    /// Of no flow: slots are below 2^30.
    const NONE: (u32, [FlowHash; 2]) = (u32::MAX, [FlowHash(0); 2]);

    pub(super) const fn new() -> Self {
        Self { known: [Self::NONE; AHEAD], at: 0 }
    }

    fn get(&self, slot: u32) -> Option<[FlowHash; 2]> {
        self.known.iter().find(|(known, _)| *known == slot).map(|(_, hashes)| *hashes)
    }

    /// The same of a flow whose slot is given free, which is forgotten.
    pub(super) fn take(&mut self, slot: u32) -> Option<[FlowHash; 2]> {
        let hashes = self.get(slot)?;
        // It may be there twice: where flows between leave the queue, the look ahead begins anew.
        self.known.iter_mut().filter(|(known, _)| *known == slot).for_each(|known| *known = Self::NONE);
        Some(hashes)
    }

    /// The flow that was noted last, if it has not gone.
    fn last(&self) -> Option<u32> {
        let (slot, _) = self.known[(self.at + AHEAD - 1) % AHEAD];
        (slot != u32::MAX).then_some(slot)
    }

    /// The next to be noted displaces none.
    fn has_room(&self) -> bool {
        self.known[self.at].0 == u32::MAX
    }

    fn note(&mut self, slot: u32, hashes: [FlowHash; 2]) {
        self.known[self.at] = (slot, hashes);
        self.at = (self.at + 1) % AHEAD;
    }
}

impl FlowTable {
    /// Enters a flow whose first packet arrives now. From 90 % of the capacity on it takes the place of the oldest
    /// half-open flow.
    ///
    /// # Errors
    /// See [`InsertError`]; `Full` is counted as refused.
    pub fn insert<A: Address>(&mut self, flow: &NewFlow<A>, now: Millis) -> Result<FlowRef, InsertError> {
        if A::FAMILY == Family::V6 && !self.ipv6 {
            return Err(InsertError::Ipv6NotReserved);
        }
        let hashes = [self.hash(&flow.original), self.hash(&flow.reply)];
        hashes.into_iter().for_each(|hash| self.prefetch_bucket(hash));
        let free = flow.original != flow.reply
            && self.is_free(hashes[0], &flow.original, now)
            && self.is_free(hashes[1], &flow.reply, now);
        if !free {
            return Err(InsertError::KeyTaken);
        }
        self.enter(flow, hashes, now)
    }

    /// The same for keys that the caller has just looked up, and neither was found, with the hashes of the original and
    /// the reply key; they are not looked up again.
    ///
    /// # Errors
    /// See [`FlowTable::insert`].
    pub fn insert_absent<A: Address>(
        &mut self,
        flow: &NewFlow<A>,
        hashes: [FlowHash; 2],
        now: Millis,
    ) -> Result<FlowRef, InsertError> {
        if A::FAMILY == Family::V6 && !self.ipv6 {
            return Err(InsertError::Ipv6NotReserved);
        }
        if flow.original == flow.reply {
            return Err(InsertError::KeyTaken);
        }
        debug_assert_eq!(hashes, [self.hash(&flow.original), self.hash(&flow.reply)]);
        debug_assert!(self.find_place(hashes[0], &flow.original).is_none());
        debug_assert!(self.find_place(hashes[1], &flow.reply).is_none());
        self.enter(flow, hashes, now)
    }

    fn enter<A: Address>(
        &mut self,
        flow: &NewFlow<A>,
        hashes: [FlowHash; 2],
        now: Millis,
    ) -> Result<FlowRef, InsertError> {
        if self.slab.used() >= self.recycle_from {
            self.recycle();
        }
        let entered = self.slab.take().filter(|&slot| self.enter_keys(slot, hashes));
        let Some(slot) = entered else {
            self.stats.refused += 1;
            return Err(InsertError::Full);
        };
        // Of the next insertion: by then the line is here.
        self.slab.prefetch_free();
        self.write(slot, flow, now);
        self.stats.created += 1;
        Ok(FlowRef(slot))
    }

    /// True if no flow has the key. A closed one gives way: clients use a source port again for another Service long
    /// before we forget it, and in dnat mode both flows may have one backend and hence one reply key.
    fn is_free<A: Address>(&mut self, hash: FlowHash, key: &FlowKey<A>, now: Millis) -> bool {
        match self.find(hash, Candidate::NONE, key, now) {
            Some((flow, _)) if self.phase(flow).is_closed() => self.remove(flow),
            Some(_) => return false,
            None => {}
        }
        true
    }

    /// Both keys into the index, or neither and the slot given back.
    fn enter_keys(&mut self, slot: u32, [original, reply]: [FlowHash; 2]) -> bool {
        let places = [Direction::Original, Direction::Reply].map(|direction| Place::new(slot, direction));
        if self.index.insert(original, places[0]) {
            if self.index.insert(reply, places[1]) {
                return true;
            }
            self.index.remove(original, places[0]);
        }
        self.slab.release(slot);
        false
    }

    fn write<A: Address>(&mut self, slot: u32, flow: &NewFlow<A>, now: Millis) {
        let state = State::new(A::FAMILY, flow.original.protocol, flow.mode, now);
        let state = state.unanswered(true).queued(true).with_rests();
        record::put(self.slab.record_mut(slot), flow, state);
        self.half_open.push(&mut self.slab, slot);
    }

    /// Gives the room of the oldest half-open flow free. In a flood that happens at every insertion, so the lines that
    /// later times will want are asked for now, some insertions early: records first, then the index lines that their
    /// keys should be in, and last those that they are away in.
    fn recycle(&mut self) {
        let Some(slot) = self.half_open.oldest() else { return };
        self.stats.recycled += 1;
        self.discard(slot);
        let Some(next) = self.half_open.oldest() else { return };
        if let Some(hashes) = self.ahead.get(next) {
            hashes.into_iter().for_each(|hash| self.index.prefetch_second(hash));
        }
        let known = self.ahead.last().filter(|&last| self.slab.state(last).is_queued());
        let Some(after) = Queue::next(&self.slab, known.unwrap_or(next)) else { return };
        self.look_ahead(after);
        let Some(behind) = Queue::next(&self.slab, after) else { return };
        if self.ahead.has_room() {
            self.look_ahead(behind);
        }
        if let Some(far) = Queue::next(&self.slab, behind) {
            self.slab.prefetch(far);
        }
    }

    /// Notes the hashes of a flow that goes soon, and asks for the lines of the index that they name.
    fn look_ahead(&mut self, slot: u32) {
        let hashes = self.hashes(slot);
        self.ahead.note(slot, hashes);
        hashes.into_iter().for_each(|hash| self.index.prefetch_first(hash));
    }

    /// The hashes of both keys of a record.
    pub(super) fn hashes(&self, slot: u32) -> [FlowHash; 2] {
        let record = self.slab.record(slot);
        [Direction::Original, Direction::Reply].map(|direction| record::hash(&self.hasher, record, direction))
    }
}
