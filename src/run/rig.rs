//! Workers with everything they share with control: mailboxes, rings, counters, the mirror.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use anyhow::{Context, Result};
use control::apply::{Segments, flow_timeouts};
use control::capture::Captures;
use control::config::{GatewayConfig, PortConfig};
use control::mirror::{Bypass, Devices, Listeners, MirrorPort, Pump, WorkerRings};
use control::netlink::{self, Link, Resolver};
use control::network::{Network, NetworkPort};
use control::workers::{Layout, Workers};
use cpu::Watch;
use dataplane::idle::IdleMode;
use dataplane::worker::{WorkerConfig, WorkerLinks};
use packet::MacAddr;
use tables::capture::capture_ring;
use tables::command::command_rings;
use tables::counters::WorkerCounters;
use tables::flow::FlowTableConfig;
use tables::publish::{Publisher, mailboxes};
use tables::punt::frame_ring;
use tables::rss::Rss;
use tables::{Generation, PortId, PortSet, Tables, WorkerId};
use tokio::sync::{mpsc, watch};

use super::engine::{Engine, Running};

/// Bytes of one worker's ring to the kernel, and of the one back.
const FRAME_RING_BYTES: usize = 1 << 20;
/// Bytes of one worker's ring of captured packets: some 4,000 of ordinary length.
const CAPTURE_RING_BYTES: usize = 1 << 20;
/// Commands and answers that may wait.
const COMMANDS: usize = 16;
const ANSWERS: usize = 4096;
/// Reports of replies that take another way that may wait; a worker sends at most 160 a second.
const BYPASSES: usize = 1024;
/// Words of hosts about their addresses that may wait.
const HEARD: usize = 1024;

/// How workers share the packets and the cores.
pub(super) struct Sharing {
    pub(super) rss: Arc<Rss>,
    pub(super) layout: Arc<Layout>,
    /// What workers do when nothing arrives.
    pub(super) idle: IdleMode,
}

/// Everything that runs, before the applier has its share.
pub(super) struct Rig {
    pub(super) publisher: Publisher<Tables>,
    pub(super) workers: Workers,
    pub(super) captures: Captures,
    pub(super) running: Running,
    pub(super) pump: Pump,
    pub(super) devices: Option<Devices>,
    pub(super) resolver: Option<Resolver>,
    pub(super) segments: Segments,
    pub(super) bypasses: mpsc::Receiver<Bypass>,
    pub(super) network: watch::Receiver<Arc<Network>>,
    pub(super) sharing: Sharing,
}

impl Rig {
    /// Makes the mirror and starts the workers; they hold empty tables and forward nothing yet.
    pub(super) async fn assemble(config: &GatewayConfig, engine: Engine, sharing: Sharing) -> Result<Self> {
        let macs = engine.macs().to_vec();
        let (devices, resolver, network) = mirror(config, &macs).await?;
        let count = config.workers.count();
        let (mut publisher, subscribers) = mailboxes(count, Tables::empty(Generation(0)));
        let mut starts = Vec::new();
        let (mut rings, mut handles, mut captured) = (Vec::new(), Vec::new(), Vec::new());
        let mut bells = Vec::new();
        let called = new_watch()?;
        for (id, tables) in (0..count).map(WorkerId).zip(subscribers) {
            let counters = Arc::new(WorkerCounters::new(config.ports.len()));
            let (mut punt, from_worker) = frame_ring(FRAME_RING_BYTES);
            punt.call(Arc::clone(called.bell()));
            let (mut to_worker, inject) = frame_ring(FRAME_RING_BYTES);
            let (mut sender, commands) = command_rings(COMMANDS, ANSWERS);
            let watch = (sharing.idle == IdleMode::Sleep).then(new_watch).transpose()?;
            if let Some(bell) = watch.as_ref().map(Watch::bell) {
                to_worker.call(Arc::clone(bell));
                sender.call(Arc::clone(bell));
                bells.push(Arc::clone(bell));
            }
            let (capture, shown) = capture_ring(CAPTURE_RING_BYTES);
            captured.push(shown);
            rings.push(WorkerRings { punt: from_worker, inject: to_worker });
            handles.push((Arc::clone(&counters), sender));
            let links = WorkerLinks { tables, counters, punt, inject, commands, capture, watch };
            starts.push((worker_config(config, id, sharing.idle), links));
        }
        publisher.call(bells);
        let mirrored = devices.as_ref().map(Devices::all).unwrap_or_default();
        let (told, bypasses) = mpsc::channel(BYPASSES);
        let (hear, heard) = mpsc::channel(HEARD);
        let listeners = Listeners { resolver: resolver.clone(), bypasses: told, heard: hear };
        let pump =
            Pump::start(mirrored, rings, listeners, called).context("cannot start the mirror's thread")?;
        let segments = Segments { voice: pump.voice(), heard };
        // Last of all that can fail here: from now on packets flow.
        let running = engine.launch(starts)?;
        let workers = Workers::new(handles);
        let names = config.ports.iter().map(|port| port.name.clone()).collect();
        let captures = Captures::new(workers.clone(), captured, names);
        Ok(Self {
            publisher,
            workers,
            captures,
            running,
            pump,
            devices,
            resolver,
            segments,
            bypasses,
            network,
            sharing,
        })
    }
}

