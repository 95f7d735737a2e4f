//! Packets between a client outside and an endpoint of a dnat Service, by the endpoint's own address, that no flow has.
//!
//! What the endpoint sends is the answer to a client of the Service whose flow this appliance does not know: it was
//! restarted, or another one had the flow. The client knows the VIP alone. So the answer leaves with the VIP's address
//! if the tables name one frontend ([`tables::Origin`]), the client's own packets to that would be balanced to this
//! endpoint, and it has no flow there: that would be another endpoint's. Else it is refused, as it would leave with an
//! address that its client never spoke to. No flow is made of it: the client's next packet begins one, and until then a
//! wrong guess costs nothing but a reset that is dropped here.
//!
//! Three kinds of traffic look alike and must go on. An endpoint's own connections: its SYN (or INIT) cannot be an
//! answer. Clients that were given the endpoint's address: their packets come by here, too. Both are routed as they are
//! and remembered as flows in which nothing is translated, so that their answers are known. And whoever is never served
//! in dnat mode (pods, Nodes, neighbours of the endpoint's next hop) is none of this. A datagram says nothing of who
//! began: from a Service's port it is taken for an answer.

use std::net::{IpAddr, SocketAddr};

use packet::{Address, Body, FlowKey, Fragment, Parsed, Protocol, nat::Rewrite};
use tables::{
    BackendId, DropReason, Millis, NatMode, ServiceId, Source, Tables,
    affinity::Affinity,
    flow::{Direction, InsertError, NewFlow},
};

use super::{
    admit::{mode, reach},
    balance::{balance, hash_for},
    begin::{Intent, may_begin},
    classify::{Class, Served, classify},
    rewrite::Forward,
    route::hash_of,
};
use crate::{io::PortIo, pass::Pass};

/// A packet that an endpoint sends to a client of which no flow is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    /// The endpoint.
    backend: BackendId,
    /// The frontend that it answers for, if that is sure.
    vip: Option<SocketAddr>,
}

/// What to do with a packet whose destination is neither ours nor a Service's.
pub(crate) fn transit<'t, A: Address>(
    tables: &Tables,
    key: &FlowKey<A>,
    memory: (&Affinity, Millis),
) -> Intent<'t> {
    if tables.origins.is_empty() {
        return Intent::Route;
    }
    let origin = |address: A, port| tables.origins.get(address.into(), key.protocol, port);
    let question = key.reversed();
    if let Some(origin) = origin(key.src, key.sport)
        && may_keep_its_address(tables, &question)
    {
        let recall = |served: &Served<'_>| recalled(served, key.dst, memory);
        let vip = origin.vip.filter(|&vip| answers_for(tables, &question, vip, recall).is_some());
        return Intent::Reply(Reply { backend: origin.backend, vip });
    }
    match origin(key.dst, key.dport) {
        Some(origin) if may_keep_its_address(tables, key) => Intent::Direct(origin.backend),
        _ => Intent::Route,
    }
}

/// The Service port for which an endpoint answers a datagram that it sends, and the frontend, as far as the tables alone
/// say; `None` if it is no endpoint's answer. The inner one: if it is, and nothing can be said for sure.
pub(crate) fn answered<'t, A: Address>(
    tables: &'t Tables,
    key: &FlowKey<A>,
) -> Option<Option<(Served<'t>, SocketAddr)>> {
    let origin = tables.origins.get(key.src.into(), key.protocol, key.sport)?;
    let question = key.reversed();
    let served = |vip| Some((answers_for(tables, &question, vip, |_| None)?, vip));
    may_keep_its_address(tables, &question).then(|| origin.vip.and_then(served))
}

fn recalled<A: Address>(
    served: &Served<'_>,
    client: A,
    (affinity, now): (&Affinity, Millis),
) -> Option<BackendId> {
    served.port.affinity_timeout_s?;
    affinity.recall(client, served.port.id, now)
}

