//! A network: an address and how many of its leading bits count.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use packet::Family;

/// A network in canonical form: the bits beyond `length` are zero.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The network of `length` bits that holds `address`; `None` if its family has fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let family = Family::of(address);
        (length <= family.bits())
            .then(|| Self { address: address_of(family, bits_of(address) & mask(length)), length })
    }

    /// The network of this one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: Family::of(address).bits() }
    }

    /// First address of the network.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Leading bits that count.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// The IP version.
    #[must_use]
    pub const fn family(self) -> Family {
        Family::of(self.address)
    }

    /// True if the address lies in the network (never across families).
    #[inline]
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Family::of(address) == self.family()
            && same_start(bits_of(address), bits_of(self.address), self.length)
    }

    /// The network's bits at the top of a 128-bit word.
    pub(crate) fn bits(self) -> u128 {
        bits_of(self.address)
    }
}

/// An address's bits at the top of a 128-bit word, the same for both families.
#[inline]
pub(crate) fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address_of(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

/// Ones in the `length` leading bits.
#[inline]
pub(crate) const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        length => u128::MAX << (128 - length as u32),
    }
}

/// True if the `length` leading bits of both are the same.
#[inline]
pub(crate) const fn same_start(a: u128, b: u128, length: u8) -> bool {
    (a ^ b).leading_zeros() >= length as u32
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Text that is not a network in CIDR notation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BadPrefix;

impl fmt::Display for BadPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a network such as 10.0.0.0/8 or 2001:db8::/32")
    }
}

impl std::error::Error for BadPrefix {}

impl FromStr for Prefix {
    type Err = BadPrefix;

    /// CIDR notation; bits beyond the length are cleared, as Kubernetes does with them.
    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let (address, length) = text.split_once('/').ok_or(BadPrefix)?;
        if !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadPrefix);
        }
        let address = address.parse().map_err(|_| BadPrefix)?;
        Self::new(address, length.parse().map_err(|_| BadPrefix)?).ok_or(BadPrefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_containment() {
        let net: Prefix = "10.1.2.3/16".parse().unwrap();
        assert_eq!(net.to_string(), "10.1.0.0/16");
        assert!(net.contains("10.1.255.255".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()));
        let all: Prefix = "::/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()));
        assert!(!all.contains("10.1.2.3".parse().unwrap()), "families do not mix");
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/"] {
            assert_eq!(bad.parse::<Prefix>(), Err(BadPrefix), "{bad}");
        }
    }
}
