//! The addresses a Service asks for, and those it may not have: a service address must never capture traffic of the
//! appliance itself, of a router or of a Node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use packet::Family;
use tables::{FrontendKind, PortInfo};

use super::Settings;
use super::doubt::Doubts;
use crate::model::{IpMode, Model, Service, ServiceType};
use crate::network::{Network, RouteHop};

/// Most addresses times ports of one Service and family.
const FRONTENDS_MAX: usize = 1 << 16;
/// Most externalIPs of one Service and family that are looked at.
const EXTERNAL_IPS_MAX: usize = 1_024;

/// Addresses that no Service may have, each with whose it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Reserved(BTreeMap<IpAddr, String>);

impl Reserved {
    pub(super) fn new(model: &Model, settings: &Settings, network: &Network) -> Self {
        let mut owners = BTreeMap::new();
        for node in model.nodes().values() {
            for address in &node.internal_ips {
                owners.insert(*address, format!("node {}", node.name));
            }
        }
        let gateways = network.routes.iter().filter_map(|route| match route.hop {
            RouteHop::Via { gateway, .. } => Some(gateway),
            RouteHop::Link { .. } | RouteHop::Blackhole => None,
        });
        for gateway in gateways.chain(settings.routes.iter().flat_map(|route| route.via.iter().copied())) {
            owners.entry(gateway).or_insert_with(|| "a next hop of our routes".to_owned());
        }
        for port in &network.ports {
            // A subnet's first and last address mean all of it, but for point-to-point links (RFC 3021).
            for net in port.addresses.iter().filter(|net| net.addr().is_ipv4() && net.prefix_len() < 31) {
                owners.insert(net.network(), format!("the whole subnet of port {}", port.name));
                owners.insert(net.broadcast(), format!("the whole subnet of port {}", port.name));
            }
            for net in &port.addresses {
                owners.insert(net.addr(), format!("port {}", port.name));
            }
        }
        Self(owners)
    }

    /// Why no Service may have an address.
    pub(super) fn refusal(&self, address: IpAddr) -> Option<String> {
        let owner = || Some(format!("it is the address of {}", self.0.get(&address)?));
        unusable(address).map(str::to_owned).or_else(owner)
    }

    /// Addresses whose owner differs.
    pub(super) fn changed(&self, other: &Self) -> BTreeSet<IpAddr> {
        let one_way = |a: &Self, b: &Self| -> BTreeSet<IpAddr> {
            a.0.iter().filter(|(address, owner)| b.0.get(address) != Some(owner)).map(|(at, _)| *at).collect()
        };
        let mut changed = one_way(self, other);
        changed.extend(one_way(other, self));
        changed
    }
}

/// What a Service asks for in one family.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Addresses that it may have.
    pub(super) granted: Vec<(IpAddr, FrontendKind)>,
    /// Every address it asked for.
    pub(super) asked: Vec<IpAddr>,
    /// Addresses that are its own, and in doubt.
    pub(super) doubted: Vec<IpAddr>,
    /// Why it does not have the others, a sentence each.
    pub(super) problems: Vec<String>,
}

/// What decides whether an address can be had.
pub(super) struct Grounds<'a> {
    pub(super) settings: &'a Settings,
    pub(super) reserved: &'a Reserved,
    pub(super) doubts: &'a mut Doubts,
    pub(super) ports: &'a [PortInfo],
}

/// Whether kube-proxy would look at the Service at all (B1, B3), or why not where people may wonder.
pub(super) fn is_served(service: &Service) -> bool {
    let addressed = !service.headless && !service.cluster_ips.is_empty();
    service.proxy_name.is_none() && service.kind != ServiceType::ExternalName && addressed
}

/// The families in which a Service is served, with their cluster addresses.
pub(super) fn cluster_ips(service: &Service) -> impl Iterator<Item = (Family, IpAddr)> {
    service.cluster_ips.iter().enumerate().filter_map(|(index, address)| {
        let family = Family::of(*address);
        // An address that contradicts ipFamilies, or has no place there, serves nobody (B5: by index).
        (service.families.get(index) == Some(&family)).then_some((family, *address))
    })
}

