//! The usual packet: nothing wrong with it, of a flow whose both ways work, over a neighbour that has answered. It takes
//! a short way, where the flow table says all at once and nothing is left to decide. Every rule of the long way holds
//! here too: what cannot be sure of one is given back, and goes that way.

use packet::{AnyKey, Body, FlowKey, MacAddr, Parsed, Protocol, TcpFlags, ether};
use tables::{DropReason, flow::Candidate};

use super::{checksum::is_finished, rewrite::Forward, route::Egress, translate::numbers};
use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

/// True for a packet that may be a usual one, by what it says itself and the port with this address says of it.
#[inline(always)]
pub(crate) fn may_be_usual<B: PacketBuf>(buf: &B, parsed: &Parsed, mac: MacAddr) -> bool {
    is_finished(buf, parsed) && parsed.vlan.is_none() && parsed.ttl > 1 && parsed.dst_mac == mac
}

impl<P: PortIo> Pass<'_, P> {
    /// Sends a packet on that [may be](may_be_usual) a usual one.
    ///
    /// # Errors
    /// The packet itself, unchanged, if it is none.
    #[inline(always)]
    pub(crate) fn pass_usual(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        candidate: Candidate,
    ) -> Result<(), P::Buf> {
        match &parsed.body {
            Body::Flow { key: AnyKey::V4(key), tcp_flags } => {
                self.pass_usual_of(buf, parsed, (key, *tcp_flags), candidate)
            }
            Body::Flow { key: AnyKey::V6(key), tcp_flags } => {
                self.pass_usual_of(buf, parsed, (key, *tcp_flags), candidate)
            }
            _ => Err(buf),
        }
    }

    #[inline(always)]
    fn pass_usual_of<A: Forward>(
        &mut self,
        mut buf: P::Buf,
        parsed: &Parsed,
        (key, flags): (&FlowKey<A>, TcpFlags),
        candidate: Candidate,
    ) -> Result<(), P::Buf> {
        let tables = self.tables;
        let packet = (key, flags, || numbers(&buf, parsed));
        let seen = self.state.flows.note_usual(candidate, packet, tables.fib_epoch, self.now);
        let Some(usual) = seen else { return Err(buf) };
        // A datagram leaves a backend that is gone.
        if key.protocol == Protocol::Udp && !tables.backends.is_live(usual.backend) {
            return Err(buf);
        }
        let Egress::Ready { port, own, mac, mtu } = self.over(usual.next_hop) else { return Err(buf) };
        let Some(lane) = self.lanes.get_mut(port.index()) else { return Err(buf) };
        if parsed.ip_len > mtu {
            return Err(buf);
        }
        let head = buf.head_mut();
        A::forward(&usual.rewrite, head, parsed);
        ether::set_macs(head, mac, own);
        buf.truncate(parsed.frame_end());
        if let Err(buf) = lane.send(buf, parsed.frame_end()) {
            self.drop(buf, DropReason::TxFull);
        }
        Ok(())
    }
}
