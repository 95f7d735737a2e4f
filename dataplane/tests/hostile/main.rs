//! Mutated packets by the million through the pipeline: no panic, no buffer lost, nothing sent that [`model`] cannot
//! explain, whatever comes. The fuzz target's own inputs are in `fuzz.rs`.

#![expect(clippy::panic, reason = "a test")]

mod counted;
mod frames;
mod model;
mod trunk;

use cpu::Level;
use dataplane::{
    buf::BURST,
    testkit::{INSIDE, OUTSIDE, Rig, RigConfig},
};
use tables::{Millis, PortSet};

use crate::{
    counted::{Count, CountedPort},
    frames::Frames,
    model::Model,
    trunk::world,
};

/// Few enough flows that the table is full most of the time.
const FLOWS: u32 = 128;
/// Bytes of an IP packet that the Nodes' network takes: some packets must be cut, or refused as too big.
const INSIDE_MTU: u16 = 1_400;

/// Sends so many frames, made from this seed.
fn hostile(seed: u64, frames_total: usize) {
    println!("seed {seed}");
    let mut fixture = world();
    let mut ports = fixture.tables.ports().to_vec();
    ports[INSIDE.index()].mtu = INSIDE_MTU;
    fixture.tables.set_ports(ports);
    let count = Count::default();
    let config = RigConfig { flows: FLOWS, mirrored: PortSet::of(OUTSIDE), ..RigConfig::default() };
    let lanes = vec![CountedPort::new(&count), CountedPort::new(&count)];
    let mut rig = Rig::with_ports(&config, fixture.tables(), lanes);
    let (mut frames, mut model) = (Frames::new(seed), Model::default());
    let mut done = 0;
    while done < frames_total {
        // Of every burst either all is sound, or nothing is asked of checksums.
        let sound = frames.random.below(2) == 0;
        let burst = 1 + frames.random.below(BURST);
        for _ in 0..burst {
            let (port, frame) = frames.next(sound);
            model.arrives(port, &frame);
            rig.port(port).push(&frame);
        }
        done += burst;
        advance(&mut rig.now, &mut frames);
        if frames.random.below(64) == 0 {
            fixture.tables.fib_epoch += 1;
            rig.publisher.publish(fixture.tables());
        }
        rig.settle();
        let sent = take_sent(&mut rig);
        sent.iter().for_each(|(port, frame)| frames.sent(*port, frame));
        model.check(&sent, sound);
        rig.punted();
    }
    finish(rig, &count);
    assert_reached(&model, frames_total);
}

/// Mostly nothing, or little, and once in a while enough to end every flow.
fn advance(now: &mut Millis, frames: &mut Frames) {
    let ms = match frames.random.below(1_000) {
        0 => 10_000_000,
        1..10 => 2_000,
        10..500 => 1,
        _ => 0,
    };
    *now = now.plus(ms);
}

fn take_sent(rig: &mut Rig<CountedPort>) -> Vec<(tables::PortId, Vec<u8>)> {
    let mut sent = Vec::new();
    for port in [INSIDE, OUTSIDE] {
        while let Some(frame) = rig.port(port).pop() {
            sent.push((port, frame));
        }
    }
    sent
}

/// When all that waits has had its time, no buffer is left and the books are right.
fn finish(mut rig: Rig<CountedPort>, count: &Count) {
    // Parts that waited may be sent on, and wait again for a neighbour.
    for _ in 0..2 {
        rig.now = rig.now.plus(60_000);
        rig.settle();
        take_sent(&mut rig);
    }
    assert_eq!((rig.counts().imbalance(), rig.counts().packets.held), (0, 0), "{:?}", rig.counts());
    assert_eq!(count.get(), 0, "buffers are lost");
}

/// Every way out was taken: a test in which all is dropped would prove nothing.
fn assert_reached(model: &Model, frames_total: usize) {
    for kind in [
        "to a backend",
        "to a client",
        "error",
        "for the VIP",
        "routed",
        "part",
        "answer",
        "ARP",
        "ND",
        "tagged",
    ] {
        let sent = model.sent.get(kind).copied().unwrap_or_default();
        assert!(
            sent * 5_000 > frames_total as u64,
            "only {sent} of {frames_total} are {kind}: {:?}",
            model.sent
        );
    }
}

/// The burst's steps are compiled for old processors and for new ones: both send the same.
#[test]
fn every_processor_sends_the_same() {
    let mut fixture = world();
    let levels = [Level::BASELINE, Level::of_this_processor()];
    let counts = levels.map(|_| Count::default());
    let mut rigs: Vec<_> = levels
        .iter()
        .zip(&counts)
        .map(|(&level, count)| {
            let config = RigConfig { level, flows: FLOWS, ..RigConfig::default() };
            Rig::with_ports(&config, fixture.tables(), vec![CountedPort::new(count), CountedPort::new(count)])
        })
        .collect();
    let (mut frames, mut sent_total) = (Frames::new(7), 0);
    for _ in 0..2_000 {
        let burst: Vec<_> = (0..BURST).map(|_| frames.next(true)).collect();
        let mut now = rigs[0].now;
        advance(&mut now, &mut frames);
        let sent: Vec<_> = rigs
            .iter_mut()
            .map(|rig| {
                rig.now = now;
                burst.iter().for_each(|(port, frame)| rig.port(*port).push(frame));
                rig.settle();
                rig.punted();
                take_sent(rig)
            })
            .collect();
        assert_eq!(sent[0], sent[1]);
        sent_total += sent[0].len();
        sent[0].iter().for_each(|(port, frame)| frames.sent(*port, frame));
    }
    assert!(sent_total > 10_000, "{sent_total} frames sent");
}

#[test]
fn a_million_mutated_packets_hold() {
    for seed in 1..=10 {
        hostile(seed, 100_000);
    }
}

#[test]
#[ignore = "minutes, in release"]
fn a_hundred_million_mutated_packets_hold() {
    for seed in 11..=1_010 {
        hostile(seed, 100_000);
    }
}
