//! End to end: real clients reach real servers through `fairlead run` on DPDK ports, in network namespaces.
//! One lab is shared by many checks, in order; a check that fails does not stop the others.
//!
//! `make e2e` runs it. By hand, as root: `FAIRLEAD_BIN=target/release/fairlead cargo test --test e2e -- [FILTER]`.

#![forbid(unsafe_code)]

mod access;
mod capture;
mod changes;
mod fabric;
mod flood;
mod frontends;
mod health;
mod idle;
mod kernel;
mod lifecycle;
mod load;
mod numbers;
mod paths;
mod quic;
mod sctp;
mod trunk;
mod variants;
mod workers;
mod world;

use std::process::ExitCode;

use lab::checks::{Group, Program};

use crate::world::World;

/// A named check against a running lab.
type Check = lab::checks::Check<World>;

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
            health::CHECKS,
            access::CHECKS,
            quic::CHECKS,
            sctp::CHECKS,
            capture::CHECKS,
            load::CHECKS,
            numbers::CHECKS,
            flood::CHECKS,
            workers::CHECKS,
            lifecycle::CHECKS,
        ],
    },
    Group { name: "offload", make: World::offload, checks: &[variants::OFFLOAD] },
    Group { name: "static", make: World::tapless, checks: &[variants::STATIC, trunk::CHECKS, idle::CHECKS] },
];

const PROGRAM: Program<World> =
    Program { title: "end to end", target: "e2e", needs: &[], stem: "e2e", groups: &GROUPS };

fn main() -> ExitCode {
    PROGRAM.main(&GROUPS)
}
