//! ICMP errors about a translated flow: the packet they quote is translated back, and their own addresses with it
//! (RFC 5508 §4), so that the sender recognises it and path MTU discovery works.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Rewrite;
use crate::{
    Address, AnyAddrs, AnyKey, Body, Icmp, Inner, Parsed, Protocol,
    bytes::{be16, chunk_mut, put},
    checksum::Delta,
    icmp, ipv4, ipv6,
};

/// Makes the packet that an ICMP error quotes one of `quoted`, and sends the error to the sender of that; false, and
/// nothing changed, if the frame is no error with a tuple of that family.
///
/// Where the flow's packets of that direction get another source, the error gets the same, whichever router sent it: an
/// address from behind the translation means nothing to the receiver, and filters on the way drop it (RFC 2827, rp_filter).
/// The quoted CRC of SCTP is left alone: nobody checks it, the verification tag is what counts (RFC 9260 §10).
pub fn rewrite_error(head: &mut [u8], parsed: &Parsed, quoted: AnyKey) -> bool {
    let Body::Icmp(Icmp { addrs, inner: Some(inner), .. }) = parsed.body else { return false };
    let end = parsed.frame_end().min(head.len());
    let Some(packet) = head.get_mut(..end) else { return false };
    let changed = match (addrs, inner.key, quoted) {
        (AnyAddrs::V4 { src, dst }, AnyKey::V4(from), AnyKey::V4(to)) => {
            let (rewrite, src_new) = (Rewrite::new(&from, &to), sender(src, from.dst, to.dst));
            let outer = addresses((src, dst), (src_new, to.src));
            // The quoted header's checksum takes up the change of its addresses, so their sum does not change.
            quoted_v4(packet, inner, &rewrite)
                .and_then(|()| quoted_l4(packet, inner, &rewrite))
                .and_then(|sum| patch_icmp(packet, parsed, sum))
                .and_then(|()| outer_v4(packet, parsed, (src_new, to.src), outer))
        }
        (AnyAddrs::V6 { src, dst }, AnyKey::V6(from), AnyKey::V6(to)) => {
            let (rewrite, src_new) = (Rewrite::new(&from, &to), sender(src, from.dst, to.dst));
            let outer = addresses((src, dst), (src_new, to.src));
            set_v6(packet, inner.l3, to.src, to.dst)
                .and_then(|()| quoted_l4(packet, inner, &rewrite))
                .and_then(|sum| patch_icmp(packet, parsed, sum.and(rewrite.ip).and(outer)))
                .and_then(|()| set_v6(packet, parsed.l3, src_new, to.src))
        }
        _ => None,
    };
    changed.is_some()
}

/// The error's sender: as the receiver of the quoted packet is renamed.
fn sender<A: Address>(sender: A, receiver: A, renamed: A) -> A {
    if receiver == renamed { sender } else { renamed }
}

fn addresses<A: Address>(old: (A, A), new: (A, A)) -> Delta {
    Delta::of_addr_change(old.0, new.0).and(Delta::of_addr_change(old.1, new.1))
}

fn quoted_v4(packet: &mut [u8], inner: Inner, rewrite: &Rewrite<Ipv4Addr>) -> Option<()> {
    rewrite.write(ipv4::Header(chunk_mut(packet, inner.l3.into())?), Delta::NONE);
    Some(())
}

fn outer_v4(
    packet: &mut [u8],
    parsed: &Parsed,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    change: Delta,
) -> Option<()> {
    let mut ip = ipv4::Header(chunk_mut(packet, parsed.l3.into())?);
    ip.set_checksum(change.apply(ip.checksum()));
    ip.set_src(src);
    ip.set_dst(dst);
    Some(())
}

fn set_v6(packet: &mut [u8], l3: u16, src: Ipv6Addr, dst: Ipv6Addr) -> Option<()> {
    let mut ip = ipv6::Header(chunk_mut(packet, l3.into())?);
    ip.set_src(src);
    ip.set_dst(dst);
    Some(())
}

/// Sets the quoted ports, and the quoted checksum if it is there; gives the change of the sum over both.
fn quoted_l4<A: Address>(packet: &mut [u8], inner: Inner, rewrite: &Rewrite<A>) -> Option<Delta> {
    let l4 = usize::from(inner.l4);
    let bytes: &mut [u8; 4] = chunk_mut(packet, l4)?;
    let ports =
        Delta::of_u16(be16(bytes, 0), rewrite.sport).and(Delta::of_u16(be16(bytes, 2), rewrite.dport));
    put(bytes, 0, rewrite.sport.to_be_bytes());
    put(bytes, 2, rewrite.dport.to_be_bytes());
    let protocol = inner.key.protocol();
    let at = match protocol {
        Protocol::Tcp => l4 + 16,
        Protocol::Udp => l4 + 6,
        Protocol::Sctp => return Some(ports),
    };
    let Some(bytes) = chunk_mut::<2>(packet, at) else { return Some(ports) };
    let old = be16(bytes, 0);
    let new = if protocol == Protocol::Udp { rewrite.l4.apply_udp(old) } else { rewrite.l4.apply(old) };
    *bytes = new.to_be_bytes();
    Some(ports.and(Delta::of_u16(old, new)))
}

fn patch_icmp(packet: &mut [u8], parsed: &Parsed, change: Delta) -> Option<()> {
    let mut header = icmp::Header(chunk_mut(packet, parsed.l4.into())?);
    header.set_checksum(change.apply(header.checksum()));
    Some(())
}
