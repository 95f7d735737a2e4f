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

/// Prints the names of all checks, as test programs do.
pub fn list<S>(groups: &[Group<S>]) {
    groups.iter().flat_map(Group::named).for_each(|(name, _)| println!("{name}: test"));
}

/// Runs those whose name contains one of `filters` (all, if there are none) and sums up under `title`.
pub fn run<S: Stage>(title: &str, groups: &[Group<S>], binary: &Path, filters: &[&str]) -> ExitCode {
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
