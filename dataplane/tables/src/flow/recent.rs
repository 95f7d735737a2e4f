//! Where the flows of recent packets are, by hash: a few pages of hints, however large the table. The index lines of a
//! thousand flows in a table for millions are on as many pages, and each costs a page walk beside its line.
//! A hint may be wrong, as its flow may have gone: whoever follows it looks at the record's key.

use super::index::Place;
use super::record::{join, upper};
use crate::hash::{FlowHash, lower};

/// Hints, a power of two of them: 64 KiB, a part of the second cache.
const HINTS: usize = 8_192;

/// See the module.
pub(super) struct Recent {
    /// The upper half of a hash, and a place.
    hints: Box<[u64; HINTS]>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { hints: Box::new([join(0, Place::NONE.0); HINTS]) }
    }

    /// Where the key with this hash was found last, or no place.
    #[inline(always)]
    pub(super) fn get(&self, hash: FlowHash) -> Place {
        let hint = self.hints[at(hash)];
        if upper(hint) == upper(hash.0) { Place(lower(hint)) } else { Place::NONE }
    }

    /// The key with this hash was found there.
    #[inline(always)]
    pub(super) fn note(&mut self, hash: FlowHash, place: Place) {
        self.hints[at(hash)] = join(upper(hash.0), place.0);
    }
}

#[inline(always)]
fn at(hash: FlowHash) -> usize {
    lower(hash.0) as usize % HINTS
}
