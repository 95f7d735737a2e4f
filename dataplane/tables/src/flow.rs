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
mod insert;
mod numbers;
mod record;
mod slab;
mod state;
mod sweep;
mod tags;
mod touch;
mod usual;
mod view;

use std::io;

use packet::{
    Address, FlowKey,
    plain::{Ends, Plain},
};

use self::index::{Index, Place};
use self::insert::Ahead;
use self::slab::{Queue, Slab};
use self::state::Expiry;
use crate::Millis;
use crate::hash::{FlowHash, FlowHasher};
use crate::tcp_state::Timeouts;

pub use self::insert::{InsertError, NewFlow};
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

impl Direction {
    /// The other way.
    #[inline]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
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
    ahead: Ahead,
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
            ahead: Ahead::new(),
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
    pub fn hash_plain<E: Ends>(&self, plain: &Plain<E>) -> FlowHash {
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

    /// For a new flow: reads the line that [`prefetch_bucket`](Self::prefetch_bucket) asked for, and asks for the other one
    /// that a key of this hash will want, to be looked for or entered.
    #[inline]
    pub fn prefetch_other(&self, hash: FlowHash) {
        self.index.prefetch_second(hash);
        self.index.prefetch_room(hash);
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

    /// All steps at once, for a single key.
    pub fn lookup<A: Address>(&mut self, key: &FlowKey<A>, now: Millis) -> Option<(FlowRef, Direction)> {
        self.find(self.hash(key), Candidate::NONE, key, now)
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

    /// Where the key is, expired or not; out of the way of packets whose candidate is the right one.
    #[inline(never)]
    fn find_place<A: Address>(&self, hash: FlowHash, key: &FlowKey<A>) -> Option<Place> {
        self.index.find(hash, |place| self.holds(place, key))
    }

    #[inline]
    fn holds<A: Address>(&self, place: Place, key: &FlowKey<A>) -> bool {
        record::holds(self.slab.record(place.slot()), place.direction(), key)
    }

    fn expire(&mut self, slot: u32) {
        self.stats.expired += 1;
        self.discard(slot);
    }

    /// Takes both keys out of the index, the flow out of the queue, and frees its record.
    fn discard(&mut self, slot: u32) {
        debug_assert!(self.slab.state(slot).is_live(), "a stale slot");
        let hashes = self.ahead.take(slot).unwrap_or_else(|| self.hashes(slot));
        for (hash, direction) in hashes.into_iter().zip([Direction::Original, Direction::Reply]) {
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
