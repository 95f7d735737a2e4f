//! Kernel messages in our words. Pure; what does not concern our ports decodes to nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::MacAddr;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteType, RouteVia,
};

use super::neighbors::{Key, Report};
use crate::network::{NetworkRoute, RouteHop};

/// Kernel interface index -> port index.
pub(crate) type Links = BTreeMap<u32, u16>;

/// A neighbour on one of our ports.
pub(crate) fn neighbour(message: &NeighbourMessage, links: &Links) -> Option<(Key, Report)> {
    let port = *links.get(&message.header.ifindex)?;
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(MacAddr)
            }
            _ => {}
        }
    }
    let address = address.filter(|address| !address.is_multicast())?;
    let report = match (message.header.state, mac) {
        (NeighbourState::Permanent, Some(mac)) => Report::Permanent(mac),
        (NeighbourState::Failed, _) => Report::Failed,
        (
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Noarp,
            Some(mac),
        ) => Report::Usable(mac),
        _ => Report::Incomplete,
    };
    Some(((port, address), report))
}

/// The protocol number of the routes that the mirror gives the kernel (`ip route` shows `proto 70`). Unassigned in
/// `rtnetlink.h`; what we told the kernel is never taken back from it.
pub(crate) const OUR_ROUTES: RouteProtocol = RouteProtocol::Other(70);

/// A route of the main table that leads over one of our ports, or nowhere. Connected subnets are not listed: they follow
/// from the ports' addresses; nor are our own. Several next hops are as many routes: those alive.
pub(crate) fn route(message: &RouteMessage, links: &Links) -> Vec<NetworkRoute> {
    routes(message, links).unwrap_or_default()
}

fn routes(message: &RouteMessage, links: &Links) -> Option<Vec<NetworkRoute>> {
    let header = &message.header;
    let mut facts = Facts { table: u32::from(header.table), ..Facts::default() };
    message.attributes.iter().for_each(|attribute| facts.add(attribute));
    let derived = [RouteProtocol::Kernel, OUR_ROUTES].contains(&header.protocol);
    if facts.table != u32::from(RouteHeader::RT_TABLE_MAIN) || derived {
        return None;
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let to = IpNet::new(facts.to.unwrap_or(unspecified), header.destination_prefix_length).ok()?;
    let hops = match header.kind {
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => vec![RouteHop::Blackhole],
        RouteType::Unicast => facts.hops(links)?,
        _ => return None,
    };
    let route = |hop| NetworkRoute { to: to.trunc(), hop, metric: facts.metric };
    Some(hops.into_iter().map(route).collect())
}

/// An address of one of our ports.
pub(crate) fn address(message: &AddressMessage, links: &Links) -> Option<(u16, IpNet)> {
    let port = *links.get(&message.header.index)?;
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok().map(|net| (port, net))
}

#[derive(Default)]
struct Facts {
    table: u32,
    to: Option<IpAddr>,
    gateway: Option<IpAddr>,
    link: Option<u32>,
    metric: u32,
    hops: Vec<RouteNextHop>,
}

impl Facts {
    fn add(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Destination(address) => self.to = ip(address),
            RouteAttribute::Gateway(address) => self.gateway = ip(address),
            RouteAttribute::Via(via) => self.gateway = via_ip(via),
            RouteAttribute::Oif(link) => self.link = Some(*link),
            RouteAttribute::Priority(metric) => self.metric = *metric,
            RouteAttribute::MultiPath(hops) => self.hops.clone_from(hops),
            _ => {}
        }
    }

    fn hops(&self, links: &Links) -> Option<Vec<RouteHop>> {
        if self.hops.is_empty() {
            let port = *links.get(&self.link?)?;
            return Some(vec![hop(self.gateway, port)]);
        }
        let alive = self.hops.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
        let ours =
            |one: &RouteNextHop| Some(hop(gateway(&one.attributes), *links.get(&one.interface_index)?));
        Some(alive.filter_map(ours).collect())
    }
}

fn hop(gateway: Option<IpAddr>, port: u16) -> RouteHop {
    gateway.map_or(RouteHop::Link { port }, |gateway| RouteHop::Via { gateway, port })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(via) => via_ip(via),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteVia::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        BTreeMap::from([(7, 0), (8, 1)])
    }

    fn message(to: [u8; 4], length: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = length;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.protocol = RouteProtocol::Static;
        message.attributes = attributes;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(to.into())));
        message
    }

    fn via(gateway: [u8; 4], link: u32) -> Vec<RouteAttribute> {
        vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway.into())), RouteAttribute::Oif(link)]
    }

    #[test]
    fn routes_over_our_ports_count_and_others_do_not() {
        let gateway = IpAddr::from([10, 0, 0, 11]);
        let ours = message([10, 244, 1, 0], 24, via([10, 0, 0, 11], 8));
        let want = NetworkRoute {
            to: "10.244.1.0/24".parse().unwrap(),
            hop: RouteHop::Via { gateway, port: 1 },
            metric: 0,
        };
        assert_eq!(route(&ours, &links()), [want]);
        assert_eq!(
            route(&message([10, 244, 1, 0], 24, via([10, 0, 0, 11], 2)), &links()),
            [],
            "another device"
        );
        let mut connected = ours.clone();
        connected.header.protocol = RouteProtocol::Kernel;
        assert_eq!(route(&connected, &links()), [], "connected");
        connected.header.protocol = OUR_ROUTES;
        assert_eq!(route(&connected, &links()), [], "what we told the kernel");
        let mut local = ours;
        local.header.table = 255;
        assert_eq!(route(&local, &links()), [], "another table");
    }

    #[test]
    fn every_live_next_hop_of_several_counts() {
        let next = |gateway: [u8; 4], link, flags| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = link;
            hop.flags = flags;
            hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway.into()))];
            hop
        };
        let hops = vec![
            next([10, 0, 0, 1], 7, RouteNextHopFlags::Dead),
            next([10, 0, 0, 2], 3, RouteNextHopFlags::empty()),
            next([10, 0, 0, 3], 7, RouteNextHopFlags::empty()),
            next([10, 0, 0, 4], 8, RouteNextHopFlags::empty()),
        ];
        let found = route(&message([0; 4], 0, vec![RouteAttribute::MultiPath(hops)]), &links());
        let via = |last, port| RouteHop::Via { gateway: IpAddr::from([10, 0, 0, last]), port };
        assert_eq!(found.iter().map(|route| route.hop).collect::<Vec<_>>(), [via(3, 0), via(4, 1)]);
        assert_eq!(found[0].to.prefix_len(), 0);
    }

    #[test]
    fn blackholes_need_no_device() {
        let mut hole = message([10, 9, 0, 0], 16, Vec::new());
        hole.header.kind = RouteType::Unreachable;
        assert_eq!(route(&hole, &links())[0].hop, RouteHop::Blackhole);
    }

    #[test]
    fn neighbour_states_become_reports() {
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        for (state, lladdr, want) in [
            (NeighbourState::Reachable, Some(mac), Report::Usable(mac)),
            (NeighbourState::Stale, Some(mac), Report::Usable(mac)),
            (NeighbourState::Permanent, Some(mac), Report::Permanent(mac)),
            (NeighbourState::Incomplete, None, Report::Incomplete),
            (NeighbourState::Failed, Some(mac), Report::Failed),
        ] {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = 7;
            message.header.state = state;
            message.attributes =
                vec![NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into()))];
            message.attributes.extend(lladdr.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
            let key = (0, IpAddr::from([10, 0, 0, 1]));
            assert_eq!(neighbour(&message, &links()), Some((key, want)), "{state:?}");
        }
    }
}
