//! The engine of a build without feature `dpdk`: it says that it is none.

use anyhow::{Result, bail};
use control::config::GatewayConfig;
use control::workers::PortSpread;
use dataplane::worker::{WorkerConfig, WorkerLinks};
use packet::MacAddr;
use tables::rss::Rss;

use crate::run::cores::Cores;

/// Never exists.
pub(crate) enum Engine {}

/// Never exists.
pub(crate) enum Running {}

impl Engine {
    /// Refuses.
    pub(crate) fn open(_: &GatewayConfig, _: &Cores, _: &Rss) -> Result<Self> {
        bail!(
            "this build has no DPDK ports and cannot run; build it with `cargo build --release --features dpdk`"
        );
    }

    pub(crate) fn macs(&self) -> &[MacAddr] {
        match *self {}
    }

    pub(crate) fn spread(&self) -> &[PortSpread] {
        match *self {}
    }

    pub(crate) fn launch(self, _: Vec<(WorkerConfig, WorkerLinks)>) -> Result<Running> {
        match self {}
    }
}

impl Running {
    pub(crate) async fn ended(&self) {
        match *self {}
    }

    pub(crate) fn stop(self) -> Result<()> {
        match self {}
    }
}
