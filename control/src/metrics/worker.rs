//! What the workers count, as `/metrics` shows it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tables::counters::{
    AffinityCounts, Counts, FlowCounts, FragmentCounts, LoopCounts, PacketCounts, PortCounts, WorkerCounters,
};

/// Reads every worker's counters at a scrape.
pub(super) struct WorkerCollector {
    pub(super) workers: Vec<Arc<WorkerCounters>>,
    pub(super) ports: Vec<String>,
}

impl fmt::Debug for WorkerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerCollector({} workers)", self.workers.len())
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// Name, what it is, kind, and how to read it.
type Row<'a> = (&'a str, &'a str, Kind, &'a dyn Fn(&Counts) -> u64);

impl Collector for WorkerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts: Vec<Counts> = self.workers.iter().map(|worker| worker.snapshot()).collect();
        for (at, (help, kind)) in PACKETS.into_iter().enumerate() {
            let name = format!("{}_packets", PacketCounts::NAMES[at]);
            per_worker(&mut encoder, &counts, (&name, help, kind, &|one| one.packets.to_array()[at]))?;
        }
        dropped(&mut encoder, &counts)?;
        for (at, (help, kind)) in FLOWS.into_iter().enumerate() {
            let name = format!("flows_{}", FlowCounts::NAMES[at]);
            per_worker(&mut encoder, &counts, (&name, help, kind, &|one| one.flows.to_array()[at]))?;
        }
        for (at, (help, kind)) in AFFINITY.into_iter().enumerate() {
            let name = format!("affinity_{}", AffinityCounts::NAMES[at]);
            per_worker(&mut encoder, &counts, (&name, help, kind, &|one| one.affinity.to_array()[at]))?;
        }
        for (at, help) in FRAGMENTS.into_iter().enumerate() {
            let name = format!("fragments_{}", FragmentCounts::NAMES[at]);
            let read = |one: &Counts| one.fragments.to_array()[at];
            per_worker(&mut encoder, &counts, (&name, help, Kind::Counter, &read))?;
        }
        for (at, help) in LOOP.into_iter().enumerate() {
            let name = format!("loop_{}", LoopCounts::NAMES[at]);
            per_worker(&mut encoder, &counts, (&name, help, Kind::Counter, &|one| one.turns.to_array()[at]))?;
        }
        for (at, help) in PORTS.into_iter().enumerate() {
            self.per_port(&mut encoder, &counts, at, help)?;
        }
        Ok(())
    }
}

/// In the order of `PacketCounts`.
const PACKETS: [(&str, Kind); 9] = [
    ("Packets received from ports", Kind::Counter),
    ("Packets handed over by the kernel, to be sent", Kind::Counter),
    ("Packets made by the dataplane itself, such as ARP replies", Kind::Counter),
    ("Packets taken over from other workers", Kind::Counter),
    ("Packets given to ports", Kind::Counter),
    ("Packets copied to the kernel", Kind::Counter),
    ("Packets answered or absorbed by the dataplane", Kind::Counter),
    ("Packets handed to other workers", Kind::Counter),
    ("Packets that wait for a neighbour, in a transmit buffer or in reassembly", Kind::Gauge),
];

/// In the order of `FlowCounts`.
const FLOWS: [(&str, Kind); 13] = [
    ("Flows the table can hold", Kind::Gauge),
    ("Flows now in the table", Kind::Gauge),
    ("Flows now in the table that are half-open, and may be recycled", Kind::Gauge),
    ("Flows entered", Kind::Counter),
    ("Flows gone by their timeout", Kind::Counter),
    ("Half-open flows that made room for another", Kind::Counter),
    ("Flows taken out on demand, or because their backend went", Kind::Counter),
    ("Flows refused because the table was full", Kind::Counter),
    (
        "Of those taken out: such as had been at a backend that drains or is gone until their deadline",
        Kind::Counter,
    ),
    ("Flows found to have replies that never pass here", Kind::Counter),
    (
        "Resets not believed, as their sequence number is far from what was seen, or their SCTP tag wrong",
        Kind::Counter,
    ),
    ("Flows that went on after a reset", Kind::Counter),
    ("Replies without a flow that were translated by the tables alone", Kind::Counter),
];

/// In the order of `AffinityCounts`.
const AFFINITY: [(&str, Kind); 4] = [
    ("Clients that can be remembered for session affinity", Kind::Gauge),
    ("Clients now remembered for session affinity", Kind::Gauge),
    ("New flows that went to the backend remembered of their client", Kind::Counter),
    ("Clients not remembered because there was no room", Kind::Counter),
];

/// In the order of `FragmentCounts`.
const FRAGMENTS: [&str; 2] = [
    "Packets sent in fragments, as they were longer than their way out allows",
    "Fragments made of such packets",
];

/// In the order of `LoopCounts`.
const LOOP: [&str; 7] = [
    "Times around the worker's loop",
    "Times around without work",
    "Times the worker slept",
    "Time-stamp counter cycles in turns with work",
    "Table versions taken",
    "Full passes of the flow table's sweep",
    "Messages to control lost to a full ring",
];

/// In the order of `PortCounts`.
const PORTS: [&str; 4] =
    ["Packets received by port", "Bytes received by port", "Packets sent by port", "Bytes sent by port"];

fn per_worker(encoder: &mut DescriptorEncoder<'_>, counts: &[Counts], row: Row<'_>) -> fmt::Result {
    let (name, help, kind, read) = row;
    let metric_type = match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
    for (worker, one) in counts.iter().enumerate() {
        let labels = [("worker", worker.to_string())];
        let metric = family.encode_family(&labels)?;
        match kind {
            Kind::Counter => ConstCounter::new(read(one)).encode(metric)?,
            Kind::Gauge => ConstGauge::new(read(one)).encode(metric)?,
        }
    }
    Ok(())
}

/// Every reason of every worker, zeros too: a series that appears only with the first drop hides its rate.
fn dropped(encoder: &mut DescriptorEncoder<'_>, counts: &[Counts]) -> fmt::Result {
    let help = "Packets dropped, by reason; `fairlead show drops` says what each means";
    let mut family = encoder.encode_descriptor("dropped_packets", help, None, MetricType::Counter)?;
    for (worker, one) in counts.iter().enumerate() {
        for (reason, packets) in one.drops() {
            let labels = [("worker", worker.to_string()), ("reason", reason.symbol().to_owned())];
            ConstCounter::new(packets).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

impl WorkerCollector {
    fn per_port(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        counts: &[Counts],
        at: usize,
        help: &str,
    ) -> fmt::Result {
        let name = format!("port_{}", PortCounts::NAMES[at]);
        let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (worker, one) in counts.iter().enumerate() {
            for (port, counted) in self.ports.iter().zip(one.ports()) {
                let labels = [("worker", worker.to_string()), ("port", port.clone())];
                ConstCounter::new(counted.to_array()[at]).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
