//! One packet in DPDK's memory: a chain of segments with one owner. Field access is a plain load or store at an offset
//! that the C compiler took from the installed headers.

use std::{ptr::NonNull, slice};

use dpdk_sys::rte_mbuf;

/// What the receiving device says of the checksums.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RxChecksum {
    /// It did not look.
    Unknown,
    /// They are right.
    Good,
    /// One of them is wrong.
    Bad,
    /// The sender left the L4 checksum to the device, and the payload is known to be whole.
    Unfinished,
}

/// The L4 checksum that the sending device is to finish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TxChecksum {
    /// Bytes before the IP header.
    pub l2_len: u16,
    /// Bytes of the IP header.
    pub l3_len: u16,
    /// IPv6, otherwise IPv4.
    pub ipv6: bool,
    /// UDP, otherwise TCP.
    pub udp: bool,
}

/// An owned packet. Freed on drop, on any thread.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an mbuf is plain memory of a pool that any thread may return to; one owner at a time has it.
unsafe impl Send for Mbuf {}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own the chain and nobody uses it afterwards.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.0.as_ptr()) }
    }
}

impl Mbuf {
    /// Takes ownership; `None` for null.
    ///
    /// # Safety
    /// `raw` is null, or a whole, valid mbuf chain that nobody else owns.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut rte_mbuf) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    /// The first segment.
    #[inline]
    #[must_use]
    pub fn head(&self) -> &[u8] {
        // SAFETY: the segment's data are inside its buffer and live as long as we do.
        unsafe { slice::from_raw_parts(self.data(), usize::from(self.data_len())) }
    }

