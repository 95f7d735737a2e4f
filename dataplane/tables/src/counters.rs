//! What a worker counts. It adds to plain integers ([`Counts`]) and every few turns copies them to shared ones
//! ([`WorkerCounters`]) that control reads; nobody else writes either, so no addition is atomic.
//!
//! Every packet has one verdict: `rx + injected + originated + handoff_in = tx + punted + consumed + dropped +
//! handoff_out + held` ([`Counts::imbalance`]). The shared copy obeys it exactly while the worker is quiet; a snapshot
//! taken during a flush may be off by what was counted since the one before.

mod groups;
mod idling;

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crossbeam::utils::CachePadded;

pub use groups::{AffinityCounts, FlowCounts, FragmentCounts, LoopCounts, PacketCounts, PortCounts};
pub use idling::Idling;
use idling::SharedIdling;

use crate::{DropReason, PortId};

/// Everything one worker counts, as plain numbers: its own running totals, or a snapshot of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Counts {
    /// Packets.
    pub packets: PacketCounts,
    /// The flow table.
    pub flows: FlowCounts,
    /// The memory of session affinity.
    pub affinity: AffinityCounts,
    /// Packets too long for their way.
    pub fragments: FragmentCounts,
    /// The loop.
    pub turns: LoopCounts,
    /// Packets dropped, by [`DropReason::index`].
    drops: [u64; DropReason::COUNT],
    /// Sum of `drops`.
    dropped: u64,
    /// By [`PortId`].
    ports: Box<[PortCounts]>,
}

impl Counts {
    /// All zero, for this many ports.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self {
            packets: PacketCounts::default(),
            flows: FlowCounts::default(),
            affinity: AffinityCounts::default(),
            fragments: FragmentCounts::default(),
            turns: LoopCounts::default(),
            drops: [0; DropReason::COUNT],
            dropped: 0,
            ports: vec![PortCounts::default(); ports].into(),
        }
    }

    /// Counts packets dropped for one reason.
    #[inline]
    pub fn drop_packets(&mut self, reason: DropReason, packets: u64) {
        self.drops[reason.index()] += packets;
        self.dropped += packets;
    }

    /// Counts a burst received from a port; a port it was not made for counts in the total alone.
    #[inline]
    pub fn receive(&mut self, port: PortId, packets: u64, bytes: u64) {
        self.packets.rx += packets;
        if let Some(port) = self.ports.get_mut(port.index()) {
            port.rx_packets += packets;
            port.rx_bytes += bytes;
        }
    }

    /// Counts a burst that a port accepted.
    #[inline]
    pub fn transmit(&mut self, port: PortId, packets: u64, bytes: u64) {
        self.packets.tx += packets;
        if let Some(port) = self.ports.get_mut(port.index()) {
            port.tx_packets += packets;
            port.tx_bytes += bytes;
        }
    }

    /// Counts a packet of a sub-port, which its parent counts too, and alone in the total.
    pub fn receive_tagged(&mut self, port: PortId, bytes: u64) {
        if let Some(port) = self.ports.get_mut(port.index()) {
            port.rx_packets += 1;
            port.rx_bytes += bytes;
        }
    }

    /// Counts a packet that a sub-port gave to its parent.
    pub fn transmit_tagged(&mut self, port: PortId, bytes: u64) {
        if let Some(port) = self.ports.get_mut(port.index()) {
            port.tx_packets += 1;
            port.tx_bytes += bytes;
        }
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub const fn dropped_for(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Packets dropped, whatever the reason.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Every reason with its packets.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.drops)
    }

    /// The ports, by [`PortId`].
    #[must_use]
    pub const fn ports(&self) -> &[PortCounts] {
        &self.ports
    }

    /// Packets that came less packets that went or wait: 0, or a packet was lost (positive) or counted twice.
    #[must_use]
    pub const fn imbalance(&self) -> i64 {
        let p = &self.packets;
        let came = p.rx + p.injected + p.originated + p.handoff_in;
        let went = p.tx + p.punted + p.consumed + self.dropped + p.handoff_out + p.held;
        came.wrapping_sub(went).cast_signed()
    }
}

/// Counters on cache lines that no other group shares.
type Group<const N: usize> = CachePadded<[AtomicU64; N]>;

