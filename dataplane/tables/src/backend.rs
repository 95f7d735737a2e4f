//! Backends by slot, and which of them still are what a flow record remembers.

use std::net::IpAddr;

use crate::{BackendId, NodeId, chunked::Chunked};

/// Whether a backend takes new flows and keeps old ones.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// Not serving: takes no flow, and its UDP flows end.
    Down,
    /// Keeps its flows, takes no new ones.
    Draining,
}

/// An endpoint's address and port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backend {
    /// Its own name.
    pub id: BackendId,
    /// Address of the pod (or of the Node, for nodePort targets).
    pub address: IpAddr,
    /// Target port.
    pub port: u16,
    /// Share relative to the others of a pool.
    pub weight: u16,
    /// Whether it serves.
    pub state: BackendState,
    /// The Node it runs on, where known.
    pub node: Option<NodeId>,
}

/// Every [`Backend`] by its [`BackendId`], with the live ones once more in a dense array of their own: sweeps ask that
/// for each flow.
///
/// Chunks of 512 rather than fewer: a backend is 36 flat bytes, so copying a chunk costs about as much as cloning 200
/// `Arc`s, and 250,000 backends are 489 chunks.
#[derive(Clone, Debug, Default)]
pub struct Backends {
    slots: Chunked<Backend, 512>,
    /// The epoch of each live backend.
    live: Chunked<u8, 4096>,
}

impl Backends {
    /// The backend of this name, if the slot is still in the same use.
    #[inline]
    #[must_use]
    pub fn get(&self, id: BackendId) -> Option<&Backend> {
        self.slots.get(id.slot() as usize).filter(|backend| backend.id == id)
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes() + self.live.heap_bytes()
    }

    /// True while the backend of this name exists and is not down.
    #[inline]
    #[must_use]
    pub fn is_live(&self, id: BackendId) -> bool {
        self.live.get(id.slot() as usize) == Some(&id.epoch())
    }

    /// Puts a backend in the slot of its id; gives back what was there. Equal content copies nothing.
    pub fn insert(&mut self, backend: Backend) -> Option<Backend> {
        let slot = backend.id.slot() as usize;
        if self.slots.get(slot) == Some(&backend) {
            return Some(backend);
        }
        let live = (backend.state != BackendState::Down).then(|| backend.id.epoch());
        if self.live.get(slot).copied() != live {
            match live {
                Some(epoch) => self.live.set(slot, epoch),
                None => self.live.clear(slot),
            };
        }
        self.slots.set(slot, backend)
    }

    /// Takes out the backend of this name; another use of its slot stays.
    pub fn remove(&mut self, id: BackendId) -> Option<Backend> {
        self.get(id)?;
        self.live.clear(id.slot() as usize);
        self.slots.clear(id.slot() as usize)
    }

    /// Every backend, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.slots.iter().map(|(_, backend)| backend)
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// True without any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Chunks that edits since `older` have copied, of both arrays.
    #[must_use]
    pub fn chunks_changed_since(&self, older: &Self) -> usize {
        self.slots.chunks_changed_since(&older.slots) + self.live.chunks_changed_since(&older.live)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn backend(slot: u32, epoch: u8, state: BackendState) -> Backend {
        let id = BackendId::new(slot, epoch).unwrap();
        Backend { id, address: [10, 0, 0, 1].into(), port: 80, weight: 1, state, node: None }
    }

    #[test]
    fn live_follows_state_and_epoch() {
        let mut backends = Backends::default();
        let first = backend(3, 0, BackendState::Active);
        backends.insert(first);
        assert!(backends.is_live(first.id));
        backends.insert(backend(3, 0, BackendState::Draining));
        assert!(backends.is_live(first.id));
        backends.insert(backend(3, 0, BackendState::Down));
        assert!(!backends.is_live(first.id) && backends.get(first.id).is_some());
        let second = backend(3, 1, BackendState::Active);
        backends.insert(second);
        assert!(
            backends.is_live(second.id) && !backends.is_live(first.id) && backends.get(first.id).is_none()
        );
        assert_eq!(backends.remove(first.id), None);
        assert_eq!(backends.remove(second.id), Some(second));
        assert!(!backends.is_live(second.id) && !backends.is_live(BackendId::NONE) && backends.is_empty());
    }

    #[test]
    fn a_backend_stays_small() {
        assert_eq!(size_of::<Option<Backend>>(), 36);
    }

    #[test]
    fn one_change_among_many_copies_one_chunk_and_a_repeat_none() {
        let mut old = Backends::default();
        (0..250_000).for_each(|slot| assert_eq!(old.insert(backend(slot, 0, BackendState::Active)), None));
        let mut new = old.clone();
        new.insert(backend(777, 0, BackendState::Active));
        assert_eq!(new.chunks_changed_since(&old), 0);
        new.insert(backend(777, 0, BackendState::Draining));
        assert_eq!(new.chunks_changed_since(&old), 1, "draining is still live");
        new.remove(BackendId::new(777, 0).unwrap());
        assert_eq!(new.chunks_changed_since(&old), 2);
    }

    fn state() -> impl Strategy<Value = BackendState> {
        prop_oneof![Just(BackendState::Active), Just(BackendState::Down), Just(BackendState::Draining)]
    }

    proptest! {
        #[test]
        fn equals_a_map(steps in vec((0u32..6, 0u8..3, prop::option::of(state())), 0..100)) {
            let (mut backends, mut model) = (Backends::default(), HashMap::<u32, Backend>::new());
            for (slot, epoch, step) in steps {
                let id = BackendId::new(slot, epoch).unwrap();
                match step {
                    Some(state) => {
                        let backend = backend(slot, epoch, state);
                        prop_assert_eq!(backends.insert(backend), model.insert(slot, backend));
                    }
                    None if model.get(&slot).is_some_and(|known| known.id == id) => {
                        prop_assert_eq!(backends.remove(id), model.remove(&slot));
                    }
                    None => prop_assert_eq!(backends.remove(id), None),
                }
                for id in (0..6).flat_map(|slot| (0..3).map(move |epoch| BackendId::new(slot, epoch).unwrap())) {
                    let known = model.get(&id.slot()).filter(|backend| backend.id == id);
                    prop_assert_eq!(backends.get(id), known);
                    prop_assert_eq!(backends.is_live(id), known.is_some_and(|at| at.state != BackendState::Down));
                }
            }
        }
    }
}
