//! One Service: its ports in each family with their backends, rules, pools and frontends, put into the tables in place
//! of what it had there before. Ports and backends that stay keep their slots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use packet::{Family, Protocol};
use tables::{AddressKind, BackendId, FrontendKind, NatMode, Pool, ServiceId, ServiceInfo, ServicePort};

use super::Compiler;
use super::annotations::{self, Weights};
use super::claims::{Claim, Rank};
use super::endpoints::{Candidates, OF_A_SERVICE_MAX};
use super::frontends::{self, Grounds, Wanted};
use super::origins::{self, Front, Part};
use super::pools::MaglevCache;
use super::ramp::Ramps;
use super::report::name_some;
use super::rules::{self, Policy, Rules};
use crate::config::{Mode, Target};
use crate::ipam::Assigned;
use crate::model::{self, EndpointSlice, ObjectKey, Service};
use crate::probe::{Check, Probe};

/// What a Service has in the tables.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) ports: Vec<CompiledPort>,
    /// Addresses that it asked for, granted or not.
    pub(super) asked: Vec<IpAddr>,
    /// What the pools gave.
    pub(super) assigned: Assigned,
    /// Load balancer addresses that it may have, served or in doubt.
    pub(super) balanced: Vec<IpAddr>,
    /// What else is wrong with it, a sentence each; claims it lost are told by `report`.
    pub(super) problems: Vec<String>,
    /// Whether Nodes and zones shape its rules.
    pub(super) needs_places: bool,
    /// Where its ready endpoints are that policy Local may choose here.
    ready_here: BTreeSet<IpAddr>,
    /// How many more of its endpoints are looked at.
    room: usize,
}

/// What a Service port of one family has in the tables.
#[derive(Debug)]
pub(super) struct CompiledPort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) family: Family,
    pub(super) id: ServiceId,
    pub(super) backends: BTreeMap<SocketAddr, BackendId>,
    /// Those by which clients outside reach it with their own address.
    pub(super) fronts: Arc<[Front]>,
    /// What it asks for; whether it has it is `Claims`' to say.
    pub(super) claims: Vec<Claim>,
    /// How its endpoints are asked whether they serve.
    pub(super) probes: BTreeMap<SocketAddr, Probe>,
    /// Endpoints on their way to their full share.
    pub(super) ramps: Ramps,
    rank: Rank,
}

impl Compiler {
    /// Brings one Service up to date, whether it is new, changed or gone.
    pub(super) fn compile_service(&mut self, key: &ObjectKey) {
        self.touched.services.insert(key.clone());
        let old = self.compiled.remove(key).unwrap_or_default();
        for port in &old.ports {
            self.withdraw(port);
        }
        self.steps.remove(key);
        let probed: Vec<_> = old.ports.iter().flat_map(|port| port.probes.values().cloned()).collect();
        let Some(service) = self.model.services().get(key).cloned() else {
            self.ipam.release(key);
            self.settle_health(key, None, 0);
            old.ports.into_iter().for_each(|port| self.retire(port));
            self.release_probes(key, &probed, &[]);
            return;
        };
        let (problems, room) = (service.notes.clone(), OF_A_SERVICE_MAX);
        let mut compiled = Compiled { problems, room, ..Compiled::default() };
        compiled.assigned = self.assign(&service);
        let policy = self.policy(&service, &mut compiled.problems);
        let target = annotations::target(&service, self.settings.target, &mut compiled.problems);
        let weights = Weights::of(&service, &mut compiled.problems);
        let check = annotations::check(&service, &self.settings.check, &mut compiled.problems);
        let slow_start = annotations::slow_start(&service, self.settings.slow_start, &mut compiled.problems);
        let mut kept = by_name(old.ports);
        if frontends::is_served(&service) {
            let slices: Vec<_> = self.model.slices_of(key).cloned().collect();
            for (family, cluster_ip) in frontends::cluster_ips(&service) {
                let wanted = self.wanted(&service, cluster_ip, &mut compiled);
                for (position, port) in service.ports.iter().enumerate() {
                    let same = kept.get_mut(&(family, port.protocol, port.name.clone()));
                    let before = same.and_then(Vec::pop);
                    let work = Work {
                        service: &service,
                        slices: &slices,
                        family,
                        position,
                        port,
                        wanted: &wanted,
                        target,
                        weights: &weights,
                        check: &check,
                        slow_start,
                        policy: Policy {
                            detects_pods: self.cluster.detects_pods.contains(&family),
                            ..policy
                        },
                    };
                    self.compile_port(&work, before, &mut compiled);
                }
            }
        } else if service.cluster_ips.is_empty()
            && !service.headless
            && service.kind != model::ServiceType::ExternalName
        {
            compiled
                .problems
                .push("not served: spec.clusterIP is empty; give it an address of the service CIDR".into());
        }
        kept.into_values().flatten().for_each(|port| self.retire(port));
        self.release_probes(key, &probed, &compiled.ports);
        self.settle_health(key, Some(&service), compiled.ready_here.len());
        compiled.problems.sort_unstable();
        compiled.problems.dedup();
        name_some(&mut compiled.problems);
        self.compiled.insert(key.clone(), compiled);
    }

