//! Safe prefetch, comparison of lanes, code for newer processors, timestamp counter, huge-page slices, thread affinity, priority, bounded naps and waits: the processor without DPDK.
//!
//! Contract: nothing here can break memory safety whatever its arguments are; a function that the kernel may refuse
//! says so in its result. `tables` and `dataplane` forbid `unsafe` and come here for it. Not here: threads, NUMA
//! placement other than by first touch, and anything that knows about packets.

pub mod affinity;
mod bell;
mod clock;
mod huge;
mod idle;
mod lanes;
mod level;
mod prefetch;
pub mod priority;

pub use bell::{Bell, Watch, Woken};
pub use clock::{TscClock, tsc};
pub use huge::{HugeSlice, Line, PageKind, Plain};
pub use idle::{NAP_MAX, nap, pause, set_timer_slack};
pub use lanes::equal_lanes;
pub use level::{Level, Work};
pub use prefetch::{prefetch_index, prefetch_read};
