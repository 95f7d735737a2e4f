//! What came of the frames that were sent.

use hdrhistogram::Histogram;
use packet::{AnyKey, Body, MacAddr, Parsed, Protocol, TcpFlags, checksum, parse};
use serde::{Deserialize, Serialize};

use super::{Arrival, STAMP_LEN, Sequence, filler};

/// Frames that are not what they should be, by what is wrong.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Faults {
    /// Of a flow, but its number and time were damaged.
    pub damaged: u64,
    /// Between other addresses or ports than its flow's: another backend, another client.
    pub misdirected: u64,
    /// To another station than ours.
    pub wrong_station: u64,
    /// With a wrong IP or transport checksum.
    pub wrong_checksum: u64,
    /// With other bytes behind the number and the time than were sent.
    pub wrong_payload: u64,
}

impl Faults {
    /// All together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.damaged + self.misdirected + self.wrong_station + self.wrong_checksum + self.wrong_payload
    }

    pub(super) const fn add(&mut self, other: &Self) {
        self.damaged += other.damaged;
        self.misdirected += other.misdirected;
        self.wrong_station += other.wrong_station;
        self.wrong_checksum += other.wrong_checksum;
        self.wrong_payload += other.wrong_payload;
    }
}

/// Counts of what came over a link.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Frames of ours, each once.
    pub(super) received: u64,
    /// Of them, after one of their flow that was sent later.
    pub(super) late: u64,
    /// Frames that had come already.
    pub(super) again: u64,
    /// TCP resets.
    pub(super) refused: u64,
    /// Frames that were checked in every byte.
    pub(super) checked: u64,
    pub(super) faults: Faults,
    /// Cycles from making a frame to receiving it.
    pub(super) cycles: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let cycles = Histogram::new_with_bounds(1, 1 << 40, 3).expect("constant bounds are valid");
        let faults = Faults::default();
        Self { received: 0, late: 0, again: 0, refused: 0, checked: 0, faults, cycles }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.late += other.late;
        self.again += other.again;
        self.refused += other.refused;
        self.checked += other.checked;
        self.faults.add(&other.faults);
        self.cycles.add(&other.cycles).expect("histograms of the same bounds");
    }

    /// Takes a frame's number.
    #[inline]
    pub(super) fn count(&mut self, sequence: &mut Sequence, number: u32, cycles: u64) {
        match sequence.see(number) {
            Arrival::Again => {
                self.again += 1;
                return;
            }
            Arrival::Late | Arrival::Stale => self.late += 1,
            Arrival::InOrder => {}
        }
        self.received += 1;
        self.cycles.saturating_record(cycles);
    }

    /// A frame without a readable number: one that was damaged, a reset, or nothing that was sent here.
    #[cold]
    pub(super) fn unmarked(&mut self, frame: &[u8]) {
        let Ok(Parsed { body: Body::Flow { key, tcp_flags }, .. }) = parse(frame, frame.len()) else {
            return;
        };
        match key.protocol() {
            Protocol::Tcp if tcp_flags.rst() => self.refused += 1,
            // Only what has data has a number.
            Protocol::Tcp if tcp_flags.0 & TcpFlags::PSH.0 == 0 => {}
            _ => self.faults.damaged += 1,
        }
    }

    /// Looks at every byte of a frame with a number, which should be of this flow and sent to this station.
    pub(super) fn check(&mut self, frame: &[u8], flow: &AnyKey, station: MacAddr, payload_at: usize) {
        self.checked += 1;
        let Ok(parsed) = parse(frame, frame.len()) else {
            self.faults.damaged += 1;
            return;
        };
        let end = usize::from(parsed.l3 + parsed.ip_len);
        let mut filling = frame.get(payload_at + STAMP_LEN..end).unwrap_or_default().iter().enumerate();
        if parsed.key() != Some(*flow) {
            self.faults.misdirected += 1;
        } else if parsed.dst_mac != station {
            self.faults.wrong_station += 1;
        } else if !parsed.ip_checksum_right || !checksum::is_right(&parsed, [frame]) {
            self.faults.wrong_checksum += 1;
        } else if filling.any(|(at, byte)| *byte != filler(STAMP_LEN + at)) {
            self.faults.wrong_payload += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Stamp, payload};
    use packet::testkit::PacketBuilder;

    #[test]
    fn each_fault_is_told_from_the_others() {
        let ours = MacAddr([4; 6]);
        let builder = || PacketBuilder::udp("198.18.0.1:1024", "203.0.113.10:80").payload(&payload(64));
        let key = packet::testkit::flow_of(&builder().build());
        let good = builder().macs(ours, MacAddr([2; 6])).build();
        let faults = |change: &dyn Fn(&mut Vec<u8>)| {
            let (mut frame, mut tally) = (good.clone(), Tally::new());
            change(&mut frame);
            tally.check(&frame, &key, ours, 42);
            assert_eq!(tally.checked, 1);
            tally.faults
        };
        let none = Faults::default();
        assert_eq!(faults(&|_| {}), none);
        assert_eq!(faults(&|frame| frame[0] = 2), Faults { wrong_station: 1, ..none });
        assert_eq!(faults(&|frame| frame[37] = 81), Faults { misdirected: 1, ..none });
        assert_eq!(faults(&|frame| frame[25] ^= 1), Faults { wrong_checksum: 1, ..none });
        assert_eq!(faults(&|frame| frame[100] ^= 1), Faults { wrong_checksum: 1, ..none });
        // Two words changed places: the sum stays right.
        assert_eq!(faults(&|frame| frame[90..94].rotate_left(2)), Faults { wrong_payload: 1, ..none });
        assert_eq!(faults(&|frame| frame.truncate(40)), Faults { damaged: 1, ..none });
    }

    #[test]
    fn what_has_no_number_is_damaged_or_not_ours() {
        let mut tally = Tally::new();
        let tcp = |flags| PacketBuilder::tcp("198.18.0.1:1024", "203.0.113.10:80").flags(flags).build();
        tally.unmarked(&tcp(TcpFlags::SYN));
        tally.unmarked(&PacketBuilder::ether(0x88cc).payload(&[0; 46]).build());
        assert_eq!((tally.faults.total(), tally.refused), (0, 0));
        tally.unmarked(&tcp(TcpFlags::RST));
        tally.unmarked(&tcp(TcpFlags::PSH | TcpFlags::ACK));
        tally.unmarked(&PacketBuilder::udp("198.18.0.1:1024", "203.0.113.10:80").build());
        assert_eq!((tally.faults.damaged, tally.refused), (2, 1));
    }

    #[test]
    fn a_frame_that_comes_twice_counts_once() {
        let (mut tally, mut sequence) = (Tally::new(), Sequence::default());
        for number in [0, 2, 1, 1] {
            tally.count(&mut sequence, number, 100);
        }
        assert_eq!((tally.received, tally.late, tally.again, tally.cycles.len()), (3, 1, 1, 3));
        assert_eq!(Stamp::read(&payload(18)).map(|stamp| stamp.sequence), Some(0));
    }
}
