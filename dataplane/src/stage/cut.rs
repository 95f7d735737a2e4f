//! Packets that are longer than their way out allows: an IPv4 packet that may be cut leaves in parts (RFC 791 §2.3), of
//! any other its sender learns what fits (RFC 1191, RFC 8201).

use std::net::IpAddr;

use packet::{
    Parsed,
    cut::{Cut, Part},
    ether,
    nat::{self, Rewrite},
};
use tables::DropReason;

use super::{rewrite::Forward, route::Egress};
use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

impl<P: PortIo> Pass<'_, P> {
    /// Sends a flow's packet on a way that takes IP packets of `mtu` bytes, and this one has more.
    #[cold]
    #[inline(never)]
    pub(crate) fn forward_narrow<A: Forward>(
        &mut self,
        mut buf: P::Buf,
        parsed: &Parsed,
        rewrite: &Rewrite<A>,
        (egress, mtu): (Egress, u16),
    ) {
        let Some(cut) = Cut::new(parsed, mtu) else { return self.too_big(buf, parsed, mtu) };
        self.finish_checksum(&mut buf, parsed, Egress::Kernel);
        A::forward(rewrite, buf.head_mut(), parsed);
        self.emit_parts(buf, parsed, (rewrite.dst.into(), egress), cut);
    }

    /// Routes a packet as it is on such a way.
    #[cold]
    #[inline(never)]
    pub(crate) fn transit_narrow(
        &mut self,
        mut buf: P::Buf,
        parsed: &Parsed,
        dst: IpAddr,
        (egress, mtu): (Egress, u16),
    ) {
        let Some(cut) = Cut::new(parsed, mtu) else { return self.too_big(buf, parsed, mtu) };
        self.finish_checksum(&mut buf, parsed, Egress::Kernel);
        nat::decrement_ttl(buf.head_mut(), parsed);
        self.emit_parts(buf, parsed, (dst, egress), cut);
    }

    /// Sends a packet whose headers are final in parts; where there is no buffer for one, the rest is lost.
    fn emit_parts(&mut self, buf: P::Buf, parsed: &Parsed, (dst, egress): (IpAddr, Egress), cut: Cut) {
        let lane = match egress {
            Egress::Ready { port, .. } => port,
            Egress::Wait { target, .. } => target.port,
            Egress::Kernel | Egress::Lost(_) => return self.emit(buf, parsed, dst, egress),
        };
        for part in cut.parts() {
            let made = self.lane_mut(lane).and_then(|lane| {
                let mut made = lane.io.alloc()?;
                write_part(&buf, &mut made, parsed, (cut, part))?;
                Some(made)
            });
            let Some(made) = made else { return self.drop(buf, DropReason::NoBuffer) };
            self.state.counts.packets.originated += 1;
            self.state.counts.fragments.made += 1;
            let facts = Parsed { l3: 14, ip_len: cut.len_of(part), vlan: None, ..*parsed };
            self.emit(made, &facts, dst, egress);
        }
        self.state.counts.fragments.cut += 1;
        self.consume(buf);
    }
}

/// Writes one part as a frame, but for its Ethernet addresses.
fn write_part<B: PacketBuf>(from: &B, to: &mut B, parsed: &Parsed, (cut, part): (Cut, Part)) -> Option<()> {
    let header = cut.header(from.head().get(parsed.l3.into()..)?, part)?;
    let header = header.as_bytes();
    let frame = to.append(ether::HEADER_LEN + header.len() + usize::from(part.len))?;
    let (link, rest) = frame.split_at_mut_checked(ether::HEADER_LEN)?;
    link.fill(0);
    link.get_mut(12..)?.copy_from_slice(&ether::IPV4.to_be_bytes());
    let (ip, payload) = rest.split_at_mut_checked(header.len())?;
    ip.copy_from_slice(header);
    copy_range(from, usize::from(parsed.l4) + usize::from(part.start), payload)
}

/// Copies the bytes of a frame from `start` on, over all its segments.
fn copy_range<B: PacketBuf>(from: &B, start: usize, mut out: &mut [u8]) -> Option<()> {
    let mut skip = start;
    for segment in from.segments() {
        let here = segment.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(segment.len());
        let len = here.len().min(out.len());
        let (now, later) = out.split_at_mut_checked(len)?;
        now.copy_from_slice(here.get(..len)?);
        out = later;
    }
    out.is_empty().then_some(())
}
