//! Fragments of TCP, UDP and SCTP: the first one has the ports, finds or begins the flow as a whole packet does, and the
//! others of its datagram go the same way with the same addresses, whatever their order. The transport checksum is in the
//! first fragment and covers the datagram, so the delta of the flow's rewrite is right for it as it is.
//!
//! All parts of a datagram meet at one worker, by addresses and identification alone. If another has the flow, they are
//! handed on to it, first one first: that worker then follows the datagram too.

use packet::{AnyAddrs, AnyKey, Body, FlowKey, Fragment, Parsed, Protocol, TcpFlags, first_fragment};
use tables::{DropReason, WorkerId, hash::FlowHash, owner::of_key};

use super::{
    begin::{Foreseen, Intent},
    rewrite::Forward,
    translate::Outlook,
};
use crate::{
    buf::PacketBuf,
    fragments::{Course, Datagram, FlowName, Part, Slot, Waiting},
    io::PortIo,
    pass::Pass,
};

impl<'a, P: PortIo> Pass<'a, P> {
    /// A part of a datagram with ports.
    #[inline(never)]
    pub(crate) fn fragment(&mut self, buf: P::Buf, parsed: &Parsed) {
        let (Some(datagram), Some(part)) = (Datagram::of(parsed), Part::of(parsed)) else {
            return self.drop(buf, DropReason::BadFragment);
        };
        let slot = self.state.fragments.slot(datagram, self.hash_of(&datagram), self.now);
        match (self.state.fragments.note(slot, part), parsed.fragment) {
            (Err(reason), _) => self.drop(buf, reason),
            (Ok(()), Fragment::First { .. }) => self.first_part(buf, parsed, slot),
            (Ok(()), _) => self.later_part(buf, parsed, slot),
        }
        if self.state.fragments.holds_up(slot) {
            self.release(slot);
        }
        self.state.fragments.forget_complete(slot);
    }

    /// Fragments that have waited too long: what is not for an address of ours is routed without its first one, which may
    /// have taken another way; it could only be translated by knowing that.
    pub(crate) fn expire_fragments(&mut self) {
        while let Some(waiting) = self.state.fragments.take_expired(self.now) {
            self.give_up(waiting, DropReason::FragmentExpired);
        }
    }

    fn give_up(&mut self, waiting: Waiting<P::Buf>, reason: DropReason) {
        let Waiting { buf, parsed, port, .. } = waiting;
        let Some(dst) = parsed.addrs().map(|addrs| addrs.dst()) else { return self.drop(buf, reason) };
        if self.tables.addresses.get(dst).is_some() {
            return self.drop(buf, reason);
        }
        self.port = port;
        self.pass_by(buf, &parsed, dst);
    }

    fn first_part(&mut self, buf: P::Buf, parsed: &Parsed, slot: Slot) {
        let Some((key, flags)) = first_fragment(buf.head(), parsed) else {
            self.state.fragments.set_course(slot, Course::Refused(DropReason::BadFragment));
            return self.drop(buf, DropReason::BadFragment);
        };
        let whole = parsed.as_whole(key, flags);
        let course = match (self.owner_of_parts(key), key) {
            (Some(owner), _) => {
                self.hand_over(buf, owner, true);
                Course::Owner(owner)
            }
            (None, AnyKey::V4(key)) => self.begin_parts(buf, &whole, (&key, flags)),
            (None, AnyKey::V6(key)) => self.begin_parts(buf, &whole, (&key, flags)),
        };
        self.state.fragments.set_course(slot, course);
    }

    /// Parts that waited go where their datagram goes, now that it is known.
    #[cold]
    fn release(&mut self, slot: Slot) {
        let port = self.port;
        while let Some(waiting) = self.state.fragments.take_waiting(slot) {
            self.port = waiting.port;
            self.later_part(waiting.buf, &waiting.parsed, slot);
        }
        self.port = port;
    }

