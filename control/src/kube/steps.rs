//! What is to be written about a Service or a pool: from what became of it and what the server has. Pure.
//!
//! The order is the one of KEP-980: our finalizer goes on before anything is given; what was given is taken back from the
//! status before the finalizer goes. Each step is decided on the object as the server then has it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::model::{IpMode, ServiceType, Upkeep};
use crate::outcome::{Outcome, PoolOutcome};

const FINALIZER: &str = Upkeep::FINALIZER;
/// The condition of KEP-1435.
const PORTS_ERROR: &str = "LoadBalancerPortsError";

/// One write.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Step {
    /// The finalizer goes on.
    Hold,
    /// Status says what the Service has.
    Tell,
    /// The finalizer goes.
    Release,
}

/// What is to be done next; none when the server has what it should.
pub(super) fn next(outcome: &Outcome) -> Option<Step> {
    let service = outcome.service.as_ref()?;
    let upkeep = &service.upkeep;
    if upkeep.uid.is_empty() {
        return None;
    }
    let vips: BTreeSet<IpAddr> =
        service.ingress.iter().filter(|at| at.mode == IpMode::Vip).map(|at| at.address).collect();
    if !outcome.ours {
        // Of other types the server has wiped the status itself.
        let named = service.kind == ServiceType::LoadBalancer && !vips.is_empty();
        return upkeep.finalizer.then_some(if named { Step::Tell } else { Step::Release });
    }
    if !upkeep.finalizer {
        return Some(Step::Hold);
    }
    let wanted: BTreeSet<IpAddr> = outcome.addresses.iter().copied().collect();
    let differs = vips != wanted || upkeep.ports_error == outcome.lost_ports.is_empty();
    differs.then_some(Step::Tell)
}

/// The finalizers with or without ours; none when that is how they are.
pub(super) fn finalizers(object: &Value, hold: bool) -> Option<Value> {
    let empty = Vec::new();
    let known = object["metadata"]["finalizers"].as_array().unwrap_or(&empty);
    let has = known.iter().any(|one| one.as_str() == Some(FINALIZER));
    if has == hold {
        return None;
    }
    let mut list: Vec<Value> = known.iter().filter(|one| one.as_str() != Some(FINALIZER)).cloned().collect();
    if hold {
        list.push(json!(FINALIZER));
    }
    Some(json!({"metadata": {
        "uid": object["metadata"]["uid"],
        "resourceVersion": object["metadata"]["resourceVersion"],
        "finalizers": list,
    }}))
}

/// The status of a Service, as a strategic merge patch.
pub(super) fn status(outcome: &Outcome, stamp: &str) -> Value {
    let service = outcome.service.as_ref().expect("only what exists has a status");
    let addresses: &[IpAddr] = if outcome.ours { &outcome.addresses } else { &[] };
    let ports = ports(outcome);
    let ingress = addresses.iter().map(|address| {
        let mut entry = json!({"ip": address.to_string(), "ipMode": "VIP"});
        if !outcome.lost_ports.is_empty() {
            entry["ports"] = ports.clone();
        }
        entry
    });
    let ingress: Vec<_> = ingress.collect();
    let balancer = if ingress.is_empty() { json!({"ingress": null}) } else { json!({"ingress": ingress}) };
    let mut status = json!({"loadBalancer": balancer});
    if let Some(condition) = condition(outcome, stamp) {
        status["conditions"] = json!([condition]);
    }
    json!({"metadata": {"uid": service.upkeep.uid}, "status": status})
}

/// One entry a port of the Service, as the API wants it where one has an error.
fn ports(outcome: &Outcome) -> Value {
    let service = outcome.service.as_ref().expect("the caller has seen it");
    let entry = |port: &crate::model::ServicePort| {
        let mut entry = json!({"port": port.port, "protocol": port.protocol.name()});
        if outcome.lost_ports.contains(&(port.protocol, port.port)) {
            entry["error"] = json!("fairlead.dev/PortTaken");
        }
        entry
    };
    service.ports.iter().map(entry).collect()
}

