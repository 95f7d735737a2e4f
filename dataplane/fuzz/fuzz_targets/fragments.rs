//! See `dataplane::testkit::target::fragments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::testkit::target::fragments(bytes));
