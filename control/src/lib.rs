//! Cluster state to tables: sources, model, compile, apply, admin.
#![forbid(unsafe_code)]

pub mod admin;
