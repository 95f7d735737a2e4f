//! What people are told of a Service or a pool by events: what is new since they were told last, each once. Pure; the words are
//! MetalLB's where it has one, else those of Kubernetes' own service controller. Bounded: more than a burst is left out and counted.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::write::Target;
use crate::model::{ObjectKey, Service, ServiceType};
use crate::outcome::{Outcome, PoolOutcome};

/// Events at once, and the time after which one more may go.
const BURST: u32 = 100;
const REFILL: Duration = Duration::from_millis(100);
/// Longest text of an event that the API server takes.
const NOTE_BYTES_MAX: usize = 1024;

/// What was told of a Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Told {
    lacks: BTreeSet<String>,
    problems: BTreeSet<String>,
}

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Notice {
    /// Normal, or a warning.
    pub(super) normal: bool,
    /// One word.
    pub(super) reason: &'static str,
    /// A sentence.
    pub(super) note: String,
}

impl Told {
    /// What is to be told now that the outcome is another one.
    pub(super) fn news(&mut self, outcome: &Outcome) -> Vec<Notice> {
        let Some(service) = &outcome.service else {
            *self = Self::default();
            return Vec::new();
        };
        let mut notices = fresh(&mut self.lacks, &outcome.lacks, "AllocationFailed");
        notices.extend(fresh(&mut self.problems, &outcome.problems, trouble(service)));
        notices
    }
}

/// The word for what is wrong with a Service besides its addresses.
fn trouble(service: &Service) -> &'static str {
    if service.kind == ServiceType::LoadBalancer { "LoadBalancerFailed" } else { "Degraded" }
}

/// What traffic has shown to be wrong with a Service.
pub(super) fn of_traffic(service: &Service, note: String) -> Notice {
    Notice { normal: false, reason: trouble(service), note }
}

/// The sentences that were not there before.
fn fresh(known: &mut BTreeSet<String>, now: &[String], reason: &'static str) -> Vec<Notice> {
    let now: BTreeSet<String> = now.iter().cloned().collect();
    let notices = now.difference(known).map(|note| Notice { normal: false, reason, note: note.clone() });
    let notices = notices.collect();
    *known = now;
    notices
}

/// What a status that was just written says that the one before did not.
pub(super) fn of_status(outcome: &Outcome) -> Option<Notice> {
    let service = outcome.service.as_ref()?;
    let before: BTreeSet<_> = service.ingress.iter().map(|at| at.address).collect();
    let now: BTreeSet<_> = outcome.addresses.iter().copied().collect();
    let list = |addresses: &BTreeSet<std::net::IpAddr>| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    if !outcome.ours || before == now {
        return None;
    }
    if now.is_empty() {
        let why =
            outcome.lacks.first().or(outcome.problems.first()).map_or("no pool gives it one", |why| why);
        let note = format!("{} is taken back: {why}", list(&before));
        return Some(Notice { normal: false, reason: "ClearAssignment", note });
    }
    let pools = if outcome.pools.is_empty() {
        String::new()
    } else {
        format!(" of pool {}", outcome.pools.join(", "))
    };
    Some(Notice { normal: true, reason: "IPAllocated", note: format!("{}{pools}", list(&now)) })
}

/// What a Service that was just let go had from us is given back.
pub(super) fn of_release() -> Notice {
    let note = "its load balancer addresses are given back".to_owned();
    Notice { normal: true, reason: "DeletedLoadBalancer", note }
}

/// A Service's outcome is not written, for longer than it takes to try again.
pub(super) fn of_failure(why: &str) -> Notice {
    Notice { normal: false, reason: "SyncLoadBalancerFailed", note: why.to_owned() }
}

