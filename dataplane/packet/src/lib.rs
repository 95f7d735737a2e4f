//! Bytes to headers and back: pure, no dependencies, no heap, no clock.
//!
//! [`parse`] makes one pass from a frame to the facts the packet path needs ([`Parsed`]); it accepts any bytes and
//! never panics. A header view (one file a protocol) proves at construction that its header lies inside the bytes, so
//! its getters cannot fail. [`nat`], [`reply`] and [`cut`] write: the first rewrites a parsed
//! frame, the second builds answers, the third makes fragments.
//!
//! Nearly every packet is [`plain`](plain::Plain), and known by a few words. Map: values `address`, `flow_key`, `mac`,
//! `protocol`, `parsed`, `plain`; layers `ether`, `vlan`, `arp`, `ipv4`, `ipv6`,
//! `tcp`, `udp`, `sctp`, `icmp`, `ndp`; arithmetic `checksum`, `crc32c`. Not here: reassembly, tables, policy.
#![forbid(unsafe_code)]

mod address;
pub mod arp;
mod bytes;
pub mod checksum;
pub mod crc32c;
pub mod cut;
mod error;
pub mod ether;
mod flow_key;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod nat;
pub mod ndp;
mod parse;
mod parsed;
pub mod plain;
mod protocol;
pub mod reply;
pub mod sctp;
pub mod tcp;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod udp;
pub mod vlan;

pub use address::{Address, AnyAddrs, Family};
pub use error::ParseError;
pub use flow_key::{AnyKey, FlowKey};
pub use mac::{MacAddr, MacClass};
pub use parse::{facts_of_plain, first_fragment, parse, parse_into};
pub use parsed::{Arp, ArpOperation, Body, Fragment, Icmp, Inner, Nd, NdKind, Parsed};
pub use protocol::Protocol;
pub use tcp::TcpFlags;
pub use vlan::VlanTag;
