//! Measures the packet path and says on what machine: percentiles, host facts, JSON and a Markdown table.
//!
//! A sample is the time of one burst, read from the processor's counter; a row holds the samples of one case. Every report
//! begins with an empty loop, which shows what the measuring itself costs. Not here: thresholds; the machine is shared,
//! and only medians of interleaved rounds compare.
#![forbid(unsafe_code)]

pub mod cores;
pub mod generator;
mod host;
pub mod links;
pub mod load;
pub mod objects;
mod options;
pub mod play;
pub mod plot;
pub mod process;
pub mod replay;
mod report;
pub mod rounds;
mod sampler;
mod shuffle;
pub mod slices;
pub mod stand;
mod template;
pub mod wire;

pub use host::Host;
pub use options::Options;
pub use report::{Report, Row, Unit, results_folder, target_folder};
pub use sampler::{Laps, Meter, Sampler};
pub use shuffle::{Random, shuffle};
pub use template::{FRAME_LEN, Template};

/// The whole number next to a value, which is none below 0.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a value beyond the integers is the greatest of them")]
pub(crate) const fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// The middle one of some values, the higher of two; they are sorted.
#[must_use]
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
