//! Fairlead's side: the same objects as manifests, and `fairlead trace` asked with the same packets.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::place::{INSIDE, OUTSIDE, Setting, THIS_NODE};
use crate::walk::{Fate, Packet};

/// Longest that a trace of a state's packets may take.
const LIMIT: Duration = Duration::from_secs(60);

/// One line of `fairlead trace -o json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Answer {
    verdict: String,
    pub(crate) reason: String,
    pub(crate) service: Option<String>,
    pub(crate) frontend: Option<String>,
    pub(crate) backend: Option<SocketAddr>,
    pub(crate) candidates: Vec<SocketAddr>,
    pub(crate) snat: bool,
}

impl Answer {
    pub(crate) fn fate(&self) -> Result<Fate> {
        Fate::named(&self.verdict)
    }
}

/// The `fairlead` program with a folder for its files.
pub(crate) struct Fairlead {
    program: PathBuf,
    folder: PathBuf,
}

impl Fairlead {
    pub(crate) fn new(program: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("manifests"))?;
        Ok(Self { program: program.to_owned(), folder: folder.to_owned() })
    }

    /// Asks about packets, with these objects as the cluster's state.
    pub(crate) fn trace(
        &self,
        setting: &Setting,
        objects: &[Value],
        packets: &[Packet],
    ) -> Result<Vec<Answer>> {
        fs::write(self.folder.join("config.yaml"), self.config(setting).to_string())?;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        fs::write(self.folder.join("manifests/all.json"), list.to_string())?;
        let lines: String = packets.iter().map(|packet| question(packet) + "\n").collect();
        fs::write(self.folder.join("packets.jsonl"), lines)?;
        let mut command = Command::new(&self.program);
        command.arg("trace").arg("--config").arg(self.folder.join("config.yaml"));
        command.arg("--packets").arg(self.folder.join("packets.jsonl")).args(["-o", "json"]);
        let outcome = process::run(&mut command, "", LIMIT)?;
        ensure!(outcome.stderr.is_empty(), "fairlead refuses objects of the API server:\n{}", outcome.stderr);
        let answers = outcome.ok()?;
        let answers: Vec<Answer> = answers
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("trace printed {line}")))
            .collect::<Result<_>>()?;
        ensure!(answers.len() == packets.len(), "{} answers to {} packets", answers.len(), packets.len());
        Ok(answers)
    }

    fn config(&self, setting: &Setting) -> Value {
        let port = |(name, addresses): (&str, [&str; 2])| {
            json!({"name": name, "device": format!("net_null{}", usize::from(name == INSIDE.0)),
                   "addresses": addresses, "tap": false})
        };
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "GatewayConfig",
            "ports": [port(OUTSIDE), port(INSIDE)],
            "kubernetes": {
                "manifests": self.folder.join("manifests"),
                "nodeName": THIS_NODE,
                "podCIDRs": setting.cluster_cidrs(),
                "nodePortAddresses": setting.node_port_networks(),
                "externalIPAllow": ["0.0.0.0/0", "::/0"],
            },
            "stateDir": self.folder.join("state"),
        })
    }
}

fn question(packet: &Packet) -> String {
    json!({
        "src": packet.src.ip(), "sport": packet.src.port(), "dst": packet.dst.ip(), "dport": packet.dst.port(),
        "proto": packet.protocol.name(),
    })
    .to_string()
}
