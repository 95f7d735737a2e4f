//! What a check gets: the lab with Kubernetes in it, and the few steps that every check takes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::appliance::{Appliance, Options};
use lab::checks::Stage;
use lab::controlplane::{self, Component, Kubectl};
use lab::kubernetes::KubeLab;
use lab::metrics::Metrics;
use lab::netns::Namespace;
use lab::plan::PLACES;
use lab::process::until;
use serde_json::Value;

use crate::objects::Web;
use crate::{agreement, services};

/// What the names of these labs begin with; the process id follows.
pub(crate) const STEM: &str = "k8s";
/// Longest wait for something that Kubernetes does: a rollout, an eviction.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Longest wait for the appliance to follow what Kubernetes has done.
const FOLLOWS: Duration = Duration::from_secs(5);

/// The lab, and the appliance in it.
pub(crate) struct World {
    /// Declared first, so that it ends before the namespaces go.
    appliance: Option<Appliance>,
    /// What it was started with.
    options: Option<Options>,
    pub(crate) lab: KubeLab,
}

impl World {
    /// The kernel's router in the appliance's place.
    pub(crate) fn router(_: &Path) -> Result<Self> {
        let lab = KubeLab::up(&format!("{STEM}{}r", std::process::id()), &controlplane::assets()?)?;
        lab.kernel_router()?;
        Ok(Self { appliance: None, options: None, lab })
    }

    /// The appliance, with the account that is shipped, and the Service that most checks ask.
    pub(crate) fn appliance(binary: &Path) -> Result<Self> {
        let lab = KubeLab::up(&format!("{STEM}{}", std::process::id()), &controlplane::assets()?)?;
        let kubeconfig = Some(lab.install()?);
        let options =
            Options { binary: binary.to_owned(), tap: true, mode: "auto", kubeconfig, place: PLACES[0] };
        let world = Self { appliance: Some(lab.appliance(&options)?), options: Some(options), lab };
        let shop = services::shop();
        world.deploy(&shop)?;
        world.slices_settle(&shop, 3)?;
        Ok(world)
    }

