//! TCP, UDP and SCTP packets: the flow they belong to, and what is done to a packet of one.

use packet::{FlowKey, Parsed, Protocol, TcpFlags, nat::Rewrite, plain::Shape, sctp::Tags};
use tables::{
    BackendState,
    flow::{Candidate, Direction, FlowRef, Numbers, Touch},
    hash::FlowHash,
    tcp_state::Phase,
};

use super::{begin::Foreseen, checksum::leave_to_port, rewrite::Forward, route::Egress};
use crate::{buf::PacketBuf, io::PortIo, pass::Pass, stages::Stage};

/// What is known of a packet before its turn comes.
#[derive(Clone, Copy)]
pub(crate) struct Outlook<'s, 't> {
    pub(crate) hash: FlowHash,
    /// Where its flow should be.
    pub(crate) candidate: Candidate,
    /// What to do if there is none, as far as that was looked at.
    pub(crate) known: Option<&'s Foreseen<'t>>,
    /// What kind of plain packet it is, if it may be a usual one.
    pub(crate) usual: Option<Shape>,
}

/// The sequence numbers of a TCP segment; of another packet, whatever stands there.
#[inline(always)]
pub(crate) fn numbers(head: &[u8], l4: u16) -> Numbers {
    match packet::tcp::Header::at(head, l4) {
        Some(tcp) => Numbers { seq: tcp.seq(), ack: tcp.ack() },
        None => Numbers::default(),
    }
}

/// The same, or the tags of an SCTP packet.
fn numbers_of(protocol: Protocol, head: &[u8], l4: u16) -> Numbers {
    match protocol {
        Protocol::Sctp => tags(head, l4),
        Protocol::Tcp | Protocol::Udp => numbers(head, l4),
    }
}

#[inline(never)]
fn tags(head: &[u8], l4: u16) -> Numbers {
    let Tags { carried, initiate, reflected } = Tags::of(head.get(l4.into()..).unwrap_or_default());
    Numbers::of_sctp(carried, initiate, reflected)
}

impl<'a, P: PortIo> Pass<'a, P> {
    /// A packet with ports.
    pub(crate) fn flow<A: Forward>(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        (key, flags): (&FlowKey<A>, TcpFlags),
        outlook: Outlook<'_, 'a>,
    ) {
        // Of what was seen to have no flow, only another packet of this burst can have made one.
        if outlook.known.is_some() && self.state.flows.is_absent(outlook.hash) {
            return self.begin(buf, parsed, key, outlook);
        }
        let found = self.state.flows.find(outlook.hash, outlook.candidate, key, self.now);
        let Some((flow, direction)) = found else { return self.begin(buf, parsed, key, outlook) };
        if !self.keeps(flow, direction, key.protocol, flags) {
            self.state.flows.remove(flow);
            return self.begin(buf, parsed, key, outlook);
        }
        self.go_on(buf, parsed, (key, flags), (flow, direction));
    }

    /// A packet that goes on with its flow.
    #[inline(always)]
    pub(crate) fn go_on<A: Forward>(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        (key, flags): (&FlowKey<A>, TcpFlags),
        (flow, direction): (FlowRef, Direction),
    ) {
        if parsed.ttl <= 1 {
            return self.ttl_exceeded(buf, parsed);
        }
        match self.state.flows.touch(
            flow,
            direction,
            (flags, || numbers_of(key.protocol, buf.head(), parsed.l4)),
            self.now,
        ) {
            Touch::Same | Touch::Entered(_) | Touch::Reopened => {}
            Touch::ReplyBypass => self.bypassed(self.state.flows.ids(flow).0),
            Touch::ResetIgnored => self.state.counts.flows.resets_ignored += 1,
            Touch::Revived => self.state.counts.flows.revived += 1,
        }
        self.forward(buf, parsed, key, (flow, direction));
    }

    /// Whether a packet goes on with the flow it was found for. UDP leaves a backend that is gone at once; TCP and SCTP stay,
    /// but for a new connection in the place of one that its client has closed or never had: a backend that is gone
    /// cannot refuse it, and one that drains gets no new connections: a client's ports come round again after some ten
    /// thousand. Established, a SYN is the backend's to challenge (RFC 9293 §3.10.7.4), as anybody can forge it.
    pub(crate) fn keeps(
        &self,
        flow: FlowRef,
        direction: Direction,
        protocol: Protocol,
        flags: TcpFlags,
    ) -> bool {
        match protocol {
            Protocol::Udp => self.has_backend(flow),
            Protocol::Tcp | Protocol::Sctp if flags.opens() && direction == Direction::Original => {
                match self.state.flows.phase(flow) {
                    Phase::Established => true,
                    phase if phase.is_closed() => self.takes_new(flow),
                    _ => self.has_backend(flow),
                }
            }
            Protocol::Tcp | Protocol::Sctp => true,
        }
    }

    fn has_backend(&self, flow: FlowRef) -> bool {
        self.tables.backends.is_live(self.state.flows.ids(flow).1)
    }

    fn takes_new(&self, flow: FlowRef) -> bool {
        let backend = self.tables.backends.get(self.state.flows.ids(flow).1);
        backend.is_some_and(|backend| backend.state == BackendState::Active)
    }

    /// Rewrites a packet of a flow and sends it on.
    pub(crate) fn forward<A: Forward>(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        key: &FlowKey<A>,
        (flow, direction): (FlowRef, Direction),
    ) {
        let rewrite = self.state.flows.rewrite::<A>(flow, direction);
        let egress = self.flow_way(flow, direction, rewrite.dst.into());
        self.forward_as(buf, parsed, (&rewrite, key.protocol), egress);
    }

    /// Rewrites a packet so, and sends it on this way.
    #[inline(always)]
    pub(crate) fn forward_as<A: Forward>(
        &mut self,
        mut buf: P::Buf,
        parsed: &Parsed,
        (rewrite, protocol): (&Rewrite<A>, Protocol),
        egress: Egress,
    ) {
        if let Some(mtu) = egress.too_small_for(parsed) {
            return self.forward_narrow(buf, parsed, rewrite, (egress, mtu));
        }
        self.clamp_offer(&mut buf, parsed, egress);
        let later = self.finish_checksum(&mut buf, parsed, egress);
        A::forward(rewrite, buf.head_mut(), parsed);
        self.state.stages.mark_packet(Stage::Rewrite);
        if let Some(request) = later {
            leave_to_port(&mut buf, parsed, A::any(rewrite.key(protocol)), request);
        }
        self.emit(buf, parsed, rewrite.dst.into(), egress);
        self.state.stages.mark_packet(Stage::Egress);
    }
}
