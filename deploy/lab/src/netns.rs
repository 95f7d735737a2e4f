//! A network namespace that lives as long as its value.
//! Names are `fl-<lab>-<host>`, so that labs coexist and a leftover can be found by its prefix.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{self, Outcome};

/// What every namespace name begins with.
pub const PREFIX: &str = "fl-";
/// Longest that a set-up script may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(20);

/// Longest that killed processes may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// One network namespace; deleted on drop unless released.
pub struct Namespace {
    name: String,
    keep: AtomicBool,
}

impl Namespace {
    /// Makes `fl-<lab>-<host>` with loopback up, IPv6 duplicate detection and router discovery off.
    ///
    /// # Errors
    /// When the kernel refuses (not root) or the name is taken.
    pub fn create(lab: &str, host: &str) -> Result<Self> {
        let name = format!("{PREFIX}{lab}-{host}");
        process::run(Command::new("ip").args(["netns", "add", &name]), "", SCRIPT_LIMIT)?
            .ok()
            .with_context(|| format!("cannot make namespace {name}"))?;
        let namespace = Self { name, keep: AtomicBool::new(false) };
        // Set before any link exists: links inherit `default`.
        for key in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{key}/accept_ra"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{key}/router_solicitations"), "0")?;
        }
        // Probes make thousands of connections to one address: a closed one may give its port away after a second.
        namespace.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        namespace.script("ip link set lo up")?;
        Ok(namespace)
    }

    /// A namespace that somebody else made and will delete.
    pub fn attach(lab: &str, host: &str) -> Self {
        Self { name: format!("{PREFIX}{lab}-{host}"), keep: AtomicBool::new(true) }
    }

    /// Where its handle is.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Whether it has a network device of a name.
    pub fn has_device(&self, name: &str) -> bool {
        let show = ["ip", "link", "show", "dev", name];
        self.run(&show, SCRIPT_LIMIT).is_ok_and(|outcome| outcome.status.success())
    }

    /// The name as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell script inside; it stops at the first command that fails.
    ///
    /// # Errors
    /// What the failing command said.
    pub fn script(&self, text: &str) -> Result<String> {
        process::run(self.command("sh").arg("-eu"), text, SCRIPT_LIMIT)?
            .ok()
            .with_context(|| format!("in namespace {}:\n{text}", self.name))
    }

    /// A command that will run inside (its pid is the program's own).
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// A command that was made by [`Namespace::command`], after a shell has done `script` in the mount namespace that the
    /// command has for itself.
    pub fn prepared(&self, command: &Command, script: &str) -> Command {
        let mut prepared = self.command("sh");
        prepared.args(["-euc", &format!("{script}exec \"$@\""), "sh"]);
        // Without what makes it run inside: `netns exec NAME`.
        prepared.args(command.get_args().skip(3));
        if let Some(dir) = command.get_current_dir() {
            prepared.current_dir(dir);
        }
        prepared.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        prepared
    }

    /// Runs a program inside to its end, within `limit`.
    ///
    /// # Errors
    /// When it cannot be started or takes too long; its status is in the outcome.
    pub fn run(&self, argv: &[&str], limit: Duration) -> Result<Outcome> {
        let (program, arguments) = argv.split_first().context("an empty command")?;
        process::run(self.command(program).args(arguments), "", limit)
    }

    /// Writes `/proc/sys/<path>` as seen from inside.
    ///
    /// # Errors
    /// When the kernel has no such setting.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{path}");
        self.within(|| std::fs::write(&file, value))?
            .with_context(|| format!("cannot set {file} in {}", self.name))
    }

    /// Runs a closure on a thread that lives inside: sockets it opens belong to the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the closure panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = File::open(self.path())?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow!("a probe inside {} panicked", self.name))?
        })
    }

    /// Lets it outlive this value.
    pub fn release(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            let _ = delete(&self.name);
        }
    }
}

/// Names of the namespaces of one lab that exist now.
///
/// # Errors
/// When `ip` cannot be run.
pub fn existing(lab: &str) -> Result<Vec<String>> {
    let prefix = format!("{PREFIX}{lab}-");
    let listed = process::run(Command::new("ip").args(["netns", "list"]), "", SCRIPT_LIMIT)?.ok()?;
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
}

/// Processes whose main thread lives in the namespace, ourselves excepted.
///
/// # Errors
/// When `ip` cannot be run.
pub fn pids(namespace: &str) -> Result<Vec<i32>> {
    let listed =
        process::run(Command::new("ip").args(["netns", "pids", namespace]), "", SCRIPT_LIMIT)?.ok()?;
    let own = i32::try_from(std::process::id()).ok();
    Ok(listed.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| Some(*pid) != own).collect())
}

/// Ends every process of a namespace at once.
///
/// # Errors
/// When one of them cannot be ended.
pub fn kill_all(namespace: &str) -> Result<()> {
    process::until("processes end", KILL_LIMIT, || {
        let found = pids(namespace).unwrap_or_default();
        for pid in found.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        found.is_empty()
    })
}

/// Deletes a namespace by its full name.
///
/// # Errors
/// When there is none of that name.
pub fn delete(name: &str) -> Result<()> {
    process::run(Command::new("ip").args(["netns", "del", name]), "", SCRIPT_LIMIT)?.ok().map(drop)
}
