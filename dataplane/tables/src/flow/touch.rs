//! What a packet does to its flow: time, phase, place in the queue of half-open flows.

use packet::{Protocol, TcpFlags};

use super::record::{Line, STATE};
use super::state::State;
use super::tags::is_tagless;
use super::{Direction, FlowRef, FlowTable, Numbers};
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
    /// A reset whose sequence number is far from all that was seen, or an end of SCTP with a wrong tag: the flow stays as it
    /// is, and its receiver decides.
    ResetIgnored,
    /// A segment of a flow that was reset: somebody was not impressed. If its other side is gone it says so again.
    Revived,
}

impl FlowTable {
    /// Notes a packet of the flow; `numbers` is asked for seldom.
    #[inline]
    pub fn touch(
        &mut self,
        flow: FlowRef,
        direction: Direction,
        (flags, numbers): (TcpFlags, impl FnOnce() -> Numbers),
        now: Millis,
    ) -> Touch {
        let head = self.slab.head_mut(flow.0);
        let state = State(head[STATE]);
        debug_assert!(state.is_live(), "a stale FlowRef");
        // The usual packet, whatever its protocol: nothing of it needs to be taken apart.
        if state.rests(direction) && !flags.steers() {
            // Most packets of a busy flow fall into the millisecond of the last one: their line stays clean.
            if state.last_seen() != now {
                head[STATE] = state.seen_at(now).0;
                if state.is_numbered() {
                    numbers().note(head, direction);
                }
            }
            return Touch::Same;
        }
        self.turn(flow.0, direction, (flags, numbers()), now)
    }

    /// Notes that a packet of the flow came, and nothing else: a part of a datagram without its transport header.
    #[inline]
    pub fn renew(&mut self, flow: FlowRef, now: Millis) {
        let head = self.slab.head_mut(flow.0);
        let state = State(head[STATE]);
        debug_assert!(state.is_live(), "a stale FlowRef");
        head[STATE] = state.seen_at(now).0;
    }

    /// The less usual half of `touch`: the phase may change, or the flow is in the queue.
    #[inline(never)]
    fn turn(
        &mut self,
        slot: u32,
        direction: Direction,
        (flags, numbers): (TcpFlags, Numbers),
        now: Millis,
    ) -> Touch {
        let head = self.slab.head_mut(slot);
        let state = State(head[STATE]).seen_at(now);
        let before = state.phase();
        if !before.is_closed() && !is_true_end(head, (state, direction), flags, numbers) {
            return Touch::ResetIgnored;
        }
        let from = if before == Phase::Reset { revived(state, direction, flags) } else { before };
        // Anybody can send an ACK in a client's name; only the client knows what there is to acknowledge, or the server's tag.
        let unproven = from == Phase::Answered && direction == Direction::Original && !flags.rst();
        let has_proof = || match state.protocol() {
            Protocol::Tcp => numbers.acknowledges(head, state),
            Protocol::Sctp => numbers.has_server_tag(head, state),
            Protocol::Udp => true,
        };
        let phase = match unproven && !has_proof() {
            true => before,
            false => from.after(state.protocol(), direction, flags),
        };
        self.enter_phase(slot, direction, (flags, numbers), state.in_phase(phase), before)
    }

    /// Notes the phase that the packet brought the flow into.
    fn enter_phase(
        &mut self,
        slot: u32,
        direction: Direction,
        (flags, numbers): (TcpFlags, Numbers),
        mut state: State,
        before: Phase,
    ) -> Touch {
        let phase = state.phase();
        let mut outcome = match phase {
            _ if phase == before => Touch::Same,
            _ if before == Phase::Reset => Touch::Revived,
            _ => Touch::Entered(phase),
        };
        if before.is_closed() && phase == Phase::Embryonic {
            state = self.queue_anew(slot, state);
            outcome = Touch::Reopened;
        } else if direction == Direction::Reply {
            state = state.unanswered(false);
        } else if state.bypasses(flags) {
            state = state.with_bypass_reported(true);
            outcome = Touch::ReplyBypass;
        }
        let leaves = state.is_queued() && state.is_proven();
        if leaves {
            self.half_open.unlink(&mut self.slab, slot);
            Numbers::forget_first_ack(self.slab.head_mut(slot));
            state = state.queued(false);
        }
        let head = self.slab.head_mut(slot);
        if state.protocol() == Protocol::Sctp {
            note_tags(head, direction, (flags, numbers), (state, leaves));
            head[STATE] = sctp_rests(head, state.with_rests()).0;
        } else {
            head[STATE] = state.with_rests().0;
            note_numbers(head, direction, (flags, numbers), (state, leaves));
        }
        outcome
    }

