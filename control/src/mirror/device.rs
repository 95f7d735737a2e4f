//! The TAP devices: made, configured over netlink, brought up. They vanish with their file descriptors.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use packet::MacAddr;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio_tun::Tun;

use super::{MirrorError, MirrorPort, PodRoutes, Statics};
use crate::netlink::{Link, OUR_ROUTES};

/// Metric of the pods' routes: any other route for the same prefix goes before.
const POD_METRIC: u32 = 1 << 16;

/// One TAP.
#[derive(Clone)]
pub struct Device {
    /// Port and kernel number.
    pub link: Link,
    /// Name of port and TAP.
    pub name: Arc<str>,
    tun: Arc<Tun>,
}

impl Device {
    /// Gives the kernel a frame, whole, as if it came in by the port.
    ///
    /// # Errors
    /// `WouldBlock` when the device's queue is full; others when it is down or gone.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        self.tun.try_send(frame).map(|_| ())
    }

    /// Waits for a frame that the kernel sends on this port and returns its length.
    ///
    /// # Errors
    /// When the device is gone.
    pub async fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        self.tun.recv(frame).await
    }
}

/// Every TAP of this appliance.
pub struct Devices {
    devices: Vec<Device>,
    handle: Handle,
    statics: Statics,
    pods: PodRoutes,
    ports: Vec<MirrorPort>,
}

impl Devices {
    /// Makes, configures and brings up a TAP for each port.
    ///
    /// # Errors
    /// [`MirrorError`] names the port and what could not be set; the TAPs made so far are gone then.
    pub async fn create(ports: &[MirrorPort]) -> Result<Self, MirrorError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| MirrorError::System { what: "up a netlink socket".into(), source })?;
        tokio::spawn(connection);
        let mut devices = Vec::with_capacity(ports.len());
        for port in ports {
            let device = open(port)?;
            configure(&handle, port, device.link.ifindex).await?;
            devices.push(device);
        }
        Ok(Self {
            devices,
            handle,
            statics: Statics::default(),
            pods: PodRoutes::new(),
            ports: ports.to_vec(),
        })
    }

    /// The devices, in the order of their ports.
    #[must_use]
    pub fn all(&self) -> &[Device] {
        &self.devices
    }

    /// Makes these the configured routes and neighbours in the kernel; earlier ones that are not among them go. What the
    /// kernel refuses is logged: the dataplane does not depend on it.
    pub async fn set_statics(&mut self, statics: Statics) {
        let old = std::mem::replace(&mut self.statics, statics);
        for route in old.routes.iter().filter(|route| !self.statics.routes.contains(route)) {
            self.route(*route, false).await;
        }
        for neighbor in old.neighbors.iter().filter(|one| !self.statics.neighbors.contains(one)) {
            self.neighbor(*neighbor, false).await;
        }
        for route in &self.statics.routes {
            self.route(*route, true).await;
        }
        for neighbor in &self.statics.neighbors {
            self.neighbor(*neighbor, true).await;
        }
    }

    /// Has the kernel reach these pods by the dataplane's ways, so that the appliance's own programs can; earlier ones
    /// that are not among them go. The kernel forwards nothing, so they carry only its own traffic.
    pub async fn set_pod_routes(&mut self, routes: PodRoutes) {
        let old = std::mem::replace(&mut self.pods, routes);
        for (to, way) in old.iter().filter(|(to, _)| !self.pods.contains_key(*to)) {
            self.pod_route(*to, *way, false).await;
        }
        for (to, way) in self.pods.iter().filter(|(to, way)| old.get(*to) != Some(*way)) {
            // IPv6 would keep the old one beside the new.
            if let Some(before) = old.get(to) {
                self.pod_route(*to, *before, false).await;
            }
            self.pod_route(*to, *way, true).await;
        }
    }

    async fn pod_route(&self, to: IpNet, (port, gateway): (u16, IpAddr), add: bool) {
        let Some(device) = self.devices.iter().find(|device| device.link.port == port) else { return };
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.addr(), to.prefix_len())
            .and_then(|builder| builder.gateway(gateway));
        let Ok(builder) = message else { return };
        let builder = builder.output_interface(device.link.ifindex).protocol(OUR_ROUTES);
        // The gateway may be a neighbour that no subnet of the port holds.
        let message = builder.priority(POD_METRIC).onlink().build();
        let result = if add {
            self.handle.route().add(message).replace().execute().await
        } else {
            self.handle.route().del(message).execute().await
        };
        if let Err(error) = result {
            tracing::warn!(%to, via = %gateway, add, %error, "the kernel refused a route to pods; the appliance's own programs may not reach them");
        }
    }

    async fn route(&self, (to, via): (IpNet, IpAddr), add: bool) {
        let Some(ifindex) = self.behind(via) else { return };
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.addr(), to.prefix_len())
            .and_then(|builder| builder.gateway(via));
        let Ok(builder) = message else { return };
        let message = builder.output_interface(ifindex).protocol(RouteProtocol::Static).build();
        let result = if add {
            self.handle.route().add(message).replace().execute().await
        } else {
            self.handle.route().del(message).execute().await
        };
        if let Err(error) = result {
            tracing::warn!(%to, %via, %error, "the kernel refused a configured route; its own traffic cannot use it");
        }
    }

    async fn neighbor(&self, (port, address, mac): (u16, IpAddr, MacAddr), add: bool) {
        let Some(device) = self.devices.iter().find(|device| device.link.port == port) else { return };
        let request = self.handle.neighbours().add(device.link.ifindex, address).replace();
        let mut request = request.link_layer_address(&mac.0);
        let result = if add {
            request.execute().await
        } else {
            let message = request.message_mut().clone();
            self.handle.neighbours().del(message).execute().await
        };
        if let Err(error) = result {
            tracing::warn!(%address, %error, "the kernel refused a configured neighbour; its own traffic cannot use it");
        }
    }

    /// The device on whose subnet an address lies.
    fn behind(&self, address: IpAddr) -> Option<u32> {
        let port = self.ports.iter().find(|port| port.addresses.iter().any(|net| net.contains(&address)))?;
        self.devices.iter().find(|device| device.link.port == port.port).map(|device| device.link.ifindex)
    }
}

