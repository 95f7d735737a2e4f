//! The pod network of one node: a bridge that has the first address of the node's pod ranges, a cable for each pod.
//! Routes between nodes are [`PodNet::route`]; which addresses are free is the caller's business.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

use crate::netns::Namespace;
use crate::plan::digits;
use crate::site::plain;

/// A node's pod ranges, one IPv4 and one IPv6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PodNet {
    v4: (Ipv4Addr, u8),
    v6: (Ipv6Addr, u8),
}

impl PodNet {
    /// Reads the `podCIDRs` of a dual-stack Node, in either order.
    ///
    /// # Errors
    /// When a range is no CIDR or a family is missing.
    pub fn parse<T: AsRef<str>>(cidrs: &[T]) -> Result<Self> {
        let (mut v4, mut v6) = (None, None);
        for cidr in cidrs.iter().map(AsRef::as_ref) {
            let (base, len) = cidr.split_once('/').with_context(|| format!("{cidr:?} is no CIDR"))?;
            let len = len.parse().with_context(|| format!("{cidr:?} is no CIDR"))?;
            match base.parse().with_context(|| format!("{cidr:?} is no CIDR"))? {
                IpAddr::V4(base) if len <= 24 => v4 = Some((base, len)),
                IpAddr::V6(base) if len <= 112 => v6 = Some((base, len)),
                _ => bail!("{cidr} is too small for the lab's pods"),
            }
        }
        Ok(Self { v4: v4.context("no IPv4 pod range")?, v6: v6.context("no IPv6 pod range")? })
    }

    /// The addresses with a number in the ranges. Both show the same digits, so that people recognise them.
    pub fn addresses(&self, number: u8) -> (Ipv4Addr, Ipv6Addr) {
        (
            Ipv4Addr::from_bits(self.v4.0.to_bits() | u32::from(number)),
            Ipv6Addr::from_bits(self.v6.0.to_bits() | u128::from(digits(number))),
        )
    }

    /// Makes the bridge in a node and lets it forward.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bridge(&self, node: &Namespace) -> Result<()> {
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.sysctl(key, "1")?;
        }
        // Replies come in by another way than a strict check expects; a redirect would teach pods to go round the appliance.
        for key in ["all", "default", "eth0"] {
            node.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0")?;
            node.sysctl(&format!("net/ipv4/conf/{key}/send_redirects"), "0")?;
        }
        let (v4, v6) = self.addresses(1);
        node.script(&format!(
            "ip link add cni0 type bridge stp_state 0 forward_delay 0
ip addr add {v4}/{} dev cni0; ip -6 addr add {v6}/{} dev cni0 nodad; ip link set cni0 up",
            self.v4.1, self.v6.1
        ))
        .map(drop)
    }

    /// A cable from the bridge to a pod, with the addresses of `number`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug(&self, node: &Namespace, pod: &Namespace, number: u8) -> Result<()> {
        let device = format!("pod{number}");
        node.script(&format!(
            "ip link add {device} type veth peer name eth0 netns {}
ip link set {device} master cni0 up
{}",
            pod.name(),
            plain(&device),
        ))?;
        let ((v4, v6), (via4, via6)) = (self.addresses(number), self.addresses(1));
        pod.script(&format!(
            "{}ip addr add {v4}/{} dev eth0; ip -6 addr add {v6}/{} dev eth0 nodad; ip link set eth0 up
ip route add default via {via4}; ip -6 route add default via {via6}",
            plain("eth0"),
            self.v4.1,
            self.v6.1
        ))
        .map(drop)
    }

    /// Takes a pod's cable away.
    ///
    /// # Errors
    /// When it stays.
    pub fn unplug(&self, node: &Namespace, number: u8) -> Result<()> {
        let device = format!("pod{number}");
        if node.has_device(&device) {
            node.script(&format!("ip link del {device}"))?;
        }
        Ok(())
    }

    /// In another node: the way to these pods leads over their node's addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn route(&self, from: &Namespace, via: &[IpAddr]) -> Result<()> {
        let mut script = String::new();
        for via in via {
            let _ = match via {
                IpAddr::V4(via) => writeln!(script, "ip route replace {}/{} via {via}", self.v4.0, self.v4.1),
                IpAddr::V6(via) => {
                    writeln!(script, "ip -6 route replace {}/{} via {via}", self.v6.0, self.v6.1)
                }
            };
        }
        from.script(&script).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_show_the_same_digits() {
        let net = PodNet::parse(&["fd00:244:0:1::/64", "10.244.3.0/24"]).unwrap();
        for (number, v4, v6) in [
            (1, "10.244.3.1", "fd00:244:0:1::1"),
            (21, "10.244.3.21", "fd00:244:0:1::21"),
            (254, "10.244.3.254", "fd00:244:0:1::254"),
        ] {
            assert_eq!(net.addresses(number), (v4.parse().unwrap(), v6.parse().unwrap()));
        }
    }

    #[test]
    fn ranges_that_cannot_serve_are_refused() {
        for (cidrs, said) in [
            (&["10.244.1.0/24"][..], "no IPv6"),
            (&["fd00::/64"], "no IPv4"),
            (&["10.244.1.0/28", "fd00::/64"], "too small"),
            (&["10.244.1.0", "fd00::/64"], "no CIDR"),
        ] {
            let error = PodNet::parse(cidrs).unwrap_err().to_string();
            assert!(error.contains(said), "{cidrs:?}: {error}");
        }
    }
}
