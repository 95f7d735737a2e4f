//! What one pass over a frame finds out: offsets, addresses, ports, fragment state, the tuple inside an ICMP error.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{AnyAddrs, AnyKey, MacAddr, TcpFlags, VlanTag};

/// The facts of a frame, as [`parse`](crate::parse) found them.
///
/// Offsets count bytes from the start of the frame. Every header named here lies inside the head it was parsed from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// Where the packet in the frame begins (after the VLAN tag).
    pub l3: u16,
    /// Where the IP payload begins; 0 for what is not IP.
    pub l4: u16,
    /// Bytes of the IP packet from `l3` on, without Ethernet padding; 0 for what is not IP.
    pub ip_len: u16,
    /// The 802.1Q tag, if there is one.
    pub vlan: Option<VlanTag>,
    /// IPv4 TTL or IPv6 hop limit; 0 for what is not IP.
    pub ttl: u8,
    /// May not be fragmented on the way: the IPv4 DF bit, always so for IPv6.
    pub dont_fragment: bool,
    /// The IPv4 header's checksum is right; so for all that has none.
    pub ip_checksum_right: bool,
    /// The sender seems to have left the transport checksum to hardware
    /// ([`is_unfinished`](crate::checksum::is_unfinished)).
    pub unfinished: bool,
    /// Whether this is a whole IP packet.
    pub fragment: Fragment,
    /// Ethernet destination.
    pub dst_mac: MacAddr,
    /// Ethernet source.
    pub src_mac: MacAddr,
    /// What the frame carries.
    pub body: Body,
}

/// Whether an IP packet is whole.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Fragment {
    /// Not fragmented (an IPv6 atomic fragment, RFC 6946, counts as whole).
    Whole,
    /// The first of several.
    First {
        /// IP identification.
        id: u32,
    },
    /// Any but the first.
    Later {
        /// IP identification.
        id: u32,
        /// Bytes of the original payload before this part.
        offset: u16,
        /// There are parts behind it.
        more: bool,
    },
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Body {
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// A whole TCP, UDP or SCTP packet.
    Flow {
        /// Its 5-tuple.
        key: AnyKey,
        /// TCP flags; for SCTP what its chunks amount to ([`flags`](crate::sctp::flags)), for UDP none.
        tcp_flags: TcpFlags,
    },
    /// ICMP or ICMPv6, other than neighbour discovery.
    Icmp(Icmp),
    /// Neighbour discovery that passed the checks of RFC 4861, but for its checksum.
    Nd(Nd),
    /// An EtherType (or an 802.3 length) that is not ours.
    OtherEther(u16),
    /// IP with another protocol, and every fragment: a fragment never yields ports.
    OtherIp {
        /// Sender and receiver.
        addrs: AnyAddrs,
        /// IANA number; of the header after the last one that was walked.
        protocol: u8,
    },
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Icmp {
    /// Sender and receiver.
    pub addrs: AnyAddrs,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The packet an error quotes, where it is TCP, UDP or SCTP and its ports are there.
    pub inner: Option<Inner>,
}

/// The packet quoted by an ICMP error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inner {
    /// Its 5-tuple, as its sender sent it: the error travels against it.
    pub key: AnyKey,
    /// Where its IP header begins in the frame.
    pub l3: u16,
    /// Where its transport header begins in the frame; 8 bytes of it are there.
    pub l4: u16,
}

/// What an ARP packet wants.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ArpOperation {
    /// Who has `target_ip`?
    Request,
    /// `sender_ip` is at `sender_mac`.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arp {
    /// Request or reply.
    pub operation: ArpOperation,
    /// Sender's hardware address.
    pub sender_mac: MacAddr,
    /// Sender's protocol address; unspecified in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Target's hardware address; without meaning in a request.
    pub target_mac: MacAddr,
    /// Target's protocol address.
    pub target_ip: Ipv4Addr,
}

/// Which neighbour discovery message.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NdKind {
    /// Type 133.
    RouterSolicitation,
    /// Type 134.
    RouterAdvertisement,
    /// Type 135.
    NeighborSolicitation,
    /// Type 136.
    NeighborAdvertisement,
}

