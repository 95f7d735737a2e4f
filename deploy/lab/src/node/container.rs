//! One container of a pod: its process, started again with a growing wait when it ends, probed, and ended in order.
//! Invariant: when [`Task::run`] returns, no process of the container is left.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container as Spec, LifecycleHandler};
use k8s_openapi::jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::board::{Board, Exit, Phase};
use super::image::Image;
use super::probe::{self, Prober};
use super::volume;
use crate::netns::Namespace;

/// First wait before a container that ended is started again; it doubles. The kubelet begins with 10 s.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest such wait. The kubelet's is 5 minutes.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A container that ran for so long begins with the shortest wait again. The kubelet's is 10 minutes.
const BACKOFF_RESET: Duration = Duration::from_secs(20);
/// What a container gets between its stop signal and the end, even if preStop used up its grace period.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// When a pod's containers have to be gone; `None` while it lives.
pub(super) type Deadline = Option<Instant>;

/// What a pod does with a container that ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Policy {
    Always,
    OnFailure,
    Never,
}

impl Policy {
    pub(super) fn parse(name: Option<&str>) -> Self {
        match name {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn restarts(self, exit: &Exit) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit.code != 0,
            Self::Never => false,
        }
    }
}

/// Everything that running a container needs.
pub(super) struct Task {
    pub(super) index: usize,
    pub(super) spec: Spec,
    pub(super) pod: String,
    pub(super) namespace: Arc<Namespace>,
    pub(super) address: std::net::IpAddr,
    /// The pod's folder.
    pub(super) pod_dir: PathBuf,
    pub(super) policy: Policy,
    pub(super) board: Arc<Board>,
    pub(super) deadline: watch::Receiver<Deadline>,
}

impl Task {
    /// Runs the container until its policy or the pod's deadline ends it.
    pub(super) async fn run(mut self) {
        let mut wait = BACKOFF;
        loop {
            let started = Instant::now();
            let exit = match self.start() {
                Ok((child, prober)) => self.live(child, prober).await,
                Err((reason, error)) => {
                    self.board.wait(self.index, reason, &format!("{error:#}"));
                    Exit::now(128, reason)
                }
            };
            if started.elapsed() >= BACKOFF_RESET {
                wait = BACKOFF;
            }
            let again = self.policy.restarts(&exit) && self.deadline.borrow().is_none();
            self.board.ended(self.index, exit, again.then_some(wait));
            if !again || !self.rest(wait).await {
                return;
            }
            wait = (wait * 2).min(BACKOFF_MAX);
            self.board.restarted(self.index);
        }
    }

    /// False when the pod ends meanwhile.
    async fn rest(&mut self, wait: Duration) -> bool {
        let ending = self.deadline.wait_for(Option::is_some);
        timeout(wait, ending).await.is_err()
    }

    fn start(&self) -> Result<(Child, Option<Prober>), (&'static str, anyhow::Error)> {
        let dir = self.pod_dir.join(&self.spec.name);
        let folder = std::fs::create_dir_all(&dir);
        folder.map_err(|error| ("RunContainerError", error.into()))?;
        let image = self.image().map_err(|error| ("ErrImagePull", error))?;
        let made = image.command(&self.spec, &self.pod, &self.namespace, &dir);
        let made = made.and_then(|command| Ok((command, volume::mounts(&self.spec, &self.pod_dir)?)));
        let (mut command, mounts) = made.map_err(|error| ("CreateContainerConfigError", error))?;
        if !mounts.is_empty() {
            command = self.namespace.prepared(&command, &mounts);
        }
        let probe = self.spec.readiness_probe.as_ref();
        let prober = probe.map(|probe| Prober::new(probe, &self.spec, self.address)).transpose();
        let prober = prober.map_err(|error| ("CreateContainerConfigError", error))?;
        let log = dir.join("log");
        let spawned = File::options().create(true).append(true).open(log).and_then(|log| {
            let mut command = Command::from(command);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            // A group of its own: what the process has started ends with it.
            command.process_group(0).kill_on_drop(true).spawn()
        });
        let child = spawned.map_err(|error| ("RunContainerError", error.into()))?;
        Ok((child, prober))
    }

    fn image(&self) -> Result<Image> {
        Image::parse(self.spec.image.as_deref().context("the container has no image")?)
    }