    /// The addresses of one family, noted in `compiled`.
    fn wanted(&mut self, service: &Service, cluster_ip: IpAddr, compiled: &mut Compiled) -> Wanted {
        let mut grounds = Grounds {
            settings: &self.settings,
            reserved: &self.reserved,
            doubts: &mut self.doubts,
            ports: self.tables.ports(),
        };
        let mut wanted = frontends::wanted(service, cluster_ip, &compiled.assigned.addresses, &mut grounds);
        let balanced = wanted.granted.iter().filter(|(_, kind)| *kind == FrontendKind::LoadBalancer);
        compiled.balanced.extend(balanced.map(|(address, _)| *address));
        compiled.balanced.extend(&wanted.doubted);
        compiled.asked.extend(&wanted.asked);
        compiled.problems.append(&mut wanted.problems);
        wanted
    }

    /// Annotations and configuration together; a bad annotation is told and left out.
    fn policy(&self, service: &Service, problems: &mut Vec<String>) -> Policy {
        let configured = match self.settings.mode {
            Mode::Auto => None,
            Mode::Snat => Some(NatMode::Snat),
            Mode::Dnat => Some(NatMode::Dnat),
        };
        let mode = match service.mode.as_deref() {
            Some("snat") => Some(NatMode::Snat),
            Some("dnat") => Some(NatMode::Dnat),
            Some(other) => {
                problems.push(format!(
                    "annotation fairlead.dev/mode: `{other}` is not known; snat or dnat is expected"
                ));
                configured
            }
            None => configured,
        };
        Policy {
            internal: service.internal_policy,
            external: service.external_policy,
            detects_pods: false,
            mode,
            udp_idle: annotations::udp_idle(service, problems),
            flows_per_second: annotations::flows_per_second(service, problems).map(|rate| self.share(rate)),
        }
    }

    fn compile_port(&mut self, work: &Work<'_>, before: Option<CompiledPort>, compiled: &mut Compiled) {
        let pods = Candidates::collect(work.slices, work.port, work.family, &mut compiled.room);
        let nodes;
        let node_port = work.node_port_target(&mut compiled.problems);
        let mut candidates = match node_port {
            None => pods,
            Some(node_port) => {
                nodes = pods.nodes(work.policy.external, &self.cluster, work.family);
                compiled.needs_places = true;
                Candidates::of_nodes(&nodes, node_port)
            }
        };
        candidates.weigh(work.weights);
        let probes = self.check_endpoints(work, node_port.is_some(), &mut candidates, &mut compiled.problems);
        let ramps = self.ramp(&work.service.key, work.slow_start, before.as_ref(), &mut candidates);
        let said = before.as_ref().map(CompiledPort::says).unwrap_or_default();
        let (id, known) = match before {
            Some(before) => (Some(before.id), before.backends),
            None => (self.service_slots.allocate(), BTreeMap::new()),
        };
        let Some(id) = id else {
            compiled.problems.push("not served: too many Service ports; remove some Services".into());
            return;
        };
        let rules = rules::decide(&candidates, work.policy, &self.cluster);
        let local = work.policy.internal == model::TrafficPolicy::Local;
        compiled.needs_places |= local || candidates.hints_zones() || candidates.hints_nodes();
        let backends = self.place_backends(&candidates, known, &mut compiled.problems);
        let usable = candidates.any();
        compiled.ready_here.extend(candidates.ready_on(self.settings.node_name.as_deref()));
        let service = self.service_port(work, id, rules, &candidates, &backends);
        let rank = Rank::new(work.service, work.position);
        let port = &work.port;
        let mut claims: Vec<_> = Vec::new();
        for (address, kind) in &work.wanted.granted {
            let claim = Claim::Vip(*address, port.protocol, port.port);
            self.claim(claim, *kind, &rank, id);
            self.vips.entry(*address).or_default().insert(id, (address_kind(*kind), usable));
            self.dirty.addresses.insert(*address);
            claims.push((claim, *kind));
        }
        if let Some(node_port) = port.node_port {
            compiled.problems.extend(self.stray_node_port(node_port));
            let claim = Claim::NodePort(work.family, port.protocol, node_port);
            self.claim(claim, FrontendKind::NodePort, &rank, id);
            claims.push((claim, FrontendKind::NodePort));
        }
        let placed = CompiledPort {
            name: port.name.clone(),
            protocol: port.protocol,
            family: work.family,
            id,
            backends,
            fronts: origins::fronts(&service, &claims),
            claims: claims.into_iter().map(|(claim, _)| claim).collect(),
            probes,
            ramps,
            rank,
        };
        self.tables.services.insert(Arc::new(service));
        self.origins.change((id, port.protocol), &said, &placed.says());
        compiled.ports.push(placed);
    }

