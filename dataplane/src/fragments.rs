//! What a worker knows of datagrams that come in parts: virtual reassembly. Nothing is put together; the first fragment
//! says where a datagram goes, and the others follow it. Those that come before it wait.
//!
//! Bounded at construction: a datagram more takes the place of the oldest of its bucket, a fragment more in the queue that
//! of the one that has waited longest. A flood of parts without a first one so hurts itself first. Not here: where
//! datagrams go (`stage::fragment`).

mod datagrams;

use std::{collections::VecDeque, net::Ipv4Addr};

use packet::{AnyAddrs, Body, FlowKey, Fragment, Parsed, Protocol};
use tables::{DropReason, Millis, PortId, WorkerId, flow::Candidate, hash::FlowHash};

use self::datagrams::Datagrams;
pub(crate) use self::datagrams::Slot;

/// Datagrams that one worker follows at a time.
pub(crate) const DATAGRAMS_MAX: usize = 1_024;
/// Parts that a datagram may have: 65,535 bytes over links of 576, the least that IPv4 hosts must take.
pub(crate) const PARTS_MAX: usize = 128;
/// Fragments that wait for the first one of their datagrams.
pub(crate) const WAITING_MAX: usize = 256;
/// How long a fragment waits, in milliseconds.
pub(crate) const WAITING_MS: u32 = 1_000;
/// How long an incomplete datagram is followed, in milliseconds. Much less than the 60 s of a receiver (RFC 8200 §4.5), as
/// the 16 bits of an IPv4 identification are soon used again (RFC 4963).
pub(crate) const DATAGRAM_MS: u32 = 5_000;

/// The largest IP payload.
const PAYLOAD_MAX: u32 = 65_535;

/// The name of a datagram (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Datagram {
    addrs: AnyAddrs,
    protocol: u8,
    id: u32,
}

/// Which bytes of its datagram a fragment carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Part {
    start: u16,
    end: u16,
    last: bool,
}

/// What the key of a datagram's flow has besides its addresses, and where the flow was found: it may have gone since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FlowName {
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) protocol: Protocol,
    pub(crate) hash: FlowHash,
    pub(crate) candidate: Candidate,
}

/// Where a datagram's parts go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Course {
    /// To the appliance itself.
    Deliver,
    /// With this flow.
    Flow(FlowName),
    /// To the worker that has the flow.
    Owner(WorkerId),
    /// Nowhere.
    Refused(DropReason),
    /// Where the routes say, as they are.
    Route,
    /// The first fragment has not come.
    Unknown,
}

/// A fragment that waits.
#[derive(Debug)]
pub(crate) struct Waiting<B> {
    pub(crate) buf: B,
    pub(crate) parsed: Parsed,
    pub(crate) port: PortId,
    pub(crate) since: Millis,
}

/// See the module.
pub(crate) struct Fragments<B> {
    datagrams: Datagrams,
    waiting: VecDeque<Waiting<B>>,
}

impl FlowName {
    pub(crate) const fn of<A: Copy>(key: &FlowKey<A>, hash: FlowHash, candidate: Candidate) -> Self {
        let FlowKey { sport, dport, protocol, .. } = *key;
        Self { sport, dport, protocol, hash, candidate }
    }

    /// The flow's key, with the addresses of its datagrams.
    pub(crate) const fn key<A>(&self, src: A, dst: A) -> FlowKey<A> {
        let Self { sport, dport, protocol, .. } = *self;
        FlowKey { src, dst, sport, dport, protocol }
    }
}

impl Datagram {
    /// Of nothing.
    const NONE: Self = Self {
        addrs: AnyAddrs::V4 { src: Ipv4Addr::UNSPECIFIED, dst: Ipv4Addr::UNSPECIFIED },
        protocol: 0,
        id: 0,
    };

