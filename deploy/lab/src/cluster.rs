//! The lab put together: segments, clients, nodes, pods with their servers, and the place of the appliance.
//! Everything is taken down when the value is dropped; [`down`] removes what a killed program left behind.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::appliance::{Appliance, Options};
use crate::catalog;
use crate::manifests::Manifests;
use crate::netns::{self, Namespace};
use crate::plan::{self, CLIENTS, Container, Machine, NODES, PODS, PodPlan};
use crate::process::{self, Daemon};
use crate::servers;

/// Longest wait for the pods' servers to listen.
const SERVERS_UP: Duration = Duration::from_secs(15);
/// Longest lab name: a namespace's name must stay readable.
const NAME_MAX: usize = 16;

/// What the lab shall be.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Name of the lab, part of every namespace's name.
    pub name: String,
    /// Leave transmit checksum offload on at client c1: its frames carry unfinished checksums.
    pub c1_tx_offload: bool,
}

/// A running lab.
pub struct Lab {
    /// Processes of the pods; ended before their namespaces go.
    servers: Vec<Daemon>,
    /// The pods' namespaces, in the plan's order.
    pods: Vec<Namespace>,
    nodes: Vec<Namespace>,
    clients: Vec<Namespace>,
    gateway: Namespace,
    fabric: Namespace,
    /// The cluster's manifests.
    pub manifests: Manifests,
    dir: PathBuf,
    name: String,
    keep: bool,
}

