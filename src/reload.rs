//! `fairlead reload`: the running appliance reads its configuration again and says what that changed.

use anyhow::Result;
use control::admin::{client, view};

use crate::cli::SocketArgs;
use crate::show::{block_on, socket};

/// Asks for a reload and prints what is in force and what waits for a restart.
///
/// # Errors
/// No appliance there, or the new configuration is refused: the old one stays in force.
pub(crate) fn run(args: &SocketArgs) -> Result<()> {
    let socket = socket(args)?;
    let done: view::Reload = block_on(client::post(&socket, "/v1/reload", &()))??;
    for key in &done.applied {
        println!("applied: {key}");
    }
    for key in &done.needs_restart {
        println!("needs a restart: {key}");
    }
    if done.applied.is_empty() && done.needs_restart.is_empty() {
        println!("nothing changed");
    }
    Ok(())
}
