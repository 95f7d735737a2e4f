//! Flow table of one worker: packets with one 5-tuple keep their backend and their rewrite. One record, two keys
//! (original and reply), which live and die together.
//! Invariants: nothing is allocated after construction; a flow whose both ends have spoken is never recycled; a record is
//! self-contained but for (slot, epoch) ids. Time is an argument. Not here: which backend (`maglev`), which source port
//! (`snat`), when a phase changes (`tcp_state`).
//!
//! A burst looks its packets up in steps, so that their cache misses overlap: [`FlowTable::hash`] and
//! [`FlowTable::prefetch_bucket`] for all, then [`FlowTable::candidate`] for all, then [`FlowTable::find`]. A hit reads
//! one line of the index and one of the slab (two for IPv6).

mod index;
mod numbers;
mod record;
mod slab;
mod sweep;
mod touch;
mod usual;
mod view;

use std::fmt;
use std::io;

use packet::{Address, Family, FlowKey, plain::Plain};

use self::index::{Index, Place};
use self::record::{Expiry, State};
use self::slab::{Queue, Slab};
use crate::hash::{FlowHash, FlowHasher};
use crate::tcp_state::Timeouts;
use crate::{BackendId, Millis, NatMode, ServiceId};

pub use self::numbers::Numbers;
pub use self::sweep::{Liveness, Swept};
pub use self::touch::Touch;
pub use self::usual::Usual;
pub use self::view::FlowView;

/// Which of a flow's two keys a packet has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Client to Service.
    Original,
    /// Backend to client (or to the SNAT address).
    Reply,
}

/// A flow of the table that gave this out. Good until that table inserts, sweeps, or removes a flow: then the slot may
/// hold another flow, and [`FlowTable::still_holds`] tells.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowRef(u32);

/// What a hash's first bucket has for it, found while the rest of the burst waits for memory; a hint only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate(Place);

impl Candidate {
    /// No hint.
    pub const NONE: Self = Self(Place::NONE);
}

/// Sizes and clocks of a [`FlowTable`].
#[derive(Clone, Copy, Debug)]
pub struct FlowTableConfig {
    /// Flows it holds at most, of both families together; 2^30 at most.
    pub flows: u32,
    /// Reserve two lines a flow, so that any of them may be IPv6: 160 bytes a flow instead of 96.
    pub ipv6: bool,
    /// Random and new at every start: keeps clients from aiming at one bucket.
    pub secret: u64,
    /// When a silent flow is gone.
    pub timeouts: Timeouts,
}

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

/// What a table holds, and has done since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowStats {
    /// Flows it can hold.
    pub capacity: u32,
    /// Flows it holds.
    pub used: u32,
    /// Half-open flows, which may be recycled.
    pub embryonic: u32,
    /// Flows entered.
    pub created: u64,
    /// Flows gone by their timeout.
    pub expired: u64,
    /// Half-open flows that made room for another.
    pub recycled: u64,
    /// Flows taken out otherwise: by `remove`, because their backend went, or closed ones for their key.
    pub removed: u64,
    /// Flows refused because the table was full.
    pub refused: u64,
    /// Of those removed: such as were at a backend that drains or is gone for as long as they may.
    pub drained: u64,
}

/// See the module.
pub struct FlowTable {
    hasher: FlowHasher,
    index: Index,
    slab: Slab,
    half_open: Queue,
    expiry: Expiry,
    ipv6: bool,
    /// From this many flows on, a new one takes the place of the oldest half-open one.
    recycle_from: u32,
    sweep_cursor: u32,
    stats: FlowStats,
}