/// What a thread waits with.
fn new_watch() -> Result<Watch> {
    Watch::new().context("no file to wake a thread by; is the limit of open files (ulimit -n) reached?")
}

fn worker_config(config: &GatewayConfig, id: WorkerId, idle: IdleMode) -> WorkerConfig {
    let forwarding = &config.forwarding;
    let ipv6 = config.ports.iter().any(|port| port.addresses.iter().any(|net| net.addr().is_ipv6()));
    let flows = FlowTableConfig {
        flows: forwarding.flows_per_worker,
        ipv6,
        // Random and new at every start: the standard library seeds its hasher by the system.
        secret: RandomState::new().hash_one(id.0),
        timeouts: flow_timeouts(&forwarding.timeouts),
    };
    let mirrored = (0..)
        .map(PortId)
        .zip(&config.ports)
        .filter(|(_, port)| port.tap)
        .map(|(id, _)| id)
        .collect::<PortSet>();
    let affinity_clients = forwarding.affinity_clients;
    WorkerConfig { id, level: cpu::Level::of_this_processor(), flows, affinity_clients, mirrored, idle }
}

type Mirror = (Option<Devices>, Option<Resolver>, watch::Receiver<Arc<Network>>);

/// The TAPs and what the kernel knows; without any TAP the network is what the configuration says, for good.
async fn mirror(config: &GatewayConfig, macs: &[MacAddr]) -> Result<Mirror> {
    let ports = network_ports(config, macs);
    let tapped = config.ports.iter().zip(&ports).filter(|(config, _)| config.tap);
    let mirrors: Vec<_> = tapped.map(|(_, port)| mirror_port(port)).collect();
    if mirrors.is_empty() {
        // Closed at once; a closed channel keeps its last value.
        let (_, network) = watch::channel(Arc::new(Network { ports, ..Network::default() }));
        return Ok((None, None, network));
    }
    let devices = Devices::create(&mirrors).await?;
    let links: Vec<Link> = devices.all().iter().map(|device| device.link).collect();
    let (resolver, network) =
        netlink::follow(ports, &links).await.context("cannot follow the kernel's state")?;
    Ok((Some(devices), Some(resolver), network))
}

/// The ports as the tables will have them; a sub-port has the Ethernet address of its parent, one of `macs`.
fn network_ports(config: &GatewayConfig, macs: &[MacAddr]) -> Vec<NetworkPort> {
    let port = |(index, port): (u16, &PortConfig)| {
        let vlan = config.vlan_of(port);
        let device = vlan.map_or(PortId(index), |vlan| vlan.parent);
        NetworkPort::configured(
            index,
            port,
            (vlan, macs.get(device.index()).copied().unwrap_or(MacAddr::ZERO)),
        )
    };
    (0..).zip(&config.ports).map(port).collect()
}

fn mirror_port(port: &NetworkPort) -> MirrorPort {
    MirrorPort {
        port: port.index,
        name: port.name.clone(),
        mac: port.mac,
        mtu: port.mtu,
        addresses: port.addresses.clone(),
    }
}
