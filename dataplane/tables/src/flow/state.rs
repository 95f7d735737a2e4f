//! What changes while a flow lives, in one word of its record: how far it has come, and what that means for its next packet
//! and for its end.

use packet::{Family, Protocol, TcpFlags};

use super::Direction;
use super::record::{join, upper};
use crate::hash::lower;
use crate::tcp_state::Phase;
use crate::{IdleTimeout, Millis, NatMode};

/// 32 bits of flags over the time of the last packet.
/// A word of 0 is a free record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct State(pub(super) u64);

impl State {
    const PHASE: u32 = 32;
    const PROTOCOL: u32 = 35;
    /// The [`IdleTimeout`].
    const IDLE: u32 = 37;
    const LIVE: u64 = 1 << 42;
    const IPV6: u64 = 1 << 43;
    const DNAT: u64 = 1 << 44;
    /// No reply was seen.
    const UNANSWERED: u64 = 1 << 45;
    /// The warning about replies that bypass the appliance was given.
    const BYPASS_REPORTED: u64 = 1 << 46;
    /// In the queue of flows that may be recycled.
    const QUEUED: u64 = 1 << 47;
    /// By direction: its usual packets only renew the time.
    const RESTS: [u64; 2] = [1 << 48, 1 << 49];
    const ESTABLISHED: u64 = (Phase::Established as u64) << Self::PHASE;

    pub(super) fn new(family: Family, protocol: Protocol, mode: NatMode, now: Millis) -> Self {
        let mode = if mode == NatMode::Dnat { Self::DNAT } else { 0 };
        Self(Self::kind(family, protocol) | mode | u64::from(now.0))
    }

