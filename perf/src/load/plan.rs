//! What is sent: through which Service, of how many flows, how long the frames are.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use packet::{AnyKey, MacAddr, Protocol, TcpFlags, testkit::PacketBuilder};

use super::{FCS_LEN, Popularity, STAMP_LEN, Sizes, payload};
use crate::{Template, generator::Ends};

/// Bytes of an Ethernet header.
const ETHER_LEN: u16 = 14;
/// Bytes of a stamp, as part of a frame's size.
const STAMP_SIZE: u16 = 18;
const _: () = assert!(STAMP_SIZE as usize == STAMP_LEN);
/// The first source port; the numbers above are for clients that share an address.
const FIRST_PORT: u16 = 1024;

/// Which way frames go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ways {
    /// From clients and from backends, half of the rate each.
    #[default]
    Both,
    /// From clients only.
    In,
    /// From backends only.
    Out,
}

/// What is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The Service's address and port.
    pub service: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first of the clients' addresses; 65,536 of them are used.
    pub clients: IpAddr,
    /// How many flows.
    pub flows: u32,
    /// How long frames are.
    pub sizes: Sizes,
    /// How often each flow sends.
    pub popularity: Popularity,
    /// Which way frames go.
    pub ways: Ways,
    /// One frame in as many is checked in every byte; 1 checks all.
    pub check_every: u64,
    /// The device forwards frames back to where they came from, and knows no flows.
    pub frames_only: bool,
}

