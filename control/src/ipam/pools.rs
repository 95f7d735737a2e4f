//! All pools together: those of the configuration, then the AddressPools from the oldest on. No address is in two of
//! them: an AddressPool that overlaps an earlier pool is refused whole, and told.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::Family;

use crate::model::AddressPool;
use crate::pool::{Labels, Pool};

/// The pools in force.
#[derive(Debug, Default)]
pub(super) struct PoolSet {
    pools: Vec<Pool>,
    /// Last address and pool of each range, by its first address.
    ranges: BTreeMap<IpAddr, (IpAddr, usize)>,
    /// Where the search for a free address starts, by range; nothing below is free.
    lowest_free: HashMap<IpAddr, IpAddr>,
    /// AddressPools that are not in force, with the reason.
    refused: BTreeMap<String, String>,
}

impl PoolSet {
    pub(super) fn new<'a>(configured: &[Pool], objects: impl Iterator<Item = &'a AddressPool>) -> Self {
        let mut set = Self::default();
        for pool in configured {
            // The configuration's own reader has refused overlaps.
            set.add(pool.clone());
        }
        let mut objects: Vec<_> = objects.collect();
        objects.sort_by_key(|object| (object.created.is_empty(), &object.created, &object.pool.name));
        for object in objects {
            match set.fault(object) {
                Some(fault) => drop(set.refused.insert(object.pool.name.clone(), fault)),
                None => set.add(object.pool.clone()),
            }
        }
        set
    }

    fn add(&mut self, pool: Pool) {
        let index = self.pools.len();
        for &(first, last) in &pool.ranges {
            self.ranges.insert(first, (last, index));
        }
        self.pools.push(pool);
    }

    /// Why an AddressPool cannot be in force.
    fn fault(&self, object: &AddressPool) -> Option<String> {
        if !object.faults.is_empty() {
            return Some(object.faults.join("; "));
        }
        let pool = &object.pool;
        if self.named(&pool.name).is_some() {
            return Some("a pool of the configuration has this name; rename one of them".into());
        }
        for (position, &(first, last)) in pool.ranges.iter().enumerate() {
            let own = pool.ranges[..position].iter().find(|(a, b)| first <= *b && *a <= last);
            if let Some((a, b)) = own {
                return Some(format!(
                    "{first}-{last} overlaps {a}-{b} of this pool; every address once is expected"
                ));
            }
            if let Some((&a, &(b, index))) =
                self.ranges.range(..=last).next_back().filter(|(_, (b, _))| first <= *b)
            {
                let other = &self.pools[index].name;
                return Some(format!(
                    "{first}-{last} overlaps {a}-{b} of pool {other}; take it out of one of them"
                ));
            }
        }
        None
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.refused.is_empty()
    }

    pub(super) fn all(&self) -> &[Pool] {
        &self.pools
    }

    pub(super) fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    pub(super) fn named(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pool that may give an address.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Pool> {
        let (_, (last, index)) = self.ranges.range(..=address).next_back()?;
        let pool = &self.pools[*index];
        (address <= *last && Family::of(*last) == Family::of(address) && pool.gives(address)).then_some(pool)
    }

    /// The pools that a Service gets addresses from without asking, those for some Services only first.
    pub(super) fn automatic(&self, service: &Labels, namespace: &Labels, family: Family) -> Vec<usize> {
        let gives = |pool: &Pool| {
            let has_family = pool.ranges.iter().any(|(first, _)| Family::of(*first) == family);
            pool.auto_assign && has_family && pool.admits(service, namespace)
        };
        let mut pools: Vec<_> = (0..self.pools.len()).filter(|index| gives(&self.pools[*index])).collect();
        pools.sort_by_key(|index| !self.pools[*index].is_selective());
        pools
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.pools.iter().position(|pool| pool.name == name)
    }

    /// The lowest address of a pool that nobody holds and that may be used.
    pub(super) fn lowest_free(
        &mut self,
        pool: usize,
        family: Family,
        taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let pool = &self.pools[pool];
        for &(first, last) in pool.ranges.iter().filter(|(first, _)| Family::of(*first) == family) {
            let mut at = self.lowest_free.get(&first).copied().unwrap_or(first);
            let is_free = |at: IpAddr| pool.gives(at) && !taken(at);
            // Ends at the latest after every address that somebody holds or that may not be used was passed.
            while !is_free(at) && at < last {
                at = next(at);
            }
            self.lowest_free.insert(first, at);
            if is_free(at) {
                return Some(at);
            }
        }
        None
    }

    /// An address became free.
    pub(super) fn freed(&mut self, address: IpAddr) {
        let Some((first, _)) = self.ranges.range(..=address).next_back() else { return };
        if let Some(lowest) = self.lowest_free.get_mut(first)
            && address < *lowest
        {
            *lowest = address;
        }
    }

    /// Which addresses may be used has changed.
    pub(super) fn search_anew(&mut self) {
        self.lowest_free.clear();
    }
}

