//! The 802.1Q tag.

use crate::{bytes::be16, ether};

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

/// The tag of a frame that has one, and none behind it.
#[inline]
#[must_use]
pub fn only_tag(head: &[u8]) -> Option<VlanTag> {
    let start: &[u8; ether::HEADER_LEN + TAG_LEN] = head.first_chunk()?;
    let [outer, inner] = [0, TAG_LEN].map(|tags| be16(start, ADDRESSES_LEN + tags));
    (outer == ether::VLAN && !ether::is_tag(inner)).then(|| VlanTag(be16(start, ether::HEADER_LEN)))
}

/// Tags a frame in front of which [`TAG_LEN`] bytes of any content were added; false, and nothing written, if the whole is
/// too short for that.
pub fn insert(head: &mut [u8], tag: VlanTag) -> bool {
    let Some(start) = head.first_chunk_mut::<{ ADDRESSES_LEN + TAG_LEN }>() else { return false };
    start.copy_within(TAG_LEN.., 0);
    let ([a, b], [c, d]) = (ether::VLAN.to_be_bytes(), tag.0.to_be_bytes());
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
        assert_eq!((only_tag(&plain), only_tag(&tagged)), (None, Some(VlanTag(0x2064))));
        assert!(!insert(&mut [0; 15], VlanTag(1)) && !remove(&mut [0; 15]));
    }

    #[test]
    fn a_tag_behind_another_is_none_of_ours() {
        let tagged = PacketBuilder::udp("192.0.2.1:1", "192.0.2.2:2").vlan(VlanTag(7)).build();
        for behind in [ether::VLAN, ether::SERVICE_VLAN, ether::OLD_STACKED_VLAN] {
            let mut stacked = tagged.clone();
            stacked[16..18].copy_from_slice(&behind.to_be_bytes());
            assert_eq!(only_tag(&stacked), None);
        }
        assert_eq!((only_tag(&tagged[..17]), only_tag(&tagged[..18])), (None, Some(VlanTag(7))));
    }
}
