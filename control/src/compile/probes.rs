//! Active health checks: which probes Services want, and what is known of the backends. Not here: asking (`probe`).
//!
//! A backend that fails counts as not ready, unless all of a Service port's ready ones do: then the checks are not believed, as
//! the fault is more likely between the appliance and all of them, and Kubernetes still takes them for ready.

use std::collections::{BTreeMap, BTreeSet};

use super::Compiler;
use super::endpoints::Candidates;
use super::service::{CompiledPort, Work};
use crate::model::{ObjectKey, TrafficPolicy};
use crate::probe::{Check, Health, PROBES_MAX, Probe, Question};

/// Every probe that a Service wants.
#[derive(Debug, Default)]
pub(super) struct Probes {
    known: BTreeMap<Probe, Wanted>,
    /// Probes that are wanted from now on, or no longer, since somebody asked.
    news: BTreeMap<Probe, bool>,
}

#[derive(Debug)]
struct Wanted {
    users: BTreeSet<ObjectKey>,
    health: Health,
}

impl Probes {
    /// A Service wants a probe; what is known of its backend, or none if there are too many.
    fn want(&mut self, probe: &Probe, service: &ObjectKey) -> Option<Health> {
        if let Some(wanted) = self.known.get_mut(probe) {
            wanted.users.insert(service.clone());
            return Some(wanted.health);
        }
        if self.known.len() >= PROBES_MAX {
            return None;
        }
        let health = Health::Unknown(None);
        self.known.insert(probe.clone(), Wanted { users: BTreeSet::from([service.clone()]), health });
        self.news.insert(probe.clone(), true);
        Some(health)
    }

    fn release(&mut self, probe: &Probe, service: &ObjectKey) {
        let Some(wanted) = self.known.get_mut(probe) else { return };
        wanted.users.remove(service);
        if wanted.users.is_empty() {
            self.known.remove(probe);
            self.news.insert(probe.clone(), false);
        }
    }

    /// What is known of a probe's backend.
    pub(super) fn health(&self, probe: &Probe) -> Option<Health> {
        self.known.get(probe).map(|wanted| wanted.health)
    }
}

impl Compiler {
    /// Takes in what is known of backends now; the Services of those that begin to fail, or no longer do, are compiled anew.
    pub fn note_health(&mut self, news: BTreeMap<Probe, Health>) {
        for (probe, health) in news {
            let Some(wanted) = self.probes.known.get_mut(&probe) else { continue };
            if wanted.health.is_failing() != health.is_failing() {
                self.dirty.services.extend(wanted.users.iter().cloned());
            }
            wanted.health = health;
        }
    }

    /// Probes that are wanted from now on (true), or no longer, since the last call.
    pub fn take_wanted_probes(&mut self) -> BTreeMap<Probe, bool> {
        std::mem::take(&mut self.probes.news)
    }

    /// Asks for the probes of a Service port's ready endpoints, and takes those that fail for not ready. Gives the probes by
    /// endpoint.
    pub(super) fn check_endpoints(
        &mut self,
        work: &Work<'_>,
        node_port: bool,
        candidates: &mut Candidates<'_>,
        problems: &mut Vec<String>,
    ) -> BTreeMap<std::net::SocketAddr, Probe> {
        let mut probes = BTreeMap::new();
        let check = if node_port { of_nodes(work) } else { work.check.clone() };
        if check.question == Question::None {
            return probes;
        }
        if !self.settings.probes_reach && !candidates.list().is_empty() {
            problems.push(
                "health checks: not done, as no port has a kernel mirror to ask through; set tap: true on the port towards the pods"
                    .into(),
            );
            return probes;
        }
        for candidate in candidates.ready_mut() {
            let Some(probe) = check.of(candidate.at, work.port.protocol) else { continue };
            let Some(health) = self.probes.want(&probe, &work.service.key) else {
                problems.push(format!(
                    "health checks: {PROBES_MAX} backends are checked already; the others of this Service count as Kubernetes says"
                ));
                continue;
            };
            candidate.failing = health.is_failing();
            probes.insert(candidate.at, probe);
        }
        if candidates.pardon_all_failing() {
            let port = work.port.port;
            problems.push(format!(
                "health checks: every ready endpoint of port {port} fails, so all are used as if none did; see `fairlead show backends` for the reasons, and whether the appliance itself can reach them"
            ));
        }
        probes
    }

    /// A Service no longer wants the probes that it had and has no more.
    pub(super) fn release_probes(&mut self, key: &ObjectKey, before: &[Probe], ports: &[CompiledPort]) {
        let now: BTreeSet<_> = ports.iter().flat_map(|port| port.probes.values()).collect();
        for probe in before.iter().filter(|probe| !now.contains(probe)) {
            self.probes.release(probe, key);
        }
    }
}

/// A Node behind a nodePort has a health check of its own where it serves only its own pods (K10).
fn of_nodes(work: &Work<'_>) -> Check {
    match work.service.health_check_node_port {
        Some(port)
            if work.check.question != Question::None
                && work.service.external_policy == TrafficPolicy::Local =>
        {
            Check { question: Question::Http("/healthz".into()), port: Some(port), ..work.check.clone() }
        }
        _ => work.check.clone(),
    }
}
