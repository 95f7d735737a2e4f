//! What a worker does when nothing arrives, told to control beside its counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::PortId;

/// What a worker does when nothing arrives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Idling {
    /// Looks again and again.
    #[default]
    Polls,
    /// Looks, and sleeps for a set time in between: not all of its ports have receive interrupts.
    Sleeps,
    /// Sleeps until a port's receive interrupt, or somebody's call.
    Waits,
    /// Sleeps for set times although its ports have interrupts: one refuses them now.
    Refused {
        /// The port that refuses.
        port: PortId,
        /// The system's number for why; 0 where there is none.
        errno: u16,
    },
}

impl Idling {
    /// One word for people and scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Polls => "polls",
            Self::Sleeps | Self::Refused { .. } => "sleeps",
            Self::Waits => "interrupts",
        }
    }
}

/// The shared copy: the kind in the lowest byte, then the port, then the reason.
#[derive(Debug, Default)]
pub(super) struct SharedIdling(AtomicU64);

impl SharedIdling {
    pub(super) fn store(&self, idling: Idling) {
        let bits = match idling {
            Idling::Polls => 0,
            Idling::Sleeps => 1,
            Idling::Waits => 2,
            Idling::Refused { port, errno } => 3 | u64::from(port.0) << 8 | u64::from(errno) << 24,
        };
        self.0.store(bits, Relaxed);
    }

    pub(super) fn load(&self) -> Idling {
        let [kind, low, high, errno_low, errno_high, ..] = self.0.load(Relaxed).to_le_bytes();
        match kind {
            0 => Idling::Polls,
            1 => Idling::Sleeps,
            2 => Idling::Waits,
            _ => Idling::Refused {
                port: PortId(u16::from_le_bytes([low, high])),
                errno: u16::from_le_bytes([errno_low, errno_high]),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        let shared = SharedIdling::default();
        assert_eq!(shared.load(), Idling::Polls);
        let refused = Idling::Refused { port: PortId(0x1234), errno: 0xfedc };
        for (idling, word) in [
            (Idling::Polls, "polls"),
            (Idling::Sleeps, "sleeps"),
            (Idling::Waits, "interrupts"),
            (refused, "sleeps"),
        ] {
            shared.store(idling);
            assert_eq!((shared.load(), shared.load().word()), (idling, word));
        }
    }
}
