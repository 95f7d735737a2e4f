//! Small clusters in YAML, compiled, and asked what becomes of a packet: one test a rule of Kubernetes Services.

mod allocation;
mod endpoints;
mod frontends;
mod health;
mod history;
mod hostile;
mod origins;
mod policies;
mod probes;
mod ramp;
mod routes;
mod scale;
mod targets;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use packet::Protocol;
use tables::{Action, AddressKind, Choice, NatMode, Tables};

use super::{Compiler, ServiceReport, Settings};
use crate::ipam::Assignments;
use crate::manifests::SourceState;
use crate::network::{Network, NetworkPort};

/// A compiler fed with manifests.
pub(super) struct World {
    pub(super) compiler: Compiler,
    source: SourceState,
    pub(super) tables: Tables,
}

impl World {
    pub(super) fn new(settings: Settings, manifests: &[String]) -> Self {
        let mut compiler = Compiler::new(settings, Assignments::default());
        compiler.set_network(network());
        let tables = compiler.compile();
        let mut world = Self { compiler, source: SourceState::default(), tables };
        world.set("all", &manifests.join("---\n"));
        world
    }

    /// Off-node, with the two nodes.
    pub(super) fn off_node(manifests: &[String]) -> Self {
        let manifests: Vec<_> = manifests.iter().cloned().chain([nodes()]).collect();
        Self::new(settings(), &manifests)
    }

    /// Acting as node `n1`.
    pub(super) fn on_n1(manifests: &[String]) -> Self {
        let manifests: Vec<_> = manifests.iter().cloned().chain([nodes()]).collect();
        Self::new(Settings { node_name: Some("n1".into()), ..settings() }, &manifests)
    }

    pub(super) fn set(&mut self, file: &str, text: &str) {
        let changes = self.source.set(file, Ok(text), SystemTime::UNIX_EPOCH);
        for report in self.source.report() {
            assert!(report.good, "{:?}", report.problems);
        }
        changes.into_iter().for_each(|change| self.compiler.apply(change));
        self.tables = self.compiler.compile();
    }

    /// What becomes of a TCP packet, as text.
    pub(super) fn tcp(&self, src: &str, dst: &str) -> String {
        look(&self.tables, Protocol::Tcp, src, dst)
    }

    /// What an endpoint's answers come from: a frontend, `none` if that is not sure, `-` if it is nobody's to say.
    pub(super) fn origin(&self, endpoint: &str) -> String {
        let at: SocketAddr = endpoint.parse().expect("address:port");
        let found = self.tables.origins.get(at.ip(), Protocol::Tcp, at.port());
        if let Some(origin) = found {
            let backend = self.tables.backend(origin.backend).expect("one of its names");
            assert_eq!((backend.address, backend.port), (at.ip(), at.port()));
        }
        found.map_or("-".into(), |origin| origin.vip.map_or("none".into(), |vip| vip.to_string()))
    }

    pub(super) fn report(&self, name: &str) -> ServiceReport {
        self.compiler.services().into_iter().find(|report| report.name == name).expect("the Service is known")
    }

    pub(super) fn problems(&self, name: &str) -> String {
        self.report(name).problems.join("; ")
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        external_ip_allow: vec![
            "198.51.100.0/24".parse().expect("CIDR"),
            "2001:db8:99::/64".parse().expect("CIDR"),
        ],
        snat_ports: (1024, 60_999),
        node_port_range: (30_000, 32_767),
        workers: 1,
        ..Settings::default()
    }
}

pub(super) fn network() -> Network {
    let port = |index: u16, name: &str, addresses: &[&str]| {
        let mac = packet::MacAddr([2, 0, 0, 0, 0, u8::try_from(index).expect("few")]);
        let addresses = addresses.iter().map(|text| text.parse().expect("address")).collect();
        NetworkPort::new(index, name, mac, addresses)
    };
    let outside = port(0, "outside", &["192.0.2.1/24", "2001:db8:1::1/64"]);
    Network { ports: vec![outside, port(1, "inside", &["10.0.0.1/24", "fd00::1/64"])], ..Network::default() }
}

/// Two nodes in zones a and b, the service CIDRs.
pub(super) fn nodes() -> String {
    let node = |name: &str, zone: &str, index: u8| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\nspec: {{podCIDRs: [10.1.{index}.0/24, \"fd01:{index}::/64\"]}}\nstatus:\n  addresses:\n  - {{type: InternalIP, address: 10.0.0.1{index}}}\n  - {{type: InternalIP, address: \"fd00::1{index}\"}}\n  - {{type: Hostname, address: {name}}}\n---\n"
        )
    };
    let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16, \"fd96::/112\"]}\n";
    node("n1", "a", 1) + &node("n2", "b", 2) + cidr
}

/// A Service with cluster address 10.96.0.`ip` and port 80; `spec` is more of its spec, two blanks deep.
pub(super) fn service(name: &str, ip: u8, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.96.0.{ip}\n  ports: [{{port: 80, nodePort: {}}}]\n{spec}\n",
        30_000 + u16::from(ip)
    )
}

