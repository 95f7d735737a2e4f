//! Pools of mbufs. A pool lives as long as the process, because mbufs and drivers refer to it.

use std::{ffi::CString, fmt, ptr::NonNull};

use dpdk_sys::rte_mempool;

use crate::{Eal, Errno, Mbuf};

/// Most mbufs a core keeps for itself.
const CACHE_MAX: u32 = 512;

/// A pool of mbufs. Copies are handles to the same pool.
#[derive(Clone, Copy, Debug)]
pub struct Mempool(NonNull<rte_mempool>);

// SAFETY: DPDK's mempools are made for use from any thread at once.
unsafe impl Send for Mempool {}
// SAFETY: as above; every operation through a shared handle is multi-producer and multi-consumer safe.
unsafe impl Sync for Mempool {}

/// Why there is no pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MempoolError {
    /// The name holds a NUL byte.
    BadName,
    /// DPDK refused; usually there is not that much memory.
    Refused {
        /// Mbufs wanted.
        count: u32,
        /// Its reason.
        errno: Errno,
    },
}

impl fmt::Display for MempoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName => f.write_str("the name of a pool holds a NUL byte"),
            Self::Refused { count, errno } => {
                write!(f, "no memory for {count} packet buffers: {errno}; raise dpdk.memoryMiB")
            }
        }
    }
}

impl std::error::Error for MempoolError {}

impl Mempool {
    /// A pool of `count` mbufs with `data_room` bytes each (headroom included) on a memory node; -1 = any.
    ///
    /// # Errors
    /// See [`MempoolError`].
    pub fn new(_eal: &Eal, name: &str, count: u32, data_room: u16, numa: i32) -> Result<Self, MempoolError> {
        let name = CString::new(name).map_err(|_| MempoolError::BadName)?;
        // A cache may hold half as much again as its size, and must be well below the pool.
        let cache = CACHE_MAX.min(count / 4);
        // SAFETY: the name is copied; the environment exists (we have an `Eal`); sizes are plain values.
        let pool =
            unsafe { dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), count, cache, 0, data_room, numa) };
        NonNull::new(pool).map(Self).ok_or_else(|| MempoolError::Refused { count, errno: Errno::last() })
    }

    /// An empty mbuf; `None` when the pool is exhausted.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives for ever; the result is null or a fresh mbuf that is ours alone.
        unsafe { Mbuf::from_raw(dpdk_sys::rte_pktmbuf_alloc(self.0.as_ptr())) }
    }

    /// Mbufs that are free now.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives for ever.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.0.as_ptr()) }
    }

    pub(crate) const fn as_ptr(self) -> *mut rte_mempool {
        self.0.as_ptr()
    }
}
