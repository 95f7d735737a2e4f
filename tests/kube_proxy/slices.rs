//! Random EndpointSlices of a Service: several a family, every combination of conditions, hints, Nodes and ports, the
//! twin entries that pod address reuse makes, and slices that no proxy may look at.

use std::collections::BTreeMap;

use packet::Family;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::place::{ZONES, index};
use crate::state::Port;

/// How the hints of a Service's endpoints come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hints {
    None,
    Zones,
    /// As the controller writes them for PreferSameNode: Node and zone.
    Nodes,
    /// Some endpoints have none.
    Some,
}

/// The slices of a Service.
pub(crate) fn of(dice: &mut Dice, service: &Value, ports: &[Port]) -> Vec<Value> {
    let hints = *dice.one(&[Hints::None, Hints::None, Hints::Zones, Hints::Nodes, Hints::Some]);
    let health = *dice.one(&[90, 90, 60, 20, 0]);
    let mut maker = Maker { service, ports, hints, health, taken: BTreeMap::new(), made: 0 };
    let mut slices = Vec::new();
    for family in [Family::V4, Family::V6] {
        for _ in 0..dice.below(4) {
            slices.push(maker.slice(dice, family));
        }
    }
    if dice.percent(5) {
        slices.push(maker.fqdn());
    }
    slices
}

struct Maker<'a> {
    service: &'a Value,
    ports: &'a [Port],
    hints: Hints,
    /// Share of endpoints that are plainly ready.
    health: u16,
    /// Addresses in use, with whether a second entry may still come, and then how.
    taken: BTreeMap<String, Twin>,
    made: u16,
}

/// What a second entry for an address may be.
#[derive(Clone, Debug)]
enum Twin {
    /// Terminating, because the first one is not.
    Terminating,
    /// Not terminating, because the first one is.
    Running,
    /// There are two.
    Never,
}

impl Maker<'_> {
    fn slice(&mut self, dice: &mut Dice, family: Family) -> Value {
        let mut slice = self.frame(["IPv4", "IPv6"][index(family)]);
        if dice.percent(4) {
            slice["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
        }
        let endpoints: Vec<_> = (0..dice.below(6)).filter_map(|_| self.endpoint(dice, family)).collect();
        slice["endpoints"] = Value::Array(endpoints);
        slice["ports"] = Value::Array(self.ports(dice));
        slice
    }

    fn frame(&mut self, address_type: &str) -> Value {
        self.made += 1;
        let metadata = &self.service["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": address_type,
            "metadata": {
                "name": format!("{name}-{}", self.made), "namespace": metadata["namespace"],
                "labels": {"kubernetes.io/service-name": name},
            },
            "endpoints": [], "ports": [],
        })
    }

    fn fqdn(&mut self) -> Value {
        let mut slice = self.frame("FQDN");
        slice["endpoints"] = json!([{"addresses": ["pod.example"]}]);
        slice["ports"] = json!([{"name": "", "port": 80, "protocol": "TCP"}]);
        slice
    }

    /// The Service's ports, mostly; some are left out, unnumbered or beside the point.
    fn ports(&self, dice: &mut Dice) -> Vec<Value> {
        let mut ports = Vec::new();
        for port in self.ports {
            let number = *dice.one(&[8080, 8080, 8080, 9090, 53]);
            match dice.below(20) {
                0 => {}
                1 => ports.push(json!({"name": port.name, "protocol": port.protocol})),
                2 => ports.push(json!({"name": "stranger", "protocol": port.protocol, "port": number})),
                _ => ports.push(json!({"name": port.name, "protocol": port.protocol, "port": number})),
            }
        }
        let mut names = std::collections::BTreeSet::new();
        ports.retain(|port| names.insert(port["name"].to_string()));
        ports
    }

    fn endpoint(&mut self, dice: &mut Dice, family: Family) -> Option<Value> {
        let address = address(dice, family);
        let (mut conditions, twin) = match self.taken.get(&address) {
            None => {
                let conditions = self.conditions(dice);
                let terminating = conditions["terminating"] == true;
                (conditions, if terminating { Twin::Running } else { Twin::Terminating })
            }
            Some(Twin::Never) => return None,
            Some(Twin::Terminating) => (
                json!({"ready": dice.percent(20), "serving": dice.percent(50), "terminating": true}),
                Twin::Never,
            ),
            Some(Twin::Running) => (
                json!({"ready": dice.percent(50), "serving": dice.percent(50), "terminating": false}),
                Twin::Never,
            ),
        };
        if let Some(conditions) = conditions.as_object_mut() {
            conditions.retain(|_, value| !value.is_null());
        }
        let mut endpoint = json!({"addresses": [address], "conditions": conditions});
        if let Some(node) = node_of(&address) {
            endpoint["nodeName"] = json!(node);
        }
        if let Some(hints) = self.hints(dice) {
            endpoint["hints"] = hints;
        }
        self.taken.insert(address, twin);
        Some(endpoint)
    }

    fn conditions(&self, dice: &mut Dice) -> Value {
        if dice.percent(self.health) {
            let spelt = json!({"ready": true, "serving": true, "terminating": false});
            return if dice.percent(50) { json!({}) } else { spelt };
        }
        let mut any = || match dice.below(5) {
            0 => Value::Null,
            1 | 2 => json!(true),
            _ => json!(false),
        };
        json!({"ready": any(), "serving": any(), "terminating": any()})
    }

    fn hints(&self, dice: &mut Dice) -> Option<Value> {
        let node = format!("n{}", dice.between(1, 3));
        let zone = json!([{"name": *dice.one(&ZONES)}]);
        match self.hints {
            Hints::None => None,
            Hints::Zones if dice.percent(20) => {
                Some(json!({"forZones": [{"name": "east"}, {"name": "west"}]}))
            }
            Hints::Zones => Some(json!({"forZones": zone})),
            Hints::Nodes => Some(json!({"forNodes": [{"name": node}], "forZones": zone})),
            Hints::Some if dice.percent(40) => None,
            Hints::Some => Some(json!({"forZones": zone})),
        }
    }
}

/// Pods of three Nodes, mostly; Nodes themselves (host network), machines outside, and service addresses, which are
/// no good as endpoints but allowed.
fn address(dice: &mut Dice, family: Family) -> String {
    let (node, last) = (dice.between(1, 3), dice.between(2, 9));
    let pick = |v4: String, v6: String| if family == Family::V4 { v4 } else { v6 };
    match dice.below(40) {
        0..=2 => pick(format!("10.0.0.1{node}"), format!("fd00::1{node}")),
        3 | 4 => pick(format!("172.16.0.{last}"), format!("2001:db8:bb::{last}")),
        5 => pick(format!("10.3.240.{}", 8 + last), format!("fd00:3:240::{}", 8 + last)),
        _ => pick(format!("10.244.{node}.{last}"), format!("fd00:244:0:{node}::{last}")),
    }
}

/// Where an address is: one place in the whole state, for some pods unknown.
fn node_of(address: &str) -> Option<String> {
    let node = ["10.244.", "fd00:244:0:", "10.0.0.1", "fd00::1"]
        .iter()
        .find_map(|prefix| address.strip_prefix(prefix)?.chars().next())?;
    (!address.ends_with('9')).then(|| format!("n{node}"))
}
