//! What senders may bring about in a second: packets for the kernel by kind, so that a flood of one starves no other,
//! and new flows by source and by Service.

use packet::{Address, AnyKey, Body, Family, FlowKey, Parsed, Protocol};
use tables::{
    DropReason, KernelRates, Millis, PortInfo, ServiceId,
    rate::{Bucket, Meter},
};

use super::admit::Course;
use crate::{io::PortIo, pass::Pass};

/// Sources that are remembered.
pub const SOURCES_MAX: usize = 16_384;
/// Service ports that are remembered.
pub const SERVICES_MAX: usize = 4_096;
/// A quiet spell saves the packets for the kernel of a tenth of a second, and at least so many.
const KERNEL_BURST_MIN: u32 = 10;

const BGP: u16 = 179;
/// BFD over one hop, its echo, and over several (RFC 5881, RFC 5883).
const BFD: [u16; 3] = [3_784, 3_785, 4_784];
const OSPF: u8 = 89;
const VRRP: u8 = 112;

/// Kinds of packets for the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Neighbors,
    Icmp,
    Opens,
    Routing,
    Sessions,
    Other,
}

impl Kind {
    const COUNT: usize = 6;

    /// Of a packet that came in by this port.
    pub(crate) fn of(parsed: &Parsed, port: Option<&PortInfo>) -> Self {
        let near = || {
            let source = parsed.addrs().map(|addrs| addrs.src());
            source.zip(port).is_some_and(|(source, port)| is_near(port, source))
        };
        match parsed.body {
            Body::Arp(_) | Body::Nd(_) => Self::Neighbors,
            Body::Icmp(_) => Self::Icmp,
            Body::Flow { tcp_flags, .. } if tcp_flags.opens() => Self::Opens,
            Body::Flow { key, .. } if routes(key) && near() => Self::Routing,
            Body::Flow { key, .. } if key.protocol() == Protocol::Tcp => Self::Sessions,
            Body::OtherIp { protocol: OSPF | VRRP, .. } if near() => Self::Routing,
            Body::Flow { .. } | Body::OtherIp { .. } | Body::OtherEther(_) => Self::Other,
        }
    }

    const fn rate(self, rates: &KernelRates) -> u32 {
        match self {
            Self::Neighbors => rates.neighbors,
            Self::Icmp => rates.icmp,
            Self::Opens => rates.opens,
            Self::Routing => rates.routing,
            Self::Sessions => rates.sessions,
            Self::Other => rates.other,
        }
    }
}

/// A station on the port's own networks, or at a link-local address.
fn is_near(port: &PortInfo, source: std::net::IpAddr) -> bool {
    let link_local = matches!(source, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
    link_local || port.is_connected(source)
}

fn routes(key: AnyKey) -> bool {
    match key.protocol() {
        Protocol::Tcp => key.sport() == BGP || key.dport() == BGP,
        Protocol::Udp => BFD.contains(&key.dport()),
        Protocol::Sctp => false,
    }
}

/// What one worker has let pass.
pub(crate) struct Police {
    kernel: [Bucket; Kind::COUNT],
    sources: Meter,
    services: Meter,
}

impl Police {
    pub(crate) fn new() -> Self {
        let (sources, services) = (Meter::new(SOURCES_MAX), Meter::new(SERVICES_MAX));
        Self { kernel: [Bucket::default(); Kind::COUNT], sources, services }
    }

    /// Whether the kernel gets one more packet of this kind.
    pub(crate) fn admits(&mut self, kind: Kind, rates: &KernelRates, now: Millis) -> bool {
        let rate = kind.rate(rates);
        self.kernel[kind as usize].allow(rate, (rate / 10).max(KERNEL_BURST_MIN), now)
    }
}

impl<P: PortIo> Pass<'_, P> {
    /// Why a new flow is one too many in this second.
    #[inline]
    pub(crate) fn surplus<A: Address>(
        &mut self,
        key: &FlowKey<A>,
        course: &Course<'_>,
    ) -> Option<DropReason> {
        let per_source = self.tables.limits.flows_per_source;
        let per_service = course.service.flows_per_second.unwrap_or(self.tables.limits.flows_per_service);
        if per_source == 0 && per_service == 0 {
            return None;
        }
        self.measure(key, (course.service.id, per_source, per_service))
    }

    #[inline(never)]
    fn measure<A: Address>(
        &mut self,
        key: &FlowKey<A>,
        (service, per_source, per_service): (ServiceId, u32, u32),
    ) -> Option<DropReason> {
        let source = self.state.flows.hash(&site(key.src)).0.max(1);
        if per_source > 0 && !self.state.police.sources.allow(source, per_source, self.now) {
            return Some(DropReason::SourceLimit);
        }
        let id = u64::from(service.to_bits()) + 1;
        let service = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes().max(1);
        let within = per_service == 0 || self.state.police.services.allow(service, per_service, self.now);
        (!within).then_some(DropReason::ServiceLimit)
    }
}

/// Whoever has the address may have the others of its IPv6 /64 too: they count together.
fn site<A: Address>(src: A) -> FlowKey<A> {
    let src = match (A::FAMILY, src.into()) {
        (Family::V6, std::net::IpAddr::V6(v6)) => {
            A::from_ip((v6.to_bits() >> 64 << 64).to_be_bytes().into()).unwrap_or(src)
        }
        _ => src,
    };
    FlowKey { src, dst: A::UNSPECIFIED, sport: 0, dport: 0, protocol: Protocol::Udp }
}

/// A source that no sender on a wire may have (RFC 1122 §3.2.1.3, RFC 1812 §5.3.7, RFC 4291 §2.5, §2.7).
pub(crate) fn is_impossible(src: std::net::IpAddr) -> bool {
    let special = match src {
        std::net::IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
        // What is written so on a wire is meant to be taken for IPv4 by somebody's checks (RFC 4942 §2.2).
        std::net::IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    special || src.is_loopback() || src.is_multicast() || src.is_unspecified()
}
