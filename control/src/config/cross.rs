//! What only several keys together can get wrong: duplicates, overlaps, routes that lead nowhere.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{GatewayConfig, Source};
use crate::yaml::{At, Errors};

/// Lowest nodePort of the API server's default range; SNAT may cross it, because nodePorts in use are left out.
const PRIVILEGED_PORTS_END: u16 = 1023;

/// Notes every fault between keys. Called only when each key alone is good, so that lists and document match by index.
pub(super) fn check(at: &At<'_>, config: &GatewayConfig, errors: &Errors) {
    ports(at, config, errors);
    pools(at, config, errors);
    routes(at, config, errors);
    neighbors(at, config, errors);
    snat(at, config, errors);
    proxy_name(at, config, errors);
}

/// Who writes manifests for the appliance leaves out what is not for it; only an API server is asked with a selector.
fn proxy_name(at: &At<'_>, config: &GatewayConfig, errors: &Errors) {
    let kubernetes = &config.kubernetes;
    if let (Some(_), Source::Manifests(_), Some(section)) =
        (&kubernetes.service_proxy_name, &kubernetes.source, at.field("kubernetes"))
    {
        let what = "manifests are followed whole";
        note(&section, "serviceProxyName", errors, what.into(), "`kubeconfig` or `inCluster` beside it");
    }
}

/// Runs `note` at every item of a list of the root.
fn each(at: &At<'_>, key: &str, errors: &Errors, mut note: impl FnMut(usize, &At<'_>)) {
    let Some(list) = at.field(key) else { return };
    for (index, item) in list.items(errors).enumerate() {
        note(index, &item);
    }
}

fn ports(at: &At<'_>, config: &GatewayConfig, errors: &Errors) {
    if config.ports.is_empty() {
        errors.add(&at.field("ports").unwrap_or(*at), "no port", "at least one port is expected");
    }
    let (mut names, mut devices, mut addresses) = (HashMap::new(), HashMap::new(), HashMap::new());
    each(at, "ports", errors, |index, item| {
        let port = &config.ports[index];
        if let Some(first) = names.insert(port.name.as_str(), index) {
            note(
                item,
                "name",
                errors,
                format!("`{}` is the name of ports[{first}] too", port.name),
                "unique names",
            );
        }
        if let Some(first) = devices.insert(port.device.as_str(), index) {
            note(item, "device", errors, format!("ports[{first}] has this device too"), "one port a device");
        }
        for net in &port.addresses {
            if let Some(first) = addresses.insert(net.addr(), index) {
                let what = format!("{} is an address of ports[{first}] too", net.addr());
                note(item, "addresses", errors, what, "every address once");
            }
        }
    });
}

/// A fault at a key of an item.
fn note(item: &At<'_>, key: &str, errors: &Errors, what: String, expected: &str) {
    let expected = format!("{expected} is expected");
    match item.field(key) {
        Some(field) => errors.add(&field, what, expected),
        None => errors.add(item, what, expected),
    }
}

fn pools(at: &At<'_>, config: &GatewayConfig, errors: &Errors) {
    let mut names = HashMap::new();
    let mut ranges: Vec<(IpAddr, IpAddr, usize)> = Vec::new();
    each(at, "pools", errors, |index, item| {
        let pool = &config.pools[index];
        if let Some(first) = names.insert(pool.name.as_str(), index) {
            note(
                item,
                "name",
                errors,
                format!("`{}` is the name of pools[{first}] too", pool.name),
                "a unique name",
            );
        }
        for &(first, last) in &pool.ranges {
            if let Some((other_first, other_last, other)) = ranges
                .iter()
                .find(|(other_first, other_last, _)| first <= *other_last && *other_first <= last)
            {
                let what = format!("{first}-{last} overlaps {other_first}-{other_last} of pools[{other}]");
                errors.add(item, what, "every address in one pool only is expected");
            }
            ranges.push((first, last, index));
            for own in config.ports.iter().flat_map(|port| &port.addresses) {
                if (first..=last).contains(&own.addr()) {
                    let what = format!("{first}-{last} holds {}, an address of a port", own.addr());
                    errors.add(item, what, "addresses that nobody has are expected");
                }
            }
        }
    });
}

/// Whether an address lies in a subnet of a port.
fn is_connected(config: &GatewayConfig, address: IpAddr) -> bool {
    config.ports.iter().flat_map(|port| &port.addresses).any(|net| net.contains(&address))
}

fn routes(at: &At<'_>, config: &GatewayConfig, errors: &Errors) {
    let mut seen = HashMap::new();
    each(at, "routes", errors, |index, item| {
        let route = &config.routes[index];
        if route.to.addr().is_ipv4() != route.via.is_ipv4() {
            note(
                item,
                "via",
                errors,
                format!("{} and {} differ in family", route.to, route.via),
                "one family",
            );
        } else if !is_connected(config, route.via) {
            let what = format!("{} is in no subnet of a port", route.via);
            note(item, "via", errors, what, "a neighbour of the appliance");
        }
        if let Some(first) = seen.insert(route.to, index) {
            note(
                item,
                "to",
                errors,
                format!("routes[{first}] is for {} too", route.to),
                "one route a destination",
            );
        }
    });
}

fn neighbors(at: &At<'_>, config: &GatewayConfig, errors: &Errors) {
    let mut seen = HashMap::new();
    each(at, "neighbors", errors, |index, item| {
        let neighbor = &config.neighbors[index];
        if !config.ports.iter().any(|port| port.name == neighbor.port) {
            let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
            let what = format!("there is no port `{}`", neighbor.port);
            note(item, "port", errors, what, &format!("one of {}", names.join(", ")));
        }
        if let Some(first) = seen.insert((neighbor.address, neighbor.port.as_str()), index) {
            let what = format!("neighbors[{first}] is {} too", neighbor.address);
            note(item, "address", errors, what, "every address once");
        }
    });
}

fn snat(at: &At<'_>, config: &GatewayConfig, errors: &Errors) {
    let listen = config.metrics.listen;
    let (first, last) = config.forwarding.snat_ports;
    debug_assert!(first > PRIVILEGED_PORTS_END, "the range's reader refuses them");
    if let Some(forwarding) = at.field("forwarding") {
        let mut seen = Vec::new();
        for address in &config.forwarding.snat_addresses {
            if seen.contains(&address) {
                note(
                    &forwarding,
                    "snatAddresses",
                    errors,
                    format!("{address} stands twice"),
                    "every address once",
                );
            }
            seen.push(address);
            let pooled =
                config.pools.iter().any(|pool| pool.ranges.iter().any(|(a, b)| (a..=b).contains(&address)));
            if pooled {
                note(
                    &forwarding,
                    "snatAddresses",
                    errors,
                    format!("{address} lies in a pool"),
                    "an address of its own",
                );
            }
        }
    }
    // 60999 is the default end; the kernel's own range starts after it, and a listener inside is left out of SNAT.
    if last > 60_999 && config.ports.iter().any(|port| port.tap) && listen.port() >= 61_000 {
        let what = format!("snatPorts reach {last}, where the kernel takes its own ports from 61000 on");
        errors.add(
            &at.field("forwarding").unwrap_or(*at),
            what,
            "an end of at most 60999 with `tap: true` is expected",
        );
    }
}
