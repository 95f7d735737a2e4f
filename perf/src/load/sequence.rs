//! Whether the frames of a flow come in the order they were sent in (RFC 4737), each once.

/// What a frame's number says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// After all before it.
    InOrder,
    /// After one that was sent later.
    Late,
    /// It came already.
    Again,
    /// So late that nobody knows any more whether it came already: counted as late.
    Stale,
}

/// The last 64 numbers of a flow that have come, or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence {
    /// One above the greatest that came.
    next: u32,
    /// Bit n: `next - 1 - n` has come.
    seen: u64,
}

impl Sequence {
    /// Takes the number of a frame.
    #[inline]
    pub fn see(&mut self, number: u32) -> Arrival {
        if number >= self.next {
            let ahead = number - self.next + 1;
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.next = number.saturating_add(1);
            return Arrival::InOrder;
        }
        let Some(bit) = 1_u64.checked_shl(self.next - 1 - number) else { return Arrival::Stale };
        if self.seen & bit != 0 {
            return Arrival::Again;
        }
        self.seen |= bit;
        Arrival::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    use proptest::prelude::*;

    #[test]
    fn order_and_repetition_are_told_apart() {
        let mut sequence = Sequence::default();
        for (number, want) in [
            (0, Arrival::InOrder),
            (1, Arrival::InOrder),
            (1, Arrival::Again),
            (4, Arrival::InOrder),
            (2, Arrival::Late),
            (2, Arrival::Again),
            (0, Arrival::Again),
            (100, Arrival::InOrder),
            (3, Arrival::Stale),
            (37, Arrival::Late),
            (36, Arrival::Stale),
            (164, Arrival::InOrder),
            (101, Arrival::Late),
            (100, Arrival::Stale),
            (u32::MAX - 1, Arrival::InOrder),
        ] {
            assert_eq!(sequence.see(number), want, "{number}");
        }
    }

    proptest! {
        #[test]
        fn it_tells_what_a_set_would_tell(numbers in proptest::collection::vec(0_u32..150, 1..300)) {
            let (mut sequence, mut seen, mut top) = (Sequence::default(), HashSet::new(), None);
            for number in numbers {
                let want = match top {
                    Some(top) if number <= top && top - number >= 64 => Arrival::Stale,
                    Some(top) if number <= top && seen.contains(&number) => Arrival::Again,
                    Some(top) if number <= top => Arrival::Late,
                    _ => Arrival::InOrder,
                };
                prop_assert_eq!(sequence.see(number), want);
                seen.insert(number);
                top = top.max(Some(number));
            }
        }
    }
}
