//! Routes, next hops and the ways to neighbours, from ports, kernel, configuration and podCIDRs.
//! For one prefix the configuration goes before connected networks, those before the kernel's routes, those before
//! podCIDRs; an own address goes before all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use packet::{Family, MacAddr};
use tables::{Adjacency, AdjacencyState, Lpm, NextHopId, PortId, Prefix, Route, Spread, Tables};

use super::Settings;
use super::cluster::{internal_ip, prefix};
use crate::model::Model;
use crate::network::{Network, RouteHop};

/// A neighbour that packets may be sent over: the index of its port, and its address.
type Hop = (u16, IpAddr);

/// Where a prefix leads, before next hops have numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Way {
    /// Nowhere.
    Blackhole,
    /// To the neighbour of that address behind the port of this index.
    Link(u16),
    /// To the appliance itself.
    Local,
    /// By way of one of several gateways, each in the place of others that do not answer; two at least, in order.
    Spread(Box<[Hop]>),
    /// Behind the port of this index, by way of a gateway.
    Via(u16, IpAddr),
}

impl Way {
    /// Over these gateways; without any, nowhere.
    fn over(mut hops: Vec<Hop>) -> Self {
        hops.sort_unstable();
        hops.dedup();
        hops.truncate(Spread::HOPS_MAX);
        match hops[..] {
            [] => Self::Blackhole,
            [(port, gateway)] => Self::Via(port, gateway),
            _ => Self::Spread(hops.into()),
        }
    }

    /// The gateways.
    #[must_use]
    pub fn hops(&self) -> Vec<Hop> {
        match self {
            Self::Via(port, gateway) => vec![(*port, *gateway)],
            Self::Spread(hops) => hops.to_vec(),
            Self::Blackhole | Self::Link(_) | Self::Local => Vec::new(),
        }
    }
}

impl From<RouteHop> for Way {
    fn from(hop: RouteHop) -> Self {
        match hop {
            RouteHop::Via { gateway, port } => Self::Via(port, gateway),
            RouteHop::Link { port } => Self::Link(port),
            RouteHop::Blackhole => Self::Blackhole,
        }
    }
}

/// Who asked for a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// `routes` of the configuration.
    Config,
    /// The subnet of a port.
    Connected,
    /// The kernel's main table.
    Kernel,
    /// podCIDRs of a Node.
    Node,
    /// An address of a port.
    Own,
}

/// Keeps next hop numbers stable and edits the tables in place.
#[derive(Debug, Default)]
pub(super) struct Routing {
    /// Every prefix of the tables with where it leads and who asked for it.
    pub(super) ways: BTreeMap<Prefix, (Way, Origin)>,
    routes: BTreeMap<Prefix, Route>,
    spreads: Vec<Spread>,
    hosts: BTreeMap<IpAddr, NextHopId>,
    hops: HashMap<(u16, IpAddr), NextHopId>,
    free: Vec<NextHopId>,
    next: u16,
    pub(super) gateways: BTreeSet<(u16, IpAddr)>,
}

impl Routing {
    /// Brings routes and next hops of the tables up to date.
    pub(super) fn update(
        &mut self,
        tables: &mut Tables,
        model: &Model,
        settings: &Settings,
        network: &Network,
    ) {
        let ways = ways(model, settings, network);
        let neighbors = neighbors(settings, network);
        self.gateways = ways.values().flat_map(|(way, _)| way.hops()).collect();
        let wanted: BTreeSet<_> = self.gateways.iter().chain(neighbors.keys()).copied().collect();
        let reused = self.number(&wanted);
        let rerouted = self.set_routes(tables, &ways, &neighbors);
        let moved = self.set_hosts(tables, &neighbors);
        self.set_adjacencies(tables, &wanted, &neighbors);
        if reused || rerouted || moved {
            tables.fib_epoch = tables.fib_epoch.wrapping_add(1);
        }
        self.ways = ways;
    }

    /// Numbers every wanted hop; true when a number changed hands.
    fn number(&mut self, wanted: &BTreeSet<(u16, IpAddr)>) -> bool {
        let mut reused = false;
        let gone: Vec<_> = self.hops.keys().filter(|hop| !wanted.contains(hop)).copied().collect();
        for hop in wanted {
            if self.hops.contains_key(hop) {
                continue;
            }
            let id = match self.free.pop() {
                Some(id) => {
                    reused = true;
                    id
                }
                None if self.next == u16::MAX => continue,
                None => {
                    self.next += 1;
                    NextHopId(self.next - 1)
                }
            };
            self.hops.insert(*hop, id);
        }
        for hop in gone {
            self.free.extend(self.hops.remove(&hop));
        }
        // Lowest first, whatever order the map gave.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        reused
    }

