//! Stages over bursts, the worker loop and port I/O.
//!
//! A worker owns one queue pair of every port, a flow table and its counters; it takes an immutable
//! `tables::Tables` between bursts and shares nothing else. Time is an argument everywhere.

#![forbid(unsafe_code)]

pub mod buf;
pub mod idle;
pub mod io;
pub mod plan;