/// Whether the sender of such a question to an endpoint is one whose address a dnat Service keeps; see [`mode`].
fn may_keep_its_address<A: Address>(tables: &Tables, question: &FlowKey<A>) -> bool {
    let (client, endpoint): (IpAddr, IpAddr) = (question.src.into(), question.dst.into());
    let returns = || {
        let reach = reach(tables, endpoint, question);
        tables.acts_as.is_some() || reach.is_ok_and(|at| !at.egress.same_network(client, at.next_hop))
    };
    client != endpoint && tables.source_of(client) == Source::Outside && returns()
}

/// The Service port at a VIP, if the client's packets to that go to the endpoint of this question, with the client's address.
fn answers_for<'t, A: Address>(
    tables: &'t Tables,
    question: &FlowKey<A>,
    vip: SocketAddr,
    recall: impl FnOnce(&Served<'t>) -> Option<BackendId>,
) -> Option<Served<'t>> {
    let asked = FlowKey { dst: A::from_ip(vip.ip())?, dport: vip.port(), ..*question };
    let Class::Service(served) = classify(tables, &asked) else { return None };
    let backend = balance(tables, &served, hash_for(&served, &asked), recall(&served)).ok()?;
    let reach = reach(tables, backend.address, &asked).ok();
    let same = (backend.address, backend.port) == (question.dst.into(), question.dport)
        && mode(tables, &served, (question.src.into(), backend), reach) == NatMode::Dnat;
    same.then_some(served)
}

impl<P: PortIo> Pass<'_, P> {
    /// A packet that an endpoint sends to a client of which no flow is known.
    #[cold]
    #[inline(never)]
    pub(crate) fn reply<A: Forward>(&mut self, buf: P::Buf, parsed: &Parsed, key: &FlowKey<A>, reply: Reply) {
        if opens(parsed) {
            return self.direct(buf, parsed, key, reply.backend);
        }
        // The later parts of a datagram could not follow: they have no ports, and there is no flow.
        let vip = reply.vip.filter(|_| parsed.fragment == Fragment::Whole);
        let Some((vip, port)) = vip.and_then(|vip| Some((A::from_ip(vip.ip())?, vip.port()))) else {
            return self.drop(buf, DropReason::ReplyWithoutFlow);
        };
        let answer = FlowKey { src: vip, sport: port, ..*key };
        if self.state.flows.lookup(&answer.reversed(), self.now).is_some() {
            return self.drop(buf, DropReason::ReplyWithoutFlow);
        }
        if parsed.ttl <= 1 {
            return self.ttl_exceeded(buf, parsed);
        }
        let rewrite = Rewrite::new(key, &answer);
        let egress = self.way(key.dst.into(), || hash_of(parsed));
        self.state.counts.flows.replies_restored += 1;
        self.forward_as(buf, parsed, (&rewrite, key.protocol), egress);
    }

    /// A packet to or from an endpoint by its own address: what answers it has a flow, in which nothing is translated.
    #[cold]
    #[inline(never)]
    pub(crate) fn direct<A: Forward>(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        key: &FlowKey<A>,
        backend: BackendId,
    ) {
        if !may_begin(parsed) || parsed.ttl <= 1 {
            return self.transit(buf, parsed, key.dst.into());
        }
        let flow = NewFlow {
            original: *key,
            reply: key.reversed(),
            service: ServiceId::NONE,
            backend,
            mode: NatMode::Dnat,
        };
        match self.state.flows.insert(&flow, self.now) {
            Ok(flow) => self.forward(buf, parsed, key, (flow, Direction::Original)),
            // Its answers would be refused.
            Err(InsertError::Full) => self.drop(buf, DropReason::FlowTableFull),
            // The endpoint has this client by way of a Service, and cannot tell the two apart either.
            Err(InsertError::KeyTaken | InsertError::Ipv6NotReserved) => {
                self.transit(buf, parsed, key.dst.into());
            }
        }
    }
}

/// Nobody sends this in answer to anything: a SYN, or an INIT.
fn opens(parsed: &Parsed) -> bool {
    match parsed.body {
        Body::Flow { key, tcp_flags } => key.protocol() != Protocol::Udp && tcp_flags.opens(),
        _ => false,
    }
}
