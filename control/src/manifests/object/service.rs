//! A Service with the API server's defaults. Source: k8s.io/api core/v1.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::Family;

use super::value::{address, ip, network};
use super::{created, key, labels, meta, port_name, protocol};
use crate::model::{
    AddressRequest, FamilyPolicy, Ingress, IpMode, Service, ServicePort, ServiceType, TrafficPolicy, Upkeep,
};
use crate::pool;
use crate::yaml::{At, Errors};

/// Networks of a Service's list.
const ACCESS_MAX: usize = 16_384;
/// Bad entries of its lists that are told one by one.
const NOTES_MAX: usize = 16;
/// Seconds of `sessionAffinity: ClientIP` when none are given (3 hours), and at most.
const AFFINITY_DEFAULT_S: u32 = 10_800;
const AFFINITY_MAX_S: u32 = 86_400;

/// Reads one.
pub(super) fn service(at: &At<'_>, errors: &Errors) -> Option<Service> {
    let mut service = Service {
        key: key(at, errors)?,
        created: created(at),
        labels: labels(at),
        asks: request(at, ["fairlead.dev/ips", "fairlead.dev/pool", "fairlead.dev/sharing-key"]),
        asks_metallb: request(
            at,
            ["metallb.io/loadBalancerIPs", "metallb.io/address-pool", "metallb.io/allow-shared-ip"],
        ),
        proxy_name: meta(at, "labels", "service.kubernetes.io/service-proxy-name"),
        mode: meta(at, "annotations", "fairlead.dev/mode"),
        target: meta(at, "annotations", "fairlead.dev/target"),
        udp_idle: meta(at, "annotations", "fairlead.dev/udp-idle-timeout"),
        weights: meta(at, "annotations", "fairlead.dev/weights"),
        health_check: meta(at, "annotations", "fairlead.dev/health-check"),
        slow_start: meta(at, "annotations", "fairlead.dev/slow-start"),
        new_flows: meta(at, "annotations", "fairlead.dev/new-flows-per-second"),
        ..Service::default()
    };
    service.allow = access(at, "fairlead.dev/allow", &mut service.notes);
    service.deny = access(at, "fairlead.dev/deny", &mut service.notes).unwrap_or_default();
    match at.field("spec") {
        Some(spec) => service_spec(&mut service, &spec, errors),
        None => errors.add(at, "`spec` is missing", "a Service has one"),
    }
    service.upkeep = upkeep(at);
    let status = at.field("status");
    let balancer = status.as_ref().and_then(|status| status.field("loadBalancer"));
    service.ingress = balancer.map(|at| at.list("ingress", errors, ingress)).unwrap_or_default();
    Some(service)
}

/// Networks and addresses, separated by commas or blanks. What cannot be read is told and left out, so that a list that says
/// who is allowed lets nobody in by mistake.
fn access(at: &At<'_>, annotation: &str, notes: &mut Vec<String>) -> Option<Vec<IpNet>> {
    let text = meta(at, "annotations", annotation)?;
    let entries = text.split([',', ' ', '\n', '\t']).filter(|entry| !entry.is_empty());
    let mut networks = Vec::new();
    for entry in entries {
        if networks.len() == ACCESS_MAX {
            notes.push(format!("annotation {annotation}: over {ACCESS_MAX} networks; the rest is left out"));
            break;
        }
        let network = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => networks.push(network.trunc()),
            Err(_) if notes.len() < NOTES_MAX => notes.push(format!(
                "annotation {annotation}: `{entry}` is not valid; a network such as 192.0.2.0/24 or an address is expected"
            )),
            Err(_) => {}
        }
    }
    Some(networks)
}

/// What whoever writes to the API server must know; objects come with it from there.
fn upkeep(at: &At<'_>) -> Upkeep {
    let is =
        |at: &At<'_>, key: &str, want: &str| at.field(key).is_some_and(|field| field.scalar() == Some(want));
    let unheard = Errors::default();
    let metadata = at.field("metadata");
    let field =
        |key: &str| metadata.as_ref().and_then(|metadata| metadata.field(key)?.scalar().map(str::to_owned));
    let finalizers = metadata.as_ref().and_then(|metadata| metadata.field("finalizers"));
    let status = at.field("status");
    let conditions = status.as_ref().and_then(|status| status.field("conditions"));
    let mut conditions = conditions.iter().flat_map(|list| list.items(&unheard));
    let holds = |list: &At<'_>| list.items(&unheard).any(|one| one.scalar() == Some(Upkeep::FINALIZER));
    Upkeep {
        uid: field("uid").unwrap_or_default(),
        deleting: field("deletionTimestamp").is_some(),
        finalizer: finalizers.as_ref().is_some_and(holds),
        ports_error: conditions
            .any(|one| is(&one, "type", "LoadBalancerPortsError") && is(&one, "status", "True")),
    }
}

/// The annotations for addresses, pool and sharing key.
fn request(at: &At<'_>, keys: [&str; 3]) -> AddressRequest {
    let [ips, pool, sharing_key] = keys.map(|key| meta(at, "annotations", key));
    AddressRequest { ips, pool, sharing_key }
}

