//! Next hops and their link-layer addresses. Flows remember the [`NextHopId`], never the address.

use std::net::IpAddr;

use packet::MacAddr;

use crate::{NextHopId, PortId, chunked::Chunked};

/// A neighbour on a port's segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Adjacency {
    /// The port it is behind.
    pub port: PortId,
    /// Its IP address, to ask for.
    pub address: IpAddr,
    /// What is known of it.
    pub state: AdjacencyState,
}

/// Whether a neighbour's link-layer address is known.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AdjacencyState {
    /// Asked for, not answered: packets wait or are dropped.
    Incomplete,
    /// Known.
    Resolved {
        /// Where frames to it go.
        dst: MacAddr,
    },
}

impl Adjacency {
    /// Its link-layer address, if known.
    #[inline]
    #[must_use]
    pub const fn mac(&self) -> Option<MacAddr> {
        match self.state {
            AdjacencyState::Incomplete => None,
            AdjacencyState::Resolved { dst } => Some(dst),
        }
    }
}

/// Every [`Adjacency`] by its [`NextHopId`].
#[derive(Clone, Debug, Default)]
pub struct Adjacencies {
    slots: Chunked<Adjacency, 128>,
}

impl Adjacencies {
    /// The next hop of this name.
    #[inline]
    #[must_use]
    pub fn get(&self, id: NextHopId) -> Option<&Adjacency> {
        self.slots.get(id.index())
    }

    /// Sets a next hop; gives back what was there. Equal content copies nothing.
    pub fn insert(&mut self, id: NextHopId, adjacency: Adjacency) -> Option<Adjacency> {
        if self.get(id) == Some(&adjacency) {
            return Some(adjacency);
        }
        self.slots.set(id.index(), adjacency)
    }

    /// Takes a next hop out; gives it back.
    pub fn remove(&mut self, id: NextHopId) -> Option<Adjacency> {
        self.slots.clear(id.index())
    }

    /// Every next hop, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (NextHopId, &Adjacency)> {
        let named = |slot| NextHopId(u16::try_from(slot).expect("slots are set by NextHopId only"));
        self.slots.iter().map(move |(slot, adjacency)| (named(slot), adjacency))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_through_the_slot() {
        let (mut table, id) = (Adjacencies::default(), NextHopId(200));
        let asked =
            Adjacency { port: PortId(1), address: [10, 0, 0, 11].into(), state: AdjacencyState::Incomplete };
        assert_eq!(table.insert(id, asked), None);
        assert_eq!(table.get(id).and_then(Adjacency::mac), None);
        let dst = MacAddr([2, 0, 0, 0, 0, 0x0b]);
        table.insert(id, Adjacency { state: AdjacencyState::Resolved { dst }, ..asked });
        assert_eq!(table.get(id).and_then(Adjacency::mac), Some(dst));
        assert_eq!(table.iter().map(|(id, _)| id).collect::<Vec<_>>(), [id]);
        assert!(table.remove(id).is_some() && table.get(id).is_none() && table.is_empty());
    }
}
