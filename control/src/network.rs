//! What the appliance's own network looks like: input of `compile`, written by the kernel mirror (or, without one, by
//! the configuration). Not here: how it is learnt.

use std::net::IpAddr;

use ipnet::IpNet;
use packet::MacAddr;
use tables::Vlan;

use crate::config::PortConfig;

/// Ports, kernel routes and neighbours at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Network {
    /// Ports by index: `ports[i].index == i`.
    pub ports: Vec<NetworkPort>,
    /// Routes learnt from the kernel; static routes of the configuration are added by `compile`.
    pub routes: Vec<NetworkRoute>,
    /// Neighbours learnt from the kernel; static ones of the configuration are added by `compile` and win.
    pub neighbors: Vec<Neighbor>,
}

/// One port as it is now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkPort {
    /// Number, the place in the configuration's list; ports with a device come first.
    pub index: u16,
    /// For a sub-port, whose and which.
    pub vlan: Option<Vlan>,
    /// Name.
    pub name: String,
    /// Ethernet address.
    pub mac: MacAddr,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Largest segment that TCP over IPv4 may be offered through it.
    pub mss_clamp: Option<u16>,
    /// Which frontends traffic that comes in here may begin flows at.
    pub serves: tables::Serves,
    /// Addresses with their subnets' prefix length, in order: the first of a family is the port's source address.
    pub addresses: Vec<IpNet>,
}

impl NetworkPort {
    /// A whole port with Ethernet's usual MTU that serves every frontend.
    #[must_use]
    pub fn new(index: u16, name: &str, mac: MacAddr, addresses: Vec<IpNet>) -> Self {
        let (vlan, mtu, mss_clamp, serves) = (None, 1500, None, tables::Serves::ALL);
        Self { index, vlan, name: name.to_owned(), mac, mtu, mss_clamp, serves, addresses }
    }

    /// A port or sub-port as the configuration has it.
    #[must_use]
    pub fn configured(index: u16, port: &PortConfig, (vlan, mac): (Option<Vlan>, MacAddr)) -> Self {
        let PortConfig { name, mtu, mss_clamp, serves, addresses, .. } = port;
        let whole = Self::new(index, name, mac, addresses.clone());
        Self { vlan, mtu: *mtu, mss_clamp: *mss_clamp, serves: *serves, ..whole }
    }
}

/// A route of the kernel's main table over one of our ports.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NetworkRoute {
    /// Destination.
    pub to: IpNet,
    /// What to do with packets for it.
    pub hop: RouteHop,
    /// Kernel metric; the lowest wins among routes for one destination, and several of it share the traffic.
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum RouteHop {
    /// To a gateway behind a port.
    Via {
        /// Gateway, of either family.
        gateway: IpAddr,
        /// Index of the port.
        port: u16,
    },
    /// To a neighbour of the same address behind a port.
    Link {
        /// Index of the port.
        port: u16,
    },
    /// Nowhere: `blackhole`, `unreachable` and `prohibit` routes.
    Blackhole,
}

/// A neighbour behind one of our ports.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Neighbor {
    /// Index of the port.
    pub port: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address; none while it is being asked for.
    pub mac: Option<MacAddr>,
}
