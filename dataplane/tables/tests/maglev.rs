//! Maglev tables from outside: balance, disruption, weights, agreement between appliances.

#![expect(clippy::cast_possible_truncation, reason = "numbers made here are small")]

use std::net::IpAddr;

use proptest::prelude::*;
use tables::maglev::{Maglev, MaglevError, Member, name_of};

fn pool(count: u16) -> Vec<Member> {
    let address = |n: u16| IpAddr::from([10, 244, (n >> 8) as u8, n as u8]);
    (0..count).map(|n| Member { name: name_of(address(n), 8080), weight: 1 }).collect()
}

fn shares(table: &Maglev, members: usize) -> Vec<usize> {
    let mut shares = vec![0; members];
    for &index in table.slots() {
        shares[usize::from(index)] += 1;
    }
    shares
}

/// The table as names, which is what appliances must agree on.
fn named(table: &Maglev, members: &[Member]) -> Vec<u64> {
    table.slots().iter().map(|&index| members[usize::from(index)].name).collect()
}

/// Share of the slots whose owner differs, leaving out those that had or have a member present in one set only.
fn moved_between_survivors(before: &[u64], after: &[u64], gone: u64) -> f64 {
    let moved = before.iter().zip(after).filter(|&(a, b)| *a != gone && *b != gone && a != b).count();
    moved as f64 / before.len() as f64
}

#[test]
fn sizes_follow_the_ladder() {
    for (members, size) in
        [(1, 251), (2, 251), (3, 1021), (10, 1021), (11, 4093), (40, 4093), (41, 16_381), (163, 16_381)]
            .into_iter()
            .chain([
                (164, 65_537),
                (655, 65_537),
                (656, 131_101),
                (1_311, 131_101),
                (1_312, 262_147),
                (2_621, 262_147),
                (2_622, 655_373),
                (10_000, 655_373),
            ])
    {
        let table = Maglev::build(&pool(members)).unwrap();
        assert_eq!(table.slots().len(), size, "{members} members");
    }
}

#[test]
fn equal_weights_give_shares_that_differ_by_one_slot_at_most() {
    for count in [1, 2, 3, 7, 10, 100, 600, 5_000] {
        let shares = shares(&Maglev::build(&pool(count)).unwrap(), count.into());
        let (min, max) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(max - min <= 1, "{count} members: {min}..{max}");
    }
}

#[test]
fn weights_give_proportional_shares_and_zero_gives_none() {
    let weights = [0, 1, 2, 3, 10, 100];
    let members: Vec<_> =
        pool(6).into_iter().zip(weights).map(|(member, weight)| Member { weight, ..member }).collect();
    let table = Maglev::build(&members).unwrap();
    let total: usize = weights.iter().map(|&w| usize::from(w)).sum();
    for (share, weight) in shares(&table, 6).into_iter().zip(weights) {
        let fair = table.slots().len() as f64 * f64::from(weight) / total as f64;
        assert!((share as f64 - fair).abs() <= 2.0, "weight {weight}: {share} slots, fair {fair:.1}");
    }
}

#[test]
fn a_common_factor_of_the_weights_changes_nothing() {
    let times = |factor: u16| {
        let weighted = |(n, m): (u16, Member)| Member { weight: (1 + n % 3) * factor, ..m };
        Maglev::build(&(0..).zip(pool(20)).map(weighted).collect::<Vec<_>>()).unwrap()
    };
    assert_eq!(times(1), times(64));
}

#[test]
fn removing_or_adding_one_member_leaves_the_others_nearly_alone() {
    // Paper, figure 12: a few per cent of the slots move between survivors at M/N about 100.
    for count in [2, 10, 40, 100, 163, 600] {
        let all = pool(count);
        let before = named(&Maglev::build(&all).unwrap(), &all);
        for leaver in [0, count / 2, count - 1] {
            let mut rest = all.clone();
            let gone = rest.remove(leaver.into()).name;
            let table = Maglev::build(&rest).unwrap();
            if table.slots().len() != before.len() {
                continue;
            }
            let moved = moved_between_survivors(&before, &named(&table, &rest), gone);
            assert!(moved < 0.06, "{count} members, {leaver} leaves: {:.1} % moved", moved * 100.0);
        }
    }
}

