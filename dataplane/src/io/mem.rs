//! A port in memory: tests and benches push frames in and take frames out. Buffers that were sent and taken
//! back are used again, so a steady loop does not touch the heap.

use std::collections::VecDeque;

use super::{Capabilities, PortIo};
use crate::buf::{Burst, ChecksumStatus, PacketBuf, TxChecksum};

/// Bytes in front of a received frame.
const HEADROOM: usize = 128;
/// Bytes of one buffer, headroom included: that of a usual mempool.
const ROOM: usize = HEADROOM + 2_048;

/// One frame in memory.
#[derive(Debug)]
pub struct MemBuf(Box<Frame>);

#[derive(Debug)]
struct Frame {
    start: usize,
    end: usize,
    status: ChecksumStatus,
    request: Option<TxChecksum>,
    /// Further segments, only ever filled by tests of scattered frames.
    more: Vec<Box<[u8]>>,
    bytes: Box<[u8]>,
}

impl MemBuf {
    /// A buffer holding `frame`; `None` when it does not fit.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let mut buf = Self::empty();
        buf.append(frame.len())?.copy_from_slice(frame);
        Some(buf)
    }

    /// An empty buffer with headroom.
    #[must_use]
    pub fn empty() -> Self {
        Self(Box::new(Frame {
            start: HEADROOM,
            end: HEADROOM,
            status: ChecksumStatus::Unknown,
            request: None,
            more: Vec::new(),
            bytes: vec![0; ROOM].into_boxed_slice(),
        }))
    }

    /// Empties the buffer for reuse and puts the headroom back.
    pub fn reset(&mut self) {
        let frame = &mut *self.0;
        frame.start = HEADROOM;
        frame.end = HEADROOM;
        frame.status = ChecksumStatus::Unknown;
        frame.request = None;
        frame.more.clear();
    }

    /// Sets what [`PacketBuf::rx_checksum`] reports.
    pub fn set_rx_checksum(&mut self, status: ChecksumStatus) {
        self.0.status = status;
    }

    /// What was asked of the transmitting port.
    #[must_use]
    pub fn tx_request(&self) -> Option<TxChecksum> {
        self.0.request
    }

    /// Appends a segment behind the head.
    pub fn push_segment(&mut self, bytes: &[u8]) {
        self.0.more.push(bytes.into());
    }

    /// All segments in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.segments().flatten().copied().collect()
    }
}

impl Frame {
    /// Shortens what is behind the head to `rest` bytes.
    #[cold]
    fn truncate_segments(&mut self, mut rest: usize) {
        for segment in &mut self.more {
            if segment.len() > rest {
                *segment = segment[..rest].into();
            }
            rest -= segment.len();
        }
        self.more.retain(|segment| !segment.is_empty());
    }
}

impl PacketBuf for MemBuf {
    #[inline]
    fn head(&self) -> &[u8] {
        &self.0.bytes[self.0.start..self.0.end]
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        let frame = &mut *self.0;
        &mut frame.bytes[frame.start..frame.end]
    }

    #[inline]
    fn total_len(&self) -> usize {
        let head = self.0.end - self.0.start;
        if self.0.more.is_empty() {
            return head;
        }
        head + self.0.more.iter().map(|segment| segment.len()).sum::<usize>()
    }

    fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        std::iter::once(self.head()).chain(self.0.more.iter().map(AsRef::as_ref))
    }

    fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let frame = &mut *self.0;
        frame.start = frame.start.checked_sub(bytes)?;
        frame.bytes.get_mut(frame.start..frame.start + bytes)
    }

    fn trim_front(&mut self, bytes: usize) -> Option<()> {
        let frame = &mut *self.0;
        let start = frame.start.checked_add(bytes).filter(|&start| start <= frame.end)?;
        frame.start = start;
        Some(())
    }

    fn append(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let frame = &mut *self.0;
        let end = frame.end.checked_add(bytes).filter(|&end| end <= ROOM && frame.more.is_empty())?;
        let tail = frame.bytes.get_mut(frame.end..end)?;
        frame.end = end;
        Some(tail)
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        let frame = &mut *self.0;
        let rest = len.saturating_sub(frame.end - frame.start);
        frame.end = frame.end.min(frame.start.saturating_add(len));
        if !frame.more.is_empty() {
            frame.truncate_segments(rest);
        }
    }

    #[inline]
    fn rx_checksum(&self) -> ChecksumStatus {
        self.0.status
    }

    fn request_tx_checksum(&mut self, request: TxChecksum) {
        self.0.request = Some(request);
    }

    #[inline]
    fn prefetch(&self) {
        // The box itself is one dependent load away; the frame behind it cannot be reached without it.
    }
}

