//! Kubernetes itself: a real control plane, two lab nodes whose pods are real processes, and traffic.
//!
//! `make e2e-kubernetes` runs it, with `E2E_LONG=1` all of it. By hand, as root: `KUBEBUILDER_ASSETS=$(tests/cluster/build.sh)
//! FAIRLEAD_BIN=target/release/fairlead cargo test --test kubernetes -- [FILTER]`.

#![forbid(unsafe_code)]

mod adversity;
mod agreement;
mod harness;
mod in_cluster;
mod ingress;
mod objects;
mod pair;
mod refusals;
mod rights;
mod services;
mod world;

use std::path::Path;
use std::process::ExitCode;

use lab::checks::{self, Group};
use lab::controlplane;

use crate::world::World;

/// The last of them takes minutes: it runs where `E2E_LONG` is set.
const GROUPS: [Group<World>; 3] = [
    Group { name: "cluster", make: World::router, checks: &[harness::CHECKS] },
    Group {
        name: "appliance",
        make: World::appliance,
        checks: &[
            services::CHECKS,
            ingress::CHECKS,
            in_cluster::CHECKS,
            refusals::CHECKS,
            adversity::CHECKS,
            pair::CHECKS,
            rights::CHECKS,
        ],
    },
    Group { name: "long", make: World::appliance, checks: &[pair::LONG, adversity::LONG] },
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
    let (Some(binary), Some(_)) = (std::env::var_os("FAIRLEAD_BIN"), std::env::var_os(controlplane::ASSETS))
    else {
        println!(
            "kubernetes: not part of this run (no FAIRLEAD_BIN or no {}); `make e2e-kubernetes` builds both and runs them",
            controlplane::ASSETS
        );
        return ExitCode::SUCCESS;
    };
    if !rustix::process::geteuid().is_root() {
        println!(
            "\n*** SKIPPED: the tests with Kubernetes did not run: they make network namespaces and need root.\n"
        );
        return ExitCode::SUCCESS;
    }
    lab::sweep(world::STEM);
    let wanted = if std::env::var_os("E2E_LONG").is_some() { &GROUPS[..] } else { &GROUPS[..2] };
    checks::run("kubernetes", wanted, Path::new(&binary), &filters)
}
