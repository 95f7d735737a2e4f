//! IPv4 and IPv6 addresses behind one trait, so that tables are written once and compiled for each family.

use std::{
    fmt::{Debug, Display},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{AnyKey, FlowKey};

/// The IP version.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What the tables need of an address; implemented by the two types of `std` and no others.
pub trait Address: Copy + Eq + Ord + Hash + Debug + Display + Into<IpAddr> + Send + Sync + 'static {
    /// Which family this is.
    const FAMILY: Family;
    /// Bytes on the wire.
    const BYTES: usize;
    /// The all-zeros address.
    const UNSPECIFIED: Self;

    /// The bytes in network order as two words, for hashing; the second is 0 for IPv4.
    fn words(self) -> [u64; 2];
    /// The address in the first [`Self::BYTES`] bytes, if there are as many.
    fn from_slice(bytes: &[u8]) -> Option<Self>;
    /// Writes the address to the first [`Self::BYTES`] bytes; false, and nothing written, if `out` is shorter.
    fn octets_into(self, out: &mut [u8]) -> bool;
    /// The address if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// The key with its family in the type, if it is this one.
    fn key(key: AnyKey) -> Option<FlowKey<Self>>;
    /// The key with its family as a value.
    fn any(key: FlowKey<Self>) -> AnyKey;
}

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::V4;
    const BYTES: usize = 4;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    #[inline]
    fn words(self) -> [u64; 2] {
        [u64::from(self.to_bits()), 0]
    }

    #[inline]
    fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk::<4>().map(|octets| Self::from(*octets))
    }

    #[inline]
    fn octets_into(self, out: &mut [u8]) -> bool {
        let Some(place) = out.first_chunk_mut::<4>() else { return false };
        *place = self.octets();
        true
    }

    #[inline]
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn key(key: AnyKey) -> Option<FlowKey<Self>> {
        match key {
            AnyKey::V4(key) => Some(key),
            AnyKey::V6(_) => None,
        }
    }

    #[inline]
    fn any(key: FlowKey<Self>) -> AnyKey {
        AnyKey::V4(key)
    }
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::V6;
    const BYTES: usize = 16;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    #[inline]
    fn words(self) -> [u64; 2] {
        let bits = self.to_bits();
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a 128-bit value")]
        let halves = [(bits >> 64) as u64, bits as u64];
        halves
    }

    #[inline]
    fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk::<16>().map(|octets| Self::from(*octets))
    }

    #[inline]
    fn octets_into(self, out: &mut [u8]) -> bool {
        let Some(place) = out.first_chunk_mut::<16>() else { return false };
        *place = self.octets();
        true
    }

    #[inline]
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    #[inline]
    fn key(key: AnyKey) -> Option<FlowKey<Self>> {
        match key {
            AnyKey::V4(_) => None,
            AnyKey::V6(key) => Some(key),
        }
    }

    #[inline]
    fn any(key: FlowKey<Self>) -> AnyKey {
        AnyKey::V6(key)
    }
}

/// The two addresses of an IP packet, of one family by construction.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AnyAddrs {
    /// Of an IPv4 packet.
    V4 {
        /// Sender.
        src: Ipv4Addr,
        /// Receiver.
        dst: Ipv4Addr,
    },
    /// Of an IPv6 packet.
    V6 {
        /// Sender.
        src: Ipv6Addr,
        /// Receiver.
        dst: Ipv6Addr,
    },
}

impl AnyAddrs {
    /// Sender.
    #[inline]
    #[must_use]
    pub const fn src(self) -> IpAddr {
        match self {
            Self::V4 { src, .. } => IpAddr::V4(src),
            Self::V6 { src, .. } => IpAddr::V6(src),
        }
    }

    /// Receiver.
    #[inline]
    #[must_use]
    pub const fn dst(self) -> IpAddr {
        match self {
            Self::V4 { dst, .. } => IpAddr::V4(dst),
            Self::V6 { dst, .. } => IpAddr::V6(dst),
        }
    }

    /// The addresses of an answer.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::V4 { src, dst } => Self::V4 { src: dst, dst: src },
            Self::V6 { src, dst } => Self::V6 { src: dst, dst: src },
        }
    }

    /// The IP version.
    #[inline]
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::V4 { .. } => Family::V4,
            Self::V6 { .. } => Family::V6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_through_bytes_and_words() {
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        let mut out = [0; 16];
        assert!(v4.octets_into(&mut out));
        assert_eq!(Ipv4Addr::from_slice(&out), Some(v4));
        assert_eq!(v4.words(), [0xc000_0201, 0]);
        let v6: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        assert!(v6.octets_into(&mut out));
        assert_eq!(Ipv6Addr::from_slice(&out), Some(v6));
        assert_eq!(v6.words(), [0x2001_0db8_0000_0000, 7]);
        assert!(!v6.octets_into(&mut [0; 15]));
        assert_eq!(Ipv4Addr::from_slice(&[1, 2, 3]), None);
        assert_eq!(Ipv4Addr::from_ip(v6.into()), None);
        assert_eq!(Ipv6Addr::from_ip(v6.into()), Some(v6));
    }
}
