//! What is in a big cluster: Services of 25 endpoints, each on addresses of its own, as an API server has them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// How many Services there are.
pub const SERVICES: u32 = 10_000;
/// Endpoints of each.
pub const ENDPOINTS: u32 = 25;
/// Their clusterIPs are of a service network of their own.
pub const SERVICE_CIDR: &str = "10.64.0.0/16";
/// All endpoints, those that come later included.
pub const POD_NETWORK: &str = "10.248.0.0/14";

/// Where its network is written to.
pub const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// Where Services are written to.
pub const SERVICE_LIST: &str = "/api/v1/namespaces/default/services";
/// Where their slices are written to.
pub const SLICE_LIST: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// The clusterIP of a Service.
#[must_use]
pub fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 1, 0).to_bits() + number)
}

fn pod(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 248, 0, 0).to_bits() + index)
}

/// The endpoint that only `turn` has.
#[must_use]
pub fn newcomer(turn: u32) -> Ipv4Addr {
    pod(SERVICES * ENDPOINTS + turn)
}

/// The network of the clusterIPs.
#[must_use]
pub fn service_cidr() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "many"},
        "spec": {"cidrs": [SERVICE_CIDR]}})
}

/// A Service.
#[must_use]
pub fn service(number: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{number}")},
        "spec": {"clusterIP": vip(number), "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// A Service's only slice; from turn 1 on, one of its endpoints is that turn's.
#[must_use]
pub fn slice(number: u32, turn: u32) -> Value {
    let endpoint = |at: u32| {
        let address = if at == 0 && turn > 0 { newcomer(turn) } else { pod(number * ENDPOINTS + at) };
        json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", at % 50),
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("pod-{number}-{at}")}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("s{number}"), "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>()})
}
