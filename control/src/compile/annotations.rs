//! Numbers that a Service's annotations give. A bad one is told and left out.

use crate::model::Service;

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
