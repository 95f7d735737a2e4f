//! The figures of a run, for programs and tables.

use std::{fmt::Write as _, time::Duration};

use cpu::TscClock;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Faults, judge::Tally};

/// How long frames took, in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: f64,
    /// 90 % were.
    pub p90: f64,
    /// 99 % were.
    pub p99: f64,
    /// 99.9 % were.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Latency {
    pub(super) fn of(cycles: &Histogram<u64>, clock: &TscClock) -> Self {
        let us = |cycles: u64| clock.cycles_to_ns(cycles) as f64 / 1e3;
        let at = |quantile| us(cycles.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: us(cycles.max()),
            mean: cycles.mean() * us(1 << 20) / f64::from(1 << 20),
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Outcome {
    /// Bytes of a frame with its check sequence, or the name of a mix.
    pub sizes: String,
    /// Frames a second that were asked for, both ways; none for as many as possible.
    pub asked_pps: Option<f64>,
    /// How long it sent.
    pub seconds: f64,
    /// Frames sent, both ways.
    pub sent: u64,
    /// Frames that came, each once.
    pub received: u64,
    /// Frames that never came.
    pub lost: u64,
    /// Frames that came after a later one of their flow.
    pub late: u64,
    /// Frames that came once more.
    pub again: u64,
    /// TCP resets.
    pub refused: u64,
    /// Frames that were due at the rate and could not be sent: the sender or the link was too slow.
    pub missed: u64,
    /// Frames that were checked in every byte.
    pub checked: u64,
    /// What was wrong with frames.
    pub faults: Faults,
    /// Frames a second that came.
    pub pps: f64,
    /// Gigabits a second that came, with what a wire has between frames: preamble, check sequence and gap.
    pub gbps: f64,
    /// Microseconds from making a frame to receiving it.
    pub latency_us: Latency,
    /// Million frames a second that came, in slices of 20 ms.
    pub slices: Vec<f64>,
}

/// Bytes between frames: preamble and start (8), gap (12).
const BETWEEN: f64 = 20.0;

impl Outcome {
    pub(super) fn new(tally: &Tally, sent: u64, time: Duration, mean_size: f64, clock: &TscClock) -> Self {
        let seconds = time.as_secs_f64();
        let pps = tally.received as f64 / seconds.max(f64::MIN_POSITIVE);
        Self {
            seconds,
            sent,
            received: tally.received,
            lost: sent.saturating_sub(tally.received),
            late: tally.late,
            again: tally.again,
            refused: tally.refused,
            checked: tally.checked,
            faults: tally.faults,
            pps,
            gbps: pps * (mean_size + BETWEEN) * 8.0 / 1e9,
            latency_us: Latency::of(&tally.cycles, clock),
            ..Self::default()
        }
    }

    /// The share of the frames sent that never came.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// Whether the rate that was asked for was sent, within a hundredth.
    #[must_use]
    pub fn kept_pace(&self) -> bool {
        self.missed as f64 <= self.sent as f64 / 100.0
    }

    /// The names of [`csv`](Self::csv)'s columns.
    pub const CSV: &str = "sizes,asked_pps,seconds,sent,received,lost,late,again,refused,missed,checked,faults,pps,gbps,p50_us,\
                           p90_us,p99_us,p999_us,max_us";

    /// The figures as a line.
    #[must_use]
    pub fn csv(&self) -> String {
        let Latency { p50, p90, p99, p999, max, .. } = self.latency_us;
        let mut line = format!("{},", self.sizes);
        if let Some(asked) = self.asked_pps {
            write!(line, "{asked:.0}").expect("text takes text");
        }
        let Self { seconds, sent, received, lost, late, again, refused, missed, checked, pps, gbps, .. } =
            self;
        write!(
            line,
            ",{seconds:.3},{sent},{received},{lost},{late},{again},{refused},{missed},{checked},{},{pps:.0},{gbps:.4},\
             {p50:.2},{p90:.2},{p99:.2},{p999:.2},{max:.2}",
            self.faults.total()
        )
        .expect("text takes text");
        line
    }

    /// The figures for people.
    #[must_use]
    pub fn text(&self) -> String {
        if self.sent == 0 {
            return format!("{} bytes: frames were lost at every rate", self.sizes);
        }
        let Latency { p50, p99, p999, max, .. } = self.latency_us;
        let asked = self
            .asked_pps
            .map_or_else(|| "as many as possible".to_owned(), |pps| format!("{:.3} M/s asked", pps / 1e6));
        let mut line = format!(
            "{} bytes, {asked}: {:.3} M/s ({:.2} Gbit/s) came, {} of {} lost ({:.4} %), p50 {p50:.1} p99 {p99:.1} p99.9 \
             {p999:.1} max {max:.1} us; {} checked",
            self.sizes,
            self.pps / 1e6,
            self.gbps,
            self.lost,
            self.sent,
            self.loss() * 100.0,
            self.checked
        );
        for (count, what) in [
            (self.late, "late"),
            (self.again, "twice"),
            (self.refused, "refused"),
            (self.missed, "never sent"),
            (self.faults.damaged, "DAMAGED"),
            (self.faults.misdirected, "MISDIRECTED"),
            (self.faults.wrong_station, "TO ANOTHER STATION"),
            (self.faults.wrong_checksum, "WITH A WRONG CHECKSUM"),
            (self.faults.wrong_payload, "WITH OTHER BYTES"),
        ] {
            if count > 0 {
                write!(line, ", {count} {what}").expect("text takes text");
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_field_for_each_column_and_text_names_what_is_wrong() {
        let clock = TscClock::with_frequency(1_000_000_000, 0);
        let mut tally = Tally::new();
        for number in 0..90 {
            tally.count(&mut super::super::Sequence::default(), number, 2000);
        }
        let mut outcome = Outcome::new(&tally, 100, Duration::from_millis(10), 64.0, &clock);
        outcome.sizes = "64".to_owned();
        assert_eq!((outcome.lost, outcome.loss()), (10, 0.1));
        assert_eq!(outcome.pps, 9000.0);
        assert!((outcome.gbps - 0.006_048).abs() < 1e-6 && (outcome.latency_us.p50 - 2.0).abs() < 0.01);
        assert_eq!(outcome.csv().split(',').count(), Outcome::CSV.split(',').count());
        assert!(outcome.kept_pace() && !outcome.text().contains("never sent"));
        outcome.missed = 2;
        outcome.faults.misdirected = 3;
        assert!(!outcome.kept_pace());
        assert!(outcome.text().contains("2 never sent, 3 MISDIRECTED"), "{}", outcome.text());
    }
}