fn service_spec(service: &mut Service, spec: &At<'_>, errors: &Errors) {
    let types = [
        ("ClusterIP", ServiceType::ClusterIp),
        ("NodePort", ServiceType::NodePort),
        ("LoadBalancer", ServiceType::LoadBalancer),
        ("ExternalName", ServiceType::ExternalName),
    ];
    service.kind = spec.field("type").and_then(|at| at.choice(&types, errors)).unwrap_or_default();
    cluster_ips(service, spec, errors);
    let families = [("IPv4", Family::V4), ("IPv6", Family::V6)];
    if let Some(field) = spec.field("ipFamilies") {
        service.families = field.items(errors).filter_map(|at| at.choice(&families, errors)).collect();
    }
    if service.families.is_empty() {
        let own = service.cluster_ips.iter().map(|address| Family::of(*address));
        service.families = own.collect();
    }
    if service.families.is_empty() {
        service.families = vec![Family::V4];
    }
    let policies = [
        ("SingleStack", FamilyPolicy::SingleStack),
        ("PreferDualStack", FamilyPolicy::PreferDualStack),
        ("RequireDualStack", FamilyPolicy::RequireDualStack),
    ];
    service.family_policy =
        spec.field("ipFamilyPolicy").and_then(|at| at.choice(&policies, errors)).unwrap_or_default();
    service.selector = spec.field("selector").map(|at| pool::read::labels(&at)).unwrap_or_default();
    service.ports = spec.list("ports", errors, service_port);
    ports_differ(&service.ports, spec, errors);
    let policies = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
    let policy = |key: &str| spec.field(key).and_then(|at| at.choice(&policies, errors)).unwrap_or_default();
    service.internal_policy = policy("internalTrafficPolicy");
    service.external_policy = policy("externalTrafficPolicy");
    let health_check = spec.field("healthCheckNodePort").and_then(|at| at.number(0..=u16::MAX, errors));
    service.health_check_node_port = health_check.filter(|port| *port != 0);
    service.affinity_timeout_s = affinity(spec, errors);
    service.requested_ip =
        spec.field("loadBalancerIP").filter(|at| at.scalar() != Some("")).and_then(|at| address(&at, errors));
    service.load_balancer_class =
        spec.field("loadBalancerClass").and_then(|at| Some(at.text(errors)?.to_owned()));
    service.source_ranges = spec.list("loadBalancerSourceRanges", errors, network);
    external_ips(service, spec, errors);
}

/// `clusterIPs` goes before `clusterIP`, which equals its first.
fn cluster_ips(service: &mut Service, spec: &At<'_>, errors: &Errors) {
    let one = spec.field("clusterIP");
    let several = spec.field("clusterIPs");
    let first = one.and_then(|at| at.scalar().map(str::to_owned));
    if first.as_deref() == Some("None") {
        service.headless = true;
        return;
    }
    if let Some(field) = several {
        for item in field.items(errors) {
            if item.scalar() == Some("None") {
                service.headless = true;
                return;
            }
            service.cluster_ips.extend(address(&item, errors));
        }
    }
    if service.cluster_ips.is_empty()
        && let Some(field) = one.filter(|at| at.scalar() != Some(""))
    {
        service.cluster_ips.extend(address(&field, errors));
    }
}

/// kube-proxy passes over externalIPs that do not parse; so do we, and say so.
fn external_ips(service: &mut Service, spec: &At<'_>, errors: &Errors) {
    let Some(field) = spec.field("externalIPs") else { return };
    for item in field.items(errors) {
        let text = item.scalar().unwrap_or_default();
        match ip(text) {
            Some(address) => service.external_ips.push(address),
            None => service.notes.push(format!("externalIP `{text}` is no address; it is passed over")),
        }
    }
}

fn service_port(at: &At<'_>, errors: &Errors) -> Option<ServicePort> {
    let Some(field) = at.field("port") else {
        errors.add(at, "`port` is missing", "a number from 1 to 65535 is expected");
        return None;
    };
    let port = field.number(1..=u16::MAX, errors);
    let node_port = at.field("nodePort").and_then(|field| field.number(0..=u16::MAX, errors));
    let (name, protocol) = (port_name(at, errors), protocol(at, errors));
    Some(ServicePort {
        name,
        protocol: protocol?,
        port: port?,
        node_port: node_port.filter(|port| *port != 0),
    })
}

/// What the API server's validation keeps apart.
fn ports_differ(ports: &[ServicePort], spec: &At<'_>, errors: &Errors) {
    let Some(at) = spec.field("ports") else { return };
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for port in ports {
        if ports.len() > 1 && port.name.is_empty() {
            errors.add(
                &at,
                format!("port {} has no name", port.port),
                "names for all of several ports are expected",
            );
        }
        if !port.name.is_empty() && !names.insert(&port.name) {
            errors.add(&at, format!("two ports are named `{}`", port.name), "unique names are expected");
        }
        if !numbers.insert((port.port, port.protocol)) {
            let what = format!("port {}/{} stands twice", port.port, port.protocol);
            errors.add(&at, what, "every port and protocol once is expected");
        }
    }
}

fn affinity(spec: &At<'_>, errors: &Errors) -> Option<u32> {
    let field = spec.field("sessionAffinity")?;
    if !field.choice(&[("None", false), ("ClientIP", true)], errors)? {
        return None;
    }
    let config = spec.field("sessionAffinityConfig");
    let client = config.as_ref().and_then(|config| config.field("clientIP"));
    let timeout = client.as_ref().and_then(|client| client.field("timeoutSeconds"));
    Some(timeout.and_then(|at| at.number(1..=AFFINITY_MAX_S, errors)).unwrap_or(AFFINITY_DEFAULT_S))
}

/// An entry with a host name only gives nothing to program (E3).
fn ingress(at: &At<'_>, errors: &Errors) -> Option<Ingress> {
    let address = address(&at.field("ip")?, errors)?;
    let mode = at.field("ipMode").and_then(|field| field.scalar().map(str::to_owned));
    // Unknown modes are "not VIP", as they are to kube-proxy (J18).
    let mode = if matches!(mode.as_deref(), None | Some("VIP")) { IpMode::Vip } else { IpMode::Other };
    Some(Ingress { address, mode })
}
