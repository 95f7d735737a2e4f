//! What `fairlead show` lists, from the parts of the running appliance. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use packet::{Family, MacAddr};
use tables::counters::{
    AffinityCounts, Counts, FlowCounts, FragmentCounts, LoopCounts, PacketCounts, WorkerCounters,
};
use tables::{AdjacencyState, BackendState, NatMode, NodeId, Prefix, ServiceId, Tables};

use super::view;
use crate::apply::Look;
use crate::compile::{Origin, ServiceReport, Way};
use crate::config::{Carrier, GatewayConfig};
use crate::model::ObjectKey;
use crate::workers::{Layout, ListedFlow, Sample, Workers};

/// Every service port, or those of one namespace.
pub(super) fn services(look: &Look<'_>, namespace: Option<&str>) -> Vec<view::Service> {
    let backend = |backend: &crate::compile::BackendReport| view::ServiceBackend {
        address: backend.address.to_string(),
        state: state(backend.state).into(),
        weight: backend.weight,
    };
    let row = |report: ServiceReport| view::Service {
        problems: problems(look, &report),
        backends: report.backends.iter().map(backend).collect(),
        namespace: report.namespace,
        name: report.name,
        port_name: report.port_name,
        protocol: report.protocol.to_string(),
        port: report.port,
        kind: report.kind,
        mode: report.mode,
        cluster_ips: report.cluster_ips,
        external_ips: report.external_ips,
        load_balancer_ips: report.load_balancer_ips,
        node_port: report.node_port.unwrap_or(0),
    };
    reports(look, namespace).map(row).collect()
}

/// What the compiler and the workers found.
fn problems(look: &Look<'_>, report: &ServiceReport) -> Vec<String> {
    let seen = look.bypassed.problem(&report.ids, look.now);
    let key = ObjectKey::new(report.namespace.as_str(), report.name.as_str());
    let unwritten = look.outcomes.and_then(|outcomes| outcomes.fault(&key));
    report.problems.iter().cloned().chain(seen).chain(unwritten).collect()
}

/// Every backend of every service port, or those of one namespace.
pub(super) fn backends(look: &Look<'_>, namespace: Option<&str>) -> Vec<view::Backend> {
    let on_nodes: HashMap<SocketAddr, NodeId> = (look.tables.backends.iter())
        .filter_map(|backend| Some((SocketAddr::new(backend.address, backend.port), backend.node?)))
        .collect();
    let nodes: BTreeSet<NodeId> = on_nodes.values().copied().collect();
    let names: BTreeMap<NodeId, &str> =
        nodes.into_iter().filter_map(|id| Some((id, look.compiler.node_name(id)?))).collect();
    let node = |address: SocketAddr| {
        let name = on_nodes.get(&address).and_then(|id| names.get(id));
        name.copied().unwrap_or_default().to_owned()
    };
    let rows = |report: ServiceReport| {
        let row = |backend: &crate::compile::BackendReport| view::Backend {
            namespace: report.namespace.clone(),
            service: report.name.clone(),
            port_name: report.port_name.clone(),
            address: backend.address.to_string(),
            protocol: report.protocol.to_string(),
            state: state(backend.state).into(),
            weight: backend.weight,
            health: backend.health.map(|health| health.to_string()).unwrap_or_default(),
            node: node(backend.address),
        };
        report.backends.iter().map(row).collect::<Vec<_>>()
    };
    reports(look, namespace).flat_map(rows).collect()
}

fn reports<'a>(look: &'a Look<'_>, namespace: Option<&'a str>) -> impl Iterator<Item = ServiceReport> + 'a {
    let wanted =
        move |report: &ServiceReport| namespace.is_none_or(|namespace| report.namespace == namespace);
    look.compiler.services().into_iter().filter(wanted)
}