    /// True when flows must look their way up again.
    fn set_routes(
        &mut self,
        tables: &mut Tables,
        ways: &BTreeMap<Prefix, (Way, Origin)>,
        neighbors: &BTreeMap<Hop, Option<MacAddr>>,
    ) -> bool {
        let mut sets = Sets::default();
        let mut routes = BTreeMap::new();
        for (prefix, (way, _)) in ways {
            let route = match way {
                Way::Blackhole => Route::Blackhole,
                Way::Link(port) => Route::Connected(PortId(*port)),
                Way::Local => Route::Local,
                Way::Via(port, at) => self.via((*port, *at)),
                Way::Spread(hops) => match &alive(hops, neighbors)[..] {
                    [only] => self.via(*only),
                    hops => sets.route(hops, &self.hops),
                },
            };
            routes.insert(*prefix, route);
        }
        if routes == self.routes && sets.spreads == self.spreads {
            return false;
        }
        tables.fib.routes = Arc::new(Lpm::build(routes.iter().map(|(prefix, route)| (*prefix, *route))));
        tables.fib.spreads = sets.spreads.clone().into();
        (self.routes, self.spreads) = (routes, sets.spreads);
        true
    }

    /// Beyond 65,535 next hops there is no number: refuse rather than guess.
    fn via(&self, hop: Hop) -> Route {
        self.hops.get(&hop).map_or(Route::Blackhole, |id| Route::Via(*id))
    }

    /// Ways to single neighbours, only where a connected network covers them: a longer route must not be hidden.
    fn set_hosts(
        &mut self,
        tables: &mut Tables,
        neighbors: &BTreeMap<(u16, IpAddr), Option<MacAddr>>,
    ) -> bool {
        let mut hosts = BTreeMap::new();
        for hop in neighbors.keys() {
            let connected = tables.fib.routes.lookup(hop.1) == Some(Route::Connected(PortId(hop.0)));
            if let Some(id) = self.hops.get(hop).filter(|_| connected) {
                hosts.insert(hop.1, *id);
            }
        }
        let mut moved = false;
        for (host, id) in &self.hosts {
            if hosts.get(host) != Some(id) {
                moved = true;
                tables.fib.remove_host(*host);
            }
        }
        for (host, id) in &hosts {
            if self.hosts.get(host) != Some(id) {
                tables.fib.insert_host(*host, Route::Via(*id));
            }
        }
        self.hosts = hosts;
        moved
    }

    fn set_adjacencies(
        &self,
        tables: &mut Tables,
        wanted: &BTreeSet<(u16, IpAddr)>,
        neighbors: &BTreeMap<(u16, IpAddr), Option<MacAddr>>,
    ) {
        for hop in wanted {
            let Some(id) = self.hops.get(hop) else { continue };
            let mac = neighbors.get(hop).copied().flatten();
            let state = mac.map_or(AdjacencyState::Incomplete, |dst| AdjacencyState::Resolved { dst });
            tables.set_adjacency(*id, Adjacency { port: PortId(hop.0), address: hop.1, state });
        }
        for id in &self.free {
            tables.remove_adjacency(*id);
        }
    }
}

/// The sets of next hops of one version, each once.
#[derive(Default)]
struct Sets {
    spreads: Vec<Spread>,
    known: HashMap<Vec<Hop>, u16>,
}

impl Sets {
    /// The route over a set; beyond 65,536 sets over nothing.
    fn route(&mut self, hops: &[Hop], ids: &HashMap<Hop, NextHopId>) -> Route {
        if let Some(set) = self.known.get(hops) {
            return Route::Spread(*set);
        }
        let Ok(set) = u16::try_from(self.spreads.len()) else { return Route::Blackhole };
        let named = hops.iter().filter_map(|hop| Some((*ids.get(hop)?, hop.1)));
        self.spreads.push(Spread::new(named));
        self.known.insert(hops.to_vec(), set);
        Route::Spread(set)
    }
}

/// Those of several next hops that answer; if none does, all.
fn alive(hops: &[Hop], neighbors: &BTreeMap<Hop, Option<MacAddr>>) -> Vec<Hop> {
    let answers = |hop: &&Hop| neighbors.get(hop).is_some_and(Option::is_some);
    let alive: Vec<_> = hops.iter().filter(answers).copied().collect();
    if alive.is_empty() { hops.to_vec() } else { alive }
}

