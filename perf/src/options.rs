//! What a bench is asked: `--quick` (or `QUICK=1`) for a short run, other words to choose cases by name.

use std::time::Duration;

/// Options of a bench run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A short run: proves that the bench works, its numbers are rough.
    pub quick: bool,
    filters: Vec<String>,
}

impl Options {
    /// From the arguments and environment of the process. `cargo bench` adds `--bench`, which says nothing here.
    #[must_use]
    pub fn from_process() -> Self {
        let (flags, filters): (Vec<_>, Vec<_>) =
            std::env::args().skip(1).partition(|word| word.starts_with("--"));
        let quick = flags.iter().any(|flag| flag == "--quick") || std::env::var_os("QUICK").is_some();
        Self { quick, filters }
    }

    /// True if the case was asked for: no word given, or one that is part of its name.
    #[must_use]
    pub fn wants(&self, case: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| case.contains(filter.as_str()))
    }

    /// How long one case is measured.
    #[must_use]
    pub fn time(&self) -> Duration {
        Duration::from_millis(if self.quick { 50 } else { 1000 })
    }

    /// `full`, or `quick` in a quick run.
    #[must_use]
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
