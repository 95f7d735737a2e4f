//! Objects to values of the model, with the defaults that the API server would fill in: all of a file's documents
//! (`read`), or one that an API server gave (`read_one`).
//! Source: k8s.io/api core/v1, discovery/v1, networking/v1 and their defaulting; unknown fields are not looked at.

mod pool;
mod service;
mod slice;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use packet::Protocol;
use serde::{Deserialize, Serialize};

use crate::model::{AddressPool, EndpointSlice, Namespace, Node, ObjectKey, Service, ServiceCidr};
use crate::pool::{self as pools, Labels};
use crate::yaml::{self, At, Errors, Problem};
use pool::{address_pool, namespace};
use service::service;
use slice::slice;
use value::{address, network};

/// Nesting of lists in lists.
const LISTS_MAX: usize = 4;

/// Kind and name: what an object is known by.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Id {
    AddressPool(String),
    EndpointSlice(ObjectKey),
    Namespace(String),
    Node(String),
    Service(ObjectKey),
    ServiceCidr(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddressPool(name) => write!(f, "AddressPool {name}"),
            Self::EndpointSlice(key) => write!(f, "EndpointSlice {key}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Service(key) => write!(f, "Service {key}"),
            Self::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
        }
    }
}

/// An object of a kind that we follow.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Object {
    AddressPool(Arc<AddressPool>),
    EndpointSlice(Arc<EndpointSlice>),
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Service(Arc<Service>),
    ServiceCidr(Arc<ServiceCidr>),
}

impl Object {
    /// What it is known by.
    pub(crate) fn id(&self) -> Id {
        match self {
            Self::AddressPool(it) => Id::AddressPool(it.pool.name.clone()),
            Self::EndpointSlice(it) => Id::EndpointSlice(it.key.clone()),
            Self::Namespace(it) => Id::Namespace(it.name.clone()),
            Self::Node(it) => Id::Node(it.name.clone()),
            Self::Service(it) => Id::Service(it.key.clone()),
            Self::ServiceCidr(it) => Id::ServiceCidr(it.name.clone()),
        }
    }
}

/// One object that an API server gave.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Reading {
    /// What it is known by.
    pub(crate) id: Id,
    /// What it says; none: nothing to us, or nothing that makes sense (then there are problems).
    pub(crate) object: Option<Object>,
    /// What was passed over. A server has validated its objects, so these are values newer than this program: unlike in a
    /// file they cost the field, not the object.
    pub(crate) problems: Vec<Problem>,
}

/// Problems of one object that are told one by one.
const PROBLEMS_MAX: usize = 8;

/// Reads one object of a kind that is followed; none when it has no name.
pub(crate) fn read_one(version: &str, kind: &str, node: &yaml::Node<'_>) -> Option<Reading> {
    let at = At::root(node);
    let id = id(kind, &at)?;
    let errors = Errors::default();
    let mut object = match read_object(version, kind, &at, &errors) {
        Read::Object(object) => Some(object),
        Read::Foreign | Read::Skipped => None,
    };
    let mut problems = errors.into_problems();
    let left = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    if left > 0 {
        problems.push(Problem { line: 1, path: String::new(), message: format!("and {left} more") });
    }
    let told = problems.iter().map(ToString::to_string);
    match &mut object {
        Some(Object::Service(service)) => Arc::make_mut(service).notes.extend(told),
        // Half a pool would give addresses that nobody meant.
        Some(Object::AddressPool(pool)) => Arc::make_mut(pool).faults.extend(told),
        _ => {}
    }
    Some(Reading { id, object, problems })
}

