//! TCP handshakes through a port that leads to a narrow path offer no larger segments than fit there, for the case that
//! routers on the way do not tell (RFC 2923 §2.1).

use packet::{Body, Family, Parsed, nat};

use super::route::Egress;
use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

/// By how much the IPv6 header is longer than that of IPv4.
const IPV6_EXTRA: u16 = 20;

impl<P: PortIo> Pass<'_, P> {
    /// Lowers the segment size that a SYN offers to what the ports it comes and goes by allow.
    #[inline(always)]
    pub(crate) fn clamp_offer(&self, buf: &mut P::Buf, parsed: &Parsed, egress: Egress) {
        if let Body::Flow { tcp_flags, .. } = parsed.body
            && tcp_flags.syn()
        {
            self.clamp_syn(buf, parsed, egress);
        }
    }

    fn clamp_syn(&self, buf: &mut P::Buf, parsed: &Parsed, egress: Egress) {
        let leaves = match egress {
            Egress::Ready { port, .. } => Some(port),
            Egress::Wait { target, .. } => Some(target.port),
            Egress::Kernel | Egress::Lost(_) => None,
        };
        let of = |port| self.tables.port(port).and_then(|info| info.mss);
        let mss = match (of(self.port), leaves.and_then(of)) {
            (None, None) => return,
            (Some(mss), None) | (None, Some(mss)) => mss,
            (Some(came), Some(leaves)) => came.min(leaves),
        };
        lower(buf, parsed, mss);
    }
}

#[cold]
fn lower<B: PacketBuf>(buf: &mut B, parsed: &Parsed, mss: u16) {
    let Some(addrs) = parsed.addrs() else { return };
    let mss = if addrs.family() == Family::V6 { mss.saturating_sub(IPV6_EXTRA) } else { mss };
    nat::clamp_mss(buf.head_mut(), parsed, mss);
}
