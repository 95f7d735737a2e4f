//! Kubernetes itself: a real control plane, two lab nodes whose pods are real processes, and traffic.
//!
//! `make e2e-kubernetes` runs it, with `E2E_LONG=1` all of it. By hand, as root: `KUBEBUILDER_ASSETS=$(tests/cluster/build.sh)
//! FAIRLEAD_BIN=target/release/fairlead cargo test --test kubernetes -- [FILTER]`.

#![forbid(unsafe_code)]

mod adversity;
mod agreement;
mod deployed;
mod harness;
mod in_cluster;
mod ingress;
mod objects;
mod pair;
mod pools;
mod refusals;
mod rights;
mod routes;
mod services;
mod stale;
mod world;

use std::process::ExitCode;

use lab::checks::{Group, Program};
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
            deployed::CHECKS,
            refusals::CHECKS,
            pools::CHECKS,
            routes::CHECKS,
            adversity::CHECKS,
            stale::CHECKS,
            pair::CHECKS,
            rights::CHECKS,
        ],
    },
    Group { name: "long", make: World::appliance, checks: &[pair::LONG, adversity::LONG] },
];

const PROGRAM: Program<World> = Program {
    title: "kubernetes",
    target: "e2e-kubernetes",
    needs: &[controlplane::ASSETS],
    stem: world::STEM,
    groups: &GROUPS,
};

fn main() -> ExitCode {
    let all = std::env::var_os("E2E_LONG").is_some();
    PROGRAM.main(if all { &GROUPS } else { &GROUPS[..2] })
}
