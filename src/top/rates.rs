//! Rates from two looks at the appliance's counters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::admin::view;
use serde::Serialize;

/// What the appliance told at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) ports: Vec<view::Port>,
    pub(super) counters: Vec<view::Counter>,
    pub(super) drops: Vec<view::Drops>,
    /// Flows in use.
    pub(super) flows: view::FlowSample,
}

/// What happened between two of them, a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rates {
    /// The time between.
    pub(super) seconds: f64,
    pub(super) ports: Vec<PortRates>,
    pub(super) workers: Vec<WorkerRates>,
    /// Over all workers, most a second first.
    pub(super) drops: Vec<DropRates>,
    /// Services of the flows in use, those with the most first.
    pub(super) services: Vec<ServiceLoad>,
    /// Flows in use: those that had a packet meanwhile.
    pub(super) flows_in_use: u64,
    /// 1: all flows in use were counted; else they are estimated, from one of so many slots of a flow table.
    pub(super) one_in: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortRates {
    pub(super) name: String,
    pub(super) rx_packets: f64,
    pub(super) tx_packets: f64,
    pub(super) rx_bits: f64,
    pub(super) tx_bits: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkerRates {
    pub(super) worker: u16,
    /// Share of the time spent in turns with work.
    pub(super) busy: f64,
    /// Turns with work.
    pub(super) bursts: f64,
    pub(super) rx: f64,
    pub(super) tx: f64,
    pub(super) punted: f64,
    pub(super) handed_off: f64,
    pub(super) dropped: f64,
    pub(super) flows_created: f64,
    /// Flows now.
    pub(super) flows: u64,
    /// Flows there can be.
    pub(super) flows_capacity: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DropRates {
    pub(super) reason: String,
    pub(super) per_second: f64,
    /// Since the start.
    pub(super) packets: u64,
    pub(super) text: String,
}

/// One Service port's part of the flows in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceLoad {
    /// `namespace/name:port`; empty when the Service is gone, or for what is no Service's.
    pub(super) service: String,
    /// Its flows in use.
    pub(super) in_use: u64,
    /// Those of them that were seen; all, unless they are estimated.
    pub(super) seen: u64,
}

impl Rates {
    /// What was counted from one sample to the next. A counter that went back is of an appliance that was started again
    /// meanwhile, and one that was not there before is of something new: both count from 0.
    /// `hz`: ticks a second of the counter that workers tell their busy time by.
    pub(super) fn between(before: &Sample, after: &Sample, time: Duration, hz: u64) -> Self {
        let seconds = time.as_secs_f64();
        let rate = |before: u64, after: u64| {
            let count = after.checked_sub(before).unwrap_or(after);
            count as f64 / seconds.max(f64::MIN_POSITIVE)
        };
        let port = |port: &view::Port| {
            let old = before.ports.iter().find(|old| old.name == port.name).cloned().unwrap_or_default();
            PortRates {
                name: port.name.clone(),
                rx_packets: rate(old.rx_packets, port.rx_packets),
                tx_packets: rate(old.tx_packets, port.tx_packets),
                rx_bits: rate(old.rx_bytes, port.rx_bytes) * 8.0,
                tx_bits: rate(old.tx_bytes, port.tx_bytes) * 8.0,
            }
        };
        let workers: BTreeSet<u16> = after.counters.iter().map(|counter| counter.worker).collect();
        let worker = |worker: u16| {
            let now = |name: &str| counter(after, worker, name);
            let per_second = |name: &str| rate(counter(before, worker, name), now(name));
            WorkerRates {
                worker,
                busy: (per_second("loop_busy_cycles") / hz.max(1) as f64).min(1.0),
                bursts: (per_second("loop_turns") - per_second("loop_idle_turns")).max(0.0),
                rx: per_second("rx_packets"),
                tx: per_second("tx_packets"),
                punted: per_second("punted_packets"),
                handed_off: per_second("handoff_out_packets"),
                dropped: per_second("dropped_packets"),
                flows_created: per_second("flows_created"),
                flows: now("flows_used"),
                flows_capacity: now("flows_capacity"),
            }
        };
        let (old, new) = (reasons(before), reasons(after));
        let drop = |(reason, (packets, text)): (&str, (u64, &str))| DropRates {
            per_second: rate(old.get(reason).map_or(0, |(packets, _)| *packets), packets),
            reason: reason.to_owned(),
            packets,
            text: text.to_owned(),
        };
        let mut drops: Vec<_> = new.into_iter().map(drop).collect();
        drops.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then(b.packets.cmp(&a.packets)));
        let ports = after.ports.iter().map(port).collect();
        let services = services(&after.flows);
        Self {
            seconds,
            ports,
            workers: workers.into_iter().map(worker).collect(),
            drops,
            flows_in_use: services.iter().map(|load| load.in_use).sum(),
            services,
            one_in: after.flows.one_in,
        }
    }
}

