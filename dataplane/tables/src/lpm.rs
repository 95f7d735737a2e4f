//! Longest prefix match: an immutable trie whose nodes are as wide as there are prefixes below them, for both families.
//!
//! A node stands where prefixes part. Bits that all below it share are compared at once; then about four slots for each
//! prefix, one for every value of the next bits, say the answer or lead on (the idea of Nilsson and Karlsson, "IP-Address
//! Lookup Using LC-Tries", 1999). So scattered prefixes are told apart by one slot and one comparison, however many they are:
//! a line of the slots and a line of the nodes. Where prefixes crowd, they are told apart by nodes of their own.
//!
//! Memory: n prefixes need at most 2n nodes of 16 bytes (IPv6: 32), and slots of 4 bytes, 4n for each level that all of
//! them go through, which is one where they are scattered: 10,000 routes took 0.4 MB, a million 24 MB (IPv6: 0.6 and 57).
//! Lookup: 1 to 3 nodes in practice; prefixes that nest in every length cost a node for each 4 bits at most. Build: O(n log
//! n) to sort, O(slots) to fill; 10,000 routes took 2 ms, a million 0.5 to 1.2 s.

use std::{collections::BTreeMap, net::IpAddr};

use packet::Family;

use crate::prefix::{Prefix, mask};

/// An immutable map from prefixes to values; the longest prefix that holds an address decides.
#[derive(Clone, Debug)]
pub struct Lpm<T> {
    v4: Trie<u32, T>,
    v6: Trie<u128, T>,
    prefixes: usize,
}

impl<T: Copy + PartialEq> Lpm<T> {
    /// The trie of these prefixes; of two equal prefixes the later counts.
    pub fn build(entries: impl IntoIterator<Item = (Prefix, T)>) -> Self {
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for (prefix, value) in entries {
            let family = if prefix.family() == Family::V4 { &mut v4 } else { &mut v6 };
            family.insert((prefix.bits(), prefix.length()), value);
        }
        Self { prefixes: v4.len() + v6.len(), v4: Trie::build(v4), v6: Trie::build(v6) }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        }
    }

    /// True if a prefix holds `address`.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.lookup(address).is_some()
    }

    /// Distinct prefixes, of both families.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.prefixes
    }

    /// True without any prefix.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.prefixes == 0
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes()
    }
}

impl<T: Copy + PartialEq> Default for Lpm<T> {
    fn default() -> Self {
        Self::build([])
    }
}

impl<T: Copy + PartialEq> FromIterator<(Prefix, T)> for Lpm<T> {
    fn from_iter<I: IntoIterator<Item = (Prefix, T)>>(entries: I) -> Self {
        Self::build(entries)
    }
}

/// The bits of an address as a machine word: IPv4 is looked up by single instructions, IPv6 by pairs of them.
trait Bits: Copy {
    const WIDTH: u8;

    /// The leading ones of 128 bits.
    fn leading(bits: u128) -> Self;
    /// True if both have the same first bits, so many.
    fn agrees(self, other: Self, length: u8) -> bool;
    /// The value of `count` bits behind the first `skipped`; together no more than there are.
    fn part(self, skipped: u8, count: u8) -> usize;
}

impl Bits for u32 {
    const WIDTH: u8 = 32;

    fn leading(bits: u128) -> Self {
        (bits >> 96) as Self
    }

    #[inline(always)]
    fn agrees(self, other: Self, length: u8) -> bool {
        u64::from(self ^ other) >> (32 - length) == 0
    }

    #[inline(always)]
    fn part(self, skipped: u8, count: u8) -> usize {
        let left = u64::from(self) << skipped & 0xffff_ffff;
        (left >> (32 - count)) as usize
    }
}

impl Bits for u128 {
    const WIDTH: u8 = 128;

    fn leading(bits: u128) -> Self {
        bits
    }

    /// The upper half decides nearly always: no network is longer, only hosts are.
    #[inline(always)]
    fn agrees(self, other: Self, length: u8) -> bool {
        if length <= 64 {
            return upper(self ^ other).unbounded_shr(64 - u32::from(length)) == 0;
        }
        (self ^ other) >> (128 - length) == 0
    }

