//! Measured traffic through a gateway, over any kind of port: at a rate, in sizes and an order of flows that can be chosen,
//! every frame with a number and a time of its own, so that loss, order, damage, wrong ways and latency are known.
//!
//! [`Player`] sends packets of opened flows both ways or one way; [`Connections`] makes whole TCP connections. Not here: how
//! many frames a gateway can take at most ([`generator`](crate::generator) makes them cheaper), and devices.

mod connections;
mod judge;
mod link;
mod order;
mod outcome;
mod pacer;
mod plan;
mod player;
mod search;
mod sequence;
mod sizes;
mod stamp;

pub use connections::{ConnectionCounts, Connections};
pub use judge::Faults;
pub use order::{Popularity, PopularityError};
pub use outcome::{Latency, Outcome};
pub use pacer::Pacer;
pub use plan::{Plan, PlanError, Ways};
pub use player::Player;
pub use search::Search;
pub use sequence::{Arrival, Sequence};
pub use sizes::{FCS_LEN, RFC2544, Sizes, SizesError};
pub use stamp::{STAMP_LEN, Stamp, filler, payload};
