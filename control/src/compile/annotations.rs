//! What a Service's annotations ask for. A bad one is told and left out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tables::IdleTimeout;

use crate::config::{SLOW_START, Target, duration};
use crate::model::{Endpoint, Service};
use crate::probe::{self, Check};

/// What to send to: by `fairlead.dev/target`, or as configured.
pub(super) fn target(service: &Service, configured: Target, problems: &mut Vec<String>) -> Target {
    match service.target.as_deref() {
        Some("nodePorts") => Target::NodePorts,
        None => configured,
        Some("pods") => Target::Pods,
        Some(other) => {
            let problem = "is not known; pods or nodePorts is expected";
            problems.push(format!("annotation fairlead.dev/target: `{other}` {problem}"));
            configured
        }
    }
}

/// More new flows a second than any worker begins.
const FLOWS_PER_SECOND_MAX: u32 = 100_000_000;

/// `fairlead.dev/new-flows-per-second`: what one worker admits if all the traffic is its own; 0: any number.
pub(super) fn flows_per_second(service: &Service, problems: &mut Vec<String>) -> Option<u32> {
    let text = service.new_flows.as_deref()?;
    let rate = text.parse().ok().filter(|rate| *rate <= FLOWS_PER_SECOND_MAX);
    if rate.is_none() {
        problems.push(format!(
            "annotation fairlead.dev/new-flows-per-second: `{text}` is not valid; a number from 0 to {FLOWS_PER_SECOND_MAX} is expected"
        ));
    }
    rate
}

/// `fairlead.dev/udp-idle-timeout`: a duration, rounded up to what flows can tell apart.
pub(super) fn udp_idle(service: &Service, problems: &mut Vec<String>) -> IdleTimeout {
    let Some(text) = service.udp_idle.as_deref() else { return IdleTimeout::NONE };
    let range = Duration::from_secs(1)..=Duration::from_secs(IdleTimeout::SECONDS_MAX.into());
    let Some(idle) = duration::parse(text).filter(|idle| range.contains(idle)) else {
        problems.push(format!(
            "annotation fairlead.dev/udp-idle-timeout: `{text}` is not usable; a duration from 1s to 7d such as 30s or 1h30m is expected"
        ));
        return IdleTimeout::NONE;
    };
    IdleTimeout::of(u32::try_from(idle.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX))
}

/// `fairlead.dev/health-check`, or as configured; what the annotation leaves open is as configured.
pub(super) fn check(service: &Service, configured: &Check, problems: &mut Vec<String>) -> Check {
    let Some(text) = service.health_check.as_deref() else { return configured.clone() };
    configured.read(text).unwrap_or_else(|wrong| {
        let expected = probe::EXPECTED;
        problems.push(format!("annotation fairlead.dev/health-check: {wrong}; expected is {expected}"));
        configured.clone()
    })
}

/// `fairlead.dev/slow-start`, or as configured.
pub(super) fn slow_start(
    service: &Service,
    configured: Option<Duration>,
    problems: &mut Vec<String>,
) -> Option<Duration> {
    match service.slow_start.as_deref() {
        None => configured,
        Some("none") => None,
        Some(text) => duration::parse(text).filter(|time| SLOW_START.contains(time)).or_else(|| {
            problems.push(format!(
                "annotation fairlead.dev/slow-start: `{text}` is not usable; none or a duration from 1s to 1h is expected"
            ));
            configured
        }),
    }
}

/// The heaviest endpoint: beyond it shares get too coarse for a table.
const WEIGHT_MAX: u16 = 1_000;

/// How much of a Service's new flows each endpoint gets, compared to the others.
#[derive(Debug, Default)]
pub(super) struct Weights {
    addresses: HashMap<IpAddr, u16>,
    nodes: HashMap<String, u16>,
}

impl Weights {
    /// `fairlead.dev/weights`: `ADDRESS=WEIGHT` and `node/NAME=WEIGHT`, separated by commas.
    pub(super) fn of(service: &Service, problems: &mut Vec<String>) -> Self {
        let mut weights = Self::default();
        let text = service.weights.as_deref().unwrap_or_default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if weights.add(entry).is_none() {
                problems.push(format!(
                    "annotation fairlead.dev/weights: `{entry}` is not valid; ADDRESS=WEIGHT or node/NAME=WEIGHT with a weight from 0 to {WEIGHT_MAX} is expected"
                ));
            }
        }
        weights
    }

    fn add(&mut self, entry: &str) -> Option<()> {
        let (whose, weight) = entry.split_once('=')?;
        let weight = weight.trim().parse().ok().filter(|weight| *weight <= WEIGHT_MAX)?;
        match whose.trim().strip_prefix("node/") {
            Some(node) => _ = self.nodes.insert(node.to_owned(), weight),
            None => _ = self.addresses.insert(whose.trim().parse().ok()?, weight),
        }
        Some(())
    }

    /// The weight of an endpoint: by its address, else by its node, else 1.
    pub(super) fn weight(&self, endpoint: &Endpoint) -> u16 {
        let by_node = || endpoint.node.as_deref().and_then(|node| self.nodes.get(node));
        self.addresses.get(&endpoint.address).or_else(by_node).copied().unwrap_or(1)
    }
}
