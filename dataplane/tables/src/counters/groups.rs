//! The groups of numbers that a worker counts.

use crate::{affinity::AffinityStats, flow::FlowStats};

/// One list of names gives the plain struct and its order in the shared array.
macro_rules! counter_group {
    ($(#[$doc:meta])* $group:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct $group {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $group {
            pub(super) const LEN: usize = [$(stringify!($field)),*].len();

            /// The names of the fields, in their order.
            pub const NAMES: [&'static str; Self::LEN] = [$(stringify!($field)),*];

            /// The fields in their order.
            #[inline]
            #[must_use]
            pub const fn to_array(&self) -> [u64; Self::LEN] {
                [$(self.$field),*]
            }

            /// The inverse of [`Self::to_array`].
            #[inline]
            #[must_use]
            pub const fn from_array([$($field),*]: [u64; Self::LEN]) -> Self {
                Self { $($field),* }
            }
        }
    };
}

counter_group! {
    /// Packets by how they came and went; all but `held` only grow.
    PacketCounts {
        /// Received from a port.
        rx,
        /// Handed over by the kernel, to be sent.
        injected,
        /// Made by the worker itself, such as ARP replies.
        originated,
        /// Taken over from other workers.
        handoff_in,
        /// Given to a port and accepted.
        tx,
        /// Copied to the kernel.
        punted,
        /// Answered or absorbed here.
        consumed,
        /// Handed to other workers.
        handoff_out,
        /// Now waiting: for a neighbour, in a transmit buffer, in reassembly (a gauge).
        held,
    }
}

counter_group! {
    /// The flow table: what it says of itself ([`FlowStats`]), and what only the stages see.
    FlowCounts {
        /// Flows it can hold (a gauge).
        capacity,
        /// Flows it holds (a gauge).
        used,
        /// Half-open flows, which may be recycled (a gauge).
        embryonic,
        /// Flows entered.
        created,
        /// Flows gone by their timeout.
        expired,
        /// Half-open flows that made room for another.
        recycled,
        /// Flows taken out on demand, or because their backend went.
        removed,
        /// Flows refused because the table was full.
        refused,
        /// Of those taken out: such as had been at a backend that drains or is gone until their deadline.
        drained,
        /// Flows found to have replies that never pass here.
        bypassed,
        /// Resets not believed, as their sequence number is far from what was seen, or their SCTP tag wrong.
        resets_ignored,
        /// Flows that went on after a reset.
        revived,
        /// Replies without a flow that were translated by the tables alone.
        replies_restored,
    }
}

impl FlowCounts {
    /// Takes over what the table says of itself.
    pub fn update(&mut self, stats: &FlowStats) {
        let FlowStats { capacity, used, embryonic, created, expired, recycled, removed, refused, drained } =
            *stats;
        let [capacity, used, embryonic] = [capacity, used, embryonic].map(u64::from);
        *self = Self {
            capacity,
            used,
            embryonic,
            created,
            expired,
            recycled,
            removed,
            refused,
            drained,
            ..*self
        };
    }
}

counter_group! {
    /// The memory of session affinity.
    AffinityCounts {
        /// Clients it can hold (a gauge).
        capacity,
        /// Clients it holds (a gauge).
        used,
        /// New flows that went to the backend remembered.
        honoured,
        /// Clients not remembered because there was no room.
        refused,
    }
}

impl AffinityCounts {
    /// Takes over what the memory says of itself.
    pub fn update(&mut self, stats: &AffinityStats) {
        let AffinityStats { capacity, used, refused } = *stats;
        let (capacity, used, honoured) = (capacity.into(), used.into(), self.honoured);
        *self = Self { capacity, used, honoured, refused };
    }
}

counter_group! {
    /// Packets that were longer than their way out allows.
    FragmentCounts {
        /// Packets that were cut.
        cut,
        /// Fragments made of them; each counts as originated.
        made,
    }
}

counter_group! {
    /// The worker's loop.
    LoopCounts {
        /// Times around.
        turns,
        /// Times around without work.
        idle_turns,
        /// Times it slept.
        sleeps,
        /// Time in turns with work, in cycles of the time-stamp counter.
        busy_cycles,
        /// Table versions taken.
        publications,
        /// Full passes of the flow table's sweep.
        sweeps,
        /// Messages to control lost to a full ring.
        messages_lost,
    }
}

counter_group! {
    /// One port, as this worker sees it.
    PortCounts {
        /// Packets received.
        rx_packets,
        /// Bytes received.
        rx_bytes,
        /// Packets sent.
        tx_packets,
        /// Bytes sent.
        tx_bytes,
    }
}
