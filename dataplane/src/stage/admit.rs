//! The first packet of a flow: which mode, which source port, and the record that all later packets follow.

use std::net::IpAddr;

use packet::{Address, FlowKey, Protocol};
use tables::{
    Backend, DropReason, IdleTimeout, Millis, NatMode, NextHopId, PortInfo, Route, ServicePort, Source,
    Tables,
    flow::{Direction, FlowRef, InsertError, NewFlow},
    hash::{FlowHash, maglev_hash},
    snat::{SnatExhausted, SnatPorts, SnatRequest},
};

use super::{begin::ReplyKey, classify::Served};
use crate::pass::State;

/// How a backend is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'t> {
    /// The port towards it.
    pub(crate) egress: &'t PortInfo,
    /// The neighbour it is behind, or the backend itself on a connected network.
    pub(crate) next_hop: IpAddr,
    /// That neighbour's name, if it has one.
    hop: Option<NextHopId>,
}

/// How a backend is reached by the flow with this key.
///
/// # Errors
/// Why it is not.
pub(crate) fn reach<'t, A: Address>(
    tables: &'t Tables,
    backend: IpAddr,
    key: &FlowKey<A>,
) -> Result<Reach<'t>, DropReason> {
    let (port, next_hop, hop) = match tables.fib.lookup(backend, || maglev_hash(key)) {
        // A backend at the appliance's own address would put the kernel in the middle of a flow.
        None | Some(Route::Local | Route::Spread(_)) => return Err(DropReason::NoRoute),
        Some(Route::Blackhole) => return Err(DropReason::Blackhole),
        Some(Route::Connected(port)) => (port, backend, None),
        Some(Route::Via(hop)) => {
            let adjacency = tables.adjacencies().get(hop).ok_or(DropReason::NoRoute)?;
            (adjacency.port, adjacency.address, Some(hop))
        }
    };
    Ok(Reach { egress: tables.port(port).ok_or(DropReason::BadDevice)?, next_hop, hop })
}

/// The mode of one flow: the Service's choice, unless the reply would not come back through here.
///
/// A dnat reply goes from the backend straight to the client's address. It passes the appliance only if the backend's
/// way to that address leads here, which it does not when the client is the backend itself (hairpin), another pod or
/// a Node (the cluster routes those), or a neighbour of the backend's next hop. An appliance that is itself a Node is
/// where the cluster routes to, and translates as kube-proxy on that Node does: hairpins of its own endpoints, nothing
/// that ends at its own address (host network: what is delivered locally is never masqueraded), else as the rules say.
#[inline]
pub(crate) fn mode(
    tables: &Tables,
    served: &Served<'_>,
    (client, backend): (IpAddr, &Backend),
    reach: Option<Reach<'_>>,
) -> NatMode {
    let hairpin = client == backend.address;
    if let Some(this) = tables.acts_as {
        let here = Source::Node(this);
        return if hairpin && backend.node == Some(this) {
            NatMode::Snat
        } else if served.source != here && tables.source_of(backend.address) == here {
            NatMode::Dnat
        } else {
            served.choice.mode
        };
    }
    // Nothing makes less of it than source translation.
    if served.choice.mode == NatMode::Snat {
        return NatMode::Snat;
    }
    let strays = || {
        !matches!(served.source, Source::Outside)
            || reach.is_some_and(|reach| reach.egress.same_network(client, reach.next_hop))
    };
    if hairpin || strays() { NatMode::Snat } else { NatMode::Dnat }
}

/// What a new flow will be, as far as the tables alone say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course<'t> {
    pub(crate) service: &'t ServicePort,
    backend: &'t Backend,
    reach: Reach<'t>,
    mode: NatMode,
}

/// The course of a flow to a backend.
///
/// # Errors
/// Why the packet must be dropped.
pub(crate) fn course<'t, A: Address>(
    tables: &'t Tables,
    (served, backend): (&Served<'t>, &'t Backend),
    key: &FlowKey<A>,
) -> Result<Course<'t>, DropReason> {
    let reach = reach(tables, backend.address, key)?;
    let mode = mode(tables, served, (key.src.into(), backend), Some(reach));
    Ok(Course { service: served.port, backend, reach, mode })
}

/// The key that the replies of a new flow most likely get, or after `passed` others that are taken; `None` for that if it
/// can only be the one.
pub(crate) fn likely_reply<A: Address, B>(
    state: &State<B>,
    tables: &Tables,
    course: &Course<'_>,
    (key, hash): (&FlowKey<A>, FlowHash),
    passed: usize,
) -> Option<FlowKey<A>> {
    let address = A::from_ip(course.backend.address)?;
    let Course { backend, reach, mode, .. } = *course;
    match mode {
        NatMode::Dnat => {
            (passed == 0).then(|| FlowKey { dst: address, dport: backend.port, ..*key }.reversed())
        }
        NatMode::Snat => {
            let request = SnatRequest { original: *key, backend: address, port: backend.port };
            let source = sources::<A>(tables, reach).next()?;
            source_ports(state, tables).likely((&request, hash), source, passed)
        }
    }
}

