//! What control asks of a worker, and how the worker answers without ever stopping: a bounded number of records a loop.
//!
//! Commands go down one ring, answers come up another. The worker's [`CommandDesk`] works on one command at a time and
//! pauses while the answers' ring is full. Not here: what the answers are shown as (control).

use std::net::IpAddr;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::{
    BackendId, Millis, ServiceId,
    capture::{Capture, CaptureSpec},
    flow::{FlowRef, FlowTable, FlowView},
    tcp_state::Timeouts,
};

/// Most records one step of a command visits.
pub const STEP_RECORDS_MAX: u32 = 256;

/// Which flows are meant; an empty filter means all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFilter {
    /// Of this Service port.
    pub service: Option<ServiceId>,
    /// Pinned to this backend.
    pub backend: Option<BackendId>,
    /// With this address at any end, before or after translation.
    pub address: Option<IpAddr>,
}

impl FlowFilter {
    /// True if the flow is meant.
    #[must_use]
    pub fn matches(&self, flow: &FlowView) -> bool {
        let ends = [flow.original.src(), flow.original.dst(), flow.reply.src(), flow.reply.dst()];
        self.service.is_none_or(|service| service == flow.service)
            && self.backend.is_none_or(|backend| backend == flow.backend)
            && self.address.is_none_or(|address| ends.contains(&address))
    }
}

/// What is to be done with all flows that match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// Report them, up to `limit`.
    ListFlows {
        /// Which.
        filter: FlowFilter,
        /// Most to report.
        limit: u32,
    },
    /// Take them out of the table.
    RemoveFlows {
        /// Which.
        filter: FlowFilter,
    },
    /// From now on these timeouts count.
    SetTimeouts(Timeouts),
    /// From now on these packets are captured; none if nothing is said.
    Capture(Option<CaptureSpec>),
}

/// What comes back for a command, in the order of the commands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// A flow, and for how many milliseconds no packet of it was seen.
    Flow {
        /// The flow.
        flow: FlowView,
        /// Milliseconds since its last packet.
        idle_ms: u32,
    },
    /// The command is done.
    Done {
        /// Flows reported or removed.
        matched: u32,
        /// A report ended at its limit.
        truncated: bool,
    },
}

/// Control's end.
pub struct CommandSender {
    commands: Producer<Command>,
    answers: Consumer<Answer>,
}

impl CommandSender {
    /// Hands a command over; false when the worker is behind and the ring is full.
    pub fn send(&mut self, command: Command) -> bool {
        self.commands.push(command).is_ok()
    }

    /// The next answer, if there is one yet.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answers.pop().ok()
    }
}

/// The worker's end: works the commands off, a bounded step a loop.
pub struct CommandDesk {
    commands: Consumer<Command>,
    answers: Producer<Answer>,
    running: Option<Running>,
}

/// How far a command has come.
#[derive(Clone, Copy)]
struct Running {
    command: Command,
    cursor: u32,
    matched: u32,
    truncated: bool,
}

impl Running {
    const fn new(command: Command) -> Self {
        Self { command, cursor: 0, matched: 0, truncated: false }
    }
}

/// The two ends between control and one worker, for `commands` waiting commands and `answers` waiting answers.
#[must_use]
pub fn command_rings(commands: usize, answers: usize) -> (CommandSender, CommandDesk) {
    let (command_producer, command_consumer) = RingBuffer::new(commands.max(1));
    let (answer_producer, answer_consumer) = RingBuffer::new(answers.max(2));
    (
        CommandSender { commands: command_producer, answers: answer_consumer },
        CommandDesk { commands: command_consumer, answers: answer_producer, running: None },
    )
}

impl CommandDesk {
    /// Works on the current command for at most `records` records ([`STEP_RECORDS_MAX`] at most); true if there was
    /// anything to do.
    #[inline]
    pub fn step(
        &mut self,
        (flows, capture): (&mut FlowTable, &mut Capture),
        records: u32,
        now: Millis,
    ) -> bool {
        if self.running.is_none() && self.commands.is_empty() {
            return false;
        }
        self.work((flows, capture), records.min(STEP_RECORDS_MAX), now);
        true
    }

    // Apart: a turn without a command pays for the look alone.
    #[inline(never)]
    fn work(&mut self, (flows, capture): (&mut FlowTable, &mut Capture), records: u32, now: Millis) {
        let next = self.running.take().or_else(|| self.commands.pop().ok().map(Running::new));
        let Some(mut running) = next else { return };
        // One answer for the end of the command is always kept free.
        let room = u32::try_from(self.answers.slots().saturating_sub(1)).unwrap_or(u32::MAX);
        let done = match running.command {
            Command::ListFlows { filter, limit } => {
                list(&mut running, flows, &mut self.answers, (filter, limit), records.min(room), now)
            }
            Command::RemoveFlows { filter } => remove(&mut running, flows, filter, records),
            Command::SetTimeouts(timeouts) => {
                flows.set_timeouts(&timeouts);
                true
            }
            Command::Capture(spec) => {
                capture.set(spec);
                true
            }
        };
        let answer = Answer::Done { matched: running.matched, truncated: running.truncated };
        if !done || self.answers.push(answer).is_err() {
            self.running = Some(running);
        }
    }
}

/// One step of a report; true when it is complete. `records` is also the room for answers.
fn list(
    running: &mut Running,
    flows: &FlowTable,
    answers: &mut Producer<Answer>,
    (filter, limit): (FlowFilter, u32),
    records: u32,
    now: Millis,
) -> bool {
    if records == 0 {
        return false;
    }
    let cursor = flows.scan(running.cursor, records, |_, flow| {
        if running.truncated || !filter.matches(&flow) {
            return;
        }
        if running.matched == limit {
            running.truncated = true;
            return;
        }
        let idle_ms = now.since(flow.last_seen);
        // There is room: a step visits no more records than there are free answers.
        running.matched += u32::from(answers.push(Answer::Flow { flow, idle_ms }).is_ok());
    });
    running.cursor = cursor.unwrap_or(running.cursor);
    cursor.is_none() || running.truncated
}

