//! The transport protocols a Service may have.

use std::{fmt, str::FromStr};

/// A transport protocol a Service may have; the value is its IANA number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Protocol {
    /// Transmission Control Protocol, 6.
    Tcp = 6,
    /// User Datagram Protocol, 17.
    Udp = 17,
    /// Stream Control Transmission Protocol, 132.
    Sctp = 132,
}

impl Protocol {
    /// Every protocol, in the order of the numbers.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IANA protocol number.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name as Kubernetes writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Bytes of the shortest header (of the common header for SCTP).
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
            Self::Sctp => 12,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A number or name that is none of TCP, UDP and SCTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownProtocol;

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not one of TCP, UDP, SCTP")
    }
}

impl std::error::Error for UnknownProtocol {}

impl TryFrom<u8> for Protocol {
    type Error = UnknownProtocol;

    #[inline]
    fn try_from(number: u8) -> Result<Self, UnknownProtocol> {
        match number {
            6 => Ok(Self::Tcp),
            17 => Ok(Self::Udp),
            132 => Ok(Self::Sctp),
            _ => Err(UnknownProtocol),
        }
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    /// Any letter case: Kubernetes writes `TCP`, people type `tcp`.
    fn from_str(name: &str) -> Result<Self, UnknownProtocol> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(name))
            .ok_or(UnknownProtocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_round_trip() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::try_from(protocol.number()), Ok(protocol));
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
            assert_eq!(protocol.name().to_lowercase().parse(), Ok(protocol));
        }
        assert_eq!(Protocol::try_from(1), Err(UnknownProtocol));
        assert_eq!("ICMP".parse::<Protocol>(), Err(UnknownProtocol));
    }
}
