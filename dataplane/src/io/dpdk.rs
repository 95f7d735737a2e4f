//! DPDK queues as ports. The only file of this crate that names DPDK.

use std::{io, os::fd::BorrowedFd};

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
            rx_interrupts: device.rx_interrupts,
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

    fn arm(&mut self) -> io::Result<BorrowedFd<'_>> {
        Self::arm(self).map_err(|errno| io::Error::from_raw_os_error(errno.0))
    }

    fn disarm(&mut self) {
        Self::disarm(self);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use packet::{Address, FlowKey, Protocol};
    use proptest::prelude::*;
    use tables::rss::Rss;

    /// The input of DPDK's hash: addresses and ports, a word each 32 bits.
    fn words<A: Address>(key: &FlowKey<A>) -> Vec<u32> {
        let bits = |address: A| match address.into() {
            IpAddr::V4(v4) => vec![v4.to_bits()],
            IpAddr::V6(v6) => {
                v6.octets().chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
            }
        };
        [bits(key.src), bits(key.dst), vec![key.ports()]].concat()
    }

    proptest! {
        #[test]
        fn packets_have_the_rss_hash_that_dpdk_computes(secret: u64, a: u128, b: u128, v4: (u32, u32), ports: (u16, u16)) {
            let rss = Rss::of_secret(secret);
            let (sport, dport) = ports;
            let (src, dst) = (Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b));
            let v6 = FlowKey { src, dst, sport, dport, protocol: Protocol::Tcp };
            prop_assert_eq!(rss.hash(&v6), dpdk::soft_rss(&words(&v6), rss.key()));
            let (src, dst) = (Ipv4Addr::from_bits(v4.0), Ipv4Addr::from_bits(v4.1));
            let v4 = FlowKey { src, dst, sport, dport, protocol: Protocol::Udp };
            prop_assert_eq!(rss.hash(&v4), dpdk::soft_rss(&words(&v4), rss.key()));
        }
    }
}
