//! Safe prefetch, timestamp counter, huge-page slices: the processor without DPDK.
