//! A packet that no flow has: what the tables make of it, and what is done about that.
//!
//! The first half is a pure function, asked for all such packets of a burst before any of them is entered: so the lines
//! of the flow table that their flows will want arrive together.

use std::net::IpAddr;

use packet::{Address, AnyKey, Body, FlowKey, MacAddr, Parsed, Protocol, plain::Shape};
use tables::{
    AddressKind, BackendId, DropReason, Millis, PortId, Serves, Tables, affinity::Affinity, flow::Direction,
    hash::FlowHash,
};

use super::{
    admit::{Course, Entry, admit, course, likely_reply},
    balance::{Refusal, balance, hash_for},
    classify::{Class, Served, classify},
    police::is_impossible,
    reply::{Reply, transit},
    rewrite::Forward,
    translate::Outlook,
};
use crate::{
    buf::{BURST, Burst},
    io::PortIo,
    pass::Pass,
    scratch::Scratch,
    stages::Stage,
};

/// What the tables make of the first packet of what may become a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Intent<'t> {
    /// A Service's flow, to be entered.
    Enter(Course<'t>),
    /// For the appliance itself.
    Deliver,
    /// From a client outside to this endpoint of a dnat Service, by its own address.
    Direct(BackendId),
    /// From such an endpoint to a client outside.
    Reply(Reply),
    /// To be routed as it is.
    Route,
    /// To be refused with an answer.
    Reject(DropReason),
    /// To be refused without one.
    Drop(DropReason),
}

/// What was found out of a packet that no flow has, before others of its burst were entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreseen<'t> {
    pub(crate) intent: Intent<'t>,
    /// What the replies of its flow will have, unless another flow has it by then.
    reply: Option<ReplyKey>,
}

/// Reply keys that are passed for one that is free, before the flow's turn comes.
const PASSED_MAX: usize = 4;

/// A key and its hash.
pub(crate) type ReplyKey = (AnyKey, FlowHash);

impl<'t> Foreseen<'t> {
    pub(crate) const fn of(intent: Intent<'t>) -> Self {
        Self { intent, reply: None }
    }
}

/// The same of a burst's packets, by slot, as far as that was looked at.
pub(crate) type Outlooks<'t> = [Option<Foreseen<'t>>; BURST];

/// A Service that a packet asks for, before it gets a backend.
#[derive(Clone, Copy)]
struct Asked<'t> {
    served: Served<'t>,
    /// For [`balance`].
    hash: u64,
}

/// What the tables make of a key that no flow has, at a port that serves these frontends, and of what is remembered of its
/// client: all but what a Service makes of it.
///
/// # Errors
/// What is to be done, if it asks for no Service.
fn ask<'t, A: Address>(
    tables: &'t Tables,
    (key, serves): (&FlowKey<A>, Serves),
    (affinity, now): (&Affinity, Millis),
) -> Result<Asked<'t>, Intent<'t>> {
    if let Some(reason) = source_fault(tables, key.src.into()) {
        return Err(Intent::Drop(reason));
    }
    Err(match classify(tables, key) {
        Class::Service(served) if !serves.admits(served.kind) => Intent::Drop(DropReason::NotServedHere),
        Class::Service(served) => return Ok(Asked { hash: hash_for(&served, key), served }),
        Class::Own => Intent::Deliver,
        Class::Transit => transit(tables, key, (affinity, now)),
        // The rest of a VIP is as closed as its ports are.
        Class::UnknownPort if !serves.vip => Intent::Drop(DropReason::NotServedHere),
        Class::Reject(DropReason::VipPortUnknown) if !serves.cluster_ip => {
            Intent::Drop(DropReason::NotServedHere)
        }
        Class::UnknownPort => Intent::Drop(DropReason::VipPortUnknown),
        Class::Reject(reason) => Intent::Reject(reason),
        Class::Drop(reason) => Intent::Drop(reason),
    })
}

/// What the Service makes of it that a packet asks for.
fn serve<'t, A: Address>(
    tables: &'t Tables,
    key: &FlowKey<A>,
    Asked { served, hash }: &Asked<'t>,
    (affinity, now): (&Affinity, Millis),
) -> Intent<'t> {
    let timeout = served.port.affinity_timeout_s;
    let remembered = timeout.and_then(|_| affinity.recall(key.src, served.port.id, now));
    let course = match balance(tables, served, *hash, remembered) {
        Ok(backend) => course(tables, (served, backend), key),
        Err(Refusal::Reject(reason)) => return Intent::Reject(reason),
        Err(Refusal::Drop(reason)) => return Intent::Drop(reason),
    };
    course.map_or_else(Intent::Drop, Intent::Enter)
}

