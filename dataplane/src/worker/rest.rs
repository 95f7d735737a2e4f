//! The worker at rest: it naps, or waits until a port or another thread calls it.

use cpu::Woken;
use tables::counters::Idling;

use super::{Millis, PortId, PortIo, Worker};
use crate::{idle::Next, lane::Lane};

/// Flow records that the sweep visits after a wait that nobody ended: as many as turns without waits do in that time.
const RECORDS_LATE: u32 = 640;

impl<P: PortIo> Worker<P> {
    /// What comes after a turn at time `now` that did so much work, where the worker may sleep.
    // For tests too, which play the loop.
    pub fn rest(&mut self, work: usize, now: Millis) {
        self.call_others();
        let pending = self.state.counts.packets.held > 0 || self.announcer.is_busy();
        match self.idle.after(work, pending) {
            Next::Turn => {}
            Next::Nap(time) => {
                self.state.counts.turns.sleeps += 1;
                cpu::nap(time);
            }
            Next::Arm => self.arm(),
            Next::Disarm => self.disarm(),
            Next::Wait(bound) => {
                self.state.counts.turns.sleeps += 1;
                match self.watch.as_ref().map_or(Woken::Late, |watch| watch.wait(bound)) {
                    Woken::Called => {
                        self.disarm();
                        self.idle.called();
                    }
                    Woken::Late => {
                        self.sweep(RECORDS_LATE, now);
                        // Anew: a device that was replaced or forgot what it was told is not left alone with it.
                        self.arm();
                    }
                }
            }
        }
    }

    /// Calls the workers that were handed packets since the last turn.
    fn call_others(&mut self) {
        let handed_over = self.state.counts.packets.handoff_out;
        if self.handed_over != handed_over {
            self.handed_over = handed_over;
            self.state.handoff.call();
        }
    }

    /// Asks all who may call to do so; the next turn is the last look.
    fn arm(&mut self) {
        let Some(watch) = &self.watch else { return };
        watch.bell().listen();
        for (port, lane) in (0..PortId::LIMIT).map(PortId).zip(&mut self.lanes) {
            if let Err(error) = lane.io.arm().and_then(|file| watch.add(file)) {
                let errno = error.raw_os_error().and_then(|errno| u16::try_from(errno).ok());
                self.counters.set_idling(Idling::Refused { port, errno: errno.unwrap_or_default() });
                self.idle.refused();
                self.disarm();
                return;
            }
        }
        self.counters.set_idling(Idling::Waits);
    }

    fn disarm(&mut self) {
        if let Some(watch) = &self.watch {
            watch.bell().ignore();
        }
        self.lanes.iter_mut().for_each(|lane: &mut Lane<P>| lane.io.disarm());
    }
}
