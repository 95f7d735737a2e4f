//! Ethernet addresses.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MacAddr(pub [u8; 6]);

/// Who a frame is addressed to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MacClass {
    /// Everybody on the segment.
    Broadcast,
    /// A group.
    Multicast,
    /// One station.
    Unicast,
}

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, never an address of a station.
    pub const ZERO: Self = Self([0; 6]);

    /// Who frames to this address are for.
    #[inline]
    #[must_use]
    pub fn class(self) -> MacClass {
        match self {
            Self::BROADCAST => MacClass::Broadcast,
            Self([first, ..]) if first & 1 == 1 => MacClass::Multicast,
            _ => MacClass::Unicast,
        }
    }

    /// True for an address that one station may own: neither a group nor all zeros.
    #[inline]
    #[must_use]
    pub fn is_station(self) -> bool {
        self.class() == MacClass::Unicast && self != Self::ZERO
    }

    /// Where IPv6 multicast for `group` goes (RFC 2464 §7).
    #[must_use]
    pub const fn of_ipv6_multicast(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is not six hex bytes with colons (or dashes) between.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BadMacAddr;

impl fmt::Display for BadMacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address such as 02:00:00:00:00:0b")
    }
}

impl std::error::Error for BadMacAddr {}

impl FromStr for MacAddr {
    type Err = BadMacAddr;

    fn from_str(text: &str) -> Result<Self, BadMacAddr> {
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or(BadMacAddr)?;
            if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(BadMacAddr);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| BadMacAddr)?;
        }
        if parts.next().is_some() { Err(BadMacAddr) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let mac = MacAddr([2, 0, 0, 0xab, 0, 0x0b]);
        assert_eq!(mac.to_string(), "02:00:00:ab:00:0b");
        assert_eq!("02:00:00:AB:00:0b".parse(), Ok(mac));
        assert_eq!("2-0-0-ab-0-b".parse(), Ok(mac));
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+1",
            "a:b::c:d:e",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(BadMacAddr), "{bad}");
        }
    }

    #[test]
    fn classes() {
        assert_eq!(MacAddr::BROADCAST.class(), MacClass::Broadcast);
        assert_eq!(MacAddr([0x33, 0x33, 0, 0, 0, 1]).class(), MacClass::Multicast);
        assert_eq!(MacAddr([2, 0, 0, 0, 0, 1]).class(), MacClass::Unicast);
        assert!(!MacAddr::ZERO.is_station());
        let group = "ff02::1:ff00:7".parse().expect("an address");
        assert_eq!(MacAddr::of_ipv6_multicast(group), MacAddr([0x33, 0x33, 0xff, 0, 0, 7]));
    }
}
