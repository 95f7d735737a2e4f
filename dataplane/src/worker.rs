//! A worker: one core, one queue pair of every port, one flow table; run to completion.
//!
//! Each turn takes new tables if there are any, then a burst of every port through the stages, then what the kernel
//! and control ask for, then a bounded piece of housekeeping. Nothing here blocks, locks, allocates or reads a clock;
//! [`Worker::run`] alone reads one, once a turn, and sleeps between turns where it may.

mod rest;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cpu::{Level, TscClock, Watch};
use tables::{
    DropReason, Millis, PortId, PortSet, Tables, WorkerId,
    affinity::Affinity,
    capture::Capture,
    command::CommandDesk,
    counters::{Counts, Idling, WorkerCounters},
    flow::{FlowTable, FlowTableConfig},
    publish::Subscriber,
    punt::{FRAME_LEN_MAX, FrameReceiver, FrameSender, Message},
};

use crate::{
    buf::{BURST, Burst},
    fragments::Fragments,
    handoff::Handoff,
    idle::{Idle, IdleMode},
    io::PortIo,
    lane::Lane,
    pass::{Pass, State},
    scratch::Scratch,
    stage::{announce::Announcer, bypass::Bypasses, hold::Hold, limit::Limit, police::Police},
    stages::{Account, Stage},
};

/// Flow records that a turn with work visits for expiry, and for a command of control.
const RECORDS_BUSY: u32 = 8;
/// The same for a turn of a long spell without work: between two bursts it would keep the next one waiting.
const RECORDS_IDLE: u32 = 64;
/// From the beginning of one sweep to that of the next at least, in milliseconds, if the tables stay the same: a table of few
/// flows would otherwise be swept all the time.
const SWEEP_MS: u32 = 10;
/// Turns without work before a spell is a long one: some microseconds.
const SPELL: u32 = 32;
/// Every so many turns, with work or without, control is shown what was counted.
const SHOWN_EVERY: u64 = 8;
/// Frames of the kernel that are sent in one turn.
const INJECT_MAX: usize = 32;

/// What a worker is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// Which one it is.
    pub id: WorkerId,
    /// The processor's instructions that it may use.
    pub level: Level,
    /// Its flow table.
    pub flows: FlowTableConfig,
    /// Clients it remembers for session affinity.
    pub affinity_clients: u32,
    /// Ports with a kernel mirror.
    pub mirrored: PortSet,
    /// What to do when nothing arrives.
    pub idle: IdleMode,
}

/// A worker's ends of what it shares with control.
pub struct WorkerLinks {
    /// Where new tables come from.
    pub tables: Subscriber<Tables>,
    /// Where its counters are read.
    pub counters: Arc<WorkerCounters>,
    /// Frames and questions to control.
    pub punt: FrameSender,
    /// Frames of the kernel, to be sent.
    pub inject: FrameReceiver,
    /// What control asks.
    pub commands: CommandDesk,
    /// Packets that control wants to see.
    pub capture: Capture,
    /// What it waits with for receive interrupts; those who may have something for it have its bell. Without, it naps.
    pub watch: Option<Watch>,
}

/// Where the sweep is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Sweep {
    /// In the flow table.
    Flows,
    /// In the memory of clients.
    Clients,
    /// At the end; the next one has not begun.
    Done,
}

/// See the module.
pub struct Worker<P: PortIo> {
    tables: Subscriber<Tables>,
    counters: Arc<WorkerCounters>,
    inject: FrameReceiver,
    commands: CommandDesk,
    lanes: Vec<Lane<P>>,
    state: State<P::Buf>,
    announcer: Announcer,
    /// Turns without work since the last one with.
    spell: u32,
    sweep: Sweep,
    sweep_began: Millis,
    idle: Idle,
    watch: Option<Watch>,
    /// Packets handed over when other workers were last called.
    handed_over: u64,
    burst: Burst<P::Buf>,
    scratch: Box<Scratch>,
    frame: Box<[u8; FRAME_LEN_MAX]>,
}

