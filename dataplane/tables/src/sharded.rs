//! A hash map in shared shards: a clone shares every shard, a write copies the one shard it touches.
//!
//! Shards hold at most `SHARD_MEAN` entries on average; one more doubles their number and rebuilds them all. They never
//! become fewer: what was served once may come back. Inside a shard: open addressing with linear probing, at most half full, no tombstones (a removal rebuilds its shard). A lookup
//! reads the shard's header and one line of slots, a second one at times.
//!
//! The hash has no secret: the keys stored come from the cluster's configuration, and what a stranger's packet asks for
//! costs at most one walk through a half-full shard.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use packet::{Family, Protocol};

use crate::prefix::bits_of;

/// Entries a shard on average before the number of shards doubles.
const SHARD_MEAN: usize = 96;

/// A key as two words to hash; keys are compared whole, so words may meet.
pub trait ShardKey: Copy + Eq {
    /// What is hashed.
    fn words(self) -> [u64; 2];
}

/// An address alone.
impl ShardKey for IpAddr {
    #[inline]
    fn words(self) -> [u64; 2] {
        let bits = bits_of(self);
        let family = u64::from(self.is_ipv4());
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a 128-bit value")]
        let words = [(bits >> 64) as u64, bits as u64 ^ family];
        words
    }
}

/// Address, port and protocol of a frontend.
impl ShardKey for (Ipv4Addr, u16, Protocol) {
    #[inline]
    fn words(self) -> [u64; 2] {
        [u64::from(self.0.to_bits()), port_word(self.1, self.2)]
    }
}

/// Address, port and protocol of a frontend.
impl ShardKey for (Ipv6Addr, u16, Protocol) {
    #[inline]
    fn words(self) -> [u64; 2] {
        let bits = self.0.to_bits();
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a 128-bit value")]
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        // 192 bits in 128: addresses that meet here differ in the comparison of keys.
        [high, low ^ port_word(self.1, self.2).rotate_left(40)]
    }
}

/// Family, port and protocol of a nodePort.
impl ShardKey for (Family, u16, Protocol) {
    #[inline]
    fn words(self) -> [u64; 2] {
        [self.0 as u64, port_word(self.1, self.2)]
    }
}

#[inline]
fn port_word(port: u16, protocol: Protocol) -> u64 {
    u64::from(port) << 8 | u64::from(protocol.number())
}

/// Multiply and fold: every bit of the words reaches the low bits (shard) and the high bits (slot).
#[inline]
fn hash([a, b]: [u64; 2]) -> u64 {
    const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
    let fold = |x: u64, y: u64| {
        let product = u128::from(x) * u128::from(y);
        #[expect(clippy::cast_possible_truncation, reason = "folds the two halves of the product")]
        let folded = (product >> 64) as u64 ^ product as u64;
        folded
    };
    fold(fold(a ^ ODD[0], ODD[1]) ^ b, ODD[0])
}

/// The alignment keeps the reference count before it off its line: publishing must not slow readers.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Shard<K, V> {
    /// A power of two of them, at most half in use; empty before the first entry.
    slots: Box<[Option<(K, V)>]>,
    len: usize,
}

impl<K: ShardKey, V: Copy> Shard<K, V> {
    fn empty() -> Self {
        Self { slots: Box::new([]), len: 0 }
    }

    /// Where the key is, or the free slot where it would go; `None` without slots.
    #[inline]
    fn position(&self, hash: u64, key: K) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = (hash >> 32) as usize & mask;
        // Ends: at most half of the slots are in use.
        while self.slots[at].is_some_and(|(other, _)| other != key) {
            at = (at + 1) & mask;
        }
        Some(at)
    }

    #[inline]
    fn get(&self, hash: u64, key: K) -> Option<&V> {
        self.slots[self.position(hash, key)?].as_ref().map(|(_, value)| value)
    }

    fn insert(&mut self, hash: u64, key: K, value: V) -> Option<V> {
        if self.get(hash, key).is_none() && (self.len + 1) * 2 > self.slots.len() {
            let wanted = ((self.len + 1) * 2).next_power_of_two().max(4);
            *self = Self::rebuilt(wanted, self.entries());
        }
        let at = self.position(hash, key).expect("at least four slots");
        let before = self.slots[at].replace((key, value)).map(|(_, value)| value);
        self.len += usize::from(before.is_none());
        before
    }

    fn remove(&mut self, key: K) {
        *self = Self::rebuilt(self.slots.len(), self.entries().filter(|&(other, _)| other != key));
    }

    fn entries(&self) -> impl Iterator<Item = (K, V)> {
        self.slots.iter().copied().flatten()
    }

    fn rebuilt(slots: usize, entries: impl Iterator<Item = (K, V)>) -> Self {
        let mut shard = Self { slots: vec![None; slots].into(), len: 0 };
        for (key, value) in entries {
            shard.insert(self::hash(key.words()), key, value);
        }
        shard
    }
}

/// The map; cheap to clone, cheap to edit after a clone.
#[derive(Clone, Debug)]
pub struct Sharded<K, V> {
    /// A power of two of them.
    shards: Vec<Arc<Shard<K, V>>>,
    len: usize,
}