    #[inline(always)]
    fn part(self, skipped: u8, count: u8) -> usize {
        let left = match skipped {
            0..64 if skipped + count <= 64 => upper(self) << skipped,
            _ => upper(self.unbounded_shl(skipped.into())),
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most STRIDE_MAX bits are left")]
        let value = left.unbounded_shr(64 - u32::from(count)) as usize;
        value
    }
}

#[inline(always)]
const fn upper(bits: u128) -> u64 {
    (bits >> 64) as u64
}

/// Answers for the addresses that agree with it, and says what the others get.
#[derive(Clone, Copy, Debug)]
struct Node<W> {
    bits: W,
    /// The slot of the lowest value.
    first: u32,
    /// The answer for an address that does not agree.
    outside: u32,
    /// How many bits must agree.
    length: u8,
    /// How many bits behind those choose the slot.
    stride: u8,
}

/// An answer by its position, or with [`CHILD`] a node.
type Slot = u32;
const CHILD: u32 = 1 << 31;
/// Bits that choose a slot where there is a choice: one line of slots at least.
const STRIDE_MIN: u8 = 4;
const STRIDE_MAX: u8 = 24;
/// Answers among which a new one is looked for, before it is stored a second time.
const ALIKE: usize = 64;

/// The trie of one family; node 0 is the root.
#[derive(Clone, Debug)]
struct Trie<W, T> {
    nodes: Box<[Node<W>]>,
    slots: Box<[Slot]>,
    answers: Box<[Option<T>]>,
}

impl<W: Bits, T: Copy + PartialEq> Trie<W, T> {
    fn build(entries: BTreeMap<(u128, u8), T>) -> Self {
        let entries: Vec<Entry<T>> =
            entries.into_iter().map(|((bits, length), value)| Entry { bits, length, value }).collect();
        let mut builder = Builder::<W, T>::default();
        if !entries.is_empty() {
            let none = builder.answer(None);
            builder.node(&entries, none);
        }
        let Builder { nodes, slots, answers, .. } = builder;
        Self { nodes: nodes.into(), slots: slots.into(), answers: answers.into() }
    }

    #[inline]
    fn lookup(&self, bits: W) -> Option<T> {
        let mut node = self.nodes.first()?;
        loop {
            if !bits.agrees(node.bits, node.length) {
                return self.answers[node.outside as usize];
            }
            let slot = self.slots[node.first as usize + bits.part(node.length, node.stride)];
            if slot & CHILD == 0 {
                return self.answers[slot as usize];
            }
            node = &self.nodes[(slot & !CHILD) as usize];
        }
    }

    fn heap_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.slots) + size_of_val(&*self.answers)
    }
}

#[derive(Clone, Copy)]
struct Entry<T> {
    bits: u128,
    length: u8,
    value: T,
}

struct Builder<W, T> {
    nodes: Vec<Node<W>>,
    slots: Vec<Slot>,
    answers: Vec<Option<T>>,
    /// Slots that nodes without a choice share, by their answer.
    lone: BTreeMap<Slot, u32>,
}

impl<W, T> Default for Builder<W, T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), slots: Vec::new(), answers: Vec::new(), lone: BTreeMap::new() }
    }
}

impl<W: Bits, T: Copy + PartialEq> Builder<W, T> {
    /// Makes the node of these entries (sorted, not empty), outside of which `outside` is the answer. Each level takes a bit
    /// off all entries at least, so recursion is at most as deep as there are bits.
    fn node(&mut self, entries: &[Entry<T>], outside: u32) -> u32 {
        let place = self.nodes.len();
        let length = common_length(entries, W::WIDTH);
        let (ends, longer) = entries.split_at(usize::from(entries[0].length == length));
        let inside = ends.first().map_or(outside, |entry| self.answer(Some(entry.value)));
        let stride = stride(longer.len(), W::WIDTH - length);
        let bits = W::leading(entries[0].bits & mask(length));
        self.nodes.push(Node { bits, first: 0, outside, length, stride });
        self.nodes[place].first = match longer {
            [] => self.lone(inside),
            _ => self.choice(longer, (length, stride), inside),
        };
        index(place)
    }

    /// The slots of a node for entries longer than its length; `inside` is the answer where none of them is.
    fn choice(&mut self, longer: &[Entry<T>], (length, stride): (u8, u8), inside: u32) -> u32 {
        let first = self.slots.len();
        self.slots.resize(first + (1 << stride), inside);
        let reach = length + stride;
        let at = |entry: &Entry<T>| first + entry.bits.part(length, stride);
        // Sorted order has a prefix before the longer ones inside it, so the longest is written last.
        for entry in longer.iter().filter(|entry| entry.length <= reach) {
            let answer = self.answer(Some(entry.value));
            self.slots[at(entry)..][..1 << (reach - entry.length)].fill(answer);
        }
        for same in longer.chunk_by(|a, b| at(a) == at(b)) {
            let below = &same[same.partition_point(|entry| entry.length <= reach)..];
            if !below.is_empty() {
                let slot = at(&below[0]);
                self.slots[slot] = CHILD | self.node(below, self.slots[slot]);
            }
        }
        index(first)
    }

