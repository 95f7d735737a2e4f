//! Tables without an appliance: configuration and manifests compiled once, for `trace` and tests.

use std::fs;
use std::path::Path;

use packet::MacAddr;
use tables::Tables;

use crate::apply::ASSIGNMENTS;
use crate::compile::{Compiler, Settings};
use crate::config::{ForwardingConfig, GatewayConfig, NODE_PORT_RANGE};
use crate::ipam::Assignments;
use crate::manifests::Manifests;
use crate::network::{Network, NetworkPort};

/// What the files say.
#[derive(Debug)]
pub struct Offline {
    /// The tables a worker would get. They know the configuration's routes, not the kernel's.
    pub tables: Tables,
    /// What is wrong with the manifests, a line each; the rest is compiled.
    pub problems: Vec<String>,
}

/// Compiles a directory of manifests. Without a configuration there are no ports, and every key has its default.
#[must_use]
pub fn compile(config: Option<&GatewayConfig>, manifests: &Path) -> Offline {
    let assignments = config.map(remembered).unwrap_or_default();
    let mut compiler = Compiler::new(config.map_or_else(default_settings, Settings::from), assignments);
    compiler.set_network(config.map(network).unwrap_or_default());
    let mut source = Manifests::new(manifests);
    source.load().into_iter().for_each(|change| compiler.apply(change));
    Offline { tables: compiler.compile(), problems: source.problems() }
}

fn default_settings() -> Settings {
    let forwarding = ForwardingConfig::default();
    let (snat_ports, node_port_range) = (forwarding.snat_ports, NODE_PORT_RANGE);
    Settings { snat_ports, node_port_range, workers: 1, ..Settings::default() }
}

/// The addresses that an appliance on this machine gave, where it has run: the same question gets the same answer.
fn remembered(config: &GatewayConfig) -> Assignments {
    let text = fs::read_to_string(config.state_dir.join(ASSIGNMENTS)).unwrap_or_default();
    Assignments::from_text(&text).unwrap_or_default()
}

/// The ports as the configuration has them; their Ethernet addresses are the devices' to know.
fn network(config: &GatewayConfig) -> Network {
    let port = |(index, port)| NetworkPort::configured(index, port, (config.vlan_of(port), MacAddr::ZERO));
    Network { ports: (0..).zip(&config.ports).map(port).collect(), ..Network::default() }
}
