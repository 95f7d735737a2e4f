//! Every lookup structure of the packet path, and how it is published.

#![forbid(unsafe_code)]

mod ids;
pub mod maglev;
pub mod publish;
pub mod punt;

pub use ids::{
    BackendId, Generation, Millis, NextHopId, NodeId, PortId, SLOT_LIMIT, ServiceId, SlotId, WorkerId,
};
