//! The usual packet: a plain one with nothing wrong with it, of a flow whose both ways work or of which one is used
//! alone, over a neighbour that has answered. It takes a short way, where the flow table says all at once and nothing is left to decide. Every rule of the
//! long way holds here too: what cannot be sure of one is given back, and goes that way.

use packet::{
    Family, MacAddr, Protocol, ether,
    plain::{Ends, Plain},
};
use tables::{
    DropReason, Tables,
    flow::{Candidate, Direction, FlowRef, FlowTable, Usual},
};

use super::translate::numbers;
use crate::{
    buf::{ChecksumStatus, PacketBuf},
    io::PortIo,
    pass::Pass,
};

/// True for a plain packet that may be a usual one, by what it says itself and the port with this address says of it.
#[inline(always)]
pub(crate) fn may_be_usual(plain: &Plain, head: &[u8], status: ChecksumStatus, mac: MacAddr) -> bool {
    let Some(eth) = head.first_chunk() else { return false };
    let finished = plain.ip_checksum_right & !plain.unfinished & !status.is_faulty();
    finished & (plain.ttl > 1) & (ether::Header(eth).dst() == mac)
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
        plain: &Plain,
        candidate: Candidate,
    ) -> Result<(), P::Buf> {
        match plain.family {
            Family::V4 => self.pass_usual_of::<u64>(buf, plain, candidate),
            Family::V6 => self.pass_usual_v6(buf, plain, candidate),
        }
    }

    /// Apart, so that either family has the registers to itself.
    #[inline(never)]
    fn pass_usual_v6(&mut self, buf: P::Buf, plain: &Plain, candidate: Candidate) -> Result<(), P::Buf> {
        self.pass_usual_of::<[u64; 4]>(buf, plain, candidate)
    }

    #[inline(always)]
    fn pass_usual_of<E: Ends>(
        &mut self,
        buf: P::Buf,
        plain: &Plain,
        candidate: Candidate,
    ) -> Result<(), P::Buf> {
        let now = self.now;
        self.send_as::<E>(buf, plain, |flows, tables, head| {
            let packet = (plain, || numbers(head, plain.l4()));
            let usual = flows.note_usual::<E>(candidate, packet, tables.fib_epoch, now)?;
            // A datagram leaves a backend that is gone.
            (plain.protocol != Protocol::Udp || tables.backends.is_live(usual.backend)).then_some(usual)
        })
    }

    /// Sends the packet that [may be](may_be_usual) usual but for that its flow, just entered, begins with it.
    ///
    /// # Errors
    /// The packet itself, unchanged, if more is to be done to it.
    #[inline(never)]
    pub(crate) fn pass_first(&mut self, buf: P::Buf, plain: &Plain, flow: FlowRef) -> Result<(), P::Buf> {
        if plain.flags.syn() && self.tables.clamps_segments() {
            return Err(buf);
        }
        match plain.family {
            Family::V4 => self.pass_first_of::<u64>(buf, plain, flow),
            Family::V6 => self.pass_first_of::<[u64; 4]>(buf, plain, flow),
        }
    }

    #[inline(always)]
    fn pass_first_of<E: Ends>(&mut self, buf: P::Buf, plain: &Plain, flow: FlowRef) -> Result<(), P::Buf> {
        self.send_as::<E>(buf, plain, |flows, tables, _| {
            flows.usual(flow, Direction::Original, tables.fib_epoch)
        })
    }

    /// Sends a packet as `see` finds that its flow wants it, of which nothing was changed if it finds nothing.
    #[inline(always)]
    fn send_as<E: Ends>(
        &mut self,
        mut buf: P::Buf,
        plain: &Plain,
        see: impl FnOnce(&mut FlowTable, &Tables, &[u8]) -> Option<Usual<E>>,
    ) -> Result<(), P::Buf> {
        let tables = self.tables;
        let Some(usual) = see(&mut self.state.flows, tables, buf.head()) else { return Err(buf) };
        let Some(link) = tables.adjacencies().link(usual.next_hop) else { return Err(buf) };
        let Some(lane) = self.lanes.get_mut(link.port.index()) else { return Err(buf) };
        if plain.ip_len > link.mtu {
            return Err(buf);
        }
        if !usual.rewrite.forward(buf.head_mut(), plain.protocol, link.macs) {
            return Err(buf);
        }
        let end = ether::HEADER_LEN + usize::from(plain.ip_len);
        buf.truncate(end);
        if let Err(buf) = lane.send(buf, end) {
            self.drop(buf, DropReason::TxFull);
        }
        Ok(())
    }
}
