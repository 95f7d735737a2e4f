//! Receive interrupts: a file that tells of packets while nobody polls.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use crate::{Errno, errno};

/// The first number that is not standard input, output or error.
const FILES_FIRST: RawFd = 3;

/// The interrupt of one receive queue.
#[derive(Debug)]
pub(crate) struct RxInterrupt {
    port: u16,
    queue: u16,
    /// The driver has no switch: its file tells always.
    unswitched: bool,
}

/// The driver whose file is that of the kernel's device, which tells of every packet; it has no switch.
const UNSWITCHED: &str = "net_tap";

/// Serialises switches of one port: drivers change registers that its queues share.
pub(crate) type Switch = Mutex<()>;

impl RxInterrupt {
    /// The interrupt of a queue of a started port, where its driver has them.
    pub(crate) fn of((port, queue): (u16, u16), driver: &str, switch: &Switch) -> Option<Self> {
        file(port, queue)?;
        let mut interrupt = Self { port, queue, unswitched: driver == UNSWITCHED };
        // Others than "not supported" may pass: the peer of `net_vhost` need not be there yet.
        let has = interrupt.arm(switch).err() != Some(Errno(libc::ENOTSUP));
        interrupt.disarm(switch);
        has.then_some(interrupt)
    }

    /// Has the device tell of the packets that come from now on, and says by which file. Drivers may exchange the file,
    /// as `net_vhost` does for each guest, so this is asked anew each time.
    pub(crate) fn arm<'s>(&'s mut self, switch: &Switch) -> Result<BorrowedFd<'s>, Errno> {
        if !self.unswitched {
            let _one = switch.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: a bad port or queue is refused.
            errno::check(unsafe { dpdk_sys::rte_eth_dev_rx_intr_enable(self.port, self.queue) })?;
        }
        let file = file(self.port, self.queue).ok_or(Errno(libc::ENODEV))?;
        // SAFETY: the driver's file, which is open while the port is started; our owner keeps it so.
        Ok(unsafe { BorrowedFd::borrow_raw(file) })
    }

    /// Has the device be silent.
    pub(crate) fn disarm(&mut self, switch: &Switch) {
        if self.unswitched {
            return;
        }
        let _one = switch.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a bad port or queue is refused. A driver that cannot wakes us in vain, which is no harm.
        unsafe { dpdk_sys::rte_eth_dev_rx_intr_disable(self.port, self.queue) };
    }
}

/// The file of a queue's interrupt now.
fn file(port: u16, queue: u16) -> Option<RawFd> {
    // SAFETY: a bad port or queue is refused.
    let file = unsafe { dpdk_sys::rte_eth_dev_rx_intr_ctl_q_get_fd(port, queue) };
    // Zero is what stands where a driver has made no file.
    (file >= FILES_FIRST).then_some(file)
}
