//! Index of a flow table: 64-byte buckets of seven entries, each a 31-bit tag, and direction and slot. A key may live
//! in two buckets, the second computable from the first and the tag alone, so that entries can be moved without their
//! key. The first is preferred; at the load that capacity gives, 4 of 7, few entries are in their second. Each bucket
//! counts the keys that are in their second while this is their first: with none, one line says that a key is absent.
//! Source: Pagh and Rodler's cuckoo hashing with buckets, kept to a single step of displacement.

use cpu::{HugeSlice, equal_lanes};

use super::Direction;
use super::record::upper;
use crate::hash::{FlowHash, lower, scale};

/// Places of a cache line for an entry. A tag is compared with all at once.
const WIDTH: usize = 8;
/// The last has no entry: its tag stays 0, and in the other half is the count of keys that are in their second bucket.
const AWAY: usize = WIDTH - 1;
/// The tags of its entries, then where those were entered.
type Bucket = [[u32; WIDTH]; 2];
/// One bit for each place that an entry may have.
const ENTRIES: u32 = (1 << AWAY) - 1;
/// Set in the tag of every used entry, so that an empty one (0) matches no tag.
const USED: u32 = 1 << 31;
/// Set in entries of the reply key.
const REPLY: u32 = 1 << 31;
/// Set in entries that are in their second bucket; not part of a [`Place`].
const SECOND: u32 = 1 << 30;
/// Tiny tables get this many buckets anyway: luck evens out only over some of them.
const BUCKETS_MIN: u32 = 8;

/// Where a key was entered: its flow's slot, with [`REPLY`] for the reply key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place(pub(super) u32);

impl Place {
    /// No place: slots are below 2^30.
    pub(super) const NONE: Self = Self(u32::MAX);

    #[inline]
    pub(super) const fn new(slot: u32, direction: Direction) -> Self {
        match direction {
            Direction::Original => Self(slot),
            Direction::Reply => Self(slot | REPLY),
        }
    }

    #[inline]
    pub(super) const fn slot(self) -> u32 {
        self.0 & !REPLY
    }

    #[inline]
    pub(super) const fn direction(self) -> Direction {
        if self.0 & REPLY == 0 { Direction::Original } else { Direction::Reply }
    }

    /// 1 for the reply key, else 0: for those who compute instead of branching.
    #[inline]
    pub(super) const fn is_reply(self) -> u32 {
        self.0 >> 31
    }
}

pub(super) struct Index {
    buckets: HugeSlice<Bucket>,
}

