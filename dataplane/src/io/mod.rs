//! Ports: where bursts come from and go to. The memory port serves tests and benches, the pcap port replays
//! captures, and DPDK is one more implementation behind a feature.

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod mem;
pub mod pcap;

use std::{io, os::fd::BorrowedFd};

use crate::buf::{Burst, PacketBuf};

/// What a port's device does by itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capabilities {
    /// Received packets carry a checksum status; without it the stages detect unfinished checksums themselves.
    pub rx_checksum: bool,
    /// Finishes a TCP checksum on request.
    pub tx_tcp_checksum: bool,
    /// Finishes a UDP checksum on request.
    pub tx_udp_checksum: bool,
    /// Has receive interrupts: [`PortIo::arm`] works, unless the device is in no state for it.
    pub rx_interrupts: bool,
}

/// One rx/tx queue pair of a port, owned by one worker.
pub trait PortIo {
    /// The buffers this port receives and sends.
    type Buf: PacketBuf;

    /// What the device does by itself; constant while the port lives.
    fn capabilities(&self) -> Capabilities;
    /// Receives into the burst's spare slots, as many packets as are waiting.
    fn rx(&mut self, burst: &mut Burst<Self::Buf>);
    /// Sends from the front of the burst what the device takes; the rest stays inside. The burst has no holes.
    fn tx(&mut self, burst: &mut Burst<Self::Buf>);
    /// An empty buffer with the usual headroom for a packet made here; `None` when the pool is exhausted.
    fn alloc(&mut self) -> Option<Self::Buf>;

    /// Has the device tell by a file, each time that it becomes readable, of packets that come from now on. The caller
    /// looks afterwards for those that came before.
    ///
    /// # Errors
    /// When the device cannot, or cannot now.
    fn arm(&mut self) -> io::Result<BorrowedFd<'_>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Has it be silent again.
    fn disarm(&mut self) {}
}