/// What the status of a pool that was just written says that `before`, the object until then, did not: why it is refused.
pub(super) fn of_pool(outcome: &PoolOutcome, before: &Value) -> Option<Notice> {
    let condition = &before["status"]["conditions"][0];
    let known = condition["status"] == "False" && condition["message"] == outcome.refused.as_str();
    let refused = outcome.count.is_none() && !known;
    refused.then(|| Notice { normal: false, reason: "PoolRefused", note: outcome.refused.clone() })
}

/// Who sends an event, and when.
pub(super) struct Sender<'a> {
    /// Our name.
    pub(super) reporter: &'a str,
    /// The present in the server's format.
    pub(super) stamp: &'a str,
    /// No other event of the Service has it.
    pub(super) number: u64,
}

/// Where events of what is in no namespace are kept.
const NO_NAMESPACE: &str = "default";

/// The namespace that an event about an object is in.
pub(super) fn namespace(about: &Target) -> &str {
    match about {
        Target::Pool(_) => NO_NAMESPACE,
        Target::Service(key) => &key.namespace,
    }
}

/// The event as an object of `events.k8s.io/v1`.
pub(super) fn event(notice: &Notice, about: &Target, uid: &str, by: &Sender<'_>) -> Value {
    let (name, regarding) = match about {
        Target::Pool(name) => (
            name,
            json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "AddressPool", "name": name, "uid": uid}),
        ),
        Target::Service(ObjectKey { namespace, name }) => (
            name,
            json!({"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name, "uid": uid}),
        ),
    };
    let end = notice
        .note
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= NOTE_BYTES_MAX)
        .last();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        // The API server's own generateName admits no name that ends in a dot; this is the form of client-go.
        "metadata": {"name": format!("{name}.{:x}", by.number), "namespace": namespace(about)},
        "eventTime": by.stamp,
        "type": if notice.normal { "Normal" } else { "Warning" },
        "reason": notice.reason,
        "action": "AssignAddress",
        "note": notice.note[..end.unwrap_or(0)],
        "reportingController": "fairlead.dev/fairlead",
        "reportingInstance": by.reporter,
        "regarding": regarding,
    })
}

