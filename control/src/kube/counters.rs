//! What is counted about the API server, and how `/metrics` shows it. Shared numbers: the followers write, a scrape reads.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::fault::FaultKind;
use super::kind::Kind;

const KINDS: usize = Kind::ALL.len();
const FAULTS: usize = FaultKind::ALL.len();

/// Numbers about the API server.
#[derive(Debug)]
pub struct Counters {
    started: Instant,
    /// Milliseconds from `started` to the last sign of life; 0: none yet.
    heard_ms: AtomicU64,
    connected: AtomicBool,
    stale: AtomicBool,
    objects: [AtomicU64; KINDS],
    restarts: [AtomicU64; KINDS],
    faults: [[AtomicU64; FAULTS]; KINDS],
    /// Failed heartbeats.
    silences: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            stale: AtomicBool::new(true),
            objects: Default::default(),
            restarts: Default::default(),
            faults: Default::default(),
            silences: AtomicU64::new(0),
        }
    }

    /// The server sent something.
    pub(super) fn heard(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(ms.max(1), Ordering::Relaxed);
    }

    /// How long ago; none: never.
    pub(super) fn since_heard(&self) -> Option<Duration> {
        let ms = self.heard_ms.load(Ordering::Relaxed);
        (ms != 0).then(|| self.started.elapsed().saturating_sub(Duration::from_millis(ms)))
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Relaxed);
    }

    pub(super) fn set_objects(&self, kind: Kind, objects: usize) {
        self.objects[kind.index()].store(objects as u64, Ordering::Relaxed);
    }

    pub(super) fn watch_restarted(&self, kind: Kind) {
        self.restarts[kind.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fault(&self, kind: Kind, fault: FaultKind) {
        let at = FaultKind::ALL.iter().position(|one| *one == fault).expect("ALL has every kind");
        self.faults[kind.index()][at].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn silence(&self) {
        self.silences.fetch_add(1, Ordering::Relaxed);
    }
}

/// [`Counters`] for a registry.
#[derive(Debug)]
pub struct KubernetesCollector(pub std::sync::Arc<Counters>);

impl Collector for KubernetesCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &*self.0;
        let age = counters.since_heard().unwrap_or_else(|| counters.started.elapsed()).as_secs_f64();
        for (name, help, value) in [
            ("connected", "Whether the API server answers", f64::from(u8::from(counters.is_connected()))),
            (
                "stale",
                "Whether the state in force may differ from the API server's",
                f64::from(u8::from(counters.stale.load(Ordering::Relaxed))),
            ),
            ("last_contact_age_seconds", "Since the API server last sent anything", age),
        ] {
            let name = format!("kubernetes_{name}");
            let gauge = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        let help = "Heartbeats that the API server left without an answer";
        let silences =
            encoder.encode_descriptor("kubernetes_heartbeats_failed", help, None, MetricType::Counter)?;
        ConstCounter::new(counters.silences.load(Ordering::Relaxed)).encode(silences)?;
        per_kind(
            &mut encoder,
            ("objects", "Objects in force by kind", MetricType::Gauge),
            &counters.objects,
        )?;
        let restarts = ("watch_restarts", "Watches begun again, by kind", MetricType::Counter);
        per_kind(&mut encoder, restarts, &counters.restarts)?;
        faults(&mut encoder, &counters.faults)
    }
}

fn per_kind(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, metric_type): (&str, &str, MetricType),
    values: &[AtomicU64; KINDS],
) -> fmt::Result {
    let is_counter = matches!(metric_type, MetricType::Counter);
    let name = format!("kubernetes_{name}");
    let mut family = encoder.encode_descriptor(&name, help, None, metric_type)?;
    for (kind, value) in Kind::ALL.iter().zip(values) {
        let labels = [("kind", kind.name())];
        let metric = family.encode_family(&labels)?;
        let value = value.load(Ordering::Relaxed);
        if is_counter {
            ConstCounter::new(value).encode(metric)?
        } else {
            ConstGauge::new(value).encode(metric)?
        }
    }
    Ok(())
}

/// Every kind of error, zeros too: a series that appears only with the first error hides its rate.
fn faults(encoder: &mut DescriptorEncoder<'_>, faults: &[[AtomicU64; FAULTS]; KINDS]) -> fmt::Result {
    let help = "Requests to the API server that failed, by kind and error";
    let mut family = encoder.encode_descriptor("kubernetes_errors", help, None, MetricType::Counter)?;
    for (kind, values) in Kind::ALL.iter().zip(faults) {
        for (fault, value) in FaultKind::ALL.iter().zip(values) {
            let labels = [("kind", kind.name()), ("error", fault.name())];
            ConstCounter::new(value.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
