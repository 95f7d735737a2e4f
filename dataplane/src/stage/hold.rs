//! Packets that wait for their next hop's MAC address: few, for a short time, oldest first.
//!
//! Bounded at construction: a flood to silent neighbours holds [`HELD_MAX`] buffers and no more, and one silent
//! neighbour [`HELD_PER_TARGET_MAX`] of them.

use std::{collections::VecDeque, net::IpAddr};

use tables::{Millis, PortId};

/// Packets one worker holds.
pub const HELD_MAX: usize = 64;
/// Packets held for one next hop.
pub const HELD_PER_TARGET_MAX: usize = 8;
/// How long a packet is held, in milliseconds.
pub const HELD_MS: u32 = 1_000;

/// Whom a packet waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    /// The port the next hop is behind.
    pub(crate) port: PortId,
    /// The next hop: a gateway, or the destination itself on a connected network.
    pub(crate) address: IpAddr,
}

/// One waiting packet, complete but for its Ethernet addresses.
#[derive(Debug)]
pub(crate) struct Held<B> {
    pub(crate) buf: B,
    pub(crate) target: Target,
    /// The receiver in its IP header, for a new look at the FIB.
    pub(crate) dst: IpAddr,
    /// Which of several ways there it takes.
    pub(crate) hash: u64,
    pub(crate) since: Millis,
}

/// The waiting packets of one worker.
#[derive(Debug)]
pub(crate) struct Hold<B> {
    queue: VecDeque<Held<B>>,
}

impl<B> Hold<B> {
    pub(crate) fn new() -> Self {
        Self { queue: VecDeque::with_capacity(HELD_MAX) }
    }

    /// Keeps a packet; true if it is the first for its target, so that somebody asks for the neighbour.
    ///
    /// # Errors
    /// The packet itself, when its target or the worker holds as many as it may.
    pub(crate) fn push(&mut self, held: Held<B>) -> Result<bool, Held<B>> {
        let same = self.queue.iter().filter(|other| other.target == held.target).count();
        if same >= HELD_PER_TARGET_MAX || self.queue.len() >= HELD_MAX {
            return Err(held);
        }
        self.queue.push_back(held);
        Ok(same == 0)
    }

    /// True if a packet waits for this target.
    pub(crate) fn knows(&self, target: Target) -> bool {
        self.queue.iter().any(|held| held.target == target)
    }

    /// The oldest packet.
    pub(crate) fn pop(&mut self) -> Option<Held<B>> {
        self.queue.pop_front()
    }

    /// The oldest packet, if it has waited too long.
    pub(crate) fn pop_expired(&mut self, now: Millis) -> Option<Held<B>> {
        let expired = now.since(self.queue.front()?.since) >= HELD_MS;
        if expired { self.queue.pop_front() } else { None }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(last: u8, since: u32) -> Held<u8> {
        let address = IpAddr::from([10, 0, 0, last]);
        let target = Target { port: PortId(0), address };
        Held { buf: last, target, dst: address, hash: 0, since: Millis(since) }
    }

    #[test]
    fn one_neighbour_and_one_worker_hold_a_bounded_number() {
        let mut hold = Hold::new();
        assert_eq!(hold.push(held(1, 0)).ok(), Some(true));
        for _ in 1..HELD_PER_TARGET_MAX {
            assert_eq!(hold.push(held(1, 0)).ok(), Some(false));
        }
        assert!(hold.push(held(1, 0)).is_err());
        for last in 2..100 {
            let _ = hold.push(held(last, 0));
        }
        assert_eq!(hold.len(), HELD_MAX);
        assert!(hold.push(held(200, 0)).is_err());
    }

    #[test]
    fn packets_expire_oldest_first_across_the_clock_wrap() {
        let mut hold = Hold::new();
        let start = u32::MAX - 10;
        hold.push(held(1, start)).unwrap();
        hold.push(held(2, start.wrapping_add(500))).unwrap();
        assert!(hold.pop_expired(Millis(start.wrapping_add(HELD_MS - 1))).is_none());
        let now = Millis(start.wrapping_add(HELD_MS));
        assert_eq!(hold.pop_expired(now).map(|held| held.buf), Some(1));
        assert!(hold.pop_expired(now).is_none());
    }
}
