//! Neighbour discovery messages (RFC 4861 §4).

use std::net::Ipv6Addr;

use crate::{MacAddr, Nd, NdKind, bytes::chunk};

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// Reads the ICMPv6 message of this kind; nothing if RFC 4861 forbids it (hop limit, code and checksum aside).
pub(crate) fn facts(kind: NdKind, src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> Option<Nd> {
    let (fixed, wanted) = match kind {
        NdKind::RouterSolicitation => (8, SOURCE_LINK_LAYER),
        NdKind::RouterAdvertisement => (16, SOURCE_LINK_LAYER),
        NdKind::NeighborSolicitation => (24, SOURCE_LINK_LAYER),
        NdKind::NeighborAdvertisement => (24, TARGET_LINK_LAYER),
    };
    let neighbor = fixed == 24;
    let target = if neighbor { Ipv6Addr::from(*chunk::<16>(message, 8)?) } else { Ipv6Addr::UNSPECIFIED };
    let link_layer = link_layer(message.get(fixed..)?, wanted)?;
    let flags = if kind == NdKind::NeighborAdvertisement { *message.get(4)? } else { 0 };
    let nd =
        Nd { kind, src, dst, target, link_layer, solicited: flags & 0x40 != 0, overrides: flags & 0x20 != 0 };
    is_allowed(&nd).then_some(nd)
}

/// The rules of RFC 4861 §6.1.1, §6.1.2, §7.1.1 and §7.1.2 about addresses and flags.
fn is_allowed(nd: &Nd) -> bool {
    if nd.src.is_multicast() {
        // A group sends nothing (RFC 4291 §2.7), and must not be made to answer for one.
        return false;
    }
    let unspecified = nd.src.is_unspecified();
    match nd.kind {
        NdKind::RouterSolicitation => !unspecified || nd.link_layer.is_none(),
        NdKind::RouterAdvertisement => nd.src.is_unicast_link_local(),
        NdKind::NeighborSolicitation => {
            let probe = nd.link_layer.is_none() && nd.dst == solicited_node(nd.target);
            !nd.target.is_multicast() && (!unspecified || probe)
        }
        NdKind::NeighborAdvertisement => {
            !(nd.target.is_multicast() || (nd.solicited && nd.dst.is_multicast()))
        }
    }
}

/// The multicast group on which `address` listens for solicitations (RFC 4291 §2.7.1).
#[must_use]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16)
}

/// The link-layer address among the options; `None` if an option has no length or is cut (the message is void then).
fn link_layer(mut options: &[u8], wanted: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        let option = options.get(..len).filter(|option| !option.is_empty())?;
        if kind == wanted && found.is_none() {
            found = chunk::<6>(option, 2).copied().map(MacAddr);
        }
        options = options.get(len..)?;
    }
    options.is_empty().then_some(found)
}
