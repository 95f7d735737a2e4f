//! What control asks of a worker, and how the worker answers without ever stopping: a bounded number of records a loop.
//!
//! Commands go down one ring, answers come up another. The worker's [`CommandDesk`] works on one command at a time and
//! pauses while the answers' ring is full. A command looks at [`PAGE_SLOTS`] of the flow table at most and says where the
//! next one may go on: so it ends soon however large the table is, and others come between. Not here: what the answers
//! are shown as (control).

mod walk;

use std::{net::IpAddr, sync::Arc};

use cpu::Bell;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::{
    BackendId, Millis, ServiceId,
    capture::{Capture, CaptureSpec},
    flow::{FlowRef, FlowTable, FlowView},
    tcp_state::Timeouts,
};
use walk::Walk;

/// Most records one step of a command visits.
pub const STEP_RECORDS_MAX: u32 = 256;
/// Most slots of the flow table that one command looks at: some 2,000 turns of a worker that is busy.
pub const PAGE_SLOTS: u32 = 16_384;

/// Which flows are meant; an empty filter means all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFilter {
    /// Of this Service port.
    pub service: Option<ServiceId>,
    /// Pinned to this backend.
    pub backend: Option<BackendId>,
    /// With this address at any end, before or after translation.
    pub address: Option<IpAddr>,
    /// With a packet in the last so many milliseconds.
    pub used_within_ms: Option<u32>,
}

impl FlowFilter {
    /// True if the flow is meant, at time `now`.
    #[must_use]
    pub fn matches(&self, flow: &FlowView, now: Millis) -> bool {
        let ends = || [flow.original.src(), flow.original.dst(), flow.reply.src(), flow.reply.dst()];
        self.service.is_none_or(|service| service == flow.service)
            && self.backend.is_none_or(|backend| backend == flow.backend)
            && self.used_within_ms.is_none_or(|ms| now.since(flow.last_seen) <= ms)
            && self.address.is_none_or(|address| ends().contains(&address))
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// Report the flows that match among [`PAGE_SLOTS`] slots of the table.
    ListFlows {
        /// Which.
        filter: FlowFilter,
        /// The first slot: 0, or the [`Done::next`] of the command before.
        from: u32,
    },
    /// Report the flows that match in a sample of the whole table: as many slots in as many places, evenly apart; all of
    /// them where the table has no more.
    SampleFlows {
        /// Which.
        filter: FlowFilter,
        /// Moves the sample to other slots; as many numbers in a row as [`Done::one_in`] cover all.
        shift: u32,
    },
    /// Take the flows that match out of the table, among [`PAGE_SLOTS`] slots of it.
    RemoveFlows {
        /// Which.
        filter: FlowFilter,
        /// The first slot: 0, or the [`Done::next`] of the command before.
        from: u32,
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
    Done(Done),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Done {
    /// Flows reported or removed.
    pub matched: u32,
    /// The slot that the next command has to go on from; `None` when the table's end was reached.
    pub next: Option<u32>,
    /// Of so many slots one was looked at; 1 but for samples of large tables.
    pub one_in: u32,
}

/// Control's end.
pub struct CommandSender {
    commands: Producer<Command>,
    answers: Consumer<Answer>,
    bell: Option<Arc<Bell>>,
}

impl CommandSender {
    /// Calls the worker at each command from now on, in case it sleeps.
    pub fn call(&mut self, bell: Arc<Bell>) {
        self.bell = Some(bell);
    }

    /// Hands a command over; false when the worker is behind and the ring is full.
    pub fn send(&mut self, command: Command) -> bool {
        let sent = self.commands.push(command).is_ok();
        self.bell.iter().for_each(|bell| bell.ring());
        sent
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
    walk: Walk,
    matched: u32,
}

impl Running {
    const fn new(command: Command, flows: &FlowTable) -> Self {
        let walk = match command {
            Command::ListFlows { from, .. } | Command::RemoveFlows { from, .. } => Walk::page(from),
            Command::SampleFlows { shift, .. } => Walk::sample(flows.slots_used(), shift),
            Command::SetTimeouts(_) | Command::Capture(_) => Walk::page(0),
        };
        Self { command, walk, matched: 0 }
    }

    const fn done(&self) -> Done {
        Done { matched: self.matched, next: self.walk.rest(), one_in: self.walk.one_in() }
    }
}

/// The two ends between control and one worker, for `commands` waiting commands and `answers` waiting answers.
#[must_use]
pub fn command_rings(commands: usize, answers: usize) -> (CommandSender, CommandDesk) {
    let (command_producer, command_consumer) = RingBuffer::new(commands.max(1));
    let (answer_producer, answer_consumer) = RingBuffer::new(answers.max(2));
    (
        CommandSender { commands: command_producer, answers: answer_consumer, bell: None },
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
        let start = |command| Running::new(command, flows);
        let next = self.running.take().or_else(|| self.commands.pop().ok().map(start));
        let Some(mut running) = next else { return };
        // One answer for the end of the command is always kept free.
        let room = u32::try_from(self.answers.slots().saturating_sub(1)).unwrap_or(u32::MAX);
        let done = match running.command {
            Command::ListFlows { filter, .. } | Command::SampleFlows { filter, .. } => {
                list(&mut running, flows, &mut self.answers, filter, (records.min(room), now))
            }
            Command::RemoveFlows { filter, .. } => remove(&mut running, flows, filter, records, now),
            Command::SetTimeouts(timeouts) => {
                flows.set_timeouts(&timeouts);
                true
            }
            Command::Capture(spec) => {
                capture.set(spec);
                true
            }
        };
        if !done || self.answers.push(Answer::Done(running.done())).is_err() {
            self.running = Some(running);
        }
    }
}

/// One step of a report; true when it is complete. `records` is also the room for answers.
fn list(
    running: &mut Running,
    flows: &FlowTable,
    answers: &mut Producer<Answer>,
    filter: FlowFilter,
    (records, now): (u32, Millis),
) -> bool {
    if records == 0 {
        return false;
    }
    let matched = &mut running.matched;
    running.walk.step(flows, records, |_, flow| {
        if filter.matches(&flow, now) {
            let idle_ms = now.since(flow.last_seen);
            // There is room: a step visits no more records than there are free answers.
            *matched += u32::from(answers.push(Answer::Flow { flow, idle_ms }).is_ok());
        }
    })
}

/// One step of a removal; true when it is complete.
fn remove(
    running: &mut Running,
    flows: &mut FlowTable,
    filter: FlowFilter,
    records: u32,
    now: Millis,
) -> bool {
    let mut found: [Option<FlowRef>; STEP_RECORDS_MAX as usize] = [None; STEP_RECORDS_MAX as usize];
    let mut count = 0;
    let ended = running.walk.step(flows, records, |flow, view| {
        if let Some(place) = found.get_mut(count).filter(|_| filter.matches(&view, now)) {
            *place = Some(flow);
            count += 1;
        }
    });
    for flow in found.iter().flatten() {
        flows.remove(*flow);
        running.matched += 1;
    }
    ended
}

#[cfg(test)]
mod tests;
