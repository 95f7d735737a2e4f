//! The `fairlead` binary: one file a subcommand, all of them thin.
#![forbid(unsafe_code)]

mod cli;
mod columns;
mod explain;
mod reload;
mod run;
mod show;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

/// Exit codes: 0 done, 1 it failed (a sentence on stderr), 2 the command line makes no sense (clap's).
fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Reload(args) => reload::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A fault of a file names file and line itself, a line each.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
