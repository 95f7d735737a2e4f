//! Ports: with a device of their own, or a VLAN (802.1Q) of one that has.

use std::collections::HashMap;

use ipnet::IpNet;
use packet::Family;
use tables::{PortId, Serves, Vlan};

use super::GatewayConfig;
use super::cross::{Notes, each, has, note};
use super::protection::serves;
use super::read::required;
use super::value::{interface_address, netdev_name, nonempty};
use crate::yaml::{At, Errors};

const MTU_MIN: u16 = 576;
/// RFC 8200, section 5: every IPv6 link carries 1280 bytes.
const MTU_MIN_IPV6: u16 = 1280;
const MTU_MAX: u16 = 9600;
const MTU_DEFAULT: u16 = 1500;
/// What every host takes (RFC 9293 §3.7.1).
const MSS_MIN: u16 = 536;
/// 0 and 4095 name no VLAN.
const VLAN_MAX: u16 = 4094;

/// One port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortConfig {
    /// Name of the port and of its kernel mirror: a valid netdev name of at most 15 bytes.
    pub name: String,
    /// What carries its frames.
    pub carrier: Carrier,
    /// Addresses with the prefix length of their subnet, host bits kept.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet in bytes, 576 to 9,600 (at least 1,280 when the port has an IPv6 address).
    pub mtu: u16,
    /// Largest segment that TCP over IPv4 may be offered through the port; none: what the ends offer.
    pub mss_clamp: Option<u16>,
    /// Which frontends traffic that comes in here may begin flows at.
    pub serves: Serves,
    /// Whether a TAP mirror hands the port's own traffic to the kernel.
    pub tap: bool,
}

/// What carries a port's frames.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Carrier {
    /// A device of its own: PCI address or vdev string, as DPDK takes it.
    Device(String),
    /// The device of another port, which carries them with a tag.
    Vlan {
        /// Name of that port.
        parent: String,
        /// The VLAN, 1 to 4094.
        id: u16,
    },
}

impl PortConfig {
    /// Its device, if it has one of its own.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        match &self.carrier {
            Carrier::Device(device) => Some(device),
            Carrier::Vlan { .. } => None,
        }
    }
}

impl GatewayConfig {
    /// The ports with a device of their own, which come before all others, and the devices.
    pub fn devices(&self) -> impl Iterator<Item = (&PortConfig, &str)> {
        self.ports.iter().filter_map(|port| Some((port, port.device()?)))
    }

    /// Whose sub-port a port is, and which; none for one with a device.
    #[must_use]
    pub fn vlan_of(&self, port: &PortConfig) -> Option<Vlan> {
        let Carrier::Vlan { parent, id } = &port.carrier else { return None };
        let (parent, _) = (0..).map(PortId).zip(&self.ports).find(|(_, other)| other.name == *parent)?;
        Some(Vlan { parent, id: *id })
    }
}

/// Reads the ports, in the order of the document; a VLAN without an MTU has its parent's.
pub(super) fn ports(root: &At<'_>, errors: &Errors) -> Vec<PortConfig> {
    let Some(field) = root.field("ports") else {
        errors.add(root, "`ports` is missing", "a list of at least one port is expected");
        return Vec::new();
    };
    let (mut ports, given): (Vec<_>, Vec<_>) =
        field.items(errors).map(|at| (port(&at, errors), at.field("mtu").is_some())).unzip();
    let mtus: HashMap<_, _> = ports
        .iter()
        .filter(|port| port.device().is_some())
        .map(|port| (port.name.clone(), port.mtu))
        .collect();
    for (port, given) in ports.iter_mut().zip(given) {
        if let Carrier::Vlan { parent, .. } = &port.carrier
            && !given
        {
            port.mtu = mtus.get(parent).copied().unwrap_or(MTU_DEFAULT);
        }
    }
    ports
}

fn port(at: &At<'_>, errors: &Errors) -> PortConfig {
    at.only(&["name", "device", "parent", "vlan", "addresses", "mtu", "mssClamp", "serves", "tap"], errors);
    let name = required(at, "name", errors, |at| netdev_name(at, errors)).unwrap_or_default();
    let carrier = carrier(at, errors);
    let addresses = at.list("addresses", errors, interface_address);
    let mtu = at.field("mtu").and_then(|at| at.number(mtu_min(&addresses)..=MTU_MAX, errors));
    let tap = at.field("tap").and_then(|at| at.boolean(errors)).unwrap_or(true);
    let mss_clamp = at.field("mssClamp").and_then(|at| at.number(MSS_MIN..=MTU_MAX, errors));
    let serves = at.field("serves").map_or(Serves::ALL, |at| serves(&at, errors));
    PortConfig { name, carrier, addresses, mtu: mtu.unwrap_or(MTU_DEFAULT), mss_clamp, serves, tap }
}

