//! The lab put together: segments, clients, nodes, pods with their servers, and the place of the appliance.
//! Everything is taken down when the value is dropped; [`down`](crate::down) removes what a killed program left behind.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::appliance::{Appliance, Options, config};
use crate::catalog;
use crate::manifests::Manifests;
use crate::netns::Namespace;
use crate::plan::{self, CLIENTS, Container, NODES, PODS};
use crate::process::{self, Daemon};
use crate::servers;
use crate::site::Site;

/// Longest wait for the pods' servers to listen.
const SERVERS_UP: Duration = Duration::from_secs(15);

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
    /// The cluster's manifests.
    pub manifests: Manifests,
    site: Site,
}

impl Lab {
    /// Makes the lab and starts the pods' servers. The appliance's place stays empty.
    ///
    /// # Errors
    /// When not root, when a program is missing, or when a lab of the name is there already.
    pub fn up(options: &LabOptions) -> Result<Self> {
        let offloading: &[&str] = if options.c1_tx_offload { &["c1"] } else { &[] };
        let site = Site::up(&options.name, &[CLIENTS, NODES].concat(), offloading)?;
        let mut lab = Self {
            servers: Vec::new(),
            pods: PODS.iter().map(|pod| Namespace::create(site.name(), pod.name)).collect::<Result<_>>()?,
            manifests: Manifests::create(site.dir().join("manifests"))?,
            site,
        };
        lab.wire_pods()?;
        for entry in catalog::all().into_iter().chain(catalog::all_over_ipv6()) {
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
        Appliance::start(options, &[], self.site.gateway(), self.site.dir())
    }

    /// The same with a configuration that is made from the usual one.
    ///
    /// # Errors
    /// As [`Self::appliance`].
    pub fn appliance_with(
        &self,
        options: &Options,
        change: impl FnOnce(String) -> String,
    ) -> Result<Appliance> {
        let (dir, gateway) = (self.site.dir(), self.site.gateway());
        Appliance::start_with(options, change(config(options, dir)), &[], (gateway, dir))
    }

    /// Puts the kernel's own router in the appliance's place: it proves the lab, and forwards to pods only.
    ///
    /// # Errors
    /// When an address or a setting is refused.
    pub fn kernel_router(&self) -> Result<()> {
        self.site.gateway().script(&format!(
            "nft flush ruleset
ip addr add {}/24 dev gw-out; ip addr add {}/24 dev gw-in
ip route add 10.244.1.0/24 via {}; ip route add 10.244.2.0/24 via {}",
            plan::GATEWAY_OUTSIDE,
            plan::GATEWAY_INSIDE,
            NODES[0].address(),
            NODES[1].address()
        ))?;
        self.site.gateway().sysctl("net/ipv4/ip_forward", "1")
    }

    /// A host by its name: `c1`, `c2`, `gw`, `n1`, `n2` or a pod.
    ///
    /// # Panics
    /// When the plan has no such host.
    pub fn host(&self, name: &str) -> &Namespace {
        let pod = PODS.iter().zip(&self.pods).find(|(pod, _)| pod.name == name);
        pod.map(|(_, namespace)| namespace)
            .or_else(|| self.site.machine(name).map(|machine| &**machine))
            .expect("a host of the plan")
    }

    /// The lab's files: configuration, manifests, logs, pods' folders.
    pub fn dir(&self) -> &Path {
        self.site.dir()
    }

    /// Folder that a web pod serves under `/files/`.
    pub fn www(&self, pod: &str) -> PathBuf {
        self.dir().join("pods").join(pod).join("www")
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        self.site.name()
    }

    /// Lets everything live on after this value (`KEEP=1`).
    pub fn release(mut self) {
        self.pods.iter().for_each(Namespace::release);
        self.servers.drain(..).for_each(Daemon::release);
        self.site.release();
    }

    /// Each node's bridge, its way to the other node's pods, its own nodePort rule, and the cables of its pods.
    fn wire_pods(&self) -> Result<()> {
        for (index, node) in NODES.iter().enumerate() {
            let (namespace, far) = (self.host(node.name), &NODES[1 - index]);
            plan::pod_network(index).bridge(namespace)?;
            plan::pod_network(1 - index).route(namespace, &[far.address().into(), far.address6().into()])?;
            namespace.script(&format!(
                "nft -f - <<NFT
table ip proxy {{ chain nodeports {{ type nat hook prerouting priority dstnat; ip daddr {own} tcp dport {port} dnat to {web}:8080; }}; }}
NFT",
                own = node.address(),
                port = plan::NODE_PORT,
                web = PODS.iter().find(|pod| pod.node == index).expect("each node has a web pod").address(),
            ))?;
        }
        for (pod, namespace) in PODS.iter().zip(&self.pods) {
            let node = self.host(NODES[pod.node].name);
            plan::pod_network(pod.node).plug(node, namespace, pod.number)?;
        }
        Ok(())
    }

    fn start_servers(&mut self) -> Result<()> {
        for (pod, namespace) in PODS.iter().zip(&self.pods) {
            for container in pod.containers {
                let dir = self.dir().join("pods").join(pod.name);
                self.servers.push(servers::start(*container, pod, namespace, &dir)?);
            }
        }
        for (pod, namespace) in PODS.iter().zip(&self.pods) {
            for container in pod.containers {
                let address = SocketAddr::from((pod.address(), container.port()));
                let what = format!("{container:?} of pod {} listens", pod.name);
                process::until(&what, SERVERS_UP, || accepts(namespace, address, *container))
                    .with_context(|| format!("its log is under {}", self.dir().join("pods").display()))?;
            }
        }
        Ok(())
    }
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