    /// The appliance's counters.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        self.appliance.as_ref().context("there is no appliance")?.metrics(self.host("gw"))
    }

    /// `fairlead show services -o json`.
    pub(crate) fn shown(&self) -> Result<Value> {
        self.show("services")
    }

    /// `fairlead show KIND -o json`.
    pub(crate) fn show(&self, kind: &str) -> Result<Value> {
        show_by(self.appliance.as_ref().context("there is no appliance")?, kind)
    }

    /// What the appliance was started with.
    pub(crate) fn options(&self) -> Result<&Options> {
        self.options.as_ref().context("there is no appliance")
    }

    /// Ends the appliance as its power would, if there is one.
    pub(crate) fn kill_appliance(&mut self) {
        if let Some(mut appliance) = self.appliance.take() {
            appliance.daemon().kill();
        }
    }

    /// Starts it as it was, whether or not there is an API server.
    pub(crate) fn start_appliance(&mut self) -> Result<()> {
        self.appliance = Some(self.lab.appliance(self.options()?)?);
        Ok(())
    }

    /// Ends the appliance, if there is one, and starts it with this kubeconfig.
    pub(crate) fn restart_appliance(&mut self, kubeconfig: &Path) -> Result<()> {
        let options = Options { kubeconfig: Some(kubeconfig.to_owned()), ..self.options()?.clone() };
        self.start_again(&options, &[])
    }

    /// The same with other variables in its environment, and the kubeconfig it had at first.
    pub(crate) fn restart_appliance_with(&mut self, environment: &[(&str, String)]) -> Result<()> {
        let options = self.options()?.clone();
        self.start_again(&options, environment)
    }

    /// It is ready with what it knew before; then the API server must have told it everything.
    fn start_again(&mut self, options: &Options, environment: &[(&str, String)]) -> Result<()> {
        self.appliance = None;
        self.appliance = Some(self.lab.appliance_with(options, environment)?);
        until("the appliance has the API server's state", SOON, || {
            self.metrics().is_ok_and(|now| {
                now.has("fairlead_kubernetes_stale", "") && now.sum("fairlead_kubernetes_stale") == 0.0
            })
        })
    }

    /// The IPv4 address under which the appliance serves a LoadBalancer Service, once it has one.
    pub(crate) fn address(&self, web: &Web) -> Result<IpAddr> {
        self.address_of(web.namespace, web.name)
    }

    /// The same by names.
    pub(crate) fn address_of(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        self.address_by(self.appliance.as_ref().context("there is no appliance")?, namespace, name)
    }

    /// The same by another appliance.
    pub(crate) fn address_by(&self, appliance: &Appliance, namespace: &str, name: &str) -> Result<IpAddr> {
        let mut found = None;
        until(&format!("{namespace}/{name} has an address"), FOLLOWS, || {
            let shown = shown_by(appliance).unwrap_or_default();
            let mut rows = shown.as_array().into_iter().flatten();
            let row = rows.find(|row| row["namespace"] == namespace && row["name"] == name);
            let addresses = row.and_then(|row| row["loadBalancerIPs"].as_array());
            let mut addresses = addresses.into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok());
            found = addresses.find(IpAddr::is_ipv4);
            found.is_some()
        })?;
        found.context("just found")
    }

    /// Waits until `fairlead show services` says what `kubectl get` says.
    pub(crate) fn agrees(&self) -> Result<()> {
        self.agrees_with(self.appliance.as_ref().context("there is no appliance")?)
    }

    /// The same by another appliance.
    pub(crate) fn agrees_with(&self, appliance: &Appliance) -> Result<()> {
        let mut differences = Vec::new();
        until("fairlead and kubectl agree", FOLLOWS, || {
            let compared = (|| -> Result<Vec<String>> {
                let services = self.kubectl().json(&["get", "services", "-A"])?;
                let slices = self.kubectl().json(&["get", "endpointslices", "-A"])?;
                Ok(agreement::differences(&services, &slices, &shown_by(appliance)?))
            })();
            differences = compared.unwrap_or_else(|error| vec![format!("{error:#}")]);
            differences.is_empty()
        })
        .with_context(|| differences.join("\n       "))
    }

    /// Endpoints of a Service that are ready and on a node.
    pub(crate) fn ready_on(&self, web: &Web, node: &str) -> Result<usize> {
        let selector = format!("kubernetes.io/service-name={}", web.name);
        let list = self.kubectl().json(&["get", "endpointslices", "-n", web.namespace, "-l", &selector])?;
        let slices = list["items"].as_array().into_iter().flatten();
        let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        Ok(endpoints.filter(|e| e["nodeName"] == node && e["conditions"]["ready"] == true).count())
    }

    /// `kubectl` as the administrator.
    pub(crate) fn kubectl(&self) -> &Kubectl {
        self.lab.kubectl()
    }

    /// A machine of the lab.
    pub(crate) fn host(&self, name: &str) -> &Namespace {
        self.lab.host(name)
    }

    /// Applies a web server and waits until it is rolled out.
    pub(crate) fn deploy(&self, web: &Web) -> Result<()> {
        self.kubectl().apply(&web.yaml())?;
        self.rolled_out(web)
    }

    /// Waits until its Deployment has what it wants.
    pub(crate) fn rolled_out(&self, web: &Web) -> Result<()> {
        let what = format!("deployment/{}", web.name);
        self.kubectl()
            .wait(&["rollout", "status", &what, "-n", web.namespace, "--timeout=60s"], SOON)
            .map(drop)
    }

    /// Scales it and waits.
    pub(crate) fn scale(&self, web: &Web, replicas: u32) -> Result<()> {
        let (what, count) = (format!("deployment/{}", web.name), format!("--replicas={replicas}"));
        self.kubectl().run(&["scale", &what, "-n", web.namespace, &count])?;
        self.rolled_out(web)
    }

    /// Deletes its namespace with everything in it; Kubernetes takes some seconds for that, nobody waits for it.
    pub(crate) fn delete(&self, web: &Web) -> Result<()> {
        self.kubectl().run(&["delete", "namespace", web.namespace, "--wait=false"]).map(drop)
    }

    /// Its ready pods with their addresses.
    pub(crate) fn ready_pods(&self, web: &Web) -> Result<BTreeMap<String, Vec<IpAddr>>> {
        self.lab.ready_pods(web.namespace, &format!("app={}", web.name))
    }

    /// Endpoints of its Service in the slices of one family: address and whether it is ready.
    pub(crate) fn slices(&self, web: &Web, family: &str) -> Result<BTreeMap<IpAddr, bool>> {
        let selector = format!("kubernetes.io/service-name={}", web.name);
        let list = self.kubectl().json(&["get", "endpointslices", "-n", web.namespace, "-l", &selector])?;
        let slices = list["items"].as_array().into_iter().flatten();
        let endpoints = slices.filter(|slice| slice["addressType"] == family).flat_map(|slice| {
            let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
            endpoints.into_iter().filter_map(|endpoint| {
                let address = endpoint["addresses"][0].as_str()?.parse().ok()?;
                Some((address, endpoint["conditions"]["ready"] == true))
            })
        });
        Ok(endpoints.collect())
    }

    /// Waits until the slices of both families list exactly the ready pods, as many as wanted.
    pub(crate) fn slices_settle(&self, web: &Web, count: usize) -> Result<()> {
        let mut seen = String::new();
        until("the slices list the ready pods", SOON, || {
            let settled = (|| -> Result<()> {
                let pods = self.ready_pods(web)?;
                for (family, index) in [("IPv4", 0), ("IPv6", 1)] {
                    let slices = self.slices(web, family)?;
                    let want: BTreeMap<IpAddr, bool> =
                        pods.values().filter_map(|ips| Some((*ips.get(index)?, true))).collect();
                    ensure!(
                        slices == want && want.len() == count,
                        "{family}: pods {want:?}, slices {slices:?}"
                    );
                }
                Ok(())
            })();
            seen = settled.as_ref().err().map(ToString::to_string).unwrap_or_default();
            settled.is_ok()
        })
        .context(seen)
    }
}

/// `fairlead show services -o json` of one appliance.
pub(crate) fn shown_by(appliance: &Appliance) -> Result<Value> {
    show_by(appliance, "services")
}

fn show_by(appliance: &Appliance, kind: &str) -> Result<Value> {
    let text = appliance.ask(&["show", kind, "-o", "json"])?.ok()?;
    serde_json::from_str(&text).with_context(|| format!("show {kind} -o json printed:\n{text}"))
}

impl Stage for World {
    fn still_sound(&mut self) -> Result<()> {
        if let Some(appliance) = self.appliance.as_mut() {
            appliance.daemon().check_alive()?;
        }
        self.lab.check_alive()
    }

    fn explain(&mut self) {
        let pods = self.kubectl().run(&["get", "pods,services,endpointslices,nodes", "-A", "-o", "wide"]);
        println!("--- the cluster\n{}", pods.unwrap_or_else(|error| format!("{error:#}")));
        if let Some(appliance) = self.appliance.as_mut() {
            println!("--- end of the appliance's log\n{}", appliance.daemon().log_tail(30));
        }
        println!("--- end of the API server's log\n{}\n---", self.lab.plane.log_tail(Component::ApiServer));
    }
}
