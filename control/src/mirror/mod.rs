//! The kernel's view of the ports: a TAP each, named after the port, with its MAC, MTU and addresses.
//!
//! What the dataplane punts is written to the TAP, what the kernel sends on it is injected. Nothing is persistent: a TAP
//! goes with the process that opened it, however that ends. The kernel forwards nothing between TAPs, and knows no
//! service address, so it cannot answer for one.

mod device;
mod port_range;
mod pump;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::MacAddr;

pub use self::device::{Device, Devices};
pub use self::port_range::PortRange;
pub use self::pump::{Bypass, Listeners, Pump, PumpCounters, Voice, WorkerRings};

/// A port to mirror.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MirrorPort {
    /// Port index.
    pub port: u16,
    /// Name of the TAP.
    pub name: String,
    /// Ethernet address of the port.
    pub mac: MacAddr,
    /// MTU, bytes.
    pub mtu: u16,
    /// Addresses with their subnets' prefix length.
    pub addresses: Vec<IpNet>,
}

/// Routes and neighbours of the configuration, so that the kernel's own traffic takes the dataplane's ways.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Statics {
    /// Destination and gateway.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// Port index, address, MAC.
    pub neighbors: Vec<(u16, IpAddr, MacAddr)>,
}

/// Routes that the tables have and the kernel has not: destination -> port index and gateway.
pub type PodRoutes = BTreeMap<IpNet, (u16, IpAddr)>;

/// Why a mirror cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The TAP itself.
    #[error(
        "port {name}: cannot make its TAP: {reason}; /dev/net/tun and CAP_NET_ADMIN are needed and the name must be free, or set tap: false"
    )]
    Tap {
        /// The port.
        name: String,
        /// What the system said.
        reason: String,
    },
    /// Its MAC, MTU, addresses, routes or neighbours.
    #[error("port {name}: cannot set {what} on its TAP: {source}")]
    Configure {
        /// The port.
        name: String,
        /// Which property.
        what: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// A netlink socket or a kernel parameter.
    #[error("cannot set {what}: {source}")]
    System {
        /// What was to be set.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}
