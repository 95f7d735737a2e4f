//! `kubectl` as a user runs it, bounded in time; and kubeconfig files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::process;

/// Longest that a command may take which does not wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// How an identity shows itself to the API server.
pub(super) enum Identity {
    /// A token written into the kubeconfig.
    Token(String),
    /// A file with a token.
    TokenFile(PathBuf),
}

/// Writes a kubeconfig for `server`.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_kubeconfig(file: &Path, server: &str, ca: &Path, identity: &Identity) -> Result<()> {
    let user = match identity {
        Identity::Token(token) => json!({"token": token}),
        Identity::TokenFile(path) => json!({"tokenFile": path}),
    };
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    });
    fs::write(file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))
}

/// Runs `kubectl` as one identity.
#[derive(Clone)]
pub struct Kubectl {
    pub(super) namespace: Arc<Namespace>,
    pub(super) program: PathBuf,
    pub(super) kubeconfig: PathBuf,
}

impl Kubectl {
    /// Runs it; gives what it printed.
    ///
    /// # Errors
    /// What it complained about.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.input(arguments, "", LIMIT)
    }

    /// Runs a command that itself waits, such as `wait` or `rollout status`, for up to `limit`.
    ///
    /// # Errors
    /// What it complained about, or that it took longer.
    pub fn wait(&self, arguments: &[&str], limit: Duration) -> Result<String> {
        self.input(arguments, "", limit)
    }

    /// `kubectl apply -f -` with these manifests.
    ///
    /// # Errors
    /// What it complained about.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.input(&["apply", "-f", "-"], manifests, LIMIT)
    }

    /// `kubectl ARGUMENTS -o json`, read.
    ///
    /// # Errors
    /// What it complained about.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl {} printed:\n{text}", arguments.join(" ")))
    }

    /// The command itself, for one that goes on.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(&self.program.to_string_lossy());
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        // Discovery is cached there, for this lab only.
        command.arg("--cache-dir").arg(self.kubeconfig.with_extension("cache"));
        command
    }

    /// Writes a script that runs it from anywhere on this machine.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_script(&self, file: &Path) -> Result<()> {
        let mut command = self.namespace.command(&self.program.to_string_lossy());
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        process::write_script(file, &command, None)
    }

    fn input(&self, arguments: &[&str], input: &str, limit: Duration) -> Result<String> {
        let outcome = process::run(&mut self.command(arguments), input, limit)?;
        outcome.ok().with_context(|| format!("kubectl {}", arguments.join(" ")))
    }
}
