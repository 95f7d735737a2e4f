//! A queue pair of a started port, owned by one worker: one call a burst.

use std::{cell::Cell, marker::PhantomData, os::fd::BorrowedFd, sync::Arc};

use dpdk_sys::rte_mbuf;

use crate::{Errno, Mbuf, Mempool, PortCapabilities, interrupt::RxInterrupt, port::Running};

/// One receive and one transmit queue with the same number. Not `Sync`: whoever has it is its only user.
#[derive(Debug)]
pub struct QueuePair {
    port: u16,
    queue: u16,
    pool: Mempool,
    capabilities: PortCapabilities,
    interrupt: Option<RxInterrupt>,
    /// Keeps the port started.
    running: Arc<Running>,
    _one_user: PhantomData<Cell<()>>,
}

impl QueuePair {
    pub(crate) const fn new(
        (port, queue): (u16, u16),
        pool: Mempool,
        (capabilities, interrupt): (PortCapabilities, Option<RxInterrupt>),
        running: Arc<Running>,
    ) -> Self {
        Self { port, queue, pool, capabilities, interrupt, running, _one_user: PhantomData }
    }

    /// Fills empty slots from the front with received packets; how many.
    #[inline]
    pub fn rx(&mut self, slots: &mut [Option<Mbuf>]) -> usize {
        debug_assert!(slots.iter().all(Option::is_none), "a full slot would leak");
        let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
        let raw = slots.as_mut_ptr().cast::<*mut rte_mbuf>();
        // SAFETY: the port is started while we live and we are the queue's only user. `Option<Mbuf>` has the layout of a
        // nullable pointer, so the slots are room for `count` of them; those written are whole chains that are now ours.
        let received = usize::from(unsafe { dpdk_sys::rte_eth_rx_burst(self.port, self.queue, raw, count) });
        for slot in slots.iter_mut().skip(received) {
            // Vector drivers store whole groups of pointers before they know how many packets are complete: what stands
            // behind the last packet is not ours. Forget it, do not free it.
            std::mem::forget(slot.take());
        }
        received
    }

    /// Sends full slots from the front, up to the first empty one; how many the device took. Those are empty afterwards.
    #[inline]
    pub fn tx(&mut self, slots: &mut [Option<Mbuf>]) -> usize {
        // A driver would follow the null pointer of a hole.
        let full = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        let count = u16::try_from(full).unwrap_or(u16::MAX);
        let raw = slots.as_mut_ptr().cast::<*mut rte_mbuf>();
        // SAFETY: as in `rx`; the slots hold `count` owned chains, and those taken belong to the device from now on.
        let taken = usize::from(unsafe { dpdk_sys::rte_eth_tx_burst(self.port, self.queue, raw, count) });
        for slot in slots.iter_mut().take(taken) {
            // The device owns the packet: forget it, do not free it.
            std::mem::forget(slot.take());
        }
        taken
    }

    /// An empty packet; `None` when the pool is exhausted.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    /// Has the device tell of packets that come from now on: the file becomes readable, and again for each that comes
    /// until [`Self::disarm`]; it is not to be read. Packets that came before are for the caller to look for afterwards.
    ///
    /// # Errors
    /// When the device has no receive interrupts, or refuses now: one that stands for a peer may need the peer.
    pub fn arm(&mut self) -> Result<BorrowedFd<'_>, Errno> {
        let interrupt = self.interrupt.as_mut().ok_or(Errno(libc::ENOTSUP))?;
        interrupt.arm(&self.running.switch)
    }

    /// Has the device be silent again.
    pub fn disarm(&mut self) {
        if let Some(interrupt) = &mut self.interrupt {
            interrupt.disarm(&self.running.switch);
        }
    }

    /// What the device does by itself.
    #[inline]
    #[must_use]
    pub const fn capabilities(&self) -> PortCapabilities {
        self.capabilities
    }
}
