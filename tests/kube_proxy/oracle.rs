//! The real kube-proxy in a namespace, following a real API server there: states are written through the API, and the
//! rules that it makes of them are read back. Invariant: rules are read only when they show the whole state.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::netns::Namespace;
use lab::process::Daemon;
use packet::{Family, Protocol};
use serde_json::{Value, json};

use crate::place::{self, NAMESPACES, Origin, Setting, THIS_NODE};
use crate::ruleset::Ruleset;
use crate::server::Server;
use crate::state::State;
use crate::walk::{self, Fate, Packet};

/// Longest that kube-proxy may take to follow a state.
const FOLLOWED: Duration = Duration::from_secs(3);
/// How often it may be nudged to look at everything again.
const NUDGES: usize = 5;
const POLL: Duration = Duration::from_millis(20);
/// The zone in which this Node is while a state is written. Leaving it makes kube-proxy build all rules anew: it takes
/// changed ServiceCIDRs into its rules at no other occasion.
const LIMBO: &str = "limbo";
/// The kinds that both sides follow, with where the API has them.
const COLLECTIONS: [(&str, &str, &str); 4] = [
    ("v1", "Service", "/api/v1/services"),
    ("discovery.k8s.io/v1", "EndpointSlice", "/apis/discovery.k8s.io/v1/endpointslices"),
    ("v1", "Node", "/api/v1/nodes"),
    ("networking.k8s.io/v1", "ServiceCIDR", "/apis/networking.k8s.io/v1/servicecidrs"),
];

/// A state as the API server and kube-proxy have it.
pub(crate) struct Followed {
    /// Every object that both sides follow.
    pub(crate) objects: Vec<Value>,
    /// Why the API server refused some, a sentence each.
    pub(crate) refused: Vec<String>,
    rules: [Ruleset; 2],
}

impl Followed {
    /// The rules for a packet's family.
    pub(crate) fn rules(&self, packet: &Packet) -> &Ruleset {
        &self.rules[place::index(Family::of(packet.dst.ip()))]
    }
}

/// kube-proxy and its API server.
pub(crate) struct Oracle {
    proxy: Option<Daemon>,
    server: Server,
    namespace: Arc<Namespace>,
    assets: PathBuf,
    folder: PathBuf,
    /// Number of the state, which the sentinel shows.
    round: u16,
}

impl Oracle {
    /// Makes the namespaces that states live in, on a new API server.
    pub(crate) fn new(
        server: Server,
        assets: &Path,
        namespace: &Arc<Namespace>,
        folder: &Path,
    ) -> Result<Self> {
        for name in NAMESPACES {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            server.api.create("/api/v1/namespaces", &object)?.ok()?;
        }
        Ok(Self {
            proxy: None,
            server,
            namespace: Arc::clone(namespace),
            assets: assets.to_owned(),
            folder: folder.to_owned(),
            round: 0,
        })
    }

    /// Starts kube-proxy anew, with other settings.
    pub(crate) fn set(&mut self, setting: &Setting) -> Result<()> {
        self.proxy = None;
        self.clear()?;
        self.server.api.delete("/api/v1/nodes")?;
        for node in setting.nodes() {
            self.server.api.create("/api/v1/nodes", &node)?.ok()?;
            let path =
                format!("/api/v1/nodes/{}/status", node["metadata"]["name"].as_str().unwrap_or_default());
            self.server.api.merge(&path, &json!({"status": node["status"]}))?;
        }
        let config = self.folder.join("kube-proxy.yaml");
        fs::write(&config, self.config(setting).to_string())?;
        let mut command = self.namespace.command(&self.assets.join("kube-proxy").to_string_lossy());
        command.arg("--config").arg(&config);
        self.proxy = Some(Daemon::start("kube-proxy", &mut command, &self.folder.join("kube-proxy.log"))?);
        Ok(())
    }

