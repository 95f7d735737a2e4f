//! The 5-tuple that names a flow in one direction.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::{Address, AnyAddrs, Family, Protocol};

/// The 5-tuple of one direction of a flow; ports in host order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey<A> {
    /// Sender.
    pub src: A,
    /// Receiver.
    pub dst: A,
    /// Sender's port.
    pub sport: u16,
    /// Receiver's port.
    pub dport: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl<A: Copy> FlowKey<A> {
    /// The key of the packets that go the other way.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, protocol: self.protocol }
    }

    /// Both ports as one word, the sender's in the upper half.
    #[inline]
    #[must_use]
    pub const fn ports(&self) -> u32 {
        (self.sport as u32) << 16 | self.dport as u32
    }
}

impl<A: Address> fmt::Display for FlowKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let src = SocketAddr::new(self.src.into(), self.sport);
        let dst = SocketAddr::new(self.dst.into(), self.dport);
        write!(f, "{} {src} > {dst}", self.protocol)
    }
}

/// A flow key whose family is known at run time only.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AnyKey {
    /// An IPv4 flow.
    V4(FlowKey<Ipv4Addr>),
    /// An IPv6 flow.
    V6(FlowKey<Ipv6Addr>),
}

impl AnyKey {
    /// Sender.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> IpAddr {
        match self {
            Self::V4(key) => IpAddr::V4(key.src),
            Self::V6(key) => IpAddr::V6(key.src),
        }
    }

    /// Receiver.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> IpAddr {
        match self {
            Self::V4(key) => IpAddr::V4(key.dst),
            Self::V6(key) => IpAddr::V6(key.dst),
        }
    }

    /// Sender's port.
    #[inline]
    #[must_use]
    pub const fn sport(&self) -> u16 {
        match self {
            Self::V4(key) => key.sport,
            Self::V6(key) => key.sport,
        }
    }

    /// Receiver's port.
    #[inline]
    #[must_use]
    pub const fn dport(&self) -> u16 {
        match self {
            Self::V4(key) => key.dport,
            Self::V6(key) => key.dport,
        }
    }

    /// Transport protocol.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::V4(key) => key.protocol,
            Self::V6(key) => key.protocol,
        }
    }

    /// The IP version.
    #[inline]
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// Both addresses.
    #[inline]
    #[must_use]
    pub const fn addrs(&self) -> AnyAddrs {
        match self {
            Self::V4(key) => AnyAddrs::V4 { src: key.src, dst: key.dst },
            Self::V6(key) => AnyAddrs::V6 { src: key.src, dst: key.dst },
        }
    }

    /// The key of the packets that go the other way.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::V4(key) => Self::V4(key.reversed()),
            Self::V6(key) => Self::V6(key.reversed()),
        }
    }

    /// The key of these ends, if they are of one family.
    #[must_use]
    pub const fn new(src: SocketAddr, dst: SocketAddr, protocol: Protocol) -> Option<Self> {
        let (sport, dport) = (src.port(), dst.port());
        match (src.ip(), dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Some(Self::V4(FlowKey { src, dst, sport, dport, protocol }))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                Some(Self::V6(FlowKey { src, dst, sport, dport, protocol }))
            }
            _ => None,
        }
    }
}

impl From<FlowKey<Ipv4Addr>> for AnyKey {
    fn from(key: FlowKey<Ipv4Addr>) -> Self {
        Self::V4(key)
    }
}

impl From<FlowKey<Ipv6Addr>> for AnyKey {
    fn from(key: FlowKey<Ipv6Addr>) -> Self {
        Self::V6(key)
    }
}

impl fmt::Display for AnyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(key) => key.fmt(f),
            Self::V6(key) => key.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_reverse_and_print() {
        let src: SocketAddr = "203.0.113.2:40000".parse().expect("an address");
        let dst: SocketAddr = "1.2.3.4:80".parse().expect("an address");
        let key = AnyKey::new(src, dst, Protocol::Tcp).expect("one family");
        assert_eq!(key.to_string(), "TCP 203.0.113.2:40000 > 1.2.3.4:80");
        assert_eq!(key.reversed().to_string(), "TCP 1.2.3.4:80 > 203.0.113.2:40000");
        assert_eq!(key.reversed().reversed(), key);
        let v6: SocketAddr = "[2001:db8::1]:53".parse().expect("an address");
        assert_eq!(AnyKey::new(src, v6, Protocol::Udp), None);
        let key = AnyKey::new(v6, v6, Protocol::Udp).expect("one family");
        assert_eq!(key.to_string(), "UDP [2001:db8::1]:53 > [2001:db8::1]:53");
    }
}