fn counter(sample: &Sample, worker: u16, name: &str) -> u64 {
    let mut counters = sample.counters.iter();
    counters
        .find(|counter| counter.worker == worker && counter.name == name)
        .map_or(0, |counter| counter.value)
}

fn services(flows: &view::FlowSample) -> Vec<ServiceLoad> {
    let load = |row: &view::ServiceFlows| ServiceLoad {
        service: row.service.clone(),
        in_use: row.flows,
        seen: row.seen,
    };
    let mut services: Vec<_> = flows.services.iter().map(load).collect();
    services.sort_by_key(|load| std::cmp::Reverse(load.in_use));
    services
}

/// Packets of each reason over all workers, and the reason for people.
fn reasons(sample: &Sample) -> BTreeMap<&str, (u64, &str)> {
    let mut reasons = BTreeMap::new();
    for row in &sample.drops {
        let (packets, text) = reasons.entry(row.reason.as_str()).or_insert((0, ""));
        *packets += row.packets;
        *text = &row.text;
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rx: u64, dropped: &[(u16, &str, u64)]) -> Sample {
        let port =
            view::Port { name: "outside".into(), rx_packets: rx, rx_bytes: rx * 60, ..Default::default() };
        let counter = |name: &str, value| view::Counter { worker: 0, name: name.into(), value };
        let drops = dropped.iter().map(|(worker, reason, packets)| view::Drops {
            worker: *worker,
            reason: (*reason).into(),
            packets: *packets,
            text: "why".into(),
        });
        Sample {
            ports: vec![port],
            counters: vec![
                counter("rx_packets", rx),
                counter("loop_busy_cycles", rx),
                counter("loop_turns", rx),
                counter("loop_idle_turns", rx / 2),
                counter("flows_used", 7),
                counter("flows_capacity", 10),
            ],
            drops: drops.collect(),
            flows: view::FlowSample {
                one_in: 8,
                services: [("shop/dns:53", 16, 2), ("shop/web:80", 20, 6)]
                    .map(|(service, flows, seen)| view::ServiceFlows { service: service.into(), flows, seen })
                    .into(),
            },
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let before = sample(1000, &[(0, "TtlExceeded", 10)]);
        let after = sample(3000, &[(0, "TtlExceeded", 12), (1, "TtlExceeded", 2), (0, "NoRoute", 100)]);
        let rates = Rates::between(&before, &after, Duration::from_secs(2), 1000);
        assert_eq!((rates.ports[0].rx_packets, rates.ports[0].rx_bits), (1000.0, 480_000.0));
        assert_eq!((rates.workers[0].rx, rates.workers[0].flows, rates.workers.len()), (1000.0, 7, 1));
        // 2000 cycles of 1000 a second, in two.
        assert_eq!((rates.workers[0].busy, rates.workers[0].bursts), (1.0, 500.0));
        let services: Vec<_> =
            rates.services.iter().map(|load| (load.service.as_str(), load.in_use, load.seen)).collect();
        assert_eq!(services, [("shop/web:80", 20, 6), ("shop/dns:53", 16, 2)]);
        assert_eq!((rates.flows_in_use, rates.one_in), (36, 8));
        let drops: Vec<_> =
            rates.drops.iter().map(|row| (row.reason.as_str(), row.per_second, row.packets)).collect();
        assert_eq!(drops, [("NoRoute", 50.0, 100), ("TtlExceeded", 2.0, 14)]);
    }

    #[test]
    fn an_appliance_that_was_started_again_counts_from_nothing() {
        let rates = Rates::between(&sample(5000, &[]), &sample(300, &[]), Duration::from_secs(1), 1000);
        assert_eq!(rates.ports[0].rx_packets, 300.0);
        let first = Rates::between(&Sample::default(), &sample(300, &[]), Duration::from_secs(1), 1000);
        assert_eq!(first.workers[0].rx, 300.0);
    }
}