    fn config(&self, setting: &Setting) -> Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": "nftables", "hostnameOverride": THIS_NODE,
            "clientConnection": {"kubeconfig": self.server.kubeconfig, "qps": 1000.0, "burst": 1000},
            "detectLocalMode": "ClusterCIDR", "clusterCIDR": setting.cluster_cidrs().join(","),
            "nodePortAddresses": setting.node_port_addresses,
            "nftables": {"minSyncPeriod": "10ms", "syncPeriod": "30s", "masqueradeBit": 14},
            // The kernel's limits are not the namespace's to set.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        })
    }

    /// Makes the cluster be in a state, and waits until kube-proxy's rules show it.
    pub(crate) fn follow(&mut self, state: &State) -> Result<Followed> {
        self.zone(Some(LIMBO))?;
        self.clear()?;
        self.round += 1;
        let mut refused = Vec::new();
        for object in state.objects.iter().chain(&self.sentinel(state)) {
            if let Some(why) = self.create(object)? {
                refused.push(format!("{} {}: {why}", object["kind"], object["metadata"]["name"]));
            }
        }
        let objects = self.objects()?;
        for _ in 0..NUDGES {
            self.zone(state.zone.as_deref())?;
            if let Some(rules) = self.settled(state, &objects)? {
                return Ok(Followed { objects: self.objects()?, refused, rules });
            }
            self.zone(Some(LIMBO))?;
        }
        let log = self.proxy.as_ref().map(|proxy| proxy.log_tail(20)).unwrap_or_default();
        bail!("kube-proxy does not follow the state; its log ends so:\n{log}")
    }

    /// Deletes what the last state had.
    fn clear(&self) -> Result<()> {
        for namespace in NAMESPACES {
            self.server
                .api
                .delete(&format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"))?;
            self.server.api.delete(&format!("/api/v1/namespaces/{namespace}/services"))?;
        }
        self.server.api.delete("/apis/networking.k8s.io/v1/servicecidrs/more")
    }

    /// Creates an object with its status; says why the API server refused it, if it did.
    fn create(&self, object: &Value) -> Result<Option<String>> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let known = COLLECTIONS.iter().find(|(_, known, _)| *known == kind);
        let (_, _, all) = known.with_context(|| format!("objects of kind {kind} are not for the API"))?;
        let path = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => {
                let (group, plural) = all.rsplit_once('/').context("a collection")?;
                format!("{group}/namespaces/{namespace}/{plural}")
            }
            None => (*all).to_owned(),
        };
        let said = self.server.api.create(&path, object)?;
        // A healthCheckNodePort that is another Service's already is no invalid value to it, but an error of its own.
        let taken = said.status == 500 && said.why().contains("already allocated");
        if said.status == 422 || said.status == 400 || taken {
            return Ok(Some(said.why().to_owned()));
        }
        said.ok()?;
        if let Some(status) = object.get("status") {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            self.server.api.merge(&format!("{path}/{name}/status"), &json!({"status": status}))?;
        }
        Ok(None)
    }

    /// What the API server has, with kinds: lists leave them out.
    fn objects(&self) -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        for (version, kind, path) in COLLECTIONS {
            let mut list = self.server.api.get(path)?;
            for mut object in list["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                object["apiVersion"] = json!(version);
                object["kind"] = json!(kind);
                objects.push(object);
            }
        }
        Ok(objects)
    }

    fn zone(&self, zone: Option<&str>) -> Result<()> {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        self.server
            .api
            .merge(&format!("/api/v1/nodes/{THIS_NODE}"), &json!({"metadata": {"labels": labels}}))
            .map(drop)
    }

    /// A Service written last, whose backends tell the state's number and, by their hints, the zone that is in force.
    fn sentinel(&self, state: &State) -> Vec<Value> {
        let metadata = json!({"name": "sentinel", "namespace": NAMESPACES[0],
                              "labels": {"kubernetes.io/service-name": "sentinel"}});
        let addresses = [Family::V4, Family::V6].map(sentinel_address);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv6"],
                     "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 7}]},
        });
        let slice = |family: Family| {
            let mut metadata = metadata.clone();
            let kind = ["IPv4", "IPv6"][place::index(family)];
            metadata["name"] = json!(format!("sentinel-{}", kind.to_ascii_lowercase()));
            let [here, limbo] = self.sentinels(family);
            let hint = |zone: &str| json!({"forZones": [{"name": zone}]});
            let zone = state.zone.as_deref().unwrap_or("nowhere");
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
                "addressType": kind, "ports": [{"name": "", "port": 7}],
                "endpoints": [{"addresses": [here], "hints": hint(zone)}, {"addresses": [limbo], "hints": hint(LIMBO)}],
            })
        };
        vec![service, slice(Family::V4), slice(Family::V6)]
    }

    /// The backends of the sentinel: one for the state's zone, one for limbo.
    fn sentinels(&self, family: Family) -> [IpAddr; 2] {
        [1, 2].map(|last| {
            let [high, low] = self.round.to_be_bytes();
            match family {
                Family::V4 => IpAddr::from([172, 16 + last, high, low]),
                Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xff, 0, 0, 0, self.round, last.into()]),
            }
        })
    }

    /// The rules of both families once they show the state; none if they do not in time.
    fn settled(&mut self, state: &State, objects: &[Value]) -> Result<Option<[Ruleset; 2]>> {
        let more = objects.iter().any(|object| object["metadata"]["name"] == "more");
        let start = Instant::now();
        while start.elapsed() < FOLLOWED {
            if let Some(proxy) = &mut self.proxy {
                proxy.check_alive()?;
            }
            let listed = [Family::V4, Family::V6].map(|family| self.rules(family));
            if let [Some(v4), Some(v6)] = listed {
                let rules = [v4, v6];
                if self.shows(&rules[0], Family::V4, (state, more))?
                    && self.shows(&rules[1], Family::V6, (state, more))?
                {
                    return Ok(Some(rules));
                }
            }
            thread::sleep(POLL);
        }
        Ok(None)
    }

    fn shows(&self, rules: &Ruleset, family: Family, (state, more): (&State, bool)) -> Result<bool> {
        let client = place::clients(family)[0].0;
        let packet = |dst: SocketAddr| Packet {
            src: SocketAddr::new(client, 40_000),
            dst,
            protocol: Protocol::Tcp,
            origin: Origin::Arrives,
        };
        let sentinel = packet(SocketAddr::new(sentinel_address(family), 7));
        let mut backends: Vec<_> = walk::branches(rules, &sentinel)?
            .iter()
            .filter_map(|branch| Some(branch.backend?.ip()))
            .collect();
        backends.sort_unstable();
        let [here, limbo] = self.sentinels(family);
        let expected = if state.zone.is_some() { vec![here] } else { vec![here, limbo] };
        let nobody: IpAddr = if family == Family::V4 {
            [10, 97, 0, 251].into()
        } else {
            [0xfd97, 1, 0, 0, 0, 0, 0, 0xfb].into()
        };
        let dropped = walk::branches(rules, &packet(SocketAddr::new(nobody, 7)))?[0].fate == Fate::Drop;
        Ok(backends == expected && dropped == more)
    }

    /// The rules as they are; none while there is no table.
    fn rules(&self, family: Family) -> Option<Ruleset> {
        let name = ["ip", "ip6"][place::index(family)];
        let argv = ["nft", "-j", "list", "table", name, "kube-proxy"];
        let listed = self.namespace.run(&argv, FOLLOWED).ok()?.ok().ok()?;
        Ruleset::parse(&listed).ok()
    }
}

fn sentinel_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 3, 240, 254].into(),
        Family::V6 => [0xfd00, 3, 0x240, 0, 0, 0, 0, 0xfe].into(),
    }
}
