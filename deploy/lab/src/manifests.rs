//! The manifests of the lab's cluster, as a Kubernetes user would write them, and their atomic replacement.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::plan::{self, Container, Machine};

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Port name; may be empty when it is the only one.
    pub name: &'static str,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// The Service's port.
    pub port: u16,
    /// The pod's port.
    pub target: u16,
    /// The nodePort; 0 for none.
    pub node_port: u16,
}

/// A Service as the lab writes it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Namespace.
    pub namespace: &'static str,
    /// Name.
    pub name: String,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub kind: &'static str,
    /// Its clusterIP.
    pub cluster_ip: IpAddr,
    /// Its externalIPs.
    pub external_ips: Vec<IpAddr>,
    /// `spec.loadBalancerIP`, where a fixed address is asked for.
    pub load_balancer_ip: Option<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// externalTrafficPolicy Local.
    pub local: bool,
    /// The healthCheckNodePort; 0 for none.
    pub health_check_node_port: u16,
    /// Annotation `fairlead.dev/mode`.
    pub mode: Option<&'static str>,
}

impl Service {
    /// The address and port of its first port behind the clusterIP.
    pub fn first_port(&self) -> &ServicePort {
        self.ports.first().expect("a Service of the lab has a port")
    }

    /// Whether it is a Service of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.cluster_ip.is_ipv6()
    }

    /// YAML of the object.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {}\n",
            self.name, self.namespace
        );
        if let Some(mode) = self.mode {
            text += &format!("  annotations:\n    fairlead.dev/mode: {mode}\n");
        }
        text += &format!(
            "spec:\n  type: {}\n  clusterIP: \"{ip}\"\n  clusterIPs: [\"{ip}\"]\n  ipFamilies: [{family}]\n",
            self.kind,
            ip = self.cluster_ip,
            family = self.family()
        );
        if !self.external_ips.is_empty() {
            let list: Vec<_> = self.external_ips.iter().map(|ip| format!("\"{ip}\"")).collect();
            text += &format!("  externalIPs: [{}]\n", list.join(", "));
        }
        if let Some(ip) = self.load_balancer_ip {
            text += &format!("  loadBalancerIP: \"{ip}\"\n");
        }
        if self.local {
            text += "  externalTrafficPolicy: Local\n";
        }
        if self.health_check_node_port != 0 {
            text += &format!("  healthCheckNodePort: {}\n", self.health_check_node_port);
        }
        text += &format!("  selector:\n    app: {}\n  ports:\n", self.name);
        for port in &self.ports {
            text += &format!(
                "  - protocol: {}\n    port: {}\n    targetPort: {}\n",
                port.protocol, port.port, port.target
            );
            if !port.name.is_empty() {
                text += &format!("    name: {}\n", port.name);
            }
            if port.node_port != 0 {
                text += &format!("    nodePort: {}\n", port.node_port);
            }
        }
        text
    }

    /// YAML of its EndpointSlice with these members.
    pub fn endpoints_yaml(&self, members: &[Member]) -> String {
        let mut text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-x7k2p\n  namespace: {}\n  \
             labels:\n    kubernetes.io/service-name: {name}\naddressType: {family}\nports:\n",
            self.namespace,
            family = self.family(),
            name = self.name
        );
        for port in &self.ports {
            text += &format!(
                "- name: \"{}\"\n  protocol: {}\n  port: {}\n",
                port.name, port.protocol, port.target
            );
        }
        text += if members.is_empty() { "endpoints: []\n" } else { "endpoints:\n" };
        for member in members {
            let pod = plan::pod(member.pod);
            text += &format!(
                "- addresses: [\"{}\"]\n  nodeName: {}\n  targetRef: {{kind: Pod, name: {}, namespace: {}}}\n  \
                 conditions: {{ready: {}, serving: {}, terminating: {}}}\n",
                if self.is_ipv6() { IpAddr::V6(pod.address6()) } else { pod.address().into() },
                plan::NODES[pod.node].name,
                pod.name,
                self.namespace,
                member.ready,
                member.serving,
                member.terminating
            );
        }
        text
    }
}