impl<P: PortIo> Worker<P> {
    /// A worker with one queue pair of every port that has a device, in the order of [`PortId`]. All its memory is reserved now.
    ///
    /// # Errors
    /// When there is no memory for the flow table.
    pub fn new(config: &WorkerConfig, links: WorkerLinks, ports: Vec<P>) -> io::Result<Self> {
        let state = State {
            worker: config.id,
            level: config.level,
            flows: FlowTable::new(&config.flows)?,
            affinity: Affinity::new(config.affinity_clients, config.flows.secret),
            counts: Counts::new(links.counters.ports()),
            hold: Hold::new(),
            bypasses: Bypasses::new(Millis(0)),
            fragments: Fragments::new(),
            limit: Limit::new(Millis(0)),
            police: Police::new(),
            kernel: links.punt,
            capture: links.capture,
            handoff: Handoff::none(),
            mirrored: config.mirrored,
            stages: Account::new(false),
        };
        let lanes: Vec<_> = ports.into_iter().map(Lane::new).collect();
        let interrupts = links.watch.is_some()
            && !lanes.is_empty()
            && lanes.iter().all(|lane: &Lane<P>| lane.capabilities.rx_interrupts);
        links.counters.set_idling(match config.idle {
            IdleMode::Poll => Idling::Polls,
            IdleMode::Sleep if interrupts => Idling::Waits,
            IdleMode::Sleep => Idling::Sleeps,
        });
        Ok(Self {
            tables: links.tables,
            counters: links.counters,
            inject: links.inject,
            commands: links.commands,
            lanes,
            state,
            announcer: Announcer::new(),
            spell: 0,
            sweep: Sweep::Flows,
            sweep_began: Millis(0),
            idle: Idle::new(config.idle, interrupts),
            watch: links.watch,
            handed_over: 0,
            burst: Burst::new(),
            scratch: Box::new(Scratch::new()),
            frame: Box::new([0; FRAME_LEN_MAX]),
        })
    }

    /// Gives it its ends of the rings between workers; without, what another worker owns is dropped.
    pub fn connect(&mut self, handoff: Handoff<P::Buf>) {
        self.state.handoff = handoff;
    }

    /// Turns until `stop` is set; whoever sets it waits for this to return.
    pub fn run(&mut self, clock: &TscClock, stop: &AtomicBool) {
        let mut start = cpu::tsc();
        while !stop.load(Ordering::Relaxed) {
            #[expect(clippy::cast_possible_truncation, reason = "Millis wraps")]
            let now = Millis(clock.ms_at(start) as u32);
            if self.state.capture.is_armed() {
                self.state.capture.set_time(clock.ns_at(start));
            }
            let work = self.poll(now);
            let end = cpu::tsc();
            if work > 0 {
                self.state.counts.turns.busy_cycles += end.wrapping_sub(start);
            }
            start = end;
            if self.idle.may_sleep() {
                self.rest(work, now);
                start = cpu::tsc();
            }
        }
        self.show();
    }

    /// One turn at time `now`; packets received or sent for the kernel, and commands worked on.
    // A function of its own: its instructions are counted by name (`make instructions`).
    #[inline(never)]
    pub fn poll(&mut self, now: Millis) -> usize {
        self.state.stages.begin();
        let replaced = self.tables.take();
        let (tables, state) = (self.tables.current(), &mut self.state);
        let mut pass = Pass { tables, lanes: &mut self.lanes, state, now, port: PortId(0), settled: false };
        if let Some(old) = replaced {
            pass.state.counts.turns.publications += 1;
            pass.release_held();
            self.announcer.replaced(old, tables);
        }
        pass.state.stages.mark(Stage::Tables);
        let mut work = pass.receive_all(&mut self.burst, &mut self.scratch);
        work += pass.take_over(&mut self.burst, &mut self.scratch);
        work += pass.inject(&mut self.inject, &mut self.frame);
        pass.announce(&mut self.announcer);
        pass.expire_held();
        pass.report_bypasses();
        pass.expire_fragments();
        pass.state.stages.mark(Stage::Housekeeping);
        pass.flush();
        pass.state.stages.mark(Stage::Transmit);
        self.spell = if work > 0 { 0 } else { self.spell.saturating_add(1) };
        let records = if self.spell > SPELL { RECORDS_IDLE } else { RECORDS_BUSY };
        let asked = (&mut self.state.flows, &mut self.state.capture);
        work += usize::from(self.commands.step(asked, records, now));
        self.sweep(records, now);
        self.account(work);
        self.state.stages.mark(Stage::Housekeeping);
        work
    }

    /// Where the time of turns went.
    #[cfg(feature = "stages")]
    pub fn stages_mut(&mut self) -> &mut Account {
        &mut self.state.stages
    }

    /// The ports, for tests and benches that play the wire.
    pub fn port_mut(&mut self, port: PortId) -> Option<&mut P> {
        self.lanes.get_mut(port.index()).map(|lane| &mut lane.io)
    }

