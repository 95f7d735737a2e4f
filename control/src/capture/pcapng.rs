//! The file of a capture: four kinds of blocks of pcapng. Little endian, times in nanoseconds, one interface a port; what
//! became of a packet is in its flags and comment. Source: draft-ietf-opsawg-pcapng.
//!
//! Also the few words by which a reader counts what it gets ([`Blocks`]). Not here: any other block.

use tables::capture::{CaptureCounts, Captured, Event};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINK_ETHERNET: u16 = 1;

const END: u16 = 0;
const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TIME_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const APPLICATION: u16 = 4;
const DELIVERED: u16 = 8;
const LOST: u16 = 7;

/// Flags of a packet: which way it goes.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A block's type, its length, and its length again at its end, in bytes.
const FRAME_LEN: usize = 12;
/// No block of ours is longer.
const BLOCK_LEN_MAX: usize = 64 << 10;

/// How a file begins: its section, and the ports.
#[must_use]
pub fn beginning(ports: &[String], snap_len: u16) -> Vec<u8> {
    let mut out = Vec::new();
    block(&mut out, SECTION, |out| {
        out.extend(BYTE_ORDER.to_le_bytes());
        out.extend([1_u16, 0].map(u16::to_le_bytes).concat());
        // The section's length is not known.
        out.extend((-1_i64).to_le_bytes());
        option(out, APPLICATION, concat!("fairlead ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, END, &[]);
    });
    for name in ports {
        block(&mut out, INTERFACE, |out| {
            out.extend([LINK_ETHERNET, 0].map(u16::to_le_bytes).concat());
            out.extend(u32::from(snap_len).to_le_bytes());
            option(out, IF_NAME, name.as_bytes());
            option(out, IF_TIME_RESOLUTION, &[9]);
            option(out, END, &[]);
        });
    }
    out
}

/// A packet, at a time in nanoseconds since 1970.
pub fn packet(out: &mut Vec<u8>, captured: &Captured, frame: &[u8], time_ns: u64) {
    let (flags, comment) = match captured.event {
        Event::Arrived => (INBOUND, None),
        Event::Left => (OUTBOUND, None),
        Event::Dropped(reason) => (INBOUND, Some(format!("dropped: {reason}: {}", reason.text()))),
    };
    block(out, PACKET, |out| {
        out.extend(u32::from(captured.port.0).to_le_bytes());
        time(out, time_ns);
        out.extend(len(frame).to_le_bytes());
        out.extend(captured.wire_len.to_le_bytes());
        padded(out, frame);
        if let Some(comment) = comment {
            option(out, COMMENT, comment.as_bytes());
        }
        option(out, PACKET_FLAGS, &flags.to_le_bytes());
        option(out, END, &[]);
    });
}

/// How a file ends: what was captured, over all ports, and what was left out.
pub fn statistics(out: &mut Vec<u8>, counts: CaptureCounts, time_ns: u64) {
    let CaptureCounts { taken, over_rate, lost } = counts;
    let comment = format!(
        "all ports together: {taken} captured, {over_rate} beyond the rate, {lost} lost to a full ring"
    );
    block(out, STATISTICS, |out| {
        out.extend(0_u32.to_le_bytes());
        time(out, time_ns);
        option(out, COMMENT, comment.as_bytes());
        option(out, LOST, &(over_rate + lost).to_le_bytes());
        option(out, DELIVERED, &taken.to_le_bytes());
        option(out, END, &[]);
    });
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let length = (len(&out[start..]) + 4).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&length);
    out.extend(length);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend(code.to_le_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    padded(out, value);
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.extend(&[0; 3][..bytes.len().wrapping_neg() % 4]);
}

fn time(out: &mut Vec<u8>, time_ns: u64) {
    let [upper, lower] = [time_ns >> 32, time_ns & u64::from(u32::MAX)];
    for half in [upper, lower] {
        out.extend(u32::try_from(half).unwrap_or(u32::MAX).to_le_bytes());
    }
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Counts what a file holds as it comes, in pieces of any size.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The beginning of a block of which the rest is to come.
    rest: Vec<u8>,
    /// Packets seen.
    pub packets: u64,
    /// What its end says; none while that has not come.
    pub end: Option<String>,
}

impl Blocks {
    /// Takes the next piece; false if this is no file of ours.
    pub fn take(&mut self, piece: &[u8]) -> bool {
        self.rest.extend(piece);
        let mut at = 0;
        while let Some((kind, length)) = head(&self.rest[at..]) {
            if !(FRAME_LEN..=BLOCK_LEN_MAX).contains(&length) {
                return false;
            }
            let Some(block) = self.rest.get(at..at + length) else { break };
            match kind {
                PACKET => self.packets += 1,
                STATISTICS => self.end = first_comment(block),
                _ => {}
            }
            at += length;
        }
        self.rest.drain(..at);
        true
    }
}

fn head(bytes: &[u8]) -> Option<(u32, usize)> {
    let (kind, rest) = bytes.split_first_chunk()?;
    let length = u32::from_le_bytes(*rest.first_chunk()?);
    Some((u32::from_le_bytes(*kind), usize::try_from(length).ok()?))
}

/// The comment with which the options of [`statistics`] begin.
fn first_comment(block: &[u8]) -> Option<String> {
    let options = block.get(8 + 4 + 8..)?;
    let (code, rest) = options.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let text = rest.get(..u16::from_le_bytes(*length).into())?;
    (u16::from_le_bytes(*code) == COMMENT).then(|| String::from_utf8_lossy(text).into_owned())
}
