//! Neighbour solicitations and advertisements (RFC 4861 §4.3, §4.4, §7.2).

use std::net::Ipv6Addr;

use super::{Link, Writer};
use crate::{AnyAddrs, Body, MacAddr, NdKind, Parsed, VlanTag, checksum::Sum, ether, ndp};

const ICMPV6: u8 = 58;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Hop limit that proves a message was not forwarded (RFC 4861 §11.2).
const HOP_LIMIT: u8 = 255;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ROUTER: u8 = 0x80;

/// Answers a neighbour solicitation: its target is at `mac`. A probe is answered to all nodes (RFC 4861 §7.2.4).
///
/// The router flag is set: who solicits us forwards through us, and a host drops a default route over a neighbour that
/// says it is no router (RFC 4861 §7.3.3).
pub fn neighbor_advertisement(out: &mut [u8], parsed: &Parsed, mac: MacAddr) -> Option<usize> {
    let Body::Nd(nd) = parsed.body else { return None };
    if nd.kind != NdKind::NeighborSolicitation {
        return None;
    }
    let probe = nd.src.is_unspecified();
    let (dst, flags) = if probe { (ALL_NODES, OVERRIDE) } else { (nd.src, SOLICITED | OVERRIDE) };
    let dst_mac =
        if probe { MacAddr::of_ipv6_multicast(ALL_NODES) } else { nd.link_layer.unwrap_or(parsed.src_mac) };
    let link = Link { dst: dst_mac, src: mac, vlan: parsed.vlan };
    let message = Message { kind: 136, flags: flags | ROUTER, target: nd.target, option: Some((2, mac)) };
    message.write(out, link, nd.target, dst)
}

/// Tells all nodes that `address` is at `mac` (RFC 4861 §7.2.6).
pub fn unsolicited_advertisement(
    out: &mut [u8],
    mac: MacAddr,
    address: Ipv6Addr,
    vlan: Option<VlanTag>,
) -> Option<usize> {
    let link = Link { dst: MacAddr::of_ipv6_multicast(ALL_NODES), src: mac, vlan };
    let message = Message { kind: 136, flags: ROUTER | OVERRIDE, target: address, option: Some((2, mac)) };
    message.write(out, link, address, ALL_NODES)
}

/// Asks the group of `target` who has it. With the unspecified address as the sender it is the probe for duplicates
/// (RFC 4862 §5.4.2), which names no link-layer address and is answered to all nodes.
pub fn neighbor_solicitation(
    out: &mut [u8],
    (sender_mac, sender_ip): (MacAddr, Ipv6Addr),
    target: Ipv6Addr,
    vlan: Option<VlanTag>,
) -> Option<usize> {
    let group = ndp::solicited_node(target);
    let link = Link { dst: MacAddr::of_ipv6_multicast(group), src: sender_mac, vlan };
    let option = (!sender_ip.is_unspecified()).then_some((1, sender_mac));
    let message = Message { kind: 135, flags: 0, target, option };
    message.write(out, link, sender_ip, group)
}

/// A solicitation or advertisement with at most one link-layer address option.
struct Message {
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, MacAddr)>,
}

impl Message {
    fn write(&self, out: &mut [u8], link: Link, src: Ipv6Addr, dst: Ipv6Addr) -> Option<usize> {
        let length: u16 = if self.option.is_some() { 32 } else { 24 };
        let mut writer = Writer::frame(out, link, ether::IPV6)?;
        writer.ipv6(src, dst, (ICMPV6, HOP_LIMIT), length.into())?;
        let at = writer.len;
        writer.put(&[self.kind, 0, 0, 0, self.flags, 0, 0, 0])?;
        writer.put(&self.target.octets())?;
        if let Some((kind, mac)) = self.option {
            writer.put(&[kind, 1])?;
            writer.put(&mac.0)?;
        }
        let mut sum = Sum::pseudo(AnyAddrs::V6 { src, dst }, ICMPV6, length);
        sum.add(writer.since(at));
        writer.patch(at + 2, sum.checksum())?;
        writer.finish()
    }
}
