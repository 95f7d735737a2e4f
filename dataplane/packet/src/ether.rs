//! Ethernet II header.

use std::borrow::{Borrow, BorrowMut};

use crate::{
    MacAddr,
    bytes::{array, be16, put},
};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// EtherType that some switches used for stacked tags before 802.1ad.
pub const OLD_STACKED_VLAN: u16 = 0x9100;

/// True for the EtherType of a tag, of whatever kind.
#[inline]
#[must_use]
pub const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, VLAN | SERVICE_VLAN | OLD_STACKED_VLAN)
}

/// Bytes of an untagged header.
pub const HEADER_LEN: usize = 14;

/// The 14 bytes of an Ethernet II header; holding them is the proof that they are there.
#[derive(Clone, Copy, Debug)]
pub struct Header<B>(pub B);

impl<B: Borrow<[u8; HEADER_LEN]>> Header<B> {
    /// Receiver.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        MacAddr(array(self.0.borrow(), 0))
    }

    /// Sender.
    #[inline]
    pub fn src(&self) -> MacAddr {
        MacAddr(array(self.0.borrow(), 6))
    }

    /// EtherType, or an 802.3 length below 1,536.
    #[inline]
    pub fn ether_type(&self) -> u16 {
        be16(self.0.borrow(), 12)
    }
}

impl<B: BorrowMut<[u8; HEADER_LEN]>> Header<B> {
    /// Sets the receiver.
    #[inline]
    pub fn set_dst(&mut self, mac: MacAddr) {
        put(self.0.borrow_mut(), 0, mac.0);
    }

    /// Sets the sender.
    #[inline]
    pub fn set_src(&mut self, mac: MacAddr) {
        put(self.0.borrow_mut(), 6, mac.0);
    }

    /// Sets the EtherType.
    #[inline]
    pub fn set_ether_type(&mut self, ether_type: u16) {
        put(self.0.borrow_mut(), 12, ether_type.to_be_bytes());
    }
}

/// Sets both addresses of a frame; false, and nothing written, if it has no Ethernet header.
#[inline]
pub fn set_macs(head: &mut [u8], dst: MacAddr, src: MacAddr) -> bool {
    let Some(bytes) = head.first_chunk_mut::<HEADER_LEN>() else { return false };
    let mut header = Header(bytes);
    header.set_dst(dst);
    header.set_src(src);
    true
}
