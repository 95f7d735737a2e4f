//! Next hops and their link-layer addresses. Flows remember the [`NextHopId`], never the address.

use std::net::IpAddr;
use std::sync::Arc;

use packet::MacAddr;

use crate::{NextHopId, PortId, PortInfo, chunked::Chunked};

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

/// All that a frame needs to leave over a next hop; four of them to a cache line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(align(16))]
pub struct Link {
    /// The Ethernet addresses as a frame has them: the neighbour's, then the port's own.
    pub macs: [u8; 12],
    /// Largest IP packet, in bytes; 0 where nothing can be sent: no such next hop, or its neighbour is not known.
    pub mtu: u16,
    /// The port.
    pub port: PortId,
}

impl Link {
    /// Nothing can be sent.
    pub const DOWN: Self = Self { macs: [0; 12], mtu: 0, port: PortId(0) };

    fn of(adjacency: &Adjacency, ports: &[PortInfo]) -> Self {
        let (Some(dst), Some(port)) = (adjacency.mac(), ports.get(adjacency.port.index())) else {
            return Self::DOWN;
        };
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (dst.0, port.mac.0);
        Self { macs: [a, b, c, d, e, f, g, h, i, j, k, l], mtu: port.mtu, port: adjacency.port }
    }
}

/// Every [`Adjacency`] by its [`NextHopId`], and the [`Link`]s that they come to.
#[derive(Clone, Debug, Default)]
pub struct Adjacencies {
    slots: Chunked<Adjacency, 128>,
    links: Arc<Vec<Link>>,
}

impl Adjacencies {
    /// The next hop of this name.
    #[inline]
    #[must_use]
    pub fn get(&self, id: NextHopId) -> Option<&Adjacency> {
        self.slots.get(id.index())
    }

    /// How frames leave over the next hop of this name, if there ever was one.
    #[inline(always)]
    #[must_use]
    pub fn link(&self, id: NextHopId) -> Option<&Link> {
        self.links.get(id.index())
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes() + size_of_val(&**self.links)
    }

    /// Sets a next hop; gives back what was there. Equal content copies nothing.
    pub(crate) fn insert(
        &mut self,
        id: NextHopId,
        adjacency: Adjacency,
        ports: &[PortInfo],
    ) -> Option<Adjacency> {
        self.set_link(id, Link::of(&adjacency, ports));
        if self.get(id) == Some(&adjacency) {
            return Some(adjacency);
        }
        self.slots.set(id.index(), adjacency)
    }

    /// Takes a next hop out; gives it back.
    pub(crate) fn remove(&mut self, id: NextHopId) -> Option<Adjacency> {
        self.set_link(id, Link::DOWN);
        self.slots.clear(id.index())
    }

    /// Makes every link anew: the ports have changed.
    pub(crate) fn relink(&mut self, ports: &[PortInfo]) {
        let links: Vec<_> = self.iter().map(|(id, adjacency)| (id, Link::of(adjacency, ports))).collect();
        links.into_iter().for_each(|(id, link)| self.set_link(id, link));
    }

    fn set_link(&mut self, id: NextHopId, link: Link) {
        if self.link(id).unwrap_or(&Link::DOWN) == &link {
            return;
        }
        let links = Arc::make_mut(&mut self.links);
        if links.len() <= id.index() {
            links.resize(id.index() + 1, Link::DOWN);
        }
        links[id.index()] = link;
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
    fn a_link_follows_its_neighbour_and_its_port() {
        let (mut table, id) = (Adjacencies::default(), NextHopId(200));
        let port = |mtu| PortInfo {
            id: PortId(0),
            vlan: None,
            name: "inside".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu,
            mss: None,
            serves: crate::Serves::ALL,
            addresses: Box::default(),
        };
        let asked =
            Adjacency { port: PortId(0), address: [10, 0, 0, 11].into(), state: AdjacencyState::Incomplete };
        assert_eq!(table.insert(id, asked, &[port(1500)]), None);
        assert_eq!((table.get(id).and_then(Adjacency::mac), table.link(id)), (None, None));
        let dst = MacAddr([2, 0, 0, 0, 0, 0x0b]);
        let answered = Adjacency { state: AdjacencyState::Resolved { dst }, ..asked };
        table.insert(id, answered, &[port(1500)]);
        assert_eq!(table.get(id).and_then(Adjacency::mac), Some(dst));
        let macs = [2, 0, 0, 0, 0, 0x0b, 2, 0, 0, 0, 0, 1];
        assert_eq!(table.link(id), Some(&Link { macs, mtu: 1500, port: PortId(0) }));
        table.relink(&[port(9000)]);
        assert_eq!(table.link(id).map(|link| link.mtu), Some(9000));
        // The same neighbour behind another port, and behind none.
        table.insert(id, answered, &[port(1400)]);
        assert_eq!(table.link(id).map(|link| link.mtu), Some(1400));
        table.relink(&[]);
        assert_eq!(table.link(id), Some(&Link::DOWN));
        assert_eq!(table.iter().map(|(id, _)| id).collect::<Vec<_>>(), [id]);
        assert!(table.remove(id).is_some() && table.get(id).is_none() && table.is_empty());
        assert_eq!(size_of::<Link>(), 16);
    }
}
