//! Frames for tests and benches, and checks on frames. Feature `testkit`; uses the heap.
//!
//! The builder does not use the parser or the checksum patches it is there to test.
#![expect(clippy::panic, reason = "a check for tests reports by panicking")]

mod builder;
mod check;

pub mod targets;

pub use builder::PacketBuilder;
pub use check::{assert_valid_checksums, flow_of};
