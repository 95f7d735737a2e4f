//! Processes of the lab: bounded one-shot commands and long-running children with a log each.
//! Invariant: a child started here is ended by its pid and reaped when its owner is dropped.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(5);
/// How long a child may take to end by itself after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(6);

/// What a one-shot command left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status.
    pub status: ExitStatus,
    /// All of standard output, lossily decoded.
    pub stdout: String,
    /// All of standard error, lossily decoded.
    pub stderr: String,
}

impl Outcome {
    /// Standard output of a command that succeeded.
    ///
    /// # Errors
    /// The command's own words when its status is not 0.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{}: {}{}", self.status, self.stderr.trim(), self.stdout.trim())
    }
}

/// Runs a command to its end, but not longer than `limit`; `input` is what it reads.
///
/// # Errors
/// When it cannot be started or takes longer than `limit` (it is killed then).
pub fn run(command: &mut Command, input: &str, limit: Duration) -> Result<Outcome> {
    let shown = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    let mut stdin = child.stdin.take().expect("piped above");
    // A command that does not read its input closes the pipe; that is no failure of ours.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let stdout = drain(child.stdout.take().expect("piped above"));
    let stderr = drain(child.stderr.take().expect("piped above"));
    let Some(status) = wait(&mut child, limit)? else {
        let _ = child.kill();
        let _ = child.wait();
        bail!("{shown} did not end within {limit:?}");
    };
    Ok(Outcome { status, stdout: join(stdout)?, stderr: join(stderr)? })
}

/// Waits for `done` to become true, looking every few milliseconds.
///
/// # Errors
/// When it is still false after `limit`.
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() >= limit {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Writes a script that runs `command` with further arguments, from anywhere on this machine; its output goes to the end of
/// `log`, if there is one.
///
/// # Errors
/// When the file cannot be written.
pub fn write_script(file: &Path, command: &Command, log: Option<&Path>) -> Result<()> {
    let output = log.map(|log| format!(" >>{} 2>&1", log.display())).unwrap_or_default();
    let text = format!("#!/bin/sh\nexec {} \"$@\"{output}\n", describe(command));
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    std::fs::set_permissions(file, Permissions::from_mode(0o755))?;
    Ok(())
}

/// A long-running child whose output goes to a log file.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let shown = describe(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Process id; `ip netns exec` becomes the program itself, so it is the program's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last `lines` lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Fails if it has ended by itself, with the end of its log.
    ///
    /// # Errors
    /// When the process is no longer running.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}):\n{}", self.name, self.log_tail(20)),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks it to end and waits; says how it ended and how long that took.
    ///
    /// # Errors
    /// When it has to be killed after a few seconds.
    pub fn stop(&mut self) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        if let Some(status) = self.child.try_wait()? {
            return Ok((status, Duration::ZERO));
        }
        self.signal(Signal::TERM)?;
        if let Some(status) = wait(&mut self.child, PATIENCE)? {
            return Ok((status, start.elapsed()));
        }
        self.kill();
        bail!("{} did not end within {PATIENCE:?} of SIGTERM", self.name)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it outlive its owner (`KEEP=1`).
    pub fn release(self) {
        std::mem::forget(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.signal(Signal::TERM);
            if wait(&mut self.child, PATIENCE).is_ok_and(|ended| ended.is_none()) {
                self.kill();
            }
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn join(reader: thread::JoinHandle<Vec<u8>>) -> Result<String> {
    let bytes = reader.join().map_err(|_| anyhow!("reading a command's output panicked"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_command_gives_its_output_and_status() {
        let outcome = run(Command::new("sh").args(["-c", "cat; echo no >&2; exit 3"]), "in", LIMIT).unwrap();
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("in", "no\n"));
        assert_eq!(outcome.status.code(), Some(3));
        assert!(outcome.ok().is_err());
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let start = Instant::now();
        let error = run(Command::new("sleep").arg("60"), "", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn a_daemon_ends_when_dropped_and_keeps_its_log() {
        let log = std::env::temp_dir().join(format!("fairlead-lab-daemon-{}.log", std::process::id()));
        let mut daemon =
            Daemon::start("d", Command::new("sh").args(["-c", "echo up; exec sleep 60"]), &log).unwrap();
        until("its log", LIMIT, || daemon.log_tail(1) == "up").unwrap();
        daemon.check_alive().unwrap();
        let pid = daemon.pid();
        drop(daemon);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        std::fs::remove_file(log).unwrap();
    }
}
