//! A lab with Kubernetes itself in it: the control plane on a machine of its own, two nodes that run what it schedules, two
//! clients outside, and the place of the appliance between them. Driven by `kubectl`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::appliance::{Appliance, Options};
use crate::audit;
use crate::controlplane::{ControlPlane, Kubectl};
use crate::netns::Namespace;
use crate::node::{LabNode, NodeOptions};
use crate::plan::{self, CLIENTS, CONTROL_PLANE, Machine, NODES};
use crate::relay::Relay;
use crate::site::Site;

/// The well-known label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What gives Fairlead its account, as it is shipped; from the repository's root, where the lab is run.
const DEPLOY: &str = "deploy/kubernetes";

/// The port of the relay before the API server.
const RELAY_PORT: u16 = 16443;

/// A running lab with Kubernetes in it.
pub struct KubeLab {
    /// By name; a node that is off has only what starts it again.
    nodes: BTreeMap<&'static str, Power>,
    /// The control plane.
    pub plane: ControlPlane,
    kubectl: Kubectl,
    site: Site,
}

enum Power {
    On(LabNode),
    Off(NodeOptions),
}

impl KubeLab {
    /// Makes the lab, with Kubernetes' components from the folder `assets`, and waits until both nodes are ready. The
    /// appliance's place stays empty.
    ///
    /// # Errors
    /// When not root, when a lab of the name is there already, or when a part does not come up (with its log).
    pub fn up(name: &str, assets: &Path) -> Result<Self> {
        let site = Site::up(name, &[&CLIENTS[..], &NODES, &[CONTROL_PLANE]].concat(), &[])?;
        let machine = site.machine(CONTROL_PLANE.name).context("the plan has it")?;
        let dir = site.dir().join("controlplane");
        let plane = ControlPlane::start(assets, machine, CONTROL_PLANE.address().into(), &dir)?;
        let kubectl = plane.kubectl();
        kubectl.write_script(&site.dir().join("kubectl"))?;
        let mut lab = Self { nodes: BTreeMap::new(), plane, kubectl, site };
        for (zone, node) in ["zone-a", "zone-b"].into_iter().zip(NODES) {
            let options = lab.node_options(&node, zone);
            lab.nodes.insert(node.name, Power::On(LabNode::start(options)?));
        }
        lab.nodes.values_mut().try_for_each(Power::wait_ready)?;
        Ok(lab)
    }

