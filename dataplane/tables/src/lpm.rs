//! Longest prefix match: an immutable trie of 8-bit strides with path compression, for both families.
//!
//! A node stands where prefixes part or end, and answers for the next 8 bits: a bitmap says which of the 256 values lead
//! to a child, another where a run of equal answers begins, so children and answers are stored without gaps (the idea of
//! Asai and Ohara, "Poptrie", SIGCOMM 2015). Bits that all prefixes below share are compared at once, not walked.
//!
//! Memory: a node has a prefix that ends in it or two children, so n prefixes need fewer than 2n nodes of 96 bytes (IPv6:
//! 128) and 6n answers; a lone prefix needs one node, 10,000 scattered routes took 1.1 MB, a million 21 MB. Lookup: at most 4
//! nodes for IPv4, 16 for IPv6, 1 to 3 in practice. Build: O(n log n) to sort, O(256 + its prefixes) a node; 10,000
//! routes took 4 ms, a million 0.4 s.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::{BitAnd, Shr},
};

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
trait Bits: Copy + Eq + BitAnd<Output = Self> + Shr<u8, Output = Self> {
    const WIDTH: u8;

    /// The leading ones of 128 bits.
    fn leading(bits: u128) -> Self;
    fn last_byte(self) -> u8;
}

impl Bits for u32 {
    const WIDTH: u8 = 32;

    fn leading(bits: u128) -> Self {
        (bits >> 96) as Self
    }

    #[inline]
    fn last_byte(self) -> u8 {
        (self & 0xff) as u8
    }
}

impl Bits for u128 {
    const WIDTH: u8 = 128;

    fn leading(bits: u128) -> Self {
        bits
    }

    #[inline]
    fn last_byte(self) -> u8 {
        (self & 0xff) as u8
    }
}

/// 256 bits, and for each word how many are set in those before it.
#[derive(Clone, Copy, Debug)]
struct Bitmap {
    words: [u64; 4],
    before: [u8; 4],
}

impl Bitmap {
    /// Of distinct values.
    fn of(values: impl IntoIterator<Item = u8>) -> Self {
        let (mut words, mut counts) = ([0_u64; 4], [0_u8; 4]);
        for value in values {
            words[usize::from(value >> 6)] |= 1 << (value & 63);
            counts[usize::from(value >> 6)] += 1;
        }
        // At most 192.
        let before = |word: usize| counts[..word].iter().sum();
        Self { words, before: [0, 1, 2, 3].map(before) }
    }

    #[inline]
    fn has(&self, value: u8) -> bool {
        self.words[usize::from(value >> 6)] >> (value & 63) & 1 == 1
    }

    /// Bits set below `value`.
    #[inline]
    fn rank(&self, value: u8) -> u32 {
        let word = usize::from(value >> 6);
        u32::from(self.before[word]) + (self.words[word] & ((1 << (value & 63)) - 1)).count_ones()
    }
}

/// Answers for 8 bits, once the bits before them are found equal to `bits`.
#[derive(Clone, Debug)]
struct Node<W> {
    bits: W,
    /// Which bits are those.
    mask: W,
    /// Which of the 256 values have a child.
    children: Bitmap,
    /// Where, among the 256 values, a new answer begins; a value's answer is the last one begun at or before it.
    runs: Bitmap,
    first_child: u32,
    first_answer: u32,
    /// Where the answer stands for an address that parts from `bits`.
    mismatch: u32,
    /// Bits behind the 8.
    shift: u8,
}

/// The trie of one family; node 0 is the root.
#[derive(Clone, Debug)]
struct Trie<W, T> {
    nodes: Box<[Node<W>]>,
    answers: Box<[Option<T>]>,
}

impl<W: Bits, T: Copy + PartialEq> Trie<W, T> {
    fn build(entries: BTreeMap<(u128, u8), T>) -> Self {
        let entries: Vec<Entry<T>> =
            entries.into_iter().map(|((bits, length), value)| Entry { bits, length, value }).collect();
        let mut builder = Builder { nodes: Vec::new(), answers: Vec::new() };
        if !entries.is_empty() {
            builder.nodes.push(None);
            builder.fill(0, &entries, None);
        }
        let nodes =
            builder.nodes.into_iter().map(|node| node.expect("fill() visits every place it reserves"));
        Self { nodes: nodes.collect(), answers: builder.answers.into() }
    }

