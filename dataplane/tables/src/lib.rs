//! Every lookup structure of the packet path, and how it is published.
//!
//! [`Tables`] is one immutable version of what control knows: services, backends, routes, addresses. Control edits its
//! own copy (a clone shares every chunk, an edit copies one) and publishes it; workers read it between bursts and never
//! write to it. What a worker itself remembers, its flow table and counters, is its own and outlives every version.
//!
//! Here: no I/O but the call of a worker that sleeps ([`cpu::Bell`]), no clock, no randomness, no lock; nothing is allocated for a packet. Time is an argument.
#![forbid(unsafe_code)]

mod address;
mod adjacency;
pub mod affinity;
mod answers;
mod backend;
pub mod capture;
pub mod chunked;
pub mod command;
pub mod counters;
mod drop_reason;
mod fib;
pub mod flow;
pub mod hash;
mod idle;
mod ids;
mod index;
mod limits;
mod lpm;
pub mod maglev;
mod memory;
mod origin;
pub mod owner;
mod port;
mod prefix;
pub mod publish;
pub mod punt;
pub mod rate;
mod records;
pub mod rss;
mod service;
pub mod sharded;
mod slots;
mod snapshot;
pub mod snat;
pub mod tcp_state;

pub use address::{AddressInfo, AddressKind, Addresses, PortSet};
pub use adjacency::{Adjacencies, Adjacency, AdjacencyState, Link};
pub use answers::{Answers, RejectForm};
pub use backend::{Backend, BackendState, Backends};
pub use drop_reason::DropReason;
pub use fib::{Fib, Route, Spread};
pub use idle::IdleTimeout;
pub use ids::{
    BackendId, Generation, Millis, NextHopId, NodeId, PortId, SLOT_LIMIT, ServiceId, SlotId, WorkerId,
};
pub use index::{Frontend, FrontendKey, FrontendKind, Index};
pub use limits::{KernelRates, Limits};
pub use lpm::Lpm;
pub use memory::Memory;
pub use origin::{Origin, Origins};
pub use port::{PortAddress, PortInfo, Serves, Vlan};
pub use prefix::{BadPrefix, Prefix};
pub use service::{
    Access, Action, Choice, NatMode, NodeRule, Pool, Rule, ServiceInfo, ServicePort, Services, Source,
};
pub use slots::SlotAllocator;
pub use snapshot::{SnatConfig, SnatRange, Tables};
