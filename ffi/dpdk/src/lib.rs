//! Safe owning wrappers over DPDK.