    /// The datagram of a fragment.
    pub(crate) fn of(parsed: &Parsed) -> Option<Self> {
        let Body::OtherIp { addrs, protocol } = parsed.body else { return None };
        match parsed.fragment {
            Fragment::First { id } | Fragment::Later { id, .. } => Some(Self { addrs, protocol, id }),
            Fragment::Whole => None,
        }
    }

    pub(crate) const fn addrs(&self) -> AnyAddrs {
        self.addrs
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }
}

impl Part {
    /// What a fragment carries; `None` if no sound datagram has such a part: empty, of an odd length in the middle, or
    /// beyond the longest payload (RFC 8200 §4.5).
    pub(crate) fn of(parsed: &Parsed) -> Option<Self> {
        let (start, last) = match parsed.fragment {
            Fragment::Whole => return None,
            Fragment::First { .. } => (0, false),
            Fragment::Later { offset, more, .. } => (offset, !more),
        };
        let len = parsed.l4_len();
        if len == 0 || (!last && !len.is_multiple_of(8)) || u32::from(start) + u32::from(len) > PAYLOAD_MAX {
            return None;
        }
        Some(Self { start, end: start + len, last })
    }

    /// True if both cannot be of one datagram: they share bytes, or something lies behind the last part.
    const fn contradicts(self, other: Self) -> bool {
        let overlap = self.start < other.end && other.start < self.end;
        overlap || (self.last && other.end > self.start) || (other.last && self.end > other.start)
    }
}

impl<B> Fragments<B> {
    pub(crate) fn new() -> Self {
        Self { datagrams: Datagrams::new(), waiting: VecDeque::with_capacity(WAITING_MAX) }
    }

    /// The datagram's place: its own, else a free one, else that of the oldest. `hash` is of its name, and kept from
    /// clients.
    #[inline]
    pub(crate) fn slot(&mut self, datagram: Datagram, hash: FlowHash, now: Millis) -> Slot {
        self.datagrams.slot(datagram, hash, now)
    }

    /// Notes a part of a datagram.
    ///
    /// # Errors
    /// Why it goes no further; if it contradicts an earlier one, the whole datagram does not (RFC 5722).
    #[inline]
    pub(crate) fn note(&mut self, slot: Slot, part: Part) -> Result<(), DropReason> {
        self.datagrams.entry_mut(slot).add(part)
    }

    #[inline]
    pub(crate) fn course(&self, slot: Slot) -> Course {
        self.datagrams.entry(slot).course
    }

    /// The first fragment has said where its datagram goes.
    #[inline]
    pub(crate) fn set_course(&mut self, slot: Slot, course: Course) {
        self.datagrams.entry_mut(slot).course = course;
    }

    /// Forgets a datagram whose parts have all come, so that its name may be used again.
    #[inline]
    pub(crate) fn forget_complete(&mut self, slot: Slot) {
        let entry = self.datagrams.entry(slot);
        if entry.is_complete() && entry.course != Course::Unknown {
            self.datagrams.release(slot);
        }
    }

    /// Lets a fragment wait for the first of its datagram; gives back the one that has waited longest when there are too
    /// many.
    pub(crate) fn wait(&mut self, slot: Slot, waiting: Waiting<B>) -> Option<Waiting<B>> {
        self.datagrams.entry_mut(slot).awaited = true;
        let pushed_out = if self.waiting.len() >= WAITING_MAX { self.waiting.pop_front() } else { None };
        self.waiting.push_back(waiting);
        pushed_out
    }

    /// Parts of the datagram may wait for a course that it has by now.
    #[inline]
    pub(crate) fn holds_up(&self, slot: Slot) -> bool {
        let entry = self.datagrams.entry(slot);
        entry.awaited && entry.course != Course::Unknown
    }

    /// Takes out the next fragment that waits for this datagram's course, in the order of arrival.
    pub(crate) fn take_waiting(&mut self, slot: Slot) -> Option<Waiting<B>> {
        let entry = self.datagrams.entry_mut(slot);
        let name = Some(entry.datagram);
        let found = self.waiting.iter().position(|waiting| Datagram::of(&waiting.parsed) == name);
        entry.awaited = found.is_some();
        self.waiting.remove(found?)
    }

