//! Which worker owns a packet: the one whose flow table has, or will have, its flow. A pure function, so that every
//! worker answers alike and nothing is asked of another.
//! Invariant: both directions of a flow, ICMP errors about it, and its fragments' first stop are decided without the
//! flow. Not here: how a packet gets to its owner.
//!
//! Where the source is translated, either direction goes where a NIC with our key puts it ([`crate::rss`]): the way there
//! as it comes, and for the reply such a port is chosen (`snat`). So a port that flows are translated to must not become
//! a nodePort while they live (the compiler leaves the whole range of nodePorts out of `SnatConfig`). Everything else goes
//! by the client's address, which is the source on the way to a Service and the destination on the way back: a client with
//! affinity has one worker, and a dnat reply names no Service, so neither may the packets that it answers need one; those
//! too that its client sent to the endpoint itself.

use std::net::{IpAddr, Ipv6Addr};

use packet::{Address, AnyAddrs, AnyKey, Body, FlowKey, Fragment, Parsed};

use crate::hash::spread;
use crate::{NatMode, Tables, WorkerId};

/// The packet's owner; `None` if it belongs to no flow, so that whoever received it handles it.
#[must_use]
pub fn owner(packet: &Parsed, tables: &Tables) -> Option<WorkerId> {
    if let Fragment::First { id } | Fragment::Later { id, .. } = packet.fragment {
        return packet.addrs().map(|addrs| of_fragment(addrs, id, tables.workers));
    }
    match packet.body {
        Body::Flow { key, .. } => Some(of_key(key, tables)),
        // The quoted packet was on its way; the error travels as a reply to it does.
        Body::Icmp(icmp) => icmp.inner.map(|inner| of_key(inner.key.reversed(), tables)),
        Body::Arp(_) | Body::Nd(_) | Body::OtherIp { .. } | Body::OtherEther(_) => None,
    }
}

/// The owner of the packets that have this key.
#[inline]
#[must_use]
pub fn of_key(key: AnyKey, tables: &Tables) -> WorkerId {
    if tables.workers <= 1 {
        return WorkerId(0);
    }
    match key {
        AnyKey::V4(key) => of_flow(&key, tables),
        AnyKey::V6(key) => of_flow(&key, tables),
    }
}

fn of_flow<A: Address>(key: &FlowKey<A>, tables: &Tables) -> WorkerId {
    let dst = key.dst.into();
    if is_snat_end(dst, key.dport, tables) || goes_as_it_comes(key, tables) {
        return tables.rss.worker(key, tables.workers);
    }
    // Who talks to an endpoint of a dnat Service by its own address is its client, too.
    let asks = || tables.origins.get(dst, key.protocol, key.dport).is_some();
    let client = if tables.addresses.get(dst).is_some() || asks() { key.src } else { key.dst };
    WorkerId(spread(client, 0, tables.workers))
}

/// True for a port that flows are translated to, at an address they may be translated to.
fn is_snat_end(address: IpAddr, port: u16, tables: &Tables) -> bool {
    let snat = &tables.snat;
    snat.ports.contains(port)
        && (tables.addresses.own(address).is_some() || snat.addresses.contains(&address))
}

/// True on the way to a Service port whose replies come to a SNAT address, and whose clients need not stay together.
fn goes_as_it_comes<A: Address>(key: &FlowKey<A>, tables: &Tables) -> bool {
    let frontend = tables.frontend(key.dst.into(), key.protocol, key.dport);
    let service = frontend.and_then(|frontend| Some((frontend, tables.service(frontend.service)?)));
    service.is_some_and(|(frontend, service)| {
        let client = key.src.into();
        let choice = service.choose(frontend.kind, client, tables.source_of(client));
        choice.mode == NatMode::Snat && service.affinity_timeout_s.is_none()
    })
}

/// All fragments of a packet meet at one worker, which learns from the first whose flow they are.
fn of_fragment(addrs: AnyAddrs, id: u32, workers: u16) -> WorkerId {
    if workers <= 1 {
        return WorkerId(0);
    }
    let low = (id & 0xffff) as u16 ^ (id >> 16) as u16;
    let both = match addrs {
        AnyAddrs::V4 { src, dst } => {
            Ipv6Addr::from_bits(u128::from(src.to_bits()) << 64 | u128::from(dst.to_bits()))
        }
        AnyAddrs::V6 { src, dst } => Ipv6Addr::from_bits(src.to_bits() ^ dst.to_bits().rotate_left(64)),
    };
    WorkerId(spread(both, low, workers))
}
