//! One file's documents to objects of the model, with the defaults that the API server would fill in.
//! Source: k8s.io/api core/v1, discovery/v1, networking/v1 and their defaulting; unknown fields are not looked at.

mod service;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use packet::{Family, Protocol};

use crate::model::{Endpoint, EndpointSlice, Node, ObjectKey, Service, ServiceCidr, SlicePort};
use crate::yaml::{self, At, Errors, Problem};
use service::service;

/// Nesting of lists in lists.
const LISTS_MAX: usize = 4;

/// Kind and name: what an object is known by.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Id {
    EndpointSlice(ObjectKey),
    Node(String),
    Service(ObjectKey),
    ServiceCidr(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EndpointSlice(key) => write!(f, "EndpointSlice {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Service(key) => write!(f, "Service {key}"),
            Self::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
        }
    }
}

/// An object of a kind that we follow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Object {
    EndpointSlice(Arc<EndpointSlice>),
    Node(Arc<Node>),
    Service(Arc<Service>),
    ServiceCidr(Arc<ServiceCidr>),
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Objects with the line each starts on.
    pub(super) objects: BTreeMap<Id, (usize, Object)>,
    /// How many objects of kinds that we do not follow.
    pub(super) ignored: BTreeMap<String, usize>,
    /// Every fault; with one, the file is broken.
    pub(super) problems: Vec<Problem>,
}

/// Reads a file's text.
pub(super) fn read(text: &str) -> Content {
    let mut content = Content::default();
    match yaml::parse(text) {
        Ok(documents) => documents.iter().for_each(|document| content.add(&At::root(document), None, 0)),
        Err(error) => {
            content.problems.push(Problem { line: error.line, path: String::new(), message: error.message });
        }
    }
    content
}

impl Content {
    /// Adds an object, or the items of a list; `kind` is what items of a typed list are without saying so.
    fn add(&mut self, at: &At<'_>, kind: Option<(&str, &str)>, depth: usize) {
        let errors = Errors::default();
        let text = |key| at.field(key).and_then(|field| field.scalar().map(str::to_owned));
        let version = text("apiVersion").or_else(|| kind.map(|(version, _)| version.to_owned()));
        let name = text("kind").or_else(|| kind.map(|(_, kind)| kind.to_owned()));
        let (Some(version), Some(name)) = (version, name) else {
            if at.expect_map(&errors) {
                errors.add(at, "no `apiVersion` and `kind`", "a Kubernetes object is expected");
            }
            return self.problems.extend(errors.into_problems());
        };
        let list = name.strip_suffix("List").filter(|_| at.field("items").is_some() || name == "List");
        if let Some(item) = list {
            return self.add_list(at, &version, item, depth);
        }
        match read_object(&version, &name, at, &errors) {
            Read::Foreign => *self.ignored.entry(name.clone()).or_default() += 1,
            Read::Skipped => {}
            Read::Object(id, object) => self.insert(at, id, object, &errors),
        }
        self.problems.extend(errors.into_problems().into_iter().map(|problem| named(problem, &name, at)));
    }

    fn add_list(&mut self, at: &At<'_>, version: &str, item: &str, depth: usize) {
        let errors = Errors::default();
        if depth == LISTS_MAX {
            errors.add(at, "lists of lists of lists", "a list of objects is expected");
        } else if let Some(items) = at.field("items") {
            let kind = (!item.is_empty()).then_some((version, item));
            items.items(&errors).for_each(|object| self.add(&object, kind, depth + 1));
        }
        self.problems.extend(errors.into_problems());
    }

    fn insert(&mut self, at: &At<'_>, id: Id, object: Object, errors: &Errors) {
        if let Some((line, _)) = self.objects.get(&id) {
            return errors.add(
                at,
                format!("stands on line {line} of this file too"),
                "every object once is expected",
            );
        }
        self.objects.insert(id, (at.line(), object));
    }
}