/// How many events may go now.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, filled: now }
    }

    /// Whether one more may go.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let gained = (now - self.filled).as_millis() / REFILL.as_millis();
        if let Ok(gained) = u32::try_from(gained)
            && self.left.saturating_add(gained) < BURST
        {
            self.left += gained;
            self.filled += REFILL * gained;
        } else {
            self.left = BURST;
            self.filled = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Ingress, IpMode};

    fn outcome(lacks: &[&str], problems: &[&str]) -> Outcome {
        let service = Service { kind: ServiceType::LoadBalancer, ..Service::default() };
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Outcome {
            service: Some(Arc::new(service)),
            ours: true,
            lacks: texts(lacks),
            problems: texts(problems),
            ..Outcome::default()
        }
    }

    fn said(notices: &[Notice]) -> Vec<String> {
        notices.iter().map(|one| format!("{} {}", one.reason, one.note)).collect()
    }

    #[test]
    fn a_sentence_is_told_once_until_it_was_untrue() {
        let mut told = Told::default();
        assert_eq!(
            said(&told.news(&outcome(&["full"], &["x", "y"]))),
            ["AllocationFailed full", "LoadBalancerFailed x", "LoadBalancerFailed y"]
        );
        assert_eq!(said(&told.news(&outcome(&["full"], &["y", "z"]))), ["LoadBalancerFailed z"]);
        assert!(told.news(&outcome(&[], &[])).is_empty());
        assert_eq!(said(&told.news(&outcome(&["full"], &[]))), ["AllocationFailed full"]);
        assert!(told.news(&Outcome::default()).is_empty());
        assert_eq!(told, Told::default(), "nothing is kept of what is gone");
        let mut plain = outcome(&[], &["externalIP refused"]);
        plain.service = Some(Arc::new(Service::default()));
        assert_eq!(said(&told.news(&plain)), ["Degraded externalIP refused"]);
    }

    #[test]
    fn a_written_status_is_told_by_what_changed() {
        let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
        let at = |before: Option<&str>, now: Option<&str>| {
            let ingress = before.map(|text| Ingress { address: address(text), mode: IpMode::Vip });
            let service = Service { ingress: ingress.into_iter().collect(), ..Service::default() };
            let pools = now.map(|_| "public".to_owned()).into_iter().collect();
            let lacks = vec!["no free address".to_owned()];
            Outcome {
                service: Some(Arc::new(service)),
                ours: true,
                addresses: now.map(address).into_iter().collect(),
                pools,
                lacks,
                ..Outcome::default()
            }
        };
        let say =
            |outcome: &Outcome| of_status(outcome).map(|one| said(&[one]).remove(0)).unwrap_or_default();
        assert_eq!(say(&at(None, Some("192.0.2.1"))), "IPAllocated 192.0.2.1 of pool public");
        assert_eq!(say(&at(Some("192.0.2.9"), Some("192.0.2.1"))), "IPAllocated 192.0.2.1 of pool public");
        assert_eq!(
            say(&at(Some("192.0.2.9"), None)),
            "ClearAssignment 192.0.2.9 is taken back: no free address"
        );
        assert_eq!(say(&at(Some("192.0.2.9"), Some("192.0.2.9"))), "");
        assert_eq!(
            say(&Outcome { ours: false, ..at(Some("192.0.2.9"), None) }),
            "",
            "its owner asked for that"
        );
    }

    #[test]
    fn a_pool_is_said_to_be_refused_once_for_each_reason() {
        let refused = PoolOutcome { generation: Some(1), count: None, refused: "overlaps".into() };
        let with = |condition: Value| json!({"status": {"conditions": [condition]}});
        let good = with(json!({"status": "True", "message": "Services get addresses of this pool"}));
        let known = with(json!({"status": "False", "message": "overlaps"}));
        let other = with(json!({"status": "False", "message": "too small"}));
        for (before, tells) in [(json!({}), true), (good, true), (other, true), (known, false)] {
            let said = of_pool(&refused, &before).map(|one| format!("{} {}", one.reason, one.note));
            assert_eq!(said.as_deref(), tells.then_some("PoolRefused overlaps"), "{before}");
        }
        let count = Some(crate::ipam::PoolCount::default());
        assert_eq!(of_pool(&PoolOutcome { count, ..PoolOutcome::default() }, &json!({})), None);
    }

    #[test]
    fn an_event_names_its_object_and_fits() {
        let notice = Notice { normal: false, reason: "AllocationFailed", note: "ä".repeat(5000) };
        let by = Sender { reporter: "gw-1", stamp: "2026-01-02T03:04:05.000006Z", number: 255 };
        let of_service = event(&notice, &Target::Service(ObjectKey::new("shop", "web")), "u", &by);
        assert_eq!(of_service["note"].as_str().map(str::len), Some(1024));
        assert_eq!(of_service["type"], "Warning");
        assert_eq!(of_service["metadata"], json!({"name": "web.ff", "namespace": "shop"}));
        let regarding =
            json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u"});
        assert_eq!(of_service["regarding"], regarding);
        let of_pool = event(&notice, &Target::Pool("public".into()), "u", &by);
        assert_eq!(of_pool["metadata"], json!({"name": "public.ff", "namespace": "default"}));
        assert_eq!(of_pool["regarding"]["kind"], "AddressPool");
    }

    #[test]
    fn a_burst_passes_and_then_ten_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let passed = |budget: &mut Budget, now| (0..500).filter(|_| budget.take(now)).count();
        assert_eq!(passed(&mut budget, start), 100);
        assert_eq!(passed(&mut budget, start + Duration::from_millis(250)), 2);
        assert_eq!(passed(&mut budget, start + Duration::from_millis(300)), 1);
        assert_eq!(passed(&mut budget, start + Duration::from_secs(3600)), 100);
    }
}
