//! Fairlead against kube-proxy: random cluster states, written to a real API server, are followed by the real kube-proxy
//! (nftables mode) in a network namespace, and given to `fairlead trace` with the same Node name. The same packets must
//! have the same verdict, the same candidates and the same source rewrite; `docs/kube-proxy-differences.md` lists where
//! they may not.
//!
//! `make kube-proxy` runs it. `FAIRLEAD_DIFF_STATES` says how many states, `FAIRLEAD_DIFF_SEED` where they begin: state
//! `n` has seed `FAIRLEAD_DIFF_SEED + n`, and one state is asked for alone by its seed and `FAIRLEAD_DIFF_STATES=1`.

#![forbid(unsafe_code)]

mod api;
mod compare;
mod dice;
mod differences;
mod fairlead;
mod kernel;
mod oracle;
mod packets;
mod place;
mod ruleset;
mod server;
mod shrink;
mod slices;
mod state;
mod trial;
mod walk;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::differences::Known;
use crate::place::SETTINGS;
use crate::state::State;
use crate::trial::{Finding, Trial};

/// What the names of our labs begin with.
const LAB: &str = "kp";
/// Where seeds begin when nobody says.
const SEED: u64 = 1;
/// Failing states after which there is no need of more.
const FAILURES_MAX: usize = 3;
/// Differences of a state that are printed.
const SHOWN: usize = 3;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("states: test");
        return ExitCode::SUCCESS;
    }
    let Ok(states) = std::env::var("FAIRLEAD_DIFF_STATES") else {
        println!("kube-proxy: not part of this run (no FAIRLEAD_DIFF_STATES); `make kube-proxy` runs it");
        return ExitCode::SUCCESS;
    };
    if !rustix::process::geteuid().is_root() {
        println!("\n*** SKIPPED: the comparison with kube-proxy makes network namespaces and needs root.\n");
        return ExitCode::SUCCESS;
    }
    match run(&states) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error:#}\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

/// Runs the states that were asked for; gives how many failed.
fn run(states: &str) -> Result<usize> {
    let states: u64 = states.parse().context("FAIRLEAD_DIFF_STATES: a number is expected")?;
    let seed = std::env::var("FAIRLEAD_DIFF_SEED").map_or(Ok(SEED), |text| text.parse());
    let seed: u64 = seed.context("FAIRLEAD_DIFF_SEED: a number is expected")?;
    documented()?;
    // What a run that was killed left behind.
    lab::sweep(LAB);
    let name = format!("{LAB}{}", std::process::id());
    let folder = lab::dir_of(&name);
    let start = Instant::now();
    let mut trial = Trial::start(&name, &folder)?;
    println!("seeds {seed} to {}; ready after {:.1} s", seed + states - 1, start.elapsed().as_secs_f64());
    let total = compare_all(&mut trial, seed..seed + states)?;
    drop(trial);
    fs::remove_dir_all(&folder)?;
    total.print(start);
    total.check(states)?;
    Ok(total.failed.len())
}

/// Runs states by their seeds, those of one setting together; stops when enough have failed.
fn compare_all(trial: &mut Trial, seeds: Range<u64>) -> Result<Total> {
    let mut total = Total::default();
    for (remainder, setting) in (0..).zip(&SETTINGS) {
        let mine = seeds.clone().filter(|seed| seed % SETTINGS.len() as u64 == remainder);
        for (position, seed) in mine.enumerate() {
            if total.failed.len() == FAILURES_MAX {
                return Ok(total);
            }
            if position == 0 {
                println!("{}", setting.name);
                trial.set(setting)?;
            }
            let state = State::new(seed);
            let finding = trial.run(setting, seed, &state).with_context(|| format!("seed {seed}"))?;
            total.add(seed, &finding);
            if let Some((packet, _)) = finding.unknown.first() {
                report(seed, &finding);
                println!("smallest state that still differs:\n{}", trial.shrink(setting, state, packet)?);
            }
        }
    }
    Ok(total)
}

fn report(seed: u64, finding: &Finding) {
    println!("FAILED seed {seed}: {} of {} packets differ", finding.unknown.len(), finding.packets);
    for (_, text) in finding.unknown.iter().take(SHOWN) {
        println!("{text}");
    }
}

/// What all states found together.
#[derive(Default)]
struct Total {
    passed: usize,
    failed: Vec<u64>,
    packets: usize,
    confirmed: usize,
    known: BTreeMap<Known, usize>,
    refused: Vec<String>,
}

impl Total {
    fn add(&mut self, seed: u64, finding: &Finding) {
        if finding.unknown.is_empty() {
            self.passed += 1;
        } else {
            self.failed.push(seed);
        }
        self.packets += finding.packets;
        self.confirmed += finding.confirmed;
        finding.known.iter().for_each(|(known, count)| *self.known.entry(*known).or_default() += count);
        self.refused.extend(finding.refused.iter().cloned());
    }

    fn print(&self, start: Instant) {
        println!(
            "{} packets compared, {} of them sent through the kernel, in {:.0} s; {} objects refused by the API server",
            self.packets,
            self.confirmed,
            start.elapsed().as_secs_f64(),
            self.refused.len()
        );
        self.known
            .iter()
            .for_each(|(known, count)| println!("  {count} with a known difference: {}", known.heading()));
        self.refused.iter().take(SHOWN).for_each(|why| println!("  refused: {why}"));
        self.failed
            .iter()
            .for_each(|seed| println!("  failed: FAIRLEAD_DIFF_SEED={seed} FAIRLEAD_DIFF_STATES=1"));
        println!("kube-proxy: {} passed, {} failed", self.passed, self.failed.len());
    }

    /// A run that asks nothing proves nothing.
    fn check(&self, states: u64) -> Result<()> {
        let done = self.passed + self.failed.len();
        ensure!(self.packets >= done * 100, "only {} packets in {done} states", self.packets);
        ensure!(self.confirmed >= done, "only {} packets went through the kernel", self.confirmed);
        ensure!(!self.failed.is_empty() || done as u64 == states, "{done} of {states} states were run");
        ensure!(self.refused.len() <= done, "the API server refused {} objects", self.refused.len());
        Ok(())
    }
}

/// Every known difference has its heading in the document, and no heading is without one.
fn documented() -> Result<()> {
    let text = include_str!("../../docs/kube-proxy-differences.md");
    let headings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("## Checked: ")).collect();
    let known: Vec<_> = Known::ALL.iter().map(|known| known.heading()).collect();
    ensure!(headings == known, "docs/kube-proxy-differences.md has the headings {headings:?}, not {known:?}");
    Ok(())
}
