//! How a flow record lies in its lines: eight words each, packed and unpacked by shifts, so that a record is one cache
//! line (IPv4) or two (IPv6) without unsafe code.
//!
//! Word by word, upper half first (`N` = 32 bits): 0 original addresses, 1 original ports | reply ports, 2 reply
//! addresses, 3 [`State`], 4 service | backend, 5 next hops (16 + 16) | fib epoch, 6 IP delta, L4 delta (16 + 16) |
//! the client's first ACK or (out of the queue) the time since when the backend goes, 7 neighbours in the queue of half-open flows, or else sequence numbers (`numbers`). IPv6
//! addresses fill the second line instead of words 0 and 2.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::checksum::Delta;
use packet::nat::Rewrite;
use packet::{Address, Family, FlowKey, Protocol, TcpFlags};

use super::{Direction, NewFlow};
use crate::hash::{FlowHash, FlowHasher, lower};
use crate::tcp_state::Phase;
use crate::{BackendId, IdleTimeout, Millis, NatMode, NextHopId, ServiceId};

/// 64 bytes: one cache line of the slab.
pub(super) type Line = [u64; 8];

const ORIGINAL_ADDRESSES: usize = 0;
pub(super) const PORTS: usize = 1;
pub(super) const REPLY_ADDRESSES: usize = 2;
pub(super) const STATE: usize = 3;
const IDS: usize = 4;
pub(super) const HOPS: usize = 5;
pub(super) const DELTAS: usize = 6;
pub(super) const LINKS: usize = 7;

/// In place of a next hop: not resolved.
pub(super) const NO_HOP: u16 = u16::MAX;
/// Word [`HOPS`] of a flow with neither next hop.
const NO_HOPS: u64 = 0xffff_ffff << 32;

