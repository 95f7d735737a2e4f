//! Frames made by copying one and giving it other addresses: cheap enough to make them by the million.

use std::net::Ipv4Addr;

use packet::{AnyKey, FlowKey, MacAddr, Parsed, TcpFlags, nat::Rewrite, parse, testkit::PacketBuilder};

/// Bytes of a 64-byte frame without the check sequence.
pub const FRAME_LEN: usize = 60;

/// A TCP frame to be copied.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    parsed: Parsed,
    key: FlowKey<Ipv4Addr>,
}

impl Template {
    /// A 64-byte TCP frame (60 without the check sequence) between two stations.
    #[must_use]
    pub fn new(dst: MacAddr, src: MacAddr, flags: TcpFlags) -> Self {
        // Every ACK acknowledges every SYN-ACK.
        let seq = u32::from(!(flags.syn() && flags.ack()));
        let builder = PacketBuilder::tcp("198.18.0.1:1024", "203.0.113.10:80").flags(flags).numbers(seq, 1);
        let builder = builder.pad_to(FRAME_LEN);
        let frame = builder.macs(dst, src).build();
        let parsed = parse(&frame, frame.len()).expect("a valid frame");
        let Some(AnyKey::V4(key)) = parsed.key() else { unreachable!("an IPv4 flow was built") };
        Self { frame, parsed, key }
    }

    /// The bytes as they are.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.frame
    }

    /// Makes a copy of the bytes a frame of `key`.
    #[inline]
    pub fn readdress(&self, frame: &mut [u8], key: &FlowKey<Ipv4Addr>) {
        Rewrite::new(&self.key, key).apply(frame, &self.parsed);
    }

    /// A frame of `key`.
    #[must_use]
    pub fn frame(&self, key: &FlowKey<Ipv4Addr>) -> Vec<u8> {
        let mut frame = self.frame.clone();
        self.readdress(&mut frame, key);
        frame
    }
}