/// Type LoadBalancer with address 203.0.113.`ip` in its status.
pub(super) fn balancer(name: &str, ip: u8, spec: &str) -> String {
    format!(
        "{}status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.{ip}}}]}}}}\n",
        service(name, ip, &format!("  type: LoadBalancer\n{spec}"))
    )
}

/// A slice; each endpoint is `ADDRESS [@NODE] [WORD...]`, words: `unready`, `unserving`, `terminating`, `zone=Z`, `node=N`.
pub(super) fn slice(service: &str, endpoints: &[&str]) -> String {
    let endpoints: String = endpoints.iter().map(|text| endpoint(text)).collect();
    let list = if endpoints.is_empty() { " null\n".to_owned() } else { format!("\n{endpoints}") };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints:{list}"
    )
}

fn endpoint(text: &str) -> String {
    let mut words = text.split(' ');
    let mut yaml = format!("- addresses: [\"{}\"]\n", words.next().expect("an address"));
    let (mut ready, mut serving, mut terminating) = (true, true, false);
    let (mut zones, mut nodes) = (Vec::new(), Vec::new());
    for word in words {
        match word {
            "unready" => ready = false,
            "unserving" => serving = false,
            "terminating" => (ready, terminating) = (false, true),
            word => match (word.strip_prefix('@'), word.split_once('=')) {
                (Some(node), _) => yaml.push_str(&format!("  nodeName: {node}\n")),
                (_, Some(("zone", zone))) => zones.push(format!("{{name: {zone}}}")),
                (_, Some(("node", node))) => nodes.push(format!("{{name: {node}}}")),
                _ => panic!("{word}"),
            },
        }
    }
    yaml.push_str(&format!(
        "  conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}\n"
    ));
    yaml + &format!("  hints: {{forZones: [{}], forNodes: [{}]}}\n", zones.join(", "), nodes.join(", "))
}

/// `pass`, `deliver`, or frontend kind and verdict: `ClusterIP snat 10.1.1.1:8080 10.1.2.1:8080`, `VIP drop Reason`.
pub(super) fn look(tables: &Tables, protocol: Protocol, src: &str, dst: &str) -> String {
    let (src, dst): (IpAddr, SocketAddr) = (src.parse().expect("source"), dst.parse().expect("destination"));
    let Some(frontend) = tables.frontend(dst.ip(), protocol, dst.port()) else {
        return match tables.refusal(dst.ip()) {
            Some(action) => verdict(action),
            None if matches!(tables.addresses.get(dst.ip()), Some(info) if matches!(info.kind, AddressKind::Own(_))) => {
                "deliver".into()
            }
            None => "pass".into(),
        };
    };
    let service = tables.service(frontend.service).expect("the index names live services");
    let choice = service.choose(frontend.kind, src, tables.source_of(src));
    let Choice { action: Action::Balance(position), mode } = choice else {
        return format!("{} {}", frontend.kind.name(), verdict(choice.action));
    };
    let pool = service.pool(position).expect("rules name pools that exist");
    let mut seen = BTreeSet::new();
    for id in &*pool.backends {
        let backend = tables.backend(*id).expect("pools name live backends");
        seen.insert(SocketAddr::new(backend.address, backend.port).to_string());
    }
    for hash in (0..64u64).map(|step| step << 58) {
        assert!(pool.backends.contains(&pool.pick(hash).expect("a pool is not empty")));
    }
    let mode = if mode == NatMode::Snat { "snat" } else { "dnat" };
    let backends: Vec<_> =
        seen.into_iter().map(|at| at.strip_suffix(":8080").map(str::to_owned).unwrap_or(at)).collect();
    format!("{} {mode} {}", frontend.kind.name(), backends.join(" "))
}

fn verdict(action: Action) -> String {
    match action {
        Action::Drop(reason) => format!("drop {reason}"),
        Action::Reject(reason) => format!("reject {reason}"),
        Action::Balance(_) => unreachable!("told by the caller"),
    }
}

/// A client outside, pods and nodes n1 and n2.
pub(super) const CLIENT: &str = "203.0.113.250";
pub(super) const POD_1: &str = "10.1.1.99";
pub(super) const POD_2: &str = "10.1.2.99";
pub(super) const NODE_1: &str = "10.0.0.11";
pub(super) const NODE_2: &str = "10.0.0.12";
