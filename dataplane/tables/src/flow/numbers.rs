//! Sequence numbers of a TCP flow: which resets may be true, and whether a client has heard its server's SYN-ACK.
//!
//! Per side the record remembers about where its numbering has come to, from the first segment of a millisecond: so the
//! usual packet pays nothing. In the queue of half-open flows that room is taken by links, and the number that the
//! client's ACK must have is elsewhere. A number is believed if the same segment's own number lies near what was seen
//! last, so a blind sender must guess.
//! Source: in the spirit of RFC 5961 §3, whose exact match is the endpoints' to make.

use super::Direction;
use super::record::{DELTAS, LINKS, Line, join, upper};
use super::state::State;
use crate::hash::lower;

/// How far a side's numbering moves at most between two segments that are looked at: a millisecond at 100 Gbit/s is
/// 12.5 MB.
const STEP_MAX: u32 = 1 << 24;
/// How far from the last known number a true reset may be: what may be under way at once, and in that millisecond.
const RESET_DISTANCE_MAX: u32 = 1 << 22;
/// What a server may have sent when its client first acknowledges something: the SYN, and data behind it.
const FIRST_ACK_MAX: u32 = 1 << 16;

/// The numbers of a TCP segment, or the tags of an SCTP packet ([`Numbers::of_sctp`]). Of other packets they mean nothing,
/// and nothing is made of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Numbers {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Number that the sender expects next from the other side.
    pub ack: u32,
}

impl Numbers {
    /// The word that a record remembers: next of the client over next of the server.
    #[inline(always)]
    const fn word(self, direction: Direction) -> u64 {
        join(self.seq, self.ack).rotate_left(turned(direction))
    }

    /// Notes the segment in the record of a flow that is in no queue, unless it is implausible.
    #[inline(always)]
    pub(super) fn note(self, head: &mut Line, direction: Direction) {
        if is_near(self.seq, own(head, direction), STEP_MAX) {
            head[LINKS] = self.word(direction);
        }
    }

    /// The same whatever was known: the beginning of a numbering.
    pub(super) const fn set(self, head: &mut Line, direction: Direction) {
        head[LINKS] = self.word(direction);
    }

    /// A SYN-ACK: from here on the client's first ACK is known; 0 stands for none.
    pub(super) fn set_first_ack(self, head: &mut Line) {
        head[DELTAS] = join(upper(head[DELTAS]), self.seq.wrapping_add(1).max(1));
    }

    /// The SYN of a new connection: nobody has answered it.
    pub(super) const fn forget_first_ack(head: &mut Line) {
        head[DELTAS] = join(upper(head[DELTAS]), 0);
    }

    /// True if the client of a flow whose SYN was answered acknowledges that answer.
    pub(super) fn acknowledges(self, head: &Line, state: State) -> bool {
        let expected = if state.is_queued() { lower(head[DELTAS]) } else { own(head, Direction::Reply) };
        let never_answered = state.is_queued() && expected == 0;
        !never_answered && self.ack.wrapping_sub(expected) <= FIRST_ACK_MAX
    }

    /// True if a reset with these numbers may come from the side it seems to come from. Of a flow in the queue only the
    /// server's numbers are known, once it has answered: a server that refuses a SYN has no number yet.
    pub(super) fn may_reset(self, head: &Line, state: State, direction: Direction) -> bool {
        let expected = match (state.is_queued(), direction) {
            (false, _) => own(head, direction),
            (true, Direction::Reply) if state.is_answered() => lower(head[DELTAS]),
            (true, _) => return true,
        };
        is_near(self.seq, expected, RESET_DISTANCE_MAX)
    }
}

/// Bits by which the word of a direction is turned, so that its sender's number comes first.
#[inline(always)]
const fn turned(direction: Direction) -> u32 {
    match direction {
        Direction::Original => 0,
        Direction::Reply => 32,
    }
}

/// The number that the sender of this direction was last seen at; the flow is in no queue.
#[inline(always)]
pub(super) const fn own(head: &Line, direction: Direction) -> u32 {
    upper(head[LINKS].rotate_left(turned(direction)))
}

