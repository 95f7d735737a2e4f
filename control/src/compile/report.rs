//! What people may ask about Services: their addresses, backends and problems, as they are in force.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use packet::{Family, Protocol};
use tables::{BackendState, NatMode, ServiceId};

use super::Compiler;
use super::claims::Claim;
use super::service::{Compiled, CompiledPort};
use crate::model::{Service, ServicePort};
use crate::probe::Health;

/// One port of a Service, both families together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceReport {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Name of the port; empty when unnamed.
    pub port_name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the service addresses.
    pub port: u16,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: String,
    /// `snat` or `dnat`, at the external frontends.
    pub mode: String,
    /// Cluster addresses that are served.
    pub cluster_ips: Vec<IpAddr>,
    /// externalIPs that are served.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses that are served.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The nodePort, when it is served.
    pub node_port: Option<u16>,
    /// Its slots in the tables.
    pub ids: Vec<ServiceId>,
    /// Its endpoints.
    pub backends: Vec<BackendReport>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// One endpoint of a Service port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendReport {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it takes flows.
    pub state: BackendState,
    /// Its share.
    pub weight: u16,
    /// What its health check says, if it has one.
    pub health: Option<Health>,
}

impl Compiler {
    /// Every port of every Service, by namespace and name. Services that are not served at all have their problems only.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceReport> {
        self.model.services().values().flat_map(|service| self.reports(service)).collect()
    }

    /// A row for each port of a Service.
    fn reports(&self, service: &Service) -> Vec<ServiceReport> {
        let mut reports: Vec<_> = service.ports.iter().map(|port| empty(service, port)).collect();
        let Some(compiled) = self.compiled.get(&service.key) else { return reports };
        let Compiled { assigned, problems, .. } = compiled;
        let of_all: Vec<_> =
            assigned.lacks.iter().chain(&assigned.warnings).chain(problems).cloned().collect();
        reports.iter_mut().for_each(|report| report.problems.clone_from(&of_all));
        let named = |(row, port): (usize, &ServicePort)| ((port.protocol, port.name.clone()), row);
        let rows: HashMap<_, _> = service.ports.iter().enumerate().map(named).collect();
        for port in &compiled.ports {
            if let Some(row) = rows.get(&(port.protocol, port.name.clone())) {
                self.add(&mut reports[*row], port);
            }
        }
        reports
    }

    /// Claims of a Service that others have, a sentence each.
    pub(super) fn lost_claims(&self, compiled: &Compiled) -> Vec<String> {
        let claims =
            compiled.ports.iter().flat_map(|port| port.claims.iter().map(move |claim| (port, *claim)));
        let mut lost = claims.filter_map(|(port, claim)| self.lost_claim(port, claim)).collect();
        name_some(&mut lost);
        lost
    }

    fn lost_claim(&self, port: &CompiledPort, claim: Claim) -> Option<String> {
        let (rank, ..) = self.claims.winner(claim).filter(|(_, id, _)| *id != port.id)?;
        let text = claim_text(claim);
        Some(format!("{text} belongs to {}, which is older or comes first by name", rank.key))
    }

    /// Adds what one family has.
    fn add(&self, report: &mut ServiceReport, port: &CompiledPort) {
        report.ids.push(port.id);
        if let Some(service) = self.tables.services.get(port.id) {
            report.mode = mode_name(service.info.mode).to_owned();
        }
        for claim in &port.claims {
            let Some((_, id, kind)) = self.claims.winner(*claim) else { continue };
            if id != port.id {
                report.problems.extend(self.lost_claim(port, *claim));
                continue;
            }
            match claim {
                Claim::NodePort(_, _, number) => report.node_port = Some(*number),
                Claim::Vip(address, ..) => match kind {
                    tables::FrontendKind::ClusterIp => report.cluster_ips.push(*address),
                    tables::FrontendKind::ExternalIp => report.external_ips.push(*address),
                    tables::FrontendKind::LoadBalancer | tables::FrontendKind::NodePort => {
                        report.load_balancer_ips.push(*address);
                    }
                },
            }
        }
        for at in port.backends.keys().filter(|at| self.tables.service_cidrs.contains(at.ip())) {
            let problem = "lies in a service CIDR: packets for it are dropped; correct the EndpointSlice";
            report.problems.push(format!("endpoint {} {problem}", at.ip()));
        }
        let backends = port.backends.values().filter_map(|id| self.tables.backends.get(*id));
        report.backends.extend(backends.map(|backend| {
            BackendReport {
                address: SocketAddr::new(backend.address, backend.port),
                state: backend.state,
                weight: backend.weight,
                health: port
                    .probes
                    .get(&SocketAddr::new(backend.address, backend.port))
                    .and_then(|probe| self.probes.health(probe)),
            }
        }));
    }
}

/// Problems of one Service that are told by name; the others are counted, or an object could be all that is ever told.
const NAMED_MAX: usize = 32;

/// Leaves the first few of many sentences, and says how many more there are.
pub(super) fn name_some(problems: &mut Vec<String>) {
    if problems.len() > NAMED_MAX {
        let more = problems.len() - NAMED_MAX;
        problems.truncate(NAMED_MAX);
        problems.push(format!("and {more} problems more"));
    }
}

fn empty(service: &Service, port: &ServicePort) -> ServiceReport {
    ServiceReport {
        namespace: service.key.namespace.clone(),
        name: service.key.name.clone(),
        port_name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
        kind: service.kind.to_string(),
        mode: String::new(),
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        node_port: None,
        ids: Vec::new(),
        backends: Vec::new(),
        problems: Vec::new(),
    }
}

fn mode_name(mode: NatMode) -> &'static str {
    match mode {
        NatMode::Dnat => "dnat",
        NatMode::Snat => "snat",
    }
}

fn claim_text(claim: Claim) -> String {
    match claim {
        Claim::NodePort(Family::V4, protocol, port) => format!("nodePort {port}/{protocol}"),
        Claim::NodePort(Family::V6, protocol, port) => format!("nodePort {port}/{protocol} (IPv6)"),
        Claim::Vip(address, protocol, port) => format!("{}/{protocol}", SocketAddr::new(address, port)),
    }
}