    /// The first fragment goes the way of a whole packet; where the others are to go is what became of it.
    fn begin_parts<A: Forward>(
        &mut self,
        buf: P::Buf,
        whole: &Parsed,
        (key, flags): (&FlowKey<A>, TcpFlags),
    ) -> Course {
        let hash = self.state.flows.hash(key);
        let candidate = self.state.flows.candidate(hash);
        let name = FlowName::of(key, hash, candidate);
        let Err(buf) = self.pass_part(buf, whole, (key, candidate), true) else {
            return Course::Flow(name);
        };
        let found = self.state.flows.find(hash, candidate, key, self.now);
        if let Some((flow, direction)) = found
            && key.protocol != Protocol::Sctp
            && self.keeps(flow, direction, key.protocol, flags)
        {
            self.go_on(buf, whole, (key, flags), (flow, direction));
            return Course::Flow(name);
        }
        let known = found.is_none().then(|| Foreseen::of(self.intent(key)));
        let intent = known.map(|known| known.intent);
        // Its CRC covers the ports and depends on the length of the datagram, which no fragment but the last one tells.
        if key.protocol == Protocol::Sctp
            && matches!(intent, None | Some(Intent::Direct(_) | Intent::Enter(_)))
        {
            self.drop(buf, DropReason::FragmentUnsupported);
            return Course::Refused(DropReason::FragmentUnsupported);
        }
        let outlook = Outlook { hash, candidate, known: known.as_ref(), usual: None };
        self.flow(buf, whole, (key, flags), outlook);
        // It may have begun with this.
        let candidate = self.state.flows.candidate(hash);
        match intent {
            _ if self.state.flows.find(hash, candidate, key, self.now).is_some() => {
                Course::Flow(FlowName { candidate, ..name })
            }
            Some(Intent::Direct(_) | Intent::Route) => Course::Route,
            Some(Intent::Reply(_)) => Course::Refused(DropReason::ReplyWithoutFlow),
            Some(Intent::Deliver) => Course::Deliver,
            Some(Intent::Drop(reason) | Intent::Reject(reason)) => Course::Refused(reason),
            // The flow could not be entered, or a hop too many was taken.
            None | Some(Intent::Enter(_)) => Course::Refused(DropReason::FragmentExpired),
        }
    }

    fn later_part(&mut self, buf: P::Buf, parsed: &Parsed, slot: Slot) {
        match self.state.fragments.course(slot) {
            Course::Deliver => self.deliver(buf, parsed),
            Course::Flow(name) => self.forward_part(buf, parsed, name),
            Course::Owner(owner) => self.hand_over(buf, owner, true),
            Course::Refused(reason) => self.drop(buf, reason),
            Course::Route => match parsed.addrs() {
                Some(addrs) => self.transit(buf, parsed, addrs.dst()),
                None => self.drop(buf, DropReason::BadFragment),
            },
            Course::Unknown => {
                let waiting = Waiting { buf, parsed: *parsed, port: self.port, since: self.now };
                let port = self.port;
                if let Some(waiting) = self.state.fragments.wait(slot, waiting) {
                    self.give_up(waiting, DropReason::FragmentQueueFull);
                    self.port = port;
                }
            }
        }
    }

    /// A part without ports goes with its flow.
    fn forward_part(&mut self, buf: P::Buf, parsed: &Parsed, name: FlowName) {
        match parsed.body {
            Body::OtherIp { addrs: AnyAddrs::V4 { src, dst }, .. } => {
                self.forward_part_of(buf, parsed, (&name.key(src, dst), name));
            }
            Body::OtherIp { addrs: AnyAddrs::V6 { src, dst }, .. } => {
                self.forward_part_of(buf, parsed, (&name.key(src, dst), name));
            }
            _ => self.drop(buf, DropReason::BadFragment),
        }
    }

    fn forward_part_of<A: Forward>(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        (key, name): (&FlowKey<A>, FlowName),
    ) {
        let Err(buf) = self.pass_part(buf, parsed, (key, name.candidate), false) else { return };
        let found = self.state.flows.find(name.hash, name.candidate, key, self.now);
        let kept = found.filter(|(flow, way)| self.keeps(*flow, *way, name.protocol, TcpFlags::default()));
        match kept {
            None => self.drop(buf, DropReason::FragmentExpired),
            Some(_) if parsed.ttl <= 1 => self.ttl_exceeded(buf, parsed),
            Some((flow, direction)) => {
                self.state.flows.renew(flow, self.now);
                self.forward(buf, parsed, key, (flow, direction));
            }
        }
    }

    /// The other worker that has, or will have, the flow, unless the parts were handed to us for that very reason.
    fn owner_of_parts(&self, key: AnyKey) -> Option<WorkerId> {
        let owner = of_key(key, self.tables);
        (!self.settled && owner != self.state.worker).then_some(owner)
    }

    /// A hash that clients cannot aim.
    fn hash_of(&self, datagram: &Datagram) -> FlowHash {
        let [a, b, c, d] = datagram.id().to_be_bytes();
        let (sport, dport) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        match datagram.addrs() {
            AnyAddrs::V4 { src, dst } => {
                self.state.flows.hash(&FlowKey { src, dst, sport, dport, protocol: Protocol::Udp })
            }
            AnyAddrs::V6 { src, dst } => {
                self.state.flows.hash(&FlowKey { src, dst, sport, dport, protocol: Protocol::Udp })
            }
        }
    }
}
