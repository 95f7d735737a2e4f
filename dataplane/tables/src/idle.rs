//! Idle timeouts that a Service gives its UDP flows: few enough to be told apart by five bits of a flow's record.

/// Seconds, ascending; a timeout is the first that is long enough.
const SECONDS: [u32; 31] = [
    1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1_200, 1_800, 2_700, 3_600,
    5_400, 7_200, 10_800, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800,
];

/// An idle timeout, or none of one's own.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct IdleTimeout(u8);

impl IdleTimeout {
    /// Bits that tell all of them apart.
    pub(crate) const BITS: u32 = 5;
    /// The table's own timeouts hold.
    pub const NONE: Self = Self(0);
    /// The longest, in seconds.
    pub const SECONDS_MAX: u32 = SECONDS[SECONDS.len() - 1];

    /// Every timeout there is.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (1..).map(Self).take(SECONDS.len())
    }

    /// The shortest timeout of at least so many seconds; the longest if there is none.
    #[must_use]
    pub fn of(seconds: u32) -> Self {
        let longer = SECONDS.iter().take(SECONDS.len() - 1).filter(|known| **known < seconds).count();
        Self(u8::try_from(longer + 1).unwrap_or(0))
    }

    /// Its length; `None` if the table's own hold.
    #[must_use]
    pub fn seconds(self) -> Option<u32> {
        SECONDS.get(usize::from(self.0).checked_sub(1)?).copied()
    }

    pub(crate) const fn to_bits(self) -> u64 {
        self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_the_next_longer_one_and_fits_its_bits() {
        for (asked, given) in
            [(0, 1), (1, 1), (4, 5), (5, 5), (6, 10), (31, 45), (604_800, 604_800), (u32::MAX, 604_800)]
        {
            assert_eq!(IdleTimeout::of(asked).seconds(), Some(given), "{asked}");
        }
        assert_eq!((IdleTimeout::NONE, IdleTimeout::NONE.seconds()), (IdleTimeout::default(), None));
        assert!(IdleTimeout::all().all(|one| one.to_bits() < 1 << IdleTimeout::BITS));
        assert!(IdleTimeout::all().all(|one| one.seconds().map(IdleTimeout::of) == Some(one)));
    }
}
