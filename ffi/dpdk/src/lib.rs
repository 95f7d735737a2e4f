//! Safe, owning wrappers over DPDK: the environment ([`Eal`]), mempools, mbufs, ports, queues, lcores.
//!
//! Contract: an [`Eal`] stands for the one initialised environment of the process and stays on the thread that made it,
//! which is the main lcore. Ports and queues are created through it. A queue is `Send` but not `Sync`: one worker owns
//! it. An [`Mbuf`] owns its chain and frees it on drop, on any thread. Pools live as long as the process.
//! Not here: what packets mean, and any policy.

mod device;
mod eal;
mod errno;
mod info;
mod interrupt;
mod lcore;
mod log;
mod mbuf;
mod mempool;
mod port;
mod port_error;
mod queue;
mod rss;
mod stats;

pub use device::{Device, DeviceError};
pub use eal::{Eal, EalConfig, EalError, HugePages};
pub use errno::Errno;
pub use lcore::{Job, LaunchError};
pub use log::log_lines;
pub use mbuf::{Mbuf, RxChecksum, TxChecksum};
pub use mempool::{Mempool, MempoolError};
pub use port::{Link, Port, PortCapabilities, PortConfig, StartedPort};
pub use port_error::PortError;
pub use queue::QueuePair;
pub use rss::soft_rss;
pub use stats::{PortStats, XStat};

/// DPDK's own version, for reports.
#[must_use]
pub fn version() -> String {
    // SAFETY: no precondition; the result is a static string.
    let text = unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_version()) };
    text.to_string_lossy().into_owned()
}
