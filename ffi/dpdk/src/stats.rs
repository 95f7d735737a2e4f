//! What a device counts.

use std::ffi::CStr;

use crate::{Errno, errno};

/// The counters that every device has; all count from the start of the port.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets the device lost because nobody fetched them in time.
    pub rx_missed: u64,
    /// Packets received damaged.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets lost because the pool was exhausted.
    pub rx_no_buffer: u64,
}

/// One counter of a device's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct XStat {
    /// Its name, such as `rx_q0_packets`.
    pub name: String,
    /// Its value.
    pub value: u64,
}

pub(crate) fn stats(port: u16) -> Result<PortStats, Errno> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut raw = unsafe { std::mem::zeroed::<dpdk_sys::rte_eth_stats>() };
    // SAFETY: a bad port is refused; the structure is ours.
    errno::check(unsafe { dpdk_sys::rte_eth_stats_get(port, &raw mut raw) })?;
    Ok(PortStats {
        rx_packets: raw.ipackets,
        tx_packets: raw.opackets,
        rx_missed: raw.imissed,
        rx_errors: raw.ierrors,
        tx_errors: raw.oerrors,
        rx_no_buffer: raw.rx_nombuf,
    })
}

pub(crate) fn xstats(port: u16) -> Result<Vec<XStat>, Errno> {
    // SAFETY: null and 0 ask for the count; a bad port is refused.
    let count = unsafe { dpdk_sys::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) };
    errno::check(count)?;
    let room = count.unsigned_abs();
    let blank = dpdk_sys::rte_eth_xstat_name { name: [0; 64] };
    let mut names = vec![blank; room as usize];
    let mut values = vec![dpdk_sys::rte_eth_xstat { id: 0, value: 0 }; room as usize];
    // SAFETY: there is room for `room` names.
    let named = unsafe { dpdk_sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), room) };
    errno::check(named)?;
    // SAFETY: there is room for `room` values.
    let valued = unsafe { dpdk_sys::rte_eth_xstats_get(port, values.as_mut_ptr(), room) };
    errno::check(valued)?;
    let filled = named.min(valued).unsigned_abs().min(room) as usize;
    let name_of = |raw: &dpdk_sys::rte_eth_xstat_name| {
        // SAFETY: DPDK ends each name with a NUL inside its 64 bytes.
        unsafe { CStr::from_ptr(raw.name.as_ptr()) }.to_string_lossy().into_owned()
    };
    Ok(names
        .iter()
        .zip(&values)
        .take(filled)
        .map(|(name, at)| XStat { name: name_of(name), value: at.value })
        .collect())
}
