//! Ports as the packet path sees them.

use std::net::{IpAddr, Ipv4Addr};

use packet::{Family, MacAddr};

use crate::{FrontendKind, PortId, Prefix};

/// An address of a port, with the network on its segment.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PortAddress {
    /// The port's own address.
    pub address: IpAddr,
    /// The connected network.
    pub network: Prefix,
}

impl PortAddress {
    /// The address in a network of `length` bits; `None` if its family has fewer.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        Some(Self { address, network: Prefix::new(address, length)? })
    }
}

/// Kinds of frontends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Serves {
    /// LoadBalancer addresses and externalIPs.
    pub vip: bool,
    /// nodePorts.
    pub node_port: bool,
    /// clusterIPs.
    pub cluster_ip: bool,
}

impl Serves {
    /// Every kind.
    pub const ALL: Self = Self { vip: true, node_port: true, cluster_ip: true };

    /// Whether this kind is among them.
    #[inline]
    #[must_use]
    pub const fn admits(self, kind: FrontendKind) -> bool {
        match kind {
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp => self.vip,
            FrontendKind::NodePort => self.node_port,
            FrontendKind::ClusterIp => self.cluster_ip,
        }
    }
}

/// What a port without a device of its own has of another one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Vlan {
    /// The port whose device it shares.
    pub parent: PortId,
    /// The VLAN (802.1Q) of its frames there, 1 to 4094.
    pub id: u16,
}

/// A port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortInfo {
    /// Its number: ports with a device first, each in the order of the configuration.
    pub id: PortId,
    /// For a sub-port, whose and which.
    pub vlan: Option<Vlan>,
    /// Its name, also that of its kernel mirror.
    pub name: String,
    /// Its own link-layer address; of a sub-port its parent's.
    pub mac: MacAddr,
    /// Largest IP packet sent, in bytes.
    pub mtu: u16,
    /// Largest segment that TCP over IPv4 may be offered through this port, in bytes (20 less over IPv6).
    pub mss: Option<u16>,
    /// Which frontends traffic that comes in here may begin flows at.
    pub serves: Serves,
    /// Its addresses, those of the configuration first and in its order.
    pub addresses: Box<[PortAddress]>,
}

impl PortInfo {
    /// The first address of a family: the source of what the appliance itself sends.
    #[must_use]
    pub fn first_address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().map(|at| at.address).find(|&address| Family::of(address) == family)
    }

    /// The port's own address in the network that holds `neighbour`, else its first of the family.
    #[must_use]
    pub fn address_towards(&self, neighbour: IpAddr) -> Option<IpAddr> {
        let near = self.addresses.iter().find(|at| at.network.contains(neighbour)).map(|at| at.address);
        near.or_else(|| self.first_address(Family::of(neighbour)))
    }

    /// True if the address lies in a network of this port's segment.
    #[must_use]
    pub fn is_connected(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|at| at.network.contains(address))
    }

    /// The address of everybody in each IPv4 network of this port's segment (RFC 1812 §4.2.2.11 d); networks of one or
    /// two addresses have none (RFC 3021).
    pub(crate) fn broadcasts(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter_map(|at| match at.network.address() {
            IpAddr::V4(first) if at.network.length() <= 30 => {
                Some(Ipv4Addr::from_bits(first.to_bits() | u32::MAX >> at.network.length()))
            }
            _ => None,
        })
    }

    /// True if one network of this port holds both: they can talk past the appliance.
    #[must_use]
    pub fn same_network(&self, a: IpAddr, b: IpAddr) -> bool {
        self.addresses.iter().any(|at| at.network.contains(a) && at.network.contains(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_a_port() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |text, length| PortAddress::new(ip(text), length).unwrap();
        let port = PortInfo {
            id: PortId(0),
            vlan: None,
            name: "inside".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            mss: None,
            serves: Serves::ALL,
            addresses: [at("10.0.0.1", 24), at("10.0.1.1", 24), at("2001:db8::1", 64)].into(),
        };
        assert_eq!(port.first_address(Family::V6), Some(ip("2001:db8::1")));
        assert_eq!(port.address_towards(ip("10.0.1.9")), Some(ip("10.0.1.1")));
        assert_eq!(port.address_towards(ip("8.8.8.8")), Some(ip("10.0.0.1")));
        assert!(port.same_network(ip("10.0.0.2"), ip("10.0.0.3")));
        assert!(!port.same_network(ip("10.0.0.2"), ip("10.0.1.3")), "connected, but apart");
        assert!(port.is_connected(ip("10.0.1.3")) && !port.is_connected(ip("10.0.2.3")));
        assert_eq!(PortAddress::new(ip("10.0.0.1"), 33), None);
        let broadcasts: Vec<_> = port.broadcasts().map(IpAddr::from).collect();
        assert_eq!(broadcasts, [ip("10.0.0.255"), ip("10.0.1.255")]);
        let pair = PortInfo { addresses: [at("10.0.2.0", 31), at("10.0.3.1", 0)].into(), ..port };
        assert_eq!(pair.broadcasts().collect::<Vec<_>>(), [Ipv4Addr::BROADCAST], "two have none");
    }
}
