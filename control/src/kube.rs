//! Cluster state from a Kubernetes API server.
//! `client` reaches the server. No Kubernetes type leaves this module.

mod client;

pub use client::{Access, AccessError, ApiServer};
