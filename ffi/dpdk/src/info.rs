//! What a device says of itself.

use std::ffi::CStr;

use dpdk_sys::rte_eth_dev_info;

use crate::{Errno, errno};

/// Its description, whole.
pub(crate) fn raw(id: u16) -> Result<rte_eth_dev_info, Errno> {
    // SAFETY: integers and pointers, for all of which zero is a value.
    let mut info = unsafe { std::mem::zeroed::<rte_eth_dev_info>() };
    // SAFETY: a bad port is refused; the structure is ours.
    errno::check(unsafe { dpdk_sys::rte_eth_dev_info_get(id, &raw mut info) })?;
    Ok(info)
}

/// Its hardware address.
pub(crate) fn mac(id: u16) -> Result<[u8; 6], Errno> {
    let mut address = dpdk_sys::rte_ether_addr { addr_bytes: [0; 6] };
    // SAFETY: room for the answer.
    errno::check(unsafe { dpdk_sys::rte_eth_macaddr_get(id, &raw mut address) })?;
    Ok(address.addr_bytes)
}

/// The name of its driver; empty when it does not say.
pub(crate) fn driver(id: u16) -> String {
    let Ok(info) = raw(id) else { return String::new() };
    if info.driver_name.is_null() {
        return String::new();
    }
    // SAFETY: not null, so a static string of the driver.
    unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
}
