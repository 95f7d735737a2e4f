//! How a device spreads received packets over its queues: the key of its hash and its redirection table (RETA).

use crate::{Errno, StartedPort, errno};

/// Room for any device's key: a driver may write one without having said how long its keys are.
const KEY_ROOM: usize = 256;

/// Sizes of the key and of the table; zero where the device has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) key_len: u8,
    pub(crate) reta_size: u16,
}

impl StartedPort {
    /// The key of the device's RSS hash; empty where it has none, or does not say how long its keys are.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn rss_key(&self) -> Result<Vec<u8>, Errno> {
        let len = usize::from(self.rss.key_len);
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut key = vec![0; KEY_ROOM];
        // Field by field: releases differ in how many there are (the hash algorithm since 23.11).
        // SAFETY: a structure of numbers and pointers, for which zero is "none" and "the default".
        let mut conf = unsafe { std::mem::zeroed::<dpdk_sys::rte_eth_rss_conf>() };
        (conf.rss_key, conf.rss_key_len) = (key.as_mut_ptr(), self.rss.key_len);
        // SAFETY: the key has room for the longest that the one byte of its length can say.
        errno::check(unsafe { dpdk_sys::rte_eth_dev_rss_hash_conf_get(self.id(), &raw mut conf) })?;
        key.truncate(len);
        Ok(key)
    }

    /// Entries of its redirection table; 0 where there is none.
    #[must_use]
    pub fn reta_len(&self) -> usize {
        self.rss.reta_size.into()
    }

    /// Which queue each entry of the redirection table names; empty where there is none.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn reta(&self) -> Result<Vec<u16>, Errno> {
        let mut groups = self.reta_groups();
        // SAFETY: as many groups as the table has.
        let result = unsafe {
            dpdk_sys::rte_eth_dev_rss_reta_query(self.id(), groups.as_mut_ptr(), self.rss.reta_size)
        };
        errno::check(result)?;
        Ok(groups.iter().flat_map(|group| group.reta).take(usize::from(self.rss.reta_size)).collect())
    }

    /// Spreads by this redirection table, which has [`Self::reta_len`] entries.
    ///
    /// # Errors
    /// When the device cannot, or the number of entries differs.
    pub fn set_reta(&self, reta: &[u16]) -> Result<(), Errno> {
        if reta.len() != usize::from(self.rss.reta_size) {
            return Err(Errno(libc::EINVAL));
        }
        let mut groups = self.reta_groups();
        for (entry, queue) in groups.iter_mut().flat_map(|group| &mut group.reta).zip(reta) {
            *entry = *queue;
        }
        // SAFETY: as many groups as the table has.
        errno::check(unsafe {
            dpdk_sys::rte_eth_dev_rss_reta_update(self.id(), groups.as_mut_ptr(), self.rss.reta_size)
        })
    }

    fn reta_groups(&self) -> Vec<dpdk_sys::rte_eth_rss_reta_entry64> {
        let group_len = dpdk_sys::FAIRLEAD_RETA_GROUP;
        let starts = (0..self.rss.reta_size).step_by(usize::from(group_len));
        // The last group may be used in part.
        let mask = |start: u16| u64::MAX >> group_len.saturating_sub(self.rss.reta_size - start);
        starts.map(|start| dpdk_sys::rte_eth_rss_reta_entry64 { mask: mask(start), reta: [0; 64] }).collect()
    }
}

/// The RSS hash of an input of whole 32-bit words under a key that is 4 bytes longer at least, as DPDK computes it in
/// software (`rte_softrss`); 0 for a shorter key.
#[must_use]
pub fn soft_rss(words: &[u32], key: &[u8]) -> u32 {
    let mut input = words.to_vec();
    let Ok(len) = u32::try_from(input.len()) else { return 0 };
    if key.len() < 4 * (input.len() + 1) {
        return 0;
    }
    // SAFETY: as many words as are said, and a key that is longer than they are.
    unsafe { dpdk_sys::rte_softrss(input.as_mut_ptr(), len, key.as_ptr()) }
}
