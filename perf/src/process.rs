//! The processes of a run, what they say of themselves, and how they fail.

use std::{
    error::Error,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::rounds::Failed;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The exit code of a generator that was answered wrongly: no run that failed, but a gateway that must not be measured.
pub const ANSWERED_WRONGLY: u8 = 3;
/// How long a process has to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that is ended with its owner; what it says goes to a file.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// If there is no such program, or its log cannot be written.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        let child = command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// A line for its standard input, which stays open: testpmd ends when it does.
    ///
    /// # Errors
    /// [`Failed`] if it takes none any more.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        Ok(writeln!(input, "{line}")
            .map_err(|error| Failed(format!("it takes no words any more: {error}")))?)
    }

    /// The first line of its log that is wanted, once it is there; what is awaited, for an error.
    ///
    /// # Errors
    /// [`Failed`] if it ends before or does not say it in time, with its last line; another error if it was
    /// [`ANSWERED_WRONGLY`], or the log cannot be read.
    pub fn line(&mut self, patience: Duration, what: &str, wanted: fn(&str) -> bool) -> Result<String> {
        let start = Instant::now();
        loop {
            // Looked at before its last words are read.
            let ended = self.ended()?;
            let text = self.log()?;
            if let Some(line) = text.lines().find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            let last = text.lines().last().unwrap_or_default();
            match ended {
                Some(status) if status.code() == Some(ANSWERED_WRONGLY.into()) => return Err(last.into()),
                Some(status) => {
                    return Err(Failed(format!("the generator gives no {what} ({status}): {last}")).into());
                }
                None if start.elapsed() > patience => {
                    let seconds = patience.as_secs();
                    return Err(
                        Failed(format!("the generator gives no {what} within {seconds} s: {last}")).into()
                    );
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// All that it has said.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// The system's, which does not happen to a child of one's own.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Seconds that its busiest thread, the one that polls, was ready to run and had no core. The first two fields of
    /// `/proc/PID/task/TID/schedstat` are nanoseconds of running and of waiting.
    ///
    /// # Errors
    /// [`Failed`] if it is not there any more.
    pub fn waited(&self) -> Result<f64> {
        let mut busiest = (0.0, 0.0);
        let gone = |error| Failed(format!("a process has gone: {error}"));
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).map_err(gone)? {
            // A thread may end meanwhile; the one that polls does not.
            let stat = fs::read_to_string(task.map_err(gone)?.path().join("schedstat")).unwrap_or_default();
            let mut fields = stat.split_whitespace().map(|field| field.parse().unwrap_or(0.0) / 1e9);
            let (ran, waited) = (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0));
            if ran >= busiest.0 {
                busiest = (ran, waited);
            }
        }
        Ok(busiest.1)
    }

    /// Asks the process to end, and waits.
    ///
    /// # Errors
    /// [`Failed`] if it does not; it is killed then.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let start = Instant::now();
        while self.ended()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err(Failed("a process does not end".to_owned()).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