/// The address after this one; the callers stop at a range's last.
fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().wrapping_add(1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, first: &str, last: &str) -> Pool {
        let ranges = vec![(first.parse().unwrap(), last.parse().unwrap())];
        Pool { name: name.into(), ranges, ..Pool::default() }
    }

    fn object(name: &str, created: &str, first: &str, last: &str) -> AddressPool {
        AddressPool { created: created.into(), pool: pool(name, first, last), ..AddressPool::default() }
    }

    #[test]
    fn an_address_is_in_one_pool_and_the_younger_is_refused() {
        let configured = [pool("config", "203.0.113.0", "203.0.113.9")];
        let objects = [
            object("b", "2026-02-01T00:00:00Z", "203.0.113.20", "203.0.113.29"),
            object("a", "2026-03-01T00:00:00Z", "203.0.113.29", "203.0.113.40"),
            object("c", "2026-01-01T00:00:00Z", "203.0.113.5", "203.0.113.6"),
            object("config", "2026-01-01T00:00:00Z", "203.0.113.200", "203.0.113.201"),
            AddressPool { faults: vec!["no good".into()], ..object("d", "", "203.0.113.77", "203.0.113.77") },
        ];
        let set = PoolSet::new(&configured, objects.iter());
        assert_eq!(set.all().iter().map(|pool| &*pool.name).collect::<Vec<_>>(), ["config", "b"]);
        let why = |name: &str| set.refused()[name].as_str();
        assert!(why("a").contains("overlaps 203.0.113.20-203.0.113.29 of pool b"), "{}", why("a"));
        assert!(why("c").contains("of pool config") && why("config").contains("rename"));
        assert_eq!(why("d"), "no good");
        let of = |address: &str| set.of(address.parse().unwrap()).map(|pool| &*pool.name);
        assert_eq!(
            (of("203.0.113.9"), of("203.0.113.10"), of("203.0.113.29")),
            (Some("config"), None, Some("b"))
        );
        assert_eq!((of("2001:db8::1"), of("0.0.0.0")), (None, None));
    }

    #[test]
    fn a_pool_that_overlaps_itself_is_refused() {
        let mut twice = object("twice", "", "203.0.113.1", "203.0.113.9");
        twice.pool.ranges.push(("203.0.113.9".parse().unwrap(), "203.0.113.12".parse().unwrap()));
        assert!(PoolSet::new(&[], [&twice].into_iter()).refused()["twice"].contains("of this pool"));
    }

    #[test]
    fn the_search_passes_what_is_left_out() {
        let mut buggy = pool("p", "203.0.112.254", "203.0.113.1");
        buggy.avoid_buggy_ips = true;
        let mut set = PoolSet::new(&[buggy], [].into_iter());
        let free = |set: &mut PoolSet, taken: &[&str]| {
            let taken: Vec<IpAddr> = taken.iter().map(|text| text.parse().unwrap()).collect();
            set.lowest_free(0, Family::V4, |at| taken.contains(&at)).map(|at| at.to_string())
        };
        assert_eq!(free(&mut set, &[]).as_deref(), Some("203.0.112.254"));
        assert_eq!(free(&mut set, &["203.0.112.254"]).as_deref(), Some("203.0.113.1"));
        assert_eq!(free(&mut set, &["203.0.112.254", "203.0.113.1"]), None);
        set.freed("203.0.112.254".parse().unwrap());
        assert_eq!(free(&mut set, &["203.0.113.1"]).as_deref(), Some("203.0.112.254"));
    }
}
