//! Rounds until enough of them count, however often a run has to be repeated; but not for ever.

use std::error::Error;

use crate::rounds::{FAILURES, Failed, Fit, Rounds, Run, Unfit};

/// Runs at most for each that is wanted: a host that never leaves the cores alone ends a bench, too.
const ATTEMPTS: usize = 3;

/// What became of one run.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn<'a> {
    /// It counts.
    Fit(Fit),
    /// It, or the one before it, says nothing.
    Unfit(Unfit),
    /// It came to nothing.
    Failed(&'a Failed),
}

/// Plays rounds of so many devices (one or two) until `wanted` of them count, nothing can be hoped for any more
/// ([`Rounds::is_hopeless`]) or the attempts are used up. `run` is given the device whose turn it is; `tell` the number of
/// the run, its device and what became of it.
///
/// # Errors
/// What `run` fails with, unless it is [`Failed`]: something is wrong that no repetition makes right.
pub fn play<T>(
    devices: usize,
    wanted: usize,
    mut run: impl FnMut(usize) -> Result<(Run, T), Box<dyn Error>>,
    mut tell: impl FnMut(usize, usize, Turn<'_>),
) -> Result<Rounds<T>, Box<dyn Error>> {
    let mut rounds = Rounds::new(devices);
    for attempt in 1..=ATTEMPTS * wanted * devices {
        if rounds.count() == wanted || rounds.is_hopeless() {
            break;
        }
        let device = rounds.next();
        match run(device) {
            Ok((run, detail)) => {
                let fit = rounds.push(&run, detail);
                tell(attempt, device, fit.map_or_else(Turn::Unfit, Turn::Fit));
            }
            Err(error) => {
                let failed = *error.downcast::<Failed>()?;
                tell(attempt, device, Turn::Failed(&failed));
                rounds.fail(failed);
            }
        }
    }
    Ok(rounds)
}

/// Does something until it does not fail, as often as runs may fail one after another.
///
/// # Errors
/// That of the last attempt, or one that is not [`Failed`].
pub fn insist<T>(
    mut act: impl FnMut() -> Result<T, Box<dyn Error>>,
    mut tell: impl FnMut(&Failed),
) -> Result<T, Box<dyn Error>> {
    for _ in 1..FAILURES {
        match act() {
            Err(error) => tell(&*error.downcast::<Failed>()?),
            done => return done,
        }
    }
    act()
}
