//! Runs named checks that share a stage, in order; a check that fails does not stop the others.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// What checks are run against.
pub trait Stage {
    /// After each check: whether everything that should run still does.
    ///
    /// # Errors
    /// What has ended.
    fn still_sound(&mut self) -> Result<()>;

    /// At the end, when something failed: says where to look.
    fn explain(&mut self);
}

/// Names the program under test.
const BINARY: &str = "FAIRLEAD_BIN";

/// A named check.
pub type Check<S> = (&'static str, fn(&mut S) -> Result<()>);

/// Checks that share a stage.
pub struct Group<S: 'static> {
    /// Its name, the beginning of its checks' names.
    pub name: &'static str,
    /// Makes the stage for the program under test.
    pub make: fn(&Path) -> Result<S>,
    /// The checks in order.
    pub checks: &'static [&'static [Check<S>]],
}

impl<S> Group<S> {
    fn named(&self) -> impl Iterator<Item = (String, fn(&mut S) -> Result<()>)> {
        let all = self.checks.iter().flat_map(|part| part.iter());
        all.map(|(name, check)| (format!("{}: {name}", self.name), *check))
    }
}

/// A program of checks.
pub struct Program<S: 'static> {
    /// What it sums up under.
    pub title: &'static str,
    /// The make target that builds what it needs and runs it.
    pub target: &'static str,
    /// Environment variables that it needs, beside the one that names the program under test.
    pub needs: &'static [&'static str],
    /// How the names of its labs begin: those that an earlier run left are removed.
    pub stem: &'static str,
    /// All that it has.
    pub groups: &'static [Group<S>],
}

impl<S: Stage> Program<S> {
    /// The whole `main`: answers `--list`, says why nothing runs where nothing can, and else runs these of the groups.
    pub fn main(&self, wanted: &[Group<S>]) -> ExitCode {
        crate::run_if_asked();
        let Self { title, target, .. } = self;
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let filters: Vec<&str> =
            arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
        if arguments.iter().any(|argument| argument == "--list") {
            list(self.groups);
            return ExitCode::SUCCESS;
        }
        let missing = self.needs.iter().find(|name| std::env::var_os(name).is_none());
        let (None, Some(binary)) = (missing, std::env::var_os(BINARY)) else {
            let missing = missing.unwrap_or(&BINARY);
            println!(
                "{title}: not part of this run (no {missing}); `make {target}` builds all it needs and runs it"
            );
            return ExitCode::SUCCESS;
        };
        if !rustix::process::geteuid().is_root() {
            println!(
                "\n*** SKIPPED: the tests of `make {target}` did not run: they make network namespaces and need root.\n"
            );
            return ExitCode::SUCCESS;
        }
        crate::sweep(self.stem);
        run(title, wanted, Path::new(&binary), &filters)
    }
}

/// Prints the names of all checks, as test programs do.
fn list<S>(groups: &[Group<S>]) {
    groups.iter().flat_map(Group::named).for_each(|(name, _)| println!("{name}: test"));
}

/// Runs those whose name contains one of `filters` (all, if there are none) and sums up under `title`.
fn run<S: Stage>(title: &str, groups: &[Group<S>], binary: &Path, filters: &[&str]) -> ExitCode {
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
    let start = Instant::now();
    let mut tally = Tally::default();
    for group in groups {
        let checks: Vec<_> = group.named().filter(|(name, _)| wanted(name)).collect();
        if checks.is_empty() {
            continue;
        }
        let begun = Instant::now();
        match (group.make)(binary) {
            Ok(mut stage) => {
                println!("       {} is up ({:.1} s)", group.name, begun.elapsed().as_secs_f64());
                let failed_before = tally.failed.len();
                for (name, check) in checks {
                    let begun = Instant::now();
                    let outcome = check(&mut stage).and_then(|()| stage.still_sound());
                    tally.note(name, outcome, begun);
                }
                if tally.failed.len() > failed_before {
                    stage.explain();
                }
            }
            Err(error) => tally.note(format!("{}: it comes up", group.name), Err(error), begun),
        }
    }
    println!(
        "\n{title}: {} passed, {} failed, in {:.0} s",
        tally.passed,
        tally.failed.len(),
        start.elapsed().as_secs_f64()
    );
    for name in &tally.failed {
        println!("  failed: {name}");
    }
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    fn note(&mut self, name: String, outcome: Result<()>, begun: Instant) {
        let took = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok     {name} ({took:.1} s)");
            }
            Err(error) => {
                println!("FAILED {name} ({took:.1} s)\n       {error:#}");
                self.failed.push(name);
            }
        }
    }
}
