//! Pools with their Maglev tables: equal sets of backends share one table, whatever Services they belong to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tables::maglev::{Maglev, Member, name_of};

/// A backend's address and port, and its weight.
pub(super) type Weighted = (SocketAddr, u16);

/// Tables in use by the set they were built for. Entries nobody uses are swept when the map has doubled.
#[derive(Debug, Default)]
pub(super) struct MaglevCache {
    tables: HashMap<Box<[Weighted]>, Weak<Maglev>>,
    sweep_at: usize,
}

/// Smallest size at which a sweep is worth it.
const SWEEP_MIN: usize = 1024;

impl MaglevCache {
    /// The table for a set in ascending order; none for a set of one.
    pub(super) fn table(&mut self, set: &[Weighted]) -> Option<Arc<Maglev>> {
        if set.len() < 2 {
            return None;
        }
        if let Some(table) = self.tables.get(set).and_then(Weak::upgrade) {
            return Some(table);
        }
        let members: Vec<_> = set
            .iter()
            .map(|(at, weight)| Member { name: name_of(at.ip(), at.port()), weight: *weight })
            .collect();
        let table = Arc::new(Maglev::build(&members).ok()?);
        self.tables.insert(set.into(), Arc::downgrade(&table));
        self.sweep();
        Some(table)
    }

    /// A set without those who are to get nothing. Where all are, their weights do not count: somebody must serve.
    pub(super) fn with_weight(set: Vec<Weighted>) -> Vec<Weighted> {
        if set.iter().all(|(_, weight)| *weight == 0) {
            return set.into_iter().map(|(at, _)| (at, 1)).collect();
        }
        set.into_iter().filter(|(_, weight)| *weight > 0).collect()
    }

    fn sweep(&mut self) {
        if self.tables.len() > self.sweep_at.max(SWEEP_MIN) {
            self.tables.retain(|_, table| table.strong_count() > 0);
            self.sweep_at = self.tables.len() * 2;
        }
    }
}