/// Two 32-bit values as a word.
#[inline]
pub(super) const fn join(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

/// The upper half of a word.
#[inline]
pub(super) const fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

/// What changes while a flow lives, in one word: 32 bits of flags over the time of the last packet.
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
    const fn is_live_of(self, family: Family, protocol: Protocol) -> bool {
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
        self.0 & (7 << Self::PHASE | Self::UNANSWERED) == Self::ESTABLISHED
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
        let rests = Self::RESTS[0] << reply;
        let asked = Self::LIVE | Self::IPV6 | 3 << Self::PROTOCOL | rests;
        self.0 & asked == Self::kind(family, protocol) | rests
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

    /// True for a client's packet that shows that it heard a reply, or misses one, where the appliance saw none.
    #[inline]
    pub(super) fn bypasses(self, flags: TcpFlags) -> bool {
        let may = !self.is_answered() && self.mode() == NatMode::Dnat && self.protocol() == Protocol::Tcp;
        may && self.0 & Self::BYPASS_REPORTED == 0 && !flags.rst() && (flags.ack() || flags.opens())
    }

    #[inline]
    pub(super) const fn seen_at(self, now: Millis) -> Self {
        Self(self.0 & !0xffff_ffff | now.0 as u64)
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

/// Both addresses of a key as the one word that IPv4 needs.
#[inline]
fn v4_word<A: Address>(key: &FlowKey<A>) -> u64 {
    key.src.words()[0] << 32 | key.dst.words()[0]
}

/// True if the record holds `key` in that direction. State (liveness, family, protocol) is compared too.
#[inline]
pub(super) fn holds<A: Address>(record: &[Line], direction: Direction, key: &FlowKey<A>) -> bool {
    let state = record.first().map_or(State(0), |head| State(head[STATE]));
    state.is_live_of(A::FAMILY, key.protocol) && has_key(record, direction, key)
}

/// True if the record has the addresses and ports of `key` in that direction; its state is not looked at.
#[inline]
fn has_key<A: Address>(record: &[Line], direction: Direction, key: &FlowKey<A>) -> bool {
    let Some(head) = record.first() else { return false };
    let (ports, word, at) = place_of(head, direction);
    if ports != key.ports() {
        return false;
    }
    match A::FAMILY {
        Family::V4 => head[word] == v4_word(key),
        Family::V6 => {
            let ([s0, s1], [d0, d1]) = (key.src.words(), key.dst.words());
            record.get(1).is_some_and(|tail| tail[at..at + 4] == [s0, s1, d0, d1])
        }
    }
}

/// Of one direction: the ports, the word of its IPv4 addresses, and where its IPv6 addresses begin in the second line.
#[inline]
const fn place_of(head: &Line, direction: Direction) -> (u32, usize, usize) {
    match direction {
        Direction::Original => (upper(head[PORTS]), ORIGINAL_ADDRESSES, 0),
        Direction::Reply => (lower(head[PORTS]), REPLY_ADDRESSES, 4),
    }
}

/// Writes a whole record, with no next hop known.
pub(super) fn put<A: Address>(record: &mut [Line], flow: &NewFlow<A>, state: State) {
    let Some((head, tail)) = record.split_first_mut() else { return };
    let (original, reply) = (&flow.original, &flow.reply);
    *head = [0; 8];
    head[PORTS] = join(original.ports(), reply.ports());
    head[STATE] = state.0;
    head[IDS] = join(flow.service.to_bits(), flow.backend.to_bits());
    head[HOPS] = NO_HOPS;
    head[DELTAS] = deltas_word(original, &reply.reversed());
    match (A::FAMILY, tail.first_mut()) {
        (Family::V6, Some(tail)) => {
            let words = [original.src.words(), original.dst.words(), reply.src.words(), reply.dst.words()];
            tail.copy_from_slice(words.as_flattened());
        }
        _ => {
            head[ORIGINAL_ADDRESSES] = v4_word(original);
            head[REPLY_ADDRESSES] = v4_word(reply);
        }
    }
}

/// Reads one key; `A` must be the record's family.
#[inline]
pub(super) fn key<A: Address>(record: &[Line], direction: Direction) -> FlowKey<A> {
    let head = record.first().unwrap_or(&[0; 8]);
    let (ports, word, at) = place_of(head, direction);
    let (src, dst) = match (A::FAMILY, record.get(1)) {
        (Family::V6, Some(tail)) => ([tail[at], tail[at + 1]], [tail[at + 2], tail[at + 3]]),
        _ => ([head[word] >> 32, 0], [head[word] & 0xffff_ffff, 0]),
    };
    FlowKey {
        src: address(src),
        dst: address(dst),
        sport: (ports >> 16) as u16,
        dport: (ports & 0xffff) as u16,
        protocol: State(head[STATE]).protocol(),
    }
}

/// The address of these words: what [`Address::words`] took apart.
#[inline]
fn address<A: Address>([first, second]: [u64; 2]) -> A {
    let mut bytes = [0; 16];
    match A::FAMILY {
        Family::V4 => bytes[..4].copy_from_slice(&lower(first).to_be_bytes()),
        Family::V6 => bytes.copy_from_slice(&(u128::from(first) << 64 | u128::from(second)).to_be_bytes()),
    }
    A::from_slice(&bytes).unwrap_or(A::UNSPECIFIED)
}

/// The hash of one of the record's keys.
pub(super) fn hash(hasher: &FlowHasher, record: &[Line], direction: Direction) -> FlowHash {
    let family = record.first().map_or(Family::V4, |head| State(head[STATE]).family());
    match family {
        Family::V4 => hasher.hash(&key::<Ipv4Addr>(record, direction)),
        Family::V6 => hasher.hash(&key::<Ipv6Addr>(record, direction)),
    }
}

/// The checksum deltas of the original direction; those of the reply are their inverses.
fn deltas_word<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> u64 {
    let rewrite = Rewrite::new(from, to);
    u64::from(rewrite.ip.to_bits()) << 48 | u64::from(rewrite.l4.to_bits()) << 32
}

/// What to make of the packets of one direction: the other key reversed; `A` must be the record's family.
#[inline]
pub(super) fn rewrite<A: Address>(record: &[Line], direction: Direction) -> Rewrite<A> {
    let deltas = record.first().map_or(0, |head| upper(head[DELTAS]));
    let (ip, l4) = (Delta::from_bits((deltas >> 16) as u16), Delta::from_bits((deltas & 0xffff) as u16));
    let (to, ip, l4) = match direction {
        Direction::Original => (key::<A>(record, Direction::Reply), ip, l4),
        Direction::Reply => (key::<A>(record, Direction::Original), ip.inverse(), l4.inverse()),
    };
    Rewrite { src: to.dst, dst: to.src, sport: to.dport, dport: to.sport, ip, l4 }
}

/// The ids of service and backend.
#[inline]
pub(super) fn ids(head: &Line) -> (ServiceId, BackendId) {
    (ServiceId::from_bits(upper(head[IDS])), BackendId::from_bits(lower(head[IDS])))
}

/// Replaces the ids of service and backend.
pub(super) fn set_ids(head: &mut Line, service: ServiceId, backend: BackendId) {
    head[IDS] = join(service.to_bits(), backend.to_bits());
}

/// Since when the flow's backend drains or is gone, as far as that was noticed; the flow is in no queue.
pub(super) const fn leaving_since(head: &Line) -> Option<Millis> {
    match lower(head[DELTAS]) {
        0 => None,
        ms => Some(Millis(ms)),
    }
}

/// Notes that; a time of 0 is a millisecond late.
pub(super) fn set_leaving(head: &mut Line, since: Option<Millis>) {
    let ms = since.map_or(0, |since| since.0.max(1));
    if lower(head[DELTAS]) != ms {
        head[DELTAS] = join(upper(head[DELTAS]), ms);
    }
}

/// The next hop of one direction, if it was resolved under this epoch of the FIB.
#[inline]
pub(super) fn next_hop(head: &Line, direction: Direction, fib_epoch: u32) -> Option<NextHopId> {
    let hops = upper(head[HOPS]);
    let hop = match direction {
        Direction::Original => (hops >> 16) as u16,
        Direction::Reply => (hops & 0xffff) as u16,
    };
    (lower(head[HOPS]) == fib_epoch && hop != NO_HOP).then_some(NextHopId(hop))
}

/// Notes the next hop of one direction; what was resolved under another epoch is forgotten.
pub(super) fn set_next_hop(head: &mut Line, direction: Direction, fib_epoch: u32, hop: NextHopId) {
    let word = if lower(head[HOPS]) == fib_epoch { head[HOPS] } else { NO_HOPS };
    let hops = match direction {
        Direction::Original => u32::from(hop.0) << 16 | upper(word) & 0xffff,
        Direction::Reply => upper(word) & 0xffff_0000 | u32::from(hop.0),
    };
    head[HOPS] = join(hops, fib_epoch);
}
