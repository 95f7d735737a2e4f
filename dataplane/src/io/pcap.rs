//! A port that replays a capture and records what is sent. Reads and writes the classic pcap format in memory
//! (libpcap's `pcap-savefile(5)`); files are the caller's.

use std::fmt;

use super::{
    Capabilities, PortIo,
    mem::{MemBuf, MemPort},
};
use crate::buf::Burst;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
const SNAP_LEN: u32 = 65_535;

/// Why a capture was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PcapError {
    /// Neither byte order of the classic format's magic number; pcapng is another format.
    NotPcap,
    /// The link type is not Ethernet.
    NotEthernet(u32),
    /// The file ends inside a header or a frame.
    Truncated,
    /// A frame is longer than a buffer.
    TooLong(u32),
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPcap => write!(f, "not a classic pcap file (convert with: editcap -F pcap IN OUT)"),
            Self::NotEthernet(kind) => write!(f, "link type {kind}; expected Ethernet (1)"),
            Self::Truncated => write!(f, "the file ends in the middle of a frame"),
            Self::TooLong(len) => write!(f, "a frame of {len} bytes does not fit a buffer"),
        }
    }
}

impl std::error::Error for PcapError {}

/// A port that receives a capture's frames, as fast as they are asked for.
#[derive(Debug)]
pub struct PcapPort {
    wire: MemPort,
    recorded: Vec<u8>,
}

impl PcapPort {
    /// A port that will receive the frames of `capture`.
    ///
    /// # Errors
    /// When the bytes are not a complete classic pcap file of Ethernet frames.
    pub fn replay(capture: &[u8]) -> Result<Self, PcapError> {
        let mut wire = MemPort::default();
        for frame in frames(capture)? {
            let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            wire.push_buf(MemBuf::from_frame(frame).ok_or(PcapError::TooLong(len))?);
        }
        let mut recorded = Vec::new();
        for word in [MICROSECONDS, 2 | 4 << 16, 0, 0, SNAP_LEN, LINKTYPE_ETHERNET] {
            recorded.extend(word.to_le_bytes());
        }
        Ok(Self { wire, recorded })
    }

    /// Everything sent so far, as a capture; time stamps are zero, because a port knows no clock.
    #[must_use]
    pub fn recorded(&self) -> &[u8] {
        &self.recorded
    }

    /// Frames not yet received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.wire.waiting()
    }
}

impl PortIo for PcapPort {
    type Buf = MemBuf;

    fn capabilities(&self) -> Capabilities {
        self.wire.capabilities()
    }

    fn rx(&mut self, burst: &mut Burst<MemBuf>) {
        self.wire.rx(burst);
    }

    fn tx(&mut self, burst: &mut Burst<MemBuf>) {
        self.wire.tx(burst);
        while let Some(buf) = self.wire.pop() {
            let frame = buf.to_vec();
            let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            for word in [0, 0, len, len] {
                self.recorded.extend(word.to_le_bytes());
            }
            self.recorded.extend(frame);
            self.wire.recycle(buf);
        }
    }

    fn alloc(&mut self) -> Option<MemBuf> {
        self.wire.alloc()
    }
}

/// The frames of a capture in order.
///
/// # Errors
/// When the bytes are not a complete classic pcap file of Ethernet frames.
pub fn frames(capture: &[u8]) -> Result<Vec<&[u8]>, PcapError> {
    let header = capture.get(..FILE_HEADER_LEN).ok_or(PcapError::Truncated)?;
    let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let word: fn([u8; 4]) -> u32 = match (magic, magic.swap_bytes()) {
        (MICROSECONDS | NANOSECONDS, _) => u32::from_le_bytes,
        (_, MICROSECONDS | NANOSECONDS) => u32::from_be_bytes,
        _ => return Err(PcapError::NotPcap),
    };
    let kind = word([header[20], header[21], header[22], header[23]]) & 0x0fff_ffff;
    if kind != LINKTYPE_ETHERNET {
        return Err(PcapError::NotEthernet(kind));
    }
    let mut rest = &capture[FILE_HEADER_LEN..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let record = rest.get(..RECORD_HEADER_LEN).ok_or(PcapError::Truncated)?;
        let len = word([record[8], record[9], record[10], record[11]]);
        let end = usize::try_from(len).ok().and_then(|len| len.checked_add(RECORD_HEADER_LEN));
        let end = end.filter(|&end| end <= rest.len()).ok_or(PcapError::Truncated)?;
        frames.push(&rest[RECORD_HEADER_LEN..end]);
        rest = &rest[end..];
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(word: fn(u32) -> [u8; 4], frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [NANOSECONDS, 0, 0, 0, SNAP_LEN, 1].into_iter().flat_map(word).collect();
        for frame in frames {
            let len = u32::try_from(frame.len()).unwrap();
            bytes.extend([1, 2, len, len].into_iter().flat_map(word));
            bytes.extend(*frame);
        }
        bytes
    }

    #[test]
    fn replays_either_byte_order_and_records_what_is_sent() {
        for word in [u32::to_le_bytes, u32::to_be_bytes] {
            let mut port = PcapPort::replay(&capture(word, &[b"one", b"three"])).unwrap();
            let mut burst = Burst::new();
            port.rx(&mut burst);
            assert_eq!((burst.len(), port.waiting()), (2, 0));
            port.tx(&mut burst);
            assert_eq!(frames(port.recorded()).unwrap(), [&b"one"[..], b"three"]);
        }
    }

    #[test]
    fn broken_captures_are_refused() {
        let good = capture(u32::to_le_bytes, &[b"one"]);
        let mut raw_ip = good.clone();
        raw_ip[20] = 101;
        let long = vec![0; 20_000];
        for (name, bytes, want) in [
            ("empty", vec![], PcapError::Truncated),
            ("pcapng", [&[0x0a, 0x0d, 0x0d, 0x0a][..], &[0; 24]].concat(), PcapError::NotPcap),
            ("raw IP", raw_ip, PcapError::NotEthernet(101)),
            ("cut frame", good[..good.len() - 1].to_vec(), PcapError::Truncated),
            ("cut record", good[..30].to_vec(), PcapError::Truncated),
            ("giant", capture(u32::to_le_bytes, &[&long]), PcapError::TooLong(20_000)),
        ] {
            assert_eq!(PcapPort::replay(&bytes).err(), Some(want), "{name}");
        }
    }
}
