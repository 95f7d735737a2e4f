//! What is put into the cluster to be measured.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

/// Services beside the measured one, of four endpoints each.
pub(super) const OTHERS: u32 = 500;

/// Two web servers and two echo servers, all on the node where kube-proxy runs.
pub(super) const PODS: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {kubernetes.io/hostname: n1}
      containers:
      - {name: web, image: nginx, readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      nodeSelector: {kubernetes.io/hostname: n1}
      containers:
      - {name: echo, image: echo, readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}}
";

/// A LoadBalancer Service without a selector: `port` leads to its slice's port.
pub(super) fn service(name: &str, address: IpAddr, port: &str, node_port: u16) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{fairlead.dev/ips: {address}}}}},
 spec: {{type: LoadBalancer, ports: [{{protocol: {port}, port: 80, nodePort: {node_port}}}]}}}}\n"
    )
}

/// Its only slice.
pub(super) fn slice(name: &str, pods: &[IpAddr], (protocol, port): (&str, u16)) -> String {
    let endpoints: Vec<String> = pods.iter().map(|ip| format!("{{addresses: [\"{ip}\"]}}")).collect();
    let endpoints = endpoints.join(", ");
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}},
 ports: [{{name: '', protocol: {protocol}, port: {port}}}], endpoints: [{endpoints}]}}\n"
    )
}

/// The slice of one of the other Services, endpoints where nobody is; `turn` moves one of them.
pub(super) fn other_slice(number: u32, turn: u32) -> String {
    let at = |host: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0afb_0000 + host));
    let all = [at(number * 4), at(number * 4 + 1), at(number * 4 + 2), at(0x8000 + number + turn * OTHERS)];
    slice(&format!("other-{number}"), &all, ("TCP", 8080))
}

/// Some of the other Services with their slices.
pub(super) fn others(numbers: Range<u32>) -> String {
    let mut text = String::new();
    for number in numbers {
        let _ = write!(
            text,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: other-{number}}}, spec: {{ports: [{{port: 80}}]}}}}\n{}",
            other_slice(number, 0)
        );
    }
    text
}

/// kube-proxy as a node runs it, with its defaults but for the kernel's limits, which are not the namespace's to set.
pub(super) fn kube_proxy(kubeconfig: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: n1
clientConnection: {{kubeconfig: {kubeconfig}}}
detectLocalMode: ClusterCIDR
clusterCIDR: 10.244.0.0/16
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
"
    )
}