impl Lab {
    /// Makes the lab and starts the pods' servers. The appliance's place stays empty.
    ///
    /// # Errors
    /// When not root, when a program is missing, or when a lab of the name is there already.
    pub fn up(options: &LabOptions) -> Result<Self> {
        let name = options.name.as_str();
        check_name(name)?;
        if !netns::existing(name)?.is_empty() {
            bail!("a lab called {name} is running; end it with: lab down {name}");
        }
        let dir = dir_of(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let make = |host: &str| Namespace::create(name, host);
        let mut lab = Self {
            servers: Vec::new(),
            pods: PODS.iter().map(|pod| make(pod.name)).collect::<Result<_>>()?,
            nodes: NODES.iter().map(|node| make(node.name)).collect::<Result<_>>()?,
            clients: CLIENTS.iter().map(|client| make(client.name)).collect::<Result<_>>()?,
            gateway: make("gw")?,
            fabric: make("fabric")?,
            manifests: Manifests::create(dir.join("manifests"))?,
            dir,
            name: name.to_owned(),
            keep: false,
        };
        lab.wire(options)?;
        for entry in catalog::all() {
            lab.manifests.service(&entry.service, &entry.members)?;
        }
        lab.manifests.write("shop-edge.yaml", &catalog::edge_yaml())?;
        lab.start_servers()?;
        Ok(lab)
    }

    /// Starts the appliance.
    ///
    /// # Errors
    /// When it does not become ready; the error ends with its log.
    pub fn appliance(&self, options: &Options) -> Result<Appliance> {
        Appliance::start(options, &self.gateway, &self.dir)
    }

    /// Puts the kernel's own router in the appliance's place: it proves the lab, and forwards to pods only.
    ///
    /// # Errors
    /// When an address or a setting is refused.
    pub fn kernel_router(&self) -> Result<()> {
        self.gateway.script(&format!(
            "nft flush ruleset
ip addr add {}/24 dev gw-out; ip addr add {}/24 dev gw-in
ip route add 10.244.1.0/24 via {}; ip route add 10.244.2.0/24 via {}",
            plan::GATEWAY_OUTSIDE,
            plan::GATEWAY_INSIDE,
            NODES[0].address(),
            NODES[1].address()
        ))?;
        self.gateway.sysctl("net/ipv4/ip_forward", "1")
    }

    /// A host by its name: `c1`, `c2`, `gw`, `n1`, `n2` or a pod.
    ///
    /// # Panics
    /// When the plan has no such host.
    pub fn host(&self, name: &str) -> &Namespace {
        let machines = CLIENTS.iter().zip(&self.clients).chain(NODES.iter().zip(&self.nodes));
        let named = machines.map(|(machine, namespace)| (machine.name, namespace));
        let pods = PODS.iter().zip(&self.pods).map(|(pod, namespace)| (pod.name, namespace));
        [("gw", &self.gateway), ("fabric", &self.fabric)]
            .into_iter()
            .chain(named)
            .chain(pods)
            .find_map(|(known, namespace)| (known == name).then_some(namespace))
            .expect("a host of the plan")
    }

    /// The lab's files: configuration, manifests, logs, pods' folders.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Folder that a web pod serves under `/files/`.
    pub fn www(&self, pod: &str) -> PathBuf {
        self.dir.join("pods").join(pod).join("www")
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets everything live on after this value (`KEEP=1`).
    pub fn release(mut self) {
        self.keep = true;
        for namespace in self.pods.iter_mut().chain(&mut self.nodes).chain(&mut self.clients) {
            namespace.release();
        }
        self.gateway.release();
        self.fabric.release();
        self.servers.drain(..).for_each(Daemon::release);
    }

    fn wire(&self, options: &LabOptions) -> Result<()> {
        self.wire_fabric()?;
        for (machine, namespace) in CLIENTS.iter().zip(&self.clients) {
            self.plug(machine, namespace, !(options.c1_tx_offload && machine.name == "c1"))?;
            namespace.script(&format!(
                "ip -6 addr add 2001:db8:1::{number}/64 dev eth0 nodad
ip route add default via {gateway}; ip -6 route add default via 2001:db8:1::1",
                number = machine.number,
                gateway = plan::GATEWAY_OUTSIDE
            ))?;
        }
        for (index, (machine, namespace)) in NODES.iter().zip(&self.nodes).enumerate() {
            self.plug(machine, namespace, true)?;
            wire_node(index, machine, namespace)?;
        }
        for (pod, namespace) in PODS.iter().zip(&self.pods) {
            self.wire_pod(pod, namespace)?;
        }
        Ok(())
    }

    /// Two bridges as the segments, and the appliance's two cables. In its namespace an ingress hook drops what
    /// arrives after the packet sockets saw it: the kernel's own stack must not answer beside the appliance.
    fn wire_fabric(&self) -> Result<()> {
        self.fabric.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        self.gateway.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
        let gateway = self.gateway.name();
        let mut script = String::new();
        for side in ["out", "in"] {
            script += &format!(
                "ip link add br-{side} type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip link set br-{side} up
ip link add gw-{side} type veth peer name gw-{side} netns {gateway}
ip link set gw-{side} master br-{side} up
{}",
                plain(&format!("gw-{side}"))
            );
        }
        self.fabric.script(&script)?;
        let mut script = String::from("echo '");
        script += "table netdev lab {\n";
        for side in ["out", "in"] {
            script += &format!(
                " chain {side} {{ type filter hook ingress device \"gw-{side}\" priority 0; policy drop; }}\n"
            );
        }
        script += "}' | nft -f -\n";
        for (side, number) in [("out", 1), ("in", 2)] {
            self.gateway.sysctl(&format!("net/ipv6/conf/gw-{side}/disable_ipv6"), "1")?;
            script += &format!(
                "ip link set gw-{side} address 02:00:00:00:0{number}:01 up; {}",
                plain(&format!("gw-{side}"))
            );
        }
        self.gateway.script(&script).map(drop)
    }

    /// A cable between a machine and its segment.
    fn plug(&self, machine: &Machine, namespace: &Namespace, plain_tx: bool) -> Result<()> {
        let bridge = if machine.outside { "br-out" } else { "br-in" };
        let (host, name) = (machine.name, namespace.name());
        self.fabric.script(&format!(
            "ip link add {host} type veth peer name eth0 address {} netns {name}
ip link set {host} master {bridge} up
{}",
            machine.mac(),
            plain(host)
        ))?;
        let offloads = if plain_tx { plain("eth0") } else { String::new() };
        namespace.script(&format!(
            "{offloads}ip addr add {}/24 dev eth0; ip link set eth0 up",
            machine.address()
        ))?;
        Ok(())
    }

    fn wire_pod(&self, pod: &PodPlan, namespace: &Namespace) -> Result<()> {
        let (net, node) = (plan::pod_net(pod.node), &self.nodes[pod.node]);
        node.script(&format!(
            "ip link add v{name} type veth peer name eth0 netns {}
ip link set v{name} master cni0 up
{}",
            namespace.name(),
            plain(&format!("v{}", pod.name)),
            name = pod.name
        ))?;
        namespace.script(&format!(
            "{}ip addr add {}/24 dev eth0; ip -6 addr add fd00:244:{net}::{}/64 dev eth0 nodad; ip link set eth0 up
ip route add default via 10.244.{net}.1; ip -6 route add default via fd00:244:{net}::1",
            plain("eth0"),
            pod.address(),
            pod.number
        ))?;
        Ok(())
    }

    fn start_servers(&mut self) -> Result<()> {
        for (pod, namespace) in PODS.iter().zip(&self.pods) {
            for container in pod.containers {
                let dir = self.dir.join("pods").join(pod.name);
                self.servers.push(servers::start(*container, pod, namespace, &dir)?);
            }
        }
        for (pod, namespace) in PODS.iter().zip(&self.pods) {
            for container in pod.containers {
                let address = SocketAddr::from((pod.address(), container.port()));
                let what = format!("{container:?} of pod {} listens", pod.name);
                process::until(&what, SERVERS_UP, || accepts(namespace, address, *container))
                    .with_context(|| format!("its log is under {}", self.dir.join("pods").display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep {
            self.servers.clear();
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Ends whatever there is of a lab of this name: its processes, its namespaces, its files.
///
/// # Errors
/// When a namespace resists.
pub fn down(name: &str) -> Result<usize> {
    check_name(name)?;
    let namespaces = netns::existing(name)?;
    for signal in [Signal::TERM, Signal::KILL] {
        let ended = process::until("processes end", Duration::from_secs(6), || {
            let pids: Vec<i32> = namespaces.iter().filter_map(|n| netns::pids(n).ok()).flatten().collect();
            for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, signal);
            }
            pids.is_empty()
        });
        if ended.is_ok() {
            break;
        }
    }
    for namespace in &namespaces {
        netns::delete(namespace)?;
    }
    let dir = dir_of(name);
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(namespaces.len())
}

/// Ends labs called `<stem><pid>...` whose program is gone: it was killed before it could tidy up.
pub fn sweep(stem: &str) {
    for entry in fs::read_dir("/tmp/fairlead-lab").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(stem) else { continue };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && !Path::new("/proc").join(&pid).exists() {
            let _ = down(&name);
        }
    }
}

/// Where a lab keeps its files.
pub fn dir_of(name: &str) -> PathBuf {
    PathBuf::from("/tmp/fairlead-lab").join(name)
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_MAX).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Ok(());
    }
    bail!("{name:?} cannot name a lab: 1 to {NAME_MAX} letters a-z and digits")
}

/// Frames as a wire would carry them: no unfinished checksums, no giant segments.
fn plain(device: &str) -> String {
    format!("ethtool -K {device} tx off tso off gso off gro off rxvlan off txvlan off >/dev/null\n")
}

fn wire_node(index: usize, machine: &Machine, namespace: &Namespace) -> Result<()> {
    let (net, other) = (plan::pod_net(index), 1 - index);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        namespace.sysctl(key, "1")?;
    }
    // Replies come in by another way than a strict check expects; a redirect would teach pods to go round the appliance.
    for key in ["all", "default", "eth0"] {
        namespace.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0")?;
        namespace.sysctl(&format!("net/ipv4/conf/{key}/send_redirects"), "0")?;
    }
    namespace.script(&format!(
        "ip -6 addr add 2001:db8:2::{number}/64 dev eth0 nodad
ip link add cni0 type bridge stp_state 0 forward_delay 0; ip addr add 10.244.{net}.1/24 dev cni0
ip -6 addr add fd00:244:{net}::1/64 dev cni0 nodad; ip link set cni0 up
ip route add default via {gateway}; ip -6 route add default via 2001:db8:2::1
ip route add 10.244.{far}.0/24 via {neighbour}; ip -6 route add fd00:244:{far}::/64 via 2001:db8:2::{far_number}
nft -f - <<NFT
table ip proxy {{ chain nodeports {{ type nat hook prerouting priority dstnat; ip daddr {own} tcp dport {port} dnat to {web}:8080; }}; }}
NFT",
        own = machine.address(),
        port = plan::NODE_PORT,
        web = PODS.iter().find(|pod| pod.node == index).expect("each node has a web pod").address(),
        number = machine.number,
        gateway = plan::GATEWAY_INSIDE,
        far = plan::pod_net(other),
        neighbour = NODES[other].address(),
        far_number = NODES[other].number,
    ))?;
    Ok(())
}

fn accepts(namespace: &Namespace, address: SocketAddr, container: Container) -> bool {
    let limit = Duration::from_millis(500);
    // iperf3 serves one connection at a time and takes a bare connect for a broken test: look at its socket instead.
    if container == Container::Iperf {
        let listening = namespace.run(&["ss", "-Hltn", "sport = :5201"], limit);
        return listening.is_ok_and(|outcome| !outcome.stdout.is_empty());
    }
    namespace.within(|| TcpStream::connect_timeout(&address, limit).is_ok()).unwrap_or(false)
}
