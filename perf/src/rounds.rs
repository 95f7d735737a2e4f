//! Runs of two devices in turn, and which of them may be compared: those next to each other in time and over the same wire.
//!
//! A wire in memory is as fast as the two cores are near, and the host of a virtual machine moves them when it likes. A run
//! during which they were moved, or that had to wait for them, says nothing and is repeated.

use std::fmt;

use crate::{median, slices::steady};

/// Below this, in nanoseconds for a line there and back, two cores have a cache in common; a few times as far they do not.
const NEAR_NS: f64 = 150.0;
/// Two distances this factor apart are of two wires: places differ by two and more, readings of one by a few hundredths.
const SAME_WIRE: f64 = 1.35;
/// Slices of one run differ by less; with the cores near or far they differ by two and more.
const SAME_RATE: f64 = 1.35;
/// Of a run's time, what its processes may wait for a core; beyond that it is the scheduler that is measured.
pub const WAITED_MAX: f64 = 0.05;

/// Runs that may come to nothing one after another.
pub const FAILURES: usize = 4;

/// One device's turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Millions a second, in slices of the time.
    pub slices: Vec<f64>,
    /// Nanoseconds between the cores, measured meanwhile.
    pub trips: Vec<f64>,
    /// Share of its time that its processes waited for a core.
    pub waited: f64,
}

/// Why a run says nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unfit {
    /// The distance of the cores was one, and then another: nanoseconds.
    CoresMoved([f64; 2]),
    /// The run before was over another wire, and has no partner now; this one waits for its own. Nanoseconds of both.
    OtherWire([f64; 2]),
    /// The rate was one, and then another: millions a second.
    RateMoved([f64; 2]),
    /// The distance or the rate could not be measured.
    Unwatched,
    /// Other work had the cores for this share of the time.
    Waited(f64),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CoresMoved([low, high]) => {
                write!(f, "the cores were moved, {low:.0} to {high:.0} ns apart")
            }
            Self::OtherWire([before, here]) => write!(
                f,
                "the run before, with the cores {before:.0} ns apart, has no partner in this one with {here:.0} ns"
            ),
            Self::RateMoved([low, high]) => write!(f, "two rates in one run, {low:.2} to {high:.2} M/s"),
            Self::Unwatched => f.write_str("no reading of the cores' distance or of the rate"),
            Self::Waited(share) => {
                write!(f, "other work had the cores for {:.0} % of the time", share * 100.0)
            }
        }
    }
}

/// Why a run came to nothing: a peer that gave no link, a start that failed. It is repeated, as one that says nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// A run that counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Millions a second: the middle slice.
    pub rate: f64,
    /// Nanoseconds between the cores.
    pub distance: f64,
}

impl Fit {
    /// Where the cores were.
    #[must_use]
    pub fn place(&self) -> Place {
        if self.distance < NEAR_NS { Place::Near } else { Place::Far }
    }

    fn same_wire(&self, other: &Self) -> bool {
        let [low, high] = [self.distance.min(other.distance), self.distance.max(other.distance)];
        self.place() == other.place() && high < low * SAME_WIRE
    }
}

/// With a cache in common, or without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// With.
    Near,
    /// Without.
    Far,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Near, Self::Far];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near",
            Self::Far => "far",
        })
    }
}

impl Run {
    /// What the run says, if nothing changed below it.
    ///
    /// # Errors
    /// What did.
    pub fn fit(&self) -> Result<Fit, Unfit> {
        if self.waited > WAITED_MAX {
            return Err(Unfit::Waited(self.waited));
        }
        let moved = |say: fn([f64; 2]) -> Unfit| move |ends: Option<_>| ends.map_or(Unfit::Unwatched, say);
        let distance = steady(&self.trips, SAME_WIRE).map_err(moved(Unfit::CoresMoved))?;
        let rate = steady(&self.slices, SAME_RATE).map_err(moved(Unfit::RateMoved))?;
        Ok(Fit { rate, distance })
    }
}

