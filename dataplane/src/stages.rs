//! How a turn's time divides among its stages, read from the time-stamp counter: for benches, in a build with the feature
//! `stages` alone. Without it the account is nothing, and so is every mark: the same code comes out as without them.
//!
//! A mark gives the time since the last one to a stage. Marks of a whole burst cost next to nothing a packet; those of single
//! packets (`mark_packet`) cost as much as what they measure, and are made only when asked for.

#[cfg(not(feature = "stages"))]
pub(crate) use absent::Account;
#[cfg(feature = "stages")]
pub use present::{Account, Spent};

/// A part of a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// New tables are taken.
    Tables,
    /// A burst comes from a port or another worker.
    Receive,
    /// Frames are looked at, their flows' keys hashed and index lines asked for.
    Parse,
    /// Index lines are read, and records asked for.
    Lookup,
    /// What the tables make of packets without a flow; lines that their flows will want are asked for.
    Foresee,
    /// Packets are taken to their ends. With marks of single packets, what of that is none of the next four.
    Send,
    /// Of a packet: its record is compared, and notes it.
    Record,
    /// Of a packet: its flow is entered.
    Enter,
    /// Of a packet: its headers are rewritten.
    Rewrite,
    /// Of a packet: it is put into the buffer of its port.
    Egress,
    /// Gathered packets are sent.
    Transmit,
    /// Expiry, what waits, the kernel's frames, control's questions, counters.
    Housekeeping,
}

impl Stage {
    /// All, in the order of a turn.
    pub const ALL: [Self; 12] = [
        Self::Tables,
        Self::Receive,
        Self::Parse,
        Self::Lookup,
        Self::Foresee,
        Self::Send,
        Self::Record,
        Self::Enter,
        Self::Rewrite,
        Self::Egress,
        Self::Transmit,
        Self::Housekeeping,
    ];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tables => "new tables",
            Self::Receive => "receive",
            Self::Parse => "parse and hash",
            Self::Lookup => "index lines",
            Self::Foresee => "what new flows will be",
            Self::Send => "packets to their ends",
            Self::Record => "record",
            Self::Enter => "flow entered",
            Self::Rewrite => "rewrite",
            Self::Egress => "egress",
            Self::Transmit => "transmit",
            Self::Housekeeping => "expiry and housekeeping",
        }
    }
}

#[cfg(not(feature = "stages"))]
mod absent {
    use super::Stage;

    /// No account.
    #[derive(Debug)]
    pub(crate) struct Account;

    #[expect(clippy::unused_self, reason = "the account that there may be has the same words")]
    impl Account {
        pub(crate) fn new(_packets: bool) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn begin(&mut self) {}

        #[inline(always)]
        pub(crate) fn mark(&mut self, _stage: Stage) {}

        #[inline(always)]
        pub(crate) fn mark_packet(&mut self, _stage: Stage) {}
    }
}

#[cfg(feature = "stages")]
mod present {
    use super::Stage;

    /// What one stage took.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub struct Spent {
        /// Cycles of the time-stamp counter, the marks' own included.
        pub cycles: u64,
        /// Marks that ended a piece of it.
        pub marks: u64,
    }

    /// See the module.
    #[derive(Clone, Debug, Default)]
    pub struct Account {
        last: u64,
        spent: [Spent; Stage::ALL.len()],
        packets: bool,
    }

    impl Account {
        /// An empty account; `packets`: single packets are marked, too.
        #[must_use]
        pub fn new(packets: bool) -> Self {
            Self { packets, ..Self::default() }
        }

        /// What a stage took since the account was made.
        #[must_use]
        pub fn spent(&self, stage: Stage) -> Spent {
            self.spent[stage as usize]
        }

        /// A turn begins; what was before is nobody's.
        #[inline(always)]
        pub fn begin(&mut self) {
            self.last = cpu::tsc();
        }

        /// Gives the time since the last mark to a stage.
        #[inline(always)]
        pub fn mark(&mut self, stage: Stage) {
            let now = cpu::tsc();
            let spent = &mut self.spent[stage as usize];
            spent.cycles += now.wrapping_sub(self.last);
            spent.marks += 1;
            self.last = now;
        }

        /// The same for a part of a single packet's way, if those are marked.
        #[inline(always)]
        pub fn mark_packet(&mut self, stage: Stage) {
            if self.packets {
                self.mark(stage);
            }
        }
    }
}
