//! Stages over bursts, the worker loop and port I/O.
//!
//! A worker owns one queue pair of every port, a flow table and its counters; it takes an immutable
//! `tables::Tables` between bursts and shares nothing else. Time is an argument everywhere.

#![forbid(unsafe_code)]

pub mod buf;
mod fragments;
pub mod handoff;
pub mod idle;
pub mod io;
mod lane;
mod pass;
pub mod plan;
mod scratch;
pub mod stage;
pub mod stages;
mod steps;
#[cfg(feature = "testkit")]
#[expect(clippy::panic, reason = "test code")]
pub mod testkit;
pub mod trace;
pub mod worker;
