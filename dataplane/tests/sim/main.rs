//! Real stacks of TCP and UDP through the pipeline, over networks that lose, repeat and reorder, while backends come and go,
//! tables are swapped, paths get narrower, neighbours are forgotten, machines crash; datagrams whole and in parts.
//!
//! Time is simulated, and everything comes from the generated [`Scenario`](scenario::Scenario): a failure repeats, and
//! shrinks. What must hold: bytes arrive whole, or the connection ends for a reason that was given; no packet reaches a
//! backend that is not its connection's ([`model`]); a datagram arrives whole, answers what its receiver asked, and goes to
//! no backend that is gone ([`datagrams`]); every packet has one verdict. With `SIM_TRACE=1` in the environment every
//! frame on the wires is told of.

#![expect(clippy::panic, reason = "a test")]

mod asker;
mod card;
mod datagrams;
mod ends;
mod host;
mod model;
mod parts;
mod run;
mod scenario;
mod site;
mod wire;

use proptest::{prelude::ProptestConfig, proptest};

/// They are cheap, a few milliseconds each.
fn many() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: 4 * usual.cases, ..usual }
}

proptest! {
    #![proptest_config(many())]
    #[test]
    fn streams_survive_bad_networks_and_all_that_changes(scenario in scenario::scenarios()) {
        run::simulate(&scenario);
    }
}
