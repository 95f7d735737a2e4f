//! The lab: a small data centre of network namespaces with real servers, for the demo and for the end-to-end tests.
//!
//! [`Lab::up`] makes the segments, clients, nodes and pods of [`plan`]; [`Lab::appliance`] starts `fairlead run` in
//! its place on DPDK ports; [`manifests`] writes what a Kubernetes user would write. Needs root; touches nothing
//! outside the namespaces it makes and `/tmp/fairlead-lab/<name>`.

#![forbid(unsafe_code)]

pub mod api;
pub mod appliance;
pub mod audit;
pub mod catalog;
pub mod checks;
mod cluster;
pub mod controlplane;
pub mod echo;
pub mod http;
pub mod ingress;
pub mod kubernetes;
pub mod load;
pub mod manifests;
pub mod metrics;
pub mod netns;
pub mod node;
pub mod plan;
pub mod podnet;
pub mod process;
pub mod relay;
mod role;
mod servers;
mod site;
pub mod traffic;

pub use cluster::{Lab, LabOptions};
pub use role::run_if_asked;
pub use site::{Site, dir_of, down, sweep};