    /// The bits of a live flow of this kind.
    #[inline]
    const fn kind(family: Family, protocol: Protocol) -> u64 {
        let code: u64 = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Sctp => 2,
        };
        let family = match family {
            Family::V4 => 0,
            Family::V6 => Self::IPV6,
        };
        Self::LIVE | family | code << Self::PROTOCOL
    }

    #[inline]
    pub(super) const fn is_live_of(self, family: Family, protocol: Protocol) -> bool {
        self.0 & (Self::LIVE | Self::IPV6 | 3 << Self::PROTOCOL) == Self::kind(family, protocol)
    }

    #[inline]
    pub(super) const fn is_live(self) -> bool {
        self.0 & Self::LIVE != 0
    }

    #[inline]
    pub(super) const fn family(self) -> Family {
        if self.0 & Self::IPV6 == 0 { Family::V4 } else { Family::V6 }
    }

    #[inline]
    pub(super) const fn mode(self) -> NatMode {
        if self.0 & Self::DNAT == 0 { NatMode::Snat } else { NatMode::Dnat }
    }

    #[inline]
    pub(super) const fn protocol(self) -> Protocol {
        match self.0 >> Self::PROTOCOL & 3 {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            _ => Protocol::Sctp,
        }
    }

    #[inline]
    pub(super) const fn phase(self) -> Phase {
        Phase::ALL[(self.0 >> Self::PHASE & 7) as usize]
    }

    #[inline]
    pub(super) const fn last_seen(self) -> Millis {
        Millis(lower(self.0))
    }

    /// Where [`Expiry`] keeps this flow's timeout: phase, protocol and its Service's own timeout as one small number.
    #[inline]
    const fn timeout_index(self) -> usize {
        (self.0 >> Self::PHASE) as usize % EXPIRIES
    }

    #[inline]
    pub(super) const fn is_answered(self) -> bool {
        self.0 & Self::UNANSWERED == 0
    }

    #[inline]
    pub(super) const fn is_queued(self) -> bool {
        self.0 & Self::QUEUED != 0
    }

    /// True if both ends have shown that they are there: a flow that is not to be thrown out. With UDP there is nothing
    /// to show but a reply; else a SYN-ACK is no more than what a forged SYN brings about, and a reset its end.
    pub(super) const fn is_proven(self) -> bool {
        let half_open = matches!(self.phase(), Phase::Embryonic | Phase::Answered | Phase::Reset);
        self.is_answered() && (!half_open || matches!(self.protocol(), Protocol::Udp))
    }

    /// True if both ways work and a reply was seen.
    #[inline]
    pub(super) const fn is_settled(self) -> bool {
        upper(self.0) & upper(7 << Self::PHASE | Self::UNANSWERED) == upper(Self::ESTABLISHED)
    }

    /// True if sequence numbers are to be noted from its usual packets: it is settled, and not SCTP.
    #[inline]
    pub(super) const fn is_numbered(self) -> bool {
        let sctp = 2 << Self::PROTOCOL;
        self.0 & (7 << Self::PHASE | Self::UNANSWERED | sctp) == Self::ESTABLISHED
    }

    /// True if a packet of that direction, no SYN, FIN or RST, only renews the time of this flow (and tells sequence
    /// numbers, if it is [settled](Self::is_settled)).
    #[inline]
    pub(super) const fn rests(self, direction: Direction) -> bool {
        self.0 & Self::RESTS[direction as usize] != 0
    }

    /// The same for a live flow of this kind; `reply` is 1 for the reply, else 0.
    #[inline(always)]
    pub(super) const fn rests_of(self, family: Family, protocol: Protocol, reply: u32) -> bool {
        // Half the word has all of it: constants that fit into instructions.
        let rests = upper(Self::RESTS[0]) << reply;
        let asked = upper(Self::LIVE | Self::IPV6 | 3 << Self::PROTOCOL) | rests;
        upper(self.0) & asked == upper(Self::kind(family, protocol)) | rests
    }

    /// Notes whose packets will only renew the time; to be done again after each other change. Settled flows rest both
    /// ways. Others do where all goes one way: nothing comes back; or the replies of a dnat flow pass us by, and that was
    /// told; or one question by UDP has many answers.
    pub(super) fn with_rests(self) -> Self {
        let (tcp, udp) = (self.protocol() == Protocol::Tcp, self.protocol() == Protocol::Udp);
        let told = self.mode() == NatMode::Snat || self.0 & Self::BYPASS_REPORTED != 0;
        let waits = self.phase() == Phase::Embryonic && !self.is_answered() && self.is_queued();
        let original = self.is_settled() || waits && (told || !tcp);
        let reply = self.is_settled() || udp && self.phase() == Phase::Answered && !self.is_queued();
        let bit = |yes: bool, direction: Direction| if yes { Self::RESTS[direction as usize] } else { 0 };
        let bits = bit(original, Direction::Original) | bit(reply, Direction::Reply);
        Self(self.0 & !(Self::RESTS[0] | Self::RESTS[1]) | bits)
    }

    /// The same, with packets of that direction still to be looked at.
    pub(super) const fn without_rest(self, direction: Direction) -> Self {
        Self(self.0 & !Self::RESTS[direction as usize])
    }

    /// True for a client's packet that shows that it heard a reply, or misses one, where the appliance saw none.
    #[inline]
    pub(super) fn bypasses(self, flags: TcpFlags) -> bool {
        let may = !self.is_answered() && self.mode() == NatMode::Dnat && self.protocol() == Protocol::Tcp;
        may && self.0 & Self::BYPASS_REPORTED == 0 && !flags.rst() && (flags.ack() || flags.opens())
    }

    #[inline]
    pub(super) const fn seen_at(self, now: Millis) -> Self {
        Self(join(upper(self.0), now.0))
    }

    #[inline]
    pub(super) const fn in_phase(self, phase: Phase) -> Self {
        Self(self.0 & !(7 << Self::PHASE) | (phase as u64) << Self::PHASE)
    }

    #[inline]
    pub(super) const fn unanswered(self, yes: bool) -> Self {
        Self(if yes { self.0 | Self::UNANSWERED } else { self.0 & !Self::UNANSWERED })
    }

    /// With a timeout of its own.
    pub(super) const fn idling_for(self, idle: IdleTimeout) -> Self {
        let mask = ((1 << IdleTimeout::BITS) - 1) << Self::IDLE;
        Self(self.0 & !mask | idle.to_bits() << Self::IDLE)
    }

    #[inline]
    pub(super) const fn queued(self, yes: bool) -> Self {
        Self(if yes { self.0 | Self::QUEUED } else { self.0 & !Self::QUEUED })
    }

    #[inline]
    pub(super) const fn with_bypass_reported(self, yes: bool) -> Self {
        Self(if yes { self.0 | Self::BYPASS_REPORTED } else { self.0 & !Self::BYPASS_REPORTED })
    }
}

/// Phases, protocols and timeouts of Services.
const EXPIRIES: usize = 1 << (3 + 2 + IdleTimeout::BITS);

/// The timeouts in milliseconds, ready to be picked by a flow's state.
pub(super) struct Expiry([u32; EXPIRIES]);

impl Expiry {
    pub(super) fn new(timeouts: &crate::tcp_state::Timeouts) -> Self {
        let mut table = [0; EXPIRIES];
        for protocol in Protocol::ALL {
            for phase in Phase::ALL {
                let state = State::new(Family::V4, protocol, NatMode::Snat, Millis(0)).in_phase(phase);
                table[state.timeout_index()] = timeouts.of(protocol, phase);
                for idle in IdleTimeout::all() {
                    let own_ms = idle.seconds().unwrap_or(0).saturating_mul(1_000);
                    table[state.idling_for(idle).timeout_index()] = own_ms;
                }
            }
        }
        Self(table)
    }

    /// True if the flow has been silent for longer than its timeout. A `now` slightly before the last packet (another
    /// reading of the clock) is an age of 0, not of 49 days.
    #[inline]
    pub(super) fn is_over(&self, state: State, now: Millis) -> bool {
        let age = now.since(state.last_seen());
        age <= i32::MAX as u32 && age > self.0[state.timeout_index()]
    }
}
