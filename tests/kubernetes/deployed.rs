//! The appliance as a pod, as `deploy/kubernetes/appliance` ships it: valid to the API server, with a good configuration, on
//! gateway nodes and no others. It is not run: a lab node has no huge pages to give, which is what the scheduler must say.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::process::{self, until};
use serde_json::Value;

use crate::world::{SOON, World};

pub(crate) const CHECKS: &[Check<World>] =
    &[("the pod that is shipped is valid, and goes to gateway nodes with huge pages alone", shipped)];

const SHIPPED: &str = "deploy/kubernetes/appliance";
const SPACE: &str = "fairlead-system";

/// An object of a list by its kind.
fn of_kind<'a>(list: &'a Value, kind: &str) -> Result<&'a Value> {
    let mut items = list["items"].as_array().into_iter().flatten();
    items.find(|item| item["kind"] == kind).with_context(|| format!("no {kind} in {list}"))
}

fn shipped(world: &mut World) -> Result<()> {
    let dry = ["apply", "--dry-run=server", "--validate=strict", "-k", SHIPPED];
    let list = world.kubectl().json(&dry)?;
    good_configuration(world, of_kind(&list, "ConfigMap")?)?;
    let map = of_kind(&list, "ConfigMap")?["metadata"]["name"].clone();
    let template = &of_kind(&list, "DaemonSet")?["spec"]["template"]["spec"];
    let mut volumes = template["volumes"].as_array().into_iter().flatten();
    ensure!(volumes.any(|volume| volume["configMap"]["name"] == map), "the pod does not mount {map}");

    world.kubectl().run(&["apply", "--validate=strict", "-k", SHIPPED])?;
    let checked = scheduled(world);
    world.kubectl().run(&["label", "node", "n1", "fairlead.dev/gateway-"])?;
    world.kubectl().wait(&["delete", "-k", SHIPPED, "--timeout=30s"], SOON)?;
    checked
}

/// `fairlead check` takes what the ConfigMap holds, and the path by which the pod is told of it leads there.
fn good_configuration(world: &World, map: &Value) -> Result<()> {
    let text = map["data"]["config.yaml"].as_str().context("the ConfigMap has no config.yaml")?;
    ensure!(text.contains("kubernetes: {inCluster: true}"), "the source is another:\n{text}");
    let file = world.lab.dir().join("shipped.yaml");
    std::fs::write(&file, text)?;
    let mut command = Command::new(&world.options()?.binary);
    command.arg("check").arg("--config").arg(&file);
    process::run(&mut command, "", Duration::from_secs(10))?.ok().map(drop)
}

fn scheduled(world: &World) -> Result<()> {
    let wanted = |count: u64| {
        until(&format!("{count} pods are wanted"), SOON, || {
            let set =
                world.kubectl().json(&["get", "daemonset", "fairlead", "-n", SPACE]).unwrap_or_default();
            set["status"]["observedGeneration"] == 1 && set["status"]["desiredNumberScheduled"] == count
        })
    };
    wanted(0)?;
    world.kubectl().run(&["label", "node", "n1", "fairlead.dev/gateway="])?;
    wanted(1)?;
    let mut said = String::new();
    until("the scheduler asks for huge pages", SOON, || {
        let pods = ["get", "pods", "-n", SPACE, "-l", "app.kubernetes.io/name=fairlead"];
        let list = world.kubectl().json(&pods).unwrap_or_default();
        let pod = &list["items"][0];
        said = pod["status"]["conditions"].to_string();
        pod["spec"]["hostNetwork"] == true
            && pod["spec"]["serviceAccountName"] == "fairlead"
            && said.contains("Insufficient hugepages-2Mi")
            && !said.contains("Insufficient cpu")
    })
    .with_context(|| format!("conditions {said}"))
}