/// A run that counts, and what else came of it.
type Counted<T> = (Fit, T);

/// The rounds of a case: runs of one device, or of a first and a second.
#[derive(Clone, Debug)]
pub struct Rounds<T> {
    devices: usize,
    /// The last fit run that has no partner yet.
    single: Option<(usize, Counted<T>)>,
    rounds: Vec<Vec<Counted<T>>>,
    discarded: usize,
    failures: Vec<Failed>,
    /// Of the failures, those that came one after another at last.
    in_a_row: usize,
}

/// The middle one of some values, the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl<T> Rounds<T> {
    /// No rounds yet, of so many devices (one or two).
    #[must_use]
    pub fn new(devices: usize) -> Self {
        Self { devices, single: None, rounds: Vec::new(), discarded: 0, failures: Vec::new(), in_a_row: 0 }
    }

    /// Whose turn it is: the partner's of the last run, or in a new round the one that was second before.
    #[must_use]
    pub fn next(&self) -> usize {
        let first = self.rounds.len() % self.devices;
        self.single.as_ref().map_or(first, |(device, _)| (device + 1) % self.devices)
    }

    /// Takes the run of the device whose turn it was, with what else came of it. A run over another wire than its partner's stays, and waits for a
    /// partner of its own.
    ///
    /// # Errors
    /// If the run says nothing, or the run before it has lost its partner: why.
    pub fn push(&mut self, run: &Run, detail: T) -> Result<Fit, Unfit> {
        let device = self.next();
        self.in_a_row = 0;
        let fit = run.fit().inspect_err(|_| self.discarded += 1)?;
        if self.devices == 1 {
            self.rounds.push(vec![(fit, detail)]);
            return Ok(fit);
        }
        match self.single.take() {
            None => {
                self.single = Some((device, (fit, detail)));
                Ok(fit)
            }
            Some((_, other)) if other.0.same_wire(&fit) => {
                let run = (fit, detail);
                self.rounds.push(if device == 0 { vec![run, other] } else { vec![other, run] });
                Ok(fit)
            }
            Some((_, (other, _))) => {
                self.single = Some((device, (fit, detail)));
                self.discarded += 1;
                Err(Unfit::OtherWire([other.distance, fit.distance]))
            }
        }
    }

    /// Takes note of a run that came to nothing; the turn stays where it is.
    pub fn fail(&mut self, failed: Failed) {
        self.failures.push(failed);
        self.in_a_row += 1;
    }

    /// The runs that came to nothing.
    #[must_use]
    pub fn failures(&self) -> &[Failed] {
        &self.failures
    }

    /// True after so many failures in a row that another run is not worth its time.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.in_a_row >= FAILURES
    }

    /// Rounds whose runs all count.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rounds.len()
    }

    /// Runs that came to an end and did not count.
    #[must_use]
    pub fn discarded(&self) -> usize {
        self.discarded
    }

    /// A figure of a device's runs with the cores at this place, and of how many rounds; a run may have none.
    #[must_use]
    pub fn figure(
        &self,
        device: usize,
        place: Place,
        of: impl Fn(&Fit, &T) -> Option<f64>,
    ) -> Option<(Spread, usize)> {
        spread(self.at(place).filter_map(|round| of(&round[device].0, &round[device].1)))
    }

    /// The first device's figure as a share of the second's, round by round.
    #[must_use]
    pub fn ratio(&self, place: Place, of: impl Fn(&Fit, &T) -> Option<f64>) -> Option<(Spread, usize)> {
        let of = |run: &Counted<T>| of(&run.0, &run.1);
        let ratio = |round: &Vec<Counted<T>>| Some(of(&round[0])? / of(round.get(1)?)?);
        spread(self.at(place).filter_map(ratio).filter(|ratio| ratio.is_finite()))
    }

    fn at(&self, place: Place) -> impl Iterator<Item = &Vec<Counted<T>>> {
        self.rounds.iter().filter(move |round| round[0].0.place() == place)
    }
}