/// One step of a removal; true when it is complete.
fn remove(running: &mut Running, flows: &mut FlowTable, filter: FlowFilter, records: u32) -> bool {
    let mut found: [Option<FlowRef>; STEP_RECORDS_MAX as usize] = [None; STEP_RECORDS_MAX as usize];
    let mut count = 0;
    let cursor = flows.scan(running.cursor, records, |flow, view| {
        if let Some(place) = found.get_mut(count).filter(|_| filter.matches(&view)) {
            *place = Some(flow);
            count += 1;
        }
    });
    for flow in found.iter().flatten() {
        flows.remove(*flow);
        running.matched += 1;
    }
    running.cursor = cursor.unwrap_or(running.cursor);
    cursor.is_none()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use packet::{AnyKey, FlowKey, Protocol};

    use super::*;
    use crate::{
        NatMode,
        capture::capture_ring,
        flow::{FlowTableConfig, NewFlow},
    };

    fn table(flows: u16) -> FlowTable {
        let config = FlowTableConfig { flows: 1024, ipv6: false, secret: 7, timeouts: Timeouts::default() };
        let mut table = FlowTable::new(&config).unwrap();
        for sport in 0..flows {
            let original = key(sport);
            let backend = Ipv4Addr::new(10, 0, 2, 1);
            let reply = FlowKey {
                src: backend,
                dst: original.src,
                sport: 8080,
                dport: sport,
                protocol: Protocol::Tcp,
            };
            let flow = NewFlow {
                original,
                reply,
                service: ServiceId::new(u32::from(sport % 2), 0).unwrap(),
                backend: BackendId::new(3, 0).unwrap(),
                mode: NatMode::Dnat,
            };
            table.insert(&flow, Millis(5)).unwrap();
        }
        table
    }

    fn key(sport: u16) -> FlowKey<Ipv4Addr> {
        let (src, dst) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 1));
        FlowKey { src, dst, sport, dport: 80, protocol: Protocol::Tcp }
    }

    /// Runs a command to its end, a few records a step; the reported source ports and the last answer.
    fn run(command: Command, table: &mut FlowTable, answers: usize) -> (BTreeSet<u16>, Answer) {
        let (mut sender, mut desk) = command_rings(1, answers);
        let (mut capture, _) = capture_ring(0);
        assert!(sender.send(command));
        assert!(!sender.send(command), "the ring is full");
        let mut seen = BTreeSet::new();
        for _ in 0..1_000 {
            assert!(desk.step((table, &mut capture), 16, Millis(25)));
            while let Some(answer) = sender.answer() {
                match answer {
                    Answer::Flow { flow: FlowView { original: AnyKey::V4(key), .. }, idle_ms: 20 } => {
                        assert!(seen.insert(key.sport), "reported twice");
                    }
                    Answer::Flow { .. } => panic!("{answer:?}"),
                    Answer::Done { .. } => {
                        let idle = !desk.step((table, &mut capture), 16, Millis(25));
                        assert!(idle, "nothing left to do");
                        return (seen, answer);
                    }
                }
            }
        }
        panic!("the command never ended");
    }

    #[test]
    fn a_report_names_every_matching_flow_once_however_small_the_ring() {
        for answers in [2, 3, 64, 4096] {
            let mut table = table(300);
            let filter = FlowFilter { service: ServiceId::new(1, 0), ..FlowFilter::default() };
            let (seen, done) = run(Command::ListFlows { filter, limit: 1000 }, &mut table, answers);
            assert_eq!(seen, (0..300).filter(|sport| sport % 2 == 1).collect(), "{answers}");
            assert_eq!(done, Answer::Done { matched: 150, truncated: false });
        }
    }

    #[test]
    fn a_report_stops_at_its_limit_and_says_so() {
        let (seen, done) =
            run(Command::ListFlows { filter: FlowFilter::default(), limit: 10 }, &mut table(300), 64);
        assert_eq!((seen.len(), done), (10, Answer::Done { matched: 10, truncated: true }));
        let (seen, done) =
            run(Command::ListFlows { filter: FlowFilter::default(), limit: 10 }, &mut table(10), 64);
        assert_eq!((seen.len(), done), (10, Answer::Done { matched: 10, truncated: false }));
    }

    #[test]
    fn removal_takes_the_matching_flows_and_no_others() {
        let mut table = table(300);
        let filter = FlowFilter { service: ServiceId::new(0, 0), ..FlowFilter::default() };
        let (_, done) = run(Command::RemoveFlows { filter }, &mut table, 64);
        assert_eq!(done, Answer::Done { matched: 150, truncated: false });
        for sport in 0..300 {
            assert_eq!(table.lookup(&key(sport), Millis(25)).is_some(), sport % 2 == 1);
        }
    }

    #[test]
    fn an_address_matches_at_any_end() {
        let mut table = table(4);
        for (address, matched) in [("10.0.2.1", 4), ("203.0.113.1", 4), ("10.9.9.9", 0)] {
            let filter = FlowFilter { address: Some(address.parse().unwrap()), ..FlowFilter::default() };
            let (_, done) = run(Command::ListFlows { filter, limit: 9 }, &mut table, 64);
            assert_eq!(done, Answer::Done { matched, truncated: false }, "{address}");
        }
    }
}
