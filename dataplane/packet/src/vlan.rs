//! The 802.1Q tag.

/// An 802.1Q tag control field (IEEE 802.1Q §9.6).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct VlanTag(pub u16);

impl VlanTag {
    /// VLAN id, 0 to 4095; 0 is a priority tag, which names no VLAN.
    #[inline]
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0 & 0x0fff
    }

    /// Priority, 0 to 7.
    #[inline]
    #[must_use]
    pub const fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }
}

/// Bytes of a tag with the EtherType behind it.
pub const TAG_LEN: usize = 4;

/// Bytes of the two Ethernet addresses, which a tag stands behind.
const ADDRESSES_LEN: usize = 12;

/// Tags a frame in front of which [`TAG_LEN`] bytes of any content were added; false, and nothing written, if the whole is
/// too short for that.
pub fn insert(head: &mut [u8], tag: VlanTag) -> bool {
    let Some(start) = head.first_chunk_mut::<{ ADDRESSES_LEN + TAG_LEN }>() else { return false };
    start.copy_within(TAG_LEN.., 0);
    let ([a, b], [c, d]) = (crate::ether::VLAN.to_be_bytes(), tag.0.to_be_bytes());
    start[ADDRESSES_LEN..].copy_from_slice(&[a, b, c, d]);
    true
}

/// Takes the tag of a frame out, so that the frame begins [`TAG_LEN`] bytes later; false, and nothing written, if it is too
/// short to have one.
pub fn remove(head: &mut [u8]) -> bool {
    let Some(start) = head.first_chunk_mut::<{ ADDRESSES_LEN + TAG_LEN }>() else { return false };
    start.copy_within(..ADDRESSES_LEN, TAG_LEN);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::PacketBuilder;

    #[test]
    fn a_tag_goes_in_and_out_again() {
        let packet = PacketBuilder::udp("192.0.2.1:1", "192.0.2.2:2").payload(b"payload");
        let (plain, tagged) = (packet.build(), packet.vlan(VlanTag(0x2064)).build());
        let mut frame = [&[0xff; TAG_LEN][..], &plain].concat();
        assert!(insert(&mut frame, VlanTag(0x2064)));
        assert_eq!(frame, tagged);
        assert!(remove(&mut frame));
        assert_eq!(frame[TAG_LEN..], plain);
        assert!(!insert(&mut [0; 15], VlanTag(1)) && !remove(&mut [0; 15]));
    }
}
