//! What can be known before DPDK is asked, and said better than it would: huge pages, devices, permissions.

use std::{fs, path::Path};

/// MiB of free huge pages of every size.
pub(crate) fn free_hugepages_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let free_of = |entry: fs::DirEntry| {
        let kib = entry
            .file_name()
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse::<u64>()
            .ok()?;
        let count =
            fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse::<u64>().ok()?;
        Some(count * kib / 1024)
    };
    sizes.flatten().filter_map(free_of).sum()
}

/// The name DPDK knows a device by: what stands before the first comma, without a bus prefix.
pub(crate) fn device_name(device: &str) -> &str {
    let name = device.split(',').next().unwrap_or_default();
    name.strip_prefix("vdev:").or_else(|| name.strip_prefix("pci:")).unwrap_or(name)
}

/// Why a device cannot be opened, as far as the system says so without DPDK.
pub(crate) fn obstacle(device: &str) -> Option<String> {
    let name = device_name(device);
    if looks_like_pci(name) {
        return pci_obstacle(name);
    }
    let interface = device.split(',').find_map(|part| part.strip_prefix("iface="))?;
    let exists = Path::new("/sys/class/net").join(interface).exists();
    (!exists).then(|| format!("there is no network interface {interface:?} here (see `ip link`)"))
}

/// `0000:3b:00.0` or `3b:00.0`.
fn looks_like_pci(name: &str) -> bool {
    let hex =
        |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = name.split([':', '.']).collect();
    match parts.as_slice() {
        [domain, bus, device, function] => {
            hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
        }
        [bus, device, function] => hex(bus, 2) && hex(device, 2) && hex(function, 1),
        _ => false,
    }
}

fn pci_obstacle(name: &str) -> Option<String> {
    let full = if name.len() < 12 { format!("0000:{name}") } else { name.to_owned() };
    let path = Path::new("/sys/bus/pci/devices").join(&full);
    if !path.exists() {
        return Some(format!("there is no PCI device {full} here (see `dpdk-devbind.py --status`)"));
    }
    let driver = fs::read_link(path.join("driver")).ok()?;
    let driver = driver.file_name()?.to_string_lossy().into_owned();
    // Mellanox/NVIDIA drivers share the device with the kernel; the others must be bound to a pass-through driver.
    let usable = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx4_core", "mlx5_core", "mana"]
        .contains(&driver.as_str());
    (!usable).then(|| {
        format!("PCI device {full} is held by the kernel driver {driver}; bind it to vfio-pci (`dpdk-devbind.py -b vfio-pci {full}`)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_arguments() {
        for (device, name, pci) in [
            ("net_af_packet0,iface=eth1", "net_af_packet0", false),
            ("vdev:net_null0", "net_null0", false),
            ("0000:3b:00.0", "0000:3b:00.0", true),
            ("pci:3b:00.1,mac=x", "3b:00.1", true),
            ("0000:3b:00", "0000:3b:00", false),
        ] {
            assert_eq!((device_name(device), looks_like_pci(device_name(device))), (name, pci), "{device}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let said = obstacle("net_af_packet0,iface=no-such-if").unwrap();
        assert!(said.contains("no-such-if"), "{said}");
        assert!(obstacle("0000:ff:1f.7").unwrap().contains("no PCI device"));
        assert_eq!(obstacle("net_null0"), None);
        assert_eq!(obstacle("net_af_packet0,iface=lo"), None);
    }
}
