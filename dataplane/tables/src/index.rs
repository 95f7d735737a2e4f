//! From what a packet is addressed to, to the Service port that answers there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{Family, Protocol};

use crate::{ServiceId, sharded::Sharded};

/// How a packet reached a Service.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FrontendKind {
    /// spec.clusterIPs.
    ClusterIp,
    /// spec.externalIPs.
    ExternalIp,
    /// status.loadBalancer.ingress.
    LoadBalancer,
    /// A nodePort on one of the appliance's addresses.
    NodePort,
}

impl FrontendKind {
    /// The name in traces: `ClusterIP`, `ExternalIP`, `LoadBalancer`, `NodePort`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
        }
    }
}

/// A Service port and the way to it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Frontend {
    /// The Service port.
    pub service: ServiceId,
    /// How it was reached.
    pub kind: FrontendKind,
}

/// Where a frontend is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FrontendKey {
    /// A clusterIP, externalIP or load-balancer address.
    pub address: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The Service's port number.
    pub port: u16,
}

/// Every frontend: VIPs by (address, protocol, port), nodePorts by (family, protocol, port). A clone shares all of it, an
/// edit copies one shard.
#[derive(Clone, Debug, Default)]
pub struct Index {
    v4: Sharded<(Ipv4Addr, u16, Protocol), Frontend>,
    v6: Sharded<(Ipv6Addr, u16, Protocol), Frontend>,
    node_ports: Sharded<(Family, u16, Protocol), Frontend>,
}

impl Index {
    /// The Service port at a VIP.
    #[inline]
    #[must_use]
    pub fn vip(&self, address: IpAddr, protocol: Protocol, port: u16) -> Option<Frontend> {
        match address {
            IpAddr::V4(address) => self.v4.get((address, port, protocol)),
            IpAddr::V6(address) => self.v6.get((address, port, protocol)),
        }
        .copied()
    }

    /// The Service port of a nodePort.
    #[inline]
    #[must_use]
    pub fn node_port(&self, family: Family, protocol: Protocol, port: u16) -> Option<Frontend> {
        self.node_ports.get((family, port, protocol)).copied()
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes() + self.node_ports.heap_bytes()
    }

    /// Sets who answers at a VIP; gives back who did.
    pub fn insert_vip(&mut self, key: FrontendKey, frontend: Frontend) -> Option<Frontend> {
        match key.address {
            IpAddr::V4(address) => self.v4.insert((address, key.port, key.protocol), frontend),
            IpAddr::V6(address) => self.v6.insert((address, key.port, key.protocol), frontend),
        }
    }

    /// Nobody answers at this VIP any more; gives back who did.
    pub fn remove_vip(&mut self, key: FrontendKey) -> Option<Frontend> {
        match key.address {
            IpAddr::V4(address) => self.v4.remove((address, key.port, key.protocol)),
            IpAddr::V6(address) => self.v6.remove((address, key.port, key.protocol)),
        }
    }

    /// Sets the Service port of a nodePort; gives back the one it had.
    pub fn insert_node_port(
        &mut self,
        family: Family,
        protocol: Protocol,
        port: u16,
        service: ServiceId,
    ) -> Option<Frontend> {
        self.node_ports.insert((family, port, protocol), Frontend { service, kind: FrontendKind::NodePort })
    }

    /// The nodePort is nobody's any more; gives back whose it was.
    pub fn remove_node_port(&mut self, family: Family, protocol: Protocol, port: u16) -> Option<Frontend> {
        self.node_ports.remove((family, port, protocol))
    }

    /// Every VIP frontend, in no order.
    pub fn vips(&self) -> impl Iterator<Item = (FrontendKey, Frontend)> {
        let v4 =
            self.v4.iter().map(|((address, port, protocol), at)| (IpAddr::from(address), port, protocol, at));
        let v6 =
            self.v6.iter().map(|((address, port, protocol), at)| (IpAddr::from(address), port, protocol, at));
        v4.chain(v6).map(|(address, port, protocol, at)| (FrontendKey { address, protocol, port }, at))
    }

    /// Every nodePort with its family, in no order.
    pub fn node_ports(&self) -> impl Iterator<Item = (Family, u16, Frontend)> {
        self.node_ports.iter().map(|((family, port, _), at)| (family, port, at))
    }

    /// VIP frontends and nodePorts together.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.node_ports.len()
    }

    /// True without any frontend.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shards that edits since `older` have copied.
    #[must_use]
    pub fn shards_changed_since(&self, older: &Self) -> usize {
        self.v4.shards_changed_since(&older.v4)
            + self.v6.shards_changed_since(&older.v6)
            + self.node_ports.shards_changed_since(&older.node_ports)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    #[test]
    fn protocol_port_and_family_all_count() {
        let mut index = Index::default();
        let service = ServiceId::new(1, 0).unwrap();
        let frontend = Frontend { service, kind: FrontendKind::LoadBalancer };
        for address in ["1.2.3.4", "2001:db8::1"] {
            let key = FrontendKey { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
            assert_eq!(index.insert_vip(key, frontend), None);
            assert_eq!(index.vip(key.address, Protocol::Tcp, 80), Some(frontend));
            assert_eq!(index.vip(key.address, Protocol::Udp, 80), None);
            assert_eq!(index.vip(key.address, Protocol::Tcp, 81), None);
        }
        index.insert_node_port(Family::V4, Protocol::Tcp, 30_080, service);
        assert_eq!(
            index.node_port(Family::V4, Protocol::Tcp, 30_080).map(|f| f.kind),
            Some(FrontendKind::NodePort)
        );
        assert_eq!(index.node_port(Family::V6, Protocol::Tcp, 30_080), None);
        assert_eq!((index.len(), index.vips().count()), (3, 2));
        for (key, _) in index.clone().vips() {
            assert_eq!(index.remove_vip(key), Some(frontend));
        }
        let node_ports: Vec<_> = index.node_ports().map(|(family, port, _)| (family, port)).collect();
        assert_eq!(node_ports, [(Family::V4, 30_080)]);
        assert!(index.remove_node_port(Family::V4, Protocol::Tcp, 30_080).is_some() && index.is_empty());
    }

    proptest! {
        /// Few addresses and ports, so that keys differ in one part and share the others.
        #[test]
        fn equals_a_map(edits in vec((select(KEYS.to_vec()), 0u16..3, select(Protocol::ALL.to_vec()), any::<Option<u8>>()), 0..80)) {
            let (mut index, mut model) = (Index::default(), HashMap::new());
            for (address, port, protocol, edit) in edits {
                let key = FrontendKey { address: address.parse().unwrap(), protocol, port };
                match edit {
                    Some(slot) => {
                        let service = ServiceId::new(slot.into(), 0).unwrap();
                        let frontend = Frontend { service, kind: FrontendKind::ExternalIp };
                        prop_assert_eq!(index.insert_vip(key, frontend), model.insert(key, frontend));
                    }
                    None => prop_assert_eq!(index.remove_vip(key), model.remove(&key)),
                }
            }
            for (address, port) in KEYS.iter().flat_map(|address| (0..3).map(move |port| (address, port))) {
                for protocol in Protocol::ALL {
                    let key = FrontendKey { address: address.parse().unwrap(), protocol, port };
                    prop_assert_eq!(index.vip(key.address, protocol, port), model.get(&key).copied());
                }
            }
            prop_assert_eq!(index.vips().collect::<HashMap<_, _>>(), model);
        }
    }

    const KEYS: [&str; 5] = ["0.0.0.1", "1.0.0.0", "::1", "::", "::ffff:0.0.0.1"];
}