    /// From the start of a process to its end.
    async fn live(&mut self, mut child: Child, prober: Option<Prober>) -> Exit {
        let started = Timestamp::now();
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        self.board.running(self.index, started, prober.is_none());
        let (board, index, namespace) = (Arc::clone(&self.board), self.index, Arc::clone(&self.namespace));
        let probing = async move {
            match prober {
                Some(prober) => prober.run(&namespace, |ready| board.ready(index, ready)).await,
                None => std::future::pending().await,
            }
        };
        let status = tokio::select! {
            status = self.until_ended(&mut child, group) => status,
            () = probing => None,
        };
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        Exit { started, ..Exit::of(status) }
    }

    /// Waits for the process to end by itself, or ends it when the pod has to go.
    async fn until_ended(&mut self, child: &mut Child, pid: Option<Pid>) -> Option<ExitStatus> {
        tokio::select! {
            status = child.wait() => return status.ok(),
            _ = self.deadline.wait_for(Option::is_some) => {}
        }
        tokio::select! {
            status = child.wait() => return status.ok(),
            () = pre_stop(&self.spec, &self.namespace) => {}
            () = passed(self.deadline.clone(), Duration::ZERO) => {}
        }
        if let (Some(pid), Ok(image)) = (pid, self.image()) {
            let _ = kill_process(pid, image.stop_signal());
        }
        tokio::select! {
            status = child.wait() => return status.ok(),
            () = passed(self.deadline.clone(), GRACE_MIN) => {}
        }
        let _ = child.start_kill();
        child.wait().await.ok()
    }
}

/// Waits until the deadline, which may be moved, has passed, and for `at_least` from now unless it is moved.
async fn passed(mut deadline: watch::Receiver<Deadline>, at_least: Duration) {
    let mut earliest = Instant::now() + at_least;
    loop {
        let until = deadline.borrow_and_update().unwrap_or(earliest).max(earliest);
        tokio::select! {
            () = sleep_until(until) => return,
            moved = deadline.changed() => if moved.is_err() { return },
        }
        // Whoever moves it does not want to wait.
        earliest = Instant::now();
    }
}

/// The container's preStop hook, to its end.
async fn pre_stop(spec: &Spec, pod: &Namespace) {
    let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let Some(LifecycleHandler { exec, sleep: pause, .. }) = hook else { return };
    if let Some(pause) = pause {
        sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or_default())).await;
    }
    if let Some(words) = exec.as_ref().and_then(|exec| exec.command.as_ref())
        && let Err(error) = probe::exec(words, pod).await
    {
        eprintln!("preStop of {}: {error:#}", spec.name);
    }
}

impl Exit {
    fn of(status: Option<ExitStatus>) -> Self {
        let code =
            status.map_or(137, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(9)));
        Self::now(code, if code == 0 { "Completed" } else { "Error" })
    }

    fn now(code: i32, reason: &'static str) -> Self {
        Self { code, reason, started: Timestamp::now(), finished: Timestamp::now() }
    }
}

impl Board {
    fn wait(&self, index: usize, reason: &'static str, message: &str) {
        self.update(index, |state| state.phase = Phase::Waiting { reason, message: message.to_owned() });
    }

    fn running(&self, index: usize, since: Timestamp, ready: bool) {
        self.update(index, |state| {
            state.phase = Phase::Running(since);
            state.ready = ready;
        });
    }

    fn ready(&self, index: usize, ready: bool) {
        self.update(index, |state| state.ready = ready);
    }

    /// `again`: how long until it is started again.
    fn ended(&self, index: usize, exit: Exit, again: Option<Duration>) {
        self.update(index, |state| {
            state.ready = false;
            let image = matches!(state.phase, Phase::Waiting { .. });
            match again {
                // An image that cannot be had stays the reason.
                Some(_) if image => {}
                Some(wait) => {
                    state.last = Some(exit);
                    let message = format!("back-off {wait:?} restarting failed container");
                    state.phase = Phase::Waiting { reason: "CrashLoopBackOff", message };
                }
                None => state.phase = Phase::Ended(exit),
            }
        });
    }

    fn restarted(&self, index: usize) {
        self.update(index, |state| state.restarts += u32::from(state.last.is_some()));
    }
}
