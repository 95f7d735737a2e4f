//! Which way a destination lies.

use std::{net::IpAddr, sync::Arc};

use crate::{Lpm, NextHopId, PortId, hash::choice, sharded::Sharded};

/// What to do with a packet for a destination.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Route {
    /// Refuse it (blackhole, unreachable, prohibit).
    Blackhole,
    /// On this port's own segment, but its neighbour has no next hop yet: ask control to resolve it.
    Connected(PortId),
    /// An address of the appliance: the kernel's.
    Local,
    /// Over one of several next hops, by this place in [`Fib::spreads`]; [`Fib::lookup`] never gives it.
    Spread(u16),
    /// Send it to this next hop.
    Via(NextHopId),
}

/// Next hops that share a prefix's flows: each flow has one of them by rendezvous, so that of the flows only those of a
/// hop that goes, or is taken by a hop that comes, change theirs. Every appliance with these next hops decides alike.
/// Source: Thaler and Ravishankar's highest random weight.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spread {
    /// Each with a number that its address alone determines.
    hops: Box<[(NextHopId, u64)]>,
}

impl Spread {
    /// Next hops of one prefix may be so many.
    pub const HOPS_MAX: usize = 16;

    /// A set of next hops; those beyond [`Spread::HOPS_MAX`] are left out.
    #[must_use]
    pub fn new(hops: impl IntoIterator<Item = (NextHopId, IpAddr)>) -> Self {
        let named = hops.into_iter().map(|(hop, address)| (hop, choice::name(address)));
        Self { hops: named.take(Self::HOPS_MAX).collect() }
    }

    /// The next hop of a flow; `None` of an empty set.
    #[must_use]
    pub fn choose(&self, flow: u64) -> Option<NextHopId> {
        let score = |(_, name): &&(NextHopId, u64)| (choice::score(flow, *name), *name);
        self.hops.iter().max_by_key(score).map(|(hop, _)| *hop)
    }
}

/// Routes by longest prefix, and single hosts (neighbours on connected segments) by hash before them: a neighbour that
/// comes or goes copies one shard and rebuilds no trie.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    hosts: Sharded<IpAddr, Route>,
    /// Routes; replaced as a whole when one changes.
    pub routes: Arc<Lpm<Route>>,
    /// The sets of next hops that routes share.
    pub spreads: Arc<[Spread]>,
}

impl Fib {
    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let hops: usize = self.spreads.iter().map(|spread| size_of_val(&*spread.hops)).sum();
        self.hosts.heap_bytes() + self.routes.heap_bytes() + size_of_val(&*self.spreads) + hops
    }

    /// The way to `destination`; `None` if there is none. Where there are several next hops, `hash` of the packet's flow
    /// says which.
    #[inline]
    #[must_use]
    pub fn lookup(&self, destination: IpAddr, hash: impl FnOnce() -> u64) -> Option<Route> {
        let found = self.hosts.get(destination).copied().or_else(|| self.routes.lookup(destination));
        match found {
            Some(Route::Spread(set)) => {
                self.spreads.get(usize::from(set)).and_then(|set| set.choose(hash())).map(Route::Via)
            }
            found => found,
        }
    }

    /// Sets the way to one host, before every prefix; gives back the one it had.
    pub fn insert_host(&mut self, host: IpAddr, route: Route) -> Option<Route> {
        self.hosts.insert(host, route)
    }

    /// The host follows the prefixes again; gives back its own way.
    pub fn remove_host(&mut self, host: IpAddr) -> Option<Route> {
        self.hosts.remove(host)
    }

    /// Every host with a way of its own, in no order.
    pub fn hosts(&self) -> impl Iterator<Item = (IpAddr, Route)> {
        self.hosts.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_before_prefixes() {
        let routes = [
            ("0.0.0.0/0".parse().unwrap(), Route::Via(NextHopId(1))),
            ("10.0.0.0/24".parse().unwrap(), Route::Connected(PortId(0))),
        ];
        let mut fib = Fib { routes: Arc::new(Lpm::build(routes)), ..Fib::default() };
        let host: IpAddr = "10.0.0.11".parse().unwrap();
        assert_eq!(fib.lookup(host, || 0), Some(Route::Connected(PortId(0))));
        fib.insert_host(host, Route::Via(NextHopId(7)));
        assert_eq!(fib.lookup(host, || 0), Some(Route::Via(NextHopId(7))));
        assert_eq!(fib.lookup("10.0.1.1".parse().unwrap(), || 0), Some(Route::Via(NextHopId(1))));
        assert_eq!(fib.lookup("2001:db8::1".parse().unwrap(), || 0), None);
        assert_eq!(fib.remove_host(host), Some(Route::Via(NextHopId(7))));
        assert_eq!(fib.lookup(host, || 0), Some(Route::Connected(PortId(0))));
    }

    fn spread(addresses: &[u8]) -> Spread {
        Spread::new(addresses.iter().map(|&last| (NextHopId(last.into()), IpAddr::from([10, 0, 0, last]))))
    }

    fn flows() -> impl Iterator<Item = u64> {
        (1..20_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn several_next_hops_share_flows_evenly_whatever_their_order() {
        let (set, other) = (spread(&[1, 2, 3, 4]), spread(&[4, 2, 1, 3]));
        let mut counts = [0; 5];
        for flow in flows() {
            let hop = set.choose(flow).unwrap();
            assert_eq!(other.choose(flow), Some(hop));
            counts[hop.index()] += 1;
        }
        assert!(counts[1..].iter().all(|count| (4_700..5_300).contains(count)), "{counts:?}");
        assert_eq!(spread(&[]).choose(7), None);
    }

    #[test]
    fn a_next_hop_that_goes_moves_its_own_flows_only() {
        let (all, fewer) = (spread(&[1, 2, 3, 4]), spread(&[1, 3, 4]));
        for flow in flows() {
            let before = all.choose(flow).unwrap();
            assert!(before == NextHopId(2) || fewer.choose(flow) == Some(before));
        }
    }

    #[test]
    fn a_route_over_a_set_gives_one_of_its_hops() {
        let routes =
            [("10.0.0.0/8".parse().unwrap(), Route::Spread(0)), ("::/0".parse().unwrap(), Route::Spread(1))];
        let spreads = [spread(&[5, 6])].into();
        let fib = Fib { routes: Arc::new(Lpm::build(routes)), spreads, ..Fib::default() };
        let to = "10.1.2.3".parse().unwrap();
        let found: std::collections::HashSet<_> = (0..64).map(|flow| fib.lookup(to, || flow)).collect();
        assert_eq!(found, [5, 6].map(|hop| Some(Route::Via(NextHopId(hop)))).into());
        assert_eq!(fib.lookup("2001:db8::1".parse().unwrap(), || 0), None, "a set that is not there");
    }
}
