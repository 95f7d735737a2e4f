//! The appliance's own configuration: one YAML document, parsed once into values that need no further checks.
//! Every key has a default unless its type says otherwise. Not here: cluster state (`model`), which comes from `kubernetes`.

mod checks;
mod cross;
pub(crate) mod duration;
mod port;
mod protection;
mod read;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use packet::MacAddr;
use tables::{Answers, Limits};

pub(crate) use self::checks::SLOW_START;
pub use self::duration::parse_argument as parse_duration;
pub use self::port::{Carrier, PortConfig};

use crate::pool::Pool;
use crate::probe::Check;
use crate::yaml::{self, At, Errors, Problem};

/// Where the configuration is looked for when no `--config` is given.
pub const DEFAULT_PATH: &str = "/etc/fairlead/config.yaml";

/// The whole document, `apiVersion: fairlead.dev/v1alpha1`, `kind: GatewayConfig`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GatewayConfig {
    /// At least one; their order gives the port numbers. Those with a device come first.
    pub ports: Vec<PortConfig>,
    /// How many workers, where, and what they do when idle.
    pub workers: Workers,
    /// What the DPDK environment is started with.
    pub dpdk: DpdkConfig,
    /// Where cluster state comes from and how it is read.
    pub kubernetes: KubernetesConfig,
    /// Addresses to give to Services of type `LoadBalancer`.
    pub pools: Vec<Pool>,
    /// How service packets are rewritten and remembered.
    pub forwarding: ForwardingConfig,
    /// What senders may bring about in a second; new flows of all workers together, packets for the kernel of each.
    pub protection: Limits,
    /// What backends are asked, where their Service does not say.
    pub health_checks: Check,
    /// Static routes.
    pub routes: Vec<RouteConfig>,
    /// Static neighbours.
    pub neighbors: Vec<NeighborConfig>,
    /// The unix socket of the admin API.
    pub admin: AdminConfig,
    /// The HTTP listener of `/metrics`, `/healthz` and `/readyz`.
    pub metrics: MetricsConfig,
    /// Folder for what must survive a restart; one process at a time.
    pub state_dir: PathBuf,
}

/// Where workers run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Placement {
    /// So many workers, on cores of our choice.
    Count(u16),
    /// One worker on each of these cores.
    Cores(Vec<u16>),
}

/// The packet workers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workers {
    /// How many and where.
    pub placement: Placement,
    /// What a worker does when nothing arrives.
    pub idle: Idle,
}

impl Workers {
    /// Number of workers, at least 1.
    #[must_use]
    pub fn count(&self) -> u16 {
        match &self.placement {
            Placement::Count(count) => *count,
            Placement::Cores(cores) => u16::try_from(cores.len()).unwrap_or(u16::MAX),
        }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self { placement: Placement::Count(1), idle: Idle::Poll }
    }
}

/// What a worker does when nothing arrives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Idle {
    /// Keeps polling.
    #[default]
    Poll,
    /// Sleeps until a receive interrupt, or where ports have none for 50 us, then 0.9 ms.
    Sleep,
}

/// Whether packet memory lies in huge pages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hugepages {
    /// When the host has them.
    #[default]
    Auto,
    /// Or the start fails.
    Require,
    /// Not at all.
    Never,
}

/// What the DPDK environment is started with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DpdkConfig {
    /// Packet memory in MiB.
    pub memory_mib: u32,
    /// Whether that memory lies in huge pages.
    pub hugepages: Hugepages,
    /// Further EAL arguments, in order.
    pub args: Vec<String>,
}

impl Default for DpdkConfig {
    fn default() -> Self {
        Self { memory_mib: 1024, hugepages: Hugepages::Auto, args: Vec::new() }
    }
}

/// Where cluster state comes from: exactly one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A directory of manifests, or a single file.
    Manifests(PathBuf),
    /// The API server that a kubeconfig file names.
    Kubeconfig(PathBuf),
    /// The API server of the cluster this process runs in.
    InCluster,
}

/// Where cluster state comes from and how it is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KubernetesConfig {
    /// The one source.
    pub source: Source,
    /// The node that the appliance acts as; none: it is off-node.
    pub node_name: Option<String>,
    /// Pod networks besides those of the Nodes.
    pub pod_cidrs: Vec<IpNet>,
    /// Service networks besides those of the `ServiceCIDR` objects.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses that serve nodePorts; a family without an entry here serves on all its port addresses.
    pub node_port_addresses: Vec<IpNet>,
    /// First and last nodePort that the API server gives out: flows are never translated to a port in between.
    pub node_port_range: (u16, u16),
    /// Where a Service's externalIPs may lie; empty: nowhere.
    pub external_ip_allow: Vec<IpNet>,
    /// The `loadBalancerClass` that is ours; empty: Services without a class.
    pub load_balancer_class: String,
    /// Whether MetalLB's annotations on Services are heard as our own are.
    pub metallb_annotations: bool,
    /// Follow the Services that carry this value of `service.kubernetes.io/service-proxy-name`; none: those without it.
    pub service_proxy_name: Option<String>,
    /// The Lease whose holder decides about addresses, with an API server as the source.
    pub lease: LeaseConfig,
}

/// A Lease by namespace and name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseConfig {
    /// Its namespace; must exist.
    pub namespace: String,
    /// Its name; appliances with one name share their decisions.
    pub name: String,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { namespace: "fairlead-system".into(), name: "fairlead".into() }
    }
}

/// The API server's own default of `--service-node-port-range`.
pub const NODE_PORT_RANGE: (u16, u16) = (30_000, 32_767);

