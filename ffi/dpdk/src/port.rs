//! A device: opened by name, configured, started; closed and removed on drop.

use std::sync::Arc;

use crate::{
    Device, Eal, Errno, Mempool, PortError, errno, info,
    interrupt::{self, RxInterrupt},
    log,
    queue::QueuePair,
    rss,
    stats::{self, PortStats, XStat},
};

/// What a device does by itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortCapabilities {
    /// Says whether IP and L4 checksums of received packets are right.
    pub rx_checksum: bool,
    /// Finishes TCP checksums.
    pub tx_tcp_checksum: bool,
    /// Finishes UDP checksums.
    pub tx_udp_checksum: bool,
    /// Tells of received packets by interrupts, as was asked for.
    pub rx_interrupts: bool,
}

/// How a port is to work.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig<'k> {
    /// Queue pairs: one a worker.
    pub queues: u16,
    /// Receive descriptors a queue; adjusted to what the device can.
    pub rx_descriptors: u16,
    /// Transmit descriptors a queue; adjusted to what the device can.
    pub tx_descriptors: u16,
    /// Bytes of an IP packet.
    pub mtu: u16,
    /// The key of the hash that spreads packets over several queues; a device whose keys are shorter gets its beginning.
    pub rss_key: &'k [u8],
    /// Whether receive interrupts are wanted; a device that has none, or refuses them, works without.
    pub rx_interrupts: bool,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// There is a peer.
    pub up: bool,
    /// Mbit/s; `None` where the device does not say.
    pub speed_mbps: Option<u32>,
}

/// An opened device that does not run yet. Closed and removed on drop.
#[derive(Debug)]
pub struct Port {
    opened: Opened,
    info: Info,
}

/// The parts of the device's description that we use.
#[derive(Clone, Copy, Debug)]
struct Info {
    queues_max: u16,
    rx_offloads: u64,
    tx_offloads: u64,
    rss_types: u64,
    rss: rss::Sizes,
}

#[derive(Debug)]
struct Opened {
    id: u16,
    device: String,
    /// What the device was configured with; drivers read it again whenever they start.
    rss_key: Box<[u8]>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let raw = info::raw(self.id).map(|info| info.device);
        // SAFETY: the port is stopped (`Running` was dropped first) and nobody else has it.
        unsafe { dpdk_sys::rte_eth_dev_close(self.id) };
        if let Ok(device) = raw {
            // SAFETY: the device of a closed port; a device that cannot be removed says so, which is no harm.
            unsafe { dpdk_sys::rte_dev_remove(device) };
        }
    }
}

/// A started device; stopped when the last owner goes: the port itself or one of its queues.
#[derive(Debug)]
pub(crate) struct Running {
    opened: Opened,
    pub(crate) switch: interrupt::Switch,
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: no queue of the port is left: each holds an `Arc` of us.
        unsafe { dpdk_sys::rte_eth_dev_stop(self.opened.id) };
    }
}