impl FlowTable {
    /// A table with all its memory reserved and touched.
    ///
    /// # Errors
    /// When the system has not that much memory, or `flows` is 0 or above 2^30.
    pub fn new(config: &FlowTableConfig) -> io::Result<Self> {
        if !(1..=1 << 30).contains(&config.flows) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a flow table holds 1 to 2^30 flows"));
        }
        Ok(Self {
            hasher: FlowHasher::new(config.secret),
            index: Index::new(config.flows)?,
            slab: Slab::new(config.flows, if config.ipv6 { 2 } else { 1 })?,
            half_open: Queue::new(),
            expiry: Expiry::new(&config.timeouts),
            ipv6: config.ipv6,
            recycle_from: config.flows - config.flows / 10,
            sweep_cursor: 0,
            stats: FlowStats::default(),
        })
    }

    /// The hash of one direction of a flow, for the steps below.
    #[inline]
    #[must_use]
    pub fn hash<A: Address>(&self, key: &FlowKey<A>) -> FlowHash {
        self.hasher.hash(key)
    }

    /// The same for a plain packet.
    #[inline(always)]
    #[must_use]
    pub fn hash_plain(&self, plain: &Plain) -> FlowHash {
        self.hasher.hash_plain(plain)
    }

    /// Step 1: asks for the line of the index where the hash is most likely to be.
    #[inline]
    pub fn prefetch_bucket(&self, hash: FlowHash) {
        self.index.prefetch_first(hash);
    }

    /// Step 2: reads that line, and asks for the record it names or else for the hash's other bucket.
    #[inline]
    #[must_use]
    pub fn candidate(&self, hash: FlowHash) -> Candidate {
        let Some(place) = self.index.candidate(hash) else {
            self.index.prefetch_second(hash);
            return Candidate::NONE;
        };
        self.slab.prefetch(place.slot());
        Candidate(place)
    }

    /// Step 3: the flow that has `key`, and which of its keys that is. An expired flow is removed and not found.
    #[inline]
    pub fn find<A: Address>(
        &mut self,
        hash: FlowHash,
        candidate: Candidate,
        key: &FlowKey<A>,
        now: Millis,
    ) -> Option<(FlowRef, Direction)> {
        let place = match candidate {
            Candidate(place) if candidate != Candidate::NONE && self.holds(place, key) => place,
            _ => self.find_place(hash, key)?,
        };
        if self.expiry.is_over(self.slab.state(place.slot()), now) {
            self.expire(place.slot());
            return None;
        }
        Some((FlowRef(place.slot()), place.direction()))
    }

    /// True if no flow has a key of this hash: nothing is to be seen of one in either bucket. False says nothing.
    #[inline]
    #[must_use]
    pub fn is_absent(&self, hash: FlowHash) -> bool {
        self.index.is_absent(hash)
    }

    /// For a key that may be entered: asks for both lines of the index where it could be.
    #[inline]
    pub fn prefetch_buckets(&self, hash: FlowHash) {
        self.index.prefetch_first(hash);
        self.index.prefetch_second(hash);
    }

    /// All steps at once, for a single key.
    pub fn lookup<A: Address>(&mut self, key: &FlowKey<A>, now: Millis) -> Option<(FlowRef, Direction)> {
        let hash = self.hash(key);
        self.prefetch_buckets(hash);
        self.find(hash, Candidate::NONE, key, now)
    }

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
        hashes.into_iter().for_each(|hash| self.prefetch_buckets(hash));
        let free = flow.original != flow.reply
            && self.is_free(hashes[0], &flow.original, now)
            && self.is_free(hashes[1], &flow.reply, now);
        if !free {
            return Err(InsertError::KeyTaken);
        }
        self.enter(flow, hashes, now)
    }

    /// The same for keys that the caller has just looked up, and neither was found; they are not looked up again.
    ///
    /// # Errors
    /// See [`FlowTable::insert`].
    pub fn insert_absent<A: Address>(
        &mut self,
        flow: &NewFlow<A>,
        now: Millis,
    ) -> Result<FlowRef, InsertError> {
        if A::FAMILY == Family::V6 && !self.ipv6 {
            return Err(InsertError::Ipv6NotReserved);
        }
        if flow.original == flow.reply {
            return Err(InsertError::KeyTaken);
        }
        let hashes = [self.hash(&flow.original), self.hash(&flow.reply)];
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

    /// Takes a flow out.
    pub fn remove(&mut self, flow: FlowRef) {
        self.stats.removed += 1;
        self.discard(flow.0);
    }

    /// Puts other timeouts in force, for the flows that are there too.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) {
        self.expiry = Expiry::new(timeouts);
    }

    /// Counts and gauges.
    #[must_use]
    pub fn stats(&self) -> FlowStats {
        let (capacity, used, embryonic) = (self.slab.capacity(), self.slab.used(), self.half_open.len());
        FlowStats { capacity, used, embryonic, ..self.stats }
    }

    /// Bytes of memory of the index and the slab.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.slab.bytes()
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

    /// Where the key is, expired or not; out of the way of packets whose candidate is the right one.
    #[inline(never)]
    fn find_place<A: Address>(&self, hash: FlowHash, key: &FlowKey<A>) -> Option<Place> {
        self.index.find(hash, |place| self.holds(place, key))
    }

    #[inline]
    fn holds<A: Address>(&self, place: Place, key: &FlowKey<A>) -> bool {
        record::holds(self.slab.record(place.slot()), place.direction(), key)
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
        let state =
            State::new(A::FAMILY, flow.original.protocol, flow.mode, now).unanswered(true).queued(true);
        record::put(self.slab.record_mut(slot), flow, state);
        self.half_open.push(&mut self.slab, slot);
    }

    /// Gives the room of the oldest half-open flow free. In a flood that happens at every insertion, so the lines that
    /// the next two times will want are asked for now: the index of the new oldest, whose record was asked for the last
    /// time, and the record behind it.
    fn recycle(&mut self) {
        let Some(slot) = self.half_open.oldest() else { return };
        self.stats.recycled += 1;
        self.discard(slot);
        let Some(next) = self.half_open.oldest() else { return };
        for direction in [Direction::Original, Direction::Reply] {
            self.index.prefetch_first(record::hash(&self.hasher, self.slab.record(next), direction));
        }
        if let Some(behind) = Queue::next(&self.slab, next) {
            self.slab.prefetch(behind);
        }
    }

    fn expire(&mut self, slot: u32) {
        self.stats.expired += 1;
        self.discard(slot);
    }

    /// Takes both keys out of the index, the flow out of the queue, and frees its record.
    fn discard(&mut self, slot: u32) {
        debug_assert!(self.slab.state(slot).is_live(), "a stale slot");
        for direction in [Direction::Original, Direction::Reply] {
            let hash = record::hash(&self.hasher, self.slab.record(slot), direction);
            let removed = self.index.remove(hash, Place::new(slot, direction));
            debug_assert!(removed, "every key of a live flow is in the index");
        }
        if self.slab.state(slot).is_queued() {
            self.half_open.unlink(&mut self.slab, slot);
        }
        self.slab.release(slot);
    }
}

#[cfg(test)]
mod tests;
