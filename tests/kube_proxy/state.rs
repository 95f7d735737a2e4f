//! A random valid cluster state: Services, EndpointSlices and ServiceCIDRs as the API's JSON. What a seed makes never
//! depends on anything else. Not generated, because kube-proxy itself leaves it to chance: two entries for one address
//! and port of a Service port that are both (or neither) terminating and differ.

use std::net::IpAddr;

use packet::Family;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::place::{MORE_SERVICE_CIDRS, NAMESPACES, ZONES, index};
use crate::slices;

/// Everything in the cluster besides its Nodes.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The zone of this Node.
    pub(crate) zone: Option<String>,
    /// Objects to create, in order.
    pub(crate) objects: Vec<Value>,
}

/// One port of a Service, as the slices have to match it.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: &'static str,
}

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const FAMILIES: [&[Family]; 4] =
    [&[Family::V4], &[Family::V6], &[Family::V4, Family::V6], &[Family::V6, Family::V4]];

impl State {
    /// The state of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let zone = dice.percent(80).then(|| (*dice.one(&ZONES[..2])).to_owned());
        let mut objects = Vec::new();
        if dice.percent(40) {
            objects.push(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "more"}, "spec": {"cidrs": MORE_SERVICE_CIDRS},
            }));
        }
        for number in 0..dice.between(3, 9) {
            let service = Draft::new(&mut dice, number).service(&mut dice);
            let ports = ports_of(&service);
            let slices = slices::of(&mut dice, &service, &ports);
            objects.push(service);
            objects.extend(slices);
        }
        Self { zone, objects }
    }
}

fn ports_of(service: &Value) -> Vec<Port> {
    let list = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let protocol = |port: &Value| *PROTOCOLS.iter().find(|name| port["protocol"] == **name).unwrap_or(&"TCP");
    list.iter()
        .map(|port| Port {
            name: port["name"].as_str().unwrap_or_default().to_owned(),
            protocol: protocol(port),
        })
        .collect()
}

/// The choices that shape a Service.
struct Draft {
    number: u16,
    kind: &'static str,
    families: &'static [Family],
    external: bool,
}

