//! Frames made by copying one and giving it other addresses: cheap enough to make them by the million.

use packet::{AnyKey, MacAddr, Parsed, TcpFlags, nat::Rewrite, parse, testkit::PacketBuilder};

/// Bytes of a 64-byte frame without the check sequence.
pub const FRAME_LEN: usize = 60;

/// A frame of a flow, to be copied.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    parsed: Parsed,
    key: AnyKey,
}

impl Template {
    /// A 64-byte TCP frame over IPv4 (60 without the check sequence) between two stations.
    #[must_use]
    pub fn new(dst: MacAddr, src: MacAddr, flags: TcpFlags) -> Self {
        // Every ACK acknowledges every SYN-ACK.
        let seq = u32::from(!(flags.syn() && flags.ack()));
        let builder = PacketBuilder::tcp("198.18.0.1:1024", "203.0.113.10:80").flags(flags).numbers(seq, 1);
        Self::of(&builder.macs(dst, src))
    }

    /// The frame that the builder makes, with padding up to 64 bytes.
    ///
    /// # Panics
    /// If it is no packet of a flow.
    #[must_use]
    pub fn of(builder: &PacketBuilder) -> Self {
        let frame = builder.clone().pad_to(FRAME_LEN).build();
        let parsed = parse(&frame, frame.len()).expect("a valid frame");
        let key = parsed.key().expect("a packet of a flow");
        Self { frame, parsed, key }
    }

    /// The bytes as they are.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.frame
    }

    /// Makes a copy of the bytes a frame of `key`, which is of the same family and protocol.
    #[inline]
    pub fn readdress(&self, frame: &mut [u8], key: impl Into<AnyKey>) {
        match (&self.key, &key.into()) {
            (AnyKey::V4(from), AnyKey::V4(to)) => Rewrite::new(from, to).apply(frame, &self.parsed),
            (AnyKey::V6(from), AnyKey::V6(to)) => Rewrite::new(from, to).apply(frame, &self.parsed),
            _ => debug_assert!(false, "a frame of one family for a flow of the other"),
        }
    }

    /// A frame of `key`.
    #[must_use]
    pub fn frame(&self, key: impl Into<AnyKey>) -> Vec<u8> {
        let mut frame = self.frame.clone();
        self.readdress(&mut frame, key);
        frame
    }
}
