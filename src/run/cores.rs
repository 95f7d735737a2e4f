//! Which cores packets and control run on.

use std::fs;
use std::io;

use anyhow::{Context, Result};
use control::config::{GatewayConfig, Idle, Placement, PortConfig};
use cpu::affinity::{self, CpuSet};
use dataplane::idle::IdleMode;
use dataplane::plan::{Core, Plan, PortOffer, Wish};

/// The plan, made once from the mask the process was started with.
pub(super) struct Cores {
    plan: Plan,
}

/// Plans on the cores that this process may use.
pub(super) fn plan(config: &GatewayConfig) -> Result<Cores> {
    let mask = affinity::current().context("cannot read which cores this process may use")?;
    let cores: Vec<Core> =
        mask.iter().filter_map(|id| Some(Core { id: u16::try_from(id).ok()?, numa: numa(id) })).collect();
    let wish = match &config.workers.placement {
        Placement::Count(count) => Wish::Count(*count),
        Placement::Cores(cores) => Wish::Cores(cores.clone()),
    };
    let plan = dataplane::plan::plan(&cores, &offers(config), &wish).context("workers")?;
    if plan.crowded {
        tracing::warn!(
            cores = cores.len(),
            workers = plan.workers.len(),
            "fewer cores than workers + 1: workers share theirs and sleep when idle; throughput and latency will suffer"
        );
    }
    Ok(Cores { plan })
}

impl Cores {
    /// The plan itself.
    #[cfg_attr(not(feature = "dpdk"), expect(dead_code, reason = "only the DPDK engine places workers"))]
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The core of each worker.
    pub(super) fn of_workers(&self) -> Vec<u16> {
        self.plan.workers.iter().map(|place| place.core).collect()
    }

    /// How workers idle: as configured, but never by polling on a core that others need.
    pub(super) fn idle(&self, config: &GatewayConfig) -> IdleMode {
        match config.workers.idle {
            Idle::Poll if !self.plan.crowded => IdleMode::Poll,
            Idle::Poll | Idle::Sleep => IdleMode::Sleep,
        }
    }

    /// Confines this thread and those it makes from now on to the cores that workers leave.
    pub(super) fn confine_control(&self) -> io::Result<()> {
        let mut set = CpuSet::empty();
        for core in &self.plan.control_cores {
            set.insert(usize::from(*core));
        }
        affinity::set_current(&set)
    }
}

/// What is known of the ports before DPDK opens them: a port with too few queues is refused then.
fn offers(config: &GatewayConfig) -> Vec<PortOffer> {
    let offer = |(port, device): (&PortConfig, &str)| PortOffer {
        name: port.name.clone(),
        queues_max: u16::MAX,
        numa: numa_of_device(device),
    };
    config.devices().map(offer).collect()
}

/// The memory node that a PCI device hangs on; `None` for others, and where the system does not say.
fn numa_of_device(device: &str) -> Option<u16> {
    let address = device.split_once(',').map_or(device, |(address, _)| address);
    if !address.contains(':') {
        return None;
    }
    let node = fs::read_to_string(format!("/sys/bus/pci/devices/{address}/numa_node")).ok()?;
    // -1 where there is one node only.
    node.trim().parse().ok()
}

/// The memory node of a core; 0 where the system does not say.
fn numa(core: usize) -> u16 {
    let Ok(entries) = fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")) else { return 0 };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut nodes = names.filter_map(|name| name.strip_prefix("node")?.parse().ok());
    nodes.next().unwrap_or(0)
}