    /// The first segment, for rewriting.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `head`; `&mut self` makes us the only user. Buffers are never shared (no clones are made).
        unsafe { slice::from_raw_parts_mut(self.data(), usize::from(self.data_len())) }
    }

    /// Bytes of all segments.
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.load::<u32>(dpdk_sys::FAIRLEAD_MBUF_PKT_LEN) as usize
    }

    /// All segments in order.
    #[inline]
    #[must_use]
    pub const fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self) }
    }

    /// Grows the front; `None` when there is too little headroom.
    #[inline]
    pub fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let bytes = u16::try_from(bytes).ok()?;
        let offset = self.data_off().checked_sub(bytes)?;
        let len = self.data_len().checked_add(bytes)?;
        self.set_data_off(offset);
        self.set_lengths(len, self.total_len() + usize::from(bytes));
        self.head_mut().get_mut(..usize::from(bytes))
    }

    /// Cuts off the front of the first segment; `None` when it is shorter.
    #[inline]
    pub fn trim_front(&mut self, bytes: usize) -> Option<()> {
        let bytes = u16::try_from(bytes).ok()?;
        let len = self.data_len().checked_sub(bytes)?;
        self.set_data_off(self.data_off() + bytes);
        self.set_lengths(len, self.total_len() - usize::from(bytes));
        Some(())
    }

    /// Grows the end of a packet of one segment and gives the new bytes; `None` when there is too little room.
    #[inline]
    pub fn append(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let (at, bytes) = (usize::from(self.data_len()), u16::try_from(bytes).ok()?);
        let end = self.data_off().checked_add(self.data_len())?.checked_add(bytes)?;
        if self.segment_count() != 1 || end > self.load::<u16>(dpdk_sys::FAIRLEAD_MBUF_BUF_LEN) {
            return None;
        }
        self.set_lengths(self.data_len() + bytes, self.total_len() + usize::from(bytes));
        self.head_mut().get_mut(at..)
    }

    /// Shortens the packet to `len` bytes, if it is longer; segments behind that are freed.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len >= self.total_len() {
            return;
        }
        match u16::try_from(len) {
            Ok(len) if self.segment_count() == 1 => self.set_lengths(len, usize::from(len)),
            _ => self.truncate_chain(len),
        }
    }

    /// What the receiving device says of the checksums.
    #[inline]
    #[must_use]
    pub fn rx_checksum(&self) -> RxChecksum {
        let flags = self.load::<u64>(dpdk_sys::FAIRLEAD_MBUF_OL_FLAGS);
        let l4 = flags & dpdk_sys::FAIRLEAD_RX_L4_MASK;
        if l4 == dpdk_sys::FAIRLEAD_RX_L4_BAD
            || flags & dpdk_sys::FAIRLEAD_RX_IP_MASK == dpdk_sys::FAIRLEAD_RX_IP_BAD
        {
            return RxChecksum::Bad;
        }
        match l4 {
            dpdk_sys::FAIRLEAD_RX_L4_GOOD => RxChecksum::Good,
            dpdk_sys::FAIRLEAD_RX_L4_NONE => RxChecksum::Unfinished,
            _ => RxChecksum::Unknown,
        }
    }

    /// Has the sending device finish the L4 checksum, whose field holds the pseudo header's sum.
    #[inline]
    pub fn request_tx_checksum(&mut self, request: TxChecksum) {
        // The bit fields of an mbuf; parsed headers are shorter (18 and 296 bytes at most).
        debug_assert!(request.l2_len < 1 << dpdk_sys::FAIRLEAD_TX_L2_LEN_BITS);
        debug_assert!(request.l3_len < 1 << dpdk_sys::FAIRLEAD_TX_L3_LEN_BITS);
        let family = if request.ipv6 { dpdk_sys::FAIRLEAD_TX_IPV6 } else { dpdk_sys::FAIRLEAD_TX_IPV4 };
        let l4 = if request.udp { dpdk_sys::FAIRLEAD_TX_UDP_CKSUM } else { dpdk_sys::FAIRLEAD_TX_TCP_CKSUM };
        let l2 = u64::from(request.l2_len) << dpdk_sys::FAIRLEAD_TX_L2_LEN_SHIFT;
        let l3 = u64::from(request.l3_len) << dpdk_sys::FAIRLEAD_TX_L3_LEN_SHIFT;
        // Those that are there stay: they may say that the data are not in the pool's own buffer.
        let flags = self.load::<u64>(dpdk_sys::FAIRLEAD_MBUF_OL_FLAGS);
        self.store(dpdk_sys::FAIRLEAD_MBUF_OL_FLAGS, flags | family | l4);
        self.store(dpdk_sys::FAIRLEAD_MBUF_TX_OFFLOAD, l2 | l3);
    }

    /// A raw pointer whose chain is now the caller's to free; for tests of ownership and for drivers.
    #[must_use]
    pub fn into_raw(self) -> *mut rte_mbuf {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }

    #[cold]
    fn truncate_chain(&mut self, len: usize) {
        let (mut left, mut kept) = (len, 1);
        let mut segment = self.0;
        loop {
            let here = usize::from(load::<u16>(segment, dpdk_sys::FAIRLEAD_MBUF_DATA_LEN));
            let next = NonNull::new(load::<*mut rte_mbuf>(segment, dpdk_sys::FAIRLEAD_MBUF_NEXT));
            let Some(next) = next.filter(|_| left > here) else { break };
            (left, kept, segment) = (left - here, kept + 1, next);
        }
        let rest = load::<*mut rte_mbuf>(segment, dpdk_sys::FAIRLEAD_MBUF_NEXT);
        store(segment, dpdk_sys::FAIRLEAD_MBUF_DATA_LEN, u16::try_from(left).unwrap_or(u16::MAX));
        store(segment, dpdk_sys::FAIRLEAD_MBUF_NEXT, std::ptr::null_mut::<rte_mbuf>());
        self.store::<u16>(dpdk_sys::FAIRLEAD_MBUF_NB_SEGS, kept);
        self.store(dpdk_sys::FAIRLEAD_MBUF_PKT_LEN, u32::try_from(len).unwrap_or(u32::MAX));
        // SAFETY: the rest of the chain was ours and is no longer reachable from what we keep; null means none.
        drop(unsafe { Self::from_raw(rest) });
    }

    #[inline]
    fn data(&self) -> *mut u8 {
        let start = self.load::<*mut u8>(dpdk_sys::FAIRLEAD_MBUF_BUF_ADDR);
        // SAFETY: the offset lies inside the buffer.
        unsafe { start.add(usize::from(self.data_off())) }
    }

    #[inline]
    fn data_off(&self) -> u16 {
        self.load(dpdk_sys::FAIRLEAD_MBUF_DATA_OFF)
    }

    #[inline]
    fn data_len(&self) -> u16 {
        self.load(dpdk_sys::FAIRLEAD_MBUF_DATA_LEN)
    }

    #[inline]
    fn segment_count(&self) -> u16 {
        self.load(dpdk_sys::FAIRLEAD_MBUF_NB_SEGS)
    }

    #[inline]
    fn set_data_off(&mut self, offset: u16) {
        self.store(dpdk_sys::FAIRLEAD_MBUF_DATA_OFF, offset);
    }

    /// Sets the first segment's and the packet's length.
    #[inline]
    fn set_lengths(&mut self, head: u16, total: usize) {
        self.store(dpdk_sys::FAIRLEAD_MBUF_DATA_LEN, head);
        self.store(dpdk_sys::FAIRLEAD_MBUF_PKT_LEN, u32::try_from(total).unwrap_or(u32::MAX));
    }

    #[inline]
    fn load<T: Copy>(&self, offset: usize) -> T {
        load(self.0, offset)
    }

    #[inline]
    fn store<T>(&mut self, offset: usize, value: T) {
        store(self.0, offset, value);
    }
}

/// Reads a field of a valid mbuf.
#[inline]
fn load<T: Copy>(mbuf: NonNull<rte_mbuf>, offset: usize) -> T {
    // SAFETY: every caller holds a segment of an owned chain; the offset and width of each field are those of the installed headers
    // (shim.h asserts the widths), so the read is aligned and inside the structure.
    unsafe { mbuf.as_ptr().cast::<u8>().add(offset).cast::<T>().read() }
}

/// Writes a field of a valid mbuf that the caller owns.
#[inline]
fn store<T>(mbuf: NonNull<rte_mbuf>, offset: usize, value: T) {
    // SAFETY: as in `load`; the caller has the chain to itself.
    unsafe { mbuf.as_ptr().cast::<u8>().add(offset).cast::<T>().write(value) }
}

/// The segments of a packet, in order.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    next: Option<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        let next = segment.0.as_ptr().cast::<u8>();
        // SAFETY: the `next` field holds null or the following segment, which the same owner has; `Option<Mbuf>` has
        // the layout of that pointer, and borrowing it in place neither copies nor frees it.
        self.next = unsafe { &*next.add(dpdk_sys::FAIRLEAD_MBUF_NEXT).cast::<Option<Mbuf>>() }.as_ref();
        Some(segment.head())
    }
}
