//! Bytes to headers and back: pure, no dependencies.
