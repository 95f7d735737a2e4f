//! Services whose replies take another way than through the appliance: how many flows, and for how long it is told.
//! Bounded by [`SERVICES_MAX`]; flows of further Services are counted without a name. Time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tables::{ServiceId, Tables};
use tokio::time::Instant;

use crate::metrics::{ControlMetrics, ServiceLabels};
use crate::model::ObjectKey;

/// Service ports that are told apart.
const SERVICES_MAX: usize = 128;
/// How long after its last such flow a Service has a problem.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// What the workers reported.
#[derive(Debug, Default)]
pub(crate) struct Bypassed(BTreeMap<ServiceId, Reported>);

#[derive(Debug)]
struct Reported {
    flows: u64,
    last: Option<Instant>,
    labels: ServiceLabels,
}

impl Reported {
    fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.duration_since(last) < TOLD_FOR)
    }
}

impl Bypassed {
    /// A worker found `flows` flows of a Service port. Gives what to tell of the Service, if it was not told of lately.
    pub(super) fn note(
        &mut self,
        (id, flows): (ServiceId, u32),
        tables: &Tables,
        metrics: &ControlMetrics,
        now: Instant,
    ) -> Option<(ObjectKey, String)> {
        let service = tables.service(id)?;
        if !self.0.contains_key(&id) && self.0.len() == SERVICES_MAX {
            metrics.bypassed(&ServiceLabels::default()).inc_by(flows.into());
            return None;
        }
        let reported = self.0.entry(id).or_insert_with(|| Reported {
            flows: 0,
            last: None,
            labels: ServiceLabels::of(&service.info),
        });
        let known = reported.is_recent(now);
        reported.flows += u64::from(flows);
        reported.last = Some(now);
        metrics.bypassed(&reported.labels).inc_by(flows.into());
        let (namespace, name, port) = (&service.info.namespace, &service.info.name, service.info.port);
        (!known).then(|| {
            tracing::warn!(%namespace, %name, port, "{REMEDY}");
            (ObjectKey::new(&**namespace, &**name), format!("port {port}: {REMEDY}"))
        })
    }

    /// Forgets Service ports that are gone, their series too.
    pub(super) fn forget_gone(&mut self, tables: &Tables, metrics: &ControlMetrics) {
        let gone = self.0.extract_if(.., |id, _| tables.service(*id).is_none());
        let gone: Vec<_> = gone.map(|(_, reported)| reported.labels).collect();
        for labels in gone {
            // The other family of the same Service port has the same series.
            if self.0.values().all(|reported| reported.labels != labels) {
                metrics.forget_bypassed(&labels);
            }
        }
    }

    /// What people should know of a Service port with these slots.
    pub(crate) fn problem(&self, ids: &[ServiceId], now: Instant) -> Option<String> {
        let recent = ids.iter().filter_map(|id| self.0.get(id));
        let recent = recent.filter(|reported| reported.is_recent(now));
        let flows: u64 = recent.map(|reported| reported.flows).sum();
        (flows > 0).then(|| format!("{flows} flows saw no reply: {REMEDY}"))
    }
}

/// What it means and what to do.
const REMEDY: &str = "clients go on, but no packet of the backend comes back through the appliance: replies take another way; \
                      make the appliance the return route or set fairlead.dev/mode: snat";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use packet::Protocol;
    use tables::{Generation, NatMode, Rule, ServiceInfo, ServicePort};

    use super::*;
    use crate::metrics::Metrics;

    fn id(slot: u32) -> ServiceId {
        ServiceId::new(slot, 0).expect("a small slot")
    }

    fn tables(services: u32) -> Tables {
        let mut tables = Tables::empty(Generation(1));
        for slot in 0..services {
            let rule = Rule::same(tables::Choice { action: tables::Action::Balance(0), mode: NatMode::Dnat });
            let info = ServiceInfo {
                namespace: "shop".into(),
                name: format!("web-{slot}"),
                port_name: "http".into(),
                port: 80,
                protocol: Protocol::Tcp,
                mode: NatMode::Dnat,
            };
            tables.services.insert(Arc::new(ServicePort {
                id: id(slot),
                protocol: Protocol::Tcp,
                internal: rule.clone(),
                external: rule,
                pools: Box::new([]),
                affinity_timeout_s: None,
                udp_idle: tables::IdleTimeout::NONE,
                flows_per_second: None,
                source_ranges: None,
                access: None,
                info: Arc::new(info),
            }));
        }
        tables
    }

    fn series(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text();
        let lines = text.lines().filter(|line| line.starts_with("fairlead_service_bypassed_flows_total{"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_service_has_a_problem_until_its_replies_come_back_for_a_while() {
        let (metrics, tables, start) =
            (Metrics::new(Vec::new(), Vec::new(), None), tables(1), Instant::now());
        let mut bypassed = Bypassed::default();
        assert_eq!(bypassed.problem(&[id(0)], start), None);
        let told = bypassed.note((id(0), 3), &tables, &metrics.control, start).expect("something new");
        assert!(told.0 == ObjectKey::new("shop", "web-0") && told.1.starts_with("port 80: "), "{told:?}");
        assert_eq!(
            bypassed.note((id(0), 2), &tables, &metrics.control, start + Duration::from_secs(1)),
            None
        );
        let problem = bypassed.problem(&[id(7), id(0)], start + Duration::from_secs(2)).expect("a problem");
        assert!(problem.starts_with("5 flows saw no reply: ") && problem.contains("fairlead.dev/mode: snat"));
        assert_eq!(bypassed.problem(&[id(0)], start + TOLD_FOR + Duration::from_secs(1)), None);
        let want = r#"fairlead_service_bypassed_flows_total{namespace="shop",service="web-0",port="http"} 5"#;
        assert_eq!(series(&metrics), [want]);
        bypassed.note((id(9), 1), &tables, &metrics.control, start);
        bypassed.forget_gone(&Tables::empty(Generation(2)), &metrics.control);
        assert_eq!((series(&metrics).len(), bypassed.0.len()), (0, 0), "gone with its Service");
    }

    #[test]
    fn series_are_bounded() {
        let services = u32::try_from(SERVICES_MAX).expect("small") + 10;
        let (metrics, tables) = (Metrics::new(Vec::new(), Vec::new(), None), tables(services));
        let mut bypassed = Bypassed::default();
        for slot in 0..services {
            bypassed.note((id(slot), 1), &tables, &metrics.control, Instant::now());
        }
        let series = series(&metrics);
        assert_eq!(series.len(), SERVICES_MAX + 1);
        let rest = r#"fairlead_service_bypassed_flows_total{namespace="",service="",port=""} 10"#;
        assert!(series.iter().any(|line| line == rest), "{series:?}");
    }
}
