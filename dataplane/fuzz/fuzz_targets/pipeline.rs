//! See `dataplane::testkit::target::pipeline`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::testkit::target::pipeline(bytes));
