//! Cluster state from a directory (or a single file) of ordinary Kubernetes manifests.
//! `object` reads one object with the API server's defaults, `state` joins files to one picture, `watch` follows the
//! directory. A broken file keeps its last good content in force while the others are followed.

pub(crate) mod object;
mod state;
mod watch;

pub(crate) use state::change;
pub use state::{FileReport, SourceState};
pub use watch::Manifests;
