//! The parts that a program which makes a lab plays when the lab starts it again: an echo server, a node.

use std::process::exit;

use anyhow::Result;

use crate::{echo, node};

/// Becomes what the command line says, if it says so, and never returns then. To be called first in `main` of any
/// program that makes a lab.
pub fn run_if_asked() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    echo::run_if_asked(&arguments);
    node::run_if_asked(&arguments);
}

/// Ends the program with what its part came to.
pub(crate) fn end(who: &str, outcome: Result<()>) -> ! {
    match outcome {
        Ok(()) => exit(0),
        Err(error) => {
            eprintln!("{who}: {error:#}");
            exit(1)
        }
    }
}
