//! The engine's ports: packet memory, queues, how they spread packets, links.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use control::config::{GatewayConfig, PortConfig as PortNamed};
use control::workers::PortSpread;
use packet::MacAddr;
use tables::rss::Rss;

use super::LOOK_INTERVAL;
use super::device::{Eal, Mempool, Port, PortConfig, QueuePair, StartedPort};

/// Descriptors of a receive and of a transmit queue.
const DESCRIPTORS: u16 = 1024;
/// Buffers that each worker needs beyond those in queues: packets waiting for neighbours, caches, bursts in hand.
const BUFFERS_SPARE: u32 = 4096;
/// Bytes of a frame around its IP packet: Ethernet and two VLAN tags.
const FRAME_OVERHEAD: u16 = 22;
/// Bytes of data in a buffer at the least: an ordinary frame is to be one segment.
const DATA_MIN: u16 = 2048;
/// What some NICs round a buffer's data down to: a frame of the largest MTU is to be one segment all the same.
const DATA_STEP: u16 = 1024;
/// Bytes in front of the data, `RTE_PKTMBUF_HEADROOM`.
const HEADROOM: u16 = 128;
/// Lets DPDK choose the memory node.
const ANY_NODE: i32 = -1;
/// How long a port may take until its link is up.
const LINK_WAIT: Duration = Duration::from_secs(5);

/// By worker, the queue pairs of every port with a device, in their order.
pub(super) type Queues = Vec<Vec<QueuePair>>;

/// Every port started, with receive interrupts where they are wanted and can be had, and its queue pairs by worker; packets
/// lie in `pool`.
pub(super) fn open_ports(
    (eal, pool): (&Eal, Mempool),
    (config, interrupts): (&GatewayConfig, bool),
    rss: &Rss,
) -> Result<(Vec<StartedPort>, Queues)> {
    let workers = config.workers.count();
    let mut queues: Queues = (0..workers).map(|_| Vec::new()).collect();
    let mut started = Vec::new();
    for (port, device) in config.devices() {
        let settings = PortConfig {
            queues: workers,
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            mtu: port.mtu,
            rss_key: rss.key(),
            rx_interrupts: interrupts,
        };
        let opened = Port::open(eal, device).and_then(|opened| opened.start(pool, &settings));
        let (opened, pairs) = opened.with_context(|| format!("port {}", port.name))?;
        queues.iter_mut().zip(pairs).for_each(|(worker, pair)| worker.push(pair));
        started.push(opened);
    }
    wait_for_links(config, &started)?;
    Ok((started, queues))
}

/// Has each port bring packets to the worker that they are for, and says where that cannot be.
pub(super) fn spread_of_ports(config: &GatewayConfig, ports: &[StartedPort], rss: &Rss) -> Vec<PortSpread> {
    let workers = config.workers.count();
    if workers <= 1 {
        return Vec::new();
    }
    let spread = config.devices().zip(ports).map(|((named, _), port)| {
        let fault = spread_by(port, rss, workers).err();
        if let Some(fault) = &fault {
            tracing::warn!(port = named.name, %fault, "workers hand each other the packets of this port");
        }
        PortSpread { port: named.name.clone(), fault }
    });
    spread.collect()
}

/// Sets the port's redirection table.
///
/// # Errors
/// What keeps its packets from going where `rss` says, for people.
fn spread_by(port: &StartedPort, rss: &Rss, workers: u16) -> Result<(), String> {
    let key = port.rss_key().map_err(|errno| format!("the device does not say its RSS key: {errno}"))?;
    if key.is_empty() {
        return Err("the device takes no RSS key".to_owned());
    }
    if !rss.key().starts_with(&key) {
        return Err("the device keeps an RSS key of its own".to_owned());
    }
    let entries = port.reta_len();
    if !entries.is_power_of_two() {
        return Err("the device has no redirection table".to_owned());
    }
    let table = Rss::redirection(entries, workers);
    port.set_reta(&table).map_err(|errno| format!("the device refuses its redirection table: {errno}"))?;
    match port.reta() {
        Ok(kept) if kept == table => Ok(()),
        Ok(_) => Err("the device keeps a redirection table of its own".to_owned()),
        Err(errno) => Err(format!("the device does not say its redirection table: {errno}")),
    }
}

/// One pool, large enough for all queues of all workers to be full at once.
pub(super) fn pool(eal: &Eal, config: &GatewayConfig) -> Result<Mempool> {
    let queues = u32::try_from(config.devices().count())
        .unwrap_or(u32::MAX)
        .saturating_mul(2 * u32::from(DESCRIPTORS));
    let mbufs = u32::from(config.workers.count()).saturating_mul(queues.saturating_add(BUFFERS_SPARE));
    let mtu = config.ports.iter().map(|port| port.mtu).max().unwrap_or_default();
    let data = mtu.saturating_add(FRAME_OVERHEAD).max(DATA_MIN).next_multiple_of(DATA_STEP);
    let data_room = data.saturating_add(HEADROOM);
    Mempool::new(eal, "packets", mbufs, data_room, ANY_NODE).context("packet buffers (dpdk.memoryMiB)")
}

/// Every link up; devices that know no link state count as up.
fn wait_for_links(config: &GatewayConfig, ports: &[StartedPort]) -> Result<()> {
    let deadline = Instant::now() + LINK_WAIT;
    for ((named, device), port) in config.devices().zip(ports) {
        while port.link().is_ok_and(|link| !link.up) {
            if Instant::now() >= deadline {
                return Err(anyhow!(
                    "port {}: {} has no link after {} s; check the cable, the switch port or the peer device",
                    named.name,
                    device,
                    LINK_WAIT.as_secs()
                ));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
    Ok(())
}

/// The Ethernet addresses, in the ports' order.
pub(super) fn macs(config: &GatewayConfig, ports: &[StartedPort]) -> Result<Vec<MacAddr>> {
    let mac = |(port, (named, _)): (&StartedPort, (&PortNamed, &str))| {
        port.mac().map(MacAddr).map_err(|errno| anyhow!("port {}: no MAC address: {errno}", named.name))
    };
    ports.iter().zip(config.devices()).map(mac).collect()
}
