//! Prometheus text: what workers count, read at each scrape, and what control measures itself.
//!
//! Workers know nothing of this; their counters are plain shared numbers. The identity of packets (`tables::counters`)
//! holds over `fairlead_*_packets_total` and `fairlead_held_packets`, exactly when a worker is quiet.

mod probe;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tables::counters::WorkerCounters;
use tables::{Memory, ServiceInfo};

pub use self::probe::ProbeMetrics;
use self::worker::WorkerCollector;
use crate::mirror::PumpCounters;
use crate::outcome::PoolOutcome;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything `/metrics` shows.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What control sets.
    pub control: ControlMetrics,
}

/// Numbers that control sets as they change.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    /// Generation published last.
    pub published: Gauge<u64, AtomicU64>,
    /// Newest generation that every worker has taken.
    pub programmed: Gauge<u64, AtomicU64>,
    /// Versions of the tables in memory.
    pub kept: Gauge<u64, AtomicU64>,
    /// Bytes of the tables published last, by what they are for.
    memory: Family<PartLabels, Gauge<u64, AtomicU64>>,
    /// Service ports in force.
    pub services: Gauge<u64, AtomicU64>,
    /// Backends in force.
    pub backends: Gauge<u64, AtomicU64>,
    /// Listeners of healthCheckNodePorts that are open.
    pub health_listeners: Gauge<u64, AtomicU64>,
    /// Those that cannot be opened.
    pub health_refused: Gauge<u64, AtomicU64>,
    /// Addresses of a stale state that other hosts have.
    pub held_elsewhere: Gauge<u64, AtomicU64>,
    /// Source files that are broken; their last good content serves.
    pub broken_files: Gauge<u64, AtomicU64>,
    pool_used: Family<PoolLabels, Gauge<u64, AtomicU64>>,
    pool_size: Family<PoolLabels, Gauge<u64, AtomicU64>>,
    bypassed: Family<ServiceLabels, Counter>,
    latency: Histogram,
    compile: Histogram,
}

/// Names a Service port; empty ones stand for all that are not told apart.
#[derive(Clone, Debug, Default, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ServiceLabels {
    namespace: String,
    service: String,
    port: String,
}

impl ServiceLabels {
    /// The name of the port, or its number when it has none.
    #[must_use]
    pub fn of(info: &ServiceInfo) -> Self {
        let port = if info.port_name.is_empty() { info.port.to_string() } else { info.port_name.clone() };
        Self { namespace: info.namespace.clone(), service: info.name.clone(), port }
    }
}

/// What is counted about writing to the cluster.
#[derive(Clone, Debug, Default)]
pub struct WriterMetrics {
    /// 1 while this appliance decides about addresses and writes them down.
    pub leads: Gauge<u64, AtomicU64>,
    writes: Family<WriteLabels, Counter>,
}

/// What was written, and how that went.
type WriteLabels = [(&'static str, &'static str); 2];

impl WriterMetrics {
    /// A write of this kind ended so.
    pub fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&[("kind", kind), ("result", result)]).inc();
    }
}

/// Which part of the tables.
type PartLabels = [(&'static str, &'static str); 1];