    /// The one slot of a node without a choice.
    fn lone(&mut self, answer: Slot) -> u32 {
        let slots = &mut self.slots;
        *self.lone.entry(answer).or_insert_with(|| {
            slots.push(answer);
            index(slots.len() - 1)
        })
    }

    /// Where an answer stands.
    fn answer(&mut self, answer: Option<T>) -> u32 {
        let from = self.answers.len().saturating_sub(ALIKE);
        let known = self.answers[from..].iter().position(|known| *known == answer);
        index(known.map_or_else(
            || {
                self.answers.push(answer);
                self.answers.len() - 1
            },
            |at| from + at,
        ))
    }
}

/// How many bits tell so many entries apart, of those that there are.
fn stride(entries: usize, bits: u8) -> u8 {
    match entries {
        0 | 1 => 0,
        _ => u8::try_from(entries.ilog2() + 2).unwrap_or(STRIDE_MAX).clamp(STRIDE_MIN, STRIDE_MAX).min(bits),
    }
}

/// The bits, up to `most`, that all entries share and none is shorter than.
fn common_length<T>(entries: &[Entry<T>], most: u8) -> u8 {
    let (first, last) = (&entries[0], &entries[entries.len() - 1]);
    let shortest = entries.iter().map(|entry| entry.length).min().unwrap_or(0);
    let shared = (first.bits ^ last.bits).leading_zeros().min(most.into());
    u8::try_from(shared).expect("at most 128").min(shortest)
}

