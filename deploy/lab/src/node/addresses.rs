//! Which numbers of the node's pod ranges are in use. A freed number comes back last, as with the host-local CNI
//! plugin: an address that was just given up is not somebody else's a moment later.

use anyhow::{Result, bail};

/// Numbers that pods may have: not the network, not the bridge, not the broadcast address.
const USABLE: std::ops::RangeInclusive<u8> = 2..=254;

/// The numbers in use.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    used: std::collections::BTreeSet<u8>,
    last: u8,
}

impl Addresses {
    /// The next free number after the one given last.
    ///
    /// # Errors
    /// When the node is full.
    pub(super) fn take(&mut self) -> Result<u8> {
        let after = (self.last.max(1) + 1..=*USABLE.end()).chain(USABLE);
        let Some(number) = after.into_iter().find(|number| !self.used.contains(number)) else {
            bail!("all {} pod addresses of the node are in use", USABLE.count())
        };
        self.used.insert(number);
        self.last = if number == *USABLE.end() { 0 } else { number };
        Ok(number)
    }

    /// Gives a number back.
    pub(super) fn free(&mut self, number: u8) {
        self.used.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_number_comes_back_last() {
        let mut addresses = Addresses::default();
        let first: Vec<u8> = (0..3).map(|_| addresses.take().unwrap()).collect();
        assert_eq!(first, [2, 3, 4]);
        addresses.free(3);
        let rest: Vec<u8> = (0..250).map(|_| addresses.take().unwrap()).collect();
        assert_eq!((rest[0], rest[249]), (5, 254));
        assert_eq!(addresses.take().unwrap(), 3);
        assert!(addresses.take().unwrap_err().to_string().contains("in use"));
        addresses.free(254);
        assert_eq!(addresses.take().unwrap(), 254);
    }
}
