//! Records of a flow table: a slab of lines with a free list threaded through it, and the queue of half-open flows,
//! threaded through the records themselves. Nothing is allocated after construction.

use std::ops::Range;

use cpu::HugeSlice;

use super::record::{LINKS, Line, STATE, join, upper};
use super::state::State;
use crate::hash::lower;

/// No slot.
const NIL: u32 = u32::MAX;

/// Slots of one record each: one line, or two adjacent ones where IPv6 is reserved for.
pub(super) struct Slab {
    lines: HugeSlice<Line>,
    lines_per_slot: usize,
    capacity: u32,
    /// Slots from here on have never been used.
    fresh: u32,
    /// First of the released slots; each names the next.
    free: u32,
    used: u32,
}

impl Slab {
    pub(super) fn new(capacity: u32, lines_per_slot: usize) -> std::io::Result<Self> {
        let lines = HugeSlice::zeroed(capacity as usize * lines_per_slot)?;
        Ok(Self { lines, lines_per_slot, capacity, fresh: 0, free: NIL, used: 0 })
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    /// Slots below this one have been used at some time.
    pub(super) const fn fresh(&self) -> u32 {
        self.fresh
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// All lines of a record.
    #[inline]
    pub(super) fn record(&self, slot: u32) -> &[Line] {
        &self.lines[self.range(slot)]
    }

    #[inline]
    pub(super) fn prefetch(&self, slot: u32) {
        let first = slot as usize * self.lines_per_slot;
        cpu::prefetch_index(&self.lines, first);
        if self.lines_per_slot > 1 {
            cpu::prefetch_index(&self.lines, first + 1);
        }
    }

    /// Asks for the record that `take` would give next.
    #[inline]
    pub(super) fn prefetch_free(&self) {
        let slot = if self.free == NIL { self.fresh } else { self.free };
        cpu::prefetch_index(&self.lines, slot as usize * self.lines_per_slot);
    }

    #[inline]
    pub(super) fn record_mut(&mut self, slot: u32) -> &mut [Line] {
        let range = self.range(slot);
        &mut self.lines[range]
    }

    /// The first line of a record, which has everything but IPv6 addresses.
    #[inline]
    pub(super) fn head(&self, slot: u32) -> &Line {
        &self.lines[slot as usize * self.lines_per_slot]
    }

    #[inline]
    pub(super) fn head_mut(&mut self, slot: u32) -> &mut Line {
        &mut self.lines[slot as usize * self.lines_per_slot]
    }

    /// The same of what may be no slot, as [`Candidate::NONE`](super::Candidate::NONE) has none.
    #[inline(always)]
    pub(super) fn get_head_mut(&mut self, slot: u32) -> Option<&mut Line> {
        self.lines.get_mut(slot as usize * self.lines_per_slot)
    }

    /// All lines of what may be no slot.
    #[inline(always)]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut [Line]> {
        let range = self.range(slot);
        self.lines.get_mut(range)
    }

    #[inline]
    pub(super) fn state(&self, slot: u32) -> State {
        State(self.head(slot)[STATE])
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        let slot = if self.free != NIL {
            let slot = self.free;
            self.free = lower(self.head(slot)[LINKS]);
            slot
        } else if self.fresh < self.capacity {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.used += 1;
        Some(slot)
    }

    pub(super) fn release(&mut self, slot: u32) {
        let next = self.free;
        let head = self.head_mut(slot);
        head[STATE] = 0;
        head[LINKS] = join(NIL, next);
        self.free = slot;
        self.used -= 1;
    }

    #[inline]
    fn range(&self, slot: u32) -> Range<usize> {
        let start = slot as usize * self.lines_per_slot;
        start..start + self.lines_per_slot
    }

    #[cfg(test)]
    pub(super) fn free_slots(&self) -> Vec<u32> {
        self.chain(self.free).into_iter().chain(self.fresh..self.capacity).collect()
    }

    /// The slots from this one on, each named by the lower half of the links of the one before.
    #[cfg(test)]
    fn chain(&self, mut slot: u32) -> Vec<u32> {
        let mut slots = Vec::new();
        while slot != NIL {
            slots.push(slot);
            slot = lower(self.head(slot)[LINKS]);
        }
        slots
    }
}

/// The half-open flows in the order of their birth: a list linked both ways through word [`LINKS`] (previous | next).
pub(super) struct Queue {
    oldest: u32,
    newest: u32,
    len: u32,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self { oldest: NIL, newest: NIL, len: 0 }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NIL).then_some(self.oldest)
    }

    pub(super) fn push(&mut self, slab: &mut Slab, slot: u32) {
        slab.head_mut(slot)[LINKS] = join(self.newest, NIL);
        match self.newest {
            NIL => self.oldest = slot,
            newest => Self::set_next(slab, newest, slot),
        }
        self.newest = slot;
        self.len += 1;
    }

    pub(super) fn unlink(&mut self, slab: &mut Slab, slot: u32) {
        let links = slab.head(slot)[LINKS];
        let (previous, next) = (upper(links), lower(links));
        match previous {
            NIL => self.oldest = next,
            previous => Self::set_next(slab, previous, next),
        }
        match next {
            NIL => self.newest = previous,
            next => Self::set_previous(slab, next, previous),
        }
        self.len -= 1;
    }

    /// The flow born after this one.
    pub(super) fn next(slab: &Slab, slot: u32) -> Option<u32> {
        let next = lower(slab.head(slot)[LINKS]);
        (next != NIL).then_some(next)
    }

    fn set_next(slab: &mut Slab, slot: u32, next: u32) {
        let links = &mut slab.head_mut(slot)[LINKS];
        *links = join(upper(*links), next);
    }

    fn set_previous(slab: &mut Slab, slot: u32, previous: u32) {
        let links = &mut slab.head_mut(slot)[LINKS];
        *links = join(previous, lower(*links));
    }

    #[cfg(test)]
    pub(super) fn slots(&self, slab: &Slab) -> Vec<u32> {
        slab.chain(self.oldest)
    }
}
