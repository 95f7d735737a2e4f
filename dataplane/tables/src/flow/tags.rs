//! Verification tags of an SCTP flow: what may open, close or abort an association must carry the tag of its receiver
//! (RFC 9260 §8.5), which only who has seen its handshake knows.
//!
//! They lie where TCP's sequence numbers do. While a flow waits in the queue of half-open ones there is room for one: the
//! tag that the server asked for, which proves a client that has seen its INIT ACK. Out of it each side's is that of its
//! first packet. What is not known yet is believed. An association that begins anew on its old ports gets new tags;
//! what ends that is not believed then, and the flow ends by its silence.

use super::numbers::own;
use super::record::{DELTAS, LINKS, Line, join, upper};
use super::state::State;
use super::{Direction, Numbers};
use crate::hash::lower;

impl Numbers {
    /// The tags of an SCTP packet: the one it carries, and the one that its sender asks for (INIT, INIT ACK), or else 1
    /// where it is its sender's own (T bit of ABORT).
    #[must_use]
    pub const fn of_sctp(carried: u32, initiate: u32, reflected: bool) -> Self {
        Self { seq: carried, ack: if reflected { 1 } else { initiate } }
    }

    /// The server says by its INIT ACK what its client's packets must carry.
    pub(super) const fn set_server_tag(self, head: &mut Line) {
        head[DELTAS] = join(upper(head[DELTAS]), self.ack);
    }

    /// The same of a server that takes a new association on the ports of one that closes; its own packet has its client's.
    pub(super) const fn set_tags(self, head: &mut Line) {
        head[LINKS] = join(self.ack, self.seq);
    }

    /// True for the packet of a client that has seen its server's INIT ACK.
    pub(super) const fn has_server_tag(self, head: &Line, state: State) -> bool {
        let expected = known(head, state, Direction::Original);
        expected != 0 && self.seq == expected
    }

    /// True if a packet that ends the association may come from the side it seems to come from. `abort`: it may also
    /// carry its sender's own tag, if it says so.
    pub(super) const fn may_end(
        self,
        head: &Line,
        (state, direction): (State, Direction),
        abort: bool,
    ) -> bool {
        let of = if abort && self.ack == 1 { direction.other() } else { direction };
        let expected = known(head, state, of);
        expected == 0 || self.seq == expected
    }

    /// Notes the tag of a packet that only goes on, in the record of a flow that is in no queue.
    pub(super) const fn note_tag(self, head: &mut Line, direction: Direction, left_queue: bool) {
        let [mut client, mut server] =
            if left_queue { [0; 2] } else { [upper(head[LINKS]), lower(head[LINKS])] };
        let own = match direction {
            Direction::Original => &mut client,
            Direction::Reply => &mut server,
        };
        if *own == 0 {
            *own = self.seq;
        }
        head[LINKS] = join(client, server);
    }
}

/// True if nothing is known of the tags of this side's packets; the flow is in no queue.
pub(super) const fn is_tagless(head: &Line, direction: Direction) -> bool {
    own(head, direction) == 0
}

/// What this side's packets carry, 0 where that is not known.
const fn known(head: &Line, state: State, direction: Direction) -> u32 {
    match (state.is_queued(), direction) {
        (false, _) => own(head, direction),
        (true, Direction::Original) => lower(head[DELTAS]),
        (true, Direction::Reply) => 0,
    }
}

#[cfg(test)]
mod tests {
    use packet::{Protocol, TcpFlags};

    use super::super::tests::begun;
    use super::super::{FlowRef, FlowTable, Touch};
    use super::*;
    use crate::Millis;
    use crate::tcp_state::Phase;

