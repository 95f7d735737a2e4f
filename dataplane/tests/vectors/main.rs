//! One packet in, what comes out: rows for every rule of the packet path, in both families.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod affinity;
mod answers;
mod capture;
mod errors;
mod flows;
mod fragments;
mod frames;
mod handoff;
#[cfg(feature = "dpdk")]
mod jumbo;
mod local;
mod protection;
mod replies;
mod routing;
mod sctp;
mod services;
mod sweep;
mod tcp;
mod trunk;
mod vlan;
mod world;
