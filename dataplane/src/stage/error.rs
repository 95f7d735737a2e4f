//! ICMP and ICMPv6 errors about a flow's packet go to the end that sent it, in the terms it knows: a client hears of its
//! VIP, a backend of the address it answered. So path MTU discovery and refusals work through the translation.
//!
//! The error travels as a reply to the packet it quotes does, hence by the flow's other key: that finds the flow, its owner
//! among the workers, and the way. It says nothing about the flow's life (RFC 5927), so the flow is not touched.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::{Address, AnyKey, Family, Icmp, Inner, Parsed, Protocol, nat};
use tables::{
    DropReason,
    flow::{Direction, FlowRef},
};

use super::begin::source_fault;
use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

impl<P: PortIo> Pass<'_, P> {
    /// The flow that has the key, and the direction of the key's packets.
    pub(crate) fn flow_of(&mut self, key: AnyKey) -> Option<(FlowRef, Direction)> {
        match key {
            AnyKey::V4(key) => self.state.flows.lookup(&key, self.now),
            AnyKey::V6(key) => self.state.flows.lookup(&key, self.now),
        }
    }

    /// Whether the flow's packets of this key are known by another one to their sender; else an error about one is routed as
    /// any other packet is.
    pub(crate) fn is_translated(&self, quoted: AnyKey, (flow, direction): (FlowRef, Direction)) -> bool {
        self.quoted_as_sent(quoted, (flow, direction)) != quoted
    }

    fn quoted_as_sent(&self, quoted: AnyKey, (flow, direction): (FlowRef, Direction)) -> AnyKey {
        let protocol = quoted.protocol();
        match quoted.family() {
            Family::V4 => self.as_sent::<Ipv4Addr>(flow, direction, protocol),
            Family::V6 => self.as_sent::<Ipv6Addr>(flow, direction, protocol),
        }
    }

    /// Translates an error that quotes a packet of the flow and travels in `direction`, and sends it on.
    #[cold]
    pub(crate) fn translate_error(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        (icmp, inner): (Icmp, Inner),
        (flow, direction): (FlowRef, Direction),
    ) {
        if let Some(reason) = source_fault(self.tables, icmp.addrs.src()) {
            return self.drop(buf, reason);
        }
        if !concerns_the_sender(icmp) {
            return self.drop(buf, DropReason::IcmpErrorUnsupported);
        }
        let quoted = self.quoted_as_sent(inner.key, (flow, direction));
        self.send_error(buf, parsed, quoted, (flow, direction));
    }

    /// The key of the packets that errors of `direction` are about, as their sender sent them.
    fn as_sent<A: Address>(&self, flow: FlowRef, direction: Direction, protocol: Protocol) -> AnyKey {
        A::any(self.state.flows.rewrite::<A>(flow, direction).key(protocol).reversed())
    }

    fn send_error(
        &mut self,
        mut buf: P::Buf,
        parsed: &Parsed,
        quoted: AnyKey,
        (flow, direction): (FlowRef, Direction),
    ) {
        let dst = quoted.src();
        let egress = self.flow_way(flow, direction, dst);
        // No error answers an error: neither of these is told to anybody.
        if parsed.ttl <= 1 {
            return self.drop(buf, DropReason::TtlExceeded);
        }
        if egress.too_small_for(parsed).is_some() {
            return self.drop(buf, DropReason::TooBig);
        }
        if !nat::rewrite_error(buf.head_mut(), parsed, quoted) {
            return self.drop(buf, DropReason::IcmpErrorUnsupported);
        }
        nat::decrement_ttl(buf.head_mut(), parsed);
        self.emit(buf, parsed, dst, egress);
    }
}

/// False for a redirect, which is about the last hop's route and not the sender's, and for a source quench, which nobody
/// may heed any more (RFC 6633).
fn concerns_the_sender(icmp: Icmp) -> bool {
    !(icmp.is_redirect() || icmp.is_source_quench())
}