    /// What the worker has counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.state.counts
    }

    /// Goes on with the sweep, over all that names Services and backends: the flow table, then the memory of clients.
    fn sweep(&mut self, records: u32, now: Millis) {
        if self.sweep == Sweep::Done {
            let is_new = self.tables.sweep_began() != self.tables.current().generation;
            if !is_new && now.since(self.sweep_began) < SWEEP_MS {
                return;
            }
            self.tables.begin_sweep();
            (self.sweep, self.sweep_began) = (Sweep::Flows, now);
        }
        let tables = self.tables.current();
        if self.sweep == Sweep::Flows && self.state.flows.sweep(records, now, tables).pass_done {
            self.sweep = Sweep::Clients;
        }
        if self.sweep == Sweep::Clients && self.state.affinity.sweep(records, now, tables) {
            self.sweep = Sweep::Done;
            self.state.counts.turns.sweeps += 1;
            self.tables.sweep_completed();
        }
    }

    /// Closes the books of a turn; shows them to control now and then, when the work is done, and before a sleep.
    fn account(&mut self, work: usize) {
        let counts = &mut self.state.counts;
        counts.turns.turns += 1;
        counts.turns.idle_turns += u64::from(work == 0);
        let waiting = self.state.hold.len() + self.state.fragments.waiting();
        counts.packets.held = (waiting + self.lanes.iter().map(Lane::waiting).sum::<usize>()) as u64;
        counts.flows.update(&self.state.flows.stats());
        counts.affinity.update(&self.state.affinity.stats());
        debug_assert_eq!(counts.imbalance(), 0, "every packet has one verdict: {:?}", counts.packets);
        if self.idle.may_sleep() || self.spell == 1 || counts.turns.turns.is_multiple_of(SHOWN_EVERY) {
            self.show();
        }
    }

    fn show(&self) {
        self.counters.flush(&self.state.counts);
    }
}

impl<P: PortIo> Pass<'_, P> {
    /// A burst of every port.
    fn receive_all(&mut self, burst: &mut Burst<P::Buf>, scratch: &mut Scratch) -> usize {
        let mut received = 0;
        for port in (0..PortId::LIMIT).map(PortId).take(self.lanes.len()) {
            self.lanes[port.index()].io.rx(burst);
            self.state.stages.mark(Stage::Receive);
            received += burst.len();
            if !burst.is_empty() {
                self.port = port;
                self.run(burst, scratch);
                // Not at the end of the turn: those of the next port would be waited for.
                self.flush();
                self.state.stages.mark(Stage::Transmit);
            }
        }
        received
    }

    /// What the other workers handed over: of each about as much as it can hand over in a turn, which is a burst of every port.
    fn take_over(&mut self, burst: &mut Burst<P::Buf>, scratch: &mut Scratch) -> usize {
        let mut taken = 0;
        for source in 0..self.state.handoff.sources() {
            let end = taken + BURST * self.lanes.len();
            while taken < end
                && let Some(origin) = self.state.handoff.receive(source, burst)
            {
                taken += burst.len();
                self.state.counts.packets.handoff_in += burst.len() as u64;
                (self.port, self.settled) = (origin.port, origin.settled);
                self.run_counted(burst, scratch);
            }
        }
        self.settled = false;
        taken
    }

    /// Sends what the kernel wants sent.
    fn inject(&mut self, ring: &mut FrameReceiver, frame: &mut [u8; FRAME_LEN_MAX]) -> usize {
        let mut injected = 0;
        while injected < INJECT_MAX && !ring.is_empty() {
            let Some(message) = ring.receive(frame) else { break };
            injected += 1;
            if let Message::Frame { port, len } = message {
                self.send_injected(port, frame.get(..len).unwrap_or_default());
            }
        }
        injected
    }

    fn send_injected(&mut self, port: PortId, frame: &[u8]) {
        self.state.counts.packets.injected += 1;
        self.port = port;
        let made = match self.lane_mut(port) {
            None => Err(DropReason::BadDevice),
            Some(lane) => lane.copy_of(frame),
        };
        match made {
            Ok(buf) => self.gather(buf, port, frame.len()),
            Err(reason) => self.state.counts.drop_packets(reason, 1),
        }
    }

    /// Sends what was gathered for every port.
    fn flush(&mut self) {
        for (port, lane) in (0..PortId::LIMIT).map(PortId).zip(self.lanes.iter_mut()) {
            if lane.waiting() > 0 {
                lane.flush();
                let sent = lane.take_sent();
                self.state.counts.transmit(port, sent.packets, sent.bytes);
            }
        }
    }
}