/// What is wrong with a packet's source: no sender on a wire may have it, or it is a Service's, which never sends.
pub(crate) fn source_fault(tables: &Tables, src: IpAddr) -> Option<DropReason> {
    match tables.addresses.get(src).map(|info| info.kind) {
        Some(AddressKind::Own(_)) => Some(DropReason::MartianSource),
        Some(AddressKind::ClusterIp | AddressKind::LoadBalancer) => Some(DropReason::ServiceSource),
        // An externalIP may be a host's.
        Some(AddressKind::ExternalIp) | None => {
            let martian = is_impossible(src) || tables.is_broadcast(src);
            martian.then_some(DropReason::MartianSource)
        }
    }
}

/// Whether a flow may begin with this packet. A lone RST or FIN, the answer to a SYN, and flags that no sender sets are
/// refused, as nf_conntrack's state table has it, and what is the same in SCTP; a packet from the middle of a connection may
/// be taken up, see [`is_midstream`].
pub(crate) fn may_begin(parsed: &Parsed) -> bool {
    match parsed.body {
        Body::Flow { key, tcp_flags } if key.protocol() != Protocol::Udp => tcp_flags.begins(),
        _ => true,
    }
}

/// Whether this is from the middle of a connection, of what [`may_begin`].
fn is_midstream(parsed: &Parsed) -> bool {
    match parsed.body {
        Body::Flow { key, tcp_flags } => key.protocol() != Protocol::Udp && !tcp_flags.opens(),
        _ => false,
    }
}

impl<'a, P: PortIo> Pass<'a, P> {
    /// What the burst's new flows will be; asks for the lines of the flow table that they will want.
    #[inline(never)]
    pub(crate) fn foresee(&self, burst: &Burst<P::Buf>, mac: MacAddr, scratch: &mut Scratch) -> Outlooks<'a> {
        let mut outlooks: Outlooks<'a> = [const { None }; BURST];
        let mut asked: [Option<Asked<'a>>; BURST] = [const { None }; BURST];
        for slot in 0..burst.len().min(BURST) {
            let Some(buf) = burst.slot(slot).filter(|_| scratch.is_unseen(slot)) else { continue };
            scratch.read(slot, buf);
            let Some((parsed, hash)) = scratch.arrived(slot) else { continue };
            let Body::Flow { key, .. } = &parsed.body else { continue };
            let ours = parsed.dst_mac == mac && self.foreign_owner(parsed).is_none();
            if ours && self.state.flows.is_absent(hash) {
                self.state.flows.prefetch_other(hash);
                let port = scratch.port(slot).unwrap_or(self.port);
                match self.ask(key, port) {
                    Ok(found) => asked[slot] = Some(found),
                    Err(intent) => outlooks[slot] = Some(Foreseen::of(intent)),
                }
            }
        }
        // By now the lines are on their way that say which backend each gets.
        for (slot, asked) in asked.iter().enumerate() {
            if let (Some(asked), Body::Flow { key, .. }) = (asked, &scratch.parsed[slot].body) {
                let known = outlooks[slot].insert(Foreseen::of(self.serve(key, asked)));
                known.reply = self.prefetch_reply(&known.intent, (key, scratch.hashes[slot]), 0);
            }
        }
        for Foreseen { reply, .. } in outlooks.iter().flatten() {
            reply.iter().for_each(|(_, hash)| self.state.flows.prefetch_other(*hash));
        }
        self.foresee_other_replies(&mut outlooks, scratch);
        outlooks
    }

    /// Where the likely reply key is taken, the flow gets another one: the next that is free. All look at theirs before any
    /// asks for the one after it.
    fn foresee_other_replies(&self, outlooks: &mut Outlooks<'a>, scratch: &Scratch) {
        // Whose key is not known to be free, a bit each.
        let mut looking = u64::MAX;
        for passed in 1..=PASSED_MAX {
            let mut passing = 0;
            for slot in (0..BURST).filter(|slot| looking >> slot & 1 != 0) {
                if let Some(Foreseen { intent, reply }) = &mut outlooks[slot]
                    && reply.is_some_and(|(_, taken)| !self.state.flows.is_absent(taken))
                    && let Body::Flow { key, .. } = &scratch.parsed[slot].body
                    && let Some(next) = self.prefetch_reply(intent, (key, scratch.hashes[slot]), passed)
                {
                    *reply = Some(next);
                    passing |= 1 << slot;
                }
            }
            looking = passing;
            if passing == 0 {
                break;
            }
        }
    }

