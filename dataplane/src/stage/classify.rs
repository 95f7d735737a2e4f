//! What a new packet wants, from the tables alone; `trace` asks the same function.
//!
//! Order: VIP and port, explicit nodePort, own addresses, the rest of a VIP, service CIDRs, then plain routing. Rules
//! are those of kube-proxy in nftables mode.

use std::net::IpAddr;

use packet::{Address, FlowKey};
use tables::{
    AddressInfo, AddressKind, Choice, DropReason, Frontend, FrontendKind, ServicePort, Source, Tables,
};

/// What a new packet wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Class<'t> {
    /// A Service port.
    Service(Served<'t>),
    /// The appliance itself.
    Own,
    /// To be routed as it is.
    Transit,
    /// A port that an externally visible VIP does not serve: kube-proxy leaves it alone, and nobody behind us has it.
    UnknownPort,
    /// Refused with an answer.
    Reject(DropReason),
    /// Refused without one.
    Drop(DropReason),
}

/// A Service port that a packet is for, and what this client gets of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served<'t> {
    pub(crate) port: &'t ServicePort,
    pub(crate) kind: FrontendKind,
    pub(crate) source: Source,
    pub(crate) choice: Choice,
}

/// Sorts a packet that belongs to no flow.
pub(crate) fn classify<'t, A: Address>(tables: &'t Tables, key: &FlowKey<A>) -> Class<'t> {
    let dst: IpAddr = key.dst.into();
    if let Some(frontend) = tables.index.vip(dst, key.protocol, key.dport) {
        return served(tables, frontend, key.src.into());
    }
    let Some(address) = tables.addresses.get(dst) else { return elsewhere(tables, dst) };
    if address.node_ports
        && let Some(frontend) = tables.index.node_port(A::FAMILY, key.protocol, key.dport)
    {
        return served(tables, frontend, key.src.into());
    }
    unserved(tables, address, (dst, key.dport))
}

/// An address that means nothing to us: inside a service CIDR it is a stale clusterIP, and must not leave.
pub(crate) fn elsewhere<'t>(tables: &Tables, dst: IpAddr) -> Class<'t> {
    if tables.service_cidrs.contains(dst) {
        return Class::Drop(DropReason::ServiceCidrUnallocated);
    }
    Class::Transit
}

fn served(tables: &Tables, frontend: Frontend, client: IpAddr) -> Class<'_> {
    // The index never outlives its Service in a compiled table; a packet in doubt is told to try again.
    let Some(port) = tables.service(frontend.service) else { return Class::Reject(DropReason::NoEndpoints) };
    let source = tables.source_of(client);
    let choice = port.choose(frontend.kind, client, source);
    Class::Service(Served { port, kind: frontend.kind, source, choice })
}

/// An address of ours, and a port that no Service has there.
fn unserved<'t>(tables: &Tables, address: &AddressInfo, (dst, port): (IpAddr, u16)) -> Class<'t> {
    match address.kind {
        // What comes to a translated port without a flow is late or a scan; the kernel would reset it.
        AddressKind::Own(_) if tables.snat.ports.contains(port) => Class::Drop(DropReason::SnatPortUnowned),
        AddressKind::Own(_) => Class::Own,
        AddressKind::ClusterIp => Class::Reject(DropReason::VipPortUnknown),
        // Only clusterIPs count as allocated there (kube-proxy's `cluster-ips`).
        AddressKind::ExternalIp | AddressKind::LoadBalancer if tables.service_cidrs.contains(dst) => {
            Class::Drop(DropReason::ServiceCidrUnallocated)
        }
        AddressKind::ExternalIp | AddressKind::LoadBalancer => Class::UnknownPort,
    }
}
