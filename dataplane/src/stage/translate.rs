//! TCP, UDP and SCTP packets: the flow they belong to, or what becomes of the first packet of a new one.

use packet::{FlowKey, Parsed, Protocol, TcpFlags};
use tables::{
    DropReason,
    flow::{Candidate, Direction, FlowRef, Touch},
    hash::FlowHash,
    tcp_state::Phase,
};

use super::{
    admit::admit,
    balance::{Refusal, balance},
    checksum::leave_to_port,
    classify::{Class, Served, classify},
    rewrite::{Forward, of_flow},
};
use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

impl<P: PortIo> Pass<'_, P> {
    /// A packet with ports; `place` is where its flow should be.
    #[inline(always)]
    pub(crate) fn flow<A: Forward>(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        (key, flags): (&FlowKey<A>, TcpFlags),
        place: (FlowHash, Candidate),
    ) {
        let Some((flow, direction)) = self.state.flows.find(place.0, place.1, key, self.now) else {
            return self.begin(buf, parsed, key);
        };
        if !self.keeps(flow, direction, key.protocol, flags) {
            self.state.flows.remove(flow);
            return self.begin(buf, parsed, key);
        }
        if parsed.ttl <= 1 {
            return self.ttl_exceeded(buf, parsed);
        }
        if self.state.flows.touch(flow, direction, flags, self.now) == Touch::ReplyBypass {
            self.state.counts.flows.bypassed += 1;
        }
        self.forward::<A>(buf, parsed, flow, direction);
    }

    /// Whether a packet goes on with the flow it was found for. UDP leaves a backend that is gone at once; TCP stays,
    /// but for a new connection in the place of one that is over or was never answered.
    #[inline]
    fn keeps(&self, flow: FlowRef, direction: Direction, protocol: Protocol, flags: TcpFlags) -> bool {
        match protocol {
            Protocol::Tcp if flags.opens() && direction == Direction::Original => {
                let phase = self.state.flows.phase(flow);
                !(phase.is_closed() || phase == Phase::Embryonic) || self.has_backend(flow)
            }
            Protocol::Tcp | Protocol::Sctp => true,
            Protocol::Udp => self.has_backend(flow),
        }
    }

    fn has_backend(&self, flow: FlowRef) -> bool {
        self.tables.backends.is_live(self.state.flows.ids(flow).1)
    }

    /// The first packet of what may become a flow.
    #[inline(never)]
    fn begin<A: Forward>(&mut self, buf: P::Buf, parsed: &Parsed, key: &FlowKey<A>) {
        if self.is_martian(key.src.into()) {
            return self.drop(buf, DropReason::MartianSource);
        }
        match classify(self.tables, key) {
            Class::Service(served) => self.serve(buf, parsed, key, &served),
            Class::Own => self.deliver(buf, parsed),
            Class::Transit => self.transit(buf, parsed, key.dst.into()),
            Class::UnknownPort => self.drop(buf, DropReason::VipPortUnknown),
            Class::Reject(reason) => self.reject(buf, parsed, reason),
            Class::Drop(reason) => self.drop(buf, reason),
        }
    }

    /// The first packet of a Service's flow.
    #[inline(never)]
    fn serve<A: Forward>(&mut self, buf: P::Buf, parsed: &Parsed, key: &FlowKey<A>, served: &Served<'_>) {
        let backend = match balance(self.tables, served, key) {
            Ok(backend) => backend,
            Err(Refusal::Reject(reason)) => return self.reject(buf, parsed, reason),
            Err(Refusal::Drop(reason)) => return self.drop(buf, reason),
        };
        if parsed.ttl <= 1 {
            return self.ttl_exceeded(buf, parsed);
        }
        match admit(self.state, self.tables, (served, backend), key, self.now) {
            Ok(flow) => self.forward::<A>(buf, parsed, flow, Direction::Original),
            // The client learns at once what it could only wait for.
            Err(reason @ DropReason::SnatExhausted) => self.reject(buf, parsed, reason),
            Err(reason) => self.drop(buf, reason),
        }
    }

    /// Rewrites a packet of a flow and sends it on.
    #[inline(always)]
    fn forward<A: Forward>(&mut self, mut buf: P::Buf, parsed: &Parsed, flow: FlowRef, direction: Direction) {
        let rewrite = self.state.flows.rewrite::<A>(flow, direction);
        let dst = rewrite.to.dst.into();
        let egress = self.flow_way(flow, direction, dst);
        if let Some(mtu) = egress.too_small_for(parsed) {
            return self.too_big(buf, parsed, mtu);
        }
        let later = self.finish_checksum(&mut buf, parsed, egress);
        A::forward(&of_flow(&rewrite), buf.head_mut(), parsed);
        if let Some(request) = later {
            leave_to_port(&mut buf, parsed, A::any(rewrite.to), request);
        }
        self.emit(buf, parsed, dst, egress);
    }
}
