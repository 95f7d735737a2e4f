//! What becomes of receive interrupts, told where a worker that may sleep cannot have them.

use std::io;
use std::sync::Arc;

use control::config::GatewayConfig;
use tables::counters::{Idling, WorkerCounters};

use super::device::StartedPort;

/// Says which ports have no receive interrupts although workers would wait for them.
pub(super) fn tell_of_ports(config: &GatewayConfig, ports: &[StartedPort]) {
    for ((named, _), port) in config.devices().zip(ports) {
        if let Some(refused) = port.interrupts_refused() {
            tracing::warn!(
                port = named.name,
                %refused,
                "the device refuses receive interrupts: idle workers look for packets every millisecond"
            );
        } else if !port.capabilities().rx_interrupts {
            let driver = port.driver();
            tracing::info!(
                port = named.name,
                driver,
                "no receive interrupts: idle workers look for packets every millisecond"
            );
        }
    }
}

/// Looks for workers whose ports refuse their interrupts while they run; a line for each that begins to.
pub(super) struct Refusals {
    workers: Vec<(Arc<WorkerCounters>, Idling)>,
    /// The ports with a device, in their order.
    names: Vec<String>,
}

impl Refusals {
    pub(super) fn new(workers: impl Iterator<Item = Arc<WorkerCounters>>, config: &GatewayConfig) -> Self {
        Self {
            workers: workers.map(|counters| (counters, Idling::Polls)).collect(),
            names: config.devices().map(|(port, _)| port.name.clone()).collect(),
        }
    }

    pub(super) fn look(&mut self) {
        for (worker, (counters, known)) in self.workers.iter_mut().enumerate() {
            let idling = counters.idling();
            if *known == idling {
                continue;
            }
            *known = idling;
            if let Idling::Refused { port, errno } = idling {
                let port = self.names.get(port.index()).map_or("?", String::as_str);
                let error = io::Error::from_raw_os_error(errno.into());
                tracing::warn!(
                    worker,
                    port,
                    %error,
                    "the device refuses receive interrupts: the worker looks for packets every millisecond, and tries again"
                );
            }
        }
    }
}