    fn node_options(&self, node: &Machine, zone: &str) -> NodeOptions {
        NodeOptions {
            name: node.name.to_owned(),
            lab: self.site.name().to_owned(),
            addresses: vec![node.address().into(), node.address6().into()],
            labels: BTreeMap::from([(ZONE.to_owned(), zone.to_owned())]),
            kubeconfig: self.plane.admin_kubeconfig(),
            dir: self.site.dir().join("nodes").join(node.name),
        }
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// A machine by its name: `c1`, `c2`, `gw`, `n1`, `n2`, `cp`.
    ///
    /// # Panics
    /// When the plan has no such machine.
    pub fn host(&self, name: &str) -> &Namespace {
        self.site.machine(name).expect("a machine of the plan")
    }

    /// The same, to be kept while the lab changes.
    ///
    /// # Panics
    /// When the plan has no such machine.
    pub fn share(&self, name: &str) -> Arc<Namespace> {
        Arc::clone(self.site.machine(name).expect("a machine of the plan"))
    }

    /// The lab's files.
    pub fn dir(&self) -> &Path {
        self.site.dir()
    }

    /// Gives Fairlead its account, as `deploy/kubernetes` ships it; the kubeconfig has the rights of that and no others.
    ///
    /// # Errors
    /// When `kubectl` fails.
    pub fn install(&self) -> Result<PathBuf> {
        self.kubectl.run(&["apply", "-k", DEPLOY])?;
        self.plane.service_account_kubeconfig("fairlead-system", "fairlead")
    }

    /// In what Fairlead's requests so far and the rights that `deploy/kubernetes` gives it differ, a sentence each: what it
    /// had no right to, and rights that it never used.
    ///
    /// # Errors
    /// When `kubectl` fails or the audit log cannot be read.
    pub fn rights_differ(&self) -> Result<Vec<String>> {
        // One document after the other, no list.
        let shipped = self.kubectl.run(&["create", "--dry-run=client", "-o", "json", "-k", DEPLOY])?;
        let shipped: Vec<Value> =
            serde_json::Deserializer::from_str(&shipped).into_iter().collect::<Result<_, _>>()?;
        let log = fs::read_to_string(self.plane.audit_log()).context("the audit log")?;
        let asked = audit::requests(&log, "system:serviceaccount:fairlead-system:fairlead")?;
        let rights = audit::rights(&shipped);
        Ok([audit::missing(&rights, &asked), audit::unused(&rights, &asked)].concat())
    }

    /// Starts the appliance.
    ///
    /// # Errors
    /// When it does not become ready; the error ends with its log.
    pub fn appliance(&self, options: &Options) -> Result<Appliance> {
        self.appliance_with(options, &[])
    }

    /// The same with these variables in its environment.
    ///
    /// # Errors
    /// As [`Self::appliance`].
    pub fn appliance_with(&self, options: &Options, environment: &[(&str, String)]) -> Result<Appliance> {
        Appliance::start(options, environment, self.site.gateway(), self.dir())
    }

    /// The namespace of a pod.
    pub fn pod_namespace(&self, node: &str, namespace: &str, pod: &str) -> Namespace {
        Namespace::attach(self.site.name(), &format!("{node}-{namespace}-{pod}"))
    }

    /// Starts an appliance in the second place, with files of its own. Nobody's route leads there but for those who say so.
    ///
    /// # Errors
    /// As [`Self::appliance`], or when the kernel refuses.
    pub fn second_appliance(&mut self, options: &Options) -> Result<Appliance> {
        let place = plan::PLACES[1];
        if self.site.machine(place.name).is_none() {
            self.site.add_place(place)?;
        }
        let options = Options { place, ..options.clone() };
        Appliance::start(&options, &[], self.host(place.name), &self.dir().join(place.name))
    }

    /// Puts a relay before the API server, on a port of its own; the copy of `kubeconfig` that is given back leads there.
    ///
    /// # Errors
    /// When the port is taken or the file cannot be read.
    pub fn relay(&self, kubeconfig: &Path) -> Result<(Relay, PathBuf)> {
        let server = self.plane.address();
        let at = SocketAddr::new(server.ip(), RELAY_PORT);
        let relay = Relay::start(&self.share(CONTROL_PLANE.name), at, server)?;
        let text = fs::read_to_string(kubeconfig).context("a kubeconfig")?;
        let copy = kubeconfig.with_extension("relayed");
        fs::write(&copy, text.replace(&server.to_string(), &at.to_string()))?;
        Ok((relay, copy))
    }

    /// Puts the kernel's own router in the appliance's place: it forwards to pods, over IPv4, and knows no Service.
    ///
    /// # Errors
    /// When an address or a setting is refused.
    pub fn kernel_router(&self) -> Result<()> {
        let mut script = format!(
            "nft flush ruleset\nip addr add {}/24 dev gw-out; ip addr add {}/24 dev gw-in\n",
            plan::GATEWAY_OUTSIDE,
            plan::GATEWAY_INSIDE
        );
        for node in NODES {
            let object = self.kubectl.json(&["get", "node", node.name])?;
            let cidr = object["spec"]["podCIDR"].as_str().context("a node without podCIDR")?;
            script += &format!("ip route add {cidr} via {}\n", node.address());
        }
        self.site.gateway().script(&script)?;
        self.site.gateway().sysctl("net/ipv4/ip_forward", "1")
    }

    /// Folder of a container's files, on whichever node the pod is. A web server serves its `www` under `/files/`, and
    /// answers 503 at `/ready` while there is a file `unready` in it.
    pub fn container_dir(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        let path = Path::new("pods").join(namespace).join(pod).join(container);
        let nodes = NODES.iter().map(|node| self.dir().join("nodes").join(node.name).join(&path));
        nodes.clone().find(|dir| dir.exists()).unwrap_or_else(|| self.dir().join(path))
    }

    /// Ends a node and all that runs on it at once, as if its power went.
    ///
    /// # Errors
    /// When the plan has no such node, it is off, or a process resists.
    pub fn power_off(&mut self, name: &'static str) -> Result<()> {
        let Some(Power::On(node)) = self.nodes.remove(name) else {
            anyhow::bail!("{name} is no node that runs")
        };
        self.host(name).script("ip link set eth0 down")?;
        self.nodes.insert(name, Power::Off(node.power_off()?));
        Ok(())
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it is not off or does not become ready.
    pub fn power_on(&mut self, name: &'static str) -> Result<()> {
        let Some(Power::Off(options)) = self.nodes.remove(name) else {
            anyhow::bail!("{name} is no node that is off")
        };
        let machine = NODES.iter().find(|node| node.name == name).context("no such node")?;
        self.site.connect(machine)?;
        let mut power = Power::On(LabNode::start(options)?);
        power.wait_ready()?;
        self.nodes.insert(name, power);
        Ok(())
    }

    /// Addresses of the pods that a selector names, which are ready, by name.
    ///
    /// # Errors
    /// When `kubectl` fails.
    pub fn ready_pods(&self, namespace: &str, selector: &str) -> Result<BTreeMap<String, Vec<IpAddr>>> {
        let list = self.kubectl.json(&["get", "pods", "-n", namespace, "-l", selector])?;
        let pods = list["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod));
        Ok(pods
            .map(|pod| {
                let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
                let ips = ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
                (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), ips)
            })
            .collect())
    }

    /// Fails if a component or a node has ended by itself.
    ///
    /// # Errors
    /// The end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.plane.check_alive()?;
        self.nodes.values_mut().try_for_each(|power| match power {
            Power::On(node) => node.check_alive(),
            Power::Off(_) => Ok(()),
        })
    }

    /// Lets everything live on after this value (`KEEP=1`).
    pub fn release(self) {
        for power in self.nodes.into_values() {
            if let Power::On(node) = power {
                node.release();
            }
        }
        self.plane.release();
        self.site.release();
    }
}

impl Power {
    fn wait_ready(&mut self) -> Result<()> {
        match self {
            Self::On(node) => node.wait_ready(),
            Self::Off(_) => Ok(()),
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True") && pod["metadata"]["deletionTimestamp"].is_null()
}
