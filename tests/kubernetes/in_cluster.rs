//! An appliance in a pod (`inCluster`), beside the one that forwards: it has what every pod has, the token of its
//! ServiceAccount, which the node renews.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::appliance::{self, Options};
use lab::checks::Check;
use lab::metrics::Metrics;
use lab::plan::PLACES;
use lab::process::{self, until};
use lab::{http, ingress};
use serde_json::{Value, json};

use crate::agreement;
use crate::services::{shop, under_load};
use crate::world::{SOON, World};

pub(crate) const CHECKS: &[Check<World>] = &[(
    "an appliance in a pod follows too, and both take new tokens when the old ones are worth nothing",
    in_a_pod,
)];

const SPACE: &str = "fairlead-system";
const POD: &str = "inside";
/// Longest wait for a new token: a node renews its pods' every few seconds.
const RENEWED: Duration = Duration::from_secs(30);

fn in_a_pod(world: &mut World) -> Result<()> {
    let dir = world.lab.dir().join("nodes/n1/pods").join(SPACE).join(POD).join("gateway");
    world.kubectl().apply(&objects(&config(world, &dir)?).to_string())?;
    let ready = ["wait", "pod/inside", "-n", SPACE, "--for=condition=Ready", "--timeout=30s"];
    world.kubectl().wait(&ready, SOON)?;
    one_decides(world, &dir)?;

    under_load(world, |world| {
        world.lab.plane.replace_accounts_key()?;
        until("the one that forwards is not known any more", RENEWED, || {
            sources(world.lab.dir()).is_ok_and(|text| text.contains("credentials are not accepted"))
        })?;
        // Its kubeconfig gets a new token, as from whoever made it.
        world.lab.install()?;
        world.scale(&shop(), 4)?;
        world.slices_settle(&shop(), 4)?;
        until("both follow again", RENEWED, || {
            [&dir, world.lab.dir()].iter().all(|dir| sources(dir).is_ok_and(|text| !text.contains("Stale")))
        })?;
        world.agrees()?;
        follows(world, &dir)?;
        world.scale(&shop(), 3)?;
        world.slices_settle(&shop(), 3)?;
        follows(world, &dir)
    })?;
    world.kubectl().run(&["delete", "pod", POD, "-n", SPACE, "--timeout=20s"])?;
    world.kubectl().run(&["delete", "configmap", POD, "-n", SPACE]).map(drop)
}

/// As the other's, but for its ports, which lead nowhere: both must decide alike, whoever leads.
fn config(world: &World, dir: &Path) -> Result<String> {
    let options = Options { binary: binary()?, tap: false, mode: "auto", kubeconfig: None, place: PLACES[0] };
    let mut text = appliance::config(&options, dir);
    for (from, to) in [
        (format!("manifests: {}/manifests", dir.display()), "inCluster: true".to_owned()),
        (format!("stateDir: {}/state", dir.display()), format!("stateDir: {}", dir.display())),
        (
            "net_af_packet0,iface=gw-out,framesz=2048,blocksz=65536,framecnt=4096".into(),
            "net_null0,no-rx=1".into(),
        ),
        (
            "net_af_packet1,iface=gw-in,framesz=2048,blocksz=65536,framecnt=4096".into(),
            "net_null1,no-rx=1".into(),
        ),
        ("listen: \"127.0.0.1:9472\"".into(), "listen: \"0.0.0.0:9472\"".into()),
    ] {
        ensure!(text.contains(&from), "the lab's configuration has no {from}:\n{text}");
        text = text.replace(&from, &to);
    }
    ensure!(!text.contains(&world.lab.dir().join("manifests").display().to_string()), "{text}");
    Ok(text)
}

fn binary() -> Result<PathBuf> {
    std::env::var_os("FAIRLEAD_BIN").map(PathBuf::from).context("no FAIRLEAD_BIN")
}

fn objects(config: &str) -> Value {
    let head = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": POD, "namespace": SPACE}});
    let (mut map, mut pod) = (head("v1", "ConfigMap"), head("v1", "Pod"));
    map["data"] = json!({"config.yaml": config});
    pod["spec"] = json!({
        "serviceAccountName": "fairlead",
        "nodeSelector": {"kubernetes.io/hostname": "n1"},
        "terminationGracePeriodSeconds": 10,
        "volumes": [{"name": "config", "configMap": {"name": POD}}],
        "containers": [{
            "name": "gateway", "image": "fairlead",
            "args": ["run", "--config", "/run/fairlead/config.yaml"],
            "volumeMounts": [{"name": "config", "mountPath": "/run/fairlead"}],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9472}, "periodSeconds": 1},
        }],
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [map, pod]})
}

/// `fairlead show` of the appliance whose files are under `dir`.
fn show(dir: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary()?);
    command.arg("show").args(arguments).arg("--socket").arg(dir.join("admin.sock"));
    process::run(&mut command, "", Duration::from_secs(5))?.ok()
}

fn sources(dir: &Path) -> Result<String> {
    show(dir, &["sources"])
}

/// A Service more: one of the two gives it an address, both have it.
fn one_decides(world: &World, dir: &Path) -> Result<()> {
    let leads = "fairlead_kubernetes_leader";
    let pod = world.kubectl().run(&["get", "pod", POD, "-n", SPACE, "-o", "jsonpath={.status.podIP}"])?;
    let server = SocketAddr::new(pod.parse().context("the pod has no address")?, 9472);
    let leaders = || -> Result<f64> {
        let page = world.host("n1").within(|| http::get(server, "/metrics", SOON))??.1;
        Ok(world.metrics()?.sum(leads) + Metrics::parse(&page)?.sum(leads))
    };
    // None, for a moment, where the check before took the API server away.
    until("one of the two decides about addresses", RENEWED, || leaders().is_ok_and(|count| count > 0.5))?;
    let count = leaders()?;
    ensure!(count < 1.5, "{count} of two appliances decide about addresses");
    world.kubectl().run(&["create", "service", "loadbalancer", "twice", "--tcp=80:8080"])?;
    until("its status has an address", RENEWED, || {
        ingress::addresses(world.kubectl(), "service", "default", "twice").is_ok_and(|found| found.len() == 1)
    })?;
    follows(world, dir)?;
    world.agrees()?;
    world.kubectl().run(&["delete", "service", "twice", "--timeout=20s"])?;
    follows(world, dir)
}

/// Waits until the one in the pod says what `kubectl get` says.
fn follows(world: &World, dir: &Path) -> Result<()> {
    let mut differ = Vec::new();
    until("the one in the pod and kubectl agree", RENEWED, || {
        let compared = (|| -> Result<Vec<String>> {
            let services = world.kubectl().json(&["get", "services", "-A"])?;
            let slices = world.kubectl().json(&["get", "endpointslices", "-A"])?;
            let shown = serde_json::from_str(&show(dir, &["services", "-o", "json"])?)?;
            Ok(agreement::differences(&services, &slices, &shown))
        })();
        differ = compared.unwrap_or_else(|error| vec![format!("{error:#}")]);
        differ.is_empty()
    })
    .with_context(|| differ.join("\n       "))
}
