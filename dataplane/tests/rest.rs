//! A worker that may sleep and whose ports have receive interrupts: it waits only when nothing is left to do, and whoever
//! has something for it wakes it. What ended a wait shows in the port: after a call it is silent, after a wait that nobody
//! ended it is armed still. So nothing here depends on how long anything takes.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use cpu::{Bell, Level, Watch};
use dataplane::{
    buf::PacketBuf,
    handoff::handoff_rings,
    idle::IdleMode,
    io::mem::MemBuf,
    testkit::{Fixture, OUTSIDE, PipePort, Wire, pipe},
    worker::{Worker, WorkerConfig, WorkerLinks},
};
use packet::{AnyKey, FlowKey, Protocol, ether, testkit::PacketBuilder};
use tables::{
    FrontendKind, Generation, Millis, NatMode, PortId, PortSet, Tables, WorkerId,
    capture::capture_ring,
    command::{Command, CommandSender, command_rings},
    counters::{Idling, WorkerCounters},
    flow::FlowTableConfig,
    owner,
    publish::{Publisher, mailboxes},
    punt::{FrameSender, frame_ring},
    tcp_state::Timeouts,
};

const NOW: Millis = Millis(1_000);
/// Turns after which any worker here is at rest.
const TURNS: usize = 1_000;

/// A worker on one port, with all who may have something for it.
struct Sleeper {
    worker: Worker<PipePort>,
    wire: Wire,
    counters: Arc<WorkerCounters>,
    publisher: Publisher<Tables>,
    inject: FrameSender,
    commands: CommandSender,
    bell: Arc<Bell>,
}

impl Sleeper {
    fn new(id: u16, interrupts: bool) -> Self {
        Self::with_tables(id, interrupts, Fixture::data_centre().tables())
    }

    fn with_tables(id: u16, interrupts: bool, first: Tables) -> Self {
        let watch = Watch::new().unwrap();
        let bell = Arc::clone(watch.bell());
        let (mut publisher, mut subscribers) = mailboxes(1, first);
        let (mut inject, injected) = frame_ring(0);
        let (mut commands, desk) = command_rings(1, 1);
        publisher.call(vec![Arc::clone(&bell)]);
        inject.call(Arc::clone(&bell));
        commands.call(Arc::clone(&bell));
        let counters = Arc::new(WorkerCounters::new(2));
        let links = WorkerLinks {
            tables: subscribers.pop().unwrap(),
            counters: Arc::clone(&counters),
            punt: frame_ring(0).0,
            inject: injected,
            commands: desk,
            capture: capture_ring(0).0,
            watch: Some(watch),
        };
        let flows = FlowTableConfig { flows: 1024, ipv6: false, secret: 7, timeouts: Timeouts::default() };
        let config = WorkerConfig {
            id: WorkerId(id),
            level: Level::of_this_processor(),
            flows,
            affinity_clients: 64,
            mirrored: PortSet::NONE,
            idle: IdleMode::Sleep,
        };
        let (port, wire) = pipe(interrupts).unwrap();
        let worker = Worker::new(&config, links, vec![port]).unwrap();
        Self { worker, wire, counters, publisher, inject, commands, bell }
    }

    /// One turn and what comes after it.
    fn turn(&mut self) -> usize {
        let work = self.worker.poll(NOW);
        self.worker.rest(work, NOW);
        work
    }

    /// Turns until it is about to wait: the next turn is the last look.
    fn until_armed(&mut self) {
        // What it says by itself at first is announced a piece a turn.
        let armed = (0..TURNS).any(|_| {
            self.turn();
            self.wire.is_armed()
        });
        assert!(armed, "it never rests");
    }

