//! Why bytes were refused: one variant for each drop counter, no strings, no heap.

use std::fmt;

/// Why [`parse`](crate::parse) refused a frame.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ParseError {
    /// The IPv4 header checksum is wrong (only where the caller asks for the check).
    BadIpv4Checksum,
    /// The IPv4 header length field is below 20 bytes, or exceeds the packet (RFC 791 §3.1).
    BadIpv4HeaderLen,
    /// The version nibble disagrees with the EtherType.
    BadIpVersion,
    /// A neighbour or router message fails RFC 4861 §6.1 or §7.1 (hop limit, code, length, target), or has a
    /// fragment header (RFC 6980 §5).
    BadNd,
    /// The TCP data offset is below 20 bytes or exceeds the segment (RFC 9293 §3.1).
    BadTcpOffset,
    /// The UDP length is below 8 bytes or exceeds the IP payload (RFC 768).
    BadUdpLength,
    /// An ARP packet that is not Ethernet over IPv4, or is neither request nor reply (RFC 826).
    BadArp,
    /// More IPv6 extension headers than the 8, or bytes of them than the 256, that are walked.
    ExtensionHeaders,
    /// The IP packet is shorter than the header its protocol field promises.
    ShortL4,
    /// The headers do not lie in the first segment of the frame.
    SplitHeader,
    /// More than one VLAN tag (802.1ad or stacked 802.1Q).
    StackedVlan,
    /// An IP packet of more than 65,535 bytes in all.
    TooLong,
    /// The frame ends before the header or the IP packet does.
    Truncated,
}

impl ParseError {
    /// Every variant, for counters and tests.
    pub const ALL: [Self; 13] = [
        Self::BadIpv4Checksum,
        Self::BadIpv4HeaderLen,
        Self::BadIpVersion,
        Self::BadNd,
        Self::BadTcpOffset,
        Self::BadUdpLength,
        Self::BadArp,
        Self::ExtensionHeaders,
        Self::ShortL4,
        Self::SplitHeader,
        Self::StackedVlan,
        Self::TooLong,
        Self::Truncated,
    ];

    /// What is wrong, in words for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::BadIpv4Checksum => "wrong IPv4 header checksum",
            Self::BadIpv4HeaderLen => "impossible IPv4 header length",
            Self::BadIpVersion => "IP version disagrees with the EtherType",
            Self::BadNd => "neighbour discovery message that RFC 4861 forbids",
            Self::BadTcpOffset => "impossible TCP data offset",
            Self::BadUdpLength => "impossible UDP length",
            Self::BadArp => "ARP packet of an unknown shape",
            Self::ExtensionHeaders => "too many IPv6 extension headers",
            Self::ShortL4 => "IP packet too short for its transport header",
            Self::SplitHeader => "headers spread over more than one buffer segment",
            Self::StackedVlan => "more than one VLAN tag",
            Self::TooLong => "IP packet of more than 65,535 bytes",
            Self::Truncated => "frame shorter than the packet in it",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ParseError {}
