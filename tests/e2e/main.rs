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
mod numbers;
mod paths;
mod variants;
mod world;

use std::path::Path;
use std::process::ExitCode;

use lab::checks::{self, Group};

use crate::world::World;

/// A named check against a running lab.
type Check = checks::Check<World>;

const GROUPS: [Group<World>; 4] = [
    Group { name: "lab", make: World::router, checks: &[fabric::CHECKS] },
    Group {
        name: "appliance",
        make: World::standard,
        checks: &[
            frontends::CHECKS,
            kernel::CHECKS,
            paths::CHECKS,
            changes::CHECKS,
            load::CHECKS,
            numbers::CHECKS,
            lifecycle::CHECKS,
        ],
    },
    Group { name: "offload", make: World::offload, checks: &[variants::OFFLOAD] },
    Group { name: "static", make: World::tapless, checks: &[variants::STATIC] },
];

fn main() -> ExitCode {
    lab::run_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        checks::list(&GROUPS);
        return ExitCode::SUCCESS;
    }
    let Some(binary) = std::env::var_os("FAIRLEAD_BIN") else {
        println!(
            "end to end: not part of this run (no FAIRLEAD_BIN); `make e2e` builds the product and runs them"
        );
        return ExitCode::SUCCESS;
    };
    if !rustix::process::geteuid().is_root() {
        println!(
            "\n*** SKIPPED: the end-to-end tests did not run: they make network namespaces and need root.\n"
        );
        return ExitCode::SUCCESS;
    }
    lab::sweep("e2e");
    checks::run("end to end", &GROUPS, Path::new(&binary), &filters)
}