    const DATA: TcpFlags = TcpFlags::ACK;
    const INIT: TcpFlags = TcpFlags::SYN;
    const INIT_ACK: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);
    const SHUTDOWN: TcpFlags = TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0);
    const ABORT: TcpFlags = TcpFlags::RST;
    const CLIENT: Direction = Direction::Original;
    const SERVER: Direction = Direction::Reply;
    /// What packets to the server carry, and those to the client.
    const SERVER_TAG: u32 = 0x5e5e_5e5e;
    const CLIENT_TAG: u32 = 0xc1c1_c1c1;

    struct Talk {
        table: FlowTable,
        flow: FlowRef,
        now: Millis,
    }

    impl Talk {
        /// A flow after its first packet.
        fn begun() -> Self {
            let (table, flow) = begun(Protocol::Sctp);
            Self { table, flow, now: Millis(0) }
        }

        /// After the handshake, and one packet of the server.
        fn open() -> Self {
            let mut talk = Self::begun();
            talk.answered();
            talk.says(CLIENT, DATA, SERVER_TAG);
            talk.says(SERVER, DATA, CLIENT_TAG);
            talk
        }

        fn answered(&mut self) {
            self.touches(SERVER, INIT_ACK, Numbers::of_sctp(CLIENT_TAG, SERVER_TAG, false));
        }

        fn touches(&mut self, from: Direction, flags: TcpFlags, numbers: Numbers) -> Touch {
            self.now = self.now.plus(1);
            self.table.touch(self.flow, from, (flags, || numbers), self.now)
        }

        fn says(&mut self, from: Direction, flags: TcpFlags, tag: u32) -> Touch {
            self.touches(from, flags, Numbers::of_sctp(tag, 0, false))
        }

        fn phase(&self) -> Phase {
            self.table.phase(self.flow)
        }
    }

    #[test]
    fn what_ends_an_association_must_carry_its_receiver_s_tag_or_say_whose_it_is() {
        for (name, from, flags, tag, reflected, ends) in [
            ("the client aborts", CLIENT, ABORT, SERVER_TAG, false, true),
            ("the server aborts", SERVER, ABORT, CLIENT_TAG, false, true),
            ("the server knows nothing of it", SERVER, ABORT, SERVER_TAG, true, true),
            ("the client knows nothing of it", CLIENT, ABORT, CLIENT_TAG, true, true),
            ("the own tag, and no T bit", SERVER, ABORT, SERVER_TAG, false, false),
            ("the T bit, and the receiver's tag", SERVER, ABORT, CLIENT_TAG, true, false),
            ("a guess", CLIENT, ABORT, SERVER_TAG ^ 1, false, false),
            ("a guess with the T bit", CLIENT, ABORT, 7, true, false),
            ("none", SERVER, ABORT, 0, false, false),
            ("the client shuts down", CLIENT, SHUTDOWN, SERVER_TAG, false, true),
            ("the server shuts down", SERVER, SHUTDOWN, CLIENT_TAG, false, true),
            ("a SHUTDOWN with the own tag", SERVER, SHUTDOWN, SERVER_TAG, false, false),
            ("a SHUTDOWN that is guessed", CLIENT, SHUTDOWN, 1, false, false),
        ] {
            let mut talk = Talk::open();
            let touch = talk.touches(from, flags, Numbers::of_sctp(tag, 0, reflected));
            assert_eq!(touch == Touch::ResetIgnored, !ends, "{name}");
            assert_eq!(talk.phase() == Phase::Established, !ends, "{name}");
        }
    }

    #[test]
    fn a_client_is_believed_when_it_has_the_tag_of_the_answer_to_its_init() {
        for (tag, believed) in [(SERVER_TAG, true), (SERVER_TAG ^ 1, false), (CLIENT_TAG, false), (0, false)]
        {
            for flags in [DATA, SHUTDOWN] {
                let mut talk = Talk::begun();
                talk.answered();
                talk.says(CLIENT, flags, tag);
                assert_eq!(talk.phase() != Phase::Answered, believed, "{tag:x}");
                assert_eq!(talk.table.stats().embryonic, u32::from(!believed), "{tag:x}");
            }
        }
        let mut talk = Talk::begun();
        talk.touches(SERVER, INIT_ACK, Numbers::of_sctp(CLIENT_TAG, 0, false));
        talk.says(CLIENT, DATA, 0);
        assert_eq!(talk.phase(), Phase::Answered, "a server must ask for a tag");
    }

    #[test]
    fn an_association_taken_up_in_its_middle_has_the_tags_of_the_first_packets() {
        for first in [CLIENT, SERVER] {
            let mut talk = Talk::begun();
            talk.says(SERVER, DATA, CLIENT_TAG);
            assert_eq!(talk.phase(), Phase::Established);
            let (tag, other) =
                if first == CLIENT { (SERVER_TAG, CLIENT_TAG) } else { (CLIENT_TAG, SERVER_TAG) };
            talk.says(first, DATA, tag);
            // Later ones change nothing.
            talk.says(first, DATA, tag ^ 1);
            talk.says(first, DATA, tag ^ 1);
            assert_eq!(talk.says(first, ABORT, tag ^ 1), Touch::ResetIgnored);
            assert_eq!(
                talk.touches(first.other(), ABORT, Numbers::of_sctp(tag ^ 1, 0, true)),
                Touch::ResetIgnored
            );
            talk.says(first.other(), DATA, other);
            assert_eq!(talk.says(first, ABORT, tag), Touch::Entered(Phase::Reset));
        }
        // Of a side that has not spoken nothing is known.
        let mut talk = Talk::begun();
        talk.says(SERVER, DATA, CLIENT_TAG);
        assert_eq!(talk.says(CLIENT, ABORT, 1), Touch::Entered(Phase::Reset));
    }

    #[test]
    fn a_refused_init_ends_its_flow_and_a_new_one_begins_it() {
        let mut talk = Talk::begun();
        assert_eq!(talk.says(SERVER, ABORT, CLIENT_TAG), Touch::Entered(Phase::Reset));
        assert_eq!(talk.says(CLIENT, INIT, 0), Touch::Reopened);
        talk.answered();
        talk.says(CLIENT, DATA, SERVER_TAG);
        assert_eq!(talk.phase(), Phase::Established);
        assert_eq!(talk.says(CLIENT, ABORT, CLIENT_TAG), Touch::ResetIgnored);
    }

    #[test]
    fn an_association_that_begins_anew_while_it_closes_has_new_tags() {
        let mut talk = Talk::open();
        talk.says(CLIENT, SHUTDOWN, SERVER_TAG);
        talk.says(CLIENT, INIT, 0);
        talk.touches(SERVER, INIT_ACK, Numbers::of_sctp(1, 2, false));
        assert_eq!(talk.phase(), Phase::Answered);
        talk.says(CLIENT, DATA, SERVER_TAG);
        assert_eq!(talk.phase(), Phase::Answered, "the old tag");
        talk.says(CLIENT, DATA, 2);
        assert_eq!(talk.phase(), Phase::Established);
        assert_eq!(talk.says(SERVER, ABORT, CLIENT_TAG), Touch::ResetIgnored);
        assert_eq!(talk.says(SERVER, ABORT, 1), Touch::Entered(Phase::Reset));
    }
}
