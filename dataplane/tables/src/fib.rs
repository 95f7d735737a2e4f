//! Which way a destination lies.

use std::{net::IpAddr, sync::Arc};

use crate::{Lpm, NextHopId, PortId, sharded::Sharded};

/// What to do with a packet for a destination.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Route {
    /// Refuse it (blackhole, unreachable, prohibit).
    Blackhole,
    /// On this port's own segment, but its neighbour has no next hop yet: ask control to resolve it.
    Connected(PortId),
    /// An address of the appliance: the kernel's.
    Local,
    /// Send it to this next hop.
    Via(NextHopId),
}

/// Routes by longest prefix, and single hosts (neighbours on connected segments) by hash before them: a neighbour that
/// comes or goes copies one shard and rebuilds no trie.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    hosts: Sharded<IpAddr, Route>,
    /// Routes; replaced as a whole when one changes.
    pub routes: Arc<Lpm<Route>>,
}

impl Fib {
    /// The way to `destination`; `None` if there is none.
    #[inline]
    #[must_use]
    pub fn lookup(&self, destination: IpAddr) -> Option<Route> {
        self.hosts.get(destination).copied().or_else(|| self.routes.lookup(destination))
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
        assert_eq!(fib.lookup(host), Some(Route::Connected(PortId(0))));
        fib.insert_host(host, Route::Via(NextHopId(7)));
        assert_eq!(fib.lookup(host), Some(Route::Via(NextHopId(7))));
        assert_eq!(fib.lookup("10.0.1.1".parse().unwrap()), Some(Route::Via(NextHopId(1))));
        assert_eq!(fib.lookup("2001:db8::1".parse().unwrap()), None);
        assert_eq!(fib.remove_host(host), Some(Route::Via(NextHopId(7))));
        assert_eq!(fib.lookup(host), Some(Route::Connected(PortId(0))));
    }
}