fn spread(values: impl Iterator<Item = f64>) -> Option<(Spread, usize)> {
    let mut values: Vec<_> = values.collect();
    let median = median(&mut values)?;
    Some((Spread { median, min: values[0], max: values[values.len() - 1] }, values.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64, distance: f64) -> Run {
        Run { slices: vec![rate; 20], trips: vec![distance; 10], waited: 0.0 }
    }

    fn rate(fit: &Fit, (): &()) -> Option<f64> {
        Some(fit.rate)
    }

    #[test]
    fn a_run_below_which_something_changed_says_nothing() {
        let moved = Run { trips: [[70.0; 5], [320.0; 5]].concat(), ..run(10.0, 70.0) };
        assert_eq!(moved.fit(), Err(Unfit::CoresMoved([70.0, 320.0])));
        let two_rates = Run { slices: [[5.0; 10], [12.0; 10]].concat(), ..run(10.0, 70.0) };
        assert_eq!(two_rates.fit(), Err(Unfit::RateMoved([5.0, 12.0])));
        assert_eq!(Run { waited: 0.2, ..run(10.0, 70.0) }.fit(), Err(Unfit::Waited(0.2)));
        assert_eq!(Run { trips: vec![], ..run(10.0, 70.0) }.fit(), Err(Unfit::Unwatched));
        assert_eq!(run(10.0, 70.0).fit(), Ok(Fit { rate: 10.0, distance: 70.0 }));
    }

    #[test]
    fn only_neighbours_over_one_wire_are_compared() {
        let mut rounds = Rounds::new(2);
        // Near, then far: the first has no partner; the second gets one.
        assert_eq!(rounds.next(), 0);
        assert!(rounds.push(&run(12.0, 70.0), ()).is_ok());
        assert_eq!(rounds.next(), 1);
        let other = rounds.push(&run(6.0, 320.0), ());
        assert_eq!(other, Err(Unfit::OtherWire([70.0, 320.0])));
        assert_eq!(rounds.next(), 0);
        assert!(rounds.push(&run(3.0, 325.0), ()).is_ok());
        assert_eq!((rounds.count(), rounds.discarded()), (1, 1));
        assert_eq!(rounds.ratio(Place::Near, rate), None);
        assert_eq!(rounds.ratio(Place::Far, rate).unwrap().0.median, 0.5);
        // Who was second is first; a run that says nothing keeps the turn where it is.
        assert_eq!(rounds.next(), 1);
        assert!(rounds.push(&Run { waited: 0.5, ..run(12.0, 70.0) }, ()).is_err());
        assert_eq!(rounds.next(), 1);
        rounds.push(&run(12.0, 70.0), ()).unwrap();
        rounds.push(&run(9.0, 72.0), ()).unwrap();
        assert_eq!((rounds.count(), rounds.discarded()), (2, 2));
        let (middle, count) = rounds.figure(0, Place::Near, rate).unwrap();
        assert_eq!((middle, count), (Spread { median: 9.0, min: 9.0, max: 9.0 }, 1));
        assert_eq!(rounds.ratio(Place::Near, rate).unwrap().0.median, 0.75);
    }

    #[test]
    fn a_device_alone_is_compared_with_nobody() {
        let mut rounds = Rounds::new(1);
        rounds.push(&run(1.0, 70.0), ()).unwrap();
        rounds.push(&run(3.0, 70.0), ()).unwrap();
        rounds.push(&run(2.0, 320.0), ()).unwrap();
        assert_eq!(
            rounds.figure(0, Place::Near, rate),
            Some((Spread { median: 3.0, min: 1.0, max: 3.0 }, 2))
        );
        assert_eq!((rounds.count(), rounds.ratio(Place::Near, rate)), (3, None));
    }
}
