//! A pod's status as the kubelet writes it, from what is known about its containers. Pure but for the times, which are
//! arguments.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::board::{Exit, Phase, State};

/// When each condition last changed.
#[derive(Debug, Default)]
pub(super) struct Conditions(BTreeMap<&'static str, (bool, Timestamp)>);

impl Conditions {
    fn set(&mut self, name: &'static str, value: bool, now: Timestamp) -> Value {
        let entry = self.0.entry(name).or_insert((value, now));
        if entry.0 != value {
            *entry = (value, now);
        }
        json!({"type": name, "status": if value { "True" } else { "False" }, "lastTransitionTime": time(entry.1)})
    }
}

/// What is known about a pod.
pub(super) struct Known<'a> {
    pub(super) pod: &'a Pod,
    pub(super) containers: &'a [State],
    /// The pod's addresses, once it has its network.
    pub(super) addresses: &'a [IpAddr],
    pub(super) hosts: &'a [IpAddr],
    pub(super) started: Timestamp,
}

/// The patch of the status subresource. It names the object's uid: a new pod of the same name is not touched.
pub(super) fn patch(known: &Known<'_>, conditions: &mut Conditions, now: Timestamp) -> Value {
    let all = |test: fn(&State) -> bool| known.containers.iter().all(test);
    let phase = phase(known.containers);
    let ready = all(|state| state.ready) && phase == "Running";
    let networked = !known.addresses.is_empty();
    let list = [
        ("PodScheduled", true),
        ("PodReadyToStartContainers", networked),
        ("Initialized", true),
        ("ContainersReady", ready),
        ("Ready", ready),
    ]
    .map(|(name, value)| conditions.set(name, value, now));
    let spec = known.pod.spec.as_ref();
    let names = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let containers: Vec<Value> = names
        .iter()
        .zip(known.containers)
        .map(|(spec, state)| container(&spec.name, spec.image.as_deref().unwrap_or_default(), state))
        .collect();
    json!({
        "metadata": {"uid": known.pod.metadata.uid},
        "status": {
            "phase": phase,
            "conditions": list,
            "containerStatuses": containers,
            "startTime": time(known.started),
            "hostIP": known.hosts.first(),
            "hostIPs": known.hosts.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            "podIP": known.addresses.first(),
            "podIPs": known.addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        }
    })
}

/// Of all containers together: Running while one runs or will run again.
fn phase(containers: &[State]) -> &'static str {
    let ended: Vec<&Exit> = containers
        .iter()
        .filter_map(|state| match &state.phase {
            Phase::Ended(exit) => Some(exit),
            _ => None,
        })
        .collect();
    if !containers.is_empty() && ended.len() == containers.len() {
        return if ended.iter().all(|exit| exit.code == 0) { "Succeeded" } else { "Failed" };
    }
    let begun = |state: &State| state.last.is_some() || !matches!(state.phase, Phase::Waiting { .. });
    if containers.iter().all(begun) { "Running" } else { "Pending" }
}

fn container(name: &str, image: &str, state: &State) -> Value {
    let now = match &state.phase {
        Phase::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        Phase::Running(since) => json!({"running": {"startedAt": time(*since)}}),
        Phase::Ended(exit) => json!({"terminated": ended(exit)}),
    };
    let running = matches!(state.phase, Phase::Running(_));
    let mut last = json!({});
    if let Some(exit) = &state.last {
        last = json!({"terminated": ended(exit)});
    }
    json!({
        "name": name, "image": image, "imageID": image, "restartCount": state.restarts,
        "ready": state.ready, "started": running, "state": now, "lastState": last,
    })
}

fn ended(exit: &Exit) -> Value {
    json!({
        "exitCode": exit.code, "reason": exit.reason,
        "startedAt": time(exit.started), "finishedAt": time(exit.finished),
    })
}

/// RFC 3339 with whole seconds, as Kubernetes writes times.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn state(phase: Phase, ready: bool) -> State {
        State { phase, ready, last: None, restarts: 0 }
    }

    fn exit(code: i32) -> Exit {
        Exit { code, reason: "Error", started: at(1), finished: at(2) }
    }

    #[test]
    fn the_phase_follows_the_containers() {
        let waiting = || Phase::Waiting { reason: "ContainerCreating", message: String::new() };
        let running = || Phase::Running(at(1));
        let crashed = State { last: Some(exit(1)), ..state(waiting(), false) };
        for (containers, want) in [
            (vec![state(waiting(), false), state(running(), true)], "Pending"),
            (vec![state(running(), false), state(running(), true)], "Running"),
            (vec![crashed, state(running(), true)], "Running"),
            (vec![state(Phase::Ended(exit(0)), false), state(running(), true)], "Running"),
            (vec![state(Phase::Ended(exit(0)), false)], "Succeeded"),
            (vec![state(Phase::Ended(exit(0)), false), state(Phase::Ended(exit(3)), false)], "Failed"),
        ] {
            assert_eq!(phase(&containers), want, "{containers:?}");
        }
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}
        }))
        .unwrap();
        let addresses = [[10, 244, 0, 2].into(), "fd00::2".parse().unwrap()];
        let mut conditions = Conditions::default();
        let mut ready = |ready, now| {
            let containers = [state(Phase::Running(at(1)), ready)];
            let known = Known {
                pod: &pod,
                containers: &containers,
                addresses: &addresses,
                hosts: &[],
                started: at(0),
            };
            let patch = patch(&known, &mut conditions, at(now));
            let list = patch["status"]["conditions"].as_array().unwrap().clone();
            let found = list.into_iter().find(|condition| condition["type"] == "Ready").unwrap();
            (found["status"].clone(), found["lastTransitionTime"].clone(), patch)
        };
        assert_eq!(ready(false, 10).1, "1970-01-01T00:00:10Z");
        let (status, since, patch) = ready(true, 20);
        assert_eq!((status, since), (json!("True"), json!("1970-01-01T00:00:20Z")));
        assert_eq!(patch["status"]["podIPs"], json!([{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]));
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(ready(true, 30).1, "1970-01-01T00:00:20Z");
    }
}
