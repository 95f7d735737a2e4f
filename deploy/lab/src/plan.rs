//! The lab's plan: who is on which segment, which address and which servers each pod has. Pure data.
//!
//! ```text
//!  c1 .11, c2 .12                                      n1 .11 -- cni0 10.244.1.1 -- pods 10.244.1.x
//!      |  192.0.2.0/24                     10.0.0.0/24    |
//!      +---- br-out ---- gw-out [appliance] gw-in ---- br-in
//!                       192.0.2.1        10.0.0.1         |
//!                                                      n2 .12 -- cni0 10.244.2.1 -- pods 10.244.2.x
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::podnet::PodNet;

/// Address range of the Services' clusterIPs; no interface has any of it.
pub const SERVICE_CIDR: &str = "10.3.240.0/20";
/// The first of it, which Kubernetes gives to the API server's own Service.
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 3, 240, 1);
/// The same for IPv6.
pub const SERVICE_CIDR6: &str = "fd00:3::/112";
/// LoadBalancer addresses that clients reach through a route.
pub const POOL_ROUTED: &str = "203.0.113.0/26";
/// The same for IPv6.
pub const POOL_ROUTED6: &str = "2001:db8:f::/112";
/// LoadBalancer addresses on the clients' own segment, reached by ARP.
pub const POOL_CONNECTED: &str = "192.0.2.100-192.0.2.199";
/// The same for IPv6, reached by neighbour discovery.
pub const POOL_CONNECTED6: &str = "2001:db8:1::100-2001:db8:1::199";
/// An address of the outside world that Services list under `externalIPs`.
pub const EXTERNAL_IP: &str = "222.128.5.170";
/// The same for IPv6.
pub const EXTERNAL_IP6: &str = "2001:db8:222::170";
/// Range of the pods of all nodes where Kubernetes itself gives each node its part, one a family.
pub const CLUSTER_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:244::/48"];
/// The machine with Kubernetes' control plane, where a lab has one.
pub const CONTROL_PLANE: Machine = Machine { name: "cp", number: 5, outside: false };
/// The appliance's address on the outside segment.
pub const GATEWAY_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same for IPv6.
pub const GATEWAY_OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The appliance's address on the inside segment.
pub const GATEWAY_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The same for IPv6.
pub const GATEWAY_INSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

/// A place for an appliance, between the two segments.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Name of the machine.
    pub name: &'static str,
    /// Last byte of its addresses and of its MACs, on either segment.
    pub number: u8,
}

/// Where appliances are: everybody's default route, and a second one for those who ask it.
pub const PLACES: [Place; 2] = [Place { name: "gw", number: 1 }, Place { name: "gw2", number: 2 }];

impl Place {
    /// Its addresses on the outside segment.
    pub fn outside(&self) -> (Ipv4Addr, Ipv6Addr) {
        let number = self.number;
        (Ipv4Addr::new(192, 0, 2, number), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, digits(number)))
    }

    /// Its addresses on the inside segment.
    pub fn inside(&self) -> (Ipv4Addr, Ipv6Addr) {
        let number = self.number;
        (Ipv4Addr::new(10, 0, 0, number), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, digits(number)))
    }
}

/// The nodePort that each node itself translates to its first web pod.
pub const NODE_PORT: u16 = 30080;

/// A machine of one of the two segments.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Host name; also the end of the namespace's name.
    pub name: &'static str,
    /// Last byte of its addresses and of its MAC.
    pub number: u8,
    /// On the outside segment (a client) or the inside one (a node).
    pub outside: bool,
}

impl Machine {
    /// Its IPv4 address.
    pub fn address(&self) -> Ipv4Addr {
        if self.outside {
            Ipv4Addr::new(192, 0, 2, self.number)
        } else {
            Ipv4Addr::new(10, 0, 0, self.number)
        }
    }

    /// Its IPv6 address: the number in hexadecimal reads as the last byte of the IPv4 address does.
    pub fn address6(&self) -> Ipv6Addr {
        let net = if self.outside { 1 } else { 2 };
        Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, digits(self.number))
    }

    /// The appliance's addresses on its segment.
    pub fn gateways(&self) -> (Ipv4Addr, Ipv6Addr) {
        if self.outside { (GATEWAY_OUTSIDE, GATEWAY_OUTSIDE6) } else { (GATEWAY_INSIDE, GATEWAY_INSIDE6) }
    }

    /// Its MAC address: fixed, so that static neighbours can be written down.
    pub fn mac(&self) -> String {
        format!("02:00:00:00:{:02x}:{:02x}", u8::from(!self.outside), self.number)
    }
}

