//! The Services of the lab: one for each protocol with every kind of frontend, and a few that differ in policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::manifests::{Member, Service, ServicePort, port};
use crate::plan::{self, Container, EXTERNAL_IP, EXTERNAL_IP6, NODE_PORT, NODES};

/// A Service with its endpoints.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The Service.
    pub service: Service,
    /// Its endpoints, all ready.
    pub members: Vec<Member>,
}

/// A way to reach a Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frontend {
    /// clusterIP and port.
    ClusterIp,
    /// The appliance's own address and the nodePort.
    NodePort,
    /// An externalIP and port.
    ExternalIp,
    /// The LoadBalancer address and port.
    LoadBalancer,
}

/// All four.
pub const FRONTENDS: [Frontend; 4] =
    [Frontend::ClusterIp, Frontend::NodePort, Frontend::ExternalIp, Frontend::LoadBalancer];

impl Entry {
    /// Where a client finds the port called `port_name` through a frontend. `inside`: the client is a node or a pod,
    /// so it uses the appliance's inside address for a nodePort.
    pub fn target(&self, frontend: Frontend, port_name: &str, inside: bool) -> SocketAddr {
        let service = &self.service;
        let port =
            service.ports.iter().find(|port| port.name == port_name).unwrap_or_else(|| service.first_port());
        let (address, number) = match frontend {
            Frontend::ClusterIp => (service.cluster_ip, port.port),
            Frontend::NodePort => (gateway(service.is_ipv6(), inside), port.node_port),
            Frontend::ExternalIp => (*service.external_ips.first().expect("every entry has one"), port.port),
            Frontend::LoadBalancer => {
                (service.load_balancer_ip.expect("every entry asks for one"), port.port)
            }
        };
        SocketAddr::new(address, number)
    }

    /// The same pods and ports as a Service of IPv6. Its nodePorts are others: a number belongs to one Service.
    pub fn over_ipv6(&self) -> Self {
        let mut twin = self.clone();
        let service = &mut twin.service;
        service.name += "-6";
        service.cluster_ip = in_v6(service.cluster_ip, [0xfd00, 3]);
        service.external_ips = vec![EXTERNAL_IP6.parse().expect("a constant address")];
        service.load_balancer_ip = service.load_balancer_ip.map(|ip| match ip {
            IpAddr::V4(v4) if v4.octets()[0] == 192 => in_v6(ip, [0x2001, 0xdb8, 1]),
            _ => in_v6(ip, [0x2001, 0xdb8, 0xf]),
        });
        service.ports.iter_mut().for_each(|port| port.node_port -= 1_000);
        twin
    }
}

/// The shop's web server: the article's `10.3.241.152:80` and nodePort 32213, translated to port 8080 of three pods.
pub fn web() -> Entry {
    entry(
        "shop",
        "web",
        152,
        10,
        vec![port("http", "TCP", 80, Container::Web, 32213)],
        &["web-1", "web-2", "web-3"],
    )
}

/// The same pods with externalTrafficPolicy Local: the client's address is kept. On the connected pool.
pub fn web_local() -> Entry {
    let mut web = entry(
        "shop",
        "web-local",
        153,
        0,
        vec![port("", "TCP", 81, Container::Web, 32214)],
        &["web-1", "web-2", "web-3"],
    );
    web.service.local = true;
    web.service.load_balancer_ip = Some([192, 0, 2, 110].into());
    web
}

/// TCP and UDP echo, kept on `dnat` by annotation.
pub fn echo() -> Entry {
    let ports = vec![
        port("tcp", "TCP", 7000, Container::Echo, 32700),
        port("udp", "UDP", 7000, Container::Echo, 32700),
    ];
    let mut echo = entry("shop", "echo", 154, 11, ports, &["web-1", "web-2", "web-3"]);
    echo.service.mode = Some("dnat");
    echo
}

/// DNS over UDP and TCP.
pub fn dns() -> Entry {
    let ports = vec![
        port("dns", "UDP", 53, Container::Dns, 32053),
        port("dns-tcp", "TCP", 53, Container::Dns, 32053),
    ];
    entry("infra", "dns", 155, 12, ports, &["dns-1", "dns-2"])
}

