//! Rings between workers, for packets that arrived at another worker's queue than their flow's: one ring for each
//! ordered pair, bounded, full = refused. A buffer is in one ring or with one worker; its owner parses it again.

use std::sync::Arc;

use cpu::Bell;
use rtrb::{Consumer, Producer, RingBuffer};
use tables::{PortId, WorkerId};

use crate::buf::{BURST, Burst};

/// Packets that one ring holds.
const PARCELS: usize = 1024;

/// Where a packet came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    /// The port it came in by.
    pub(crate) port: PortId,
    /// Whoever handed it over knew its flow, though the packet alone does not tell: a fragment.
    pub(crate) settled: bool,
}

/// A packet with its origin.
struct Parcel<B> {
    buf: B,
    origin: Origin,
}

/// One worker's ends of the rings to and from all others.
pub struct Handoff<B> {
    /// By worker; none to itself.
    to: Vec<Option<Producer<Parcel<B>>>>,
    from: Vec<Consumer<Parcel<B>>>,
    /// By worker.
    bells: Vec<Arc<Bell>>,
}

/// The ends of each of so many workers, in their order. One worker needs no ring and gets none.
#[must_use]
pub fn handoff_rings<B: Send>(workers: u16) -> Vec<Handoff<B>> {
    let count = usize::from(workers);
    let mut all: Vec<Handoff<B>> = (0..count).map(|_| Handoff::none()).collect();
    for sender in 0..count {
        for receiver in 0..count {
            let ring = (sender != receiver).then(|| RingBuffer::new(PARCELS));
            let (producer, consumer) = ring.unzip();
            all[sender].to.push(producer);
            all[receiver].from.extend(consumer);
        }
    }
    all
}

impl<B> Handoff<B> {
    /// No rings: every packet for another worker is refused.
    #[must_use]
    pub const fn none() -> Self {
        Self { to: Vec::new(), from: Vec::new(), bells: Vec::new() }
    }

    /// The bells of all workers, in their order: those who are handed packets are called by them.
    pub fn set_bells(&mut self, bells: Vec<Arc<Bell>>) {
        self.bells = bells;
    }

    /// Calls those workers whose packets wait, in case they sleep.
    pub(crate) fn call(&self) {
        for (ring, bell) in self.to.iter().zip(&self.bells) {
            if ring.as_ref().is_some_and(|ring| ring.slots() < PARCELS) {
                bell.ring();
            }
        }
    }

    /// Rings that others send by.
    pub(crate) fn sources(&self) -> usize {
        self.from.len()
    }

    /// Gives a packet to another worker.
    ///
    /// # Errors
    /// The packet, when its ring is full or there is none.
    pub(crate) fn send(&mut self, to: WorkerId, origin: Origin, buf: B) -> Result<(), B> {
        let ring = self.to.get_mut(usize::from(to.0)).and_then(Option::as_mut);
        let Some(ring) = ring else { return Err(buf) };
        ring.push(Parcel { buf, origin }).map_err(|rtrb::PushError::Full(parcel)| parcel.buf)
    }

    /// Fills `burst` with the oldest packets of one ring as far as they have one origin, and says which.
    pub(crate) fn receive(&mut self, source: usize, burst: &mut Burst<B>) -> Option<Origin> {
        let ring = self.from.get_mut(source)?;
        let origin = ring.peek().ok()?.origin;
        for _ in burst.len()..BURST {
            if ring.peek().map_or(true, |parcel| parcel.origin != origin) {
                break;
            }
            let Ok(parcel) = ring.pop() else { break };
            // The loop counts the free slots.
            let _ = burst.push(parcel.buf);
        }
        Some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_in_order_by_origin_and_a_full_ring_refuses() {
        let mut ends = handoff_rings::<usize>(2);
        let (mut one, mut zero) = (ends.pop().unwrap(), ends.pop().unwrap());
        for n in 0..PARCELS {
            let origin = Origin { port: PortId(u16::from(n >= 5)), settled: n < 2 };
            assert_eq!(zero.send(WorkerId(1), origin, n), Ok(()));
        }
        let outside = Origin { port: PortId(0), settled: false };
        assert_eq!(zero.send(WorkerId(1), outside, 7), Err(7));
        assert_eq!(zero.send(WorkerId(0), outside, 7), Err(7));
        let mut burst = Burst::new();
        let settled = Origin { settled: true, ..outside };
        for (origin, packets) in
            [(settled, 0..2), (outside, 2..5), (Origin { port: PortId(1), ..outside }, 5..5 + BURST)]
        {
            assert_eq!(one.receive(0, &mut burst), Some(origin));
            assert_eq!(burst.iter().copied().collect::<Vec<_>>(), packets.collect::<Vec<_>>());
            burst.clear();
        }
        assert_eq!(handoff_rings::<usize>(1)[0].sources(), 0);
    }
}