impl<K: ShardKey, V: Copy> Sharded<K, V> {
    /// Without entries.
    #[must_use]
    pub fn new() -> Self {
        Self { shards: vec![Arc::new(Shard::empty())], len: 0 }
    }

    /// The value of a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: K) -> Option<&V> {
        let hash = hash(key.words());
        self.shards[self.shard_of(hash)].get(hash, key)
    }

    /// Sets the value of a key; gives back the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= self.shards.len() * SHARD_MEAN {
            self.grow();
        }
        let hash = hash(key.words());
        let shard = self.shard_of(hash);
        let before = Arc::make_mut(&mut self.shards[shard]).insert(hash, key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a key out; gives back its value. Copies nothing if it was not there.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let before = *self.get(key)?;
        let shard = self.shard_of(hash(key.words()));
        Arc::make_mut(&mut self.shards[shard]).remove(key);
        self.len -= 1;
        Some(before)
    }

    /// Entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes on the heap, those included that are shared with another version.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let slots: usize =
            self.shards.iter().map(|shard| size_of_val(&**shard) + size_of_val(&*shard.slots)).sum();
        size_of_val(&*self.shards) + slots
    }

    /// True without entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> {
        self.shards.iter().flat_map(|shard| shard.entries())
    }

    /// How many shards there are.
    #[must_use]
    pub const fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The entries of one shard, in no order; none beyond the last.
    pub fn shard(&self, index: usize) -> impl Iterator<Item = (K, V)> {
        self.shards.get(index).into_iter().flat_map(|shard| shard.entries())
    }

    /// True if both have the very same shard at this position.
    #[must_use]
    pub fn shares_shard(&self, index: usize, other: &Self) -> bool {
        matches!((self.shards.get(index), other.shards.get(index)), (Some(a), Some(b)) if Arc::ptr_eq(a, b))
    }

    /// Shards that `self` does not share with `older`: what its edits have copied.
    #[must_use]
    pub fn shards_changed_since(&self, older: &Self) -> usize {
        let shared = self.shards.iter().zip(&older.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        self.shards.len() - shared
    }

    #[inline]
    fn shard_of(&self, hash: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "only low bits are used")]
        let low = hash as usize;
        low & (self.shards.len() - 1)
    }

    fn grow(&mut self) {
        let mut parts = vec![Shard::empty(); self.shards.len() * 2];
        for (key, value) in self.iter() {
            let hash = hash(key.words());
            #[expect(clippy::cast_possible_truncation, reason = "only low bits are used")]
            let shard = hash as usize & (parts.len() - 1);
            parts[shard].insert(hash, key, value);
        }
        self.shards = parts.into_iter().map(Arc::new).collect();
    }
}

impl<K: ShardKey, V: Copy> Default for Sharded<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key(n: u32) -> (Ipv4Addr, u16, Protocol) {
        (Ipv4Addr::from_bits(0x0a60_0000 + n), 80, Protocol::Tcp)
    }

    #[test]
    fn an_edit_copies_one_shard() {
        let mut old = Sharded::new();
        (0..10_000).for_each(|n| assert_eq!(old.insert(key(n), n), None));
        let mut new = old.clone();
        assert_eq!(new.remove(key(7)), Some(7));
        assert_eq!(new.insert(key(7), 8), None);
        assert_eq!(new.remove(key(999_999)), None);
        assert_eq!(new.shards_changed_since(&old), 1);
        let changed: Vec<_> = (0..new.shards()).filter(|&at| !new.shares_shard(at, &old)).collect();
        assert!(matches!(changed[..], [at] if new.shard(at).any(|entry| entry == (key(7), 8))));
        assert!(new.shard(new.shards()).next().is_none() && !new.shares_shard(new.shards(), &old));
        assert_eq!((old.get(key(7)), new.get(key(7))), (Some(&7), Some(&8)));
    }

    #[test]
    fn shards_stay_even_and_small() {
        let mut map = Sharded::new();
        (0..30_000).for_each(|n| assert_eq!(map.insert(key(n), n), None));
        let largest = map.shards.iter().map(|shard| shard.len).max().unwrap();
        assert!(map.len() / map.shards.len() <= SHARD_MEAN);
        assert!(largest <= 2 * SHARD_MEAN, "sequential addresses spread: {largest}");
    }

    proptest! {
        /// And every version stays what it was when it was cloned.
        #[test]
        fn equals_a_hash_map(edits in vec((0u32..400, any::<Option<u8>>()), 0..600)) {
            let (mut map, mut model) = (Sharded::new(), HashMap::new());
            let mut versions = Vec::new();
            for (n, edit) in edits {
                if n % 16 == 0 {
                    versions.push((map.clone(), model.clone()));
                }
                match edit {
                    Some(value) => prop_assert_eq!(map.insert(key(n), value), model.insert(key(n), value)),
                    None => prop_assert_eq!(map.remove(key(n)), model.remove(&key(n))),
                }
                prop_assert_eq!(map.len(), model.len());
            }
            versions.push((map, model));
            for (map, model) in versions {
                prop_assert!((0..400).all(|n| map.get(key(n)) == model.get(&key(n))));
                prop_assert_eq!(map.iter().collect::<HashMap<_, _>>(), model);
            }
        }
    }
}