/// The routes of the tables, and then those that somebody asked for and that are not in force, because another goes
/// before them or because their gateway is behind no port.
pub(super) fn routes(look: &Look<'_>) -> Vec<view::Route> {
    let programmed = look.compiler.ways();
    let mut rows = Vec::new();
    for (to, (way, origin)) in programmed {
        rows.extend(route_rows(look, &to.to_string(), (way, *origin), true));
    }
    for (to, way, origin) in asked(look) {
        let winner = Prefix::new(to.addr(), to.prefix_len()).and_then(|to| programmed.get(&to));
        let wins = winner.is_some_and(|(won, by)| {
            *by == origin
                && way.as_ref().is_none_or(|way| {
                    won == way || way.hops().first().is_some_and(|hop| won.hops().contains(hop))
                })
        });
        if !wins {
            // Without a way nothing is known but its gateway, which is behind no port.
            let shown = way.as_ref().unwrap_or(&Way::Blackhole);
            for mut lost in route_rows(look, &to.trunc().to_string(), (shown, origin), false) {
                lost.blackhole &= way.is_some();
                rows.push(lost);
            }
        }
    }
    rows
}

/// A row for each next hop, or one.
fn route_rows(look: &Look<'_>, to: &str, (way, origin): (&Way, Origin), in_force: bool) -> Vec<view::Route> {
    let row = |via: Option<IpAddr>, port: Option<u16>| {
        let port = port.and_then(|port| look.network.ports.get(usize::from(port)));
        view::Route {
            to: to.into(),
            via,
            port: port.map(|port| port.name.clone()).unwrap_or_default(),
            origin: origin_word(origin).into(),
            blackhole: *way == Way::Blackhole,
            in_force,
        }
    };
    match way {
        Way::Link(port) => vec![row(None, Some(*port))],
        Way::Local | Way::Blackhole => vec![row(None, None)],
        Way::Via(..) | Way::Spread(_) => {
            way.hops().into_iter().map(|(port, gateway)| row(Some(gateway), Some(port))).collect()
        }
    }
}

/// Every route that somebody asked for; without a way where that depends on others or its gateway is behind no port.
fn asked<'a>(look: &'a Look<'_>) -> impl Iterator<Item = (IpNet, Option<Way>, Origin)> + 'a {
    let behind = |via: &IpAddr| {
        let port = look.tables.ports().iter().find(|port| port.is_connected(*via));
        port.map(|port| Way::Via(port.id.0, *via))
    };
    let config = look.config.routes.iter().flat_map(move |one| {
        let hole = one.via.is_empty().then_some((one.to, Some(Way::Blackhole), Origin::Config));
        one.via.iter().map(move |via| (one.to, behind(via), Origin::Config)).chain(hole)
    });
    let connected = look.network.ports.iter().flat_map(|port| {
        port.addresses.iter().map(|net| (net.trunc(), Some(Way::Link(port.index)), Origin::Connected))
    });
    let kernel = look.network.routes.iter().map(|one| (one.to, Some(one.hop.into()), Origin::Kernel));
    let nodes = look.compiler.model().nodes().values();
    let pods = nodes.flat_map(|node| node.pod_cidrs.iter().map(|to| (*to, None, Origin::Node)));
    config.chain(connected).chain(kernel).chain(pods)
}

fn origin_word(origin: Origin) -> &'static str {
    match origin {
        Origin::Config => "config",
        Origin::Connected => "connected",
        Origin::Kernel => "kernel",
        Origin::Node => "node",
        Origin::Own => "own",
    }
}

/// The address pools: those of the configuration in its order, then the AddressPools.
pub(super) fn pools(look: &Look<'_>) -> Vec<view::Pool> {
    let assignment = |(address, key): &(IpAddr, ObjectKey)| view::Assignment {
        address: *address,
        service: key.to_string(),
    };
    let row = |one: crate::ipam::PoolUse| {
        let distinct: BTreeSet<_> = one.used.iter().map(|(address, _)| *address).collect();
        let size = one.pool.size(Family::V4).saturating_add(one.pool.size(Family::V6));
        view::Pool {
            ranges: one.pool.ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect(),
            auto_assign: one.pool.auto_assign,
            addresses: u64::try_from(size).unwrap_or(u64::MAX),
            used: distinct.len() as u64,
            assignments: one.used.iter().map(assignment).collect(),
            name: one.pool.name,
            problem: one.refused,
        }
    };
    look.compiler.pools().into_iter().map(row).collect()
}