impl Port {
    /// Opens a device: a PCI address, or a virtual device with its arguments such as `net_af_packet0,iface=eth1`.
    ///
    /// # Errors
    /// See [`PortError`].
    pub fn open(_eal: &Eal, device: &str) -> Result<Self, PortError> {
        let wrong = PortError::Device;
        let named = Device::parse(device).map_err(wrong)?;
        named.check().map_err(wrong)?;
        let (arguments, name) = (named.arguments(), named.name_c());
        log::forget();
        let refused = |errno| PortError::Probe { device: device.to_owned(), errno, log: log::trouble() };
        // SAFETY: a NUL-terminated string; the environment exists.
        errno::check(unsafe { dpdk_sys::rte_dev_probe(arguments.as_ptr()) }).map_err(refused)?;
        let mut id = 0;
        // SAFETY: a NUL-terminated string and room for the answer.
        errno::check(unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) })
            .map_err(refused)?;
        let opened = Opened { id, device: device.to_owned(), rss_key: Box::default() };
        let raw = info::raw(id).map_err(refused)?;
        let info = Info {
            queues_max: raw.max_rx_queues.min(raw.max_tx_queues),
            rx_offloads: raw.rx_offload_capa,
            tx_offloads: raw.tx_offload_capa,
            rss_types: raw.flow_type_rss_offloads,
            rss: rss::Sizes { key_len: raw.hash_key_size, reta_size: raw.reta_size },
        };
        Ok(Self { opened, info })
    }

    /// Queue pairs it can have.
    #[must_use]
    pub const fn queues_max(&self) -> u16 {
        self.info.queues_max
    }

    /// The memory node it hangs on; `None` where it has none.
    #[must_use]
    pub fn numa(&self) -> Option<u16> {
        // SAFETY: any number is answered.
        u16::try_from(unsafe { dpdk_sys::rte_eth_dev_socket_id(self.opened.id) }).ok()
    }

    /// Its hardware address.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn mac(&self) -> Result<[u8; 6], PortError> {
        info::mac(self.opened.id).map_err(|errno| self.refused("reading its MAC address", errno))
    }

    /// Gives it another hardware address.
    ///
    /// # Errors
    /// When the device cannot.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<(), PortError> {
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: the address is read during the call.
        let result = unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(self.opened.id, &raw mut address) };
        errno::check(result).map_err(|errno| self.refused("setting its MAC address", errno))
    }

    /// Configures and starts it: `config.queues` queue pairs whose received packets come from `pool`.
    ///
    /// # Errors
    /// See [`PortError`].
    pub fn start(
        mut self,
        pool: Mempool,
        config: &PortConfig<'_>,
    ) -> Result<(StartedPort, Vec<QueuePair>), PortError> {
        if config.queues > self.info.queues_max {
            let (have, wanted) = (self.info.queues_max, config.queues);
            return Err(PortError::TooFewQueues { device: self.opened.device.clone(), have, wanted });
        }
        log::forget();
        let asked = self.bring_up(pool, config);
        let (mut capabilities, refused) = match asked {
            Err(error) if config.rx_interrupts => {
                // Perhaps it is the interrupts; whatever else it is says so again.
                log::forget();
                (self.bring_up(pool, &PortConfig { rx_interrupts: false, ..*config })?, Some(error))
            }
            asked => (asked?, None),
        };
        let id = self.opened.id;
        // VIPs' multicast groups and neighbours' broadcasts are wanted; a device that has no filter may refuse.
        // SAFETY: a started port.
        unsafe { dpdk_sys::rte_eth_allmulticast_enable(id) };
        let running = Arc::new(Running { opened: self.opened, switch: interrupt::Switch::default() });
        let mut interrupts = Vec::new();
        if config.rx_interrupts && refused.is_none() {
            let driver = info::driver(id);
            interrupts = (0..config.queues)
                .filter_map(|queue| RxInterrupt::of((id, queue), &driver, &running.switch))
                .collect();
        }
        // A worker must not sleep over any of them, so it is all or none.
        capabilities.rx_interrupts = interrupts.len() == usize::from(config.queues);
        let mut interrupts = interrupts.into_iter();
        let pair = |queue| {
            let interrupt = interrupts.next().filter(|_| capabilities.rx_interrupts);
            QueuePair::new((id, queue), pool, (capabilities, interrupt), running.clone())
        };
        let pairs = (0..config.queues).map(pair).collect();
        Ok((StartedPort { running, rss: self.info.rss, capabilities, refused }, pairs))
    }

    /// Configures, sets up and starts it.
    fn bring_up(&mut self, pool: Mempool, config: &PortConfig<'_>) -> Result<PortCapabilities, PortError> {
        let capabilities = self.configure(config)?;
        self.set_mtu(config.mtu)?;
        self.set_up_queues(pool, config)?;
        // SAFETY: configured, and every queue is set up.
        let result = unsafe { dpdk_sys::rte_eth_dev_start(self.opened.id) };
        errno::check(result).map_err(|errno| self.refused("starting", errno))?;
        Ok(capabilities)
    }

    fn configure(&mut self, config: &PortConfig<'_>) -> Result<PortCapabilities, PortError> {
        let rx_checksum = dpdk_sys::FAIRLEAD_RX_OFFLOAD_IPV4_CKSUM
            | dpdk_sys::FAIRLEAD_RX_OFFLOAD_TCP_CKSUM
            | dpdk_sys::FAIRLEAD_RX_OFFLOAD_UDP_CKSUM;
        let tx_wanted = dpdk_sys::FAIRLEAD_TX_OFFLOAD_TCP_CKSUM
            | dpdk_sys::FAIRLEAD_TX_OFFLOAD_UDP_CKSUM
            | dpdk_sys::FAIRLEAD_TX_OFFLOAD_MULTI_SEGS;
        let has_rx = self.info.rx_offloads & rx_checksum == rx_checksum;
        // SAFETY: integers, pointers and enumerations whose zero is the default.
        let mut conf = unsafe { std::mem::zeroed::<dpdk_sys::rte_eth_conf>() };
        conf.rxmode.mtu = u32::from(config.mtu);
        conf.rxmode.offloads = if has_rx { rx_checksum } else { 0 };
        conf.txmode.offloads = self.info.tx_offloads & tx_wanted;
        conf.intr_conf.set_rxq(config.rx_interrupts.into());
        let spread = dpdk_sys::FAIRLEAD_RSS_IP | dpdk_sys::FAIRLEAD_RSS_TCP | dpdk_sys::FAIRLEAD_RSS_UDP;
        if config.queues > 1 && self.info.rss_types & spread != 0 {
            conf.rxmode.mq_mode = dpdk_sys::FAIRLEAD_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = self.info.rss_types & spread;
            // A device with longer keys than ours keeps its own.
            let key = config.rss_key.get(..self.info.rss.key_len.into()).unwrap_or_default();
            self.opened.rss_key = key.into();
            if !key.is_empty() {
                conf.rx_adv_conf.rss_conf.rss_key = self.opened.rss_key.as_mut_ptr();
                conf.rx_adv_conf.rss_conf.rss_key_len = self.info.rss.key_len;
            }
        }
        let (id, queues) = (self.opened.id, config.queues);
        // SAFETY: a stopped port and a whole configuration, which is copied.
        let result = unsafe { dpdk_sys::rte_eth_dev_configure(id, queues, queues, &raw const conf) };
        errno::check(result).map_err(|errno| self.refused("its configuration", errno))?;
        Ok(PortCapabilities {
            rx_checksum: has_rx,
            tx_tcp_checksum: conf.txmode.offloads & dpdk_sys::FAIRLEAD_TX_OFFLOAD_TCP_CKSUM != 0,
            tx_udp_checksum: conf.txmode.offloads & dpdk_sys::FAIRLEAD_TX_OFFLOAD_UDP_CKSUM != 0,
            rx_interrupts: false,
        })
    }

    /// Virtual devices often have no notion of an MTU: that is no error while theirs is the usual one or larger.
    fn set_mtu(&self, mtu: u16) -> Result<(), PortError> {
        // SAFETY: a stopped port; any number is answered.
        let result = unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.opened.id, mtu) };
        match errno::check(result) {
            Err(errno) if errno.0 != libc::ENOTSUP => Err(self.refused("its MTU", errno)),
            _ => Ok(()),
        }
    }

    fn set_up_queues(&self, pool: Mempool, config: &PortConfig<'_>) -> Result<(), PortError> {
        let (id, mut rx, mut tx) = (self.opened.id, config.rx_descriptors, config.tx_descriptors);
        // SAFETY: two numbers of ours are adjusted in place.
        let adjusted = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx) };
        errno::check(adjusted).map_err(|errno| self.refused("its number of descriptors", errno))?;
        // SAFETY: any number is answered; -1 stands for any node.
        let node = unsafe { dpdk_sys::rte_eth_dev_socket_id(id) }.cast_unsigned();
        for queue in 0..config.queues {
            // SAFETY: a configured port; null asks for the default; the pool lives for ever.
            let result = unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(id, queue, rx, node, std::ptr::null(), pool.as_ptr())
            };
            errno::check(result).map_err(|errno| self.refused("a receive queue", errno))?;
            // SAFETY: as above.
            let result = unsafe { dpdk_sys::rte_eth_tx_queue_setup(id, queue, tx, node, std::ptr::null()) };
            errno::check(result).map_err(|errno| self.refused("a transmit queue", errno))?;
        }
        Ok(())
    }

    fn refused(&self, step: &'static str, errno: Errno) -> PortError {
        PortError::Setup { device: self.opened.device.clone(), step, errno, log: log::trouble() }
    }
}