/// Collects the addresses of a Service in one family; `pooled` are those its pools gave.
pub(super) fn wanted(
    service: &Service,
    cluster_ip: IpAddr,
    pooled: &[IpAddr],
    grounds: &mut Grounds<'_>,
) -> Wanted {
    let family = Family::of(cluster_ip);
    let mut wanted = Wanted::default();
    wanted.ask("clusterIP", cluster_ip, FrontendKind::ClusterIp, grounds);
    // What is on its way out is taken back before the API server lets it go.
    let balanced = service.kind == ServiceType::LoadBalancer && !service.upkeep.deleting;
    let status = service.ingress.iter().filter(|at| balanced && at.mode == IpMode::Vip).map(|at| at.address);
    for address in status.chain(pooled.iter().copied()).filter(|address| Family::of(*address) == family) {
        wanted.ask("load balancer address", address, FrontendKind::LoadBalancer, grounds);
    }
    let mut external_ips = service.external_ips.iter().filter(|address| Family::of(**address) == family);
    for address in external_ips.by_ref().take(EXTERNAL_IPS_MAX) {
        if grounds.settings.external_ip_allow.iter().any(|net| net.contains(address)) {
            wanted.ask("externalIP", *address, FrontendKind::ExternalIp, grounds);
        } else {
            let problem = format!(
                "externalIP {address} refused: not in kubernetes.externalIPAllow of the configuration"
            );
            wanted.problems.push(problem);
        }
    }
    if external_ips.next().is_some() {
        wanted.problems.push(format!("over {EXTERNAL_IPS_MAX} externalIPs: the rest are left out"));
    }
    wanted.bound(service.ports.len());
    wanted
}

impl Wanted {
    /// Leaves out the addresses by which the Service would have more than [`FRONTENDS_MAX`] frontends; its own come first.
    fn bound(&mut self, ports: usize) {
        let most = (FRONTENDS_MAX / ports.max(1)).max(1);
        if self.granted.len() > most {
            let over = self.granted.len() - most;
            self.granted.truncate(most);
            self.problems.push(format!(
                "{over} addresses refused: with {ports} ports each the Service would have more than {FRONTENDS_MAX} frontends; split it"
            ));
        }
    }

    fn ask(&mut self, what: &str, address: IpAddr, kind: FrontendKind, grounds: &mut Grounds<'_>) {
        if self.granted.iter().any(|(known, _)| *known == address) || self.doubted.contains(&address) {
            return;
        }
        self.asked.push(address);
        if let Some(reason) = grounds.reserved.refusal(address) {
            return self.problems.push(format!("{what} {address} refused: {reason}"));
        }
        // clusterIPs are announced to nobody.
        let announced = kind != FrontendKind::ClusterIp;
        match announced.then(|| grounds.doubts.objection(address, grounds.ports)).flatten() {
            Some(why) => {
                self.doubted.push(address);
                self.problems.push(why);
            }
            None => self.granted.push((address, kind)),
        }
    }
}

/// Why an address can be neither an endpoint nor a service address.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        return Some("unspecified address");
    }
    if address.is_loopback() {
        return Some("loopback address");
    }
    if address.is_multicast() || matches!(address, IpAddr::V4(at) if at.is_broadcast()) {
        return Some("multicast or broadcast address");
    }
    link_local.then_some("link-local address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_ip_serves_the_family_of_its_index_or_nobody() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.96.0.1".parse().expect("v4"), "fd96::1".parse().expect("v6"));
        for (families, want) in [
            (vec![Family::V4, Family::V6], vec![(Family::V4, v4), (Family::V6, v6)]),
            (vec![Family::V4], vec![(Family::V4, v4)]),
            (vec![Family::V6, Family::V4], vec![]),
        ] {
            let service = Service { cluster_ips: vec![v4, v6], families, ..Service::default() };
            assert_eq!(cluster_ips(&service).collect::<Vec<_>>(), want, "{:?}", service.families);
        }
    }
}
