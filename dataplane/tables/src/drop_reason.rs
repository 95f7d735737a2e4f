//! Why a packet was dropped or refused: one list gives the variant, the symbol on metrics and the operator's text.

use std::fmt;

use packet::ParseError;

macro_rules! drop_reasons {
    ($($name:ident: $text:literal,)*) => {
        /// Why a packet went no further. The symbol is the `reason` label of `fairlead_dropped_packets_total`.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $name,)*
        }

        impl DropReason {
            /// Every reason, in the order of [`Self::index`].
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// The symbol of metrics, JSON and traces, such as `SnatExhausted`.
            #[must_use]
            pub const fn symbol(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it means and what to do about it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    // The frame itself: one reason for each `ParseError`.
    BadArp: "ARP packet of an unknown shape; look for a broken or hostile station on the segment",
    BadIpv4Checksum: "IPv4 header checksum is wrong; look for a failing link, NIC or driver",
    BadIpv4HeaderLen: "IPv4 header length is impossible; malformed or hostile traffic",
    BadIpVersion: "IP version disagrees with the EtherType; malformed or hostile traffic",
    BadNd: "neighbour discovery message that RFC 4861 forbids; look for spoofed ND from beyond the link",
    BadTcpOffset: "TCP data offset is impossible; malformed or hostile traffic",
    BadUdpLength: "UDP length disagrees with the packet; malformed or hostile traffic",
    ExtensionHeaders: "more IPv6 extension headers than are walked; malformed or hostile traffic",
    ShortL4: "packet ends inside its transport header; malformed or hostile traffic",
    SplitHeader: "headers are spread over several receive buffers; raise the buffer size or lower header splitting of the NIC",
    StackedVlan: "more than one VLAN tag; take the outer tag off at the switch port",
    TooLong: "IP packet of more than 65,535 bytes; malformed or hostile traffic",
    Truncated: "frame is shorter than the packet in it; check the MTU along the path and the capture length of the device",
    BadChecksum: "transport checksum that the NIC found wrong; look for a failing link or device before us",

    // Who the frame is for.
    BadVlan: "VLAN tag that this port does not carry; add a sub-port (ports[].parent, ports[].vlan), or check the switch port's VLAN list",
    NotForUs: "unicast frame for another station; normal in small numbers while a switch learns, else check for promiscuous mode",
    UnsupportedEtherType: "neither IPv4, IPv6 nor ARP; no action needed unless that protocol matters here",
    MartianSource: "source address that no sender may have (own, loopback, multicast, broadcast, unspecified); look for spoofing or a loop",
    ServiceSource: "source address that is a Service's; nobody sends from one, look for spoofing",
    MulticastUnsupported: "multicast or broadcast that nobody here takes; normal on most segments",

    // Service verdicts (the client may get a RST or an ICMP error).
    NoEndpoints: "the Service has no usable endpoint; check its selector and the readiness of its pods",
    NoLocalEndpoints: "a Local traffic policy and no endpoint on that node; the policy asks for this, use Cluster if it is not meant",
    NotServedHere: "the port does not serve this kind of frontend (ports[].serves); the client came the wrong way, or add the kind",
    SourceLimit: "the source began more flows in a second than protection.newFlows.perSource allows; raise it, or look at that client",
    ServiceLimit: "the Service had more new flows in a second than it may have (protection.newFlows.perService, fairlead.dev/new-flows-per-second); raise it, or look for a flood",
    SourceRange: "source is not in loadBalancerSourceRanges of the Service; add the client's range if it should be served",
    SourceListed: "source is kept out by fairlead.dev/allow or fairlead.dev/deny of the Service; change the list if it should be served",
    EchoUnanswered: "ping of a VIP, which forwarding.answerEcho: false leaves unanswered; no action needed",
    VipPortUnknown: "the clusterIP has no such port or protocol; check the client's port against the Service",
    ServiceCidrUnallocated: "address in a service CIDR that belongs to no served Service; the client uses a stale or wrong address",
    BackendIsService: "the endpoint's address is itself a clusterIP or lies in a service CIDR; correct the EndpointSlice",

    // Flows and translation.
    FlowTableFull: "the flow table is full of flows that saw a reply; raise forwarding.flowsPerWorker or add workers",
    FlowKeyTaken: "another flow already has these addresses and ports; the client may retry from another source port",
    TcpWithoutFlow: "TCP segment or SCTP packet of a Service that belongs to no flow and can begin none (RST, FIN or SYN-ACK; ABORT, SHUTDOWN, INIT ACK, an INIT with a tag); late, a scan, or flows lost by a restart",
    MidstreamRefused: "TCP segment or SCTP packet from the middle of a connection of which no flow is known, refused as forwarding.midstream says; normal after a restart, else an idle connection (raise forwarding.timeouts) or a scan",
    ReplyWithoutFlow: "a dnat Service's endpoint answers a client of whom no flow is known, and several frontends are possible or another endpoint would serve it now; normal after a restart or a change of endpoints, else the client reaches the endpoint past the appliance",
    SnatExhausted: "no free source port towards this backend; add forwarding.snatAddresses or widen forwarding.snatPorts",
    SnatNoAddress: "no address of this family to translate to; give the port towards the backend an address of the family",
    SnatPortUnowned: "packet to a translated port that no flow holds; late replies or a scan",
    BadFragment: "IP fragment that the standards forbid (tiny, of an odd length, beyond 65,535 bytes); malformed or hostile traffic",
    FragmentExpired: "IP fragment whose first one did not come in time, or led nowhere; look for loss, or for paths that part fragments",
    FragmentOverlap: "IP fragment that contradicts another of its datagram; malformed or hostile traffic",
    FragmentQueueFull: "too many IP fragments wait for their first one; look for a flood of fragments",
    FragmentRepeated: "IP fragment that had come before; normal in small numbers",
    FragmentUnsupported: "IP fragment of an SCTP flow; let path MTU discovery work",
    IcmpErrorUnsupported: "ICMP redirect or source quench about a service flow; correct the route of the router that sent it",
    IcmpErrorWithoutFlow: "ICMP error about a packet that no flow here sent; late or spoofed",

    // Routing.
    TtlExceeded: "TTL or hop limit ran out; look for a routing loop",
    NoRoute: "no route to the destination; add a route for it",
    Blackhole: "a blackhole, unreachable or prohibit route covers the destination; remove it if that is not meant",
    NeighborUnresolved: "the next hop does not answer ARP or ND; check that it is up and on that segment",
    HoldFull: "too many packets wait for the same next hop to answer; check that it is up and on that segment",
    TooBig: "packet exceeds the MTU of the way out and may not be fragmented; the sender is told by ICMP",

    // Queues and devices.
    PuntRingFull: "the ring to the kernel was full; the control thread is behind, or somebody floods our own addresses",
    PuntLimit: "more packets of this kind for the appliance itself than protection.kernel allows; look for a flood of ARP, ND, ICMP or SYNs",
    PuntUnavailable: "packet for the kernel on a port without a mirror (tap: false); set tap: true if it should be served",
    HandoffFull: "the ring to the worker that owns the flow was full; the load is uneven, check RSS",
    TxFull: "the transmit queue stayed full; the link or the peer is slower than the traffic",
    NoBuffer: "no packet buffer was free; raise dpdk.memoryMiB",
    BadDevice: "the port is gone, down or unknown; check the device and the configuration",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in arrays of [`Self::COUNT`] elements.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.symbol())
    }
}