/// Which addresses of which pool.
type PoolLabels = [(&'static str, String); 2];

impl ControlMetrics {
    /// A change took this long from its arrival until every worker had it.
    pub fn programmed_after(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    /// How full pools are that were touched; one that is in force no more has no numbers.
    pub fn pools_changed(&self, pools: &BTreeMap<String, PoolOutcome>) {
        for (name, pool) in pools {
            for (index, family) in ["ipv4", "ipv6"].into_iter().enumerate() {
                let labels = [("pool", name.clone()), ("family", family.to_owned())];
                let Some(count) = pool.count else {
                    self.pool_used.remove(&labels);
                    self.pool_size.remove(&labels);
                    continue;
                };
                self.pool_used.get_or_create(&labels).set(count.used[index]);
                let size = u64::try_from(count.size[index]).unwrap_or(u64::MAX);
                self.pool_size.get_or_create(&labels).set(size);
            }
        }
    }

    /// Flows of a Service port whose replies take another way.
    pub fn bypassed(&self, of: &ServiceLabels) -> Counter {
        self.bypassed.get_or_create_owned(of)
    }

    /// The Service port is gone.
    pub fn forget_bypassed(&self, of: &ServiceLabels) {
        self.bypassed.remove(of);
    }

    /// The tables take so many bytes.
    pub fn takes(&self, memory: &Memory) {
        for (part, bytes) in memory.parts() {
            self.memory.get_or_create(&[("part", part)]).set(bytes as u64);
        }
    }

    /// Tables took this long to compile.
    pub fn compiled_in(&self, time: Duration) {
        self.compile.observe(time.as_secs_f64());
    }
}

impl Metrics {
    /// Metrics of these workers, and of the mirror if there is one. `ports` names the ports by index.
    #[must_use]
    pub fn new(
        workers: Vec<Arc<WorkerCounters>>,
        ports: Vec<String>,
        mirror: Option<Arc<PumpCounters>>,
    ) -> Self {
        let mut registry = Registry::with_prefix("fairlead");
        let control = ControlMetrics::register(&mut registry);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running program", build);
        registry.register_collector(Box::new(WorkerCollector { workers, ports }));
        if let Some(mirror) = mirror {
            registry.register_collector(Box::new(MirrorCollector(mirror)));
        }
        Self { registry, control }
    }

    /// Adds what only some appliances have.
    pub fn add(&mut self, collector: Box<dyn Collector>) {
        self.registry.register_collector(collector);
    }

    /// Shows also what is written to a cluster, from now on.
    pub fn add_writer(&mut self) -> WriterMetrics {
        let metrics = WriterMetrics::default();
        let help = "Whether this appliance decides about addresses and writes them down";
        self.registry.register("kubernetes_leader", help, metrics.leads.clone());
        let help = "Writes to the API server by what was written and how it went";
        self.registry.register("kubernetes_writes", help, metrics.writes.clone());
        metrics
    }

    /// The Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("a String takes all text");
        text
    }
}

impl ControlMetrics {
    fn register(registry: &mut Registry) -> Self {
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::<u64, AtomicU64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let family = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<PoolLabels, Gauge<u64, AtomicU64>>::default();
            registry.register(name, help, family.clone());
            family
        };
        let histogram = |registry: &mut Registry, name: &str, help: &str| {
            let histogram = Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
            registry.register(name, help, histogram.clone());
            histogram
        };
        let bypassed = Family::default();
        registry.register(
            "service_bypassed_flows",
            "Flows found to have replies that never pass here, by Service port; without a name: of all beyond the first 128",
            bypassed.clone(),
        );
        let memory = Family::default();
        registry.register("tables_bytes", "Memory of the tables published last, by part", memory.clone());
        Self {
            bypassed,
            memory,
            published: gauge(registry, "tables_generation", "Generation of the tables published last"),
            programmed: gauge(
                registry,
                "tables_programmed_generation",
                "Newest generation every worker has taken",
            ),
            kept: gauge(registry, "tables_versions", "Versions of the tables in memory"),
            services: gauge(registry, "service_ports", "Service ports in force"),
            backends: gauge(registry, "backends", "Backends in force"),
            health_listeners: gauge(
                registry,
                "service_health_listeners",
                "Listeners for the healthCheckNodePorts of Services",
            ),
            health_refused: gauge(
                registry,
                "service_health_listeners_refused",
                "Listeners for healthCheckNodePorts that cannot be opened; the log says why",
            ),
            held_elsewhere: gauge(
                registry,
                "addresses_held_elsewhere",
                "Addresses of a stale state that are not served, because another host on their segment has them.",
            ),
            broken_files: gauge(
                registry,
                "source_broken_files",
                "Source files that are broken; their last good content serves",
            ),
            pool_used: family(registry, "pool_addresses_used", "Addresses of a pool that Services have"),
            pool_size: family(registry, "pool_addresses", "Addresses that a pool may give"),
            latency: histogram(
                registry,
                "tables_programmed_latency_seconds",
                "From the arrival of a change until every worker has it",
            ),
            compile: histogram(registry, "tables_compile_seconds", "Time to compile tables"),
        }
    }
}

#[derive(Debug)]
struct MirrorCollector(Arc<PumpCounters>);

impl Collector for MirrorCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Frames between the workers and the kernel's TAPs";
        let mut family = encoder.encode_descriptor("mirror_frames", help, None, MetricType::Counter)?;
        for (direction, result, counter) in [
            ("to_kernel", "passed", &self.0.to_kernel),
            ("to_kernel", "dropped", &self.0.to_kernel_dropped),
            ("from_kernel", "passed", &self.0.from_kernel),
            ("from_kernel", "dropped", &self.0.from_kernel_dropped),
        ] {
            let labels = [("direction", direction), ("result", result)];
            let metric = family.encode_family(&labels)?;
            ConstCounter::new(counter.load(Ordering::Relaxed)).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tables::{DropReason, PortId, counters::Counts};

    use super::*;

    fn metrics() -> Metrics {
        let workers: Vec<_> = (0..2).map(|_| Arc::new(WorkerCounters::new(1))).collect();
        let mut counts = Counts::new(1);
        counts.receive(PortId(0), 7, 448);
        counts.transmit(PortId(0), 4, 256);
        counts.drop_packets(DropReason::NoRoute, 2);
        counts.packets.held = 1;
        counts.flows.capacity = 100;
        workers[1].flush(&counts);
        Metrics::new(workers, vec!["outside".into()], Some(Arc::default()))
    }

    fn value(text: &str, series: &str) -> u64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn the_packet_identity_holds_over_the_published_names() {
        let text = metrics().text();
        let of = |name: &str| value(&text, &format!("fairlead_{name}_packets_total{{worker=\"1\"}}"));
        let came = of("rx") + of("injected") + of("originated") + of("handoff_in");
        let dropped: u64 = text
            .lines()
            .filter(|line| line.starts_with("fairlead_dropped_packets_total{worker=\"1\""))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        let held = value(&text, "fairlead_held_packets{worker=\"1\"}");
        let went = of("tx") + of("punted") + of("consumed") + of("handoff_out");
        assert_eq!((came, dropped), (7, 2));
        assert_eq!(came, went + dropped + held);
    }

    #[test]
    fn the_text_is_as_published() {
        // Only the first worker's first lines of each family: the rest repeats.
        let text = metrics().text();
        let golden: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE") || line.contains("NoRoute") || line.contains("mirror"))
            .collect();
        insta::assert_snapshot!(golden.join("\n"));
    }

    #[test]
    fn pools_have_numbers_while_they_are_in_force() {
        let metrics = metrics();
        let count = crate::ipam::PoolCount { used: [3, 0], size: [64, u128::MAX] };
        let mut pools =
            BTreeMap::from([("a".to_owned(), PoolOutcome { count: Some(count), ..Default::default() })]);
        metrics.control.pools_changed(&pools);
        let text = metrics.text();
        assert_eq!(value(&text, "fairlead_pool_addresses_used{pool=\"a\",family=\"ipv4\"}"), 3);
        assert_eq!(value(&text, "fairlead_pool_addresses{pool=\"a\",family=\"ipv6\"}"), u64::MAX);
        pools.insert("a".to_owned(), PoolOutcome::default());
        metrics.control.pools_changed(&pools);
        assert!(!metrics.text().contains("pool=\"a\""));
    }

    #[test]
    fn the_memory_of_the_tables_is_told_by_part() {
        let metrics = metrics();
        metrics.control.takes(&Memory { maglev: 4_096, ..Memory::default() });
        let text = metrics.text();
        assert_eq!(value(&text, "fairlead_tables_bytes{part=\"maglev\"}"), 4_096);
        assert_eq!(value(&text, "fairlead_tables_bytes{part=\"routes\"}"), 0);
    }

    #[test]
    fn latencies_become_a_histogram_in_seconds() {
        let metrics = metrics();
        metrics.control.programmed_after(Duration::from_millis(3));
        let text = metrics.text();
        assert_eq!(value(&text, "fairlead_tables_programmed_latency_seconds_count"), 1);
        assert_eq!(value(&text, "fairlead_tables_programmed_latency_seconds_bucket{le=\"0.0016\"}"), 0);
        assert_eq!(value(&text, "fairlead_tables_programmed_latency_seconds_bucket{le=\"0.0032\"}"), 1);
    }
}