fn condition(outcome: &Outcome, stamp: &str) -> Option<Value> {
    let had = outcome.service.as_ref()?.upkeep.ports_error;
    if outcome.lost_ports.is_empty() {
        return had.then(|| json!({"$patch": "delete", "type": PORTS_ERROR}));
    }
    let lost: Vec<_> =
        outcome.lost_ports.iter().map(|(protocol, port)| format!("{port}/{protocol}")).collect();
    Some(json!({
        "type": PORTS_ERROR,
        "status": "True",
        "reason": "PortTaken",
        "message": format!("at this address {} belong to another Service; see the events", lost.join(", ")),
        "lastTransitionTime": seconds(stamp),
    }))
}

/// The same time without its fraction, as conditions have it.
fn seconds(stamp: &str) -> String {
    stamp.split('.').next().map(|whole| format!("{}Z", whole.trim_end_matches('Z'))).unwrap_or_default()
}

/// The status of an AddressPool as a merge patch over the one it has; none when it has that already.
pub(super) fn pool_status(outcome: &PoolOutcome, object: &Value, stamp: &str) -> Option<Value> {
    let generation = outcome.generation?;
    let (ready, reason, message) = match outcome.count {
        Some(_) => ("True", "InForce", "Services get addresses of this pool"),
        None => ("False", "Refused", outcome.refused.as_str()),
    };
    let old = &object["status"]["conditions"][0];
    let changed =
        if old["status"] == ready { old["lastTransitionTime"].clone() } else { json!(seconds(stamp)) };
    let count = outcome.count.unwrap_or_default();
    let family = |index: usize| {
        let size = i64::try_from(count.size[index]).unwrap_or(i64::MAX);
        let used = i64::try_from(count.used[index]).unwrap_or(i64::MAX);
        json!({"inUse": used, "free": size.saturating_sub(used).max(0)})
    };
    let status = json!({
        "observedGeneration": generation,
        "ipv4": family(0),
        "ipv6": family(1),
        "conditions": [{
            "type": "Ready",
            "status": ready,
            "reason": reason,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": changed,
        }],
    });
    (object["status"] != status).then(|| json!({"status": status}))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use packet::Protocol;

    use super::*;
    use crate::ipam::PoolCount;
    use crate::model::{Ingress, Service, ServicePort};

    /// A Service of type LoadBalancer with our finalizer and this status; ours, with these addresses.
    fn outcome(status: &[&str], addresses: &[&str]) -> Outcome {
        let ingress = |text: &&str| Ingress { address: text.parse().unwrap(), mode: IpMode::Vip };
        let port = |port| ServicePort { name: String::new(), protocol: Protocol::Tcp, port, node_port: None };
        let service = Service {
            kind: ServiceType::LoadBalancer,
            ingress: status.iter().map(ingress).collect(),
            ports: vec![port(80), port(443)],
            upkeep: Upkeep { uid: "u".into(), finalizer: true, ..Upkeep::default() },
            ..Service::default()
        };
        Outcome {
            service: Some(Arc::new(service)),
            ours: true,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..Outcome::default()
        }
    }

    fn with(mut outcome: Outcome, change: impl FnOnce(&mut Service)) -> Outcome {
        change(Arc::make_mut(outcome.service.as_mut().expect("there")));
        outcome
    }

    #[test]
    fn steps_come_in_their_order() {
        let not_ours = |outcome: Outcome| Outcome { ours: false, ..outcome };
        let lost = |outcome: Outcome| Outcome { lost_ports: vec![(Protocol::Tcp, 80)], ..outcome };
        for (name, outcome, want) in [
            ("gone", Outcome::default(), None),
            ("from a manifest", with(outcome(&[], &["192.0.2.1"]), |one| one.upkeep.uid.clear()), None),
            ("new", with(outcome(&[], &[]), |one| one.upkeep.finalizer = false), Some(Step::Hold)),
            ("nothing given", outcome(&[], &[]), None),
            ("given", outcome(&[], &["192.0.2.1"]), Some(Step::Tell)),
            ("told", outcome(&["192.0.2.1"], &["192.0.2.1"]), None),
            ("moved", outcome(&["192.0.2.1"], &["192.0.2.2"]), Some(Step::Tell)),
            ("taken back", outcome(&["192.0.2.1"], &[]), Some(Step::Tell)),
            ("in another order", outcome(&["2001:db8::1", "192.0.2.1"], &["192.0.2.1", "2001:db8::1"]), None),
            ("a port lost", lost(outcome(&["192.0.2.1"], &["192.0.2.1"])), Some(Step::Tell)),
            (
                "and told",
                with(lost(outcome(&["192.0.2.1"], &["192.0.2.1"])), |one| one.upkeep.ports_error = true),
                None,
            ),
            ("deleted", not_ours(outcome(&["192.0.2.1"], &[])), Some(Step::Tell)),
            ("deleted and clear", not_ours(outcome(&[], &[])), Some(Step::Release)),
            (
                "another type",
                with(not_ours(outcome(&["192.0.2.1"], &[])), |one| one.kind = ServiceType::ClusterIp),
                Some(Step::Release),
            ),
            (
                "another controller's",
                with(not_ours(outcome(&["192.0.2.1"], &[])), |one| one.upkeep.finalizer = false),
                None,
            ),
        ] {
            assert_eq!(next(&outcome), want, "{name}");
        }
    }

    #[test]
    fn only_our_finalizer_comes_and_goes() {
        let object =
            |list: Value| json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": list}});
        let patch =
            |list: Value| json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": list}});
        assert_eq!(finalizers(&object(json!(["a"])), true), Some(patch(json!(["a", FINALIZER]))));
        assert_eq!(finalizers(&object(json!([FINALIZER, "a"])), false), Some(patch(json!(["a"]))));
        assert_eq!(finalizers(&object(json!([FINALIZER])), true), None);
        assert_eq!(finalizers(&object(Value::Null), false), None);
    }

    #[test]
    fn the_status_tells_addresses_and_lost_ports() {
        let stamp = "2026-01-02T03:04:05.678901Z";
        let plain = status(&outcome(&[], &["192.0.2.1", "2001:db8::1"]), stamp);
        let want = json!({"metadata": {"uid": "u"}, "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "2001:db8::1", "ipMode": "VIP"}]}}});
        assert_eq!(plain, want);
        let lost = Outcome { lost_ports: vec![(Protocol::Tcp, 443)], ..outcome(&[], &["192.0.2.1"]) };
        let told = status(&lost, stamp)["status"].clone();
        assert_eq!(
            told["loadBalancer"]["ingress"][0]["ports"],
            json!([{"port": 80, "protocol": "TCP"}, {"port": 443, "protocol": "TCP", "error": "fairlead.dev/PortTaken"}])
        );
        let condition = &told["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["lastTransitionTime"]),
            (&json!(PORTS_ERROR), &json!("2026-01-02T03:04:05Z"))
        );
        let healed = with(outcome(&[], &["192.0.2.1"]), |one| one.upkeep.ports_error = true);
        assert_eq!(status(&healed, stamp)["status"]["conditions"][0]["$patch"], "delete");
        let cleared = status(&Outcome { ours: false, ..outcome(&["192.0.2.1"], &["192.0.2.1"]) }, stamp);
        assert_eq!(cleared["status"]["loadBalancer"], json!({"ingress": null}));
    }

    #[test]
    fn a_pool_tells_its_numbers_and_why_it_is_refused() {
        let count = PoolCount { used: [3, 0], size: [64, u128::MAX] };
        let good = PoolOutcome { generation: Some(2), count: Some(count), refused: String::new() };
        let first = pool_status(&good, &json!({}), "2026-01-02T03:04:05.6Z").expect("new");
        let told = &first["status"];
        assert_eq!(
            (&told["ipv4"], &told["ipv6"]["free"]),
            (&json!({"inUse": 3, "free": 61}), &json!(i64::MAX))
        );
        assert_eq!(pool_status(&good, &first, "2026-09-09T09:09:09.9Z"), None, "it has that already");
        let refused = PoolOutcome { generation: Some(3), count: None, refused: "overlaps".into() };
        let next = pool_status(&refused, &first, "2026-09-09T09:09:09.9Z").expect("another");
        let condition = &next["status"]["conditions"][0];
        assert_eq!((&condition["status"], &condition["message"]), (&json!("False"), &json!("overlaps")));
        assert_eq!(condition["lastTransitionTime"], "2026-09-09T09:09:09Z");
        assert_eq!(pool_status(&PoolOutcome::default(), &first, ""), None, "gone");
    }
}
