//! See `packet::testkit::targets::replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| packet::testkit::targets::replies(bytes));
