//! What the stages need of a packet buffer, and the fixed-size burst that carries buffers between stages.
//!
//! Invariant: a packet is owned by exactly one [`Burst`] (or one local variable) at any time; dropping a buffer
//! gives its memory back to where it came from. Not here: headers (`packet`) and devices (`io`).

/// Most packets handled together.
pub const BURST: usize = 32;

/// What the receiving port says about the checksums of one packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ChecksumStatus {
    /// The port did not look; the software detector for unfinished checksums runs.
    #[default]
    Unknown,
    /// IP and L4 checksums were verified.
    Good,
    /// At least one of them is wrong.
    Bad,
    /// The sender left the L4 field at the folded pseudo-header sum (`CHECKSUM_PARTIAL`).
    Partial,
}

impl ChecksumStatus {
    /// A checksum is known to be wrong, or not finished.
    #[inline]
    #[must_use]
    pub const fn is_faulty(self) -> bool {
        matches!(self, Self::Bad | Self::Partial)
    }
}

/// Asks the transmitting port to finish the L4 checksum; the field already holds the folded pseudo-header sum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TxChecksum {
    /// Bytes from the start of the frame to the IP header.
    pub l2_len: u16,
    /// Bytes of the IP header with its options or extension headers.
    pub l3_len: u16,
    /// Which headers follow.
    pub kind: ChecksumKind,
}

/// The L4 checksums a port may be able to finish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChecksumKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

/// One received or newly made packet: a contiguous head, a total length and possibly further segments.
pub trait PacketBuf {
    /// The first segment; every header the parser reads must lie here.
    fn head(&self) -> &[u8];
    /// The first segment for rewriting in place.
    fn head_mut(&mut self) -> &mut [u8];
    /// Bytes of the whole frame over all segments.
    fn total_len(&self) -> usize;
    /// Every segment in order, the head first.
    fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone;
    /// Grows the head by `bytes` at its front; `None` (and no change) when the headroom is too small.
    fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]>;
    /// Cuts `bytes` off the front of the head; `None` (and no change) when the head is shorter.
    fn trim_front(&mut self, bytes: usize) -> Option<()>;
    /// Grows a single-segment frame by `bytes` at its end and gives the new bytes, of unspecified content;
    /// `None` (and no change) when the tailroom is too small.
    fn append(&mut self, bytes: usize) -> Option<&mut [u8]>;
    /// Shortens the frame to `len` bytes; a frame already that short stays as it is.
    fn truncate(&mut self, len: usize);
    /// What the port said when it received this packet.
    fn rx_checksum(&self) -> ChecksumStatus;
    /// Has the transmitting port finish the L4 checksum.
    fn request_tx_checksum(&mut self, request: TxChecksum);
    /// Starts loading the head into the cache.
    fn prefetch(&self);
}

/// At most [`BURST`] buffers without heap; what is still inside on drop is freed.
///
/// Slots may be emptied out of order with [`Burst::take`]; [`Burst::clear`] then makes the burst ready for reuse.
#[derive(Debug)]
pub struct Burst<B> {
    slots: [Option<B>; BURST],
    len: usize,
}

