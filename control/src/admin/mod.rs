//! The admin API: HTTP with JSON bodies over a unix socket, and its client.
//!
//! `view` holds what travels, so that the appliance and `fairlead show` cannot disagree about a field.

pub mod client;
pub mod server;
mod show;
pub mod view;
