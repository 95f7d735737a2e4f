//! The `fairlead` binary: one file a subcommand, all of them thin.
#![forbid(unsafe_code)]

mod capture;
mod check;
mod cli;
mod columns;
mod explain;
mod output;
mod reload;
mod run;
mod show;
mod top;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

/// Exit codes: 0 done, 1 it failed (a sentence on stderr), 2 the command line makes no sense (clap's).
fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Top(args) => top::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// What failed and why, in one sentence: a cause that the sentence already tells is not told again.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        if said.is_empty() {
            cause
        } else if said.contains(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("disk full");
        let error = anyhow::Error::new(cause).context("cannot write: disk full").context("state");
        assert_eq!(sentence(&error), "state: cannot write: disk full");
    }
}