impl Draft {
    fn new(dice: &mut Dice, number: u16) -> Self {
        let kinds = ["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "LoadBalancer"];
        let kind = if dice.percent(4) { "ExternalName" } else { *dice.one(&kinds) };
        let external = kind != "ExternalName" && dice.percent(25);
        Self { number, kind, families: *dice.one(&FAMILIES), external }
    }

    fn service(&self, dice: &mut Dice) -> Value {
        let number = self.number;
        let namespace = *dice.one(&NAMESPACES);
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("s{number}"), "namespace": namespace, "labels": {}},
            "spec": {"type": self.kind},
        });
        if self.kind == "ExternalName" {
            service["spec"]["externalName"] = json!("elsewhere.example");
            return service;
        }
        let headless = self.kind == "ClusterIP" && dice.percent(10);
        self.cluster_ips(dice, &mut service["spec"], headless);
        service["spec"]["ports"] = Value::Array(self.ports(dice, headless));
        self.policies(dice, &mut service["spec"]);
        if self.external {
            service["spec"]["externalIPs"] = self.external_ips(dice);
        }
        if self.kind == "LoadBalancer" {
            self.balancer(dice, &mut service);
        }
        if dice.percent(4) {
            service["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = json!("other");
        }
        service
    }

    fn cluster_ips(&self, dice: &mut Dice, spec: &mut Value, headless: bool) {
        let names: Vec<_> = self.families.iter().map(|family| ["IPv4", "IPv6"][index(*family)]).collect();
        spec["ipFamilies"] = json!(names);
        let single = self.families.len() == 1;
        spec["ipFamilyPolicy"] =
            json!(if single { "SingleStack" } else { *dice.one(&["PreferDualStack", "RequireDualStack"]) });
        if headless {
            spec["clusterIP"] = json!("None");
            return;
        }
        let addresses: Vec<_> = self
            .families
            .iter()
            .map(|family| {
                ["10.3.240.", "fd00:3:240::"][index(*family)].to_owned() + &(10 + self.number).to_string()
            })
            .collect();
        spec["clusterIP"] = json!(addresses[0]);
        spec["clusterIPs"] = json!(addresses);
    }

    fn ports(&self, dice: &mut Dice, headless: bool) -> Vec<Value> {
        let count = dice.between(1, 3);
        let numbers = [53, 80, 443, 8000 + self.number];
        let mut ports: Vec<Value> = Vec::new();
        for position in 0..count {
            let (number, protocol) = (*dice.one(&numbers), *dice.one(&PROTOCOLS));
            if ports.iter().any(|port| port["port"] == number && port["protocol"] == protocol) {
                continue;
            }
            let name = if count == 1 && dice.percent(60) { String::new() } else { format!("p{position}") };
            let mut port = json!({"name": name, "port": number, "protocol": protocol, "targetPort": 8080});
            let wants = self.kind == "NodePort" || (self.kind == "LoadBalancer" && dice.percent(80));
            if wants && !headless {
                // One number may serve several protocols of one port of a Service.
                let twin = ports.iter().find(|twin| twin["port"] == number && dice.percent(50));
                let shared = twin.map(|twin| twin["nodePort"].clone());
                port["nodePort"] = shared.unwrap_or(json!(30_000 + self.number * 10 + position));
            }
            ports.push(port);
        }
        ports
    }

    fn policies(&self, dice: &mut Dice, spec: &mut Value) {
        if dice.percent(30) {
            spec["internalTrafficPolicy"] = json!("Local");
        }
        let external = self.kind != "ClusterIP" || self.external;
        if external && dice.percent(45) {
            spec["externalTrafficPolicy"] = json!("Local");
            if self.kind == "LoadBalancer" {
                spec["healthCheckNodePort"] = json!(32_000 + self.number);
            }
        }
        if dice.percent(25) {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": dice.between(1, 600)}});
        }
        if dice.percent(15) {
            // Only the controller reads it; hints decide.
            spec["trafficDistribution"] = json!(*dice.one(&["PreferSameZone", "PreferSameNode"]));
        }
    }

    /// Mostly addresses of its own; some that another Service has, of a service network, of a Node or of this Node.
    fn external_ips(&self, dice: &mut Dice) -> Value {
        let mut addresses = Vec::new();
        for family in [Family::V4, Family::V6] {
            if dice.percent(30) && !addresses.is_empty() {
                continue;
            }
            let other = dice.below(9);
            let own = format!("{}{}", ["198.51.100.", "2001:db8:99::"][index(family)], 10 + self.number);
            addresses.push(match dice.below(20) {
                0 => format!("{}{}", ["198.51.100.", "2001:db8:99::"][index(family)], 10 + other),
                1 => format!("{}{}", ["10.3.240.", "fd00:3:240::"][index(family)], 200 + self.number % 50),
                2 => format!("{}{}", ["10.3.240.", "fd00:3:240::"][index(family)], 10 + other),
                3 => format!("{}1{}", ["10.0.0.", "fd00::"][index(family)], dice.between(1, 3)),
                _ => own,
            });
        }
        json!(addresses)
    }

    fn balancer(&self, dice: &mut Dice, service: &mut Value) {
        if dice.percent(30) {
            service["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
        }
        if dice.percent(10) {
            service["spec"]["loadBalancerClass"] = json!("example.com/other");
        }
        if dice.percent(45) {
            service["spec"]["loadBalancerSourceRanges"] = source_ranges(dice);
        }
        let mut ingress = Vec::new();
        for family in [Family::V4, Family::V6] {
            if dice.percent(75) {
                // Neighbours share an address, usually with different ports.
                let last = 10 + if dice.percent(30) { self.number & !1 } else { self.number };
                let mut entry =
                    json!({"ip": format!("{}{last}", ["203.0.113.", "2001:db8:aa::"][index(family)])});
                match dice.below(10) {
                    0 | 1 => entry["ipMode"] = json!("Proxy"),
                    2..=4 => entry["ipMode"] = json!("VIP"),
                    _ => {}
                }
                ingress.push(entry);
            }
        }
        if dice.percent(10) {
            ingress.push(json!({"hostname": "lb.example"}));
        }
        service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    }
}

fn source_ranges(dice: &mut Dice) -> Value {
    const RANGES: [&str; 12] = [
        "198.18.0.0/24",
        "198.18.0.5/32",
        "198.18.0.0/16",
        "10.244.0.0/16",
        "10.0.0.0/24",
        "0.0.0.0/0",
        "2001:db8:c::/64",
        "2001:db8:c::5/128",
        "2001:db8::/32",
        "fd00:244::/48",
        "fd00::/64",
        "::/0",
    ];
    let mut ranges: Vec<&str> = Vec::new();
    for _ in 0..dice.between(1, 4) {
        let range = *dice.one(&RANGES);
        // `/0` opens everything: rare, or nothing else is seen.
        if !ranges.contains(&range) && (!range.ends_with("/0") || dice.percent(20)) {
            ranges.push(range);
        }
    }
    json!(ranges)
}

/// The first address of a JSON text, for the files that look at objects.
pub(crate) fn address(text: &Value) -> Option<IpAddr> {
    text.as_str()?.parse().ok()
}

/// The entries of a JSON list; none of anything else.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A port number.
pub(crate) fn number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}
