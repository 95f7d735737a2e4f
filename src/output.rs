//! Standard output, for which a reader that has seen enough (`| head`) is no failure.

use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints `text` as it is.
///
/// # Errors
/// When it cannot be written for another reason than a closed pipe.
pub(crate) fn print(text: &str) -> Result<()> {
    print_more(text).map(drop)
}

/// Tells what the output alone does not, beside it: on standard error.
pub(crate) fn note(text: &str) {
    // Who does not hear it has the output all the same.
    let _ = writeln!(io::stderr(), "fairlead: {text}");
}

/// Prints `text` as it is; false if nobody reads any more.
///
/// # Errors
/// When it cannot be written for another reason than a closed pipe.
pub(crate) fn print_more(text: &str) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.context("cannot print the answer").map(|()| true),
    }
}
