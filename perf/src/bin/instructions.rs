//! Instructions a packet of the shipped loop, counted by valgrind's callgrind: they do not depend on what else the machine
//! does, so that a test can hold them. `make instructions` compares with `perf/instructions.tsv`; `instructions --write`
//! makes that file anew, which belongs into the commit that has the reason.
//!
//! Each case runs twice, with few and with many rounds; the difference is what a packet costs, without what a start costs.
//! So it is for each level of instructions that the processor has.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    process::{Command, ExitCode},
};

use cpu::Level;
use packet::Family;
use perf::{
    Laps, Random,
    replay::Replay,
    shuffle,
    stand::{Pair, ROUND, Stand, client},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What they were, from the repository's root, where `make` runs this.
const BASELINE: &str = "perf/instructions.tsv";
/// By how much a case may exceed its number: less than anything that one could feel, more than a compiler's whims.
const TOLERANCE: f64 = 1.03;
/// Below this share of its number, the number should follow.
const FASTER: f64 = 0.97;
const FEW: u32 = 2;
const MANY: u32 = 6;

/// What is counted.
#[derive(Clone, Copy)]
enum Case {
    Established,
    OneWay,
    First,
    Recycling,
    Established6,
    Tagged,
    Part,
    Empty,
}

impl Case {
    const ALL: [Self; 8] = [
        Self::Established,
        Self::OneWay,
        Self::First,
        Self::Recycling,
        Self::Established6,
        Self::Tagged,
        Self::Part,
        Self::Empty,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Established => "a packet of an established flow",
            Self::OneWay => "a packet of a flow that nobody answers",
            Self::First => "the first packet of a flow",
            Self::Recycling => "the first packet of a flow in the place of another",
            Self::Established6 => "a packet of an established flow of IPv6",
            Self::Tagged => "a packet of an established flow with its client in a VLAN",
            Self::Part => "a part of a datagram in two",
            Self::Empty => "a turn without packets in a long spell of them",
        }
    }

    /// Plays this many rounds; packets a round.
    fn play(self, level: Level, rounds: u32) -> Result<u32> {
        let mut unused = Laps::new();
        let round = u32::try_from(ROUND)?;
        match self {
            Self::Established => {
                let mut stand = Stand::new(16_384, level)?;
                let clients = stand.establish(round);
                let mut backends = clients.clone();
                shuffle(&mut backends, &mut Random::new(2));
                for _ in 0..rounds {
                    stand.now = stand.now.plus(1);
                    stand.both_ways(&clients, &backends, &mut unused);
                }
                Ok(2 * round)
            }
            Self::OneWay => {
                let mut stand = Stand::new(16_384, level)?;
                let keys: Vec<_> = (0..round).map(client).collect();
                let replies = stand.open(&keys, &mut unused);
                let pairs = keys.into_iter().zip(replies).map(|(original, reply)| Pair { original, reply });
                let pairs: Vec<_> = pairs.collect();
                for _ in 0..rounds {
                    stand.now = stand.now.plus(1);
                    stand.both_ways(&pairs, &[], &mut unused);
                }
                Ok(round)
            }
            Self::First | Self::Recycling => {
                let before = if matches!(self, Self::Recycling) { 2 } else { 0 };
                // Full, for recycling, when the counted rounds begin; else with room for all.
                let mut stand = Stand::new(if before > 0 { 16_384 } else { 8 * round }, level)?;
                for n in 0..before + rounds {
                    let keys: Vec<_> = (n * round..(n + 1) * round).map(client).collect();
                    stand.open(&keys, &mut unused);
                }
                Ok(round)
            }
            Self::Empty => {
                let mut stand = Stand::new(16_384, level)?;
                stand.establish(round);
                (0..rounds * round).for_each(|_| stand.idle(&mut unused));
                Ok(round)
            }
            Self::Established6 | Self::Tagged | Self::Part => {
                let mut stand = match self {
                    Self::Tagged => Replay::stand_with_vlan(16_384, level)?,
                    _ => Replay::stand(16_384, level)?,
                };
                let replay = match self {
                    Self::Part => Replay::of_parts(&mut stand, Family::V4, u16::try_from(round / 2)?),
                    Self::Tagged => Replay::of_vlan(&mut stand, u16::try_from(round)?),
                    _ => Replay::of_ipv6(&mut stand, u16::try_from(round)?),
                };
                for _ in 0..rounds {
                    stand.now = stand.now.plus(1);
                    replay.round(&mut stand, &mut unused);
                }
                Ok(u32::try_from(replay.len())?)
            }
        }
    }
}

fn main() -> Result<ExitCode> {
    let words: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["play", case, level, rounds] => {
            let case = Case::ALL.into_iter().find(|one| one.name() == case).ok_or("no such case")?;
            let level = levels().into_iter().find(|one| one.name() == level).ok_or("no such level")?;
            println!("{}", case.play(level, rounds.parse()?)?);
            Ok(ExitCode::SUCCESS)
        }
        [] => compare(&count_all()?),
        ["--write"] => {
            let lines = count_all()?.into_iter().fold(String::new(), |mut text, (name, count)| {
                writeln!(text, "{name}\t{count:.0}").expect("text takes text");
                text
            });
            fs::write(BASELINE, lines)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("usage: instructions [--write]".into()),
    }
}

fn compare(counts: &[(String, f64)]) -> Result<ExitCode> {
    let text = fs::read_to_string(BASELINE)?;
    let mut failed = false;
    for (name, count) in counts {
        let line = text.lines().find_map(|line| line.split_once('\t').filter(|(known, _)| known == name));
        let known: f64 = line.ok_or_else(|| format!("instructions.tsv has no `{name}`"))?.1.parse()?;
        let verdict = match count / known {
            ratio if ratio > TOLERANCE => "TOO MANY",
            ratio if ratio < FASTER => "fewer: write it down (instructions --write)",
            _ => "as known",
        };
        failed |= *count > known * TOLERANCE;
        println!("{name}: {count:.0} instructions, {known:.0} known: {verdict}");
    }
    if failed {
        println!("Make it cheaper, or write the new number down in a commit that says what it is worth.");
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// The oldest, and that of this processor.
fn levels() -> Vec<Level> {
    let mut levels = vec![Level::BASELINE, Level::of_this_processor()];
    levels.dedup();
    levels
}

fn count_all() -> Result<Vec<(String, f64)>> {
    let cases = levels().into_iter().flat_map(|level| Case::ALL.map(|case| (case, level)));
    cases
        .map(|(case, level)| Ok((format!("{}, {}", case.name(), level.name()), count(case, level)?)))
        .collect()
}

/// Instructions a packet.
fn count(case: Case, level: Level) -> Result<f64> {
    let ((few, packets), (many, _)) = (run(case, level, FEW)?, run(case, level, MANY)?);
    Ok((many - few) / (f64::from(MANY - FEW) * packets))
}

/// Instructions of every turn, and packets a round.
fn run(case: Case, level: Level, rounds: u32) -> Result<(f64, f64)> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*Worker*::poll"])
        .arg(env::current_exe()?)
        .args(["play", case.name(), level.name(), &rounds.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error} (install the package `valgrind`)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} under valgrind: {said}", case.name()).into());
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let count: f64 = collected.ok_or("valgrind says no count")?.1.trim().parse()?;
    if count == 0.0 {
        return Err("the loop was not found: is it still `Worker::poll`?".into());
    }
    Ok((count, String::from_utf8(output.stdout)?.trim().parse()?))
}