/// How a Service's packets are rewritten unless the Service says otherwise.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// `dnat` for `externalTrafficPolicy: Local`, `snat` for `Cluster`.
    #[default]
    Auto,
    /// Source rewritten to the appliance's address.
    Snat,
    /// Source kept; replies must pass the appliance.
    Dnat,
}

/// What a Service's packets are sent to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Target {
    /// Straight to the endpoints.
    #[default]
    Pods,
    /// To the nodePorts of the nodes.
    NodePorts,
}

/// How service packets are rewritten and remembered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForwardingConfig {
    /// Default mode.
    pub mode: Mode,
    /// Default target.
    pub target: Target,
    /// Addresses for SNAT; empty: the first address of the port that leads to the backend.
    pub snat_addresses: Vec<IpAddr>,
    /// First and last source port for SNAT.
    pub snat_ports: (u16, u16),
    /// Capacity of one worker's flow table.
    pub flows_per_worker: u32,
    /// Clients that one worker remembers for session affinity.
    pub affinity_clients: u32,
    /// How long flows may stay at a backend that drains or is gone; none: until they end.
    pub drain_deadline: Option<Duration>,
    /// Over which time an endpoint that becomes ready gets its share of new flows; none: at once.
    pub slow_start: Option<Duration>,
    /// What senders are told of packets that go no further.
    pub answers: Answers,
    /// When an idle flow is forgotten.
    pub timeouts: Timeouts,
}

impl Default for ForwardingConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            target: Target::Pods,
            snat_addresses: Vec::new(),
            snat_ports: (1024, 60_999),
            flows_per_worker: 1 << 20,
            affinity_clients: 1 << 16,
            drain_deadline: None,
            slow_start: None,
            answers: Answers::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// When an idle flow is forgotten; each 1 s to 14 days.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp_established: Duration,
    /// TCP that is opening or closing.
    pub tcp_transient: Duration,
    /// UDP that saw no reply.
    pub udp: Duration,
    /// UDP that saw packets both ways.
    pub udp_stream: Duration,
    /// SCTP.
    pub sctp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(2 * 3600),
            tcp_transient: Duration::from_secs(120),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(180),
            sctp: Duration::from_secs(2 * 3600),
        }
    }
}

/// A static route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteConfig {
    /// Destination, host bits zero.
    pub to: IpNet,
    /// Next hops, of the same family, on connected subnets; several share the traffic. None: packets are dropped.
    pub via: Vec<IpAddr>,
}

/// A static neighbour.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NeighborConfig {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Name of the port it is behind.
    pub port: String,
}

/// The admin API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdminConfig {
    /// Unix socket.
    pub socket: PathBuf,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/fairlead/admin.sock") }
    }
}

/// The metrics listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MetricsConfig {
    /// Address and TCP port.
    pub listen: SocketAddr,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9472)) }
    }
}

/// Why a file gave no value: every fault, by line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The file's name as it was given.
    pub file: String,
    /// The faults, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Refused {
    /// One line a fault: `FILE:LINE: path.to.key: what is wrong; what is expected`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}: {problem}", self.file, problem.line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

impl GatewayConfig {
    /// Reads the document in `text`; `file` names it in faults.
    ///
    /// # Errors
    /// With every fault of the document, not only the first.
    pub fn parse(file: &str, text: &str) -> Result<Self, Refused> {
        read_document(text).map_err(|problems| Refused { file: file.to_owned(), problems })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Self::parse`], and when the file cannot be read or is larger than 1 MiB.
    pub fn load(path: &Path) -> Result<Self, Refused> {
        let file = path.display().to_string();
        let text = read_bounded(path).map_err(|what| Refused {
            file: file.clone(),
            problems: vec![document_problem(what, "a readable file of YAML is expected")],
        })?;
        Self::parse(&file, &text)
    }
}

/// The line of a key, for a fault that shows only when its value is used; 1 when the key is not there.
#[must_use]
pub fn line_of(path: &Path, keys: [&str; 2]) -> usize {
    let text = read_bounded(path).unwrap_or_default();
    let documents = yaml::parse(&text).documents;
    let root = documents.first().map(At::root);
    let outer = root.as_ref().and_then(|root| root.field(keys[0]));
    outer.as_ref().and_then(|outer| outer.field(keys[1])).map_or(1, |at| at.line())
}

/// Largest configuration file in bytes.
const FILE_MAX: u64 = 1 << 20;

fn read_bounded(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_MAX {
        return Err(format!("larger than {FILE_MAX} bytes"));
    }
    Ok(text)
}

fn document_problem(what: impl fmt::Display, expected: &str) -> Problem {
    Problem { line: 1, path: String::new(), message: format!("{what}; {expected}") }
}

fn read_document(text: &str) -> Result<GatewayConfig, Vec<Problem>> {
    let yaml::Parsed { documents, faults } = yaml::parse(text);
    let mut problems: Vec<_> = faults.into_iter().map(Problem::from).collect();
    let [document] = documents.as_slice() else {
        if problems.is_empty() {
            let what = format!("{} documents", documents.len());
            problems.push(document_problem(what, "exactly one document is expected"));
        }
        return Err(problems);
    };
    let errors = Errors::default();
    let root = At::root(document);
    let mut config = read::document(&root, &errors);
    let between = cross::check(&root, &config, &errors);
    problems.extend(errors.into_problems());
    problems.extend(between.into_problems());
    problems.sort_by_key(|problem| problem.line);
    config.ports.sort_by_key(|port| port.device().is_none());
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}