/// Puts kind and name before the path, for people with many objects in a file.
fn named(problem: Problem, kind: &str, at: &At<'_>) -> Problem {
    let metadata = at.field("metadata");
    let text = |key: &str| {
        metadata
            .as_ref()
            .and_then(|metadata| metadata.field(key).and_then(|field| field.scalar().map(str::to_owned)))
    };
    let name = text("name").unwrap_or_else(|| "(no name)".to_owned());
    let name = match kind {
        "Node" | "ServiceCIDR" => name,
        _ => format!("{}/{name}", text("namespace").unwrap_or_else(|| "default".to_owned())),
    };
    let whole = at.path();
    let path = problem.path.strip_prefix(&whole).unwrap_or(&problem.path).trim_start_matches('.');
    let separator = if path.is_empty() { "" } else { ": " };
    Problem { path: format!("{kind} {name}{separator}{path}"), ..problem }
}

enum Read {
    /// Not a kind that we follow.
    Foreign,
    /// Followed, but meant for nobody here, or faulty.
    Skipped,
    Object(Id, Object),
}

fn read_object(version: &str, kind: &str, at: &At<'_>, errors: &Errors) -> Read {
    let read = match (version, kind) {
        ("v1", "Service") => {
            service(at, errors).map(|it| (Id::Service(it.key.clone()), Object::Service(it.into())))
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            slice(at, errors).map(|it| (Id::EndpointSlice(it.key.clone()), Object::EndpointSlice(it.into())))
        }
        ("v1", "Node") => node(at, errors).map(|it| (Id::Node(it.name.clone()), Object::Node(it.into()))),
        ("networking.k8s.io/v1" | "networking.k8s.io/v1beta1", "ServiceCIDR") => service_cidr(at, errors)
            .map(|it| (Id::ServiceCidr(it.name.clone()), Object::ServiceCidr(it.into()))),
        _ => return Read::Foreign,
    };
    read.map_or(Read::Skipped, |(id, object)| Read::Object(id, object))
}

fn name(at: &At<'_>, errors: &Errors) -> Option<String> {
    let metadata = at.field("metadata");
    let field = metadata.as_ref().and_then(|metadata| metadata.field("name"));
    match field {
        Some(field) => field.text(errors).map(str::to_owned),
        None => {
            errors.add(at, "`metadata.name` is missing", "a name is expected");
            None
        }
    }
}

fn key(at: &At<'_>, errors: &Errors) -> Option<ObjectKey> {
    let metadata = at.field("metadata");
    let namespace = metadata.as_ref().and_then(|metadata| metadata.field("namespace")).and_then(|at| {
        let text = at.text(errors)?;
        (!text.is_empty()).then(|| text.to_owned())
    });
    Some(ObjectKey::new(namespace.unwrap_or_else(|| "default".to_owned()), name(at, errors)?))
}

/// A label or annotation; values of any scalar kind are taken as text.
fn meta(at: &At<'_>, map: &str, key: &str) -> Option<String> {
    let metadata = at.field("metadata")?;
    let map = metadata.field(map)?;
    map.field(key)?.scalar().map(str::to_owned)
}

/// An address as Go's net.ParseIP gave it to the objects of old: leading zeros are decimal, mapped IPv4 is IPv4.
fn ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// A network, as liberal as [`ip`]; host bits are cleared.
fn net(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    Some(IpNet::new(ip(address)?, length.parse().ok()?).ok()?.trunc())
}

fn parsed<T>(at: &At<'_>, parse: fn(&str) -> Option<T>, expected: &str, errors: &Errors) -> Option<T> {
    let text = at.text(errors)?;
    let value = parse(text);
    if value.is_none() {
        errors.add(at, format!("`{text}` is not valid"), format!("{expected} is expected"));
    }
    value
}

fn address(at: &At<'_>, errors: &Errors) -> Option<IpAddr> {
    parsed(at, ip, "an IP address", errors)
}

