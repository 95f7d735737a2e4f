//! The generator of the wire bench against the worker, on memory ports: all that it opens and sends comes back translated.

use std::time::Duration;

use dataplane::{
    io::mem::MemPort,
    testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig},
};
use perf::{
    generator::{Ends, Generator},
    stand::tables,
};
use tables::PortId;

/// Cables between the generator's two ports and the worker's, and a turn of the worker.
fn carry(rig: &mut Rig, wires: [&mut MemPort; 2]) {
    let mut carry = |wire: &mut MemPort, port: PortId| {
        while let Some(buf) = wire.pop() {
            rig.port(port).push_buf(buf);
        }
        rig.turn();
        while let Some(buf) = rig.port(port).pop() {
            wire.push_buf(buf);
        }
    };
    let [outside, inside] = wires;
    carry(outside, OUTSIDE);
    carry(inside, INSIDE);
}

#[test]
fn flows_are_opened_and_traffic_returns() {
    let mut rig = Rig::new(&RigConfig { flows: 4096, ..RigConfig::default() }, tables());
    let link = |port, last| {
        let ends = Ends { gateway: Fixture::port_mac(port), ours: Fixture::neighbor_mac(port, last) };
        (MemPort::default(), ends)
    };
    let mut generator = Generator::new(link(OUTSIDE, 254), link(INSIDE, 11));
    generator.establish(300, |wires| carry(&mut rig, wires)).expect("every flow opens");
    let time = Duration::from_millis(100);
    let traffic = generator.run(time, |wires| carry(&mut rig, wires)).expect("every packet is ours");
    assert!(traffic.returned > 1000 && traffic.checked > 0, "{traffic:?}");
    assert!(traffic.returned <= traffic.sent && traffic.returned + 2048 >= traffic.sent, "{traffic:?}");
    assert_eq!(rig.counts().flows.created, 300);
    let opened =
        generator.run_new(300, time, |wires| carry(&mut rig, wires)).expect("backends get every SYN");
    assert!(
        opened.returned > 1000 && opened.checked > 0 && opened.returned <= opened.sent + 2048,
        "{opened:?}"
    );
    assert!(rig.counts().flows.created >= 300 + opened.returned);
}