/// A started device: what can be asked of it while its queues are in use. It stops when this and all queues are gone.
#[derive(Debug)]
pub struct StartedPort {
    running: Arc<Running>,
    pub(crate) rss: rss::Sizes,
    capabilities: PortCapabilities,
    refused: Option<PortError>,
}

impl StartedPort {
    /// Why it works without the receive interrupts that were asked for although its driver has them; `None` where it has
    /// none, or they work.
    #[must_use]
    pub const fn interrupts_refused(&self) -> Option<&PortError> {
        self.refused.as_ref()
    }

    /// What it does by itself.
    #[must_use]
    pub const fn capabilities(&self) -> PortCapabilities {
        self.capabilities
    }

    /// Its hardware address.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn mac(&self) -> Result<[u8; 6], Errno> {
        info::mac(self.id())
    }

    /// The MTU in force.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn mtu(&self) -> Result<u16, Errno> {
        let mut mtu = 0;
        // SAFETY: room for the answer.
        errno::check(unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.id(), &raw mut mtu) })?;
        Ok(mtu)
    }

    /// The name of its driver.
    #[must_use]
    pub fn driver(&self) -> String {
        info::driver(self.id())
    }

    /// The state of its link; up only when the kernel's interface under the driver, if there is one, has a carrier too.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn link(&self) -> Result<Link, Errno> {
        let (mut speed, mut up, mut duplex) = (0, 0, 0);
        // SAFETY: room for three answers.
        let result =
            unsafe { dpdk_sys::fairlead_link(self.id(), &raw mut speed, &raw mut up, &raw mut duplex) };
        errno::check(result)?;
        let carrier = Device::parse(&self.running.opened.device).is_ok_and(|device| device.has_carrier());
        Ok(Link { up: up != 0 && carrier, speed_mbps: (speed != 0 && speed != u32::MAX).then_some(speed) })
    }

    /// What every device counts.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn stats(&self) -> Result<PortStats, Errno> {
        stats::stats(self.id())
    }

    /// What this device counts besides.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn xstats(&self) -> Result<Vec<XStat>, Errno> {
        stats::xstats(self.id())
    }

    /// Receives frames for other stations too, or no longer.
    ///
    /// # Errors
    /// When the device cannot.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), Errno> {
        // SAFETY: a started port.
        errno::check(unsafe {
            match on {
                true => dpdk_sys::rte_eth_promiscuous_enable(self.id()),
                false => dpdk_sys::rte_eth_promiscuous_disable(self.id()),
            }
        })
    }

    pub(crate) fn id(&self) -> u16 {
        self.running.opened.id
    }
}