fn network(at: &At<'_>, errors: &Errors) -> Option<IpNet> {
    parsed(at, net, "a CIDR such as 10.0.0.0/8", errors)
}

/// Items of a list under a key; an absent or null list is empty (S12).
fn list<T>(at: &At<'_>, key: &str, errors: &Errors, read: fn(&At<'_>, &Errors) -> Option<T>) -> Vec<T> {
    let Some(field) = at.field(key) else { return Vec::new() };
    field.items(errors).filter_map(|item| read(&item, errors)).collect()
}

fn protocol(at: &At<'_>, errors: &Errors) -> Option<Protocol> {
    let words = Protocol::ALL.map(|protocol| (protocol.name(), protocol));
    at.field("protocol").map_or(Some(Protocol::Tcp), |field| field.choice(&words, errors))
}

fn port_name(at: &At<'_>, errors: &Errors) -> String {
    at.field("name").and_then(|field| field.text(errors)).unwrap_or_default().to_owned()
}

fn slice(at: &At<'_>, errors: &Errors) -> Option<EndpointSlice> {
    let key = key(at, errors)?;
    if meta(at, "labels", "service.kubernetes.io/headless").is_some() {
        return None;
    }
    let owner = meta(at, "labels", "kubernetes.io/service-name").filter(|name| !name.is_empty())?;
    let Some(kind) = at.field("addressType") else {
        errors.add(at, "`addressType` is missing", "one of IPv4, IPv6, FQDN is expected");
        return None;
    };
    let kinds = [("IPv4", Some(Family::V4)), ("IPv6", Some(Family::V6)), ("FQDN", None)];
    let family = kind.choice(&kinds, errors)??;
    let endpoints = list(at, "endpoints", errors, endpoint);
    Some(EndpointSlice {
        service: ObjectKey::new(key.namespace.clone(), owner),
        key,
        family,
        ports: list(at, "ports", errors, slice_port),
        endpoints,
    })
}

/// A port without a number serves nobody (C5).
fn slice_port(at: &At<'_>, errors: &Errors) -> Option<SlicePort> {
    let port = at.field("port")?.number(0..=u16::MAX, errors).filter(|port| *port != 0)?;
    Some(SlicePort { name: port_name(at, errors), protocol: protocol(at, errors)?, port })
}

fn endpoint(at: &At<'_>, errors: &Errors) -> Option<Endpoint> {
    let addresses = at.field("addresses")?;
    let first = addresses.items(errors).next()?;
    let address = address(&first, errors)?;
    let conditions = at.field("conditions");
    let condition = |key: &str, default: bool| {
        let field = conditions.as_ref().and_then(|conditions| conditions.field(key));
        field.and_then(|field| field.boolean(errors)).unwrap_or(default)
    };
    let hints = at.field("hints");
    let names = |key: &str| -> Vec<Arc<str>> {
        let read = |at: &At<'_>, errors: &Errors| at.field("name")?.text(errors).map(Arc::from);
        hints.as_ref().map(|hints| list(hints, key, errors, read)).unwrap_or_default()
    };
    Some(Endpoint {
        address,
        ready: condition("ready", true),
        serving: condition("serving", true),
        terminating: condition("terminating", false),
        node: at.field("nodeName").and_then(|field| field.text(errors).map(Arc::from)),
        hint_nodes: names("forNodes"),
        hint_zones: names("forZones"),
    })
}

