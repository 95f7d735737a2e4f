//! What is counted about active health checks.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;
use crate::probe::Fault;

/// What is counted about active health checks.
#[derive(Clone, Debug, Default)]
pub struct ProbeMetrics {
    /// Probes that are asked.
    pub probes: Gauge<u64, AtomicU64>,
    /// Those whose backend fails.
    pub failing: Gauge<u64, AtomicU64>,
    answers: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ProbeMetrics {
    /// One answer came.
    pub fn answered(&self, answer: Result<(), Fault>) {
        let result = match answer {
            Ok(()) => "good",
            Err(Fault::Unasked(_)) => "not_asked",
            Err(_) => "bad",
        };
        self.answers.get_or_create(&[("result", result)]).inc();
    }
}

impl Metrics {
    /// Shows also what comes of health checks, from now on.
    pub fn add_prober(&mut self) -> ProbeMetrics {
        let metrics = ProbeMetrics::default();
        for (name, help, gauge) in [
            ("health_checks", "Backends that are asked whether they serve", &metrics.probes),
            ("health_checks_failing", "Backends that fail their health check", &metrics.failing),
        ] {
            self.registry.register(name, help, gauge.clone());
        }
        let help =
            "Answers to health checks: good, bad, or not_asked where the appliance itself could not ask";
        self.registry.register("health_check_answers", help, metrics.answers.clone());
        metrics
    }
}
