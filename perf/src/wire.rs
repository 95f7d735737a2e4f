//! Buffers and ports for benches: buffers of 2 KiB on huge pages, laid out as a packet driver has them, and queues that never
//! touch the heap once they are there.

use std::{collections::VecDeque, io};

use cpu::HugeSlice;
use dataplane::{
    buf::{Burst, ChecksumStatus, PacketBuf, TxChecksum},
    io::{Capabilities, PortIo},
};

const START: u16 = 128;
const HEADROOM: usize = START as usize;
/// Of a buffer, headroom included.
const ROOM: usize = 2176;
/// From one buffer to the next: as in a pool of DPDK's, with 64 bytes before each and an mbuf of 128. Lines of frames that
/// lay 2 KiB apart would fight for two sets of the nearest cache, which no packet driver has them do.
const STRIDE: usize = 64 + 128 + ROOM;

/// A buffer; it lives as long as the process, so nothing is freed when it is dropped.
#[derive(Debug)]
pub struct WireBuf {
    bytes: &'static mut [u8],
    start: u16,
    end: u16,
}

impl WireBuf {
    /// Makes the buffer hold a copy of `frame`, of which as much is taken as fits.
    #[inline]
    pub fn fill(&mut self, frame: &[u8]) -> &mut [u8] {
        let len = frame.len().min(ROOM - HEADROOM);
        self.bytes[HEADROOM..HEADROOM + len].copy_from_slice(&frame[..len]);
        self.start = START;
        self.end = START + u16::try_from(len).unwrap_or(0);
        self.head_mut()
    }
}

impl PacketBuf for WireBuf {
    #[inline]
    fn head(&self) -> &[u8] {
        &self.bytes[self.start.into()..self.end.into()]
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start.into()..self.end.into()]
    }

    #[inline]
    fn total_len(&self) -> usize {
        (self.end - self.start).into()
    }

    #[inline]
    fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        std::iter::once(self.head())
    }

    fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(u16::try_from(bytes).ok()?)?;
        Some(self.head_mut())
    }

    fn trim_front(&mut self, bytes: usize) -> Option<()> {
        let start = self.start.checked_add(u16::try_from(bytes).ok()?).filter(|start| *start <= self.end)?;
        self.start = start;
        Some(())
    }

    fn append(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let old = usize::from(self.end);
        let end = old.checked_add(bytes).filter(|end| *end <= ROOM)?;
        self.end = u16::try_from(end).ok()?;
        self.bytes.get_mut(old..end)
    }

    fn truncate(&mut self, len: usize) {
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.end = self.end.min(self.start.saturating_add(len));
    }

    #[inline]
    fn rx_checksum(&self) -> ChecksumStatus {
        ChecksumStatus::Unknown
    }

    fn request_tx_checksum(&mut self, _request: TxChecksum) {}

    #[inline]
    fn prefetch(&self) {
        cpu::prefetch_index(self.bytes, self.start.into());
    }
}

/// A port whose wire is a queue in each direction.
#[derive(Debug)]
pub struct WirePort {
    waiting: VecDeque<WireBuf>,
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
        let rooms = bytes.chunks_exact_mut(STRIDE).map(|bytes| &mut bytes[STRIDE - ROOM..]);
        let free = rooms.map(|bytes| WireBuf { bytes, start: 0, end: 0 }).collect();
        // Buffers come back on other ports than they left from, so each queue has room for those of two.
        let queue = || VecDeque::with_capacity(buffers * 2);
        Ok(Self { waiting: queue(), sent: queue(), free })
    }

    /// Lets a frame arrive, made by `make` in a buffer that was not used for the longest time; false without a buffer.
    #[inline]
    pub fn arrive(&mut self, make: impl FnOnce(&mut WireBuf)) -> bool {
        let Some(mut buf) = self.free.pop_front() else { return false };
        make(&mut buf);
        self.waiting.push_back(buf);
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
            let Some(buf) = self.waiting.pop_front() else { break };
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
        buf.fill(&[]);
        Some(buf)
    }
}
