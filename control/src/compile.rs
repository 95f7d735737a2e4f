//! Model + network + settings -> tables: the only place where `Tables` is built. Pure: no I/O, no clock; what it
//! remembers is what it compiled, so that a change costs its own Service and not all of them.
//! Invariant: whatever the order of changes, the tables mean the same as those compiled afresh (slot numbers apart).

mod addresses;
mod allocation;
mod annotations;
mod backends;
mod claims;
mod cluster;
mod doubt;
mod endpoints;
mod frontends;
mod health;
mod origins;
mod pools;
mod probes;
mod ramp;
mod ranges;
mod report;
mod routes;
mod rules;
mod service;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tables::{
    AddressInfo, AddressKind, BackendId, Frontend, FrontendKey, Generation, Limits, Lpm, NodeId, Prefix,
    ServiceId, SlotAllocator, SnatConfig, SnatRange, Source, Tables, rss::Rss,
};

pub use health::{HealthCheck, HealthChecks};
pub use report::{BackendReport, ServiceReport};
pub use routes::{Origin, Way};
pub use settings::Settings;

use crate::ipam::{Assignments, Ipam, PoolUse};
use crate::model::{Change, Model, ObjectKey};
use crate::network::Network;
use addresses::ports;
use allocation::Touched;
use claims::{Claim, Claims};
use cluster::{Cluster, NodeIds};
use doubt::Doubts;
use frontends::Reserved;
use origins::Origins;
use pools::MaglevCache;
use probes::Probes;
use ramp::Step;
use ranges::AccessCache;
use routes::Routing;
use service::Compiled;

/// Most Service ports (of one family each) and most backends that tables hold.
const SLOTS_MAX: u32 = 1 << 22;

/// Turns cluster state into tables, one change at a time.
#[derive(Debug)]
pub struct Compiler {
    model: Model,
    settings: Settings,
    network: Network,
    ipam: Ipam,
    /// The copy that is edited; `compile` gives out clones.
    tables: Tables,
    service_slots: SlotAllocator<ServiceId>,
    backend_slots: SlotAllocator<BackendId>,
    node_ids: NodeIds,
    cluster: Cluster,
    sources: BTreeMap<Prefix, Source>,
    service_cidrs: Vec<Prefix>,
    reserved: Reserved,
    doubts: Doubts,
    origins: Origins,
    routing: Routing,
    /// Whether anybody must be told of it.
    rerouted: bool,
    claims: Claims,
    maglevs: MaglevCache,
    ranges: HashMap<Box<[Prefix]>, Weak<Lpm<()>>>,
    lists: AccessCache,
    compiled: BTreeMap<ObjectKey, Compiled>,
    /// What each Service port wants to be known by at an address.
    vips: HashMap<IpAddr, BTreeMap<ServiceId, (AddressKind, bool)>>,
    own: BTreeMap<IpAddr, AddressInfo>,
    health: HealthChecks,
    probes: Probes,
    /// What time it is, in milliseconds since 1970; none while nothing starts slowly.
    now_ms: Option<u64>,
    /// When Services have a step of their slow start due.
    steps: BTreeMap<ObjectKey, Step>,
    /// Whether anybody must be told of them.
    health_changed: bool,
    dirty: Dirty,
    touched: Touched,
}

/// What changed since the last compilation.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ObjectKey>,
    cluster: bool,
    network: bool,
    claims: BTreeSet<Claim>,
    addresses: BTreeSet<IpAddr>,
    node_ports: bool,
    /// Pools, or what decides about them: every Service of type LoadBalancer is asked whether its address differs.
    pools: bool,
}

impl Compiler {
    /// Knows nothing but its settings and which addresses Services had before.
    #[must_use]
    pub fn new(settings: Settings, assignments: Assignments) -> Self {
        let dirty = Dirty { cluster: true, network: true, node_ports: true, pools: true, ..Dirty::default() };
        Self {
            model: Model::default(),
            settings,
            network: Network::default(),
            ipam: Ipam::new(assignments),
            tables: Tables::empty(Generation(0)),
            service_slots: SlotAllocator::new(SLOTS_MAX),
            backend_slots: SlotAllocator::new(SLOTS_MAX),
            node_ids: NodeIds::default(),
            cluster: Cluster::default(),
            sources: BTreeMap::new(),
            service_cidrs: Vec::new(),
            reserved: Reserved::default(),
            doubts: Doubts::default(),
            origins: Origins::default(),
            routing: Routing::default(),
            rerouted: false,
            claims: Claims::default(),
            maglevs: MaglevCache::default(),
            ranges: HashMap::new(),
            lists: AccessCache::default(),
            compiled: BTreeMap::new(),
            vips: HashMap::new(),
            own: BTreeMap::new(),
            health: HealthChecks::default(),
            probes: Probes::default(),
            now_ms: None,
            steps: BTreeMap::new(),
            health_changed: false,
            dirty,
            touched: Touched::default(),
        }
    }

