//! A failing state made smaller while it still fails: objects go first, then what is in them. Every step is a state that
//! the API server accepts or trims itself, so nothing here knows what is valid.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use crate::state::State;

/// Longest that shrinking may take.
const LIMIT: Duration = Duration::from_secs(90);
/// Lists in objects from which entries may go.
const LISTS: [&str; 8] = [
    "/spec/ports",
    "/spec/externalIPs",
    "/spec/loadBalancerSourceRanges",
    "/status/loadBalancer/ingress",
    "/spec/cidrs",
    "/endpoints",
    "/ports",
    "/spec/clusterIPs",
];
/// Fields that may go whole; the rest of the path is the object.
const FIELDS: [(&str, &str); 8] = [
    ("/spec", "sessionAffinity"),
    ("/spec", "internalTrafficPolicy"),
    ("/spec", "externalTrafficPolicy"),
    ("/spec", "trafficDistribution"),
    ("/spec", "externalIPs"),
    ("/spec", "loadBalancerSourceRanges"),
    ("/spec", "loadBalancerClass"),
    ("/metadata/labels", "service.kubernetes.io/service-proxy-name"),
];

/// The smallest state found for which `fails` holds.
pub(crate) fn shrink(state: State, mut fails: impl FnMut(&State) -> Result<bool>) -> Result<State> {
    let start = Instant::now();
    let mut best = state;
    'smaller: loop {
        for candidate in smaller(&best) {
            if start.elapsed() > LIMIT {
                return Ok(best);
            }
            if fails(&candidate)? {
                best = candidate;
                continue 'smaller;
            }
        }
        return Ok(best);
    }
}

/// Every state that is one step smaller, big steps first.
fn smaller(state: &State) -> Vec<State> {
    let with = |objects: Vec<Value>| State { objects, ..state.clone() };
    let count = state.objects.len();
    let mut states = Vec::new();
    let mut width = count / 2;
    while width > 0 {
        for start in (0..count).step_by(width) {
            let kept =
                state.objects.iter().enumerate().filter(|(at, _)| !(start..start + width).contains(at));
            states.push(with(kept.map(|(_, object)| object.clone()).collect()));
        }
        width /= 2;
    }
    for (at, object) in state.objects.iter().enumerate() {
        for object in smaller_objects(object) {
            let mut objects = state.objects.clone();
            objects[at] = object;
            states.push(with(objects));
        }
    }
    states
}

fn smaller_objects(object: &Value) -> Vec<Value> {
    let mut objects = Vec::new();
    for path in LISTS {
        let count = object.pointer(path).and_then(Value::as_array).map_or(0, Vec::len);
        for at in 0..count {
            let mut less = object.clone();
            if let Some(list) = less.pointer_mut(path).and_then(Value::as_array_mut) {
                list.remove(at);
            }
            objects.push(less);
        }
    }
    for (path, key) in FIELDS {
        let mut less = object.clone();
        if less.pointer_mut(path).and_then(Value::as_object_mut).is_some_and(|map| map.remove(key).is_some())
        {
            objects.push(less);
        }
    }
    let endpoints = object["endpoints"].as_array().map_or(0, Vec::len);
    for at in 0..endpoints {
        for key in ["hints", "conditions", "nodeName"] {
            let mut less = object.clone();
            if less["endpoints"][at].as_object_mut().is_some_and(|map| map.remove(key).is_some()) {
                objects.push(less);
            }
        }
    }
    objects
}
