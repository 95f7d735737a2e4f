//! What a measured frame carries in its payload: whose it is, the how manieth, and when it left.
//!
//! The words of a stamp always have the same Internet checksum, so that a frame gets one without its checksum being made
//! anew, and one that was damaged on its way is seen without looking at anything else. A stamp fits a 64-byte frame of UDP
//! over IPv4, which has room for 18 bytes.

/// Bytes of a stamp.
pub const STAMP_LEN: usize = 18;

/// Bits of a flow's number; the others of its word are the run's.
const FLOW_BITS: u32 = 22;
pub(super) const FLOW_MASK: u32 = (1 << FLOW_BITS) - 1;
/// Runs that are told apart.
pub(super) const RUNS: u16 = 1 << (32 - FLOW_BITS);

/// The mark of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// The flow, by its number: 22 bits of it, more than four million.
    pub flow: u32,
    /// Which run it belongs to, of a thousand that follow each other: what is left of one does not disturb the next.
    pub run: u16,
    /// Its frames in this direction before this one.
    pub sequence: u32,
    /// The processor's counter when the frame was made.
    pub cycles: u64,
}

impl Stamp {
    /// The stamp's bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        let flow = u32::from(self.run) << FLOW_BITS | self.flow & FLOW_MASK;
        bytes[..4].copy_from_slice(&flow.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cycles.to_be_bytes());
        let balance = !folded(&bytes[..16]);
        bytes[16..].copy_from_slice(&balance.to_be_bytes());
        bytes
    }

    /// Reads a stamp at the head of a payload; `None` for what is none, or was damaged.
    #[inline]
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP_LEN] = payload.first_chunk()?;
        if folded(bytes) != 0xffff {
            return None;
        }
        let (flow, rest) = bytes.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let cycles = rest.first_chunk()?;
        let flow = u32::from_be_bytes(*flow);
        Some(Self {
            flow: flow & FLOW_MASK,
            run: u16::try_from(flow >> FLOW_BITS).unwrap_or(0),
            sequence: u32::from_be_bytes(*sequence),
            cycles: u64::from_be_bytes(*cycles),
        })
    }
}

/// The ones' complement sum of the words.
#[inline]
fn folded(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.as_chunks().0.iter().map(|word: &[u8; 2]| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Byte `at` of a payload behind its stamp.
#[inline]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a remainder of 251 is a byte")]
pub const fn filler(at: usize) -> u8 {
    (at % 251) as u8
}

/// A payload of this length, with a stamp of nothing: what stamps are written over.
#[must_use]
pub fn payload(len: usize) -> Vec<u8> {
    let stamp = Stamp { flow: 0, run: 0, sequence: 0, cycles: 0 }.bytes();
    (0..len).map(|at| stamp.get(at).copied().unwrap_or_else(|| filler(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stamp_is_read_back_and_its_sum_is_always_the_same(
            flow in 0..=FLOW_MASK, run in 0..RUNS, sequence: u32, cycles: u64,
        ) {
            let stamp = Stamp { flow, run, sequence, cycles };
            prop_assert_eq!(folded(&stamp.bytes()), 0xffff);
            prop_assert_eq!(Stamp::read(&stamp.bytes()), Some(stamp));
        }

        #[test]
        fn a_bit_that_flips_is_seen(
            flow in 0..=FLOW_MASK, run in 0..RUNS, sequence: u32, cycles: u64, bit in 0..STAMP_LEN * 8,
        ) {
            let mut bytes = Stamp { flow, run, sequence, cycles }.bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Stamp::read(&bytes), None);
        }
    }

    #[test]
    fn padding_is_no_stamp_and_a_payload_has_one() {
        assert_eq!(Stamp::read(&[0; 64]), None);
        assert_eq!(Stamp::read(&[0xff; 17]), None);
        let payload = payload(64);
        assert_eq!(Stamp::read(&payload), Some(Stamp { flow: 0, run: 0, sequence: 0, cycles: 0 }));
        assert!((STAMP_LEN..64).all(|at| payload[at] == filler(at)));
    }
}
