//! The usual packet: a plain one with nothing wrong with it, of a flow whose both ways work or of which one is used
//! alone, over a neighbour that has answered. It takes a short way, where the flow table says all at once and nothing is left to decide. Every rule of the
//! long way holds here too: what cannot be sure of one is given back, and goes that way.

use packet::{
    FlowKey, MacAddr, Parsed, Protocol, ether,
    plain::{Ends, Plain, Shape},
};
use tables::flow::{Candidate, Direction, FlowRef, Usual};

use super::{rewrite::Forward, translate::numbers};
use crate::{
    buf::{ChecksumStatus, PacketBuf},
    io::PortIo,
    pass::Pass,
    stages::Stage,
};

/// True for a plain packet that may be a usual one, by what it says itself and the port with this address says of it.
#[inline(always)]
pub(crate) fn may_be_usual<E>(plain: &Plain<E>, head: &[u8], status: ChecksumStatus, mac: MacAddr) -> bool {
    let Some(eth) = head.first_chunk() else { return false };
    let finished = plain.ip_checksum_right & !plain.unfinished & !status.is_faulty();
    finished & (plain.ttl > 1) & (ether::Header(eth).dst() == mac)
}

impl<P: PortIo> Pass<'_, P> {
    /// Sends a packet of this shape on that [may be](may_be_usual) a usual one.
    ///
    /// # Errors
    /// The packet itself, unchanged, if it is none.
    #[inline(always)]
    pub(crate) fn pass_usual(
        &mut self,
        buf: P::Buf,
        shape: Shape,
        candidate: Candidate,
    ) -> Result<(), P::Buf> {
        // One way for each, in which nothing is asked that its shape answers.
        match shape {
            Shape::V4Tcp => self.pass_usual_of::<u64>(buf, Protocol::Tcp, candidate),
            Shape::V4Udp => self.pass_usual_of::<u64>(buf, Protocol::Udp, candidate),
            Shape::V6Tcp | Shape::V6Udp => self.pass_usual_v6(buf, shape.protocol(), candidate),
        }
    }

    /// Apart, so that either family has the registers to itself.
    #[inline(never)]
    fn pass_usual_v6(&mut self, buf: P::Buf, protocol: Protocol, candidate: Candidate) -> Result<(), P::Buf> {
        self.pass_usual_of::<[u64; 4]>(buf, protocol, candidate)
    }

    #[inline(always)]
    fn pass_usual_of<E: Ends>(
        &mut self,
        buf: P::Buf,
        protocol: Protocol,
        candidate: Candidate,
    ) -> Result<(), P::Buf> {
        let Some(plain) = Plain::<E>::again(buf.head(), protocol) else { return Err(buf) };
        let noted = self.note_usual(&plain, buf.head(), candidate);
        self.state.stages.mark_packet(Stage::Record);
        match noted {
            Some(usual) => self.send_as(buf, &plain, usual),
            None => Err(buf),
        }
    }

    /// Notes a packet in its flow, if it is a usual one.
    #[inline(always)]
    fn note_usual<E: Ends>(
        &mut self,
        plain: &Plain<E>,
        head: &[u8],
        candidate: Candidate,
    ) -> Option<Usual<E>> {
        let packet = (plain, || numbers(head, plain.l4()));
        let usual = self.state.flows.note_usual(candidate, packet, self.tables.fib_epoch, self.now)?;
        // A datagram leaves a backend that is gone.
        (plain.protocol != Protocol::Udp || self.tables.backends.is_live(usual.backend)).then_some(usual)
    }

    /// Sends the packet of this shape that [may be](may_be_usual) usual but for that its flow, just entered, begins with it.
    ///
    /// # Errors
    /// The packet itself, unchanged, if more is to be done to it.
    #[inline(never)]
    pub(crate) fn pass_first(&mut self, buf: P::Buf, shape: Shape, flow: FlowRef) -> Result<(), P::Buf> {
        match shape {
            Shape::V4Tcp | Shape::V4Udp => self.pass_first_of::<u64>(buf, shape.protocol(), flow),
            Shape::V6Tcp | Shape::V6Udp => self.pass_first_of::<[u64; 4]>(buf, shape.protocol(), flow),
        }
    }

    #[inline(always)]
    fn pass_first_of<E: Ends>(
        &mut self,
        buf: P::Buf,
        protocol: Protocol,
        flow: FlowRef,
    ) -> Result<(), P::Buf> {
        let Some(plain) = Plain::<E>::again(buf.head(), protocol) else { return Err(buf) };
        let offers = plain.flags.syn() && self.tables.clamps_segments();
        match self.state.flows.usual(flow, Direction::Original, self.tables.fib_epoch) {
            Some(usual) if !offers => self.send_as(buf, &plain, usual),
            _ => Err(buf),
        }
    }

    /// Sends a part of a UDP datagram with its flow, as a usual packet goes: in its own right it would be one, but for what
    /// its IP header says of parts. `first` if the ports are in it.
    ///
    /// # Errors
    /// The packet itself, unchanged, if more is to be done to it or its flow.
    #[inline(always)]
    pub(crate) fn pass_part<A: Forward>(
        &mut self,
        mut buf: P::Buf,
        parsed: &Parsed,
        (key, candidate): (&FlowKey<A>, Candidate),
        first: bool,
    ) -> Result<(), P::Buf> {
        let bare = key.protocol == Protocol::Udp && parsed.vlan.is_none() && parsed.ttl > 1;
        let Some(start) = Plain::<A::Ends>::again(buf.head(), Protocol::Udp).filter(|_| bare) else {
            return Err(buf);
        };
        let plain = Plain { ports: key.ports(), ..start };
        let Some(usual) = self.note_usual(&plain, buf.head(), candidate) else { return Err(buf) };
        let Some(link) = self.tables.adjacencies().link(usual.next_hop) else { return Err(buf) };
        let transport = first.then_some((Protocol::Udp, parsed.l4));
        if parsed.ip_len > link.mtu || !usual.rewrite.forward_any(buf.head_mut(), transport, link.macs) {
            return Err(buf);
        }
        buf.truncate(parsed.frame_end());
        self.gather(buf, link.port, parsed.frame_end());
        Ok(())
    }

    /// Sends a packet as its flow wants it.
    ///
    /// # Errors
    /// The packet itself, unchanged, if that takes more.
    #[inline(always)]
    fn send_as<E: Ends>(&mut self, mut buf: P::Buf, plain: &Plain<E>, usual: Usual<E>) -> Result<(), P::Buf> {
        let Some(link) = self.tables.adjacencies().link(usual.next_hop) else { return Err(buf) };
        if plain.ip_len > link.mtu {
            return Err(buf);
        }
        if !usual.rewrite.forward(buf.head_mut(), plain.protocol, link.macs) {
            return Err(buf);
        }
        self.state.stages.mark_packet(Stage::Rewrite);
        let end = ether::HEADER_LEN + usize::from(plain.ip_len);
        buf.truncate(end);
        // While packets that pass are captured, none is a usual one.
        self.gather_unseen(buf, link.port, end);
        self.state.stages.mark_packet(Stage::Egress);
        Ok(())
    }
}
