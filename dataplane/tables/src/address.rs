//! Addresses that mean something to the appliance: its own, and the VIPs it serves.

use std::net::IpAddr;

use crate::{PortId, sharded::Sharded};

/// A set of ports, one bit each.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PortSet(u64);

impl PortSet {
    /// Every port.
    pub const ALL: Self = Self(u64::MAX);
    /// No port.
    pub const NONE: Self = Self(0);

    /// This port alone; a port beyond [`PortId::LIMIT`] is in no set.
    #[must_use]
    pub const fn of(port: PortId) -> Self {
        if port.0 < PortId::LIMIT { Self(1 << port.0) } else { Self(0) }
    }

    /// The ports of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if the port is in the set.
    #[inline]
    #[must_use]
    pub const fn contains(self, port: PortId) -> bool {
        self.0 & Self::of(port).0 != 0
    }
}

impl FromIterator<PortId> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortId>>(ports: I) -> Self {
        ports.into_iter().fold(Self::NONE, |set, port| set.union(Self::of(port)))
    }
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AddressKind {
    /// A clusterIP of a served Service.
    ClusterIp,
    /// An externalIP of a served Service.
    ExternalIp,
    /// A load-balancer address of a served Service.
    LoadBalancer,
    /// The appliance's own, on this port.
    Own(PortId),
}

/// What the appliance does for an address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AddressInfo {
    /// Whose it is.
    pub kind: AddressKind,
    /// Ports on which ARP and neighbour solicitations for it are answered.
    pub answer_arp: PortSet,
    /// A Service behind it has a usable backend: ping is answered.
    pub usable: bool,
    /// nodePorts are served on it.
    pub node_ports: bool,
}

/// Every address that is not just anyone's. A clone shares all of it, an edit copies one shard.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    by_ip: Sharded<IpAddr, AddressInfo>,
}

impl Addresses {
    /// What is done for the address; `None` for anyone's.
    #[inline]
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&AddressInfo> {
        self.by_ip.get(address)
    }

    /// The port whose own address this is.
    #[must_use]
    pub fn own(&self, address: IpAddr) -> Option<PortId> {
        match self.get(address)?.kind {
            AddressKind::Own(port) => Some(port),
            AddressKind::ClusterIp | AddressKind::ExternalIp | AddressKind::LoadBalancer => None,
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.by_ip.heap_bytes()
    }

    /// Sets what is done for an address; gives back what was. Equal content copies nothing.
    pub fn insert(&mut self, address: IpAddr, info: AddressInfo) -> Option<AddressInfo> {
        if self.get(address) == Some(&info) {
            return Some(info);
        }
        self.by_ip.insert(address, info)
    }

    /// The address is anyone's again; gives back what was done for it.
    pub fn remove(&mut self, address: IpAddr) -> Option<AddressInfo> {
        self.by_ip.remove(address)
    }

    /// Every address, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, AddressInfo)> {
        self.by_ip.iter()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.by_ip.len()
    }

    /// True without any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.by_ip.is_empty()
    }

    /// Parts for who walks them a few at a time.
    #[must_use]
    pub const fn shards(&self) -> usize {
        self.by_ip.shards()
    }

    /// The addresses of one part, in no order; none beyond the last.
    pub fn shard(&self, index: usize) -> impl Iterator<Item = (IpAddr, AddressInfo)> {
        self.by_ip.shard(index)
    }

    /// True if no address of this part differs from the other version's.
    #[must_use]
    pub fn shares_shard(&self, index: usize, other: &Self) -> bool {
        self.by_ip.shares_shard(index, &other.by_ip)
    }

    /// Shards that edits since `older` have copied.
    #[must_use]
    pub fn shards_changed_since(&self, older: &Self) -> usize {
        self.by_ip.shards_changed_since(&older.by_ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_ports() {
        let set: PortSet = [PortId(0), PortId(63)].into_iter().collect();
        assert!(set.contains(PortId(0)) && set.contains(PortId(63)) && !set.contains(PortId(1)));
        assert!(PortSet::ALL.contains(PortId(7)) && !PortSet::ALL.contains(PortId(64)));
    }

    #[test]
    fn own_addresses_know_their_port() {
        let mut addresses = Addresses::default();
        let info = |kind| AddressInfo { kind, answer_arp: PortSet::ALL, usable: false, node_ports: false };
        let (own, vip): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [1, 2, 3, 4].into());
        addresses.insert(own, info(AddressKind::Own(PortId(1))));
        addresses.insert(vip, info(AddressKind::LoadBalancer));
        assert_eq!((addresses.own(own), addresses.own(vip)), (Some(PortId(1)), None));
        assert!(addresses.remove(own).is_some() && addresses.get(own).is_none() && addresses.len() == 1);
    }
}
