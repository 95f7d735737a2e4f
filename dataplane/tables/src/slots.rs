//! Stable slots: a flow record may keep a (slot, epoch) name for hours, so a retired slot waits in quarantine until every
//! worker's sweep has passed the generation that retired it, and comes back with the next epoch.

use std::collections::VecDeque;

use crate::{Generation, SlotId, ids::SLOT_LIMIT};

/// Gives out the slots of one table. Lowest slots first while none was ever used, then those freed longest ago.
#[derive(Debug)]
pub struct SlotAllocator<Id> {
    /// The epoch of each slot's present or next use.
    epochs: Vec<u8>,
    used: Vec<bool>,
    free: VecDeque<u32>,
    /// In the order of the generations.
    quarantine: VecDeque<(Generation, u32)>,
    limit: u32,
    kind: std::marker::PhantomData<Id>,
}

impl<Id: SlotId> SlotAllocator<Id> {
    /// For at most `limit` slots (and never more than [`SLOT_LIMIT`]).
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            epochs: Vec::new(),
            used: Vec::new(),
            free: VecDeque::new(),
            quarantine: VecDeque::new(),
            limit: limit.min(SLOT_LIMIT),
            kind: std::marker::PhantomData,
        }
    }

    /// A name that no flow record can know; `None` while every slot is in use or in quarantine.
    pub fn allocate(&mut self) -> Option<Id> {
        let slot = match self.free.pop_front() {
            Some(slot) => slot,
            None => self.extend()?,
        };
        self.used[slot as usize] = true;
        Id::new(slot, self.epochs[slot as usize])
    }

    /// The name is no longer used from `generation` on. Returns false, and does nothing, for a name not in use.
    pub fn retire(&mut self, id: Id, generation: Generation) -> bool {
        let slot = id.slot() as usize;
        if self.used.get(slot) != Some(&true) || self.epochs[slot] != id.epoch() {
            return false;
        }
        // Generations come in order; a late one only waits longer than it must.
        let generation = self.quarantine.back().map_or(generation, |&(last, _)| last.max(generation));
        self.used[slot] = false;
        self.quarantine.push_back((generation, id.slot()));
        true
    }

    /// Frees the slots that every worker's sweep has passed: those retired at `swept` or before.
    pub fn reclaim(&mut self, swept: Generation) {
        while let Some((_, slot)) = self.quarantine.pop_front_if(|(generation, _)| *generation <= swept) {
            let epoch = &mut self.epochs[slot as usize];
            *epoch = epoch.wrapping_add(1);
            self.free.push_back(slot);
        }
    }

    /// Slots that wait for sweeps.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantine.len()
    }

    /// Slots in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.epochs.len() - self.free.len() - self.quarantine.len()
    }

    fn extend(&mut self) -> Option<u32> {
        let slot = u32::try_from(self.epochs.len()).ok().filter(|&slot| slot < self.limit)?;
        self.epochs.push(0);
        self.used.push(false);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::BackendId;

    #[test]
    fn a_slot_waits_for_the_sweep_and_changes_its_epoch() {
        let mut slots = SlotAllocator::<BackendId>::new(2);
        let (a, b) = (slots.allocate().unwrap(), slots.allocate().unwrap());
        assert_eq!(slots.allocate(), None);
        assert!(slots.retire(a, Generation(5)));
        assert!(!slots.retire(a, Generation(5)), "once");
        slots.reclaim(Generation(4));
        assert_eq!((slots.allocate(), slots.quarantined()), (None, 1));
        slots.reclaim(Generation(5));
        let again = slots.allocate().unwrap();
        assert_eq!((again.slot(), again.epoch()), (a.slot(), 1));
        assert!(!slots.retire(a, Generation(6)), "an old name");
        assert!(slots.retire(b, Generation(6)) && slots.in_use() == 1);
    }

    proptest! {
        /// No name is given out twice, nor a slot while a record retired at an unswept generation may name it.
        #[test]
        fn names_are_unique_and_quarantine_holds(steps in vec((0u8..3, any::<prop::sample::Index>()), 0..300)) {
            let mut slots = SlotAllocator::<BackendId>::new(8);
            let (mut live, mut retired, mut seen) = (Vec::<BackendId>::new(), Vec::new(), HashSet::new());
            let (mut generation, mut swept) = (Generation(1), Generation(0));
            for (step, pick) in steps {
                match step {
                    0 => if let Some(id) = slots.allocate() {
                        prop_assert!(seen.insert(id.to_bits()));
                        prop_assert!(live.iter().all(|other| other.slot() != id.slot()));
                        let clear = |&(at, slot): &(Generation, u32)| slot != id.slot() || at <= swept;
                        prop_assert!(retired.iter().all(clear));
                        live.push(id);
                    },
                    1 if !live.is_empty() => {
                        let id = live.swap_remove(pick.index(live.len()));
                        generation = generation.next();
                        prop_assert!(slots.retire(id, generation));
                        retired.push((generation, id.slot()));
                    }
                    _ => {
                        swept = swept.max(Generation(pick.index(usize::try_from(generation.0).unwrap() + 1) as u64));
                        slots.reclaim(swept);
                    }
                }
                prop_assert_eq!(slots.in_use(), live.len());
            }
        }
    }
}