fn node(at: &At<'_>, errors: &Errors) -> Option<Node> {
    let mut node = Node { name: name(at, errors)?, ..Node::default() };
    node.zone =
        meta(at, "labels", "topology.kubernetes.io/zone").filter(|zone| !zone.is_empty()).map(Arc::from);
    if let Some(spec) = at.field("spec") {
        node.pod_cidrs = list(&spec, "podCIDRs", errors, network);
        if node.pod_cidrs.is_empty() {
            node.pod_cidrs.extend(spec.field("podCIDR").and_then(|field| network(&field, errors)));
        }
    }
    let status = at.field("status");
    let addresses = status.as_ref().and_then(|status| status.field("addresses"));
    for item in addresses.iter().flat_map(|addresses| addresses.items(errors)) {
        let kind = item.field("type").and_then(|field| field.scalar().map(str::to_owned));
        let Some(field) = item.field("address") else { continue };
        match kind.as_deref() {
            Some("InternalIP") => node.internal_ips.extend(address(&field, errors)),
            Some("ExternalIP") => node.external_ips.extend(address(&field, errors)),
            _ => {}
        }
    }
    Some(node)
}

fn service_cidr(at: &At<'_>, errors: &Errors) -> Option<ServiceCidr> {
    let name = name(at, errors)?;
    let spec = at.field("spec");
    Some(ServiceCidr {
        name,
        cidrs: spec.map(|spec| list(&spec, "cidrs", errors, network)).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ServicePort, ServiceType, TrafficPolicy};

    fn one_service(text: &str) -> Service {
        let content = read(text);
        assert_eq!(content.problems, [], "{text}");
        match content.objects.into_values().next().expect("one object").1 {
            Object::Service(service) => (*service).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn faults(text: &str) -> Vec<String> {
        read(text).problems.iter().map(|problem| format!("{}: {problem}", problem.line)).collect()
    }

    const HEAD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";

    #[test]
    fn a_service_gets_the_servers_defaults() {
        let service =
            one_service(&format!("{HEAD}spec:\n  clusterIP: 10.96.0.10\n  ports: [{{port: 80}}]\n"));
        assert_eq!(service.key, ObjectKey::new("default", "web"));
        assert_eq!(service.kind, ServiceType::ClusterIp);
        assert_eq!(service.families, [Family::V4]);
        assert_eq!(service.cluster_ips, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None };
        assert_eq!(service.ports, [port]);
        assert_eq!(service.affinity_timeout_s, None);
        assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    }

    #[test]
    fn affinity_lasts_three_hours_unless_told() {
        for (config, want) in
            [("", 10_800), ("  sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}\n", 5)]
        {
            let text = format!(
                "{HEAD}spec:\n  sessionAffinity: ClientIP\n{config}  ports: [{{port: 80, targetPort: http}}]\n"
            );
            assert_eq!(one_service(&text).affinity_timeout_s, Some(want));
        }
    }

    #[test]
    fn addresses_of_old_objects_are_read_liberally() {
        for (text, want) in [
            ("172.30.0.041", Some("172.30.0.41")),
            (" 10.0.0.1 ", Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("10.0.0", None),
            ("10.0.0.256", None),
            ("10.0.0.1.2", None),
            ("2001:db8::1", Some("2001:db8::1")),
        ] {
            assert_eq!(ip(text), want.map(|want| want.parse().unwrap()), "{text}");
        }
        assert_eq!(net(" 010.1.2.3/8 "), Some("10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn slices_take_null_lists_and_absent_conditions() {
        let text = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}, {name: none}]
endpoints:
- addresses: [10.1.0.1, 10.1.0.2]
  conditions: {ready: null, serving: false}
  nodeName: n1
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: null
ports: null
";
        let content = read(text);
        assert_eq!(content.problems, []);
        let id = Id::EndpointSlice(ObjectKey::new("default", "web-1"));
        let Some((1, Object::EndpointSlice(slice))) = content.objects.get(&id) else { panic!("{content:?}") };
        assert_eq!(slice.ports, [SlicePort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }]);
        let endpoint = &slice.endpoints[0];
        assert_eq!(endpoint.address.to_string(), "10.1.0.1");
        assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), (true, false, false));
        assert_eq!(content.objects.len(), 2);
    }

    #[test]
    fn slices_without_owner_headless_or_by_name_are_left_out() {
        for (labels, kind) in [
            ("{}", "IPv4"),
            ("{kubernetes.io/service-name: web, service.kubernetes.io/headless: \"\"}", "IPv4"),
            ("{kubernetes.io/service-name: web}", "FQDN"),
        ] {
            let text = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: x, labels: {labels}}}\naddressType: {kind}\nendpoints: []\n"
            );
            let content = read(&text);
            assert!(
                content.objects.is_empty() && content.problems.is_empty(),
                "{labels} {kind}: {content:?}"
            );
        }
    }

    #[test]
    fn lists_of_any_kind_are_opened_and_foreign_kinds_counted() {
        let text = "\
{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [
 {\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n1\"}},
 {\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\", \"metadata\": {\"name\": \"d\"}},
 {\"apiVersion\": \"serving.knative.dev/v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"k\"}},
 {\"apiVersion\": \"v1\", \"kind\": \"ServiceList\", \"items\": [
  {\"metadata\": {\"name\": \"web\"}, \"spec\": {\"ports\": [{\"port\": 80, \"targetPort\": 8080}]}}]}]}";
        let content = read(text);
        assert_eq!(content.problems, []);
        assert_eq!(content.objects.len(), 2);
        assert_eq!(content.ignored, BTreeMap::from([("Deployment".into(), 1), ("Service".into(), 1)]));
    }

    #[test]
    fn faults_name_line_object_path_and_expectation() {
        let text = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  type: Loadbalancer
  clusterIP: 10.96.0.300
  ports:
  - port: 0
    protocol: ICMP
  - name: b
---
kind: Service
---
apiVersion: v1
kind: Node
metadata: {name: n}
spec: {podCIDRs: [10.1.0.0/33]}
";
        assert_eq!(
            faults(text),
            [
                "7: Service shop/web: spec.type: `Loadbalancer` is not known; one of ClusterIP, NodePort, LoadBalancer, ExternalName is expected",
                "8: Service shop/web: spec.clusterIP: `10.96.0.300` is not valid; an IP address is expected",
                "10: Service shop/web: spec.ports[0].port: `0` is not valid; a number from 1 to 65535 is expected",
                "11: Service shop/web: spec.ports[0].protocol: `ICMP` is not known; one of TCP, UDP, SCTP is expected",
                "12: Service shop/web: spec.ports[1]: `port` is missing; a number from 1 to 65535 is expected",
                "14: no `apiVersion` and `kind`; a Kubernetes object is expected",
                "19: Node n: spec.podCIDRs[0]: `10.1.0.0/33` is not valid; a CIDR such as 10.0.0.0/8 is expected",
            ]
        );
    }

    #[test]
    fn an_object_twice_in_a_file_is_a_fault() {
        let text = format!("{HEAD}spec: {{}}\n---\n{HEAD}spec: {{}}\n");
        assert_eq!(
            faults(&text),
            ["6: Service default/web: stands on line 1 of this file too; every object once is expected"]
        );
    }

    proptest::proptest! {
        /// Damaged files are read or refused, and a refusal names a line of the file.
        #[test]
        fn damage_is_refused_or_harmless(cuts in proptest::collection::vec((0usize..600, 0usize..12), 1..4)) {
            let mut text = format!(
                "{HEAD}spec:\n  clusterIPs: [10.96.0.10, \"fd96::1\"]\n  ports: [{{name: a, port: 80, nodePort: 30080}}]\n  sessionAffinity: ClientIP\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s\n  labels: {{kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{{name: a, port: 1}}]\nendpoints:\n- addresses: [10.1.0.1]\n  conditions: {{ready: true}}\n  hints: {{forZones: [{{name: z}}]}}\n"
            );
            for (at, len) in cuts {
                let at = at.min(text.len());
                let end = (at + len).min(text.len());
                text.replace_range(at..end, "");
            }
            let lines = text.lines().count() + 1;
            for problem in read(&text).problems {
                proptest::prop_assert!((1..=lines).contains(&problem.line), "{problem:?} of {lines} lines");
            }
        }
    }
}