    /// The reply key that a new flow gets unless it is taken, or after `passed` others that are; its lines are asked for.
    fn prefetch_reply(
        &self,
        intent: &Intent<'a>,
        (key, hash): (&AnyKey, FlowHash),
        passed: usize,
    ) -> Option<ReplyKey> {
        let Intent::Enter(course) = intent else { return None };
        match key {
            AnyKey::V4(key) => self.prefetch_reply_of(course, (key, hash), passed),
            AnyKey::V6(key) => self.prefetch_reply_of(course, (key, hash), passed),
        }
    }

    fn prefetch_reply_of<A: Address>(
        &self,
        course: &Course<'a>,
        (key, hash): (&FlowKey<A>, FlowHash),
        passed: usize,
    ) -> Option<ReplyKey> {
        let reply = likely_reply(self.state, self.tables, course, (key, hash), passed)?;
        let hash = self.state.flows.hash(&reply);
        self.state.flows.prefetch_bucket(hash);
        Some((A::any(reply), hash))
    }

    /// What is to be done with a packet of this key, which no flow has.
    pub(crate) fn intent<A: Address>(&self, key: &FlowKey<A>) -> Intent<'a> {
        let memory = (&self.state.affinity, self.now);
        match ask(self.tables, (key, self.serves(self.port)), memory) {
            Ok(asked) => serve(self.tables, key, &asked, memory),
            Err(intent) => intent,
        }
    }

    /// The first half of that.
    #[inline]
    fn ask(&self, key: &AnyKey, port: PortId) -> Result<Asked<'a>, Intent<'a>> {
        let (serves, memory) = (self.serves(port), (&self.state.affinity, self.now));
        match key {
            AnyKey::V4(key) => ask(self.tables, (key, serves), memory),
            AnyKey::V6(key) => ask(self.tables, (key, serves), memory),
        }
    }

    /// The other half, once what is to be read for it is at hand.
    #[inline]
    fn serve(&self, key: &AnyKey, asked: &Asked<'a>) -> Intent<'a> {
        let memory = (&self.state.affinity, self.now);
        match key {
            AnyKey::V4(key) => serve(self.tables, key, asked, memory),
            AnyKey::V6(key) => serve(self.tables, key, asked, memory),
        }
    }

    fn serves(&self, port: PortId) -> Serves {
        self.tables.port(port).map_or(Serves::ALL, |port| port.serves)
    }

    /// Deals with a packet that no flow has.
    #[inline(never)]
    pub(crate) fn begin<A: Forward>(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        key: &FlowKey<A>,
        outlook: Outlook<'_, 'a>,
    ) {
        self.state.stages.mark_packet(Stage::Record);
        let seen_now;
        let known = match outlook.known {
            Some(known) => known,
            None => {
                seen_now = Foreseen::of(self.intent(key));
                &seen_now
            }
        };
        match &known.intent {
            Intent::Enter(_) if !may_begin(parsed) => self.drop(buf, DropReason::TcpWithoutFlow),
            Intent::Enter(_) if !self.tables.answers.takes_midstream && is_midstream(parsed) => {
                self.reject(buf, parsed, DropReason::MidstreamRefused);
            }
            Intent::Enter(_) if parsed.ttl <= 1 => self.ttl_exceeded(buf, parsed),
            Intent::Enter(course) => match self.surplus(key, course) {
                None => {
                    let entry = Entry { key, hash: outlook.hash, reply: known.reply };
                    self.enter(buf, (parsed, outlook.usual), course, &entry);
                }
                Some(reason) => self.drop(buf, reason),
            },
            Intent::Deliver => self.deliver(buf, parsed),
            Intent::Direct(backend) => self.direct(buf, parsed, key, *backend),
            Intent::Reply(reply) => self.reply(buf, parsed, key, *reply),
            Intent::Route => self.transit(buf, parsed, key.dst.into()),
            Intent::Reject(reason) => self.reject(buf, parsed, *reason),
            Intent::Drop(reason) => self.drop(buf, *reason),
        }
    }

    fn enter<A: Forward>(
        &mut self,
        buf: P::Buf,
        (parsed, usual): (&Parsed, Option<Shape>),
        course: &Course<'_>,
        entry: &Entry<'_, A>,
    ) {
        let flow = match admit(self.state, self.tables, course, entry, self.now) {
            Ok(flow) => flow,
            // The client learns at once what it could only wait for.
            Err(reason @ DropReason::SnatExhausted) => return self.reject(buf, parsed, reason),
            Err(reason) => return self.drop(buf, reason),
        };
        self.state.stages.mark_packet(Stage::Enter);
        let unusual = match usual {
            Some(shape) => self.pass_first(buf, shape, flow),
            None => Err(buf),
        };
        if let Err(buf) = unusual {
            self.forward(buf, parsed, entry.key, (flow, Direction::Original));
        }
    }
}
