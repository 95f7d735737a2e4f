//! DPDK queues as ports. The only file of this crate that names DPDK.

pub use dpdk::{Eal, EalConfig, HugePages, Job, Mempool, Port, PortConfig, QueuePair, StartedPort};
use dpdk::{Mbuf, RxChecksum};

use super::{Capabilities, PortIo};
use crate::buf::{Burst, ChecksumKind, ChecksumStatus, PacketBuf, TxChecksum};

impl PacketBuf for Mbuf {
    #[inline]
    fn head(&self) -> &[u8] {
        Self::head(self)
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        Self::head_mut(self)
    }

    #[inline]
    fn total_len(&self) -> usize {
        Self::total_len(self)
    }

    #[inline]
    fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        Self::segments(self)
    }

    #[inline]
    fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        Self::prepend(self, bytes)
    }

    #[inline]
    fn trim_front(&mut self, bytes: usize) -> Option<()> {
        Self::trim_front(self, bytes)
    }

    #[inline]
    fn append(&mut self, bytes: usize) -> Option<&mut [u8]> {
        Self::append(self, bytes)
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        Self::truncate(self, len);
    }

    #[inline]
    fn rx_checksum(&self) -> ChecksumStatus {
        match Self::rx_checksum(self) {
            RxChecksum::Unknown => ChecksumStatus::Unknown,
            RxChecksum::Good => ChecksumStatus::Good,
            RxChecksum::Bad => ChecksumStatus::Bad,
            RxChecksum::Unfinished => ChecksumStatus::Partial,
        }
    }

    #[inline]
    fn request_tx_checksum(&mut self, request: TxChecksum) {
        let (ipv6, udp) = match request.kind {
            ChecksumKind::Tcp4 => (false, false),
            ChecksumKind::Tcp6 => (true, false),
            ChecksumKind::Udp4 => (false, true),
            ChecksumKind::Udp6 => (true, true),
        };
        let TxChecksum { l2_len, l3_len, .. } = request;
        Self::request_tx_checksum(self, dpdk::TxChecksum { l2_len, l3_len, ipv6, udp });
    }

    #[inline]
    fn prefetch(&self) {
        if let Some(first) = self.head().first() {
            cpu::prefetch_read(first);
        }
    }
}

impl PortIo for QueuePair {
    type Buf = Mbuf;

    fn capabilities(&self) -> Capabilities {
        let device = Self::capabilities(self);
        Capabilities {
            rx_checksum: device.rx_checksum,
            tx_tcp_checksum: device.tx_tcp_checksum,
            tx_udp_checksum: device.tx_udp_checksum,
        }
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Mbuf>) {
        let count = Self::rx(self, burst.spare_mut());
        burst.filled(count);
    }

    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let count = Self::tx(self, burst.slots_mut());
        burst.sent(count);
    }

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        Self::alloc(self)
    }
}
