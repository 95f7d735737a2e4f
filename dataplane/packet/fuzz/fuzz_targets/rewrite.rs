//! See `packet::testkit::targets::rewrites`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| packet::testkit::targets::rewrites(bytes));
