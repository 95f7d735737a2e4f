//! The names of things: small integers with a type, no meaning of their own.

use std::fmt;

macro_rules! plain_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number as a position in a slice.
            #[inline]
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

plain_id! {
    /// A worker: one core with its own queues, flow table and counters; counted from 0.
    WorkerId(u16)
}
plain_id! {
    /// A port in the order of the configuration, from 0; below [`PortId::LIMIT`].
    PortId(u16)
}
plain_id! {
    /// A Node of the cluster, numbered by control and never reused while it runs.
    NodeId(u32)
}
plain_id! {
    /// A next hop: the slot of an [`Adjacency`](crate::Adjacency). Reuse bumps `Tables::fib_epoch`.
    NextHopId(u16)
}

impl PortId {
    /// Ports an appliance may have: one bit each in a [`PortSet`](crate::PortSet).
    pub const LIMIT: u16 = 64;
}

/// The version of the published tables; 0 is the empty start, every publication counts one up.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Generation(pub u64);

impl Generation {
    /// The version after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Monotonic milliseconds that wrap after 49.7 days; only differences mean anything.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Millis(pub u32);

impl Millis {
    /// Milliseconds from `earlier` to `self`, right while they are less than 49.7 days apart.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The moment `ms` later.
    #[inline]
    #[must_use]
    pub const fn plus(self, ms: u32) -> Self {
        Self(self.0.wrapping_add(ms))
    }
}

/// A stable name made of a slot and the epoch of its use, so that a flow record cannot mistake a reused slot for what
/// it knew. Implemented by [`ServiceId`] and [`BackendId`].
pub trait SlotId: Copy + Eq {
    /// The name of the `epoch`-th use of `slot`; `None` from [`SLOT_LIMIT`] on.
    fn new(slot: u32, epoch: u8) -> Option<Self>;
    /// Position in its table, below [`SLOT_LIMIT`].
    fn slot(self) -> u32;
    /// Which use of the slot.
    fn epoch(self) -> u8;
}

/// Slots a table may have. The highest 24-bit value is left out: it makes `NONE` unlike every name.
pub const SLOT_LIMIT: u32 = (1 << 24) - 1;

macro_rules! slot_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(u32);

        impl $name {
            /// No such thing; unlike every value of `new`.
            pub const NONE: Self = Self(u32::MAX);

            /// The name of the `epoch`-th use of `slot`; `None` from [`SLOT_LIMIT`] on.
            #[inline]
            #[must_use]
            pub const fn new(slot: u32, epoch: u8) -> Option<Self> {
                if slot < SLOT_LIMIT { Some(Self((epoch as u32) << 24 | slot)) } else { None }
            }

            /// Position in its table.
            #[inline]
            #[must_use]
            pub const fn slot(self) -> u32 {
                self.0 & 0xff_ffff
            }

            /// Which use of the slot.
            #[inline]
            #[must_use]
            pub const fn epoch(self) -> u8 {
                (self.0 >> 24) as u8
            }

            /// Epoch in the upper 8 bits, slot in the lower 24.
            #[inline]
            #[must_use]
            pub const fn to_bits(self) -> u32 {
                self.0
            }

            /// The inverse of [`Self::to_bits`].
            #[inline]
            #[must_use]
            pub const fn from_bits(bits: u32) -> Self {
                Self(bits)
            }

            /// True for [`Self::NONE`].
            #[inline]
            #[must_use]
            pub const fn is_none(self) -> bool {
                self.0 == u32::MAX
            }
        }

        impl SlotId for $name {
            #[inline]
            fn new(slot: u32, epoch: u8) -> Option<Self> {
                Self::new(slot, epoch)
            }

            #[inline]
            fn slot(self) -> u32 {
                self.slot()
            }

            #[inline]
            fn epoch(self) -> u8 {
                self.epoch()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_none() {
                    return f.write_str(concat!(stringify!($name), "(none)"));
                }
                write!(f, concat!(stringify!($name), "({}.{})"), self.slot(), self.epoch())
            }
        }
    };
}

slot_id! {
    /// A Service port of one family: slot in `Tables::services` and epoch, packed in 32 bits.
    ServiceId
}
slot_id! {
    /// A backend (an endpoint's address and port): slot in `Tables::backends` and epoch, packed in 32 bits.
    BackendId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_ids_pack_and_never_equal_none() {
        for (slot, epoch) in [(0, 0), (7, 255), (SLOT_LIMIT - 1, 255)] {
            let id = BackendId::new(slot, epoch).unwrap();
            assert_eq!((id.slot(), id.epoch()), (slot, epoch));
            assert_eq!(BackendId::from_bits(id.to_bits()), id);
            assert!(!id.is_none());
        }
        assert_eq!(ServiceId::new(SLOT_LIMIT, 0), None);
        assert!(ServiceId::NONE.is_none());
    }

    #[test]
    fn time_wraps() {
        let before = Millis(u32::MAX - 1);
        assert_eq!(before.plus(5).since(before), 5);
        assert_eq!(before.plus(5), Millis(3));
    }
}