    /// A question for the worker's own address.
    fn ask(&self) {
        let (asker, own) = ("192.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let question = PacketBuilder::arp_request(Fixture::neighbor_mac(OUTSIDE, 2), asker, own).build();
        assert!(self.wire.send(MemBuf::from_frame(&question).unwrap()));
    }
}

#[test]
fn it_waits_again_and_again_while_nobody_calls() {
    let mut sleeper = Sleeper::new(0, true);
    sleeper.until_armed();
    let before = sleeper.worker.counts().turns;
    for _ in 0..5 {
        assert_eq!(sleeper.turn(), 0);
        assert!(sleeper.wire.is_armed());
    }
    let after = sleeper.worker.counts().turns;
    assert_eq!((after.turns - before.turns, after.sleeps - before.sleeps), (5, 5), "one wait a turn");
    assert_eq!(sleeper.counters.idling(), Idling::Waits);
}

/// Each has something for the worker once before its last look, which must find it, and once before its wait, which it
/// must end.
#[test]
fn who_has_something_for_it_wakes_it() {
    type Give = fn(&mut Sleeper);
    let callers: [(&str, Give); 4] = [
        ("a packet", |sleeper| sleeper.ask()),
        ("new tables", |sleeper| {
            let next = sleeper.publisher.newest().generation.0 + 1;
            sleeper.publisher.publish(Tables::empty(Generation(next)));
        }),
        ("a frame of the kernel", |sleeper| {
            sleeper.inject.frame(PortId(0), [&[7; 60][..]].into_iter()).unwrap();
        }),
        ("a command", |sleeper| assert!(sleeper.commands.send(Command::Capture(None)))),
    ];
    for (name, give) in callers {
        let mut sleeper = Sleeper::new(0, true);
        sleeper.until_armed();
        give(&mut sleeper);
        let work = sleeper.turn();
        assert!(work > 0 || name == "new tables", "{name}: the last look finds it");
        sleeper.until_armed();
        // The last look without anything; what is given then ends the wait that follows in the same call of `rest`.
        let work = sleeper.worker.poll(NOW);
        assert_eq!(work, 0, "{name}");
        // An answer must be taken before the next command.
        sleeper.commands.answer();
        give(&mut sleeper);
        sleeper.worker.rest(work, NOW);
        assert!(!sleeper.wire.is_armed(), "{name} ends the wait");
        let served = sleeper.turn();
        assert!(served > 0 || name == "new tables", "{name}");
        assert!(
            name != "new tables" || sleeper.publisher.programmed() == sleeper.publisher.newest().generation,
            "they are taken"
        );
    }
}

#[test]
fn the_answer_to_a_question_that_woke_it_is_out_after_the_next_turn() {
    let mut sleeper = Sleeper::new(0, true);
    sleeper.until_armed();
    while sleeper.wire.sent.try_recv().is_ok() {}
    let work = sleeper.worker.poll(NOW);
    sleeper.ask();
    sleeper.worker.rest(work, NOW);
    sleeper.turn();
    let answer = sleeper.wire.sent.try_recv().unwrap();
    assert_eq!(answer.head().get(12..14), Some(&ether::ARP.to_be_bytes()[..]));
}

#[test]
fn ports_without_interrupts_are_looked_at_after_naps() {
    let mut sleeper = Sleeper::new(0, false);
    for _ in 0..200 {
        sleeper.turn();
    }
    assert!(sleeper.worker.counts().turns.sleeps > 100);
    assert_eq!(sleeper.counters.idling(), Idling::Sleeps);
}

#[test]
fn a_port_that_refuses_is_told_of_and_tried_again() {
    let mut sleeper = Sleeper::new(0, true);
    sleeper.wire.refuse(true);
    let idling = |sleeper: &Sleeper| sleeper.counters.idling();
    let refused = Idling::Refused { port: PortId(0), errno: 0 };
    assert!((0..TURNS).any(|_| {
        sleeper.turn();
        idling(&sleeper) == refused
    }));
    let before = sleeper.worker.counts().turns;
    sleeper.turn();
    assert_eq!(sleeper.worker.counts().turns.sleeps, before.sleeps + 1, "it naps");
    sleeper.wire.refuse(false);
    // A second's worth of naps.
    assert!((0..2 * TURNS).any(|_| {
        sleeper.turn();
        sleeper.wire.is_armed()
    }));
    assert_eq!(idling(&sleeper), Idling::Waits);
}

#[test]
fn a_worker_that_is_handed_packets_is_called() {
    let mut fixture = Fixture::data_centre();
    let service = fixture.service("web", Protocol::Udp, &["10.244.1.5:80"], NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, "198.51.100.1:80", service);
    fixture.tables.workers = 2;
    let tables = fixture.tables();
    let mut giver = Sleeper::with_tables(0, true, tables.clone());
    let mut taker = Sleeper::with_tables(1, true, tables.clone());
    let bells = vec![Arc::clone(&giver.bell), Arc::clone(&taker.bell)];
    for (sleeper, mut ends) in [&mut giver, &mut taker].into_iter().zip(handoff_rings(2)) {
        ends.set_bells(bells.clone());
        sleeper.worker.connect(ends);
    }
    let of_taker = |sport: &u16| {
        let (src, dst) = ("203.0.113.9".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let key = FlowKey { src, dst, sport: *sport, dport: 80, protocol: Protocol::Udp };
        owner::of_key(AnyKey::V4(key), &tables) == WorkerId(1)
    };
    let sport = (2_000..3_000).find(of_taker).unwrap();
    taker.until_armed();
    let work = taker.worker.poll(NOW);
    let packet = PacketBuilder::udp(&format!("203.0.113.9:{sport}"), "198.51.100.1:80")
        .macs(Fixture::port_mac(OUTSIDE), Fixture::neighbor_mac(OUTSIDE, 254))
        .build();
    assert!(giver.wire.send(MemBuf::from_frame(&packet).unwrap()));
    giver.turn();
    assert_eq!(giver.worker.counts().packets.handoff_out, 1);
    taker.worker.rest(work, NOW);
    assert!(!taker.wire.is_armed(), "it was called");
    taker.turn();
    assert_eq!(taker.worker.counts().packets.handoff_in, 1);
}
