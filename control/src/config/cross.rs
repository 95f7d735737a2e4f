//! What only several keys together can get wrong: duplicates, overlaps, routes that lead nowhere. A key with a fault of its
//! own takes no part, and neither does what depends on it; the other keys are compared all the same.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{GatewayConfig, Source, port};
use crate::yaml::{At, Errors};

/// The last port below those that SNAT may use.
const PRIVILEGED_PORTS_END: u16 = 1023;
/// Fewest ports of SNAT; fewer would exhaust at once.
const SNAT_PORTS_MIN: usize = 1024;

/// Every fault between keys; `single` are those of single keys.
pub(super) fn check(at: &At<'_>, config: &GatewayConfig, single: &Errors) -> Errors {
    let notes = Notes { single, found: Errors::default() };
    port::check(at, config, &notes);
    pools(at, config, &notes);
    routes(at, config, &notes);
    neighbors(at, config, &notes);
    snat_addresses(at, config, &notes);
    snat_ports(at, config, &notes);
    proxy_name(at, config, &notes);
    notes.found
}

/// Where faults are noted.
pub(super) struct Notes<'a> {
    /// Faults of single keys.
    single: &'a Errors,
    /// Those found here, which do not make a key one to be left out.
    pub(super) found: Errors,
}

/// Who writes manifests for the appliance leaves out what is not for it; only an API server is asked with a selector.
fn proxy_name(at: &At<'_>, config: &GatewayConfig, notes: &Notes<'_>) {
    let kubernetes = &config.kubernetes;
    if let (Some(_), Source::Manifests(_), Some(section)) =
        (&kubernetes.service_proxy_name, &kubernetes.source, at.field("kubernetes"))
    {
        let what = "manifests are followed whole";
        note(&section, "serviceProxyName", notes, what.into(), "`kubeconfig` or `inCluster` beside it");
    }
}

