//! The stages, in a packet's order.
//!
//! `usual` is the short way of most packets. Else `translate` finds a packet's flow; the first packet of one goes by `begin`: `classify` says what it wants, `balance`
//! which backend it gets and `admit` enters the flow; `checksum` and `rewrite` change the packet, `route` sends it. Beside
//! the way: `local` answers for our addresses, `fragment` has the parts of a datagram follow their first, `error` brings
//! ICMP errors to their flow's sender, `reply` answers for endpoints whose flow is forgotten, `reject` tells a refused one, `hold` keeps what waits for a neighbour, `announce`
//! speaks for new VIPs, `bypass` tells of replies that take another way, `limit` bounds what we send unasked, `police` what others bring about, `clamp` what
//! TCP handshakes offer, `cut` deals with what is too long for its way, `capture` shows packets to control.

pub(crate) mod admit;
pub(crate) mod announce;
pub(crate) mod balance;
pub(crate) mod begin;
pub mod bypass;
pub(crate) mod capture;
pub(crate) mod checksum;
pub(crate) mod clamp;
pub(crate) mod classify;
pub(crate) mod cut;
pub(crate) mod error;
pub(crate) mod fragment;
pub mod hold;
pub(crate) mod limit;
pub(crate) mod local;
pub mod police;
pub mod reject;
pub(crate) mod reply;
pub(crate) mod rewrite;
pub(crate) mod route;
pub(crate) mod translate;
pub(crate) mod usual;
pub(crate) mod vlan;