    /// A nodePort that translated flows may be using: harmless to one worker, which finds the flow first.
    fn stray_node_port(&self, port: u16) -> Option<String> {
        let (low, high) = self.settings.node_port_range;
        let (first, last) = self.settings.snat_ports;
        let stray = !(low..=high).contains(&port) && (first..=last).contains(&port);
        (stray && self.settings.workers > 1).then(|| {
            format!(
                "nodePort {port} lies outside kubernetes.nodePortRange {low}-{high} and within forwarding.snatPorts: translated flows that use the port now are cut off; give the API server's range"
            )
        })
    }

    fn claim(&mut self, claim: Claim, kind: FrontendKind, rank: &Rank, id: ServiceId) {
        self.claims.add(claim, rank.clone(), id, kind);
        self.dirty.claims.insert(claim);
    }

    fn service_port(
        &mut self,
        work: &Work<'_>,
        id: ServiceId,
        rules: Rules,
        candidates: &Candidates<'_>,
        backends: &BTreeMap<SocketAddr, BackendId>,
    ) -> ServicePort {
        let pools = rules.sets.iter().map(|set| {
            // Ascending by address and port, as the table's cache wants it.
            let at = |position: &u32| candidates.list()[*position as usize].weighted();
            let placed = set.iter().map(at).filter(|(at, _)| backends.contains_key(at));
            let members = MaglevCache::with_weight(placed.collect());
            let ids = members.iter().map(|(at, _)| backends[at]).collect();
            Pool { maglev: self.maglevs.table(&members), backends: ids }
        });
        let pools = pools.collect();
        let (service, port) = (work.service, work.port);
        let info = ServiceInfo {
            namespace: service.key.namespace.clone(),
            name: service.key.name.clone(),
            port_name: port.name.clone(),
            port: port.port,
            protocol: port.protocol,
            mode: work.policy.external_mode(),
        };
        ServicePort {
            id,
            protocol: port.protocol,
            internal: rules.internal,
            external: rules.external,
            pools,
            affinity_timeout_s: service.affinity_timeout_s,
            udp_idle: work.policy.udp_idle,
            flows_per_second: work.policy.flows_per_second,
            source_ranges: self.source_ranges(work),
            access: self.access(work.service),
            info: Arc::new(info),
        }
    }

    /// Takes a port's frontends back; they are claimed anew right after if it stays.
    fn withdraw(&mut self, port: &CompiledPort) {
        for claim in &port.claims {
            self.claims.remove(*claim, &port.rank);
            self.dirty.claims.insert(*claim);
            let Claim::Vip(address, ..) = claim else { continue };
            self.dirty.addresses.insert(*address);
            if let Some(uses) = self.vips.get_mut(address) {
                uses.remove(&port.id);
                if uses.is_empty() {
                    self.vips.remove(address);
                }
            }
        }
    }
}

impl CompiledPort {
    /// Where its endpoints' clients come from; nothing where no client outside keeps its address.
    pub(super) fn says(&self) -> Part {
        if self.fronts.is_empty() {
            return Part::default();
        }
        Part { fronts: Arc::clone(&self.fronts), backends: self.backends.clone() }
    }
}

/// What a port of a Service is known by from one compilation to the next.
type Name = (Family, Protocol, String);

/// Ports by their names; only a faulty object has a name twice.
fn by_name(ports: Vec<CompiledPort>) -> HashMap<Name, Vec<CompiledPort>> {
    let mut named = HashMap::<_, Vec<_>>::new();
    for port in ports {
        named.entry((port.family, port.protocol, port.name.clone())).or_default().push(port);
    }
    named
}

/// One Service port of one family on its way into the tables.
pub(super) struct Work<'a> {
    pub(super) service: &'a Service,
    slices: &'a [Arc<EndpointSlice>],
    pub(super) family: Family,
    position: usize,
    pub(super) port: &'a model::ServicePort,
    pub(super) wanted: &'a Wanted,
    target: Target,
    weights: &'a Weights,
    pub(super) check: &'a Check,
    slow_start: Option<Duration>,
    policy: Policy,
}

impl Work<'_> {
    /// The nodePort to send to, if that is what was asked for and there is one.
    fn node_port_target(&self, problems: &mut Vec<String>) -> Option<u16> {
        if self.target == Target::Pods {
            return None;
        }
        if self.port.node_port.is_none() {
            let port = self.port.port;
            problems.push(format!("target nodePorts: port {port} has no nodePort; its pods are used"));
        }
        self.port.node_port
    }
}

fn address_kind(kind: FrontendKind) -> AddressKind {
    match kind {
        FrontendKind::ClusterIp => AddressKind::ClusterIp,
        FrontendKind::ExternalIp => AddressKind::ExternalIp,
        FrontendKind::LoadBalancer | FrontendKind::NodePort => AddressKind::LoadBalancer,
    }
}