/// True if two numbers are less than `distance` apart, either way around.
#[inline(always)]
const fn is_near(number: u32, known: u32, distance: u32) -> bool {
    number.wrapping_sub(known).wrapping_add(distance) < 2 * distance
}

#[cfg(test)]
mod tests {
    use packet::{Protocol, TcpFlags};

    use super::super::tests::begun;
    use super::super::{FlowRef, FlowTable, Touch};
    use super::*;
    use crate::Millis;
    use crate::tcp_state::Phase;

    const ACK: TcpFlags = TcpFlags::ACK;
    const RST: TcpFlags = TcpFlags::RST;
    const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN.0 | ACK.0);
    const CLIENT: Direction = Direction::Original;
    const SERVER: Direction = Direction::Reply;

    /// The initial numbers of client and server: both wrap soon.
    const CLIENT_ISN: u32 = u32::MAX - 1_000;
    const SERVER_ISN: u32 = u32::MAX - 10;

    struct Talk {
        table: FlowTable,
        flow: FlowRef,
        now: Millis,
    }

    impl Talk {
        /// A flow after its SYN.
        fn opened() -> Self {
            let (table, flow) = begun(Protocol::Tcp);
            Self { table, flow, now: Millis(0) }
        }

        /// A flow after its handshake.
        fn established() -> Self {
            let mut talk = Self::opened();
            talk.says(SERVER, SYN_ACK, (0, 1));
            talk.says(CLIENT, ACK, (1, 1));
            assert_eq!(talk.phase(), Phase::Established);
            talk
        }

        /// A segment a millisecond later, its numbers counted from the initial ones.
        fn says(&mut self, from: Direction, flags: TcpFlags, (seq, ack): (u32, u32)) -> Touch {
            self.now = self.now.plus(1);
            let (own, other) = match from {
                CLIENT => (CLIENT_ISN, SERVER_ISN),
                SERVER => (SERVER_ISN, CLIENT_ISN),
            };
            let numbers = Numbers { seq: own.wrapping_add(seq), ack: other.wrapping_add(ack) };
            self.table.touch(self.flow, from, (flags, || numbers), self.now)
        }

        fn phase(&self) -> Phase {
            self.table.phase(self.flow)
        }
    }

    #[test]
    fn a_reset_counts_only_near_the_last_known_number_of_its_sender() {
        const FAR: u32 = RESET_DISTANCE_MAX;
        for (from, seq, counts) in [
            (CLIENT, 50_001, true),
            (CLIENT, 50_001 + FAR - 1, true),
            (CLIENT, 50_001 + FAR, false),
            (CLIENT, 50_001u32.wrapping_sub(FAR), true),
            (CLIENT, 50_000u32.wrapping_sub(FAR), false),
            (CLIENT, 1 << 31, false),
            (SERVER, 900_001, true),
            (SERVER, 900_001 + FAR, false),
            (SERVER, 900_000u32.wrapping_sub(FAR), false),
        ] {
            for flags in [RST, RST | ACK] {
                let mut talk = Talk::established();
                // One segment tells where both sides are, whoever sends it.
                talk.says(SERVER, ACK, (900_001, 50_001));
                let want = if counts { Touch::Entered(Phase::Reset) } else { Touch::ResetIgnored };
                assert_eq!(talk.says(from, flags, (seq, 0)), want, "{from:?} {seq}");
                let phase = if counts { Phase::Reset } else { Phase::Established };
                assert_eq!(talk.phase(), phase);
            }
        }
    }

    #[test]
    fn a_long_transfer_is_followed_and_no_leap_is() {
        let mut talk = Talk::established();
        let mut at = 1u32;
        for _ in 0..1_000 {
            at = at.wrapping_add(STEP_MAX - 1);
            talk.says(SERVER, ACK | TcpFlags::PSH, (at, 500));
        }
        // Who knows neither number says what it likes, and then resets where that would be.
        talk.says(SERVER, ACK, (at.wrapping_add(STEP_MAX), 1 << 30));
        talk.says(CLIENT, ACK, (1 << 30, at));
        assert_eq!(talk.says(CLIENT, RST, (1 << 30, 0)), Touch::ResetIgnored);
        assert_eq!(talk.says(SERVER, RST, (at.wrapping_add(STEP_MAX), 0)), Touch::ResetIgnored);
        assert_eq!(talk.says(CLIENT, RST, (500, 0)), Touch::Entered(Phase::Reset));
    }

    #[test]
    fn a_flow_goes_on_after_a_reset_when_somebody_goes_on_with_it() {
        for from in [CLIENT, SERVER] {
            let mut talk = Talk::established();
            for _ in 0..2 {
                assert_eq!(talk.says(CLIENT, RST, (1, 0)), Touch::Entered(Phase::Reset));
                assert_eq!(talk.says(from, RST, (1, 0)), Touch::Same);
                assert_eq!(talk.says(from, TcpFlags::FIN | ACK, (1, 1)), Touch::Same);
                assert_eq!(talk.says(from, ACK, (1, 1)), Touch::Revived);
                assert_eq!(talk.phase(), Phase::Established);
            }
        }
        // As far as it had come, and no further: a client that was refused cannot go on.
        let mut talk = Talk::opened();
        talk.says(SERVER, RST | ACK, (0, 1));
        talk.says(CLIENT, ACK, (1, 1));
        assert_eq!(talk.phase(), Phase::Reset);
        assert_eq!(talk.says(SERVER, SYN_ACK, (0, 1)), Touch::Revived);
        assert_eq!(talk.phase(), Phase::Answered);
        assert_eq!(talk.says(CLIENT, ACK, (1, 1)), Touch::Entered(Phase::Established));
    }

    #[test]
    fn a_client_is_believed_when_it_acknowledges_the_answer_to_its_syn() {
        for (ack, believed) in [(1, true), (15_001, true), (0, false), (2 + FIRST_ACK_MAX, false)] {
            for flags in [ACK, ACK | TcpFlags::PSH, ACK | TcpFlags::FIN] {
                let mut talk = Talk::opened();
                talk.says(SERVER, SYN_ACK, (0, 1));
                assert_eq!(talk.table.stats().embryonic, 1);
                talk.says(CLIENT, flags, (1, ack));
                assert_eq!(talk.phase() != Phase::Answered, believed, "{flags} {ack}");
                assert_eq!(talk.table.stats().embryonic, u32::from(!believed), "{flags} {ack}");
            }
        }
    }

    #[test]
    fn a_client_is_believed_when_both_sides_opened_at_once() {
        let mut talk = Talk::opened();
        talk.says(SERVER, TcpFlags::SYN, (0, 0));
        talk.says(CLIENT, ACK, (1, 0));
        assert_eq!(talk.phase(), Phase::Answered);
        talk.says(CLIENT, ACK, (1, 1));
        assert_eq!(talk.phase(), Phase::Established);
    }

    #[test]
    fn a_server_resets_what_it_answered_with_its_own_number_only() {
        for (seq, counts) in [(1, true), (0, true), (1 << 30, false)] {
            let mut talk = Talk::opened();
            talk.says(SERVER, SYN_ACK, (0, 1));
            assert_eq!(talk.says(SERVER, RST, (seq, 0)) == Touch::Entered(Phase::Reset), counts);
        }
    }

    #[test]
    fn a_new_numbering_on_old_ports_is_taken_from_the_server() {
        let mut talk = Talk::established();
        talk.says(CLIENT, TcpFlags::SYN, (1 << 30, 0));
        talk.says(SERVER, SYN_ACK, (1 << 29, (1 << 30) + 1));
        talk.says(CLIENT, ACK, ((1 << 30) + 1, (1 << 29) + 1));
        assert_eq!(talk.says(CLIENT, RST, (2, 0)), Touch::ResetIgnored);
        assert_eq!(talk.says(CLIENT, RST, ((1 << 30) + 2, 0)), Touch::Entered(Phase::Reset));
    }
}
