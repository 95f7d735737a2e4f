//! Maglev table: flow hash -> index of a backend in its pool. Built by `control`, read by every worker, never mutated.
//! Invariant: equal sets of (name, weight) give equal tables, in whatever order the set is listed, on every
//! appliance and in every release. Not here: stickiness (`flow`), which backends are eligible (`control`).
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::IpAddr;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Table sizes, all prime. A pure ladder, so that appliances which never talk to each other agree on the size. Its upper steps
/// are short, because there the time to build one is what a change of a large Service waits for.
const SIZES: [u32; 8] = [251, 1021, 4093, 16_381, 65_537, 131_101, 262_147, 655_373];
/// With 100 slots a backend the shares of two backends differ by 1 % at most (paper, section 5.3).
const SLOTS_PER_BACKEND: usize = 100;
/// Seeds of the two hashes of a name (paper: `h1`, `h2`). Part of the wire contract between appliances: never change.
const OFFSET_SEED: u64 = 0x6661_6972_6c65_6164;
const SKIP_SEED: u64 = 0x6d61_676c_6576_0001;
/// Virtual time of one turn of a backend of weight 1; divided by the weight it is the time between two turns.
const TURN: u64 = 1 << 40;

/// One member of a pool, as the table sees it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Member {
    /// Stable name of the backend, equal on every appliance; see [`name_of`].
    pub name: u64,
    /// Relative share of the slots; 0 takes none.
    pub weight: u16,
}

/// Why no table was built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MaglevError {
    /// Every weight is 0, or there is no member at all.
    NoMember,
    /// More members than a `u16` index can name.
    TooManyMembers(usize),
}

impl fmt::Display for MaglevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMember => f.write_str("no member with a weight above 0"),
            Self::TooManyMembers(count) => write!(f, "{count} members; a pool holds at most {}", u16::MAX),
        }
    }
}

impl std::error::Error for MaglevError {}

/// Prime-sized array: hash -> index in the list given to [`Maglev::build`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Maglev {
    slots: Box<[u16]>,
}

impl Maglev {
    /// Fills a table from `members`; their order matters only for the indices that `lookup` gives back.
    ///
    /// # Errors
    /// When nobody has a weight, or there are more than 65,535 members.
    pub fn build(members: &[Member]) -> Result<Self, MaglevError> {
        let ranked = rank(members)?;
        let size = size_for(ranked.len());
        let mut filling = Filling::new(size);
        let mut walkers: Vec<_> =
            ranked.iter().map(|&(member, index)| Walker::new(member, index, size)).collect();
        let first = ranked[0].0.weight;
        if ranked.iter().all(|(member, _)| member.weight == first) {
            filling.fill_evenly(&mut walkers);
        } else {
            filling.fill_by_weight(&mut walkers);
        }
        Ok(Self { slots: filling.slots.into_boxed_slice() })
    }

    /// The member for a hash whose 64 bits are all well mixed.
    #[inline]
    #[must_use]
    pub fn lookup(&self, hash: u64) -> u16 {
        self.slots[self.slot(hash)]
    }

    /// Asks for the line that [`lookup`](Self::lookup) will read.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        cpu::prefetch_index(&self.slots, self.slot(hash));
    }

    /// Multiply-shift instead of a modulo: uniform over 0..len for a uniform hash.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the high half of hash * len is below len")]
    fn slot(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    /// The whole table, slot by slot; for tests, `show` and comparisons.
    #[must_use]
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// The name of the backend at `address`:`port`: a hash of its 16 mapped address bytes and 2 port bytes, so that
/// appliances agree on it without knowing each other's slot numbers.
#[must_use]
pub fn name_of(address: IpAddr, port: u16) -> u64 {
    let mapped = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&mapped.octets());
    bytes[16..].copy_from_slice(&port.to_be_bytes());
    xxh3_64(&bytes)
}

/// The members that take part, in the order of their names: the order of turns must not depend on the caller's.
fn rank(members: &[Member]) -> Result<Vec<(Member, u16)>, MaglevError> {
    if members.len() > usize::from(u16::MAX) {
        return Err(MaglevError::TooManyMembers(members.len()));
    }
    let indexed = members.iter().copied().zip(0u16..);
    let mut ranked: Vec<_> = indexed.filter(|(member, _)| member.weight > 0).collect();
    if ranked.is_empty() {
        return Err(MaglevError::NoMember);
    }
    ranked.sort_unstable();
    Ok(ranked)
}

/// First size of the ladder that gives each member its slots; the largest beyond.
fn size_for(members: usize) -> u32 {
    let wanted = members * SLOTS_PER_BACKEND;
    let fits = SIZES.into_iter().find(|&size| size as usize >= wanted);
    fits.unwrap_or(SIZES[SIZES.len() - 1])
}

/// A member walking its own permutation of the slots: position, position + skip, ... modulo the prime size.
#[derive(Clone, Copy)]
struct Walker {
    position: u32,
    skip: u32,
    index: u16,
    weight: u16,
}

