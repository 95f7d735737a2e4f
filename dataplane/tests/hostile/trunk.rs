//! Sub-ports: clients in a VLAN of the port outside, machines in one of the port inside; and the ports as the appliance knows
//! them, for frames on the wires with their tags.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, target};
use packet::{MacAddr, VlanTag, ether};
use tables::{PortId, Vlan};

/// VLAN 100 of the port outside.
pub(crate) const CLIENTS: PortId = PortId(2);
pub(crate) const CLIENTS_VLAN: u16 = 100;
/// VLAN 200 of the port inside.
pub(crate) const STORES: PortId = PortId(3);
pub(crate) const STORES_VLAN: u16 = 200;
/// One machine of each, in both families.
pub(crate) const CLIENT: [&str; 2] = ["198.51.100.2", "2001:db8:64::2"];
pub(crate) const STORE: [&str; 2] = ["10.2.0.11", "fd00:2::11"];
/// The appliance's own addresses there.
pub(crate) const OWN: [&str; 4] = ["198.51.100.1", "2001:db8:64::1", "10.2.0.1", "fd00:2::1"];

/// The fuzz target's data centre with these sub-ports.
pub(crate) fn world() -> Fixture {
    let mut fixture = target::world();
    let vlan = |parent, id| Vlan { parent, id };
    let own = [(OWN[0], 24), (OWN[1], 64)];
    fixture.sub_port(CLIENTS, (vlan(OUTSIDE, CLIENTS_VLAN), "outside.100"), &own);
    let own = [(OWN[2], 24), (OWN[3], 64)];
    fixture.sub_port(STORES, (vlan(INSIDE, STORES_VLAN), "inside.200"), &own);
    for (client, store) in CLIENT.iter().zip(STORE) {
        fixture.neighbor(CLIENTS, client, 2);
        fixture.neighbor(STORES, store, 11);
    }
    fixture
}

/// The device's Ethernet address, which its sub-ports have too.
pub(crate) fn mac(port: PortId) -> MacAddr {
    Fixture::port_mac(device(port))
}

/// The device that a port's frames go by.
pub(crate) const fn device(port: PortId) -> PortId {
    match port {
        CLIENTS => OUTSIDE,
        STORES => INSIDE,
        _ => port,
    }
}

/// The frame as a port with a tag sends it.
pub(crate) fn tagged(frame: &[u8], tag: VlanTag) -> Vec<u8> {
    [&frame[..12], &ether::VLAN.to_be_bytes(), &tag.0.to_be_bytes(), &frame[12..]].concat()
}

/// The port that a frame at a device belongs to, and the frame without that port's tag; `None` if no port has such a frame. A
/// tag of VLAN 0 says nothing but a priority.
pub(crate) fn port_of(device: PortId, frame: &[u8]) -> Option<(PortId, Vec<u8>)> {
    let Some(id) = vlan_of(frame).filter(|id| *id != 0) else { return Some((device, frame.to_vec())) };
    let port = match (device, id) {
        (OUTSIDE, CLIENTS_VLAN) => CLIENTS,
        (INSIDE, STORES_VLAN) => STORES,
        _ => return None,
    };
    let frame = [&frame[..12], &frame[16..]].concat();
    vlan_of(&frame).is_none().then_some((port, frame))
}

/// Bytes that a device takes of a frame: a tag comes on top.
pub(crate) fn longest(frame: &[u8]) -> usize {
    if vlan_of(frame).is_some() { 1_518 } else { 1_514 }
}

fn vlan_of(frame: &[u8]) -> Option<u16> {
    let tag: &[u8; 4] = frame.get(12..)?.first_chunk()?;
    let [high, low, rest @ ..] = tag;
    (u16::from_be_bytes([*high, *low]) == ether::VLAN).then(|| VlanTag(u16::from_be_bytes(*rest)).id())
}