impl Service {
    fn family(&self) -> &'static str {
        if self.is_ipv6() { "IPv6" } else { "IPv4" }
    }
}

/// One endpoint of a slice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    /// Pod name, of the plan.
    pub pod: &'static str,
    /// Condition ready.
    pub ready: bool,
    /// Condition serving.
    pub serving: bool,
    /// Condition terminating.
    pub terminating: bool,
}

impl Member {
    /// A healthy endpoint.
    pub fn ready(pod: &'static str) -> Self {
        Self { pod, ready: true, serving: true, terminating: false }
    }

    /// One whose readiness probe fails.
    pub fn not_ready(pod: &'static str) -> Self {
        Self { pod, ready: false, serving: false, terminating: false }
    }

    /// One that is being deleted and still serves.
    pub fn terminating(pod: &'static str) -> Self {
        Self { pod, ready: false, serving: true, terminating: true }
    }
}

/// YAML of a Node with its podCIDR.
pub fn node_yaml(index: usize, node: &Machine) -> String {
    let net = plan::pod_net(index);
    let (cidr, cidr6) = (format!("10.244.{net}.0/24"), format!("fd00:244:{net}::/64"));
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{topology.kubernetes.io/zone: rack-{name}}}\n\
         spec:\n  podCIDR: {cidr}\n  podCIDRs: [{cidr}, \"{cidr6}\"]\nstatus:\n  addresses:\n  - {{type: InternalIP, address: {}}}\n  \
         - {{type: InternalIP, address: \"{}\"}}\n  - {{type: Hostname, address: {name}}}\n",
        node.address(),
        node.address6(),
        name = node.name
    )
}

/// YAML of the ServiceCIDR object.
pub fn service_cidr_yaml() -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata:\n  name: kubernetes\nspec:\n  cidrs: [{}, \"{}\"]\n",
        plan::SERVICE_CIDR,
        plan::SERVICE_CIDR6
    )
}

/// The directory that the appliance follows.
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// Makes the directory with the Nodes and the ServiceCIDR in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let manifests = Self { dir };
        let nodes: Vec<String> = plan::NODES.iter().enumerate().map(|(i, node)| node_yaml(i, node)).collect();
        manifests.write("nodes.yaml", &nodes.join("---\n"))?;
        manifests.write("servicecidr.yaml", &service_cidr_yaml())?;
        Ok(manifests)
    }

    /// The directory.
    pub fn dir(&self) -> &PathBuf {
        &self.dir
    }

    /// Writes or replaces one file: a hidden file first, then a rename, as every careful tool does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let hidden = self.dir.join(format!(".{name}.new"));
        fs::write(&hidden, text).with_context(|| format!("cannot write {}", hidden.display()))?;
        fs::rename(&hidden, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes one file.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.dir.join(name)).with_context(|| format!("cannot remove {name}"))
    }

    /// Writes a Service and its endpoints, each in a file of its own.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn service(&self, service: &Service, members: &[Member]) -> Result<()> {
        self.endpoints(service, members)?;
        self.write(&service_file(service), &service.yaml())
    }

    /// Replaces the endpoints of a Service.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn endpoints(&self, service: &Service, members: &[Member]) -> Result<()> {
        self.write(&endpoints_file(service), &service.endpoints_yaml(members))
    }

    /// Removes a Service and its endpoints.
    ///
    /// # Errors
    /// When they are not there.
    pub fn delete(&self, service: &Service) -> Result<()> {
        self.remove(&service_file(service))?;
        self.remove(&endpoints_file(service))
    }
}

/// Name of the file with a Service.
pub fn service_file(service: &Service) -> String {
    format!("{}-{}.yaml", service.namespace, service.name)
}

/// Name of the file with a Service's EndpointSlice.
pub fn endpoints_file(service: &Service) -> String {
    format!("{}-{}.endpoints.yaml", service.namespace, service.name)
}

/// A port of a Service for one kind of container.
pub fn port(
    name: &'static str,
    protocol: &'static str,
    port: u16,
    target: Container,
    node_port: u16,
) -> ServicePort {
    ServicePort { name, protocol, port, target: target.port(), node_port }
}