/// Neighbours by port and address; static ones win.
fn neighbors(settings: &Settings, network: &Network) -> BTreeMap<(u16, IpAddr), Option<MacAddr>> {
    let mut all: BTreeMap<_, _> =
        network.neighbors.iter().map(|at| ((at.port, at.address), at.mac)).collect();
    for fixed in &settings.neighbors {
        if let Some(port) = network.ports.iter().find(|port| port.name == fixed.port) {
            all.insert((port.index, fixed.address), Some(fixed.mac));
        }
    }
    all
}

fn ways(model: &Model, settings: &Settings, network: &Network) -> BTreeMap<Prefix, (Way, Origin)> {
    let mut ways = BTreeMap::new();
    for (to, way) in kernel_ways(network) {
        ways.insert(prefix(to), (way, Origin::Kernel));
    }
    for port in network.ports.iter().rev() {
        for net in &port.addresses {
            ways.insert(prefix(*net), (Way::Link(port.index), Origin::Connected));
        }
    }
    for route in &settings.routes {
        let hop = |via: &IpAddr| Some((connected(network, *via)?, *via));
        let hops: Vec<_> = route.via.iter().filter_map(hop).collect();
        // A route whose gateways are behind no port is no blackhole: others may know better.
        if route.via.is_empty() || !hops.is_empty() {
            ways.insert(prefix(route.to), (Way::over(hops), Origin::Config));
        }
    }
    for (pods, way) in pod_ways(model, settings, network, &ways) {
        ways.entry(pods).or_insert((way, Origin::Node));
    }
    for net in network.ports.iter().flat_map(|port| &port.addresses) {
        ways.insert(Prefix::host(net.addr()), (Way::Local, Origin::Own));
    }
    ways
}

/// The kernel's ways, of each destination those of the lowest metric.
fn kernel_ways(network: &Network) -> BTreeMap<IpNet, Way> {
    let mut best: BTreeMap<IpNet, (u32, Vec<RouteHop>)> = BTreeMap::new();
    for route in &network.routes {
        let (metric, hops) = best.entry(route.to).or_insert((route.metric, Vec::new()));
        if route.metric < *metric {
            (*metric, *hops) = (route.metric, Vec::new());
        }
        if route.metric == *metric {
            hops.push(route.hop);
        }
    }
    best.into_iter().map(|(to, (_, hops))| (to, kernel_way(hops))).collect()
}

/// Several gateways share; of other kinds of hops the first counts.
fn kernel_way(mut hops: Vec<RouteHop>) -> Way {
    hops.sort_unstable();
    let gateway = |hop: &RouteHop| match hop {
        RouteHop::Via { gateway, port } => Some((*port, *gateway)),
        RouteHop::Link { .. } | RouteHop::Blackhole => None,
    };
    match hops.first() {
        Some(first) if gateway(first).is_none() => Way::from(*first),
        _ => Way::over(hops.iter().filter_map(gateway).collect()),
    }
}

/// The port on whose network an address lies.
fn connected(network: &Network, address: IpAddr) -> Option<u16> {
    let holds = |net: &ipnet::IpNet| net.contains(&address);
    network.ports.iter().find(|port| port.addresses.iter().any(holds)).map(|port| port.index)
}

/// podCIDRs by way of their Node's InternalIP of the same family; our own Node's pods are the kernel's.
fn pod_ways(
    model: &Model,
    settings: &Settings,
    network: &Network,
    known: &BTreeMap<Prefix, (Way, Origin)>,
) -> Vec<(Prefix, Way)> {
    let mut found = Vec::new();
    for node in model.nodes().values().filter(|node| settings.node_name.as_ref() != Some(&node.name)) {
        for net in &node.pod_cidrs {
            let Some(address) = internal_ip(node, Family::of(net.addr())) else { continue };
            let direct = connected(network, address).map(|port| Way::Via(port, address));
            if let Some(way) = direct.or_else(|| covering(known, address)) {
                found.push((prefix(*net), way));
            }
        }
    }
    found
}

/// The way to an address beyond a router: that of the longest prefix.
fn covering(known: &BTreeMap<Prefix, (Way, Origin)>, address: IpAddr) -> Option<Way> {
    let covering = known.iter().filter(|(prefix, _)| prefix.contains(address));
    let (_, (way, _)) = covering.max_by_key(|(prefix, _)| prefix.length())?;
    // A neighbour on a link route is its own gateway.
    Some(if let Way::Link(port) = way { Way::Via(*port, address) } else { way.clone() })
}