/// A port whose wire is two queues in memory.
#[derive(Debug, Default)]
pub struct MemPort {
    capabilities: Capabilities,
    waiting: VecDeque<MemBuf>,
    sent: VecDeque<MemBuf>,
    free: Vec<MemBuf>,
    room: Option<usize>,
    /// Buffers that are still to be had, where they are limited.
    allocations: Option<usize>,
}

impl MemPort {
    /// A port with these capabilities and an endless wire.
    #[must_use]
    pub fn new(capabilities: Capabilities) -> Self {
        Self { capabilities, ..Self::default() }
    }

    /// Lets only `frames` wait on the wire: a burst beyond that stays with the sender.
    pub fn limit_tx(&mut self, frames: usize) {
        self.room = Some(frames);
    }

    /// Lets only so many more buffers be had.
    pub fn limit_alloc(&mut self, buffers: usize) {
        self.allocations = Some(buffers);
    }

    /// Puts a copy of `frame` where the worker will receive it; `false` when it is longer than a buffer.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        let mut buf = self.alloc().unwrap_or_else(MemBuf::empty);
        match buf.append(frame.len()) {
            Some(room) => room.copy_from_slice(frame),
            None => return false,
        }
        self.waiting.push_back(buf);
        true
    }

    /// Puts a prepared buffer where the worker will receive it.
    pub fn push_buf(&mut self, buf: MemBuf) {
        self.waiting.push_back(buf);
    }

    /// Takes the oldest frame the worker sent.
    pub fn pop(&mut self) -> Option<MemBuf> {
        self.sent.pop_front()
    }

    /// Gives a taken buffer back for reuse.
    pub fn recycle(&mut self, mut buf: MemBuf) {
        buf.reset();
        self.free.push(buf);
    }

    /// Frames waiting to be received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl PortIo for MemPort {
    type Buf = MemBuf;

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn rx(&mut self, burst: &mut Burst<MemBuf>) {
        let mut count = 0;
        for slot in burst.spare_mut() {
            let Some(buf) = self.waiting.pop_front() else { break };
            *slot = Some(buf);
            count += 1;
        }
        burst.filled(count);
    }

    fn tx(&mut self, burst: &mut Burst<MemBuf>) {
        let room = self.room.map_or(usize::MAX, |room| room.saturating_sub(self.sent.len()));
        let mut count = 0;
        for buf in burst.slots_mut().iter_mut().take(room).filter_map(Option::take) {
            self.sent.push_back(buf);
            count += 1;
        }
        burst.sent(count);
    }

    fn alloc(&mut self) -> Option<MemBuf> {
        if let Some(left) = &mut self.allocations {
            *left = left.checked_sub(1)?;
        }
        Some(self.free.pop().unwrap_or_else(MemBuf::empty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_through_and_its_buffer_is_used_again() {
        let mut port = MemPort::default();
        assert!(port.push(b"frame"));
        let mut burst = Burst::new();
        port.rx(&mut burst);
        assert_eq!((burst.len(), port.waiting()), (1, 0));
        port.tx(&mut burst);
        let buf = port.pop().unwrap();
        assert_eq!(buf.head(), b"frame");
        port.recycle(buf);
        assert_eq!(port.alloc().unwrap().total_len(), 0);
    }

    #[test]
    fn a_full_wire_leaves_the_rest_with_the_sender() {
        let mut port = MemPort::default();
        port.limit_tx(2);
        let mut burst = Burst::new();
        for n in 0..3u8 {
            burst.push(MemBuf::from_frame(&[n]).unwrap()).unwrap();
        }
        port.tx(&mut burst);
        assert_eq!(burst.iter().map(|buf| buf.head()[0]).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn heads_grow_and_shrink_at_both_ends() {
        let mut buf = MemBuf::from_frame(b"0123456789").unwrap();
        assert!(buf.prepend(HEADROOM + 1).is_none());
        buf.prepend(2).unwrap().copy_from_slice(b"ab");
        assert_eq!(buf.head(), b"ab0123456789");
        assert!(buf.trim_front(3).is_some() && buf.trim_front(100).is_none());
        buf.truncate(4);
        assert_eq!(buf.head(), b"1234");
        assert!(buf.append(ROOM).is_none());
    }

    #[test]
    fn truncating_reaches_into_later_segments() {
        let mut buf = MemBuf::from_frame(b"head").unwrap();
        buf.push_segment(b"middle");
        buf.push_segment(b"tail");
        assert_eq!(buf.total_len(), 14);
        buf.truncate(7);
        assert_eq!(buf.to_vec(), b"headmid");
        buf.truncate(2);
        assert_eq!((buf.total_len(), buf.segments().count()), (2, 1));
    }
}
