//! Index of a flow table: 64-byte buckets of eight entries, each a 31-bit tag over direction and slot. A key may live
//! in two buckets, the second computable from the first and the tag alone, so that entries can be moved without their
//! key. The first is preferred; at the load of one half that capacity gives, 2 % of the entries are in their second.
//! Source: Pagh and Rodler's cuckoo hashing with buckets, kept to a single step of displacement.

use cpu::HugeSlice;

use super::Direction;
use super::record::{join, upper};
use crate::hash::{FlowHash, lower, scale};

/// Entries of a bucket: what a cache line holds.
const WIDTH: usize = 8;
/// Set in every used entry, so that an empty one (0) matches no tag.
const USED: u32 = 1 << 31;
/// Set in entries of the reply key.
const REPLY: u32 = 1 << 31;
/// Tiny tables get this many buckets anyway: luck evens out only over some of them.
const BUCKETS_MIN: u32 = 8;

/// Where a key of the flow in `slot` was entered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) direction: Direction,
}

impl Place {
    #[inline]
    const fn to_bits(self) -> u32 {
        match self.direction {
            Direction::Original => self.slot,
            Direction::Reply => self.slot | REPLY,
        }
    }

    #[inline]
    pub(super) const fn from_bits(bits: u32) -> Self {
        let direction = if bits & REPLY == 0 { Direction::Original } else { Direction::Reply };
        Self { slot: bits & !REPLY, direction }
    }
}

pub(super) struct Index {
    buckets: HugeSlice<[u64; WIDTH]>,
}

impl Index {
    /// Room for two keys of each of `flows` at a load of one half: 32 bytes a flow.
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

    #[inline]
    pub(super) fn prefetch_second(&self, hash: FlowHash) {
        cpu::prefetch_index(&self.buckets, self.second(self.first(hash), tag(hash)));
    }

    /// The first entry of the hash's first bucket that has its tag.
    #[inline]
    pub(super) fn candidate(&self, hash: FlowHash) -> Option<Place> {
        let bucket = &self.buckets[self.first(hash)];
        let matches = matches(bucket, tag(hash));
        (matches != 0).then(|| Place::from_bits(lower(bucket[matches.trailing_zeros() as usize])))
    }

    /// The entry with the hash's tag, in either bucket, that `confirm` takes for its key's.
    #[inline]
    pub(super) fn find(&self, hash: FlowHash, mut confirm: impl FnMut(Place) -> bool) -> Option<Place> {
        let tag = tag(hash);
        let first = self.first(hash);
        for at in [first, self.second(first, tag)] {
            let bucket = &self.buckets[at];
            let mut matches = matches(bucket, tag);
            while matches != 0 {
                let place = Place::from_bits(lower(bucket[matches.trailing_zeros() as usize]));
                if confirm(place) {
                    return Some(place);
                }
                matches &= matches - 1;
            }
        }
        None
    }

    /// Enters a key; false if there is no room even after moving one entry of either bucket on to its other one.
    pub(super) fn insert(&mut self, hash: FlowHash, place: Place) -> bool {
        let tag = tag(hash);
        let first = self.first(hash);
        let second = self.second(first, tag);
        let entry = join(tag, place.to_bits());
        self.put(first, entry)
            || self.put(second, entry)
            || self.displace(first, entry)
            || self.displace(second, entry)
    }

    /// Takes a key out; false if it is not there.
    pub(super) fn remove(&mut self, hash: FlowHash, place: Place) -> bool {
        let tag = tag(hash);
        let first = self.first(hash);
        let entry = join(tag, place.to_bits());
        self.replace(first, entry, 0) || self.replace(self.second(first, tag), entry, 0)
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

    fn put(&mut self, bucket: usize, entry: u64) -> bool {
        self.replace(bucket, 0, entry)
    }

    fn replace(&mut self, bucket: usize, old: u64, new: u64) -> bool {
        let found = self.buckets[bucket].iter_mut().find(|entry| **entry == old);
        found.map(|entry| *entry = new).is_some()
    }

    fn displace(&mut self, bucket: usize, entry: u64) -> bool {
        for at in 0..WIDTH {
            let resident = self.buckets[bucket][at];
            let other = self.second(bucket, upper(resident));
            if other != bucket && self.put(other, resident) {
                self.buckets[bucket][at] = entry;
                return true;
            }
        }
        false
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.buckets.as_flattened().iter().filter(|entry| **entry != 0).count()
    }
}

#[inline]
const fn tag(hash: FlowHash) -> u32 {
    upper(hash.0) | USED
}

/// A bit for each entry with this tag. Written without branches, so that it becomes vector code.
#[inline]
fn matches(bucket: &[u64; WIDTH], tag: u32) -> u32 {
    let mut bits = 0;
    for (at, entry) in bucket.iter().enumerate() {
        bits |= u32::from(upper(*entry) == tag) << at;
    }
    bits
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
            let mut index = Index::new(flows).unwrap();
            let place = |n: u32| Place { slot: n / 2, direction: Place::from_bits(n << 31).direction };
            for n in 0..flows * 2 {
                assert!(index.insert(hash(n.into()), place(n)), "key {n} of {flows} flows");
            }
            assert_eq!(index.used(), flows as usize * 2);
            for n in 0..flows * 2 {
                assert_eq!(index.find(hash(n.into()), |found| found == place(n)), Some(place(n)));
            }
            for n in 0..flows * 2 {
                assert!(index.remove(hash(n.into()), place(n)));
                assert!(!index.remove(hash(n.into()), place(n)));
            }
            assert_eq!(index.used(), 0);
        }
    }
}
