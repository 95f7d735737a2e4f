//! The datagrams that are followed: an index of their names, and an entry for each. What becomes free is used next, so that
//! the few entries in use stay near the processor, whatever their names are.

use tables::{DropReason, Millis, hash::FlowHash};

use super::{Course, DATAGRAM_MS, DATAGRAMS_MAX, Datagram, PARTS_MAX, Part};

/// Datagrams with one hash that are followed at a time.
pub(super) const WAYS: usize = 4;
/// As many places as entries: where there is one, there is the other.
const BUCKETS: usize = DATAGRAMS_MAX / WAYS;
/// Set in the tag of every used place.
const USED: u32 = 1 << 31;
/// No part has said where the datagram ends.
const NO_END: u32 = u32::MAX;

/// A datagram's place; good until the next one is noted, or this one is released.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Slot {
    bucket: usize,
    way: usize,
    entry: u16,
}

/// Some bits of the hashes of datagrams, 0 where there is none, and their entries.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Bucket {
    tags: [u32; WAYS],
    entries: [u16; WAYS],
}

/// What is known of a datagram.
pub(super) struct Entry {
    pub(super) datagram: Datagram,
    pub(super) course: Course,
    /// Parts of it may be waiting.
    pub(super) awaited: bool,
    since: Millis,
    /// Counts up from datagram to datagram: in a flood many share a millisecond.
    order: u64,
    /// Bytes of all parts.
    bytes: u32,
    /// Where the last one ends, or [`NO_END`].
    end: u32,
    /// Where the one that reaches farthest ends.
    reach: u16,
    count: u16,
    parts: [Part; PARTS_MAX],
}

/// See the module.
pub(super) struct Datagrams {
    buckets: Box<[Bucket]>,
    entries: Box<[Entry]>,
    /// Entries in no bucket, the one used last on top.
    free: Vec<u16>,
    /// Of the newest datagram.
    order: u64,
}

impl Entry {
    fn begin(&mut self, datagram: Datagram, order: u64, now: Millis) {
        (self.datagram, self.course, self.awaited) = (datagram, Course::Unknown, false);
        (self.since, self.order) = (now, order);
        (self.bytes, self.end, self.reach, self.count) = (0, NO_END, 0, 0);
    }

    fn is_late(&self, now: Millis) -> bool {
        now.since(self.since) >= DATAGRAM_MS
    }

    /// Notes a part.
    ///
    /// # Errors
    /// Why it goes no further.
    #[inline]
    pub(super) fn add(&mut self, part: Part) -> Result<(), DropReason> {
        if let Course::Refused(reason) = self.course {
            return Err(reason);
        }
        // Nothing was said of what lies behind all parts, unless one was the last.
        if part.start < self.reach || self.end != NO_END {
            self.compare(part)?;
        }
        let Some(place) = self.parts.get_mut(usize::from(self.count)) else {
            return Err(self.refuse());
        };
        *place = part;
        self.count += 1;
        self.bytes += u32::from(part.end - part.start);
        self.reach = self.reach.max(part.end);
        if part.last {
            self.end = part.end.into();
        }
        Ok(())
    }

    /// Looks for what a part repeats or contradicts.
    fn compare(&mut self, part: Part) -> Result<(), DropReason> {
        let parts = &self.parts[..self.count.into()];
        // RFC 8200 §4.5: networks repeat packets; that alone is no attack.
        if parts.contains(&part) {
            return Err(DropReason::FragmentRepeated);
        }
        if parts.iter().any(|other| part.contradicts(*other)) {
            return Err(self.refuse());
        }
        Ok(())
    }

    #[cold]
    fn refuse(&mut self) -> DropReason {
        self.course = Course::Refused(DropReason::FragmentOverlap);
        DropReason::FragmentOverlap
    }

    /// Parts share no bytes, so they are all there if they are as long together as the last one ends.
    #[inline]
    pub(super) const fn is_complete(&self) -> bool {
        self.end == self.bytes
    }
}

