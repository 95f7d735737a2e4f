//! One worker's side of one port: its queue pair and the packets gathered for sending.

use tables::DropReason;

use crate::{
    buf::{Burst, PacketBuf},
    io::{Capabilities, PortIo},
};

/// A queue pair with its transmit buffer.
#[derive(Debug)]
pub(crate) struct Lane<P: PortIo> {
    pub(crate) io: P,
    pub(crate) capabilities: Capabilities,
    tx: Burst<P::Buf>,
    /// Bytes of what waits in `tx`.
    tx_bytes: u64,
    sent: Sent,
}

/// What left a lane since it was last asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl<P: PortIo> Lane<P> {
    pub(crate) fn new(io: P) -> Self {
        let capabilities = io.capabilities();
        Self { io, capabilities, tx: Burst::new(), tx_bytes: 0, sent: Sent::default() }
    }

    /// Gathers a packet, sending when there are enough.
    ///
    /// # Errors
    /// The packet, when the device takes no more.
    #[inline(always)]
    pub(crate) fn send(&mut self, buf: P::Buf, bytes: usize) -> Result<(), P::Buf> {
        if let Err(buf) = self.tx.push(buf) {
            return self.flush_and_send(buf, bytes);
        }
        self.tx_bytes += bytes as u64;
        Ok(())
    }

    #[inline(never)]
    fn flush_and_send(&mut self, buf: P::Buf, bytes: usize) -> Result<(), P::Buf> {
        self.flush();
        self.tx.push(buf)?;
        self.tx_bytes += bytes as u64;
        Ok(())
    }

    /// A buffer with a copy of a frame.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn copy_of(&mut self, frame: &[u8]) -> Result<P::Buf, DropReason> {
        let mut buf = self.io.alloc().ok_or(DropReason::NoBuffer)?;
        buf.append(frame.len()).ok_or(DropReason::TooBig)?.copy_from_slice(frame);
        Ok(buf)
    }

    /// Sends what was gathered, as far as the device takes it.
    #[inline]
    pub(crate) fn flush(&mut self) {
        let before = self.tx.len();
        if before == 0 {
            return;
        }
        self.io.tx(&mut self.tx);
        let left = if self.tx.is_empty() { 0 } else { self.waiting_bytes() };
        self.sent.packets += (before - self.tx.len()) as u64;
        self.sent.bytes += self.tx_bytes - left;
        self.tx_bytes = left;
    }

    /// What was sent since the last call.
    #[inline]
    pub(crate) fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
    }

    /// Packets gathered and not yet sent.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.tx.len()
    }

    #[cold]
    fn waiting_bytes(&self) -> u64 {
        self.tx.iter().map(|buf| buf.total_len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::mem::{MemBuf, MemPort};

    #[test]
    fn what_the_device_refuses_waits_and_is_counted_when_it_leaves() {
        let mut port = MemPort::default();
        port.limit_tx(2);
        let mut lane = Lane::new(port);
        for _ in 0..3 {
            lane.send(MemBuf::from_frame(&[0; 60]).unwrap(), 60).unwrap();
        }
        lane.flush();
        assert_eq!((lane.take_sent(), lane.waiting()), (Sent { packets: 2, bytes: 120 }, 1));
        while lane.io.pop().is_some() {}
        lane.flush();
        assert_eq!((lane.take_sent(), lane.waiting()), (Sent { packets: 1, bytes: 60 }, 0));
    }

    #[test]
    fn a_stuck_device_refuses_after_one_burst() {
        let mut port = MemPort::default();
        port.limit_tx(0);
        let mut lane = Lane::new(port);
        let refused = (0..40).filter(|_| lane.send(MemBuf::empty(), 0).is_err()).count();
        assert_eq!(refused, 40 - crate::buf::BURST);
    }
}
