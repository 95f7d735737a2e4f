//! `fairlead check`: every fault of the configuration and of manifests, a line each, before anything runs.

use std::path::Path;

use anyhow::{Result, anyhow};
use control::config::{DEFAULT_PATH, GatewayConfig};
use control::manifests::Manifests;

use crate::cli::CheckArgs;

/// Checks what was named: the configuration, unless only manifests were.
///
/// # Errors
/// Every fault, as `FILE:LINE: path.to.key: what is wrong; what is expected`.
pub(crate) fn run(args: &CheckArgs) -> Result<()> {
    let mut faults = Vec::new();
    let config = match (&args.config, &args.manifests) {
        (Some(config), _) => Some(config.as_path()),
        (None, Some(_)) => None,
        (None, None) => Some(Path::new(DEFAULT_PATH)),
    };
    if let Some(Err(refused)) = config.map(GatewayConfig::load) {
        faults.push(refused.to_string());
    }
    if let Some(manifests) = &args.manifests {
        let mut source = Manifests::new(manifests);
        source.load();
        faults.extend(source.problems());
    }
    if faults.is_empty() { Ok(()) } else { Err(anyhow!(faults.join("\n"))) }
}
