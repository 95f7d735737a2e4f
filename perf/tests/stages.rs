//! Accounts by stage add up: every turn's time is some stage's, and single packets are marked only when asked for.
#![cfg(feature = "stages")]

use cpu::{Level, tsc};
use dataplane::stages::{Account, Stage};
use perf::{
    Laps,
    stand::{ROUND, Stand, Traffic, client},
};

/// The stages that only marks of single packets tell of.
const OF_PACKETS: [Stage; 4] = [Stage::Record, Stage::Enter, Stage::Rewrite, Stage::Egress];

fn marks(stand: &mut Stand, stage: Stage) -> u64 {
    stand.stages_mut().spent(stage).marks
}

#[test]
fn every_stage_of_a_turn_has_its_time_and_no_more_than_that() {
    let mut stand = Stand::new(16_384, Level::of_this_processor()).unwrap();
    let mut laps = Laps::new();
    *stand.stages_mut() = Account::new(false);
    let start = tsc();
    let keys: Vec<_> = (0..).map(client).take(ROUND).collect();
    stand.open(&keys, &mut laps);
    let whole = tsc() - start;
    let spent: Vec<_> =
        Stage::ALL.into_iter().map(|stage| (stage, stand.stages_mut().spent(stage))).collect();
    for (stage, spent) in &spent {
        let is_marked = !OF_PACKETS.contains(stage);
        assert_eq!((spent.marks > 0, spent.cycles > 0), (is_marked, is_marked), "{stage:?}: {spent:?}");
    }
    let sum: u64 = spent.iter().map(|(_, spent)| spent.cycles).sum();
    assert!(sum <= whole, "{sum} of {whole} cycles");
    // A burst has one mark of a stage, however many packets are in it; a turn ends with one more transmit.
    let turns = stand.worker().counts().turns.turns;
    let bursts = marks(&mut stand, Stage::Parse);
    let found = (marks(&mut stand, Stage::Transmit), marks(&mut stand, Stage::Tables));
    assert_eq!(found, (turns + bursts, turns));
    assert!(bursts < turns);
}

#[test]
fn single_packets_are_marked_when_asked_for() {
    let mut stand = Stand::new(16_384, Level::of_this_processor()).unwrap();
    *stand.stages_mut() = Account::new(true);
    let keys: Vec<_> = (100_000..).map(client).take(100).collect();
    stand.open(&keys, &mut Laps::new());
    for stage in OF_PACKETS {
        assert!(marks(&mut stand, stage) >= 100, "{stage:?}");
    }
    assert_eq!(marks(&mut stand, Stage::Enter), 100);
    let mut traffic = Traffic::new(&mut stand, 100);
    *stand.stages_mut() = Account::new(true);
    // What the worker announces by itself is not rewritten.
    let sent = |stand: &Stand| {
        let packets = &stand.worker().counts().packets;
        packets.tx - packets.originated
    };
    let before = sent(&stand);
    let clock = cpu::TscClock::calibrate();
    traffic.rounds(&mut stand, std::time::Duration::from_millis(5), &clock);
    let sent = sent(&stand) - before;
    assert_eq!((marks(&mut stand, Stage::Enter), marks(&mut stand, Stage::Rewrite)), (0, sent));
}
