//! Tables and workers for tests and benches: a small data centre built by a few calls, and a worker on memory ports
//! that is stepped by hand. Panics freely; not for the product.

mod fixture;
mod pipe;
mod rig;
pub mod target;

pub use fixture::{Fixture, INSIDE, OUTSIDE};
pub use pipe::{PipePort, Wire, pipe};
pub use rig::{Rig, RigConfig};