fn state(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "Active",
        BackendState::Draining => "Draining",
        BackendState::Down => "Down",
    }
}

/// Every counter of every worker, zeros too.
pub(super) fn counters(counts: &[Counts]) -> Vec<view::Counter> {
    let mut rows = Vec::new();
    for (worker, counts) in (0..).zip(counts) {
        let mut add = |name: String, value| rows.push(view::Counter { worker, name, value });
        for (name, value) in PacketCounts::NAMES.iter().zip(counts.packets.to_array()) {
            add(format!("{name}_packets"), value);
        }
        add("dropped_packets".into(), counts.dropped());
        for (name, value) in FlowCounts::NAMES.iter().zip(counts.flows.to_array()) {
            add(format!("flows_{name}"), value);
        }
        for (name, value) in AffinityCounts::NAMES.iter().zip(counts.affinity.to_array()) {
            add(format!("affinity_{name}"), value);
        }
        for (name, value) in FragmentCounts::NAMES.iter().zip(counts.fragments.to_array()) {
            add(format!("fragments_{name}"), value);
        }
        for (name, value) in LoopCounts::NAMES.iter().zip(counts.turns.to_array()) {
            add(format!("loop_{name}"), value);
        }
    }
    rows
}

/// The workers in order.
pub(super) fn workers(layout: &Layout, workers: &Workers) -> Vec<view::Worker> {
    let rss_ports = layout.spread.iter().filter(|one| one.fault.is_none()).map(|one| one.port.clone());
    let no_rss =
        layout.spread.iter().filter_map(|one| Some(format!("{}: {}", one.port, one.fault.as_ref()?)));
    let (rss_ports, no_rss): (Vec<_>, Vec<_>) = (rss_ports.collect(), no_rss.collect());
    let row = |((worker, core), counters): ((u16, u16), &Arc<WorkerCounters>)| {
        let counts = counters.snapshot();
        view::Worker {
            worker,
            core,
            idle: counters.idling().word().into(),
            rx_packets: counts.packets.rx,
            handoff_out_packets: counts.packets.handoff_out,
            handoff_in_packets: counts.packets.handoff_in,
            flows: counts.flows.used,
            rss_ports: rss_ports.clone(),
            no_rss: no_rss.clone(),
        }
    };
    (0..).zip(layout.cores.iter().copied()).zip(&workers.counters()).map(row).collect()
}

