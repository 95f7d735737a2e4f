//! How a device spreads received packets over its queues: the key of its hash and its redirection table (RETA).

use crate::{Errno, StartedPort, errno};

/// Sizes of the key and of the table; zero where the device has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) key_len: u8,
    pub(crate) reta_size: u16,
}

impl StartedPort {
    /// The key of the device's RSS hash; empty where it has none.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn rss_key(&self) -> Result<Vec<u8>, Errno> {
        let mut key = vec![0; usize::from(self.rss.key_len)];
        // Field by field: releases differ in how many there are (the hash algorithm since 23.11).
        // SAFETY: a structure of numbers and pointers, for which zero is "none" and "the default".
        let mut conf = unsafe { std::mem::zeroed::<dpdk_sys::rte_eth_rss_conf>() };
        (conf.rss_key, conf.rss_key_len) = (key.as_mut_ptr(), self.rss.key_len);
        // SAFETY: the key has room for `rss_key_len` bytes.
        errno::check(unsafe { dpdk_sys::rte_eth_dev_rss_hash_conf_get(self.id(), &raw mut conf) })?;
        Ok(key)
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

    /// Spreads by this redirection table, which has as many entries as [`Self::reta`] gives.
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
