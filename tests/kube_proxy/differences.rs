//! The known and wanted differences, each as narrow as it can be told. `docs/kube-proxy-differences.md` gives the reasons
//! under the same names; a test holds the two together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use packet::Protocol;
use serde_json::Value;

use crate::fairlead::Answer;
use crate::place;
use crate::state::{address, list, number};
use crate::walk::{Branch, Fate, Packet};

/// A difference that is no mistake.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Known {
    /// An endpoint has the address of a Service.
    BackendIsService,
    /// An externalIP is a clusterIP too.
    ClusterIpToo,
    /// Several Services ask for one address and port.
    Contested,
    /// A Service asks for the address of a Node or of the appliance.
    Reserved,
    /// A packet to a source port that is the appliance's own for translation.
    SnatPort,
}

impl Known {
    pub(crate) const ALL: [Self; 5] =
        [Self::BackendIsService, Self::ClusterIpToo, Self::Contested, Self::Reserved, Self::SnatPort];

    /// The heading of the document.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::BackendIsService => "An endpoint at a service address",
            Self::ClusterIpToo => "An externalIP that is a clusterIP too",
            Self::Contested => "An address and port that several Services ask for",
            Self::Reserved => "A service address that a Node or the appliance has",
            Self::SnatPort => "The appliance's own translation ports",
        }
    }
}

type Frontend = (IpAddr, Protocol, u16);

/// What the known differences depend on.
#[derive(Debug, Default)]
pub(crate) struct Circumstances {
    claims: BTreeMap<Frontend, BTreeSet<String>>,
    cluster_ips: BTreeSet<IpAddr>,
    external: BTreeSet<Frontend>,
    nodes: BTreeSet<IpAddr>,
}

/// Fairlead's default range of translation ports, `forwarding.snatPorts`.
const SNAT_PORTS: std::ops::RangeInclusive<u16> = 1024..=60_999;

impl Circumstances {
    pub(crate) fn new(objects: &[Value]) -> Self {
        let mut this = Self::default();
        for object in objects {
            match object["kind"].as_str() {
                Some("Service") => this.service(object),
                Some("Node") => {
                    let addresses = list(&object["status"]["addresses"]);
                    this.nodes.extend(addresses.iter().filter_map(|entry| address(&entry["address"])));
                }
                _ => {}
            }
        }
        this
    }

    fn service(&mut self, service: &Value) {
        let (metadata, spec) = (&service["metadata"], &service["spec"]);
        if !metadata["labels"]["service.kubernetes.io/service-proxy-name"].is_null() {
            return;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = format!("{}/{}:", text(&metadata["namespace"]), text(&metadata["name"]));
        let cluster_ips: Vec<_> = list(&spec["clusterIPs"]).iter().filter_map(address).collect();
        self.cluster_ips.extend(&cluster_ips);
        let vips = list(&service["status"]["loadBalancer"]["ingress"]).iter();
        let vips = vips.filter(|entry| entry["ipMode"] != "Proxy").map(|entry| &entry["ip"]);
        let others = list(&spec["externalIPs"]).iter().chain(vips).filter_map(address);
        let served = |at: &IpAddr| cluster_ips.iter().any(|own| own.is_ipv4() == at.is_ipv4());
        let others: BTreeSet<_> = others.filter(served).collect();
        for port in list(&spec["ports"]) {
            let protocol = port["protocol"].as_str().and_then(|name| name.parse().ok());
            let (Some(number), Some(protocol)) = (number(&port["port"]), protocol) else { continue };
            self.external.extend(others.iter().map(|address| (*address, protocol, number)));
            for address in others.iter().chain(&cluster_ips) {
                self.claims.entry((*address, protocol, number)).or_default().insert(name.clone());
            }
        }
    }

    /// Which known difference a difference is; none: it is a mistake of somebody.
    pub(crate) fn explain(&self, packet: &Packet, branches: &[Branch], answer: &Answer) -> Option<Known> {
        let (at, port) = (packet.dst.ip(), packet.dst.port());
        let frontend = (at, packet.protocol, port);
        let (own, none) = (place::is_local(at), BTreeSet::new());
        let claimants = self.claims.get(&frontend).unwrap_or(&none);
        let to_one = |service: &String| claimants.iter().any(|name| service.starts_with(name));
        if claimants.len() > 1 && answer.service.as_ref().is_some_and(to_one) {
            return Some(Known::Contested);
        }
        let refused = |branch: &Branch| matches!(branch.fate, Fate::Drop | Fate::Reject);
        let to_service =
            |branch: &Branch| branch.backend.is_some_and(|at| self.cluster_ips.contains(&at.ip()));
        if answer.reason == "BackendIsService"
            && branches.iter().any(|branch| refused(branch) && to_service(branch))
        {
            return Some(Known::BackendIsService);
        }
        if self.cluster_ips.contains(&at)
            && self.external.contains(&frontend)
            && answer.service.as_ref().is_some_and(to_one)
        {
            return Some(Known::ClusterIpToo);
        }
        let unclaimed = matches!(answer.frontend.as_deref(), None | Some("NodePort"));
        if !claimants.is_empty() && (own || self.nodes.contains(&at)) && unclaimed {
            return Some(Known::Reserved);
        }
        let delivers = branches.iter().all(|branch| branch.fate == Fate::Deliver);
        let dropped = answer.reason == "SnatPortUnowned" && SNAT_PORTS.contains(&port);
        (own && delivers && dropped).then_some(Known::SnatPort)
    }
}
