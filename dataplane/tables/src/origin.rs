//! Back from an endpoint of a dnat Service to what its clients see of it: the answer to "whose reply is this?" where no
//! flow says so. Only endpoints that clients outside reach without their address being replaced are in here; of all
//! others a reply comes to an address of the appliance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use packet::Protocol;

use crate::{BackendId, FrontendKind, sharded::Sharded};

/// Where the clients of an endpoint came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// One of the names that the endpoint has as a backend.
    pub backend: BackendId,
    /// The only frontend that its clients outside come by; `None` where there are several, or none that can be named.
    pub vip: Option<SocketAddr>,
}

impl Origin {
    /// The frontend that clients outside come by, if it is one. They are told load-balancer addresses and externalIPs; a
    /// clusterIP counts where there is none of these. A nodePort is never named: it is at the appliance's own addresses.
    #[must_use]
    pub fn sole_vip(
        frontends: impl Iterator<Item = (FrontendKind, SocketAddr)> + Clone,
    ) -> Option<SocketAddr> {
        let only = |is: fn(FrontendKind) -> bool| {
            let mut those = frontends.clone().filter(|(kind, _)| is(*kind)).map(|(_, at)| at);
            let first = those.next()?;
            Some(those.all(|other| other == first).then_some(first))
        };
        only(|kind| matches!(kind, FrontendKind::ExternalIp | FrontendKind::LoadBalancer))
            .or_else(|| only(|kind| kind == FrontendKind::ClusterIp))
            .flatten()
    }
}

/// [`Origin`]s by the endpoint's address, port and protocol. A clone shares all of it, an edit copies one shard.
#[derive(Clone, Debug)]
pub struct Origins {
    v4: Sharded<(Ipv4Addr, u16, Protocol), Origin>,
    v6: Sharded<(Ipv6Addr, u16, Protocol), Origin>,
    /// One bit for each port that some endpoint has, or had: most packets are told from an endpoint's by that.
    ports: Arc<[u64; 1024]>,
}

impl Origins {
    /// What is known of an endpoint.
    #[inline]
    #[must_use]
    pub fn get(&self, address: IpAddr, protocol: Protocol, port: u16) -> Option<Origin> {
        if self.ports[usize::from(port >> 6)] >> (port & 63) & 1 == 0 {
            return None;
        }
        match address {
            IpAddr::V4(address) => self.v4.get((address, port, protocol)),
            IpAddr::V6(address) => self.v6.get((address, port, protocol)),
        }
        .copied()
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes() + size_of_val(&*self.ports)
    }

    /// Sets what is known of an endpoint; gives back what was.
    pub fn insert(&mut self, at: SocketAddr, protocol: Protocol, origin: Origin) -> Option<Origin> {
        let (word, bit) = (usize::from(at.port() >> 6), 1 << (at.port() & 63));
        if self.ports[word] & bit == 0 {
            Arc::make_mut(&mut self.ports)[word] |= bit;
        }
        match at.ip() {
            IpAddr::V4(address) => self.v4.insert((address, at.port(), protocol), origin),
            IpAddr::V6(address) => self.v6.insert((address, at.port(), protocol), origin),
        }
    }

    /// Nothing is known of the endpoint any more; gives back what was.
    pub fn remove(&mut self, at: SocketAddr, protocol: Protocol) -> Option<Origin> {
        match at.ip() {
            IpAddr::V4(address) => self.v4.remove((address, at.port(), protocol)),
            IpAddr::V6(address) => self.v6.remove((address, at.port(), protocol)),
        }
    }

    /// Endpoints of which something is known.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// True without any.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Origins {
    fn default() -> Self {
        Self { v4: Sharded::new(), v6: Sharded::new(), ports: Arc::new([0; 1024]) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("address:port")
    }

    #[test]
    fn what_clients_are_told_is_named_if_it_is_one() {
        use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
        let (cluster, lb, external) = (at("10.96.0.1:80"), at("203.0.113.1:80"), at("198.51.100.1:80"));
        let node_port = (NodePort, at("192.0.2.1:30080"));
        for (frontends, sole) in [
            (vec![], None),
            (vec![node_port], None),
            (vec![(ClusterIp, cluster)], Some(cluster)),
            (vec![(ClusterIp, cluster), (LoadBalancer, lb), node_port], Some(lb)),
            (vec![(ExternalIp, external), (ClusterIp, cluster)], Some(external)),
            (vec![(ExternalIp, external), (LoadBalancer, lb)], None),
            (vec![(LoadBalancer, lb), (LoadBalancer, lb)], Some(lb)),
            (vec![(LoadBalancer, lb), (LoadBalancer, at("203.0.113.1:443"))], None),
            (vec![(ClusterIp, cluster), (ClusterIp, at("10.96.0.2:80"))], None),
        ] {
            assert_eq!(Origin::sole_vip(frontends.iter().copied()), sole, "{frontends:?}");
        }
    }

    proptest! {
        /// Ports that share a word of the bits, and ends that differ in one part only.
        #[test]
        fn equals_a_map(edits in vec((select(ENDS.to_vec()), select(Protocol::ALL.to_vec()), any::<Option<u8>>()), 0..60)) {
            let (mut origins, mut model) = (Origins::default(), HashMap::new());
            for (end, protocol, edit) in edits {
                let end = at(end);
                match edit {
                    Some(slot) => {
                        let backend = BackendId::new(slot.into(), 0).expect("a small slot");
                        let origin = Origin { backend, vip: (slot % 2 == 0).then_some(end) };
                        prop_assert_eq!(origins.insert(end, protocol, origin), model.insert((end, protocol), origin));
                    }
                    None => prop_assert_eq!(origins.remove(end, protocol), model.remove(&(end, protocol))),
                }
            }
            prop_assert_eq!((origins.len(), origins.is_empty()), (model.len(), model.is_empty()));
            for (end, protocol) in ENDS.iter().flat_map(|end| Protocol::ALL.map(|protocol| (at(end), protocol))) {
                prop_assert_eq!(origins.get(end.ip(), protocol, end.port()), model.get(&(end, protocol)).copied());
            }
        }
    }

    const ENDS: [&str; 6] = ["0.0.0.1:1", "0.0.0.1:64", "1.0.0.0:65", "[::1]:1", "[::]:65535", "[::1]:65535"];
}
