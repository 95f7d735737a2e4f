//! Checksums that the sender left to hardware which never saw the packet: a veth pair, a TAP, a virtual NIC.
//!
//! They are finished in full before the packet is rewritten, so that the deltas of a rewrite apply as to any other;
//! or left to the transmitting port, where it can. A port that reports checksums is believed; on any other a stored
//! pseudo-header sum gives the sender away.

use packet::{AnyKey, Body, Fragment, Parsed, Protocol, checksum};
use tables::DropReason;

use super::route::Egress;
use crate::{
    buf::{ChecksumKind, ChecksumStatus, PacketBuf, TxChecksum},
    io::{Capabilities, PortIo},
    pass::Pass,
};

/// What is wrong with the checksums of a received packet, as far as somebody looked: the port, or else we at the IPv4
/// header (RFC 1812 §5.2.2). The transport checksum is its receiver's to check.
#[inline(always)]
pub(crate) fn fault<B: PacketBuf>(buf: &B, parsed: &Parsed) -> Option<DropReason> {
    match buf.rx_checksum() {
        ChecksumStatus::Good => None,
        ChecksumStatus::Bad => Some(DropReason::BadChecksum),
        ChecksumStatus::Unknown | ChecksumStatus::Partial => {
            (!parsed.ip_checksum_right).then_some(DropReason::BadIpv4Checksum)
        }
    }
}

impl<P: PortIo> Pass<'_, P> {
    /// Finishes the transport checksum of a packet that is about to be forwarded, if its sender did not and the port
    /// it leaves by cannot; what that port is to be asked for is given back, for [`leave_to_port`].
    #[inline(always)]
    pub(crate) fn finish_checksum(
        &self,
        buf: &mut P::Buf,
        parsed: &Parsed,
        egress: Egress,
    ) -> Option<TxChecksum> {
        match buf.rx_checksum() {
            ChecksumStatus::Good | ChecksumStatus::Bad => return None,
            ChecksumStatus::Unknown if !parsed.unfinished => return None,
            ChecksumStatus::Partial | ChecksumStatus::Unknown => {}
        }
        self.finish_now_or_later(buf, parsed, egress)
    }

    #[cold]
    fn finish_now_or_later(&self, buf: &mut P::Buf, parsed: &Parsed, egress: Egress) -> Option<TxChecksum> {
        // A first fragment's checksum covers more than is here, and was finished before the datagram was cut.
        if parsed.fragment != Fragment::Whole {
            return None;
        }
        if let Egress::Ready { port, .. } = egress
            && let Some(lane) = self.lanes.get(port.index())
            && let Some(request) = request(parsed, lane.capabilities)
        {
            return Some(request);
        }
        finish(buf, parsed);
        None
    }
}

/// Computes the transport checksum from every byte of the packet.
#[cold]
pub(crate) fn finish<B: PacketBuf>(buf: &mut B, parsed: &Parsed) {
    if let Some(field) = checksum::of_packet(parsed, buf.segments()) {
        field.store(buf.head_mut());
    }
}

/// Stores the pseudo-header sum of the packet as it leaves, and asks the port for the rest.
#[cold]
pub(crate) fn leave_to_port<B: PacketBuf>(buf: &mut B, parsed: &Parsed, to: AnyKey, request: TxChecksum) {
    let offset = if to.protocol() == Protocol::Udp { 6 } else { 16 };
    let at = usize::from(parsed.l4) + offset;
    let sum = checksum::Sum::pseudo(to.addrs(), to.protocol().number(), parsed.l4_len()).folded();
    if let Some(field) = buf.head_mut().get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = sum.to_be_bytes();
        buf.request_tx_checksum(request);
    }
}

/// What to ask of a port, if it finishes checksums of this kind. A priority tag is taken off before the packet leaves.
fn request(parsed: &Parsed, port: Capabilities) -> Option<TxChecksum> {
    let Body::Flow { key, .. } = parsed.body else { return None };
    let kind = match (key, key.protocol()) {
        (AnyKey::V4(_), Protocol::Tcp) if port.tx_tcp_checksum => ChecksumKind::Tcp4,
        (AnyKey::V6(_), Protocol::Tcp) if port.tx_tcp_checksum => ChecksumKind::Tcp6,
        (AnyKey::V4(_), Protocol::Udp) if port.tx_udp_checksum => ChecksumKind::Udp4,
        (AnyKey::V6(_), Protocol::Udp) if port.tx_udp_checksum => ChecksumKind::Udp6,
        _ => return None,
    };
    Some(TxChecksum { l2_len: 14, l3_len: parsed.l4 - parsed.l3, kind })
}
