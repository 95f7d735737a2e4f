//! ARP replies, requests and announcements (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use super::{Link, Writer};
use crate::{Arp, ArpOperation, Body, MacAddr, Parsed, VlanTag, ether};

/// Turns an ARP request into the reply that its target is at `mac`, in place; false, and nothing changed, for any other
/// frame.
pub fn arp_reply(head: &mut [u8], parsed: &Parsed, mac: MacAddr) -> bool {
    let Body::Arp(request @ Arp { operation: ArpOperation::Request, .. }) = parsed.body else { return false };
    let at = usize::from(parsed.l3);
    let Some(packet) = head.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else { return false };
    let reply = Arp {
        operation: ArpOperation::Reply,
        sender_mac: mac,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    };
    *packet = reply.bytes();
    ether::set_macs(head, request.sender_mac, mac)
}

/// Tells everybody that `address` is at `mac`: an announcement in the form of a request (RFC 5227 §2.3).
pub fn gratuitous_arp(
    out: &mut [u8],
    mac: MacAddr,
    address: Ipv4Addr,
    vlan: Option<VlanTag>,
) -> Option<usize> {
    arp_request(out, (mac, address), address, vlan)
}

/// Asks everybody who has `target`.
pub fn arp_request(
    out: &mut [u8],
    (sender_mac, sender_ip): (MacAddr, Ipv4Addr),
    target: Ipv4Addr,
    vlan: Option<VlanTag>,
) -> Option<usize> {
    let operation = ArpOperation::Request;
    let arp = Arp { operation, sender_mac, sender_ip, target_mac: MacAddr::ZERO, target_ip: target };
    let link = Link { dst: MacAddr::BROADCAST, src: sender_mac, vlan };
    let mut writer = Writer::frame(out, link, ether::ARP)?;
    writer.put(&arp.bytes())?;
    writer.finish()
}
