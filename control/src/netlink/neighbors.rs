//! Which neighbours matter, and what is known of them: a state machine without a socket.
//!
//! Everything that workers may send to is *kept*: the kernel verifies it by itself, and is asked again whenever it forgets
//! it. A kept neighbour keeps its MAC while the kernel asks anew; only FAILED takes it away. Kept are the next hops of
//! routes (pinned, they never go) and the hosts that workers asked for or that the kernel met. Hosts are bounded: the
//! oldest one without an answer goes first, then the oldest; one that does not answer goes when nobody asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use packet::MacAddr;

use crate::network::Neighbor;

/// Hosts kept because a worker asked for them; the kernel's own default limit is 1,024 a family.
const HOSTS_MAX: usize = 1024;
/// A host that does not answer is given up when no worker asked for it for so long.
const GIVE_UP_AFTER_MS: u64 = 30_000;
/// The kernel is not asked for one neighbour more often than this.
const ASK_INTERVAL_MS: u64 = 200;

/// A neighbour: port index and address.
pub(crate) type Key = (u16, IpAddr);

/// What the kernel reported about a neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Report {
    /// Usable with this MAC: REACHABLE, STALE, DELAY, PROBE, NOARP.
    Usable(MacAddr),
    /// Set by hand, ours or the operator's: never asked for.
    Permanent(MacAddr),
    /// Being asked for.
    Incomplete,
    /// Nobody answered.
    Failed,
    /// The kernel forgot it.
    Gone,
}

/// What the kernel shall do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// Resolve it and keep it alive.
    Ask(Key),
    /// It is no longer kept alive.
    Forget(Key),
}

/// Every neighbour known or asked for.
#[derive(Debug, Default)]
pub(crate) struct Neighbors {
    entries: BTreeMap<Key, Entry>,
    pinned: BTreeSet<Key>,
    hosts: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    mac: Option<MacAddr>,
    permanent: bool,
    host: bool,
    asked_ms: Option<u64>,
}

impl Neighbors {
    /// Takes a report of the kernel in; a kept neighbour that it forgot is asked for again, one that it met is kept.
    pub(crate) fn report(&mut self, key: Key, report: Report, now_ms: u64) -> Vec<Order> {
        let kept = self.is_kept(&key);
        if report == Report::Gone && !kept {
            self.entries.remove(&key);
            return Vec::new();
        }
        let entry = self.entries.entry(key).or_default();
        entry.permanent = matches!(report, Report::Permanent(_));
        match report {
            Report::Usable(mac) | Report::Permanent(mac) => entry.mac = Some(mac),
            Report::Failed => entry.mac = None,
            Report::Incomplete | Report::Gone => {}
        }
        match report {
            Report::Gone => {
                entry.asked_ms = Some(now_ms);
                vec![Order::Ask(key)]
            }
            Report::Usable(_) if !kept => self.keep(key, now_ms),
            _ => Vec::new(),
        }
    }

    /// A worker wants to send to this host.
    pub(crate) fn ask(&mut self, key: Key, now_ms: u64) -> Vec<Order> {
        let entry = self.entries.entry(key).or_default();
        let recent = entry.asked_ms.is_some_and(|asked| now_ms.saturating_sub(asked) < ASK_INTERVAL_MS);
        if entry.permanent || recent {
            return Vec::new();
        }
        self.keep(key, now_ms)
    }

