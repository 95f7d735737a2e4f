//! Slots in shared chunks: a clone shares every chunk, a write copies the one chunk it touches.
//!
//! Control edits its own copy and publishes a clone of it, so a publication costs one `Arc` a chunk plus one chunk a
//! changed slot: for n slots in chunks of c about n/c + c copies, least near c = √n. Readers never clone a chunk: its
//! reference count is the publisher's, and lies on a cache line of its own.

use std::sync::Arc;

/// `N` slots that are shared or copied together. The alignment keeps the reference count before it off its first line.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Chunk<T, const N: usize>([Option<T>; N]);

/// A sparse array of slots in chunks of `N` (a power of two); grows as slots are set, never shrinks.
#[derive(Clone, Debug)]
pub struct Chunked<T, const N: usize> {
    chunks: Vec<Arc<Chunk<T, N>>>,
    len: usize,
}

impl<T: Clone, const N: usize> Chunked<T, N> {
    /// No slot is set.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    /// What is in the slot.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&T> {
        self.chunks.get(slot / N)?.0[slot % N].as_ref()
    }

    /// Sets the slot; gives back what was there. Copies the slot's chunk if another version shares it.
    pub fn set(&mut self, slot: usize, value: T) -> Option<T> {
        while self.chunks.len() <= slot / N {
            self.chunks.push(Arc::new(Chunk([const { None }; N])));
        }
        let before = Arc::make_mut(&mut self.chunks[slot / N]).0[slot % N].replace(value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Empties the slot; gives back what was there. Copies nothing if the slot was empty.
    pub fn clear(&mut self, slot: usize) -> Option<T> {
        self.get(slot)?;
        self.len -= 1;
        Arc::make_mut(&mut self.chunks[slot / N]).0[slot % N].take()
    }

    /// Slots that are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes on the heap, those included that are shared with another version; not what the values point to.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.chunks.len() * (size_of::<Arc<Chunk<T, N>>>() + size_of::<Chunk<T, N>>())
    }

    /// True if no slot is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The set slots in their order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let slots = self.chunks.iter().flat_map(|chunk| &chunk.0);
        slots.enumerate().filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }

    /// Chunks that `self` does not share with `older`: what its edits have copied.
    #[must_use]
    pub fn chunks_changed_since(&self, older: &Self) -> usize {
        let shared = self.chunks.iter().zip(&older.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        self.chunks.len() - shared
    }
}

impl<T: Clone, const N: usize> Default for Chunked<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_write_copies_one_chunk_and_leaves_the_old_version_alone() {
        let mut old = Chunked::<u32, 128>::new();
        (0..1000).for_each(|slot| assert_eq!(old.set(slot, 1), None));
        let mut new = old.clone();
        assert_eq!(new.chunks_changed_since(&old), 0);
        assert_eq!(new.set(300, 2), Some(1));
        assert_eq!(new.set(301, 2), Some(1));
        assert_eq!(new.clear(5000), None);
        assert_eq!(new.chunks_changed_since(&old), 1);
        assert_eq!((old.get(300), new.get(300)), (Some(&1), Some(&2)));
    }

    proptest! {
        /// And every version stays what it was when it was cloned.
        #[test]
        fn equals_a_map(writes in vec((0usize..600, any::<Option<u8>>()), 0..200)) {
            let (mut slots, mut model) = (Chunked::<u8, 128>::new(), BTreeMap::new());
            let mut versions = Vec::new();
            for (slot, write) in writes {
                versions.push((slots.clone(), model.clone()));
                match write {
                    Some(value) => prop_assert_eq!(slots.set(slot, value), model.insert(slot, value)),
                    None => prop_assert_eq!(slots.clear(slot), model.remove(&slot)),
                }
                prop_assert_eq!(slots.len(), model.len());
            }
            versions.push((slots, model));
            for (slots, model) in versions {
                prop_assert!(slots.iter().map(|(slot, &value)| (slot, value)).eq(model));
            }
        }
    }
}
