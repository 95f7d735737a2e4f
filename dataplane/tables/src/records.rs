//! A ring of records between two threads: a preallocated run of bytes, each record with its length in front, so that a
//! short one costs its length and not a buffer. A full ring refuses; the caller counts. Not here: what records mean.

use rtrb::{Consumer, Producer, RingBuffer, chunks::ChunkError};

use crate::PortId;

/// Kind (1), port (2), length of the body (2).
pub(crate) const HEADER_LEN: usize = 5;

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecordError {
    /// The other end is behind: no room now.
    Full,
    /// Longer than any record may be.
    TooLong,
}

/// What is in front of a record's body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    /// What the body is.
    pub(crate) kind: u8,
    /// The port it is about.
    pub(crate) port: PortId,
    /// Bytes of the body.
    pub(crate) len: usize,
}

/// The writing end.
pub(crate) struct RecordSender {
    ring: Producer<u8>,
}

/// The reading end.
pub(crate) struct RecordReceiver {
    ring: Consumer<u8>,
}

/// A ring of `bytes`.
pub(crate) fn ring(bytes: usize) -> (RecordSender, RecordReceiver) {
    let (producer, consumer) = RingBuffer::new(bytes);
    (RecordSender { ring: producer }, RecordReceiver { ring: consumer })
}

impl RecordSender {
    /// Writes a record whose body are the `parts`, of `len` bytes together; nothing of it if there is no room.
    pub(crate) fn push<'a>(
        &mut self,
        kind: u8,
        port: PortId,
        len: usize,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), RecordError> {
        let length = u16::try_from(len).map_err(|_| RecordError::TooLong)?;
        let [port_high, port_low] = port.0.to_be_bytes();
        let [len_high, len_low] = length.to_be_bytes();
        let header = [kind, port_high, port_low, len_high, len_low];
        let mut chunk = self
            .ring
            .write_chunk(HEADER_LEN + len)
            .map_err(|ChunkError::TooFewSlots(_)| RecordError::Full)?;
        let (first, second) = chunk.as_mut_slices();
        copy_split(first, second, 0, &header);
        let mut at = HEADER_LEN;
        for part in parts {
            copy_split(first, second, at, part);
            at += part.len();
        }
        chunk.commit_all();
        Ok(())
    }

    /// True when the reading end is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }
}

impl RecordReceiver {
    /// Takes the oldest record; its body goes to the front of `buffer`, which has room for the longest.
    pub(crate) fn pop(&mut self, buffer: &mut [u8]) -> Option<Record> {
        let mut header = [0; HEADER_LEN];
        self.ring.pop_entire_slice(&mut header).ok()?;
        let [kind, port_high, port_low, len_high, len_low] = header;
        let port = PortId(u16::from_be_bytes([port_high, port_low]));
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        // A record is committed whole, so its body is there when its header is.
        self.ring.pop_entire_slice(buffer.get_mut(..len)?).ok()?;
        Some(Record { kind, port, len })
    }

    /// True when nothing waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// True when the writing end is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }
}

/// Copies `part` to position `at` of the two slices taken as one.
fn copy_split(first: &mut [u8], second: &mut [u8], at: usize, part: &[u8]) {
    let in_first = part.len().min(first.len().saturating_sub(at));
    let (head, tail) = part.split_at(in_first);
    let from = at.min(first.len());
    first[from..from + head.len()].copy_from_slice(head);
    let from = at.saturating_sub(first.len());
    second[from..from + tail.len()].copy_from_slice(tail);
}
