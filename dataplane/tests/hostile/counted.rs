//! Ports whose buffers are counted: one that is neither sent nor given back is missed.

use std::{cell::Cell, collections::VecDeque, rc::Rc};

use dataplane::{
    buf::{Burst, ChecksumStatus, PacketBuf, TxChecksum},
    io::{Capabilities, PortIo, mem::MemBuf},
};

/// Buffers that there are.
pub(crate) type Count = Rc<Cell<usize>>;

pub(crate) struct Counted {
    buf: MemBuf,
    count: Count,
}

impl Counted {
    fn new(buf: MemBuf, count: &Count) -> Self {
        count.set(count.get() + 1);
        Self { buf, count: Rc::clone(count) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.set(self.count.get().checked_sub(1).expect("no buffer is given back twice"));
    }
}

impl PacketBuf for Counted {
    fn head(&self) -> &[u8] {
        self.buf.head()
    }

    fn head_mut(&mut self) -> &mut [u8] {
        self.buf.head_mut()
    }

    fn total_len(&self) -> usize {
        self.buf.total_len()
    }

    fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.buf.segments()
    }

    fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.buf.prepend(bytes)
    }

    fn trim_front(&mut self, bytes: usize) -> Option<()> {
        self.buf.trim_front(bytes)
    }

    fn append(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.buf.append(bytes)
    }

    fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
    }

    fn rx_checksum(&self) -> ChecksumStatus {
        self.buf.rx_checksum()
    }

    fn request_tx_checksum(&mut self, request: TxChecksum) {
        self.buf.request_tx_checksum(request);
    }

    fn prefetch(&self) {
        self.buf.prefetch();
    }
}

/// A port whose wire is two queues.
#[derive(Default)]
pub(crate) struct CountedPort {
    waiting: VecDeque<Counted>,
    sent: VecDeque<Counted>,
    count: Count,
}

impl CountedPort {
    pub(crate) fn new(count: &Count) -> Self {
        Self { count: Rc::clone(count), ..Self::default() }
    }

    /// Puts a frame where the worker will receive it.
    pub(crate) fn push(&mut self, frame: &[u8]) {
        let buf = MemBuf::from_frame(frame).expect("a frame fits a buffer");
        self.waiting.push_back(Counted::new(buf, &self.count));
    }

    /// Takes the oldest frame that the worker sent.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.sent.pop_front().map(|sent| sent.buf.to_vec())
    }
}

impl PortIo for CountedPort {
    type Buf = Counted;

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn rx(&mut self, burst: &mut Burst<Counted>) {
        let mut count = 0;
        for slot in burst.spare_mut() {
            let Some(buf) = self.waiting.pop_front() else { break };
            *slot = Some(buf);
            count += 1;
        }
        burst.filled(count);
    }

    fn tx(&mut self, burst: &mut Burst<Counted>) {
        let count = burst.len();
        self.sent.extend(burst.slots_mut().iter_mut().filter_map(Option::take));
        burst.sent(count);
    }

    fn alloc(&mut self) -> Option<Counted> {
        Some(Counted::new(MemBuf::empty(), &self.count))
    }
}
