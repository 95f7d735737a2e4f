//! See `packet::testkit::targets::parses`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| packet::testkit::targets::parses(bytes));