    /// Gives up hosts that do not answer and that no worker asked for of late.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<Order> {
        let lapsed = |entry: &Entry| {
            let asked = entry.asked_ms.unwrap_or_default();
            entry.host && entry.mac.is_none() && now_ms.saturating_sub(asked) >= GIVE_UP_AFTER_MS
        };
        let keys: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| lapsed(entry)).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.give_up(key)).collect()
    }

    fn keep(&mut self, key: Key, now_ms: u64) -> Vec<Order> {
        let entry = self.entries.entry(key).or_default();
        entry.asked_ms = Some(now_ms);
        let new = !entry.host;
        entry.host = true;
        let mut orders = vec![Order::Ask(key)];
        if new {
            self.hosts += 1;
            orders.extend(self.evict(&key));
        }
        orders
    }

    /// These are the next hops of routes now: new ones are asked for, others are no longer pinned.
    pub(crate) fn pin(&mut self, keys: BTreeSet<Key>, now_ms: u64) -> Vec<Order> {
        let old = std::mem::replace(&mut self.pinned, keys);
        let mut orders = Vec::new();
        for key in &self.pinned {
            let entry = self.entries.entry(*key).or_default();
            if !old.contains(key) && !entry.permanent {
                entry.asked_ms = Some(now_ms);
                orders.push(Order::Ask(*key));
            }
        }
        for key in old.difference(&self.pinned) {
            let Some(entry) = self.entries.get(key) else { continue };
            if !entry.host && !entry.permanent {
                orders.push(Order::Forget(*key));
            }
            if entry.mac.is_none() && !entry.host {
                self.entries.remove(key);
            }
        }
        orders
    }

    /// Asks again for everything kept, for kernels that do not keep neighbours alive themselves.
    pub(crate) fn refresh(&self) -> Vec<Order> {
        let kept = self.entries.iter().filter(|(key, entry)| self.is_kept(key) && !entry.permanent);
        kept.map(|(key, _)| Order::Ask(*key)).collect()
    }

    /// Keys the table has beyond `seen`, for comparing with a whole dump of the kernel.
    pub(crate) fn missing_from(&self, seen: &BTreeSet<Key>) -> Vec<Key> {
        self.entries.keys().filter(|key| !seen.contains(key)).copied().collect()
    }

    /// What `compile` sees: everything with a MAC, and what is asked for and has none yet.
    pub(crate) fn list(&self) -> Vec<Neighbor> {
        let shown = self.entries.iter().filter(|(key, entry)| entry.mac.is_some() || self.is_kept(key));
        shown.map(|(&(port, address), entry)| Neighbor { port, address, mac: entry.mac }).collect()
    }

    fn is_kept(&self, key: &Key) -> bool {
        self.pinned.contains(key) || self.entries.get(key).is_some_and(|entry| entry.host)
    }

    fn evict(&mut self, newcomer: &Key) -> Option<Order> {
        if self.hosts <= HOSTS_MAX {
            return None;
        }
        let hosts = self.entries.iter().filter(|(key, entry)| entry.host && *key != newcomer);
        let (&key, _) = hosts.min_by_key(|(_, entry)| (entry.mac.is_some(), entry.asked_ms))?;
        self.give_up(key)
    }

    /// The host is no longer kept for its own sake.
    fn give_up(&mut self, key: Key) -> Option<Order> {
        self.hosts -= 1;
        if self.pinned.contains(&key) {
            self.entries.entry(key).and_modify(|entry| entry.host = false);
            return None;
        }
        self.entries.remove(&key);
        Some(Order::Forget(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn key(last: u8) -> Key {
        (0, IpAddr::from([10, 0, 0, last]))
    }

    fn mac_of(table: &Neighbors, key: Key) -> Option<Option<MacAddr>> {
        table.list().iter().find(|one| (one.port, one.address) == key).map(|one| one.mac)
    }

    #[test]
    fn a_host_asked_for_is_shown_unresolved_then_resolved() {
        let mut table = Neighbors::default();
        assert_eq!(table.ask(key(1), 0), [Order::Ask(key(1))]);
        assert_eq!(mac_of(&table, key(1)), Some(None));
        assert_eq!(table.report(key(1), Report::Usable(MAC), 1), []);
        assert_eq!(mac_of(&table, key(1)), Some(Some(MAC)));
    }

    #[test]
    fn the_kernel_is_not_asked_in_a_hurry() {
        let mut table = Neighbors::default();
        assert_eq!(table.ask(key(1), 1000).len(), 1);
        assert_eq!(table.ask(key(1), 1000 + ASK_INTERVAL_MS - 1), []);
        assert_eq!(table.ask(key(1), 1000 + ASK_INTERVAL_MS).len(), 1);
    }

    #[test]
    fn a_kept_neighbour_outlives_its_deletion_and_loses_its_mac_only_when_failed() {
        let mut table = Neighbors::default();
        table.pin(BTreeSet::from([key(1)]), 0);
        table.report(key(1), Report::Usable(MAC), 1);
        assert_eq!(table.report(key(1), Report::Gone, 2), [Order::Ask(key(1))]);
        table.report(key(1), Report::Incomplete, 3);
        assert_eq!(mac_of(&table, key(1)), Some(Some(MAC)), "asked for again, the old MAC serves on");
        table.report(key(1), Report::Failed, 4);
        assert_eq!(mac_of(&table, key(1)), Some(None));
    }

    #[test]
    fn a_host_that_the_kernel_met_is_kept_alive_until_it_fails_and_nobody_asks() {
        let mut table = Neighbors::default();
        assert_eq!(table.report(key(1), Report::Usable(MAC), 0), [Order::Ask(key(1))]);
        assert_eq!(table.report(key(1), Report::Usable(MAC), 1), [], "once");
        assert_eq!(table.expire(GIVE_UP_AFTER_MS), [], "it answers");
        table.report(key(1), Report::Failed, 2);
        assert_eq!(table.expire(GIVE_UP_AFTER_MS - 1), []);
        assert_eq!(table.expire(GIVE_UP_AFTER_MS), [Order::Forget(key(1))]);
        assert_eq!((table.list(), table.hosts), (Vec::new(), 0));
        assert_eq!(table.report(key(1), Report::Gone, 1), []);
    }

    #[test]
    fn a_neighbour_that_was_never_usable_is_nobodys() {
        let mut table = Neighbors::default();
        table.report(key(1), Report::Incomplete, 0);
        assert_eq!(table.list(), []);
        assert_eq!(table.report(key(1), Report::Gone, 1), []);
    }

    #[test]
    fn permanent_entries_are_never_asked_for() {
        let mut table = Neighbors::default();
        table.report(key(1), Report::Permanent(MAC), 0);
        assert_eq!(table.ask(key(1), 1000), []);
        assert_eq!(table.pin(BTreeSet::from([key(1)]), 1000), []);
        assert_eq!(table.refresh(), []);
    }

    #[test]
    fn unpinned_next_hops_are_forgotten_and_new_ones_asked_for() {
        let mut table = Neighbors::default();
        assert_eq!(table.pin(BTreeSet::from([key(1), key(2)]), 0).len(), 2);
        let orders = table.pin(BTreeSet::from([key(2), key(3)]), 1);
        assert_eq!(orders, [Order::Ask(key(3)), Order::Forget(key(1))]);
    }

    #[test]
    fn hosts_are_bounded_and_those_without_an_answer_go_first() {
        let mut table = Neighbors::default();
        let host = |n: usize| (0, IpAddr::from((0x0a00_0000 + u32::try_from(n).unwrap()).to_be_bytes()));
        for n in 0..HOSTS_MAX {
            table.ask(host(n), n as u64);
            table.report(host(n), if n == 7 { Report::Failed } else { Report::Usable(MAC) }, n as u64);
        }
        let orders = table.ask(host(HOSTS_MAX), 1 << 20);
        assert_eq!(orders, [Order::Ask(host(HOSTS_MAX)), Order::Forget(host(7))]);
        table.report(host(HOSTS_MAX), Report::Usable(MAC), 1 << 20);
        let orders = table.ask(host(HOSTS_MAX + 1), 2 << 20);
        assert_eq!(orders[1], Order::Forget(host(0)), "then the oldest");
        assert_eq!(table.list().len(), HOSTS_MAX);
    }
}
