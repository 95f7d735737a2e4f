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