    /// Takes a change of the cluster in; it shows in the next `compile`.
    pub fn apply(&mut self, change: Change) {
        match &change {
            Change::Service(key, _) => self.mark(key.clone()),
            Change::EndpointSlice(key, slice) => {
                if let Some(service) = self.model.slices().get(key).map(|old| old.service.clone()) {
                    self.mark(service);
                }
                if let Some(slice) = slice {
                    self.mark(slice.service.clone());
                }
            }
            Change::Node(..) => {
                self.dirty.cluster = true;
                self.dirty.network = true;
            }
            Change::ServiceCidr(..) => self.dirty.cluster = true,
            Change::Namespace(name, _) => self.mark_namespace(name),
            Change::AddressPool(name, _) => {
                self.dirty.pools = true;
                self.touched.pools.insert(name.clone());
            }
        }
        self.model.apply(change);
    }

    fn mark(&mut self, service: ObjectKey) {
        self.dirty.services.insert(service);
    }

    /// Takes a new picture of ports, kernel routes and neighbours in.
    pub fn set_network(&mut self, network: Network) {
        if network != self.network {
            self.network = network;
            self.dirty.network = true;
        }
    }

    /// Says how workers share packets; before the first version.
    pub fn set_rss(&mut self, rss: Arc<Rss>) {
        self.tables.rss = rss;
    }

    /// Takes new settings in; every Service is looked at again.
    pub fn set_settings(&mut self, settings: Settings) {
        if settings == self.settings {
            return;
        }
        self.settings = settings;
        self.dirty.pools = true;
        self.dirty.cluster = true;
        self.dirty.network = true;
        self.dirty.node_ports = true;
        self.dirty.services.extend(self.model.services().keys().cloned());
    }

    /// Every worker has finished a sweep of its flows that began with this generation: slots retired before are free.
    pub fn swept(&mut self, generation: Generation) {
        self.service_slots.reclaim(generation);
        self.backend_slots.reclaim(generation);
    }

