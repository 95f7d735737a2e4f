//! What a packet does to its flow: time, phase, place in the queue of embryonic flows.

use packet::TcpFlags;

use super::record::{STATE, State};
use super::{Direction, FlowRef, FlowTable};
use crate::Millis;
use crate::tcp_state::Phase;

/// What a packet did to its flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Touch {
    /// Nothing but the time of the last packet changed.
    Same,
    /// The flow came into this phase.
    Entered(Phase),
    /// A SYN on a closed tuple: the same record starts anew.
    Reopened,
    /// The client goes on (an ACK, or its SYN again) while no packet of the backend was ever seen: the replies of this
    /// dnat flow probably take another way. Told once a flow.
    ReplyBypass,
}

impl FlowTable {
    /// Notes a packet of the flow.
    #[inline]
    pub fn touch(&mut self, flow: FlowRef, direction: Direction, flags: TcpFlags, now: Millis) -> Touch {
        let word = &mut self.slab.head_mut(flow.0)[STATE];
        let state = State(*word);
        debug_assert!(state.is_live(), "a stale FlowRef");
        // The usual packet, whatever its protocol: nothing of it needs to be taken apart.
        if state.is_settled() && !flags.steers() {
            // Most packets of a busy flow fall into the millisecond of the last one: their line stays clean.
            if state.last_seen() != now {
                *word = state.seen_at(now).0;
            }
            return Touch::Same;
        }
        self.turn(flow.0, direction, flags, now)
    }

    /// The less usual half of `touch`: the phase may change, or the flow was without a reply until now.
    #[inline(never)]
    fn turn(&mut self, slot: u32, direction: Direction, flags: TcpFlags, now: Millis) -> Touch {
        let seen = self.slab.state(slot).seen_at(now);
        let before = seen.phase();
        let phase = before.after(seen.protocol(), direction, flags);
        let mut state = seen.in_phase(phase);
        let mut outcome = if phase == before { Touch::Same } else { Touch::Entered(phase) };
        if before.is_closed() && !phase.is_closed() {
            state = self.queue_anew(slot, state);
            outcome = Touch::Reopened;
        } else if state.is_unanswered() && direction == Direction::Reply {
            self.embryonic.unlink(&mut self.slab, slot);
            state = state.unanswered(false);
        } else if state.bypasses(flags) {
            state = state.with_bypass_reported(true);
            outcome = Touch::ReplyBypass;
        }
        self.slab.head_mut(slot)[STATE] = state.0;
        outcome
    }

    /// A reopened flow waits for its reply like a new one.
    fn queue_anew(&mut self, slot: u32, state: State) -> State {
        if state.is_unanswered() {
            self.embryonic.unlink(&mut self.slab, slot);
        }
        self.embryonic.push(&mut self.slab, slot);
        state.unanswered(true).with_bypass_reported(false)
    }
}