fn index(len: usize) -> u32 {
    u32::try_from(len)
        .ok()
        .filter(|len| *len < CHILD)
        .expect("fewer than 2^31 nodes, slots and answers fit in memory")
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn net(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The naive twin: the longest of all prefixes that hold the address, the later of equals.
    fn scan(entries: &[(Prefix, u16)], address: IpAddr) -> Option<u16> {
        let holding = entries.iter().filter(|(prefix, _)| prefix.contains(address));
        holding.max_by_key(|(prefix, _)| prefix.length()).map(|&(_, value)| value)
    }

    #[test]
    fn longest_prefix_wins_in_each_family() {
        let table = Lpm::build([
            (net("0.0.0.0/0"), 1),
            (net("10.0.0.0/8"), 2),
            (net("10.1.0.0/16"), 3),
            (net("10.1.2.3/32"), 4),
            (net("10.1.2.0/23"), 5),
            (net("2001:db8::/32"), 6),
            (net("2001:db8::1/128"), 7),
        ]);
        for (address, expected) in [
            ("9.9.9.9", Some(1)),
            ("10.9.9.9", Some(2)),
            ("10.1.9.9", Some(3)),
            ("10.1.2.3", Some(4)),
            ("10.1.3.255", Some(5)),
            ("10.1.4.0", Some(3)),
            ("2001:db8::2", Some(6)),
            ("2001:db8::1", Some(7)),
            ("2001:db9::1", None),
        ] {
            assert_eq!(table.lookup(ip(address)), expected, "{address}");
        }
        assert_eq!(table.len(), 7);
        assert_eq!(Lpm::<u16>::default().lookup(ip("10.0.0.1")), None);
    }

    #[test]
    fn few_prefixes_are_small() {
        let any = Lpm::build([(net("0.0.0.0/0"), ())]);
        assert!(any.contains(ip("255.0.0.1")) && !any.contains(ip("::1")));
        assert!(any.heap_bytes() <= 128, "{}", any.heap_bytes());
        let lone = Lpm::build([(net("fd00:10:244:7::/64"), ())]);
        assert!(lone.heap_bytes() <= 136, "one node, whatever the length: {}", lone.heap_bytes());
        let hosts =
            Lpm::build((0..4096u32).map(|n| (Prefix::host(IpAddr::from((n * 65_537).to_be_bytes())), n)));
        assert!(hosts.heap_bytes() <= 4096 * 224, "{}", hosts.heap_bytes());
    }

    /// Prefixes and addresses from few bits, so that they nest and meet often.
    fn entry() -> impl Strategy<Value = (Prefix, u16)> {
        let v4 = (any::<u32>(), 0u8..=32)
            .prop_map(|(bits, length)| (IpAddr::from((bits & 0x8103_0303).to_be_bytes()), length));
        let v6 = (any::<u128>(), 0u8..=128).prop_map(|(bits, length)| {
            (IpAddr::from((bits & 0x8000_0300_0000_0101_0000_0000_0003_0003).to_be_bytes()), length)
        });
        (prop_oneof![v4, v6], any::<u16>())
            .prop_map(|((address, length), value)| (Prefix::new(address, length).unwrap(), value))
    }

    /// However prefixes crowd, the trie stays in proportion, and what is walked in proportion to the bits.
    #[test]
    fn nested_prefixes_are_bounded() {
        let nested = |first: u128| (1..=128u8).map(move |length| (first & mask(length), length));
        let chains = (0..128u128).flat_map(|chain| nested(chain << 121 | 0x5555_5555));
        let few = [0u8, 8, 16, 24, 32, 48, 56, 64].map(|length| (0x2001_u128 << 112 & mask(length), length));
        for (name, prefixes, bytes_max, nodes_max) in [
            ("one of each length", nested(u128::MAX).collect::<Vec<_>>(), 128 * 100, 33),
            ("a hundred of each length", chains.collect(), 128 * 128 * 100, 33),
            ("a few in each other", few.to_vec(), 8 * 100, 9),
        ] {
            let prefix =
                |(bits, length): &(u128, u8)| Prefix::new(IpAddr::from(bits.to_be_bytes()), *length).unwrap();
            let entries: Vec<_> = prefixes.iter().map(prefix).zip(0u16..).collect();
            let table = Lpm::build(entries.iter().copied());
            assert!(table.heap_bytes() <= bytes_max, "{name}: {}", table.heap_bytes());
            assert!(table.v6.nodes.len() <= 2 * entries.len(), "{name}: {}", table.v6.nodes.len());
            let walked = prefixes.iter().map(|(bits, _)| table.v6.walk(*bits).count()).max().unwrap();
            assert!(walked <= nodes_max, "{name}: {walked}");
            for (prefix, _) in entries.iter().step_by(97) {
                let address = prefix.address();
                assert_eq!(table.lookup(address), scan(&entries, address), "{name}: {address}");
            }
        }
    }

    impl<W: Bits, T> Trie<W, T> {
        /// The nodes that a lookup looks at.
        fn walk(&self, bits: W) -> impl Iterator<Item = &Node<W>> {
            let next = move |node: &&Node<W>| {
                let slot = || self.slots[node.first as usize + bits.part(node.length, node.stride)];
                let child =
                    bits.agrees(node.bits, node.length).then(slot).filter(|slot| slot & CHILD != 0)?;
                self.nodes.get((child & !CHILD) as usize)
            };
            std::iter::successors(self.nodes.first(), next)
        }
    }

    proptest! {
        /// Enough that nodes get wide.
        #[test]
        fn many_scattered_prefixes_equal_a_linear_scan(
            wide in vec((any::<u128>(), 3u8..=128), 100..300), crowded in vec((any::<u8>(), 3u8..=128), 0..100),
        ) {
            let crowded = crowded.into_iter().map(|(bits, length)| (u128::from(bits) << 70 | 1 << 125, length));
            let entry = |(bits, length): (u128, u8)| Prefix::new(IpAddr::from(bits.to_be_bytes()), length).unwrap();
            let entries: Vec<_> = wide.iter().copied().chain(crowded).map(entry).zip(0u16..).collect();
            let table = Lpm::build(entries.iter().copied());
            for (prefix, _) in &entries {
                for address in [prefix.bits(), prefix.bits() | !mask(prefix.length()), !prefix.bits()] {
                    let address = IpAddr::from(address.to_be_bytes());
                    prop_assert_eq!(table.lookup(address), scan(&entries, address), "{}", address);
                }
            }
        }

        #[test]
        fn equals_a_linear_scan(entries in vec(entry(), 0..60), extra in vec(entry(), 0..60)) {
            let table = Lpm::build(entries.iter().copied());
            for &(prefix, _) in entries.iter().chain(&extra) {
                let last = Prefix::new(prefix.address(), prefix.family().bits()).unwrap().bits() | !mask(prefix.length());
                let beyond = match prefix.family() {
                    Family::V4 => IpAddr::from(((last >> 96) as u32).wrapping_add(1).to_be_bytes()),
                    Family::V6 => IpAddr::from(last.wrapping_add(1).to_be_bytes()),
                };
                for address in [prefix.address(), beyond] {
                    prop_assert_eq!(table.lookup(address), scan(&entries, address), "{}", address);
                }
            }
        }
    }
}
