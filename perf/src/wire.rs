//! Buffers and ports for benches: buffers of 2 KiB on huge pages, laid out as a packet driver has them, and queues that never
//! touch the heap once they are there.

use std::{collections::VecDeque, io, ops::Range};

use cpu::HugeSlice;
use dataplane::{
    buf::{Burst, ChecksumStatus, PacketBuf, TxChecksum},
    io::{Capabilities, PortIo},
};

/// Before each buffer, as in a pool of DPDK's. Lines of frames that lay 2 KiB apart would fight for two sets of the
/// nearest cache, which no packet driver has them do.
const POOL_HEADER: usize = 64;
/// What is known of the frame, as in an mbuf: where it starts and where it ends, in the first line.
const START: usize = POOL_HEADER;
const END: usize = START + 2;
/// Where the bytes begin.
const BYTES: usize = POOL_HEADER + 128;
/// Where a frame that arrives begins.
const FRAME: usize = BYTES + 128;
/// From one buffer to the next.
const STRIDE: usize = BYTES + 2176;

/// A buffer, as thin as an mbuf's pointer; it lives as long as the process, so nothing is freed when it is dropped.
#[derive(Debug)]
pub struct WireBuf(&'static mut [u8; STRIDE]);

impl WireBuf {
    /// Makes the buffer hold a copy of `frame`, of which as much is taken as fits; gives the bytes, and how many.
    #[inline]
    fn fill(&mut self, frame: &[u8]) -> &mut [u8] {
        let len = frame.len().min(STRIDE - FRAME);
        let room = &mut self.0[FRAME..FRAME + len];
        room.copy_from_slice(&frame[..len]);
        room
    }

    #[inline(always)]
    fn get(&self, at: usize) -> usize {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]]).into()
    }

    #[inline(always)]
    fn set(&mut self, at: usize, value: usize) {
        debug_assert!(value <= STRIDE, "a place in the buffer");
        #[expect(clippy::cast_possible_truncation, reason = "places in a buffer are small")]
        let value = value as u16;
        self.0[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }

    #[inline(always)]
    fn range(&self) -> Range<usize> {
        self.get(START)..self.get(END)
    }
}

impl PacketBuf for WireBuf {
    #[inline]
    fn head(&self) -> &[u8] {
        &self.0[self.range()]
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut self.0[range]
    }

    #[inline]
    fn total_len(&self) -> usize {
        self.range().len()
    }

    #[inline]
    fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        std::iter::once(self.head())
    }

    fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let start = self.get(START).checked_sub(bytes).filter(|start| *start >= BYTES)?;
        self.set(START, start);
        Some(self.head_mut())
    }

    fn trim_front(&mut self, bytes: usize) -> Option<()> {
        let start = self.get(START).checked_add(bytes).filter(|start| *start <= self.get(END))?;
        self.set(START, start);
        Some(())
    }

    fn append(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let old = self.get(END);
        let end = old.checked_add(bytes).filter(|end| *end <= STRIDE)?;
        self.set(END, end);
        self.0.get_mut(old..end)
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        if len < self.total_len() {
            self.set(END, self.get(START) + len);
        }
    }

    #[inline]
    fn rx_checksum(&self) -> ChecksumStatus {
        ChecksumStatus::Unknown
    }

    fn request_tx_checksum(&mut self, _request: TxChecksum) {}

    #[inline]
    fn prefetch(&self) {
        cpu::prefetch_read(&self.0[FRAME]);
    }
}

/// A port whose wire is a queue in each direction.
#[derive(Debug)]
pub struct WirePort {
    /// Each with the bytes of its frame, as a descriptor has them.
    waiting: VecDeque<(WireBuf, usize)>,
    sent: VecDeque<WireBuf>,
    free: VecDeque<WireBuf>,
}

impl WirePort {
    /// A port with as many buffers, on the largest pages to be had.
    ///
    /// # Errors
    /// When there is no memory for the buffers.
    pub fn new(buffers: usize) -> io::Result<Self> {
        let memory = Box::leak(Box::new(HugeSlice::<u64>::zeroed(buffers * STRIDE / size_of::<u64>())?));
        let bytes: &'static mut [u8] = bytemuck::cast_slice_mut(memory);
        let free = bytes.as_chunks_mut().0.iter_mut().map(WireBuf).collect();
        // Buffers come back on other ports than they left from, so each queue has room for those of two.
        let room = buffers * 2;
        Ok(Self { waiting: VecDeque::with_capacity(room), sent: VecDeque::with_capacity(room), free })
    }

    /// Lets a copy of a frame arrive, with what `change` does to it, in a buffer that was not used for the longest time;
    /// false without a buffer.
    #[inline]
    pub fn arrive(&mut self, frame: &[u8], change: impl FnOnce(&mut [u8])) -> bool {
        let Some(mut buf) = self.free.pop_front() else { return false };
        let bytes = buf.fill(frame);
        change(bytes);
        let len = bytes.len();
        self.waiting.push_back((buf, len));
        true
    }

    /// Frames waiting to be received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The oldest frame that was sent.
    pub fn sent(&mut self) -> Option<WireBuf> {
        self.sent.pop_front()
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, buf: WireBuf) {
        self.free.push_back(buf);
    }
}

impl PortIo for WirePort {
    type Buf = WireBuf;

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<WireBuf>) {
        let mut count = 0;
        for slot in burst.spare_mut() {
            let Some((mut buf, len)) = self.waiting.pop_front() else { break };
            // What a driver writes into an mbuf.
            buf.set(START, FRAME);
            buf.set(END, FRAME + len);
            *slot = Some(buf);
            count += 1;
        }
        burst.filled(count);
    }

    #[inline]
    fn tx(&mut self, burst: &mut Burst<WireBuf>) {
        let slots = burst.slots_mut();
        let count = slots.len();
        self.sent.extend(slots.iter_mut().filter_map(Option::take));
        burst.sent(count);
    }

    fn alloc(&mut self) -> Option<WireBuf> {
        let mut buf = self.free.pop_front()?;
        buf.set(START, FRAME);
        buf.set(END, FRAME);
        Some(buf)
    }
}