fn id(kind: &str, at: &At<'_>) -> Option<Id> {
    // Whoever reads the whole object notes what is wrong with its name.
    let unheard = Errors::default();
    match kind {
        "AddressPool" => name(at, &unheard).map(Id::AddressPool),
        "EndpointSlice" => key(at, &unheard).map(Id::EndpointSlice),
        "Namespace" => name(at, &unheard).map(Id::Namespace),
        "Node" => name(at, &unheard).map(Id::Node),
        "Service" => key(at, &unheard).map(Id::Service),
        "ServiceCIDR" => name(at, &unheard).map(Id::ServiceCidr),
        _ => None,
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Objects with the line each starts on.
    pub(crate) objects: BTreeMap<Id, (usize, Object)>,
    /// How many objects of kinds that we do not follow.
    pub(crate) ignored: BTreeMap<String, usize>,
    /// Every fault; with one, the file is broken.
    pub(crate) problems: Vec<Problem>,
}

/// Reads a file's text.
pub(crate) fn read(text: &str) -> Content {
    let mut content = Content::default();
    let yaml::Parsed { documents, faults } = yaml::parse(text);
    documents.iter().for_each(|document| content.add(&At::root(document), None, 0));
    content.problems.extend(faults.into_iter().map(Problem::from));
    content.problems.sort_by_key(|problem| problem.line);
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
            Read::Object(object) => self.insert(at, object, &errors),
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

    fn insert(&mut self, at: &At<'_>, object: Object, errors: &Errors) {
        let id = object.id();
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
        "AddressPool" | "Namespace" | "Node" | "ServiceCIDR" => name,
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
    Object(Object),
}

fn read_object(version: &str, kind: &str, at: &At<'_>, errors: &Errors) -> Read {
    let read = match (version, kind) {
        ("v1", "Service") => service(at, errors).map(|it| Object::Service(it.into())),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            slice(at, errors).map(|it| Object::EndpointSlice(it.into()))
        }
        ("v1", "Node") => node(at, errors).map(|it| Object::Node(it.into())),
        ("networking.k8s.io/v1" | "networking.k8s.io/v1beta1", "ServiceCIDR") => {
            service_cidr(at, errors).map(|it| Object::ServiceCidr(it.into()))
        }
        ("v1", "Namespace") => namespace(at, errors).map(|it| Object::Namespace(it.into())),
        ("fairlead.dev/v1alpha1", "AddressPool") => {
            address_pool(at, errors).map(|it| Object::AddressPool(it.into()))
        }
        _ => return Read::Foreign,
    };
    read.map_or(Read::Skipped, Read::Object)
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

fn protocol(at: &At<'_>, errors: &Errors) -> Option<Protocol> {
    let words = Protocol::ALL.map(|protocol| (protocol.name(), protocol));
    at.field("protocol").map_or(Some(Protocol::Tcp), |field| field.choice(&words, errors))
}

fn port_name(at: &At<'_>, errors: &Errors) -> String {
    at.field("name").and_then(|field| field.text(errors)).unwrap_or_default().to_owned()
}

fn node(at: &At<'_>, errors: &Errors) -> Option<Node> {
    let mut node = Node { name: name(at, errors)?, ..Node::default() };
    node.zone =
        meta(at, "labels", "topology.kubernetes.io/zone").filter(|zone| !zone.is_empty()).map(Arc::from);
    node.excluded = meta(at, "labels", "node.kubernetes.io/exclude-from-external-load-balancers").is_some();
    if let Some(spec) = at.field("spec") {
        node.excluded |= is_being_deleted(&spec, errors);
        node.pod_cidrs = spec.list("podCIDRs", errors, network);
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

/// Labels as `metadata` has them.
fn labels(at: &At<'_>) -> Labels {
    let metadata = at.field("metadata");
    let labels = metadata.as_ref().and_then(|metadata| metadata.field("labels"));
    labels.map(|labels| pools::read::labels(&labels)).unwrap_or_default()
}

/// `metadata.creationTimestamp`; empty when there is none.
fn created(at: &At<'_>) -> String {
    let metadata = at.field("metadata");
    metadata.and_then(|at| Some(at.field("creationTimestamp")?.scalar()?.to_owned())).unwrap_or_default()
}

/// Whether the cluster autoscaler is about to take the Node away.
fn is_being_deleted(spec: &At<'_>, errors: &Errors) -> bool {
    let taints = spec.field("taints");
    let mut taints = taints.iter().flat_map(|taints| taints.items(errors));
    taints.any(|taint| {
        taint.field("key").is_some_and(|key| key.scalar() == Some("ToBeDeletedByClusterAutoscaler"))
    })
}

fn service_cidr(at: &At<'_>, errors: &Errors) -> Option<ServiceCidr> {
    let name = name(at, errors)?;
    let spec = at.field("spec");
    Some(ServiceCidr {
        name,
        cidrs: spec.map(|spec| spec.list("cidrs", errors, network)).unwrap_or_default(),
    })
}
