//! Raw DPDK: generated bindings over `wrapper.h` and the C shim. Undocumented on purpose; use the `dpdk` crate.

// Generated code keeps C's names and C's habits: the one blanket allow in the repository.
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::use_self,
    clippy::cast_possible_truncation,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
