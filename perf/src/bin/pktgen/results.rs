//! What is printed, and what a run must not come to.

use std::fmt;

use perf::{
    generator::{GeneratorError, Traffic},
    load::{ConnectionCounts, Outcome, PlanError},
};
use serde::Serialize;

use crate::cli::Output;

/// Why the generator ends with an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Failure {
    /// Flows could not be opened, or a packet was wrong.
    Generator(GeneratorError),
    /// The words do not go together.
    Plan(PlanError),
    /// Nothing at all came back of so many frames.
    Silence(u64),
    /// So many frames were wrong.
    Faults(u64),
    /// So many connections got another's response.
    MixedUp(u64),
    /// The generator has stopped at a packet whose checksum is wrong.
    Panicked,
    /// The rate that was asked for and the one that was sent.
    Pace { asked: f64, sent: f64 },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generator(error) => error.fmt(f),
            Self::Plan(error) => error.fmt(f),
            Self::Silence(sent) => {
                write!(f, "nothing came back of {sent} frames: is the gateway up, and does it forward?")
            }
            Self::Faults(count) => write!(f, "{count} frames came back wrong"),
            Self::MixedUp(count) => write!(f, "{count} connections got the response to another's request"),
            Self::Panicked => f.write_str("the generator has panicked: a packet with a wrong checksum"),
            Self::Pace { asked, sent } => write!(
                f,
                "{:.3} M/s were asked for and {:.3} M/s could be sent: the links or this core take no more, or other work had \
                 the core; ask for less",
                asked / 1e6,
                sent / 1e6
            ),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// True if the gateway gave something that it must not; not if it gave too little, or nothing.
    pub(crate) fn is_wrong_answer(&self) -> bool {
        match self {
            Self::Generator(error) => !matches!(error, GeneratorError::NotOpened(_)),
            Self::Faults(_) | Self::MixedUp(_) | Self::Panicked => true,
            Self::Plan(_) | Self::Silence(_) | Self::Pace { .. } => false,
        }
    }
}

impl From<GeneratorError> for Failure {
    fn from(error: GeneratorError) -> Self {
        Self::Generator(error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

/// The outcome, unless something must not be.
pub(crate) fn sound(outcome: Outcome) -> Result<Outcome, Failure> {
    match (outcome.faults.total(), outcome.received, outcome.sent) {
        (0, 0, sent) if sent > 0 => Err(Failure::Silence(sent)),
        (0, ..) => Ok(outcome),
        (faults, ..) => {
            eprintln!("pktgen: {}", outcome.text());
            Err(Failure::Faults(faults))
        }
    }
}

/// Prints results, one a line.
#[derive(Debug)]
pub(crate) struct Printer {
    output: Output,
    lines: u64,
}

#[derive(Serialize)]
struct TrafficLine<'a> {
    #[serde(flatten)]
    traffic: &'a Traffic,
    /// Million frames a second that came back.
    mpps: f64,
}

impl Printer {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, lines: 0 }
    }

    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        self.print(outcome, Outcome::CSV, || outcome.csv(), || outcome.text());
    }

    pub(crate) fn traffic(&mut self, traffic: &Traffic) {
        let Traffic { sent, returned, checked, time, .. } = traffic;
        let (seconds, mpps) = (time.as_secs_f64(), traffic.mpps());
        let csv = || format!("{seconds:.3},{sent},{returned},{checked},{mpps:.4}");
        let text = || format!("{mpps:.3} M/s came back: {returned} of {sent}, {checked} checked");
        self.print(&TrafficLine { traffic, mpps }, "seconds,sent,returned,checked,mpps", csv, text);
    }

    pub(crate) fn connections(&mut self, counts: &ConnectionCounts) {
        let ConnectionCounts {
            begun,
            completed,
            failed,
            refused,
            repeated,
            seconds,
            per_second,
            time_us,
            ..
        } = counts;
        let names = "seconds,begun,completed,failed,refused,repeated,per_second,p50_us,p99_us,p999_us,max_us";
        let (p50, p99, p999, max) = (time_us.p50, time_us.p99, time_us.p999, time_us.max);
        let csv = || {
            format!(
                "{seconds:.3},{begun},{completed},{failed},{refused},{repeated},{per_second:.0},{p50:.1},{p99:.1},{p999:.1},\
                 {max:.1}"
            )
        };
        let text = || {
            format!(
                "{:.3} k connections/s: {completed} of {begun} completed, {failed} failed, {refused} refused, {repeated} \
                 segments repeated, p50 {p50:.0} p99 {p99:.0} p99.9 {p999:.0} max {max:.0} us",
                per_second / 1e3
            )
        };
        self.print(counts, names, csv, text);
    }

    fn print(
        &mut self,
        result: &impl Serialize,
        names: &str,
        csv: impl Fn() -> String,
        text: impl Fn() -> String,
    ) {
        match self.output {
            Output::Text => println!("{}", text()),
            Output::Json => println!("{}", serde_json::to_string(result).expect("figures are JSON")),
            Output::Csv => {
                if self.lines == 0 {
                    println!("{names}");
                }
                println!("{}", csv());
            }
        }
        self.lines += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perf::load::Faults;

    #[test]
    fn silence_and_faults_are_errors_and_loss_is_a_result() {
        let outcome = Outcome { sent: 10, received: 9, lost: 1, ..Outcome::default() };
        assert!(sound(outcome.clone()).is_ok());
        assert_eq!(sound(Outcome { received: 0, ..outcome.clone() }), Err(Failure::Silence(10)));
        let faults = Faults { misdirected: 2, ..Faults::default() };
        assert_eq!(sound(Outcome { faults, ..outcome }), Err(Failure::Faults(2)));
        assert!(Failure::Faults(2).is_wrong_answer() && !Failure::Silence(10).is_wrong_answer());
    }
}