impl From<ParseError> for DropReason {
    #[inline]
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::BadArp => Self::BadArp,
            ParseError::BadIpv4Checksum => Self::BadIpv4Checksum,
            ParseError::BadIpv4HeaderLen => Self::BadIpv4HeaderLen,
            ParseError::BadIpVersion => Self::BadIpVersion,
            ParseError::BadNd => Self::BadNd,
            ParseError::BadTcpOffset => Self::BadTcpOffset,
            ParseError::BadUdpLength => Self::BadUdpLength,
            ParseError::ExtensionHeaders => Self::ExtensionHeaders,
            ParseError::ShortL4 => Self::ShortL4,
            ParseError::SplitHeader => Self::SplitHeader,
            ParseError::StackedVlan => Self::StackedVlan,
            ParseError::TooLong => Self::TooLong,
            ParseError::Truncated => Self::Truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn symbols_are_camel_case_and_unique_and_texts_say_two_things() {
        let mut seen = HashSet::new();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(seen.insert(reason.symbol()));
            assert!(reason.symbol().chars().all(char::is_alphanumeric));
            assert!(reason.symbol().starts_with(char::is_uppercase));
            assert!(reason.text().contains([';', ',']), "{reason}: meaning, then what to do");
        }
    }

    #[test]
    fn every_parse_error_keeps_its_name() {
        for error in ParseError::ALL {
            assert_eq!(DropReason::from(error).symbol(), format!("{error:?}"));
        }
    }
}