/// Why there can be no such traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlanError {
    /// The clients' addresses and the Service's are of two families.
    Families,
    /// Frames this short have no room for a stamp; so many bytes do.
    TooShort {
        /// The shortest that was asked for.
        size: u16,
        /// The shortest there can be.
        min: u16,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Families => f.write_str("clients and service are of two IP families; give both in one"),
            Self::TooShort { size, min } => write!(
                f,
                "frames of {size} bytes have no room for a number and a time; the shortest of this family and protocol are \
                 {min}"
            ),
        }
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// Whether the parts go together.
    ///
    /// # Errors
    /// If they do not, why.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.service.is_ipv4() != self.clients.is_ipv4() {
            return Err(PlanError::Families);
        }
        let (size, min) = (self.sizes.min(), self.min_size());
        if size < min { Err(PlanError::TooShort { size, min }) } else { Ok(()) }
    }

    /// The shortest frame with a stamp, with its check sequence.
    #[must_use]
    pub fn min_size(&self) -> u16 {
        (self.payload_at() + STAMP_SIZE + FCS_LEN).max(64)
    }

    /// Where the payload of a frame begins.
    pub(super) fn payload_at(&self) -> u16 {
        let network = if self.service.is_ipv4() { 20 } else { 40 };
        let transport = if self.protocol == Protocol::Tcp { 20 } else { 8 };
        ETHER_LEN + network + transport
    }

    /// The flow of the n-th client: 65,536 addresses, then the next port of each.
    #[must_use]
    pub fn client(&self, n: u32) -> AnyKey {
        let [_, _, c, d] = n.to_be_bytes();
        let low = u16::from_be_bytes([c, d]);
        let src = match self.clients {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(low.into()))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().wrapping_add(low.into()))),
        };
        let sport = FIRST_PORT.saturating_add(u16::try_from(n >> 16).unwrap_or(u16::MAX));
        let key = AnyKey::new(SocketAddr::new(src, sport), self.service, self.protocol);
        key.expect("a plan is of one family")
    }

    /// Which client a packet is for: the other way round.
    #[must_use]
    pub fn number_of(&self, address: IpAddr, port: u16) -> Option<u32> {
        let low = match (address, self.clients) {
            (IpAddr::V4(address), IpAddr::V4(first)) => {
                u16::try_from(address.to_bits().wrapping_sub(first.to_bits())).ok()?
            }
            (IpAddr::V6(address), IpAddr::V6(first)) => {
                u16::try_from(address.to_bits().wrapping_sub(first.to_bits())).ok()?
            }
            _ => return None,
        };
        Some(u32::from(port.checked_sub(FIRST_PORT)?) << 16 | u32::from(low))
    }

    /// The frames of each size that go over a link, and for each frame of the sizes' cycle which of them it is.
    pub(super) fn templates(&self, ends: Ends) -> (Vec<Template>, Vec<usize>) {
        let mut sizes = self.sizes.cycle().to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let template = |size: &u16| {
            let len = usize::from(size - FCS_LEN - self.payload_at());
            self.template(ends, TcpFlags::ACK | TcpFlags::PSH, (1, 1), &payload(len))
        };
        let index = |size: &u16| sizes.binary_search(size).unwrap_or(0);
        (sizes.iter().map(template).collect(), self.sizes.cycle().iter().map(index).collect())
    }

    /// A frame from our end of a link; flags and numbers are for TCP.
    pub(super) fn template(
        &self,
        Ends { gateway, ours }: Ends,
        flags: TcpFlags,
        (seq, ack): (u32, u32),
        payload: &[u8],
    ) -> Template {
        let (gateway, ours): (MacAddr, MacAddr) = (gateway, ours);
        let builder = PacketBuilder::flow(self.client(0)).macs(gateway, ours);
        Template::of(&builder.flags(flags).numbers(seq, ack).payload(payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(service: &str, protocol: Protocol, size: u16) -> Plan {
        let service: SocketAddr = service.parse().unwrap();
        let clients = if service.is_ipv4() { "198.18.0.0" } else { "2001:db8:18::" };
        Plan {
            service,
            protocol,
            clients: clients.parse().unwrap(),
            flows: 10,
            sizes: Sizes::of(size),
            popularity: Popularity::Uniform,
            ways: Ways::Both,
            check_every: 1,
            frames_only: false,
        }
    }

    #[test]
    fn frames_are_as_long_as_was_asked_or_refused() {
        for (service, protocol, size, want) in [
            ("203.0.113.10:80", Protocol::Udp, 64, Ok(())),
            ("203.0.113.10:80", Protocol::Tcp, 64, Err(PlanError::TooShort { size: 64, min: 76 })),
            ("203.0.113.10:80", Protocol::Tcp, 76, Ok(())),
            ("[2001:db8::10]:80", Protocol::Udp, 64, Err(PlanError::TooShort { size: 64, min: 84 })),
            ("[2001:db8::10]:80", Protocol::Tcp, 96, Ok(())),
            ("[2001:db8::10]:80", Protocol::Tcp, 1518, Ok(())),
        ] {
            let plan = plan(service, protocol, size);
            assert_eq!(plan.check(), want, "{service} {size}");
            if want.is_ok() {
                let ends = Ends { gateway: MacAddr([2; 6]), ours: MacAddr([4; 6]) };
                let (templates, cycle) = plan.templates(ends);
                assert_eq!(templates[cycle[0]].bytes().len(), usize::from(size - FCS_LEN));
            }
        }
        let both = Plan { clients: "::1".parse().unwrap(), ..plan("203.0.113.10:80", Protocol::Udp, 64) };
        assert_eq!(both.check(), Err(PlanError::Families));
    }

    #[test]
    fn every_client_is_another() {
        let plan = plan("[2001:db8::10]:80", Protocol::Udp, 84);
        let keys: std::collections::HashSet<_> = (0..200_000).map(|n| plan.client(n)).collect();
        assert_eq!(keys.len(), 200_000);
        for n in [0, 1, 65_535, 65_536, 199_999] {
            let key = plan.client(n);
            assert_eq!(plan.number_of(key.src(), key.sport()), Some(n));
        }
        assert_eq!(plan.number_of("2001:db8:17::".parse().unwrap(), 1024), None);
        assert_eq!(plan.number_of("2001:db8:18::".parse().unwrap(), 80), None);
        assert_eq!(plan.client(65_537).to_string(), "UDP [2001:db8:18::1]:1025 > [2001:db8::10]:80");
    }
}
