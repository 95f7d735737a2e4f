//! Cluster state to tables: sources, model, compile, apply, admin.
#![forbid(unsafe_code)]

pub mod admin;
pub mod apply;
pub mod capture;
pub mod compile;
pub mod config;
pub mod health;
pub mod http;
pub mod inquiry;
pub mod ipam;
pub mod kube;
pub mod manifests;
pub mod metrics;
pub mod mirror;
pub mod model;
pub mod netlink;
pub mod network;
pub mod offline;
pub mod outcome;
pub mod pool;
pub mod probe;
pub mod reload;
pub mod service_health;
pub mod state_dir;
pub mod workers;
pub mod yaml;