/// Runs `note` at every item of a list of the root.
pub(super) fn each(at: &At<'_>, key: &str, notes: &Notes<'_>, mut note: impl FnMut(usize, &At<'_>)) {
    let Some(list) = at.field(key).filter(At::is_list) else { return };
    for (index, item) in list.items(&notes.found).enumerate() {
        note(index, &item);
    }
}

/// Whether a key is there and good.
pub(super) fn has(item: &At<'_>, key: &str, notes: &Notes<'_>) -> bool {
    item.field(key).is_some_and(|field| !notes.single.are_within(&field))
}

/// Whether the same key of every port is good, or absent where it may be: then it is known what the ports have.
fn ports_have(at: &At<'_>, key: &str, optional: bool, notes: &Notes<'_>) -> bool {
    let mut all = at.field("ports").is_some_and(|ports| ports.is_list());
    each(at, "ports", notes, |_, port| {
        all &= has(port, key, notes) || optional && port.field(key).is_none();
    });
    all
}

/// A fault at a key of an item.
pub(super) fn note(item: &At<'_>, key: &str, notes: &Notes<'_>, what: String, expected: &str) {
    let expected = format!("{expected} is expected");
    match item.field(key) {
        Some(field) => notes.found.add(&field, what, expected),
        None => notes.found.add(item, what, expected),
    }
}

fn pools(at: &At<'_>, config: &GatewayConfig, notes: &Notes<'_>) {
    let mut names = HashMap::new();
    let mut ranges: Vec<(IpAddr, IpAddr, usize)> = Vec::new();
    each(at, "pools", notes, |index, item| {
        let pool = &config.pools[index];
        if has(item, "name", notes)
            && let Some(first) = names.insert(pool.name.as_str(), index)
        {
            note(
                item,
                "name",
                notes,
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
                notes.found.add(item, what, "every address in one pool only is expected");
            }
            ranges.push((first, last, index));
            let mut own = config.ports.iter().flat_map(|port| &port.addresses);
            if let Some(own) = own.find(|own| (first..=last).contains(&own.addr())) {
                let what = format!("{first}-{last} holds {}, an address of a port", own.addr());
                notes.found.add(item, what, "addresses that nobody has are expected");
            }
        }
    });
}

/// Whether an address lies in a subnet of a port.
fn is_connected(config: &GatewayConfig, address: IpAddr) -> bool {
    config.ports.iter().flat_map(|port| &port.addresses).any(|net| net.contains(&address))
}

fn routes(at: &At<'_>, config: &GatewayConfig, notes: &Notes<'_>) {
    let mut seen = HashMap::new();
    let addresses_known = ports_have(at, "addresses", true, notes);
    each(at, "routes", notes, |index, item| {
        let route = &config.routes[index];
        let (to, via) = (has(item, "to", notes), has(item, "via", notes));
        for (n, hop) in route.via.iter().enumerate() {
            if to && via && route.to.addr().is_ipv4() != hop.is_ipv4() {
                note(item, "via", notes, format!("{} and {hop} differ in family", route.to), "one family");
            } else if via && addresses_known && !is_connected(config, *hop) {
                let what = format!("{hop} is in no subnet of a port");
                note(item, "via", notes, what, "a neighbour of the appliance");
            } else if route.via[..n].contains(hop) {
                note(item, "via", notes, format!("{hop} stands twice"), "every next hop once");
            }
        }
        if to && let Some(first) = seen.insert(route.to, index) {
            note(
                item,
                "to",
                notes,
                format!("routes[{first}] is for {} too", route.to),
                "one route a destination",
            );
        }
    });
}

fn neighbors(at: &At<'_>, config: &GatewayConfig, notes: &Notes<'_>) {
    let mut seen = HashMap::new();
    let names_known = ports_have(at, "name", false, notes);
    each(at, "neighbors", notes, |index, item| {
        let neighbor = &config.neighbors[index];
        let (address, port) = (has(item, "address", notes), has(item, "port", notes));
        if port && names_known && !config.ports.iter().any(|port| port.name == neighbor.port) {
            let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
            let what = format!("there is no port `{}`", neighbor.port);
            note(item, "port", notes, what, &format!("one of {}", names.join(", ")));
        }
        if address
            && port
            && let Some(first) = seen.insert((neighbor.address, neighbor.port.as_str()), index)
        {
            let what = format!("neighbors[{first}] is {} too", neighbor.address);
            note(item, "address", notes, what, "every address once");
        }
    });
}

fn snat_addresses(at: &At<'_>, config: &GatewayConfig, notes: &Notes<'_>) {
    let Some(forwarding) = at.field("forwarding") else { return };
    let mut seen = Vec::new();
    for address in &config.forwarding.snat_addresses {
        if seen.contains(&address) {
            let what = format!("{address} stands twice");
            note(&forwarding, "snatAddresses", notes, what, "every address once");
        }
        seen.push(address);
        let mut ranges = config.pools.iter().flat_map(|pool| &pool.ranges);
        if ranges.any(|(first, last)| (first..=last).contains(&address)) {
            let what = format!("{address} lies in a pool");
            note(&forwarding, "snatAddresses", notes, what, "an address of its own");
        }
    }
}

fn snat_ports(at: &At<'_>, config: &GatewayConfig, notes: &Notes<'_>) {
    let (first, last) = config.forwarding.snat_ports;
    debug_assert!(first > PRIVILEGED_PORTS_END, "the range's reader refuses them");
    let place = at.field("forwarding").unwrap_or(*at);
    let good = |section: &str, key: &str| {
        let faulty = |section: At<'_>| section.field(key).is_some_and(|at| notes.single.are_within(&at));
        !at.field(section).is_some_and(faulty)
    };
    let (low, high) = config.kubernetes.node_port_range;
    let left = (first..=last).filter(|port| !(low..=high).contains(port)).count();
    if left < SNAT_PORTS_MIN && good("forwarding", "snatPorts") && good("kubernetes", "nodePortRange") {
        let what =
            format!("{first}-{last} without kubernetes.nodePortRange {low}-{high} leaves {left} ports");
        let expected = "at least 1,024 ports for snatPorts are expected";
        notes.found.add(&place, what, expected);
    }
    // 60999 is the default end; the kernel's own range starts after it, and a listener inside is left out of SNAT.
    if last > 60_999 && config.ports.iter().any(|port| port.tap) && config.metrics.listen.port() >= 61_000 {
        let what = format!("snatPorts reach {last}, where the kernel takes its own ports from 61000 on");
        notes.found.add(&place, what, "an end of at most 60999 with `tap: true` is expected");
    }
}
