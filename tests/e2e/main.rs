//! End to end: real clients reach real servers through `fairlead run` on DPDK ports, in network namespaces.
//! One lab is shared by many checks, in order; a check that fails does not stop the others.
//!
//! `make e2e` runs it. By hand, as root: `FAIRLEAD_BIN=target/release/fairlead cargo test --test e2e -- [FILTER]`.

#![forbid(unsafe_code)]

mod changes;
mod fabric;
mod frontends;
mod kernel;
mod lifecycle;
mod load;
mod variants;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::world::World;

/// A named check against a running lab.
type Check = (&'static str, fn(&mut World) -> Result<()>);

/// Checks that share a lab.
struct Group {
    name: &'static str,
    make: fn(PathBuf) -> Result<World>,
    checks: &'static [&'static [Check]],
}

const GROUPS: [Group; 4] = [
    Group { name: "lab", make: World::router, checks: &[fabric::CHECKS] },
    Group {
        name: "appliance",
        make: World::standard,
        checks: &[frontends::CHECKS, kernel::CHECKS, changes::CHECKS, load::CHECKS, lifecycle::CHECKS],
    },
    Group { name: "offload", make: World::offload, checks: &[variants::OFFLOAD] },
    Group { name: "static", make: World::tapless, checks: &[variants::STATIC] },
];

fn main() -> ExitCode {
    lab::echo::run_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        names().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let Some(binary) = std::env::var_os("FAIRLEAD_BIN").map(PathBuf::from) else {
        println!(
            "end to end: not part of this run (no FAIRLEAD_BIN); `make e2e` builds the product and runs them"
        );
        return ExitCode::SUCCESS;
    };
    if !rustix::process::geteuid().is_root() {
        return skipped("they make network namespaces and need root");
    }
    lab::sweep("e2e");
    run(&binary, &filters)
}

fn names() -> impl Iterator<Item = String> {
    GROUPS.iter().flat_map(|group| {
        group.checks.iter().flat_map(|part| part.iter()).map(|(name, _)| format!("{}: {name}", group.name))
    })
}

fn skipped(why: &str) -> ExitCode {
    println!("\n*** SKIPPED: the end-to-end tests did not run: {why}.\n");
    ExitCode::SUCCESS
}

fn run(binary: &std::path::Path, filters: &[&str]) -> ExitCode {
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
    let start = Instant::now();
    let (mut passed, mut failed) = (0, Vec::new());
    for group in &GROUPS {
        let full = |name: &str| format!("{}: {name}", group.name);
        let checks: Vec<&Check> = group
            .checks
            .iter()
            .flat_map(|part| part.iter())
            .filter(|(name, _)| wanted(&full(name)))
            .collect();
        if checks.is_empty() {
            continue;
        }
        let mut world = match (group.make)(binary.to_owned()) {
            Ok(world) => world,
            Err(error) => {
                println!("FAILED {}: the lab did not come up: {error:#}", group.name);
                failed.push(full("the lab comes up"));
                continue;
            }
        };
        for (name, check) in checks {
            let begun = Instant::now();
            match check(&mut world).and_then(|()| world.still_sound()) {
                Ok(()) => {
                    passed += 1;
                    println!("ok     {} ({:.1} s)", full(name), begun.elapsed().as_secs_f64());
                }
                Err(error) => {
                    println!(
                        "FAILED {} ({:.1} s)\n       {error:#}",
                        full(name),
                        begun.elapsed().as_secs_f64()
                    );
                    failed.push(full(name));
                }
            }
        }
        world.report_end(!failed.is_empty());
    }
    println!(
        "\nend to end: {passed} passed, {} failed, in {:.0} s",
        failed.len(),
        start.elapsed().as_secs_f64()
    );
    for name in &failed {
        println!("  failed: {name}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
