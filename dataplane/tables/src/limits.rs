//! What senders may bring about in a second, as the configuration says.

/// The limits of one worker.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// New flows a second of one source (an IPv6 source is its /64); 0: any number.
    pub flows_per_source: u32,
    /// New flows a second of one Service port that says nothing else; 0: any number.
    pub flows_per_service: u32,
    /// Packets a second to the kernel.
    pub kernel: KernelRates,
}

/// Packets a second that the kernel gets, each kind apart, so that none can starve another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelRates {
    /// ARP and neighbour discovery.
    pub neighbors: u32,
    /// ICMP and ICMPv6.
    pub icmp: u32,
    /// SYNs to the appliance's own addresses.
    pub opens: u32,
    /// Routing: BGP beyond its SYN, BFD, OSPF, VRRP, from a neighbour on the port's own network.
    pub routing: u32,
    /// Other TCP beyond its SYN: ssh, metrics.
    pub sessions: u32,
    /// The rest.
    pub other: u32,
}

impl Default for KernelRates {
    /// A tenth of a second of all but routing, in frames of 1,500 bytes, leaves an eighth of the ring to the kernel free.
    fn default() -> Self {
        Self { neighbors: 2_000, icmp: 1_000, opens: 1_000, routing: 5_000, sessions: 4_000, other: 1_000 }
    }
}
