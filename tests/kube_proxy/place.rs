//! The fixed part of the cluster: Nodes, their addresses and networks, and where clients sit. kube-proxy and Fairlead
//! both act as Node `n1`, whose kernel has two interfaces.

use std::net::IpAddr;

use packet::Family;
use serde_json::{Value, json};

/// The Node that both sides act as.
pub(crate) const THIS_NODE: &str = "n1";
/// Interface towards clients, with the Node's secondary addresses.
pub(crate) const OUTSIDE: (&str, [&str; 2]) = ("outside", ["192.0.2.1/24", "2001:db8:1::1/64"]);
/// Interface towards the other Nodes, with the Node's own (primary) addresses.
pub(crate) const INSIDE: (&str, [&str; 2]) = ("inside", ["10.0.0.11/24", "fd00::11/64"]);
/// Networks of all pods.
pub(crate) const CLUSTER_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:244::/48"];
/// The service network of the API server, in each family.
pub(crate) const SERVICE_CIDRS: [&str; 2] = ["10.3.240.0/20", "fd00:3:240::/112"];
/// A second service network, which some states have.
pub(crate) const MORE_SERVICE_CIDRS: [&str; 2] = ["10.97.0.0/24", "fd97:1::/112"];
/// Zones that Nodes and hints may name.
pub(crate) const ZONES: [&str; 3] = ["east", "west", "north"];
/// Namespaces that hold the state's objects.
pub(crate) const NAMESPACES: [&str; 2] = ["blue", "green"];

/// How a packet comes to the Node's network stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// By an interface.
    Arrives,
    /// From a program on the Node.
    Node,
}

/// What kube-proxy and Fairlead are configured with; changing it takes a restart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// Families in which pods can be told from others.
    pub(crate) detects_pods: &'static [Family],
    /// `nodePortAddresses` of kube-proxy; empty: its default, the Node's primary addresses.
    pub(crate) node_port_addresses: &'static [&'static str],
}

/// The settings that states are spread over.
pub(crate) const SETTINGS: [Setting; 3] = [
    Setting {
        name: "pods detected, nodePorts on primary addresses",
        detects_pods: &[Family::V4, Family::V6],
        node_port_addresses: &[],
    },
    Setting {
        name: "pods not detected, nodePorts everywhere",
        detects_pods: &[],
        node_port_addresses: &["0.0.0.0/0", "::/0"],
    },
    Setting {
        name: "IPv4 pods detected, nodePorts on one IPv4 network and all of IPv6",
        detects_pods: &[Family::V4],
        node_port_addresses: &["192.0.2.0/24"],
    },
];

impl Setting {
    fn families(&self) -> impl Iterator<Item = usize> {
        self.detects_pods.iter().map(|family| index(*family))
    }

    /// The pod networks that kube-proxy is told.
    pub(crate) fn cluster_cidrs(&self) -> Vec<&'static str> {
        self.families().map(|family| CLUSTER_CIDRS[family]).collect()
    }

    /// The addresses that serve nodePorts, spelt out.
    pub(crate) fn node_port_networks(&self) -> Vec<String> {
        if self.node_port_addresses.is_empty() {
            return vec![format!("{}/32", primary(Family::V4)), format!("{}/128", primary(Family::V6))];
        }
        self.node_port_addresses.iter().map(|text| (*text).to_owned()).collect()
    }

    /// The Nodes as the API server should have them; a Node has podCIDRs only in families where pods are detected.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        (1..=3u8)
            .map(|number| {
                let nets = [format!("10.244.{number}.0/24"), format!("fd00:244:0:{number}::/64")];
                let nets: Vec<_> = self.families().map(|family| nets[family].clone()).collect();
                let mut node = json!({
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": {"name": format!("n{number}"), "labels": {}},
                    "spec": {"podCIDRs": nets},
                    "status": {"addresses": [
                        {"type": "InternalIP", "address": format!("10.0.0.1{number}")},
                        {"type": "InternalIP", "address": format!("fd00::1{number}")},
                    ]},
                });
                if let Some(first) = nets.first() {
                    node["spec"]["podCIDR"] = json!(first);
                }
                node
            })
            .collect()
    }
}

/// Position of a family in the pairs above.
pub(crate) fn index(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// The Node's primary address.
pub(crate) fn primary(family: Family) -> IpAddr {
    host_of(INSIDE.1[index(family)])
}

/// The Node's other address.
pub(crate) fn secondary(family: Family) -> IpAddr {
    host_of(OUTSIDE.1[index(family)])
}

/// Whether an address is the Node's own (kernel type `local`).
pub(crate) fn is_local(address: IpAddr) -> bool {
    let family = Family::of(address);
    address.is_loopback() || address == primary(family) || address == secondary(family)
}

/// Clients of every kind, each with how its packets come.
pub(crate) fn clients(family: Family) -> Vec<(IpAddr, Origin)> {
    let arriving: [&str; 7] = match family {
        // Two strangers (one inside the usual source ranges), two local pods, a remote one, one on no Node, a Node.
        Family::V4 => [
            "198.18.0.5",
            "198.18.99.9",
            "10.244.1.2",
            "10.244.1.77",
            "10.244.2.2",
            "10.244.9.9",
            "10.0.0.12",
        ],
        Family::V6 => [
            "2001:db8:c::5",
            "2001:db8:d::9",
            "fd00:244:0:1::2",
            "fd00:244:0:1::77",
            "fd00:244:0:2::2",
            "fd00:244:0:9::9",
            "fd00::12",
        ],
    };
    let mut clients: Vec<_> = arriving.iter().map(|text| (host_of(text), Origin::Arrives)).collect();
    clients.extend([(primary(family), Origin::Node), (secondary(family), Origin::Node)]);
    clients
}

/// The address in `ADDRESS` or `ADDRESS/LENGTH`.
fn host_of(text: &str) -> IpAddr {
    let address = text.split('/').next().unwrap_or_default();
    address.parse().expect("the constants of this file are addresses")
}