    /// Whether a change waits to be compiled.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let dirty = &self.dirty;
        dirty.cluster || dirty.network || dirty.node_ports || dirty.pools || !dirty.services.is_empty()
    }

    /// The next version of the tables, with everything taken in so far.
    pub fn compile(&mut self) -> Tables {
        self.tables.generation = self.tables.generation.next();
        if std::mem::take(&mut self.dirty.network) {
            self.compile_network();
        }
        if std::mem::take(&mut self.dirty.cluster) {
            self.compile_cluster();
        }
        let dirty = std::mem::take(&mut self.dirty.services);
        let (present, gone): (Vec<_>, Vec<_>) =
            dirty.into_iter().partition(|key| self.model.services().contains_key(key));
        gone.iter().for_each(|key| self.compile_service(key));
        self.compile_present(present);
        self.serve_hopeful();
        self.settle_claims();
        self.settle_addresses();
        self.origins.settle(&mut self.tables.origins);
        if std::mem::take(&mut self.dirty.node_ports) {
            self.compile_snat();
        }
        self.tables.clone()
    }

    /// What Services were given, to be kept across restarts.
    #[must_use]
    pub fn assignments(&self) -> Assignments {
        self.ipam.assignments()
    }

    /// What [`Self::assignments`] has of one Service.
    pub fn assigned_to(&self, key: &ObjectKey) -> impl Iterator<Item = IpAddr> {
        self.ipam.assigned_to(key)
    }

    /// Services whose addresses may differ from those at the last call.
    pub fn take_reassigned(&mut self) -> BTreeSet<ObjectKey> {
        self.ipam.take_reassigned()
    }

    /// How full the pools are.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolUse> {
        self.ipam.pools()
    }

    /// Next hops of routes, as port index and address: the kernel shall keep them resolved.
    #[must_use]
    pub fn gateways(&self) -> &BTreeSet<(u16, IpAddr)> {
        &self.routing.gateways
    }

    /// The routes in the tables: where each prefix leads, and who asked for it.
    #[must_use]
    pub fn ways(&self) -> &BTreeMap<Prefix, (Way, Origin)> {
        &self.routing.ways
    }

    /// Whether [`Self::gateways`] and [`Self::ways`] may differ from those at the last call.
    pub fn take_rerouted(&mut self) -> bool {
        std::mem::take(&mut self.rerouted)
    }

    /// The state that is compiled.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The name of a Node by its number.
    #[must_use]
    pub fn node_name(&self, id: NodeId) -> Option<&str> {
        let known = |name: &&String| self.node_ids.known(name) == Some(id);
        self.model.nodes().keys().find(known).map(String::as_str)
    }

    fn compile_cluster(&mut self) {
        let cluster = Cluster::new(&self.model, &self.settings, &mut self.node_ids);
        if cluster != self.cluster {
            let zones_only = cluster.this == self.cluster.this
                && cluster.this_addresses == self.cluster.this_addresses
                && cluster.detects_pods == self.cluster.detects_pods;
            let affected = self.compiled.iter().filter(|(_, compiled)| !zones_only || compiled.needs_places);
            self.dirty.services.extend(affected.map(|(key, _)| key.clone()));
            self.cluster = cluster;
        }
        let sources = cluster::sources(&self.model, &self.settings, &self.network, &mut self.node_ids);
        if sources != self.sources {
            self.tables.sources =
                Arc::new(Lpm::build(sources.iter().map(|(prefix, source)| (*prefix, *source))));
            self.sources = sources;
            self.dirty.pools = true;
        }
        let cidrs = cluster::service_cidrs(&self.model, &self.settings);
        if cidrs != self.service_cidrs {
            self.tables.service_cidrs = Arc::new(cluster::set_of(&cidrs));
            self.service_cidrs = cidrs;
            self.dirty.pools = true;
        }
        self.tables.acts_as = self.cluster.this.as_ref().map(|this| this.id);
        self.tables.workers = self.settings.workers.max(1);
        self.tables.limits = self.limits();
        self.tables.answers = self.settings.answers;
        let ms = |deadline: Duration| u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        self.tables.drain_deadline_ms = self.settings.drain_deadline.map(ms);
    }

    fn compile_network(&mut self) {
        let ports = ports(&self.network);
        if *ports != *self.tables.ports() {
            self.tables.set_ports(ports);
            self.dirty.addresses.extend(self.vips.keys());
            // Which clients are this Node itself depends on the ports' addresses.
            self.dirty.cluster = true;
        }
        self.compile_own_addresses();
        let reserved = Reserved::new(&self.model, &self.settings, &self.network);
        let changed = self.reserved.changed(&reserved);
        if !changed.is_empty() {
            self.mark_askers(&changed);
            self.reserved = reserved;
            self.dirty.pools = true;
        }
        self.routing.update(&mut self.tables, &self.model, &self.settings, &self.network);
        self.rerouted = true;
    }

    /// Puts the winner of every touched claim into the index.
    fn settle_claims(&mut self) {
        for claim in std::mem::take(&mut self.dirty.claims) {
            self.touched.services.extend(self.claims.rivals(claim).cloned());
            let winner = self.claims.winner(claim).map(|(_, id, kind)| (id, kind));
            match (claim, winner) {
                (Claim::Vip(address, protocol, port), Some((service, kind))) => {
                    let key = FrontendKey { address, protocol, port };
                    let frontend = Frontend { service, kind };
                    if self.tables.index.vip(address, protocol, port) != Some(frontend) {
                        self.tables.index.insert_vip(key, frontend);
                    }
                }
                (Claim::Vip(address, protocol, port), None) => {
                    self.tables.index.remove_vip(FrontendKey { address, protocol, port });
                }
                (Claim::NodePort(family, protocol, port), Some((service, _))) => {
                    let known = self.tables.index.node_port(family, protocol, port);
                    if known.map(|at| at.service) != Some(service) {
                        self.tables.index.insert_node_port(family, protocol, port, service);
                        self.dirty.node_ports = true;
                    }
                }
                (Claim::NodePort(family, protocol, port), None) => {
                    self.tables.index.remove_node_port(family, protocol, port);
                    self.dirty.node_ports = true;
                }
            }
        }
    }

    /// What one worker admits: its share of the new flows.
    fn limits(&self) -> Limits {
        let of_all = self.settings.protection;
        let (flows_per_source, flows_per_service) =
            (self.share(of_all.flows_per_source), self.share(of_all.flows_per_service));
        Limits { flows_per_source, flows_per_service, kernel: of_all.kernel }
    }

    /// One worker's share of a rate, at least 1 of one that is not 0.
    fn share(&self, rate: u32) -> u32 {
        rate.div_ceil(self.settings.workers.max(1).into())
    }

    /// The API server's whole range of nodePorts is left out, not only those in use: so a nodePort that appears never
    /// takes a port from a translated flow, whose replies would then belong to another worker.
    fn compile_snat(&mut self) {
        let (first, last) = self.settings.snat_ports;
        let (low, high) = self.settings.node_port_range;
        let reserved = (self.claims.node_ports())
            .chain(self.health.services.values().map(|check| check.port))
            .chain(self.settings.listeners.iter().copied())
            .chain(low..=high);
        let snat = SnatConfig {
            addresses: self.settings.snat_addresses.clone().into(),
            ports: SnatRange::new(first, last, reserved),
        };
        if *self.tables.snat != snat {
            self.tables.snat = Arc::new(snat);
        }
    }
}