/// A neighbour discovery message (RFC 4861).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Nd {
    /// Which one.
    pub kind: NdKind,
    /// Sender; unspecified in duplicate address detection.
    pub src: Ipv6Addr,
    /// Receiver.
    pub dst: Ipv6Addr,
    /// The address in question; unspecified in router messages.
    pub target: Ipv6Addr,
    /// The link-layer address option: the source's in solicitations and router advertisements, the target's else.
    pub link_layer: Option<MacAddr>,
    /// Neighbour advertisement flags: it answers a solicitation.
    pub solicited: bool,
    /// Neighbour advertisement flags: it replaces a cached address.
    pub overrides: bool,
}

impl Parsed {
    /// What is known before a frame is read.
    pub const NOTHING: Self = Self {
        l3: 0,
        l4: 0,
        ip_len: 0,
        vlan: None,
        ttl: 0,
        dont_fragment: false,
        ip_checksum_right: true,
        unfinished: false,
        fragment: Fragment::Whole,
        dst_mac: MacAddr::ZERO,
        src_mac: MacAddr::ZERO,
        body: Body::OtherEther(0),
    };

    /// The 5-tuple of a whole TCP, UDP or SCTP packet.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Option<AnyKey> {
        match self.body {
            Body::Flow { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The facts of a first fragment as if its datagram were whole, of which it told this
    /// ([`first_fragment`](crate::first_fragment)).
    #[inline]
    #[must_use]
    pub const fn as_whole(&self, key: AnyKey, tcp_flags: TcpFlags) -> Self {
        Self { body: Body::Flow { key, tcp_flags }, ..*self }
    }

    /// The addresses of an IP packet.
    #[inline]
    #[must_use]
    pub const fn addrs(&self) -> Option<AnyAddrs> {
        match self.body {
            Body::Flow { key, .. } => Some(key.addrs()),
            Body::Icmp(icmp) => Some(icmp.addrs),
            Body::Nd(nd) => Some(AnyAddrs::V6 { src: nd.src, dst: nd.dst }),
            Body::OtherIp { addrs, .. } => Some(addrs),
            Body::Arp(_) | Body::OtherEther(_) => None,
        }
    }

    /// Bytes of the IP payload; 0 for what is not IP.
    #[inline]
    #[must_use]
    pub const fn l4_len(&self) -> u16 {
        if self.l4 == 0 { 0 } else { self.ip_len.saturating_sub(self.l4.saturating_sub(self.l3)) }
    }

    /// Bytes of the frame up to the end of the IP packet: what is behind is Ethernet padding.
    #[inline]
    #[must_use]
    pub const fn frame_end(&self) -> usize {
        self.l3 as usize + self.ip_len as usize
    }
}

impl Icmp {
    /// Somebody pings.
    #[inline]
    #[must_use]
    pub const fn is_echo_request(&self) -> bool {
        matches!(
            (self.addrs, self.kind, self.code),
            (AnyAddrs::V4 { .. }, 8, 0) | (AnyAddrs::V6 { .. }, 128, 0)
        )
    }

    /// The answer to a ping.
    #[inline]
    #[must_use]
    pub const fn is_echo_reply(&self) -> bool {
        matches!(
            (self.addrs, self.kind, self.code),
            (AnyAddrs::V4 { .. }, 0, 0) | (AnyAddrs::V6 { .. }, 129, 0)
        )
    }

    /// A message about another packet, which must never be answered by an error (RFC 1122 §3.2.2, RFC 4443 §2.4).
    #[inline]
    #[must_use]
    pub const fn is_error(&self) -> bool {
        match self.addrs {
            AnyAddrs::V4 { .. } => matches!(self.kind, 3 | 4 | 5 | 11 | 12),
            AnyAddrs::V6 { .. } => self.kind < 128,
        }
    }

    /// A router knows a better way for the sender.
    #[inline]
    #[must_use]
    pub const fn is_redirect(&self) -> bool {
        matches!((self.addrs, self.kind), (AnyAddrs::V4 { .. }, 5) | (AnyAddrs::V6 { .. }, 137))
    }

    /// Somebody asks the sender to slow down; no host may heed it (RFC 6633).
    #[inline]
    #[must_use]
    pub const fn is_source_quench(&self) -> bool {
        matches!((self.addrs, self.kind), (AnyAddrs::V4 { .. }, 4))
    }

    /// The packet was too big for a link: fragmentation needed, or ICMPv6 packet too big.
    #[inline]
    #[must_use]
    pub const fn is_too_big(&self) -> bool {
        matches!(
            (self.addrs, self.kind, self.code),
            (AnyAddrs::V4 { .. }, 3, 4) | (AnyAddrs::V6 { .. }, 2, _)
        )
    }
}
