//! Cluster state to tables: sources, model, compile, apply, admin.
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod model;
pub mod network;
pub mod yaml;
