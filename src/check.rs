//! `fairlead check`: every fault of the configuration and of manifests, a line each, before anything runs.

use std::path::Path;

use anyhow::{Result, anyhow};
use control::config::{DEFAULT_PATH, GatewayConfig, line_of};
use control::kube::Access;
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
    if let Some(file) = config {
        faults.extend(config_faults(file));
    }
    if let Some(manifests) = &args.manifests {
        let mut source = Manifests::new(manifests);
        source.load();
        faults.extend(source.problems());
    }
    if faults.is_empty() { Ok(()) } else { Err(anyhow!(faults.join("\n"))) }
}

/// Faults of the document, or else of the kubeconfig that it names. Whether a pod's account is there shows only in the pod.
fn config_faults(file: &Path) -> Option<String> {
    let config = match GatewayConfig::load(file) {
        Ok(config) => config,
        Err(refused) => return Some(refused.to_string()),
    };
    let access = Access::of(&config.kubernetes.source).filter(|access| *access != Access::InCluster)?;
    let fault = access.check().err()?;
    let line = line_of(file, ["kubernetes", "kubeconfig"]);
    Some(format!("{}:{line}: kubernetes.kubeconfig: {fault}", file.display()))
}