fn carrier(at: &At<'_>, errors: &Errors) -> Carrier {
    let Some(parent) = at.field("parent") else {
        if let Some(vlan) = at.field("vlan") {
            errors.add(&vlan, "`vlan` without `parent`", "the name of the port that carries it is expected");
        }
        let device = required(at, "device", errors, |at| nonempty(at, errors));
        return Carrier::Device(device.unwrap_or_default());
    };
    if let Some(device) = at.field("device") {
        errors.add(&device, "`device` and `parent` together", "one of them is expected");
    }
    let id = required(at, "vlan", errors, |at| at.number(1..=VLAN_MAX, errors));
    Carrier::Vlan { parent: nonempty(&parent, errors).unwrap_or_default(), id: id.unwrap_or_default() }
}

fn mtu_min(addresses: &[IpNet]) -> u16 {
    let has_v6 = addresses.iter().any(|net| Family::of(net.addr()) == Family::V6);
    if has_v6 { MTU_MIN_IPV6 } else { MTU_MIN }
}

/// Faults between ports.
pub(super) fn check(at: &At<'_>, config: &GatewayConfig, notes: &Notes<'_>) {
    if let Some(list) = at.field("ports").filter(|list| list.is_list() && config.ports.is_empty()) {
        notes.found.add(&list, "no port", "at least one port is expected");
    }
    if let Some(list) = at.field("ports").filter(|_| config.ports.len() > usize::from(PortId::LIMIT)) {
        let expected = format!("at most {} are expected", PortId::LIMIT);
        notes.found.add(&list, format!("{} ports", config.ports.len()), expected);
    }
    let (mut names, mut carriers, mut addresses) = (HashMap::new(), HashMap::new(), HashMap::new());
    each(at, "ports", notes, |index, item| {
        let port = &config.ports[index];
        if has(item, "name", notes)
            && let Some(first) = names.insert(port.name.as_str(), index)
        {
            let what = format!("`{}` is the name of ports[{first}] too", port.name);
            note(item, "name", notes, what, "a unique name");
        }
        match &port.carrier {
            Carrier::Device(_) if has(item, "device", notes) => {
                if let Some(first) = carriers.insert(&port.carrier, index) {
                    let what = format!("ports[{first}] has this device too");
                    note(item, "device", notes, what, "one port a device");
                }
            }
            Carrier::Vlan { parent, .. } if has(item, "parent", notes) && has(item, "vlan", notes) => {
                if let Some(first) = carriers.insert(&port.carrier, index) {
                    let what = format!("ports[{first}] has this VLAN of {parent} too");
                    note(item, "vlan", notes, what, "one port a VLAN");
                }
                check_parent(item, (port, parent), config, notes);
            }
            _ => {}
        }
        for net in &port.addresses {
            if let Some(first) = addresses.insert(net.addr(), index) {
                let what = format!("{} is an address of ports[{first}] too", net.addr());
                note(item, "addresses", notes, what, "every address once");
            }
        }
    });
}

/// A VLAN's parent has a device, and takes what the VLAN may send.
fn check_parent(
    item: &At<'_>,
    (port, parent): (&PortConfig, &str),
    config: &GatewayConfig,
    notes: &Notes<'_>,
) {
    let Some((parent, _)) = config.devices().find(|(other, _)| other.name == parent) else {
        let names: Vec<_> = config.devices().map(|(port, _)| port.name.as_str()).collect();
        let expected = format!("one of {}, a port with a device,", names.join(", "));
        return note(item, "parent", notes, format!("`{parent}` is no such port"), &expected);
    };
    if has(item, "mtu", notes) && port.mtu > parent.mtu {
        let what = format!("{} is more than {} has, which carries it", port.mtu, parent.name);
        note(item, "mtu", notes, what, &format!("at most {}", parent.mtu));
    }
    if port.mtu < mtu_min(&port.addresses) {
        let what = format!("the {} bytes of {} are too few for IPv6", port.mtu, parent.name);
        note(item, "addresses", notes, what, &format!("an mtu of at least {MTU_MIN_IPV6} there"));
    }
}