impl Walker {
    #[expect(clippy::cast_possible_truncation, reason = "a remainder by a u32 fits a u32")]
    fn new(member: Member, index: u16, size: u32) -> Self {
        let name = member.name.to_le_bytes();
        let below = |seed, bound: u32| (xxh3_64_with_seed(&name, seed) % u64::from(bound)) as u32;
        Self {
            position: below(OFFSET_SEED, size),
            skip: below(SKIP_SEED, size - 1) + 1,
            index,
            weight: member.weight,
        }
    }
}

/// Members of one weight: they have their turns at the same moments.
struct Group {
    /// Time from one turn to the next.
    pace: u64,
    /// Their ranks, lowest first.
    ranks: Vec<u16>,
}

impl Group {
    fn of_all(walkers: &[Walker]) -> Vec<Self> {
        let mut by_weight = BTreeMap::<u16, Vec<u16>>::new();
        for (walker, rank) in walkers.iter().zip(0..) {
            by_weight.entry(walker.weight).or_default().push(rank);
        }
        by_weight.into_iter().map(|(weight, ranks)| Self { pace: TURN / u64::from(weight), ranks }).collect()
    }
}

/// A table being filled. The bit set answers "taken?" from 82 KB where the slots themselves would take 1.3 MB.
struct Filling {
    slots: Vec<u16>,
    taken: Vec<u64>,
    size: u32,
    left: u32,
}

impl Filling {
    fn new(size: u32) -> Self {
        let slots = vec![0; size as usize];
        let taken = vec![0; (size as usize).div_ceil(64)];
        Self { slots, taken, size, left: size }
    }

    /// Everybody in turn, one slot a turn.
    fn fill_evenly(&mut self, walkers: &mut [Walker]) {
        while self.left > 0 {
            let turns = walkers.len().min(self.left as usize);
            for walker in &mut walkers[..turns] {
                self.claim_next(walker);
            }
        }
    }

    /// Turns come as often as the weight says; at the same moment, in the order of names. With equal weights this
    /// is `fill_evenly`.
    fn fill_by_weight(&mut self, walkers: &mut [Walker]) {
        let groups = Group::of_all(walkers);
        let first_turns = groups.iter().enumerate().map(|(at, group)| Reverse((group.pace, at)));
        let mut agenda: BinaryHeap<_> = first_turns.collect();
        let mut turns = Vec::with_capacity(walkers.len());
        while self.left > 0 {
            let Some(&Reverse((now, first))) = agenda.peek() else { return };
            turns.clear();
            while let Some(mut next) = agenda.peek_mut()
                && next.0.0 == now
            {
                let group = &groups[next.0.1];
                turns.extend_from_slice(&group.ranks);
                // Dropping the guard sifts the entry down to its new place.
                next.0.0 += group.pace;
            }
            if turns.len() > groups[first].ranks.len() {
                turns.sort_unstable();
            }
            for &rank in turns.iter().take(self.left as usize) {
                self.claim_next(&mut walkers[usize::from(rank)]);
            }
        }
    }

    /// Gives the walker the next free slot of its permutation. There is one while `left` is above 0, and a
    /// permutation visits every slot, so this ends.
    fn claim_next(&mut self, walker: &mut Walker) {
        debug_assert!(self.left > 0, "no slot is free");
        loop {
            let slot = walker.position as usize;
            walker.position += walker.skip;
            if walker.position >= self.size {
                walker.position -= self.size;
            }
            let (word, bit) = (slot / 64, 1 << (slot % 64));
            if self.taken[word] & bit == 0 {
                self.taken[word] |= bit;
                self.slots[slot] = walker.index;
                self.left -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The naive twin: of all members, whose turn is due first, and whose name is lowest among those?
    fn one_by_one(members: &[Member]) -> Vec<u16> {
        let ranked = rank(members).unwrap();
        let size = size_for(ranked.len());
        let mut filling = Filling::new(size);
        let mut walkers: Vec<_> =
            ranked.iter().map(|&(member, index)| Walker::new(member, index, size)).collect();
        let pace = |weight: u16| TURN / u64::from(weight);
        let mut due: Vec<_> = walkers.iter().map(|walker| pace(walker.weight)).collect();
        while filling.left > 0 {
            let next = (0..due.len()).min_by_key(|&rank| (due[rank], rank)).unwrap();
            filling.claim_next(&mut walkers[next]);
            due[next] += pace(walkers[next].weight);
        }
        filling.slots
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Weights that are multiples of each other meet at the same moment; odd ones hardly ever do.
        #[test]
        fn turns_by_weight_are_those_of_a_search_for_the_next(
            weights in prop::collection::vec(prop::sample::select(vec![0u16, 1, 2, 3, 4, 7, 8, 100, 65_535]), 1..12),
        ) {
            let member = |(n, &weight): (u64, &u16)| Member { name: n.wrapping_mul(0x9e37_79b9_7f4a_7c15), weight };
            let members: Vec<_> = (0..).zip(&weights).map(member).collect();
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let table = Maglev::build(&members).unwrap();
            prop_assert_eq!(table.slots(), one_by_one(&members));
        }
    }
}