fn open(port: &MirrorPort) -> Result<Device, MirrorError> {
    let failed =
        |error: tokio_tun::Error| MirrorError::Tap { name: port.name.clone(), reason: error.to_string() };
    let tun = Tun::builder().name(&port.name).tap().build().map_err(failed)?.remove(0);
    let ifindex = tun.index().map_err(failed)?;
    Ok(Device {
        link: Link { port: port.port, ifindex },
        name: port.name.as_str().into(),
        tun: Arc::new(tun),
    })
}

async fn configure(handle: &Handle, port: &MirrorPort, ifindex: u32) -> Result<(), MirrorError> {
    let failed =
        |what: String| move |source| MirrorError::Configure { name: port.name.clone(), what, source };
    parameters(port)?;
    let link = LinkUnspec::new_with_index(ifindex).address(port.mac.0.to_vec()).mtu(port.mtu.into()).build();
    handle.link().set(link).execute().await.map_err(failed("MAC address and MTU".into()))?;
    for net in &port.addresses {
        let mut request = handle.address().add(ifindex, net.addr(), net.prefix_len());
        if net.addr().is_ipv6() {
            // The dataplane answers for it at once; the kernel need not wait a second to be sure it is alone.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(failed(format!("address {net}")))?;
    }
    let up = LinkUnspec::new_with_index(ifindex).up().build();
    handle.link().set(up).execute().await.map_err(failed("it up".into()))
}

/// Kernel parameters of the TAP: it forwards nothing (that is the dataplane's), answers ARP only for its own addresses,
/// and takes no routes from router advertisements.
fn parameters(port: &MirrorPort) -> Result<(), MirrorError> {
    let has_v6 = port.addresses.iter().any(|net| net.addr().is_ipv6());
    let set = [
        ("ipv4", "forwarding", "0", true),
        ("ipv4", "arp_ignore", "1", true),
        ("ipv4", "arp_announce", "2", true),
        ("ipv6", "disable_ipv6", if has_v6 { "0" } else { "1" }, has_v6),
        ("ipv6", "forwarding", "0", has_v6),
        ("ipv6", "accept_ra", "0", has_v6),
    ];
    for (family, parameter, value, needed) in set {
        let path = format!("/proc/sys/net/{family}/conf/{}/{parameter}", port.name);
        match fs::write(&path, value) {
            Err(source) if needed => return Err(MirrorError::System { what: path, source }),
            _ => {}
        }
    }
    Ok(())
}
