//! An EndpointSlice with the API server's defaults. Source: k8s.io/api discovery/v1.

use std::sync::Arc;

use packet::Family;

use super::value::address;
use super::{key, meta, port_name, protocol};
use crate::model::{Endpoint, EndpointSlice, ObjectKey, SlicePort};
use crate::yaml::{At, Errors};

/// Reads one; none when it is meant for nobody here.
pub(super) fn slice(at: &At<'_>, errors: &Errors) -> Option<EndpointSlice> {
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
    let endpoints = at.list("endpoints", errors, endpoint);
    Some(EndpointSlice {
        service: ObjectKey::new(key.namespace.clone(), owner),
        key,
        family,
        ports: at.list("ports", errors, slice_port),
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
        hints.as_ref().map(|hints| hints.list(key, errors, read)).unwrap_or_default()
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
