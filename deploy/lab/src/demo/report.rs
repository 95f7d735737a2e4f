//! What the demo prints: for each row what was asked, what answered and how to repeat it; at the end what failed.

use std::time::Instant;

use anyhow::{Error, Result};

/// Collects the outcome of every step.
pub(super) struct Report {
    start: Instant,
    row: &'static str,
    passed: u32,
    failed: Vec<String>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), row: "", passed: 0, failed: Vec::new() }
    }

    /// Begins a row of the table.
    pub(super) fn row(&mut self, number: &'static str, title: &str, what: &str) {
        self.row = number;
        println!("\n{number}. {title}\n   {what}");
    }

    /// One step: prints what was asked and what came back. `by_hand` is a command to repeat it, or empty.
    pub(super) fn step(&mut self, asked: &str, by_hand: &str, answer: Result<String>) {
        match answer {
            Ok(text) => {
                self.passed += 1;
                println!(
                    "   ok      {asked}\n           -> {}",
                    text.trim().replace('\n', "\n              ")
                );
            }
            Err(error) => self.fail(asked, &error),
        }
        if !by_hand.is_empty() {
            println!("           $  {by_hand}");
        }
    }

    /// Something that belongs to the row and is not shown here, and why.
    pub(super) fn not_shown(&self, what: &str) {
        println!("   --      not shown here: {what}");
    }

    /// The summary; true when everything passed.
    pub(super) fn end(&self) -> bool {
        println!(
            "\nSummary: {} steps passed, {} failed, {:.1} s.",
            self.passed,
            self.failed.len(),
            self.start.elapsed().as_secs_f64()
        );
        for failed in &self.failed {
            println!("   FAILED  {failed}");
        }
        self.failed.is_empty()
    }

    fn fail(&mut self, asked: &str, error: &Error) {
        self.failed.push(format!("row {}: {asked}", self.row));
        println!(
            "   FAILED  {asked}\n           -> {}",
            format!("{error:#}").replace('\n', "\n              ")
        );
    }
}
