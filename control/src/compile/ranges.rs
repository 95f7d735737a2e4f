//! Who may use a Service's load balancer addresses: `loadBalancerSourceRanges`. Equal ranges share one table.

use std::sync::{Arc, Weak};

use packet::Family;
use tables::{FrontendKind, Lpm, Prefix};

use super::Compiler;
use super::cluster::{prefix, set_of};
use super::service::Work;

impl Compiler {
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
