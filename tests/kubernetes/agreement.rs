//! Whether `fairlead show services` says what `kubectl get` says. Pure: two lists in, differences out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

/// A service port: namespace, name, protocol, port.
type Key = (String, String, String, u64);

/// What is compared of a service port.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Row {
    kind: String,
    cluster_ips: BTreeSet<String>,
    load_balancer_ips: BTreeSet<String>,
    node_port: u64,
    /// Ready backends.
    active: BTreeSet<SocketAddr>,
}

impl Row {
    /// What the appliance shows is what Kubernetes has. Addresses that no status has yet are not compared.
    fn matches(&self, shown: &Self) -> bool {
        let addresses = if self.load_balancer_ips.is_empty() {
            &self.load_balancer_ips
        } else {
            &shown.load_balancer_ips
        };
        let shown = Self { load_balancer_ips: addresses.clone(), ..shown.clone() };
        *self == shown
    }
}

/// Everything in which the appliance's view differs, a sentence each. `services` and `slices` are lists of
/// `kubectl -o json`, `shown` is `fairlead show services -o json`.
pub(crate) fn differences(services: &Value, slices: &Value, shown: &Value) -> Vec<String> {
    let (want, have) = (wanted(services, slices), shown_rows(shown));
    let keys: BTreeSet<&Key> = want.keys().chain(have.keys()).collect();
    let differs = |key: &&Key| match (want.get(*key), have.get(*key)) {
        (Some(want), Some(have)) => !want.matches(have),
        _ => true,
    };
    let told = |key: &Key| format!("{key:?}: kubectl {:?}, fairlead {:?}", want.get(key), have.get(key));
    keys.into_iter().filter(differs).map(told).collect()
}

fn wanted(services: &Value, slices: &Value) -> BTreeMap<Key, Row> {
    let mut rows = BTreeMap::new();
    for service in list(&services["items"]).filter(|service| service["spec"]["clusterIP"] != "None") {
        let (meta, spec) = (&service["metadata"], &service["spec"]);
        // Where another name stands for the Service, its endpoints are nobody's.
        let served = spec["type"] != "ExternalName";
        let own: Vec<&Value> =
            list(&slices["items"]).filter(|slice| served && belongs(slice, meta)).collect();
        for port in list(&spec["ports"]) {
            let key = (
                text(&meta["namespace"]),
                text(&meta["name"]),
                text(&port["protocol"]),
                number(&port["port"]),
            );
            let row = Row {
                kind: text(&spec["type"]),
                cluster_ips: list(&spec["clusterIPs"]).map(text).collect(),
                load_balancer_ips: list(&service["status"]["loadBalancer"]["ingress"])
                    .map(|i| text(&i["ip"]))
                    .collect(),
                node_port: number(&port["nodePort"]),
                active: active(&own, &text(&port["name"])),
            };
            rows.insert(key, row);
        }
    }
    rows
}

fn belongs(slice: &Value, service: &Value) -> bool {
    let meta = &slice["metadata"];
    meta["namespace"] == service["namespace"]
        && meta["labels"]["kubernetes.io/service-name"] == service["name"]
}

/// The ready endpoints. Those that terminate are shown as draining, also where nobody else is left to serve.
fn active(slices: &[&Value], port_name: &str) -> BTreeSet<SocketAddr> {
    slices.iter().flat_map(|slice| addresses(slice, port_name)).collect()
}

fn addresses(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let ports = list(&slice["ports"]).filter(|port| text(&port["name"]) == port_name);
    let ports: Vec<u16> = ports.filter_map(|port| number(&port["port"]).try_into().ok()).collect();
    let endpoints = list(&slice["endpoints"]).filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let ips: Vec<IpAddr> =
        endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok()).collect();
    ips.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect()
}

fn shown_rows(shown: &Value) -> BTreeMap<Key, Row> {
    list(shown)
        .map(|row| {
            let key =
                (text(&row["namespace"]), text(&row["name"]), text(&row["protocol"]), number(&row["port"]));
            let active = list(&row["backends"]).filter(|backend| backend["state"] == "Active");
            let row = Row {
                kind: text(&row["type"]),
                cluster_ips: list(&row["clusterIPs"]).map(text).collect(),
                load_balancer_ips: list(&row["loadBalancerIPs"]).map(text).collect(),
                node_port: number(&row["nodePort"]),
                active: active.filter_map(|backend| backend["address"].as_str()?.parse().ok()).collect(),
            };
            (key, row)
        })
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}
