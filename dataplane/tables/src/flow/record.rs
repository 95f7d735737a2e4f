//! How a flow record lies in its lines: eight words each, packed and unpacked by shifts, so that a record is one cache
//! line (IPv4) or two (IPv6) without unsafe code.
//!
//! Word by word, upper half first (`N` = 32 bits): 0 original addresses, 1 original ports | reply ports, 2 reply
//! addresses, 3 [`State`], 4 service | backend, 5 next hops (16 + 16) | fib epoch, 6 IP delta, L4 delta (16 + 16) |
//! the client's first ACK or (out of the queue) the time since when the backend goes, 7 neighbours in the queue of half-open
//! flows, or else sequence numbers (`numbers`). IPv6 addresses fill the second line instead of words 0 and 2.

use packet::checksum::Delta;
use packet::nat::Rewrite;
use packet::{Address, Family, FlowKey};

use super::state::State;
use super::{Direction, NewFlow};
use crate::hash::{FlowHash, FlowHasher, lower};
use crate::{BackendId, Millis, NextHopId, ServiceId};

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
#[inline]
pub(super) fn hash(hasher: &FlowHasher, record: &[Line], direction: Direction) -> FlowHash {
    let Some(head) = record.first() else { return FlowHash(0) };
    let state = State(head[STATE]);
    let (ports, word, at) = place_of(head, direction);
    let rest = (state.protocol(), ports);
    match (state.family(), record.get(1)) {
        (Family::V6, Some(tail)) => {
            hasher.hash_v6([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]], rest)
        }
        _ => hasher.hash_v4(head[word], rest),
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