/// The outside clients.
pub const CLIENTS: [Machine; 2] =
    [Machine { name: "c1", number: 11, outside: true }, Machine { name: "c2", number: 12, outside: true }];
/// The cluster's nodes; node `i` has podCIDR `10.244.<i + 1>.0/24`.
pub const NODES: [Machine; 2] =
    [Machine { name: "n1", number: 11, outside: false }, Machine { name: "n2", number: 12, outside: false }];

/// A server process ("container") of a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Container {
    /// nginx on 8080; answers `<pod> <client address>`, serves and takes files.
    Web,
    /// TCP and UDP echo on 7000; greets with `<pod> <client address>`.
    Echo,
    /// mosquitto on 1883.
    Mqtt,
    /// dnsmasq on 5353; `whoami.lab` TXT is the pod's name.
    Dns,
    /// nginx-rtmp on 1935, application `live`.
    Rtmp,
    /// iperf3 on 5201.
    Iperf,
}

impl Container {
    /// The port it listens on.
    pub fn port(self) -> u16 {
        match self {
            Self::Web => 8080,
            Self::Echo => 7000,
            Self::Mqtt => 1883,
            Self::Dns => 5353,
            Self::Rtmp => 1935,
            Self::Iperf => 5201,
        }
    }
}

/// A pod: one network namespace shared by its containers.
#[derive(Clone, Copy, Debug)]
pub struct PodPlan {
    /// Pod name.
    pub name: &'static str,
    /// Index into [`NODES`].
    pub node: usize,
    /// Last byte of its addresses.
    pub number: u8,
    /// What runs in it.
    pub containers: &'static [Container],
}

impl PodPlan {
    /// Its IPv4 address, of its node's podCIDR.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, pod_net(self.node), self.number)
    }

    /// Its IPv6 address, of its node's podCIDR.
    pub fn address6(&self) -> Ipv6Addr {
        pod_network(self.node).addresses(self.number).1
    }
}

/// The number whose hexadecimal digits are the decimal ones of this.
pub fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) * 0x100 + (number / 10 % 10) * 0x10 + number % 10
}

/// Third byte of a node's podCIDR.
pub fn pod_net(node: usize) -> u8 {
    if node == 0 { 1 } else { 2 }
}

/// The pod network of a node.
pub fn pod_network(node: usize) -> PodNet {
    let net = pod_net(node);
    PodNet::parse(&[format!("10.244.{net}.0/24"), format!("fd00:244:{net}::/64")])
        .expect("ranges of the plan")
}

/// The pods.
pub const PODS: [PodPlan; 9] = [
    PodPlan { name: "web-1", node: 0, number: 11, containers: &[Container::Web, Container::Echo] },
    PodPlan { name: "web-2", node: 1, number: 12, containers: &[Container::Web, Container::Echo] },
    PodPlan { name: "web-3", node: 0, number: 13, containers: &[Container::Web, Container::Echo] },
    PodPlan { name: "dns-1", node: 0, number: 21, containers: &[Container::Dns] },
    PodPlan { name: "dns-2", node: 1, number: 22, containers: &[Container::Dns] },
    PodPlan { name: "mqtt-1", node: 0, number: 31, containers: &[Container::Mqtt] },
    PodPlan { name: "rtmp-1", node: 1, number: 41, containers: &[Container::Rtmp] },
    PodPlan { name: "iperf-1", node: 1, number: 51, containers: &[Container::Iperf] },
    PodPlan { name: "tool-1", node: 0, number: 61, containers: &[] },
];

/// The plan of one pod by its name.
///
/// # Panics
/// When the plan has no such pod: a test names pods of [`PODS`] only.
pub fn pod(name: &str) -> &'static PodPlan {
    PODS.iter().find(|pod| pod.name == name).expect("a pod of the plan")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn addresses_and_names_are_unique() {
        let pods: HashSet<_> = PODS.iter().map(PodPlan::address).collect();
        let machines: HashSet<_> = CLIENTS.iter().chain(&NODES).map(Machine::address).collect();
        let macs: HashSet<_> = CLIENTS.iter().chain(&NODES).map(Machine::mac).collect();
        let names: HashSet<_> = PODS.iter().map(|pod| pod.name).collect();
        assert_eq!((pods.len(), names.len(), machines.len(), macs.len()), (PODS.len(), PODS.len(), 4, 4));
        let first = PLACES[0];
        assert_eq!(
            (first.outside(), first.inside()),
            ((GATEWAY_OUTSIDE, GATEWAY_OUTSIDE6), (GATEWAY_INSIDE, GATEWAY_INSIDE6))
        );
    }
}