    /// Takes out the fragment that has waited longest, if that is too long.
    pub(crate) fn take_expired(&mut self, now: Millis) -> Option<Waiting<B>> {
        let expired = now.since(self.waiting.front()?.since) >= WAITING_MS;
        if expired { self.waiting.pop_front() } else { None }
    }

    /// Fragments that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use packet::{Parsed, parse, testkit::PacketBuilder};
    use proptest::{collection::vec, prelude::*};

    use super::{datagrams::WAYS, *};

    const T0: Millis = Millis(u32::MAX - 100);

    fn parsed(id: u32, offset: u16, len: usize, more: bool) -> Parsed {
        let packet = PacketBuilder::ip([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17).payload(&vec![0; len]);
        let frame = packet.fragment(id, offset, more).build();
        parse(&frame, frame.len()).unwrap()
    }

    fn note(
        fragments: &mut Fragments<u32>,
        (id, offset, len, more): (u32, u16, usize, bool),
        now: Millis,
    ) -> Result<Slot, DropReason> {
        let parsed = parsed(id, offset, len, more);
        let part = Part::of(&parsed).ok_or(DropReason::BadFragment)?;
        let slot = fragments.slot(Datagram::of(&parsed).unwrap(), FlowHash(id.into()), now);
        fragments.note(slot, part).map(|()| slot)
    }

    fn waiting(id: u32, buf: u32, since: Millis) -> Waiting<u32> {
        Waiting { buf, parsed: parsed(id, 64, 8, true), port: PortId(0), since }
    }

    #[test]
    fn parts_that_contradict_each_other_spoil_their_datagram() {
        for (name, parts, want) in [
            ("in order", &[(0, 64, true), (64, 64, true), (128, 9, false)][..], None),
            ("backwards", &[(128, 9, false), (64, 64, true), (0, 64, true)], None),
            ("one twice", &[(0, 64, true), (0, 64, true)], Some(DropReason::FragmentRepeated)),
            ("an overlap", &[(0, 64, true), (56, 64, true)], Some(DropReason::FragmentOverlap)),
            ("one inside another", &[(0, 64, true), (8, 8, true)], Some(DropReason::FragmentOverlap)),
            ("behind the last", &[(64, 8, false), (72, 8, true)], Some(DropReason::FragmentOverlap)),
            ("two ends", &[(64, 8, false), (128, 8, false)], Some(DropReason::FragmentOverlap)),
            ("an odd length", &[(0, 63, true)], Some(DropReason::BadFragment)),
            ("nothing in it", &[(64, 0, false)], Some(DropReason::BadFragment)),
            ("beyond the longest", &[(65_528, 64, false)], Some(DropReason::BadFragment)),
        ] {
            let mut fragments = Fragments::new();
            let outcome =
                parts.iter().map(|&(offset, len, more)| note(&mut fragments, (7, offset, len, more), T0));
            assert_eq!(outcome.last().unwrap().err(), want, "{name}");
        }
        let mut fragments = Fragments::new();
        let slot = note(&mut fragments, (7, 0, 64, true), T0).unwrap();
        assert!(note(&mut fragments, (7, 8, 64, true), T0).is_err());
        assert_eq!(fragments.course(slot), Course::Refused(DropReason::FragmentOverlap));
        assert_eq!(
            note(&mut fragments, (7, 512, 64, true), T0).err(),
            Some(DropReason::FragmentOverlap),
            "the rest too"
        );
        assert!(note(&mut fragments, (8, 8, 64, true), T0).is_ok(), "another datagram is not");
    }

    #[test]
    fn a_name_is_free_when_its_datagram_is_complete_or_late() {
        let mut fragments = Fragments::new();
        for round in 0..3 {
            let slot = note(&mut fragments, (7, 0, 64, true), T0).unwrap();
            fragments.set_course(slot, Course::Route);
            let slot = note(&mut fragments, (7, 64, 10, false), T0).unwrap();
            assert_eq!(fragments.course(slot), Course::Route, "{round}");
            fragments.forget_complete(slot);
        }
        note(&mut fragments, (7, 0, 64, true), T0).unwrap();
        assert!(note(&mut fragments, (7, 0, 64, true), T0.plus(DATAGRAM_MS - 1)).is_err());
        assert!(note(&mut fragments, (7, 0, 64, true), T0.plus(DATAGRAM_MS)).is_ok());
    }

    #[test]
    fn waiting_is_bounded_and_the_longest_wait_ends_first() {
        let mut fragments = Fragments::new();
        let slot = note(&mut fragments, (7, 64, 8, true), T0).unwrap();
        for n in 0..u32::try_from(WAITING_MAX).unwrap() {
            assert!(fragments.wait(slot, waiting(7, n, T0)).is_none());
        }
        assert_eq!(fragments.wait(slot, waiting(8, 999, T0.plus(5))).map(|out| out.buf), Some(0));
        assert_eq!(fragments.take_waiting(slot).map(|out| out.buf), Some(1));
        assert!(fragments.take_expired(T0.plus(WAITING_MS - 1)).is_none());
        let gone = std::iter::from_fn(|| fragments.take_expired(T0.plus(WAITING_MS))).count();
        assert_eq!((gone, fragments.waiting()), (WAITING_MAX - 2, 1));
        assert!(fragments.take_waiting(slot).is_none(), "what waits is of another datagram");
    }

    #[test]
    fn a_datagram_more_takes_the_place_of_the_oldest() {
        let mut fragments = Fragments::new();
        let [buckets, ways] = [DATAGRAMS_MAX / WAYS, WAYS].map(|n| u32::try_from(n).unwrap());
        for n in 0..=ways {
            let slot = note(&mut fragments, (n * buckets, 0, 64, true), T0).unwrap();
            fragments.set_course(slot, Course::Route);
        }
        let course = |fragments: &mut Fragments<u32>, n| {
            let slot = note(fragments, (n * buckets, 64, 64, true), T0.plus(10)).unwrap();
            fragments.course(slot)
        };
        assert_eq!(course(&mut fragments, ways), Course::Route);
        assert_eq!(course(&mut fragments, 0), Course::Unknown, "the oldest is forgotten");
    }

    proptest! {
        /// A datagram cut anywhere, its parts in any order, with others and repeats among them.
        #[test]
        fn a_datagram_is_complete_when_every_byte_has_come(
            mut cuts in vec(1u16..100, 1..20), tail in 1u16..800, order in any::<[u8; 64]>(),
        ) {
            cuts.sort_unstable();
            cuts.dedup();
            let starts: Vec<u16> = std::iter::once(0).chain(cuts.iter().map(|cut| cut * 8)).collect();
            let end = starts.last().unwrap() + tail;
            let mut parts: Vec<(u16, u16)> =
                starts.iter().zip(starts[1..].iter().chain([&end])).map(|(start, end)| (*start, *end)).collect();
            for (n, by) in order.into_iter().enumerate() {
                let len = parts.len();
                parts.swap(n % len, usize::from(by) % len);
            }
            let (mut fragments, mut seen) = (Fragments::<u32>::new(), HashSet::new());
            for (start, stop) in parts.iter().copied() {
                let slot = note(&mut fragments, (7, start, usize::from(stop - start), stop != end), T0).unwrap();
                fragments.set_course(slot, Course::Route);
                seen.extend(start..stop);
                prop_assert_eq!(fragments.datagrams.entry(slot).is_complete(), seen.len() == usize::from(end));
                let again = note(&mut fragments, (7, start, usize::from(stop - start), stop != end), T0);
                prop_assert_eq!(again.err(), Some(DropReason::FragmentRepeated));
            }
        }
    }
}
