//! Who holds which address: those it was given to, and those whose status still names it. An address is free when nobody
//! does; it may be given to a second one only if all who hold it can share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::wish::Share;
use crate::model::ObjectKey;

/// One Service's part of the addresses.
#[derive(Clone, Debug, Default)]
struct Part {
    given: BTreeSet<IpAddr>,
    named: BTreeSet<IpAddr>,
    share: Option<Share>,
    /// Whether the Service was seen since the start; until then nobody knows with whom it shares.
    seen: bool,
}

/// All parts, by Service and by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    parts: BTreeMap<ObjectKey, Part>,
    at: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    /// Addresses given to Services with a sharing key, by the key.
    shared: HashMap<String, BTreeSet<IpAddr>>,
}

/// What an address is wanted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum For {
    /// To be given: whoever holds it counts, and no port may be another's.
    Giving,
    /// To be kept: only those count that were given it and seen, since what a status names may be about to change; and of
    /// a port that two ask for the older one has it, but neither loses the address with its other ports.
    Keeping,
}

impl Holders {
    /// What a Service was given.
    pub(super) fn given(&self, key: &ObjectKey) -> impl Iterator<Item = IpAddr> {
        self.parts.get(key).into_iter().flat_map(|part| &part.given).copied()
    }

    /// What a Service's status names.
    pub(super) fn named(&self, key: &ObjectKey) -> impl Iterator<Item = IpAddr> {
        self.parts.get(key).into_iter().flat_map(|part| &part.named).copied()
    }

    /// Every Service that was given something.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ObjectKey, &BTreeSet<IpAddr>)> {
        self.parts.iter().map(|(key, part)| (key, &part.given)).filter(|(_, given)| !given.is_empty())
    }

    /// Whether somebody holds an address.
    pub(super) fn is_held(&self, address: IpAddr) -> bool {
        self.at.contains_key(&address)
    }

    /// Whether somebody was given an address.
    pub(super) fn is_given(&self, address: IpAddr) -> bool {
        self.at
            .get(&address)
            .is_some_and(|keys| keys.iter().any(|key| self.parts[key].given.contains(&address)))
    }

    /// Who holds an address and cannot share it with this Service, and why not.
    pub(super) fn conflict(
        &self,
        address: IpAddr,
        key: &ObjectKey,
        share: Option<&Share>,
        what: For,
    ) -> Option<(&ObjectKey, &'static str)> {
        let others = self.at.get(&address).into_iter().flatten().filter(|other| *other != key);
        others
            .filter(|other| {
                let part = &self.parts[other];
                what == For::Giving || (part.seen && part.given.contains(&address))
            })
            .find_map(|other| {
                let theirs = self.parts[other].share.as_ref();
                let clash = match what {
                    For::Giving => Share::clash(share, theirs),
                    For::Keeping => Share::parts(share, theirs),
                };
                Some((other, clash?))
            })
    }

    /// Addresses that Services with a sharing key have, lowest first.
    pub(super) fn shared(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        self.shared.get(key).into_iter().flatten().copied()
    }

    /// What a Service's status names and with whom it shares, from now on; true when an address or a port of one became
    /// free.
    pub(super) fn describe(
        &mut self,
        key: &ObjectKey,
        named: BTreeSet<IpAddr>,
        share: Option<Share>,
    ) -> bool {
        let old = self.parts.get(key).cloned().unwrap_or_default();
        let reshared = old.share != share && !old.given.is_empty();
        let new = Part { given: old.given.clone(), named, share, seen: true };
        self.replace(key, &old, new) || reshared
    }

    /// What a Service has from now on; true when an address became free.
    pub(super) fn give(&mut self, key: &ObjectKey, given: BTreeSet<IpAddr>) -> bool {
        let old = self.parts.get(key).cloned().unwrap_or_default();
        let new = Part { given, ..old.clone() };
        self.replace(key, &old, new)
    }

    fn replace(&mut self, key: &ObjectKey, old: &Part, new: Part) -> bool {
        if let Some(share) = &old.share {
            old.given.iter().for_each(|address| self.unshare(key, &share.key, *address));
        }
        if let Some(share) = new.share.as_ref().filter(|_| !new.given.is_empty()) {
            self.shared.entry(share.key.clone()).or_default().extend(&new.given);
        }
        let held = |part: &Part| -> BTreeSet<IpAddr> { part.given.union(&part.named).copied().collect() };
        let (before, after) = (held(old), held(&new));
        for address in after.difference(&before) {
            self.at.entry(*address).or_default().insert(key.clone());
        }
        for address in before.difference(&after) {
            let keys = self.at.get_mut(address).expect("who holds an address is listed there");
            keys.remove(key);
            if keys.is_empty() {
                self.at.remove(address);
            }
        }
        if after.is_empty() && new.share.is_none() {
            self.parts.remove(key);
        } else {
            self.parts.insert(key.clone(), new);
        }
        !before.is_subset(&after)
    }

    fn unshare(&mut self, key: &ObjectKey, sharing_key: &str, address: IpAddr) {
        let shares = |other: &ObjectKey| {
            let part = &self.parts[other];
            part.given.contains(&address) && part.share.as_ref().is_some_and(|share| share.key == sharing_key)
        };
        let others = self.at.get(&address).into_iter().flatten().any(|other| other != key && shares(other));
        if let Some(addresses) = self.shared.get_mut(sharing_key).filter(|_| !others) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.shared.remove(sharing_key);
            }
        }
    }
}
