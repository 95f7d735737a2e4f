//! Who may use a Service: its load balancer addresses by `loadBalancerSourceRanges`, all of it by the lists of its annotations.
//! Equal ranges and lists share one table.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use packet::Family;
use tables::{Access, FrontendKind, Lpm, Prefix};

use super::Compiler;
use super::cluster::{prefix, set_of};
use super::service::Work;
use crate::model::Service;

/// Lists in use, by what they say: prefixes with whether they are let in, and whether all others are.
pub(super) type AccessCache = HashMap<(Box<[(Prefix, bool)]>, bool), Weak<Access>>;

impl Compiler {
    /// Who may use the Service, by its lists; none when everybody.
    pub(super) fn access(&mut self, service: &Service) -> Option<Arc<Access>> {
        let others = service.allow.is_none();
        if others && service.deny.is_empty() {
            return None;
        }
        let allowed = service.allow.iter().flatten().map(|net| (prefix(*net), true));
        let mut lists: Vec<_> = allowed.chain(service.deny.iter().map(|net| (prefix(*net), false))).collect();
        // Denied comes first of what is in both, and is kept.
        lists.sort_unstable();
        lists.dedup_by_key(|(prefix, _)| *prefix);
        let key = (lists.into_boxed_slice(), others);
        if let Some(shared) = self.lists.get(&key).and_then(Weak::upgrade) {
            return Some(shared);
        }
        self.lists.retain(|_, access| access.strong_count() > 0);
        let access = Arc::new(Access { lists: key.0.iter().copied().collect(), others });
        self.lists.insert(key, Arc::downgrade(&access));
        Some(access)
    }

    /// Who may use the load balancer addresses of one family; none when everybody (J6, S7).
    pub(super) fn source_ranges(&mut self, work: &Work<'_>) -> Option<Arc<Lpm<()>>> {
        let of_family = |net: &&ipnet::IpNet| Family::of(net.addr()) == work.family;
        let mut ranges: Vec<_> =
            work.service.source_ranges.iter().filter(of_family).map(|net| prefix(*net)).collect();
        if ranges.is_empty() || ranges.iter().any(|range| range.length() == 0) {
            return None;
        }
        // A Node that talks to its own bound VIP has that VIP as source (J5).
        let this_node =
            |range: &Prefix| self.cluster.this_addresses.iter().any(|address| range.contains(*address));
        if ranges.iter().any(this_node) {
            let balanced = work.wanted.granted.iter().filter(|(_, kind)| *kind == FrontendKind::LoadBalancer);
            ranges.extend(balanced.map(|(address, _)| Prefix::host(*address)));
        }
        ranges.sort_unstable();
        ranges.dedup();
        let ranges = ranges.into_boxed_slice();
        if let Some(shared) = self.ranges.get(&ranges).and_then(Weak::upgrade) {
            return Some(shared);
        }
        self.ranges.retain(|_, lpm| lpm.strong_count() > 0);
        let lpm = Arc::new(set_of(&ranges));
        self.ranges.insert(ranges, Arc::downgrade(&lpm));
        Some(lpm)
    }
}
