//! The packets that a state is asked with: from every kind of client to every frontend address and port, to their
//! neighbours, to service addresses that nobody has, and hairpins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use packet::{Family, Protocol};
use serde_json::Value;

use crate::dice::Dice;
use crate::place::{self, Origin};
use crate::state::{address, list, number};
use crate::walk::Packet;

/// Endpoints of a family that call a frontend of their own Service.
const HAIRPINS: usize = 4;

/// Destinations of packets.
type Targets = BTreeSet<(IpAddr, Protocol, u16)>;

/// The packets for the objects that the API server has.
pub(crate) fn of(seed: u64, objects: &[Value]) -> Vec<Packet> {
    let mut dice = Dice::new(seed ^ 0x7061_636b_6574);
    let mut packets = Vec::new();
    let endpoints = endpoints(objects);
    let mut asked = BTreeSet::new();
    for service in objects.iter().filter(|object| object["kind"] == "Service") {
        let mut own = endpoints.get(&name_of(&service["metadata"])).cloned().unwrap_or_default();
        // A Node that has a load balancer's address calls it with that address as source.
        own.extend(
            list(&service["status"]["loadBalancer"]["ingress"]).iter().filter_map(|at| address(&at["ip"])),
        );
        for target in targets(service) {
            // What several Services share is asked for each, because the endpoints differ; strangers once.
            let strangers = asked.insert(target);
            packets.extend(to(&mut dice, target, strangers, &own));
        }
    }
    for target in nobody(&mut dice) {
        packets.extend(to(&mut dice, target, asked.insert(target), &[]));
    }
    packets
}

fn to(
    dice: &mut Dice,
    (address, protocol, port): (IpAddr, Protocol, u16),
    strangers: bool,
    own: &[IpAddr],
) -> Vec<Packet> {
    let family = Family::of(address);
    let mut clients = if strangers { place::clients(family) } else { Vec::new() };
    let own = own.iter().filter(|own| Family::of(**own) == family && !place::is_local(**own));
    clients.extend(own.map(|own| (*own, Origin::Arrives)));
    clients
        .into_iter()
        .map(|(client, origin)| Packet {
            src: SocketAddr::new(client, dice.between(1024, 65_000)),
            dst: SocketAddr::new(address, port),
            protocol,
            origin,
        })
        .collect()
}

/// Every address of a Service with every port, the ports beside them, and the other protocols.
fn targets(service: &Value) -> Targets {
    let mut targets = Targets::new();
    let (spec, status) = (&service["spec"], &service["status"]["loadBalancer"]);
    let mut addresses: Vec<_> = list(&spec["clusterIPs"]).iter().filter_map(address).collect();
    addresses.extend(list(&spec["externalIPs"]).iter().filter_map(address));
    addresses.extend(list(&status["ingress"]).iter().filter_map(|entry| address(&entry["ip"])));
    for port in list(&spec["ports"]) {
        let (Some(number), Some(protocol)) = (number(&port["port"]), protocol(&port["protocol"])) else {
            continue;
        };
        for address in &addresses {
            targets.insert((*address, protocol, number));
            targets.insert((*address, protocol, number + 1));
            targets.insert((*address, other(protocol), number));
        }
        let Some(number) = number_of_node_port(port) else { continue };
        for family in [Family::V4, Family::V6] {
            let elsewhere: IpAddr = if family == Family::V4 { [10, 0, 0, 12].into() } else { peer() };
            for address in [place::primary(family), place::secondary(family), elsewhere] {
                targets.insert((address, protocol, number));
            }
            targets.insert((place::primary(family), protocol, number + 5));
            targets.insert((place::primary(family), other(protocol), number));
            // A nodePort is none on a service address.
            targets.extend(addresses.first().map(|address| (*address, protocol, number)));
        }
    }
    targets
}

/// Service addresses that nobody has, in both service networks, and plain destinations.
fn nobody(dice: &mut Dice) -> Targets {
    let last = dice.between(60, 250);
    let texts = [
        format!("10.3.241.{last}"),
        format!("10.97.0.{last}"),
        "10.98.0.1".into(),
        "10.244.2.5".into(),
        "198.18.0.9".into(),
        format!("fd00:3:240::{last}"),
        format!("fd97:1::{last}"),
        "fd98::1".into(),
        "fd00:244:0:2::5".into(),
        "2001:db8:c::9".into(),
    ];
    let mut targets = Targets::new();
    for address in texts.iter().filter_map(|text| text.parse().ok()) {
        targets.insert((address, *dice.one(&Protocol::ALL), 80));
    }
    for family in [Family::V4, Family::V6] {
        targets.insert((place::primary(family), Protocol::Tcp, 22));
        targets.insert((place::secondary(family), Protocol::Udp, 2000));
    }
    targets
}

/// Addresses of some endpoints by their Service.
fn endpoints(objects: &[Value]) -> BTreeMap<(String, String), Vec<IpAddr>> {
    let mut endpoints: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
    for slice in objects.iter().filter(|object| object["kind"] == "EndpointSlice") {
        let metadata = &slice["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = (text(&metadata["namespace"]), text(&metadata["labels"]["kubernetes.io/service-name"]));
        let of_service = endpoints.entry(service).or_default();
        of_service.extend(
            list(&slice["endpoints"]).iter().filter_map(|endpoint| address(&endpoint["addresses"][0])),
        );
        of_service.sort_unstable();
        of_service.dedup();
    }
    for own in endpoints.values_mut() {
        let (v4, v6): (Vec<_>, Vec<_>) = own.iter().partition(|address: &&IpAddr| address.is_ipv4());
        *own = v4.into_iter().take(HAIRPINS).chain(v6.into_iter().take(HAIRPINS)).collect();
    }
    endpoints
}

fn name_of(metadata: &Value) -> (String, String) {
    let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn number_of_node_port(port: &Value) -> Option<u16> {
    number(&port["nodePort"]).filter(|number| *number != 0)
}

fn protocol(value: &Value) -> Option<Protocol> {
    value.as_str()?.parse().ok()
}

fn other(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::Tcp => Protocol::Udp,
        Protocol::Udp => Protocol::Sctp,
        Protocol::Sctp => Protocol::Tcp,
    }
}

/// The second Node.
fn peer() -> IpAddr {
    [0xfd00, 0, 0, 0, 0, 0, 0, 0x12].into()
}