/// The shared copy of one worker's [`Counts`]: written by the worker alone, read by control. Kept in an `Arc` by both.
#[derive(Debug)]
pub struct WorkerCounters {
    packets: Group<{ PacketCounts::LEN }>,
    flows: Group<{ FlowCounts::LEN }>,
    affinity: Group<{ AffinityCounts::LEN }>,
    fragments: Group<{ FragmentCounts::LEN }>,
    turns: Group<{ LoopCounts::LEN }>,
    drops: Group<{ DropReason::COUNT }>,
    /// The sum of `drops` when they were last stored.
    dropped: Group<1>,
    ports: Box<[Group<{ PortCounts::LEN }>]>,
    idling: SharedIdling,
}

impl WorkerCounters {
    /// All zero, for this many ports.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self {
            packets: zeros(),
            flows: zeros(),
            affinity: zeros(),
            fragments: zeros(),
            turns: zeros(),
            drops: zeros(),
            dropped: zeros(),
            ports: (0..ports).map(|_| zeros()).collect(),
            idling: SharedIdling::default(),
        }
    }

    /// Shows what the worker does when nothing arrives; for its one writer.
    pub fn set_idling(&self, idling: Idling) {
        self.idling.store(idling);
    }

    /// What the worker does when nothing arrives, as it said last.
    #[must_use]
    pub fn idling(&self) -> Idling {
        self.idling.load()
    }

    /// Ports that are counted.
    #[must_use]
    pub const fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Shows the worker's totals to control; for its one writer: plain stores, and the many reasons only if a packet was
    /// dropped since.
    pub fn flush(&self, counts: &Counts) {
        store(&self.packets, counts.packets.to_array());
        store(&self.flows, counts.flows.to_array());
        store(&self.affinity, counts.affinity.to_array());
        store(&self.fragments, counts.fragments.to_array());
        store(&self.turns, counts.turns.to_array());
        for (shared, port) in self.ports.iter().zip(&counts.ports) {
            store(shared, port.to_array());
        }
        if load(&self.dropped) != [counts.dropped] {
            store(&self.drops, counts.drops);
            store(&self.dropped, [counts.dropped]);
        }
    }

    /// The worker's totals as of its last flush.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        let drops = load(&self.drops);
        Counts {
            packets: PacketCounts::from_array(load(&self.packets)),
            flows: FlowCounts::from_array(load(&self.flows)),
            affinity: AffinityCounts::from_array(load(&self.affinity)),
            fragments: FragmentCounts::from_array(load(&self.fragments)),
            turns: LoopCounts::from_array(load(&self.turns)),
            drops,
            dropped: drops.iter().sum(),
            ports: self.ports.iter().map(|port| PortCounts::from_array(load(port))).collect(),
        }
    }
}

fn zeros<const N: usize>() -> Group<N> {
    CachePadded::new(array::from_fn(|_| AtomicU64::new(0)))
}

#[inline]
fn store<const N: usize>(shared: &Group<N>, values: [u64; N]) {
    shared.iter().zip(values).for_each(|(shared, value)| shared.store(value, Relaxed));
}

#[inline]
fn load<const N: usize>(shared: &Group<N>) -> [u64; N] {
    array::from_fn(|at| shared[at].load(Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_verdict_a_packet() {
        let mut counts = Counts::new(2);
        counts.receive(PortId(0), 10, 640);
        counts.packets.originated += 1;
        assert_eq!(counts.imbalance(), 11, "nothing decided yet");
        counts.transmit(PortId(1), 6, 384);
        counts.drop_packets(DropReason::NoRoute, 2);
        counts.packets.punted += 1;
        counts.packets.consumed += 1;
        counts.packets.held = 1;
        assert_eq!(counts.imbalance(), 0);
        counts.transmit(PortId(1), 1, 64);
        assert_eq!(counts.imbalance(), -1, "the held packet left and is still held");
    }

    #[test]
    fn a_snapshot_is_what_was_flushed() {
        let shared = WorkerCounters::new(2);
        let mut counts = Counts::new(2);
        assert_eq!(shared.snapshot(), counts);
        for round in 1..=3 {
            counts.receive(PortId(1), round, 64 * round);
            counts.drop_packets(DropReason::SnatExhausted, round);
            counts.flows.used = round;
            counts.turns.turns += 1;
            assert_ne!(shared.snapshot(), counts);
            shared.flush(&counts);
            assert_eq!(shared.snapshot(), counts);
        }
        assert_eq!(shared.snapshot().dropped_for(DropReason::SnatExhausted), 6);
        assert_eq!(counts.ports()[1].rx_bytes, 384);
    }

    #[test]
    fn names_follow_the_fields() {
        let packets = PacketCounts { tx: 7, ..PacketCounts::default() };
        let at = PacketCounts::NAMES.iter().position(|&name| name == "tx").unwrap();
        assert_eq!(packets.to_array()[at], 7);
    }
}
