//! The sweep: when a pass begins, how much a turn does of it, what it tells.

use dataplane::testkit::{OUTSIDE, Rig};
use packet::{Protocol, TcpFlags, testkit::PacketBuilder};
use tables::Millis;

use crate::world::*;

#[test]
fn the_table_is_swept_for_new_tables_and_as_time_goes_by_and_least_while_bursts_come() {
    let mut fixture = served(&WORLDS[0]);
    let mut rig = rig(&mut fixture);
    let syn = |sport| {
        PacketBuilder::flow(key(Protocol::Tcp, at("192.0.2.2", sport), at(WORLDS[0].lb, 80)))
            .flags(TcpFlags::SYN)
    };
    for sport in 1..=512 {
        one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, syn(sport))), "a flow");
    }
    let turns = |rig: &mut Rig, count: u32| {
        let before = rig.counts().turns.sweeps;
        for _ in 0..count {
            rig.turn();
        }
        rig.counts().turns.sweeps - before
    };
    turns(&mut rig, 1_000);
    assert_eq!(turns(&mut rig, 1_000), 0, "nothing is new");
    rig.now = rig.now.plus(10);
    assert_eq!(turns(&mut rig, 1_000), 1, "what has expired meanwhile");
    rig.publisher.publish(fixture.tables());
    assert_eq!(turns(&mut rig, 1_000), 1, "what is gone with the old tables");

    // 8 records a turn for 32 turns after a packet, then 64.
    rig.now = rig.now.plus(10);
    rig.push(OUTSIDE, &arriving(OUTSIDE, syn(1)));
    assert_eq!((turns(&mut rig, 35), turns(&mut rig, 3)), (0, 1));
    rig.now = rig.now.plus(10);
    for _ in 0..63 {
        rig.push(OUTSIDE, &arriving(OUTSIDE, syn(1)));
        assert_eq!(turns(&mut rig, 1), 0);
    }
    assert_eq!(turns(&mut rig, 1), 1);
}

#[test]
fn silent_flows_are_swept_and_the_sweep_is_reported() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    round_trip(&mut rig, (OUTSIDE, at(world.client, 900)), at(world.lb, 80), Protocol::Udp, "a flow");
    rig.now = Millis(rig.now.0 + 3_600_000);
    rig.turn();
    assert_eq!((rig.counts().flows.used, rig.counts().flows.expired), (0, 1));
    assert_eq!(rig.publisher.swept(), rig.publisher.programmed());
}