/// MQTT.
pub fn mqtt() -> Entry {
    entry("iot", "mqtt", 156, 13, vec![port("", "TCP", 1883, Container::Mqtt, 31883)], &["mqtt-1"])
}

/// RTMP.
pub fn rtmp() -> Entry {
    entry("media", "rtmp", 157, 14, vec![port("", "TCP", 1935, Container::Rtmp, 31935)], &["rtmp-1"])
}

/// iperf3, whose UDP test needs both protocols on one backend.
pub fn iperf() -> Entry {
    let ports = vec![
        port("tcp", "TCP", 5201, Container::Iperf, 32520),
        port("udp", "UDP", 5201, Container::Iperf, 32520),
    ];
    entry("perf", "iperf", 158, 15, ports, &["iperf-1"])
}

/// Address of [`edge_yaml`]'s Service.
pub const EDGE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 16)), 80);

/// The external load balancer of the picture: a Service without a selector whose endpoints are the nodes' nodePorts.
/// Behind [`NODE_PORT`] each node has the rule that kube-proxy would write.
pub fn edge_yaml() -> String {
    let nodes: String = NODES
        .iter()
        .map(|node| {
            format!(
                "- addresses: [{}]\n  nodeName: {}\n  conditions: {{ready: true}}\n",
                node.address(),
                node.name
            )
        })
        .collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: edge, namespace: shop}}
spec:
  type: LoadBalancer
  clusterIP: 10.3.241.159
  loadBalancerIP: {}
  allocateLoadBalancerNodePorts: false
  ports: [{{port: 80, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: edge-nodes, namespace: shop, labels: {{kubernetes.io/service-name: edge}}}}
addressType: IPv4
ports: [{{name: \"\", port: {NODE_PORT}, protocol: TCP}}]
endpoints:
{nodes}",
        EDGE.ip()
    )
}

/// Every Service that a lab starts with.
pub fn all() -> Vec<Entry> {
    vec![web(), web_local(), echo(), dns(), mqtt(), rtmp(), iperf()]
}

/// Their twins of IPv6, but for RTMP, whose server has none.
pub fn all_over_ipv6() -> Vec<Entry> {
    all().iter().filter(|entry| entry.service.name != "rtmp").map(Entry::over_ipv6).collect()
}

/// The appliance's address that serves a client's nodePorts.
fn gateway(ipv6: bool, inside: bool) -> IpAddr {
    match (ipv6, inside) {
        (false, false) => plan::GATEWAY_OUTSIDE.into(),
        (false, true) => plan::GATEWAY_INSIDE.into(),
        (true, false) => plan::GATEWAY_OUTSIDE6.into(),
        (true, true) => plan::GATEWAY_INSIDE6.into(),
    }
}

/// The IPv6 address of this prefix that ends as the IPv4 one does.
fn in_v6<const N: usize>(ip: IpAddr, prefix: [u16; N]) -> IpAddr {
    let mut words = [0; 8];
    words[..N].copy_from_slice(&prefix);
    if let IpAddr::V4(v4) = ip {
        words[7] = plan::digits(v4.octets()[3]);
    }
    Ipv6Addr::from(words).into()
}

fn entry(
    namespace: &'static str,
    name: &str,
    cluster: u8,
    public: u8,
    ports: Vec<ServicePort>,
    pods: &[&'static str],
) -> Entry {
    let service = Service {
        namespace,
        name: name.to_owned(),
        kind: "LoadBalancer",
        cluster_ip: [10, 3, 241, cluster].into(),
        external_ips: vec![EXTERNAL_IP.parse().expect("a constant address")],
        load_balancer_ip: Some([203, 0, 113, public].into()),
        ports,
        local: false,
        health_check_node_port: 0,
        mode: None,
    };
    Entry { service, members: pods.iter().copied().map(Member::ready).collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_entries_share_a_frontend() {
        let mut seen = HashSet::new();
        for entry in all().into_iter().chain(all_over_ipv6()) {
            for port in &entry.service.ports {
                for frontend in FRONTENDS {
                    let target = entry.target(frontend, port.name, false);
                    assert!(seen.insert((target, port.protocol)), "{target} of {}", entry.service.name);
                }
            }
        }
    }
}
