//! Whose every address is: the ports' own, and those of Services with who answers ARP and ping for them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tables::{AddressInfo, AddressKind, PortAddress, PortId, PortInfo, PortSet};

use super::Compiler;
use super::cluster::prefix;
use super::frontends::unusable;
use crate::network::Network;

impl Compiler {
    pub(super) fn compile_own_addresses(&mut self) {
        let mut own = BTreeMap::new();
        for port in &self.network.ports {
            let id = PortId(port.index);
            // A kernel mirror answers for its port; two answers would confuse caches.
            let mirrored = self.settings.mirrored.contains(&port.name);
            for net in &port.addresses {
                let info = AddressInfo {
                    kind: AddressKind::Own(id),
                    answer_arp: if mirrored { PortSet::NONE } else { PortSet::of(id) },
                    usable: true,
                    node_ports: self.serves_node_ports(net.addr()),
                };
                own.entry(net.addr()).or_insert(info);
            }
        }
        for address in self.own.keys().filter(|address| !own.contains_key(*address)) {
            self.tables.addresses.remove(*address);
            self.dirty.addresses.insert(*address);
        }
        for (address, info) in &own {
            self.tables.addresses.insert(*address, *info);
        }
        // A link-local address cannot be bound without its link, and no load balancer is told of it.
        let asked = |at: IpAddr, info: &AddressInfo| {
            info.answer_arp == PortSet::NONE && info.node_ports && unusable(at).is_none()
        };
        self.set_health_addresses(
            own.iter().filter(|(at, info)| asked(**at, info)).map(|(at, _)| *at).collect(),
        );
        self.own = own;
    }

    /// A list of one family leaves the other family unrestricted (E5).
    fn serves_node_ports(&self, address: IpAddr) -> bool {
        let mut family =
            self.settings.node_port_addresses.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4());
        let mut restricted = false;
        family.any(|net| {
            restricted = true;
            net.contains(&address)
        }) || !restricted
    }

    /// Says of every touched service address whose it is and whether anybody usable stands behind it.
    pub(super) fn settle_addresses(&mut self) {
        for address in std::mem::take(&mut self.dirty.addresses) {
            if self.own.contains_key(&address) {
                continue;
            }
            let Some(uses) = self.vips.get(&address) else {
                self.tables.addresses.remove(address);
                continue;
            };
            let kind = uses.values().map(|(kind, _)| *kind).min_by_key(|kind| precedence(*kind));
            let kind = kind.expect("an address without uses is taken out of the map");
            let info = AddressInfo {
                kind,
                answer_arp: self.answered_on(kind, address),
                usable: uses.values().any(|(_, usable)| *usable),
                node_ports: false,
            };
            self.tables.addresses.insert(address, info);
        }
    }

    /// clusterIPs are reached by routes; other addresses are answered on the segment they belong to, or, when they are
    /// in no connected network, wherever somebody asks.
    fn answered_on(&self, kind: AddressKind, address: IpAddr) -> PortSet {
        if kind == AddressKind::ClusterIp {
            return PortSet::NONE;
        }
        let connected =
            self.tables.ports().iter().filter(|port| port.is_connected(address)).map(|port| port.id);
        let set: PortSet = connected.collect();
        let near = if set == PortSet::NONE { PortSet::ALL } else { set };
        // Nobody is called to a port that would not serve him.
        self.tables
            .ports()
            .iter()
            .filter(|port| port.serves.vip && near.contains(port.id))
            .map(|port| port.id)
            .collect()
    }
}

/// A clusterIP outranks the others, because its unknown ports are rejected.
fn precedence(kind: AddressKind) -> u8 {
    match kind {
        AddressKind::Own(_) => 0,
        AddressKind::ClusterIp => 1,
        AddressKind::LoadBalancer => 2,
        AddressKind::ExternalIp => 3,
    }
}

/// The ports of the network as tables know them.
pub(super) fn ports(network: &Network) -> Vec<PortInfo> {
    let address = |net: &ipnet::IpNet| PortAddress { address: net.addr(), network: prefix(*net) };
    let port = |port: &crate::network::NetworkPort| PortInfo {
        vlan: port.vlan,
        id: PortId(port.index),
        name: port.name.clone(),
        mac: port.mac,
        mtu: port.mtu,
        mss: port.mss_clamp,
        serves: port.serves,
        addresses: port.addresses.iter().map(address).collect(),
    };
    network.ports.iter().map(port).collect()
}