#[test]
fn lookup_spreads_hashes_evenly_and_covers_the_ends() {
    let table = Maglev::build(&pool(10)).unwrap();
    assert_eq!(table.lookup(0), table.slots()[0]);
    assert_eq!(table.lookup(u64::MAX), *table.slots().last().unwrap());
    let mut hits = [0u32; 10];
    for n in 0..100_000u64 {
        hits[usize::from(table.lookup(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))] += 1;
    }
    assert!(hits.iter().all(|&n| (9_500..10_500).contains(&n)), "{hits:?}");
}

#[test]
fn impossible_sets_are_refused() {
    assert_eq!(Maglev::build(&[]), Err(MaglevError::NoMember));
    assert_eq!(Maglev::build(&[Member { name: 1, weight: 0 }]), Err(MaglevError::NoMember));
    let many = vec![Member { name: 1, weight: 1 }; 65_536];
    assert_eq!(Maglev::build(&many), Err(MaglevError::TooManyMembers(65_536)));
}

/// Appliances of different releases serve one cluster side by side: these numbers may never change.
#[test]
fn tables_are_pinned_across_releases() {
    assert_eq!(name_of("10.244.0.1".parse().unwrap(), 8080), 0xe715_b101_8814_3e6e);
    assert_eq!(name_of("2001:db8::1".parse().unwrap(), 443), 0x9c6b_73f4_5f12_2ec8);
    let mut weighted = pool(5);
    weighted[2].weight = 7;
    for (members, want) in [
        (pool(3), [2, 2, 0, 0, 1, 2, 0, 1, 0, 2, 1, 0, 0, 0, 0, 1]),
        (weighted, [2, 2, 0, 4, 2, 4, 2, 2, 2, 3, 1, 0, 0, 2, 2, 2]),
        (pool(1000), [568, 924, 422, 532, 537, 943, 535, 0, 491, 629, 533, 73, 429, 272, 769, 258]),
    ] {
        assert_eq!(Maglev::build(&members).unwrap().slots()[..16], want, "{} members", members.len());
    }
}

proptest! {
    #[test]
    fn the_order_of_the_members_does_not_matter(
        members in prop::collection::hash_map(any::<u64>(), 0u16..20, 1..60),
        seed: u64,
    ) {
        let members: Vec<_> = members.into_iter().map(|(name, weight)| Member { name, weight }).collect();
        let mut shuffled = members.clone();
        shuffled.sort_by_key(|member| member.name.wrapping_mul(seed | 1));
        match (Maglev::build(&members), Maglev::build(&shuffled)) {
            (Ok(a), Ok(b)) => prop_assert_eq!(named(&a, &members), named(&b, &shuffled)),
            (a, b) => prop_assert_eq!(a.err(), b.err()),
        }
    }

    #[test]
    fn every_member_gets_its_fair_share(weights in prop::collection::vec(1u16..=10, 1..100)) {
        let members: Vec<_> = pool(weights.len() as u16)
            .into_iter().zip(&weights).map(|(member, &weight)| Member { weight, ..member }).collect();
        let table = Maglev::build(&members).unwrap();
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        for (share, &weight) in shares(&table, members.len()).into_iter().zip(&weights) {
            let fair = table.slots().len() as f64 * f64::from(weight) / total;
            // The last, unfinished round may favour a member by its weight over the mean weight.
            let slack = 1.0 + f64::from(weight) * members.len() as f64 / total;
            prop_assert!((share as f64 - fair).abs() <= slack, "weight {}: {} slots, fair {}", weight, share, fair);
        }
    }
}