    /// A reopened flow waits for its reply like a new one.
    fn queue_anew(&mut self, slot: u32, state: State) -> State {
        if state.is_queued() {
            self.half_open.unlink(&mut self.slab, slot);
        }
        self.half_open.push(&mut self.slab, slot);
        Numbers::forget_first_ack(self.slab.head_mut(slot));
        state.unanswered(true).queued(true).with_bypass_reported(false)
    }
}

/// The phase that a packet of a flow that was reset finds: as far as the flow had come for certain, if somebody goes on
/// with it. A client that was refused has nothing to go on with.
fn revived(state: State, direction: Direction, flags: TcpFlags) -> Phase {
    let goes_on = flags.ack() && !flags.rst() && !flags.fin();
    match direction {
        _ if !goes_on => Phase::Reset,
        Direction::Original if !state.is_answered() || flags.syn() => Phase::Reset,
        _ if !state.is_answered() => Phase::Embryonic,
        _ if state.is_queued() => Phase::Answered,
        _ => Phase::Established,
    }
}

/// False for what would end the flow if its sender were believed, whose numbers or tags say that it is not of this flow: a
/// reset, and of SCTP each chunk that closes.
fn is_true_end(
    head: &Line,
    (state, direction): (State, Direction),
    flags: TcpFlags,
    numbers: Numbers,
) -> bool {
    match state.protocol() {
        Protocol::Tcp => !flags.rst() || numbers.may_reset(head, state, direction),
        Protocol::Sctp if flags.rst() || flags.fin() => {
            numbers.may_end(head, (state, direction), flags.rst())
        }
        Protocol::Sctp | Protocol::Udp => true,
    }
}

/// Remembers the tags of an SCTP packet, as there is room for them.
fn note_tags(
    head: &mut Line,
    direction: Direction,
    (flags, numbers): (TcpFlags, Numbers),
    (state, left_queue): (State, bool),
) {
    let init_ack = flags.syn() && flags.ack() && direction == Direction::Reply;
    match state.is_queued() {
        true if init_ack => numbers.set_server_tag(head),
        true => {}
        false if init_ack && state.phase() == Phase::Answered => numbers.set_tags(head),
        // An INIT carries none, an ABORT perhaps the other side's.
        false if left_queue || !flags.syn() && !flags.rst() => numbers.note_tag(head, direction, left_queue),
        false => {}
    }
}

/// A side whose tag is not known yet is looked at until it is.
fn sctp_rests(head: &Line, mut state: State) -> State {
    if !state.is_queued() {
        for direction in [Direction::Original, Direction::Reply] {
            if is_tagless(head, direction) {
                state = state.without_rest(direction);
            }
        }
    }
    state
}

/// Remembers the numbers of a segment, as there is room for them.
fn note_numbers(
    head: &mut Line,
    direction: Direction,
    (flags, numbers): (TcpFlags, Numbers),
    (state, left_queue): (State, bool),
) {
    let server_syn = flags.syn() && direction == Direction::Reply;
    let answers_syn = server_syn && flags.ack();
    match state.is_queued() {
        // Also one without an ACK: both sides may open at once (RFC 9293 §3.5).
        true if server_syn => numbers.set_first_ack(head),
        true => {}
        // The server begins to count anew, as it took a new connection on the ports of an old one.
        false if left_queue || answers_syn => numbers.set(head, direction),
        false if !flags.rst() => numbers.note(head, direction),
        false => {}
    }
}