/// Reasons with packets, most packets first.
pub(super) fn drops(counts: &[Counts]) -> Vec<view::Drops> {
    let of_worker = |(worker, counts): (u16, &Counts)| {
        let drops = counts.drops().filter(|(_, packets)| *packets > 0);
        let row = |(reason, packets): (tables::DropReason, u64)| view::Drops {
            worker,
            reason: reason.symbol().into(),
            packets,
            text: reason.text().into(),
        };
        drops.map(row).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = (0..).zip(counts).flat_map(of_worker).collect();
    rows.sort_by(|a, b| (b.packets, a.worker, &a.reason).cmp(&(a.packets, b.worker, &b.reason)));
    rows
}

/// The ports with what all workers counted on them.
pub(super) fn ports(config: &GatewayConfig, tables: &Tables, counts: &[Counts]) -> Vec<view::Port> {
    let row = |(index, port): (usize, &crate::config::PortConfig)| {
        let info = tables.ports().get(index);
        let sum = |of: fn(&tables::counters::PortCounts) -> u64| {
            counts.iter().filter_map(|counts| counts.ports().get(index)).map(of).sum()
        };
        let addresses = info.map(|info| &info.addresses[..]).unwrap_or_default();
        view::Port {
            name: port.name.clone(),
            device: match &port.carrier {
                Carrier::Device(device) => device.clone(),
                Carrier::Vlan { parent, id } => format!("{parent} vlan {id}"),
            },
            mac: info.map(|info| mac(info.mac)).unwrap_or_default(),
            mtu: port.mtu,
            addresses: addresses.iter().map(|at| format!("{}/{}", at.address, at.network.length())).collect(),
            tap: port.tap,
            rx_packets: sum(|counts| counts.rx_packets),
            rx_bytes: sum(|counts| counts.rx_bytes),
            tx_packets: sum(|counts| counts.tx_packets),
            tx_bytes: sum(|counts| counts.tx_bytes),
        }
    };
    config.ports.iter().enumerate().map(row).collect()
}

/// Next hops and hosts in the tables; `static_neighbors` are those of the configuration.
pub(super) fn neighbors(config: &GatewayConfig, tables: &Tables) -> Vec<view::Neighbor> {
    let name = |id: tables::PortId| tables.port(id).map(|port| port.name.clone()).unwrap_or_default();
    let mut rows: Vec<_> = tables
        .adjacencies()
        .iter()
        .map(|(_, adjacency)| {
            let port = name(adjacency.port);
            let by_hand =
                config.neighbors.iter().any(|one| one.address == adjacency.address && one.port == port);
            let state = match adjacency.state {
                AdjacencyState::Incomplete => "Incomplete",
                AdjacencyState::Resolved { .. } if by_hand => "Static",
                AdjacencyState::Resolved { .. } => "Resolved",
            };
            let row = view::Neighbor {
                address: adjacency.address,
                port,
                mac: adjacency.mac().map(mac),
                state: state.into(),
            };
            (adjacency.port, row)
        })
        .collect();
    rows.sort_by_key(|(port, row)| (*port, row.address));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// One flow; the Service's name comes from the tables of now.
pub(super) fn flow(listed: &ListedFlow, tables: &Tables) -> view::Flow {
    let flow = &listed.flow;
    view::Flow {
        worker: listed.worker.0,
        protocol: flow.original.protocol().to_string(),
        client: end(flow.original.src(), flow.original.sport()),
        vip: end(flow.original.dst(), flow.original.dport()),
        source: end(flow.reply.dst(), flow.reply.dport()),
        backend: end(flow.reply.src(), flow.reply.sport()),
        service: service_name(flow.service, tables),
        mode: mode(flow.mode).into(),
        phase: flow.phase.name().into(),
        idle_ms: listed.idle_ms,
    }
}

/// A count of flows, by the names of Service ports: both address families of one are together.
pub(super) fn flow_sample(sample: &Sample, tables: &Tables) -> view::FlowSample {
    let mut services = BTreeMap::<String, view::ServiceFlows>::new();
    for (&id, estimate) in &sample.services {
        let service = service_name(id, tables);
        let row = services.entry(service.clone()).or_default();
        row.service = service;
        row.flows += estimate.flows;
        row.seen += estimate.seen;
    }
    view::FlowSample { one_in: sample.one_in, services: services.into_values().collect() }
}

/// The Service ports of one namespace.
pub(super) fn service_ids(tables: &Tables, namespace: &str) -> HashSet<ServiceId> {
    let ours = tables.services.iter().filter(|service| *service.info.namespace == *namespace);
    ours.map(|service| service.id).collect()
}

/// `namespace/name:port`; empty when the Service is gone.
fn service_name(id: ServiceId, tables: &Tables) -> String {
    let info = tables.service(id).map(|service| &service.info);
    info.map(|info| format!("{}/{}:{}", info.namespace, info.name, info.port)).unwrap_or_default()
}

/// The configuration's word for a mode.
pub(super) fn mode(mode: NatMode) -> &'static str {
    match mode {
        NatMode::Dnat => "dnat",
        NatMode::Snat => "snat",
    }
}

fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn mac(mac: MacAddr) -> String {
    mac.to_string()
}