/// A flow to be entered.
#[derive(Debug)]
pub(crate) struct Entry<'s, A> {
    /// Its key, which no flow has.
    pub(crate) key: &'s FlowKey<A>,
    /// The hash of that.
    pub(crate) hash: FlowHash,
    /// What [`likely_reply`] gave for it, passing those that were taken then.
    pub(crate) reply: Option<ReplyKey>,
}

/// Enters a new flow.
///
/// # Errors
/// Why the packet must be dropped.
pub(crate) fn admit<A: Address, B>(
    state: &mut State<B>,
    tables: &Tables,
    course: &Course<'_>,
    entry: &Entry<'_, A>,
    now: Millis,
) -> Result<FlowRef, DropReason> {
    let Course { service, backend, reach, .. } = *course;
    let key = entry.key;
    let entered = insert(state, tables, course, entry, now)?;
    let flow = entered.map_err(|error| match error {
        InsertError::Full | InsertError::Ipv6NotReserved => DropReason::FlowTableFull,
        InsertError::KeyTaken => DropReason::FlowKeyTaken,
    })?;
    if let Some(timeout_s) = service.affinity_timeout_s {
        let client = (key.src, service.id);
        state.counts.affinity.honoured +=
            u64::from(state.affinity.recall(key.src, service.id, now) == Some(backend.id));
        state.affinity.remember(client, backend.id, timeout_s, now);
    }
    if key.protocol == Protocol::Udp && service.udp_idle != IdleTimeout::NONE {
        state.flows.set_idle_timeout(flow, service.udp_idle);
    }
    if let Some(hop) = reach.hop {
        state.flows.set_next_hop(flow, Direction::Original, tables.fib_epoch, hop);
    }
    Ok(flow)
}

/// Makes the flow's record, with the foreseen reply key if that is still free.
///
/// # Errors
/// Why there is no reply key.
fn insert<A: Address, B>(
    state: &mut State<B>,
    tables: &Tables,
    course: &Course<'_>,
    entry: &Entry<'_, A>,
    now: Millis,
) -> Result<Result<FlowRef, InsertError>, DropReason> {
    let Course { service, backend, reach, mode, .. } = *course;
    let original = *entry.key;
    let address = A::from_ip(backend.address).ok_or(DropReason::NoEndpoints)?;
    let flow = |reply, mode| NewFlow { original, reply, service: service.id, backend: backend.id, mode };
    let foreseen = entry.reply.and_then(|(reply, hash)| Some((A::key(reply)?, hash)));
    let untranslated = match (mode, foreseen) {
        (_, Some((reply, hash))) if state.flows.is_absent(hash) => {
            Some(state.flows.insert_absent(&flow(reply, mode), [entry.hash, hash], now))
        }
        (NatMode::Dnat, _) => {
            let reply = FlowKey { dst: address, dport: backend.port, ..original }.reversed();
            Some(state.flows.insert(&flow(reply, mode), now))
        }
        (NatMode::Snat, _) => None,
    };
    match untranslated {
        // One client port at two Services with one backend: there the two flows would be one. This one is translated.
        None | Some(Err(InsertError::KeyTaken)) => {
            let request = SnatRequest { original, backend: address, port: backend.port };
            let reply = translated_reply(state, tables, reach, &request, now)?;
            let hashes = [entry.hash, state.flows.hash(&reply)];
            Ok(state.flows.insert_absent(&flow(reply, NatMode::Snat), hashes, now))
        }
        Some(entered) => Ok(entered),
    }
}

/// The key of the replies to a source address and port of ours; no flow has it.
fn translated_reply<A: Address, B>(
    state: &mut State<B>,
    tables: &Tables,
    reach: Reach<'_>,
    request: &SnatRequest<A>,
    now: Millis,
) -> Result<FlowKey<A>, DropReason> {
    let mut sources = sources::<A>(tables, reach).peekable();
    if sources.peek().is_none() {
        return Err(DropReason::SnatNoAddress);
    }
    source_ports(state, tables)
        .choose(&mut state.flows, request, sources, now)
        .map_err(|SnatExhausted| DropReason::SnatExhausted)
}

/// The addresses to translate to: those that are configured, or else, if none is of the family, the port's own.
fn sources<A: Address>(tables: &Tables, reach: Reach<'_>) -> impl Iterator<Item = A> {
    let mut configured = tables.snat.addresses.iter().filter_map(|&address| A::from_ip(address)).peekable();
    let none = configured.peek().is_none();
    let own = if none { reach.egress.address_towards(reach.next_hop).and_then(A::from_ip) } else { None };
    configured.chain(own)
}

/// The source ports of this worker.
fn source_ports<'t, B>(state: &State<B>, tables: &'t Tables) -> SnatPorts<'t> {
    SnatPorts::new(&tables.snat.ports, &tables.rss, state.worker, tables.workers)
}
