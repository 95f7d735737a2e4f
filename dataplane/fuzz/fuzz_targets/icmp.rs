//! See `dataplane::testkit::target::icmp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::testkit::target::icmp(bytes));