impl Index {
    /// Room for two keys of each of `flows` at a load of 4 in 7: 32 bytes a flow.
    pub(super) fn new(flows: u32) -> std::io::Result<Self> {
        let buckets = flows.div_ceil(2).max(BUCKETS_MIN);
        Ok(Self { buckets: HugeSlice::zeroed(buckets as usize)? })
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    #[inline]
    pub(super) fn prefetch_first(&self, hash: FlowHash) {
        cpu::prefetch_index(&self.buckets, self.first(hash));
    }

    /// Asks for the hash's second bucket, if the first, which is read, says that a key may be there.
    #[inline]
    pub(super) fn prefetch_second(&self, hash: FlowHash) {
        let first = self.first(hash);
        if self.away(first) > 0 {
            cpu::prefetch_index(&self.buckets, self.second(first, tag(hash)));
        }
    }

    /// Asks for the hash's second bucket, if the first, which is read, has no room for a key.
    #[inline]
    pub(super) fn prefetch_room(&self, hash: FlowHash) {
        let first = self.first(hash);
        if equal_lanes(&self.buckets[first][0], 0) & ENTRIES == 0 {
            cpu::prefetch_index(&self.buckets, self.second(first, tag(hash)));
        }
    }

    /// Keys that are in their second bucket while this is their first.
    #[inline]
    fn away(&self, bucket: usize) -> u32 {
        self.buckets[bucket][1][AWAY]
    }

    /// The first entry of the hash's first bucket that has its tag.
    #[inline]
    pub(super) fn candidate(&self, hash: FlowHash) -> Option<Place> {
        let [tags, places] = &self.buckets[self.first(hash)];
        let matches = equal_lanes(tags, tag(hash));
        (matches != 0).then(|| Place(places[first_of(matches)] & !SECOND))
    }

    /// True if neither bucket has an entry with the hash's tag: then no flow has the key.
    #[inline]
    pub(super) fn is_absent(&self, hash: FlowHash) -> bool {
        let tag = tag(hash);
        let first = self.first(hash);
        let found = |bucket: usize| equal_lanes(&self.buckets[bucket][0], tag) != 0;
        !found(first) && (self.away(first) == 0 || !found(self.second(first, tag)))
    }

    /// The entry with the hash's tag, in either bucket, that `confirm` takes for its key's.
    #[inline]
    pub(super) fn find(&self, hash: FlowHash, mut confirm: impl FnMut(Place) -> bool) -> Option<Place> {
        let tag = tag(hash);
        let first = self.first(hash);
        let mut look = |bucket: usize| {
            let [tags, places] = &self.buckets[bucket];
            let mut matches = equal_lanes(tags, tag);
            while matches != 0 {
                let place = Place(places[first_of(matches)] & !SECOND);
                if confirm(place) {
                    return Some(place);
                }
                matches &= matches - 1;
            }
            None
        };
        look(first).or_else(|| if self.away(first) > 0 { look(self.second(first, tag)) } else { None })
    }

    /// Enters a key; false if there is no room even after moving one entry of either bucket on to its other one.
    pub(super) fn insert(&mut self, hash: FlowHash, place: Place) -> bool {
        let tag = tag(hash);
        let first = self.first(hash);
        let second = self.second(first, tag);
        let Place(place) = place;
        if self.put(first, tag, place) {
            return true;
        }
        if self.put(second, tag, place | SECOND) {
            self.buckets[first][1][AWAY] += 1;
            return true;
        }
        if self.displace(first, tag, place) {
            return true;
        }
        let entered = first != second && self.displace(second, tag, place | SECOND);
        self.buckets[first][1][AWAY] += u32::from(entered);
        entered
    }

    /// Takes a key out; false if it is not there.
    pub(super) fn remove(&mut self, hash: FlowHash, place: Place) -> bool {
        let tag = tag(hash);
        let first = self.first(hash);
        if self.take_out(first, tag, place.0) {
            return true;
        }
        let removed = self.away(first) > 0 && self.take_out(self.second(first, tag), tag, place.0 | SECOND);
        self.buckets[first][1][AWAY] -= u32::from(removed);
        removed
    }

    /// Bucket from the lower half of the hash, tag from the upper: the two are independent.
    #[inline]
    fn first(&self, hash: FlowHash) -> usize {
        scale(lower(hash.0), self.buckets.len())
    }

    /// The other bucket of an entry: first + second = a value of the tag alone, modulo the number of buckets.
    #[inline]
    fn second(&self, first: usize, tag: u32) -> usize {
        let buckets = self.buckets.len();
        let sum = scale(tag.wrapping_mul(0x9e37_79b1), buckets);
        if sum >= first { sum - first } else { sum + buckets - first }
    }

    /// Into the first empty entry of a bucket, if it has one.
    fn put(&mut self, bucket: usize, tag: u32, place: u32) -> bool {
        let [tags, places] = &mut self.buckets[bucket];
        let empty = equal_lanes(tags, 0) & ENTRIES;
        if empty == 0 {
            return false;
        }
        (tags[first_of(empty)], places[first_of(empty)]) = (tag, place);
        true
    }

    /// Empties the entry of a bucket with this tag and place, if it has one.
    fn take_out(&mut self, bucket: usize, tag: u32, place: u32) -> bool {
        let [tags, places] = &mut self.buckets[bucket];
        let same = equal_lanes(tags, tag) & equal_lanes(places, place);
        if same == 0 {
            return false;
        }
        (tags[first_of(same)], places[first_of(same)]) = (0, 0);
        true
    }

    /// Moves one entry of a full bucket to its other one, and enters this in its place; false if none can be moved.
    fn displace(&mut self, bucket: usize, tag: u32, place: u32) -> bool {
        for at in 0..AWAY {
            let [tags, places] = &self.buckets[bucket];
            let (resident, resident_place) = (tags[at], places[at]);
            let other = self.second(bucket, resident);
            if other != bucket && self.put(other, resident, resident_place ^ SECOND) {
                // It goes away from its first bucket, or comes back to it.
                match resident_place & SECOND {
                    0 => self.buckets[bucket][1][AWAY] += 1,
                    _ => self.buckets[other][1][AWAY] -= 1,
                }
                self.buckets[bucket][0][at] = tag;
                self.buckets[bucket][1][at] = place;
                return true;
            }
        }
        false
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.buckets.iter().flat_map(|[tags, _]| tags).filter(|tag| **tag != 0).count()
    }
}

#[inline]
const fn tag(hash: FlowHash) -> u32 {
    upper(hash.0) | USED
}

/// The position of the first match; there is one.
#[inline]
const fn first_of(matches: u32) -> usize {
    matches.trailing_zeros() as usize % WIDTH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> FlowHash {
        FlowHash((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 7).wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    #[test]
    fn the_second_bucket_of_the_second_is_the_first() {
        for flows in [1, 16, 17, 100, 4095] {
            let index = Index::new(flows).unwrap();
            for n in 0..1000 {
                let (hash, tag) = (hash(n), tag(hash(n)));
                let second = index.second(index.first(hash), tag);
                assert_eq!(index.second(second, tag), index.first(hash));
            }
        }
    }

    #[test]
    fn every_key_up_to_capacity_finds_room_and_is_found_and_removed() {
        for flows in [16u32, 64, 1000, 50_000] {
            let away = |index: &Index| index.buckets.iter().map(|[_, places]| places[AWAY]).sum::<u32>();
            let mut index = Index::new(flows).unwrap();
            let place = |n: u32| Place((n / 2) | (n << 31));
            for n in 0..flows * 2 {
                assert!(index.insert(hash(n.into()), place(n)), "key {n} of {flows} flows");
            }
            assert_eq!(index.used(), flows as usize * 2);
            assert!(away(&index) <= flows / 5, "{} of {flows} flows have a key away", away(&index));
            for n in 0..flows * 2 {
                assert_eq!(index.find(hash(n.into()), |found| found == place(n)), Some(place(n)));
            }
            for n in 0..flows * 2 {
                assert!(index.remove(hash(n.into()), place(n)));
                assert!(!index.remove(hash(n.into()), place(n)));
            }
            assert_eq!((index.used(), away(&index)), (0, 0));
        }
    }
}