impl Datagrams {
    pub(super) fn new() -> Self {
        let unused = || Entry {
            datagram: Datagram::NONE,
            course: Course::Unknown,
            awaited: false,
            since: Millis(0),
            order: 0,
            bytes: 0,
            end: NO_END,
            reach: 0,
            count: 0,
            parts: [Part { start: 0, end: 0, last: false }; PARTS_MAX],
        };
        Self {
            buckets: vec![Bucket { tags: [0; WAYS], entries: [0; WAYS] }; BUCKETS].into(),
            entries: (0..DATAGRAMS_MAX).map(|_| unused()).collect(),
            free: (0..u16::MAX).take(DATAGRAMS_MAX).collect(),
            order: 0,
        }
    }

    /// See [`Fragments::slot`](super::Fragments::slot).
    #[inline]
    pub(super) fn slot(&mut self, datagram: Datagram, hash: FlowHash, now: Millis) -> Slot {
        let bucket = usize::try_from(hash.0 % BUCKETS as u64).unwrap_or(0);
        let tag = u32::try_from(hash.0 >> 32).unwrap_or(0) | USED;
        let Bucket { tags, entries } = &self.buckets[bucket];
        for way in 0..WAYS {
            let known = &self.entries[usize::from(entries[way])];
            if tags[way] == tag && known.datagram == datagram && !known.is_late(now) {
                return Slot { bucket, way, entry: entries[way] };
            }
        }
        self.begin(datagram, (bucket, tag), now)
    }

    /// Gives a new datagram a place.
    fn begin(&mut self, datagram: Datagram, (bucket, tag): (usize, u32), now: Millis) -> Slot {
        let Bucket { tags, entries } = &mut self.buckets[bucket];
        let unused = tags.iter().position(|tag| *tag == 0);
        let (way, entry) = match unused.and_then(|way| Some((way, self.free.pop()?))) {
            Some(place) => place,
            None => Self::oldest(&self.entries, entries, now),
        };
        (tags[way], entries[way]) = (tag, entry);
        self.order += 1;
        self.entries[usize::from(entry)].begin(datagram, self.order, now);
        Slot { bucket, way, entry }
    }

    /// Of a full bucket, the place of a datagram that is late, else of the one that was there first.
    #[cold]
    fn oldest(all: &[Entry], bucket: &[u16; WAYS], now: Millis) -> (usize, u16) {
        let age = |&(_, entry): &(usize, u16)| {
            let entry = &all[usize::from(entry)];
            (!entry.is_late(now), entry.order)
        };
        bucket.iter().copied().enumerate().min_by_key(age).unwrap_or((0, bucket[0]))
    }

    #[inline]
    pub(super) fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[usize::from(slot.entry)]
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[usize::from(slot.entry)]
    }

    /// Forgets a datagram.
    #[inline]
    pub(super) fn release(&mut self, slot: Slot) {
        self.buckets[slot.bucket].tags[slot.way] = 0;
        self.free.push(slot.entry);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// Datagrams come and go in any order, in few buckets and past their time: every entry is in use in one place or
        /// free, and what was found last is found again.
        #[test]
        fn an_entry_is_in_one_place_or_free(steps in vec((0..40u32, 0..3u64, any::<bool>(), 0..DATAGRAM_MS / 4), 1..300)) {
            let (mut datagrams, mut now) = (Datagrams::new(), Millis(u32::MAX - 5_000));
            for (id, bucket, release, later) in steps {
                now = now.plus(later);
                let datagram = Datagram { id, ..Datagram::NONE };
                let hash = FlowHash(u64::from(id % 7) << 32 | bucket);
                let slot = datagrams.slot(datagram, hash, now);
                prop_assert_eq!(datagrams.slot(datagram, hash, now), slot);
                prop_assert_eq!(datagrams.entry(slot).datagram, datagram);
                if release {
                    datagrams.release(slot);
                }
            }
            let used = datagrams.buckets.iter().flat_map(|bucket| bucket.tags.iter().zip(bucket.entries));
            let used = used.filter(|(tag, _)| **tag != 0).map(|(_, entry)| entry);
            let all: Vec<u16> = used.chain(datagrams.free.iter().copied()).collect();
            let apart: HashSet<u16> = all.iter().copied().collect();
            prop_assert_eq!((all.len(), apart.len()), (DATAGRAMS_MAX, DATAGRAMS_MAX));
        }
    }
}
