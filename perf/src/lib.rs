//! Benches of the packet path and the compiler.
