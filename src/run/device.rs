//! What a port's `device` names: a PCI function or a virtual device. Checked against sysfs before DPDK sees it, because
//! DPDK's own words for a missing device are many lines and no help.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
use control::config::PortConfig;

/// Kernel drivers that give a PCI function to DPDK; NVIDIA's share it instead.
const DRIVERS: [&str; 7] =
    ["vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core", "mana", "mlx5_vdpa"];

/// A port's device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Device {
    /// A PCI function and its arguments: `0000:01:00.0,...`.
    Pci(String),
    /// A virtual device and its arguments: `net_af_packet0,iface=eth0`.
    Virtual(String),
}

impl Device {
    /// Reads the configuration's string.
    pub(crate) fn of(port: &PortConfig) -> Self {
        let (name, rest) =
            port.device.split_once(',').map_or((&port.device[..], ""), |(name, rest)| (name, rest));
        match pci_address(name) {
            Some(address) if rest.is_empty() => Self::Pci(address),
            Some(address) => Self::Pci(format!("{address},{rest}")),
            None => Self::Virtual(port.device.clone()),
        }
    }

    /// Name and arguments as DPDK takes them.
    pub(crate) fn arguments(&self) -> &str {
        match self {
            Self::Pci(arguments) | Self::Virtual(arguments) => arguments,
        }
    }

    /// The name by which DPDK knows the device once it is there.
    pub(crate) fn name(&self) -> &str {
        self.arguments().split(',').next().unwrap_or_default()
    }

    /// The value of an argument, such as `iface`.
    fn argument(&self, key: &str) -> Option<&str> {
        let mut pairs = self.arguments().split(',').skip(1).filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Looks for what the device needs of the host, under `sys` (`/sys`).
    ///
    /// # Errors
    /// What is missing and what to do, in one sentence.
    pub(crate) fn check(&self, port: &str, sys: &Path) -> Result<()> {
        match self {
            Self::Pci(_) => self.check_pci(port, sys),
            Self::Virtual(_) => match self.argument("iface") {
                // Only these open an existing interface; for others `iface` names what they make.
                Some(iface) if self.opens_an_interface() && !sys.join("class/net").join(iface).exists() => {
                    bail!(
                        "port {port}: device {self}: there is no interface {iface}; `ip link` lists what there is"
                    )
                }
                _ => Ok(()),
            },
        }
    }

    fn opens_an_interface(&self) -> bool {
        ["net_af_packet", "net_af_xdp", "net_pcap"].iter().any(|driver| self.name().starts_with(driver))
    }

    fn check_pci(&self, port: &str, sys: &Path) -> Result<()> {
        let device = sys.join("bus/pci/devices").join(self.name());
        if !device.exists() {
            bail!(
                "port {port}: there is no PCI device {}; `dpdk-devbind.py --status` lists what there is",
                self.name()
            );
        }
        let driver = std::fs::read_link(device.join("driver")).ok();
        let driver =
            driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or("none");
        if !DRIVERS.contains(&driver) {
            bail!(
                "port {port}: PCI device {name} has kernel driver {driver}; bind it to vfio-pci first: `dpdk-devbind.py --bind=vfio-pci {name}`",
                name = self.name()
            );
        }
        Ok(())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.arguments())
    }
}

/// `DDDD:BB:DD.F` from that or from `BB:DD.F`; none when it is no PCI address.
fn pci_address(text: &str) -> Option<String> {
    let hex =
        |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let full = if text.matches(':').count() == 1 { format!("0000:{text}") } else { text.to_owned() };
    let (domain, rest) = full.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let valid = hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && matches!(function.as_bytes(), [b'0'..=b'7']);
    valid.then(|| full.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn device(text: &str) -> Device {
        let port = PortConfig {
            name: "p".into(),
            device: text.into(),
            addresses: Vec::new(),
            mtu: 1500,
            tap: false,
        };
        Device::of(&port)
    }

    #[test]
    fn pci_addresses_and_virtual_devices_are_told_apart() {
        for (text, name, pci) in [
            ("0000:3b:00.1", "0000:3b:00.1", true),
            ("3B:00.1", "0000:3b:00.1", true),
            ("3b:00.0,representor=0", "0000:3b:00.0", true),
            ("net_af_packet0,iface=gw-out", "net_af_packet0", false),
            ("net_null0", "net_null0", false),
            ("3b:00.9", "3b:00.9", false),
        ] {
            let device = device(text);
            assert_eq!((device.name(), matches!(device, Device::Pci(_))), (name, pci), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        fs::create_dir_all(sys.join("class/net/eth0")).unwrap();
        for (address, driver) in [("0000:01:00.0", "vfio-pci"), ("0000:01:00.1", "ixgbe")] {
            let device = sys.join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
        }
        for (text, says) in [
            ("net_af_packet0,iface=eth0", None),
            ("net_tap0,iface=new", None),
            ("net_null0", None),
            ("01:00.0", None),
            ("net_af_packet0,iface=eth9", Some("no interface eth9")),
            ("01:00.1", Some("--bind=vfio-pci 0000:01:00.1")),
            ("02:00.0", Some("no PCI device 0000:02:00.0")),
        ] {
            let checked = device(text).check("outside", sys).map_err(|error| error.to_string());
            match says {
                None => assert_eq!(checked, Ok(()), "{text}"),
                Some(says) => assert!(checked.unwrap_err().contains(says), "{text}"),
            }
        }
    }
}