impl<B> Burst<B> {
    /// An empty burst.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: [const { None }; BURST], len: 0 }
    }

    /// Appends a buffer, or gives it back when the burst is full.
    ///
    /// # Errors
    /// The buffer itself, when no slot is free.
    #[inline]
    pub fn push(&mut self, buf: B) -> Result<(), B> {
        match self.slots.get_mut(self.len) {
            Some(slot) => {
                // Spare slots are empty: there is nothing to drop, and nothing to look for.
                debug_assert!(slot.is_none(), "a spare slot holds a buffer");
                std::mem::forget(slot.replace(buf));
                self.len += 1;
                Ok(())
            }
            None => Err(buf),
        }
    }

    /// The free slots behind the last buffer, for a driver to fill from the front; then call [`Burst::filled`].
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [Option<B>] {
        &mut self.slots[self.len..]
    }

    /// Declares that the first `count` spare slots now hold buffers.
    #[inline]
    pub fn filled(&mut self, count: usize) {
        self.len = BURST.min(self.len + count);
        debug_assert!(
            self.slots[..self.len].iter().all(Option::is_some),
            "a driver left a hole in the burst"
        );
    }

    /// Slots in use, for a driver to take from the front; then call [`Burst::sent`].
    #[inline]
    pub fn slots_mut(&mut self) -> &mut [Option<B>] {
        &mut self.slots[..self.len]
    }

    /// Declares that the first `count` slots were emptied, and closes the gap.
    #[inline]
    pub fn sent(&mut self, count: usize) {
        let count = count.min(self.len);
        debug_assert!(self.slots[..count].iter().all(Option::is_none), "a driver left a sent buffer behind");
        if count < self.len {
            self.slots[..self.len].rotate_left(count);
        }
        self.len -= count;
    }

    /// Takes the buffer out of slot `index`, leaving a hole.
    #[inline]
    pub fn take(&mut self, index: usize) -> Option<B> {
        self.slots.get_mut(index).and_then(Option::take)
    }

    /// The buffer in slot `index`, unless it was taken.
    #[inline]
    #[must_use]
    pub fn slot(&self, index: usize) -> Option<&B> {
        self.slots.get(index).and_then(Option::as_ref)
    }

    /// The buffer in slot `index` for rewriting, unless it was taken.
    #[inline]
    pub fn slot_mut(&mut self, index: usize) -> Option<&mut B> {
        self.slots.get_mut(index).and_then(Option::as_mut)
    }

    /// The buffers still inside, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &B> {
        self.slots[..self.len].iter().flatten()
    }

    /// Frees what is still inside and makes every slot spare.
    #[inline]
    pub fn clear(&mut self) {
        for slot in &mut self.slots[..self.len] {
            drop(slot.take());
        }
        self.len = 0;
    }

    /// Declares that every slot was taken: the same as [`Burst::clear`] then, without a look at each.
    #[inline]
    pub fn emptied(&mut self) {
        debug_assert!(self.slots.iter().all(Option::is_none), "a buffer was left behind");
        self.len = 0;
    }

    /// Slots in use, holes included.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no slot is in use.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no slot is spare.
    #[inline]
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == BURST
    }
}

impl<B> Default for Burst<B> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_full_burst_gives_the_buffer_back() {
        let mut burst = Burst::new();
        for n in 0..BURST {
            assert_eq!(burst.push(n), Ok(()));
        }
        assert!(burst.is_full());
        assert_eq!(burst.push(99), Err(99));
    }

    #[test]
    fn a_driver_fills_and_empties_from_the_front() {
        let mut burst = Burst::new();
        for (n, slot) in burst.spare_mut().iter_mut().take(5).enumerate() {
            *slot = Some(n);
        }
        burst.filled(5);
        for slot in burst.slots_mut().iter_mut().take(2) {
            slot.take();
        }
        burst.sent(2);
        assert_eq!(burst.iter().copied().collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn what_is_left_inside_is_freed() {
        let marker = Rc::new(());
        let mut burst = Burst::new();
        for _ in 0..4 {
            burst.push(Rc::clone(&marker)).unwrap();
        }
        drop(burst.take(1));
        assert_eq!(Rc::strong_count(&marker), 4);
        burst.clear();
        assert_eq!((Rc::strong_count(&marker), burst.len()), (1, 0));
        burst.push(Rc::clone(&marker)).unwrap();
        drop(burst.take(0));
        burst.emptied();
        assert_eq!((Rc::strong_count(&marker), burst.len()), (1, 0));
        burst.push(Rc::clone(&marker)).unwrap();
        drop(burst);
        assert_eq!(Rc::strong_count(&marker), 1);
    }
}
