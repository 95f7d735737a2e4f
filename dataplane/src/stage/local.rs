//! What is not a flow's packet: ARP and neighbour discovery, ping, other protocols, and everything for the appliance
//! itself. ICMP errors about a flow (`error`) and parts of its datagrams (`fragment`) have stages of their own.
//!
//! VIPs are answered here; the appliance's own addresses by the kernel where the port has a mirror, else here too.

use std::net::IpAddr;

use packet::{Arp, ArpOperation, Body, Icmp, Nd, NdKind, Parsed, reply};
use tables::{AddressInfo, AddressKind, DropReason, Serves, Tables};

use super::{
    balance::Refusal,
    begin::source_fault,
    checksum::leave_to_port,
    classify::{Class, elsewhere},
    police::Kind,
    route::{Egress, hash_of},
};
use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

impl<P: PortIo> Pass<'_, P> {
    /// A frame for one station that carries no ports.
    pub(crate) fn other(&mut self, buf: P::Buf, parsed: &Parsed) {
        match parsed.body {
            Body::Arp(arp) => self.arp(buf, parsed, arp),
            Body::Nd(nd) => self.nd(buf, parsed, nd),
            Body::Icmp(icmp) => self.icmp(buf, parsed, icmp),
            Body::OtherIp { addrs, .. } => self.other_ip(buf, parsed, addrs.dst()),
            Body::OtherEther(_) | Body::Flow { .. } => self.drop(buf, DropReason::UnsupportedEtherType),
        }
    }

    /// A frame for everybody or a group: never balanced, never routed.
    #[cold]
    pub(crate) fn take_multicast(&mut self, buf: P::Buf, parsed: &Parsed) {
        match parsed.body {
            Body::Arp(arp) => self.arp(buf, parsed, arp),
            Body::Nd(nd) => self.nd(buf, parsed, nd),
            Body::OtherEther(_) => self.drop(buf, DropReason::UnsupportedEtherType),
            Body::Flow { .. } | Body::Icmp(_) | Body::OtherIp { .. } => self.offer_to_kernel(buf, parsed),
        }
    }

    fn arp(&mut self, mut buf: P::Buf, parsed: &Parsed, arp: Arp) {
        let answer = arp.operation == ArpOperation::Request && self.answers(arp.target_ip.into());
        let Some(info) = self.tables.port(self.port).filter(|_| answer) else { return self.learn(buf) };
        if !reply::arp_reply(buf.head_mut(), parsed, info.mac) {
            return self.drop(buf, DropReason::BadArp);
        }
        self.answer_in_place(buf);
    }

    fn nd(&mut self, buf: P::Buf, parsed: &Parsed, nd: Nd) {
        let answer = nd.kind == NdKind::NeighborSolicitation && self.answers(nd.target.into());
        let Some(info) = self.tables.port(self.port).filter(|_| answer) else { return self.learn(buf) };
        if !packet::checksum::is_right(parsed, buf.segments()) {
            return self.drop(buf, DropReason::BadChecksum);
        }
        let (port, mac) = (self.port, info.mac);
        self.consume(buf);
        self.originate(port, |out| reply::neighbor_advertisement(out, parsed, mac));
    }

    /// Whether ARP and solicitations for an address are ours to answer on this port, not the kernel's.
    fn answers(&self, target: IpAddr) -> bool {
        self.tables.addresses.get(target).is_some_and(|info| match info.kind {
            AddressKind::Own(port) => port == self.port && !self.state.mirrored.contains(port),
            _ => info.answer_arp.contains(self.port),
        })
    }

    /// News of neighbours: the kernel keeps them, where there is one, and control hears them while it asks.
    fn learn(&mut self, buf: P::Buf) {
        if self.state.mirrored.contains(self.port) || self.tables.asking {
            self.punt(buf, Kind::Neighbors);
        } else {
            self.consume(buf);
        }
    }

    fn icmp(&mut self, buf: P::Buf, parsed: &Parsed, icmp: Icmp) {
        if let Some(inner) = icmp.inner
            && let Some(found) = self.flow_of(inner.key.reversed())
            && self.is_translated(inner.key, found)
        {
            return self.translate_error(buf, parsed, (icmp, inner), found);
        }
        let dst = icmp.addrs.dst();
        let Some(info) = self.tables.addresses.get(dst) else { return self.pass_by(buf, parsed, dst) };
        match info.kind {
            AddressKind::Own(_) => self.deliver(buf, parsed),
            kind if self.is_closed(kind) => self.drop(buf, DropReason::NotServedHere),
            _ if icmp.is_error() => self.drop(buf, DropReason::IcmpErrorWithoutFlow),
            _ => match query_fault(self.tables, info, icmp.is_echo_request()) {
                None => self.pong(buf, parsed),
                Some(Refusal::Drop(reason)) => self.drop(buf, reason),
                Some(Refusal::Reject(reason)) => self.reject(buf, parsed, reason),
            },
        }
    }

    /// Whether flows to such a VIP may not begin at the port of the packets at hand.
    pub(crate) fn is_closed(&self, kind: AddressKind) -> bool {
        let serves = self.tables.port(self.port).map_or(Serves::ALL, |port| port.serves);
        match kind {
            AddressKind::Own(_) => false,
            AddressKind::ClusterIp => !serves.cluster_ip,
            AddressKind::ExternalIp | AddressKind::LoadBalancer => !serves.vip,
        }
    }

    /// Answers a ping.
    fn pong(&mut self, mut buf: P::Buf, parsed: &Parsed) {
        if !reply::echo_reply(buf.head_mut(), parsed) {
            return self.drop(buf, DropReason::PuntUnavailable);
        }
        self.answer_in_place(buf);
    }

    /// The question became the answer: it goes back the way it came.
    fn answer_in_place(&mut self, buf: P::Buf) {
        self.state.counts.packets.consumed += 1;
        self.state.counts.packets.originated += 1;
        let bytes = buf.total_len();
        self.gather(buf, self.port, bytes);
    }

    /// IP protocols without ports.
    fn other_ip(&mut self, buf: P::Buf, parsed: &Parsed, dst: IpAddr) {
        let Some(info) = self.tables.addresses.get(dst) else { return self.pass_by(buf, parsed, dst) };
        match info.kind {
            AddressKind::Own(_) => self.deliver(buf, parsed),
            kind if self.is_closed(kind) => self.drop(buf, DropReason::NotServedHere),
            AddressKind::ClusterIp => self.reject(buf, parsed, DropReason::VipPortUnknown),
            AddressKind::ExternalIp | AddressKind::LoadBalancer => self.drop(buf, DropReason::VipPortUnknown),
        }
    }

    /// A packet without ports for an address that is not ours.
    pub(crate) fn pass_by(&mut self, buf: P::Buf, parsed: &Parsed, dst: IpAddr) {
        if let Some(reason) = parsed.addrs().and_then(|addrs| source_fault(self.tables, addrs.src())) {
            return self.drop(buf, reason);
        }
        match elsewhere(self.tables, dst) {
            Class::Drop(reason) => self.drop(buf, reason),
            _ => self.transit(buf, parsed, dst),
        }
    }

    /// Routes a packet as it is.
    pub(crate) fn transit(&mut self, mut buf: P::Buf, parsed: &Parsed, dst: IpAddr) {
        if stays_on_link(dst) {
            return self.offer_to_kernel(buf, parsed);
        }
        let egress = self.way(dst, || hash_of(parsed));
        if parsed.ttl <= 1 {
            return self.ttl_exceeded(buf, parsed);
        }
        if let Some(mtu) = egress.too_small_for(parsed) {
            return self.transit_narrow(buf, parsed, dst, (egress, mtu));
        }
        self.clamp_offer(&mut buf, parsed, egress);
        let later = self.finish_checksum(&mut buf, parsed, egress);
        if let (Some(request), Some(key)) = (later, parsed.key()) {
            leave_to_port(&mut buf, parsed, key, request);
        }
        packet::nat::decrement_ttl(buf.head_mut(), parsed);
        self.emit(buf, parsed, dst, egress);
    }

    /// A packet for one of the appliance's own addresses.
    pub(crate) fn deliver(&mut self, mut buf: P::Buf, parsed: &Parsed) {
        if self.state.mirrored.contains(self.port) {
            self.finish_checksum(&mut buf, parsed, Egress::Kernel);
            return self.punt(buf, Kind::of(parsed, self.tables.port(self.port)));
        }
        match parsed.body {
            Body::Icmp(icmp) if icmp.is_echo_request() => self.pong(buf, parsed),
            Body::Flow { .. } => self.reject(buf, parsed, DropReason::PuntUnavailable),
            _ => self.drop(buf, DropReason::PuntUnavailable),
        }
    }

    /// The kernel's if there is one behind this port, else dropped.
    fn offer_to_kernel(&mut self, mut buf: P::Buf, parsed: &Parsed) {
        if !self.state.mirrored.contains(self.port) {
            return self.drop(buf, DropReason::MulticastUnsupported);
        }
        self.finish_checksum(&mut buf, parsed, Egress::Kernel);
        self.punt(buf, Kind::of(parsed, self.tables.port(self.port)));
    }
}

/// Why a VIP does not answer a ping (`echo`), or another query of ICMP, which none does.
pub(crate) fn query_fault(tables: &Tables, vip: &AddressInfo, echo: bool) -> Option<Refusal> {
    match vip.kind {
        AddressKind::ClusterIp => Some(Refusal::Reject(DropReason::VipPortUnknown)),
        _ if !vip.usable => Some(Refusal::Drop(DropReason::NoEndpoints)),
        _ if !echo => Some(Refusal::Drop(DropReason::VipPortUnknown)),
        _ if !tables.answers.echo => Some(Refusal::Drop(DropReason::EchoUnanswered)),
        _ => None,
    }
}

/// Destinations that no router forwards: groups, broadcast, link-local, loopback.
fn stays_on_link(dst: IpAddr) -> bool {
    let link_local = match dst {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || dst.is_multicast() || dst.is_loopback() || dst.is_unspecified()
}
