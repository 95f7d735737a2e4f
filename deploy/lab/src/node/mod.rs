//! A lab node: a stand-in for the kubelet. Pods that Kubernetes' scheduler binds to it run as real processes, each pod in
//! a network namespace of its own with addresses of the node's podCIDRs; readiness is probed for real, a pod ends in
//! order, and Node, Lease and pod status are written as the kubelet writes them. Deployments, evictions, EndpointSlices
//! and all the rest are Kubernetes' own.
//!
//! A node is a process: this program again, in the node's network namespace. Absent on purpose: pulling images (see
//! the catalogue in `image`), volumes but those of `volume`, resource limits, init containers, liveness probes, `kubectl logs` and `exec`.

mod addresses;
mod agent;
mod board;
mod container;
mod host;
mod image;
mod pod;
mod probe;
mod status;
mod volume;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::netns::{self, Namespace};
use crate::process::{self, Daemon};

/// First argument that turns a program which uses the lab into a node.
const ROLE: &str = "lab-node";
/// A file that appears once the node runs what is bound to it.
const READY_FILE: &str = "ready";
/// Longest wait for that.
const READY: Duration = Duration::from_secs(60);

/// What a node is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeOptions {
    /// Its name; its namespace is `fl-<lab>-<name>`.
    pub name: String,
    /// The lab it is part of.
    pub lab: String,
    /// Its addresses, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// Labels of the Node, such as its zone.
    pub labels: BTreeMap<String, String>,
    /// Its way to the API server.
    pub kubeconfig: PathBuf,
    /// Its files: log, pods' folders.
    pub dir: PathBuf,
}

/// A running node. Its pods end when it is dropped.
pub struct LabNode {
    daemon: Daemon,
    options: NodeOptions,
}

impl LabNode {
    /// Starts the node's program; [`LabNode::wait_ready`] waits for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(options: NodeOptions) -> Result<Self> {
        fs::create_dir_all(&options.dir).with_context(|| format!("cannot make {}", options.dir.display()))?;
        let ready = options.dir.join(READY_FILE);
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let own = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = Command::new(own);
        command.arg(ROLE).arg(serde_json::to_string(&options)?);
        let daemon =
            Daemon::start(&format!("node {}", options.name), &mut command, &options.dir.join("node.log"))?;
        Ok(Self { daemon, options })
    }

    /// Waits until it runs what is bound to it.
    ///
    /// # Errors
    /// When it ends or time is up, with the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let file = self.options.dir.join(READY_FILE);
        let mut ended = Ok(());
        let ready = process::until("the node is ready", READY, || {
            ended = self.daemon.check_alive();
            ended.is_err() || file.exists()
        });
        ended?;
        ready.with_context(|| format!("node {} says:\n{}", self.options.name, self.daemon.log_tail(20)))
    }

    /// Fails if it has ended by itself.
    ///
    /// # Errors
    /// The end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.daemon.check_alive()
    }

    /// Ends it and all its pods at once, as if its power went. Gives what starts it again.
    ///
    /// # Errors
    /// When a process cannot be ended.
    pub fn power_off(mut self) -> Result<NodeOptions> {
        self.daemon.kill();
        for namespace in netns::existing(&format!("{}-{}", self.options.lab, self.options.name))? {
            netns::kill_all(&namespace)?;
        }
        Ok(self.options.clone())
    }

    /// Lets it run on (`KEEP=1`).
    pub fn release(self) {
        self.daemon.release();
    }
}

/// Becomes a node if the command line says so.
pub(crate) fn run_if_asked(arguments: &[String]) {
    if let [role, options] = arguments
        && role == ROLE
    {
        crate::role::end("node", become_node(options));
    }
}

fn become_node(options: &str) -> Result<()> {
    let options: NodeOptions = serde_json::from_str(options).context("not the options of a node")?;
    // Before any other thread is there: threads inherit the namespace. Only the network is the node's own; mounts stay
    // the machine's, so that namespaces made here are seen by everybody.
    let namespace = Namespace::attach(&options.lab, &options.name);
    let handle = File::open(namespace.path())?;
    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(agent::run(options))
}
