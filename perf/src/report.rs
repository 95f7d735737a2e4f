//! Rows of percentiles, as a Markdown table for people and as JSON for programs.

use std::{fs, io, path::PathBuf};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Host;

/// What the numbers of a row are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Unit {
    /// Bytes.
    #[serde(rename = "B")]
    Bytes,
    /// A plain number.
    #[serde(rename = "")]
    Count,
    /// Million items a second.
    #[serde(rename = "M/s")]
    MillionPerSecond,
    /// Nanoseconds an item (a packet, a lookup).
    #[serde(rename = "ns")]
    NsPerItem,
    /// A quotient.
    #[serde(rename = "ratio")]
    Ratio,
    /// Microseconds.
    #[serde(rename = "us")]
    Us,
}

impl Unit {
    /// The unit as it is printed.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Bytes => "B",
            Self::Count => "",
            Self::MillionPerSecond => "M/s",
            Self::NsPerItem => "ns",
            Self::Ratio => "ratio",
            Self::Us => "us",
        }
    }
}

/// One case of a bench; a single value fills every column alike.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    case: String,
    unit: Unit,
    samples: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Row {
    /// A row of samples, converted by `convert`.
    #[must_use]
    pub fn from_histogram(
        case: &str,
        unit: Unit,
        samples: &Histogram<u64>,
        convert: impl Fn(u64) -> f64,
    ) -> Self {
        let at = |quantile: f64| convert(samples.value_at_quantile(quantile));
        Self {
            case: case.to_owned(),
            unit,
            samples: samples.len(),
            // Four more digits than a whole number of cycles has.
            mean: samples.mean() * convert(1 << 20) / f64::from(1 << 20),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: convert(samples.max()),
        }
    }

    /// A row that holds one value.
    #[must_use]
    pub fn value(case: &str, unit: Unit, value: f64) -> Self {
        let (case, samples) = (case.to_owned(), 1);
        Self { case, unit, samples, mean: value, p50: value, p90: value, p99: value, p999: value, max: value }
    }

    fn markdown(&self) -> String {
        let unit = self.unit.symbol();
        if self.samples == 1 {
            return format!("| {} | {unit} | {} | | | | | |", self.case, number(self.mean));
        }
        let cells = [self.mean, self.p50, self.p90, self.p99, self.p999, self.max].map(number);
        format!("| {} | {unit} | {} |", self.case, cells.join(" | "))
    }
}

/// Three digits or more, so that 0.95 and 655,373 both can be read.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The rows of one bench and the machine they come from.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    bench: String,
    host: Host,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report on the bench of this name.
    #[must_use]
    pub fn new(bench: &str) -> Self {
        Self { bench: bench.to_owned(), host: Host::now(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Row) {
        eprintln!("{}", row.markdown());
        self.rows.push(row);
    }

    /// The table, with the host below it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Host {
            cpu,
            processors,
            flags,
            kernel,
            transparent_huge_pages,
            huge_pages,
            governor,
            load,
            compiled_for,
            optimised,
        } = &self.host;
        let mut lines = vec![
            format!("### {}", self.bench),
            String::new(),
            "| case | unit | mean | p50 | p90 | p99 | p99.9 | max |".to_owned(),
            "|---|---|---:|---:|---:|---:|---:|---:|".to_owned(),
        ];
        lines.extend(self.rows.iter().map(Row::markdown));
        lines.push(String::new());
        lines.push(format!(
            "Host: {cpu}, {processors} processors ({}), Linux {kernel}, THP {transparent_huge_pages}, huge pages free \
             {huge_pages}, governor {governor}, load {load}, compiled for {compiled_for}{}.",
            flags.join(" "),
            if *optimised { "" } else { " WITHOUT OPTIMISATION" }
        ));
        lines.push(String::new());
        lines.join("\n")
    }

    /// Prints the table and writes `BENCH.json` and `BENCH.md` to `$FAIRLEAD_PERF_DIR`, or else `target/perf`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(&self) -> io::Result<()> {
        println!("{}", self.markdown());
        let folder = results_folder();
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{}.json", self.bench)), serde_json::to_vec_pretty(self)?)?;
        fs::write(folder.join(format!("{}.md", self.bench)), self.markdown())
    }
}

/// Where results are written: `$FAIRLEAD_PERF_DIR`, or else `target/perf`.
#[must_use]
pub fn results_folder() -> PathBuf {
    std::env::var_os("FAIRLEAD_PERF_DIR").map_or_else(|| target_folder().join("perf"), PathBuf::from)
}

/// Cargo's own `target`, as seen from where it runs this; run otherwise, from the repository's root.
#[must_use]
pub fn target_folder() -> PathBuf {
    // At run time: a library that another checkout built has that one's path in it.
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| "target".into(), |package| PathBuf::from(package).join("../target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_its_samples() {
        let mut samples = Histogram::new_with_bounds(1, 1 << 20, 3).expect("valid bounds");
        (1..=1000).for_each(|value| samples.saturating_record(value));
        let row = Row::from_histogram("case", Unit::NsPerItem, &samples, |value| value as f64 / 10.0);
        assert!(
            (row.p50 - 50.0).abs() < 0.2 && (row.p99 - 99.0).abs() < 0.2 && (row.mean - 50.05).abs() < 0.2
        );
        assert_eq!(Row::value("memory", Unit::Bytes, 96.0).markdown(), "| memory | B | 96.0 | | | | | |");
    }
}
