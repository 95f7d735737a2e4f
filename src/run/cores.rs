//! Which cores packets and control run on.

use std::fs;
use std::io;

use anyhow::{Context, Result};
use control::config::{GatewayConfig, Idle, Placement};
use cpu::affinity::{self, CpuSet};
use dataplane::idle::IdleMode;
use dataplane::plan::{Core, Plan, Wish};

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
    let plan = dataplane::plan::plan(&cores, &[], &wish).context("workers")?;
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

    /// Workers share their cores with something else.
    pub(super) fn crowded(&self) -> bool {
        self.plan.crowded
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

/// How workers idle: as configured, but never by polling on a core that others need.
pub(super) fn idle(config: &GatewayConfig, crowded: bool) -> IdleMode {
    match config.workers.idle {
        Idle::Poll if !crowded => IdleMode::Poll,
        Idle::Poll | Idle::Sleep => IdleMode::Sleep,
    }
}

/// The memory node of a core; 0 where the system does not say.
fn numa(core: usize) -> u16 {
    let Ok(entries) = fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")) else { return 0 };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut nodes = names.filter_map(|name| name.strip_prefix("node")?.parse().ok());
    nodes.next().unwrap_or(0)
}