    #[inline]
    fn lookup(&self, bits: W) -> Option<T> {
        let mut node = self.nodes.first()?;
        loop {
            if bits & node.mask != node.bits {
                return self.answers[node.mismatch as usize];
            }
            let value = (bits >> node.shift).last_byte();
            if !node.children.has(value) {
                let run = node.runs.rank(value) + u32::from(node.runs.has(value)) - 1;
                return self.answers[(node.first_answer + run) as usize];
            }
            node = &self.nodes[(node.first_child + node.children.rank(value)) as usize];
        }
    }

    fn heap_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.answers)
    }
}

#[derive(Clone, Copy)]
struct Entry<T> {
    bits: u128,
    length: u8,
    value: T,
}

/// Places for nodes are reserved before they are filled, so that the children of a node are neighbours.
struct Builder<W, T> {
    nodes: Vec<Option<Node<W>>>,
    answers: Vec<Option<T>>,
}

impl<W: Bits, T: Copy + PartialEq> Builder<W, T> {
    /// Makes the node at `place` for these entries (sorted, not empty, none shorter than the place's own depth), below
    /// which `inherited` is the answer. Depth of recursion: a stride a level, so at most 16.
    fn fill(&mut self, place: usize, entries: &[Entry<T>], inherited: Option<T>) {
        let depth = common_depth(entries, W::WIDTH - 8);
        let (answers, groups) = expand(entries, depth, inherited);
        let mismatch = self.push_answers([inherited]);
        let children = Bitmap::of(groups.iter().map(|group| group.value));
        let first_child = index(self.nodes.len());
        self.nodes.extend(groups.iter().map(|_| None));
        let begins =
            |value: &u8| *value == 0 || answers[usize::from(*value)] != answers[usize::from(*value) - 1];
        let starts: Vec<u8> = (0..=255).filter(begins).collect();
        let runs = Bitmap::of(starts.iter().copied());
        let first_answer = self.push_answers(starts.iter().map(|&value| answers[usize::from(value)]));
        let (bits, mask) = (W::leading(entries[0].bits & mask(depth)), W::leading(mask(depth)));
        let shift = W::WIDTH - 8 - depth;
        let node = Node { bits, mask, children, runs, first_child, first_answer, mismatch, shift };
        self.nodes[place] = Some(node);
        for (child, group) in (first_child as usize..).zip(groups) {
            self.fill(child, group.entries, answers[usize::from(group.value)]);
        }
    }

    fn push_answers(&mut self, answers: impl IntoIterator<Item = Option<T>>) -> u32 {
        let first = index(self.answers.len());
        self.answers.extend(answers);
        first
    }
}

/// Entries too long for a node, that agree in its 8 bits.
struct Group<'a, T> {
    value: u8,
    entries: &'a [Entry<T>],
}

/// What a node at `depth` answers for each of its 256 values, and what it leaves to children.
fn expand<T: Copy + PartialEq>(
    entries: &[Entry<T>],
    depth: u8,
    inherited: Option<T>,
) -> ([Option<T>; 256], Vec<Group<'_, T>>) {
    let (mut answers, mut groups) = ([inherited; 256], Vec::new());
    // Sorted order has a prefix before the longer ones inside it, so the longest is written last.
    for entry in entries.iter().filter(|entry| entry.length <= depth + 8) {
        let first = usize::from(byte_at(entry.bits, depth));
        let width = 1usize << (depth + 8 - entry.length);
        answers[first..first + width].fill(Some(entry.value));
    }
    for same in entries.chunk_by(|a, b| byte_at(a.bits, depth) == byte_at(b.bits, depth)) {
        let longer = same.partition_point(|entry| entry.length <= depth + 8);
        if longer < same.len() {
            groups.push(Group { value: byte_at(same[0].bits, depth), entries: &same[longer..] });
        }
    }
    (answers, groups)
}

/// The greatest multiple of 8 bits, up to `most`, that all entries share and none is shorter than.
fn common_depth<T>(entries: &[Entry<T>], most: u8) -> u8 {
    let (first, last) = (&entries[0], &entries[entries.len() - 1]);
    let shortest = entries.iter().map(|entry| entry.length).min().unwrap_or(0);
    let shared = (first.bits ^ last.bits).leading_zeros().min(most.into());
    u8::try_from(shared).expect("at most 120").min(shortest) & !7
}

fn index(len: usize) -> u32 {
    u32::try_from(len).expect("fewer than 2^32 nodes and answers fit in memory")
}

fn byte_at(bits: u128, depth: u8) -> u8 {
    (bits >> (120 - u32::from(depth)) & 0xff) as u8
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

    proptest! {
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
