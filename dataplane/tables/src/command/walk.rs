//! The slots of the flow table that a command looks at: a page of it, or a sample of the whole.
//!
//! A sample takes blocks of neighbouring slots, evenly apart: neighbours come from memory together, and blocks from
//! everywhere see flows of every age.

use super::PAGE_SLOTS;
use crate::flow::{FlowRef, FlowTable, FlowView};

/// Slots of a sample that lie together: what a turn without other work looks at.
const BLOCK_SLOTS: u32 = 64;

/// How far a command has come over the table.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The next slot; `None` past the table's end.
    at: Option<u32>,
    /// Slots that may still be looked at.
    left: u32,
    /// Of so many blocks one is looked at.
    one_in: u32,
}

impl Walk {
    /// Every slot from one on.
    pub(super) const fn page(from: u32) -> Self {
        Self { at: Some(from), left: PAGE_SLOTS, one_in: 1 }
    }

    /// A sample of so many slots; each `shift` has another, up to as many as it takes to cover them.
    pub(super) const fn sample(slots: u32, shift: u32) -> Self {
        let one_in = if slots <= PAGE_SLOTS { 1 } else { slots.div_ceil(PAGE_SLOTS) };
        Self { at: Some(shift % one_in * BLOCK_SLOTS), left: PAGE_SLOTS, one_in }
    }

    /// Shows `visit` the flows of the next `slots` slots at most; true at the end of the way.
    pub(super) fn step(
        &mut self,
        flows: &FlowTable,
        slots: u32,
        visit: impl FnMut(FlowRef, FlowView),
    ) -> bool {
        let Some(at) = self.at else { return true };
        let together = if self.one_in == 1 { u32::MAX } else { BLOCK_SLOTS - at % BLOCK_SLOTS };
        let slots = slots.min(self.left).min(together);
        let skipped = if slots == together { (self.one_in - 1) * BLOCK_SLOTS } else { 0 };
        self.at = flows.scan(at, slots, visit).map(|next| next.saturating_add(skipped));
        self.left -= slots;
        self.left == 0 || self.at.is_none()
    }

    /// Where the next command goes on; `None` when the table's end was reached.
    pub(super) const fn rest(&self) -> Option<u32> {
        self.at
    }

    /// Of so many slots one is looked at.
    pub(super) const fn one_in(&self) -> u32 {
        self.one_in
    }
}
