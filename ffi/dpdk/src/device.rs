//! What a configuration calls a device: a PCI address or a vdev string; and what can be said of it before DPDK is asked.
//!
//! DPDK answers a wrong name with an errno and lines in a log. The usual mistakes are found here instead, and each is one
//! sentence that says what to do.

use std::ffi::CString;
use std::fmt;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Kernel drivers through which DPDK reaches a PCI device; those after the third leave the device to the kernel too.
const PCI_DRIVERS: [&str; 7] =
    ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core", "mana", "uio_hv_generic"];
/// Arguments that name an existing network interface, by driver.
const INTERFACE_ARGUMENTS: [(&str, &[&str]); 3] = [
    ("net_af_packet", &["iface"]),
    ("net_af_xdp", &["iface"]),
    ("net_pcap", &["iface", "rx_iface", "rx_iface_in", "tx_iface"]),
];

/// A device as a configuration names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    Pci { address: String },
    Virtual { name: String },
}

/// Why a device cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeviceError {
    /// Neither a PCI address nor a vdev string.
    BadName(String),
    /// No PCI device has this address.
    NoPciDevice(String),
    /// The kernel's driver, or none, holds the device.
    NotBound {
        /// The PCI address.
        address: String,
        /// The driver that holds it, if any.
        driver: Option<String>,
    },
    /// The interface does not exist in this network namespace.
    NoInterface {
        /// The device as configured.
        device: String,
        /// The interface it names.
        interface: String,
    },
    /// The file that the vdev reads does not exist.
    NoFile {
        /// The device as configured.
        device: String,
        /// The file it names.
        path: PathBuf,
    },
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(text) => write!(
                f,
                "`{text}` is not a device; expected a PCI address (0000:03:00.0) or a DPDK vdev \
                 (net_af_packet0,iface=eth1)"
            ),
            Self::NoPciDevice(address) => {
                write!(f, "there is no PCI device {address}; `lspci -D` lists those of this machine")
            }
            Self::NotBound { address, driver } => write!(
                f,
                "PCI device {address} is bound to {}; DPDK needs vfio-pci: \
                 `dpdk-devbind.py --bind=vfio-pci {address}`",
                driver.as_deref().unwrap_or("no driver")
            ),
            Self::NoInterface { device, interface } => write!(
                f,
                "{device}: network interface `{interface}` does not exist in this network namespace; \
                 `ip link` lists those that do"
            ),
            Self::NoFile { device, path } => write!(f, "{device}: file {} does not exist", path.display()),
        }
    }
}

impl std::error::Error for DeviceError {}

impl Device {
    /// Reads a device's name and arguments; nothing is looked up.
    ///
    /// # Errors
    /// [`DeviceError::BadName`].
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let bad = || DeviceError::BadName(text.to_owned());
        let name = text.split(',').next().unwrap_or_default();
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(bad());
        }
        let kind = match pci_address(name) {
            Some(address) => Kind::Pci { address },
            None if is_vdev_name(name) => Kind::Virtual { name: name.to_owned() },
            None => return Err(bad()),
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    /// Looks for what DPDK would trip over: the PCI device and its driver, the interface, the file.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn check(&self) -> Result<(), DeviceError> {
        match &self.kind {
            Kind::Pci { address } => check_pci(address, Path::new("/sys/bus/pci/devices")),
            Kind::Virtual { name } => self.check_vdev(name),
        }
    }

    /// The name DPDK gives the port.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.kind {
            Kind::Pci { address } => address,
            Kind::Virtual { name } => name,
        }
    }

    /// Made by software, hence gone with the process.
    #[must_use]
    pub const fn is_virtual(&self) -> bool {
        matches!(self.kind, Kind::Virtual { .. })
    }

    /// The whole string for `rte_dev_probe`.
    pub(crate) fn arguments(&self) -> CString {
        let whole = match &self.kind {
            Kind::Pci { address } => {
                let rest = self.text.split_once(',').map_or(String::new(), |(_, rest)| format!(",{rest}"));
                format!("{address}{rest}")
            }
            Kind::Virtual { .. } => self.text.clone(),
        };
        CString::new(whole).expect("parse refuses control characters, NUL among them")
    }

    /// The name DPDK gives the port, for C.
    pub(crate) fn name_c(&self) -> CString {
        CString::new(self.name()).expect("parse refuses control characters, NUL among them")
    }

    /// Whether every network interface it stands on has a carrier now; drivers on top of one say "up" regardless. True
    /// when it stands on none.
    #[must_use]
    pub fn has_carrier(&self) -> bool {
        let Kind::Virtual { name } = &self.kind else { return true };
        let driver = INTERFACE_ARGUMENTS.iter().find(|(driver, _)| name.starts_with(driver));
        let Some((_, keys)) = driver else { return true };
        let arguments = self.text.split(',').skip(1).filter_map(|argument| argument.split_once('='));
        arguments.filter(|(key, _)| keys.contains(key)).all(|(_, interface)| interface_runs(interface))
    }

    fn check_vdev(&self, name: &str) -> Result<(), DeviceError> {
        let driver = INTERFACE_ARGUMENTS.iter().find(|(driver, _)| name.starts_with(driver));
        let names_interface = |key: &str| driver.is_some_and(|(_, keys)| keys.contains(&key));
        for (key, value) in self.text.split(',').skip(1).filter_map(|argument| argument.split_once('=')) {
            if names_interface(key) && !interface_exists(value) {
                let (device, interface) = (self.text.clone(), value.to_owned());
                return Err(DeviceError::NoInterface { device, interface });
            }
            if name.starts_with("net_pcap") && key == "rx_pcap" && !Path::new(value).exists() {
                return Err(DeviceError::NoFile { device: self.text.clone(), path: value.into() });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `DDDD:BB:DD.F` from that or from `BB:DD.F`, in lower case as sysfs writes it.
fn pci_address(text: &str) -> Option<String> {
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
    let (front, function) = text.rsplit_once('.')?;
    let mut parts = front.rsplit(':');
    let (device, bus) = (parts.next()?, parts.next()?);
    let domain = parts.next().unwrap_or("0000");
    let good = parts.next().is_none()
        && hex(domain, 4)
        && hex(bus, 2)
        && hex(device, 2)
        && matches!(function.as_bytes(), [b'0'..=b'7']);
    good.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

/// A driver's name and a number: `net_memif0`; vdevs of other classes are not ports.
fn is_vdev_name(name: &str) -> bool {
    const NAME_LEN_MAX: usize = 63; // RTE_ETH_NAME_MAX_LEN without its NUL
    let driver = name.strip_prefix("net_").or_else(|| name.strip_prefix("eth_"));
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    name.len() <= NAME_LEN_MAX
        && driver.is_some_and(|driver| {
            driver.starts_with(|c: char| c.is_ascii_lowercase()) && driver.bytes().all(word)
        })
}

fn check_pci(address: &str, devices: &Path) -> Result<(), DeviceError> {
    let folder = devices.join(address);
    if !folder.exists() {
        return Err(DeviceError::NoPciDevice(address.to_owned()));
    }
    let driver = std::fs::read_link(folder.join("driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    if driver.as_deref().is_some_and(|driver| PCI_DRIVERS.contains(&driver)) {
        return Ok(());
    }
    Err(DeviceError::NotBound { address: address.to_owned(), driver })
}

fn interface_exists(name: &str) -> bool {
    // The kernel is asked, not /sys/class/net, which may show another namespace than the thread's.
    // SAFETY: the pointer is a terminated string that lives through the call.
    CString::new(name).is_ok_and(|name| unsafe { libc::if_nametoindex(name.as_ptr()) } != 0)
}

/// `IFF_RUNNING`: administratively up and with a carrier, or of a kind that knows none. An interface that cannot be asked
/// counts as running: DPDK has opened it.
fn interface_runs(name: &str) -> bool {
    // SAFETY: all bytes zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return true;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // Any socket will do, and this one needs no address.
    let Ok(socket) = UnixDatagram::unbound() else { return true };
    // SAFETY: the request outlives the call, which fills in its flags.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    // SAFETY: the kernel has written the flags.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    result != 0 || flags & libc::IFF_RUNNING != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (text, name, is_virtual) in [
            ("0000:03:00.0", "0000:03:00.0", false),
            ("3B:00.1", "0000:3b:00.1", false),
            ("0000:03:00.0,mprq_en=1", "0000:03:00.0", false),
            ("net_memif0,role=client,socket=/run/x.sock", "net_memif0", true),
            ("net_af_packet_outside,iface=gw-out", "net_af_packet_outside", true),
            ("eth_ring0", "eth_ring0", true),
        ] {
            let device = Device::parse(text).unwrap();
            assert_eq!((device.name(), device.is_virtual()), (name, is_virtual), "{text}");
        }
        assert_eq!(Device::parse("3b:00.1,a=1").unwrap().arguments().to_str(), Ok("0000:3b:00.1,a=1"));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for text in [
            "",
            "eth0",
            "net_",
            "net_0",
            "03:00",
            "0000:03:00.8",
            "1:0000:03:00.0",
            "net_x y",
            "net_a\0",
            ",",
            "net_\u{e9}0",
        ] {
            assert_eq!(Device::parse(text), Err(DeviceError::BadName(text.to_owned())));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let device = Device::parse("net_af_packet0,iface=nosuch0").unwrap();
        let said = device.check().unwrap_err().to_string();
        assert!(said.contains("`nosuch0` does not exist"), "{said}");
        let device = Device::parse("net_pcap0,rx_pcap=/nosuch.pcap").unwrap();
        assert!(device.check().unwrap_err().to_string().contains("/nosuch.pcap"));
        assert_eq!(
            Device::parse("ffff:ff:1f.7").unwrap().check(),
            Err(DeviceError::NoPciDevice("ffff:ff:1f.7".into()))
        );
        assert_eq!(Device::parse("net_af_packet0,iface=lo").unwrap().check(), Ok(()));
        assert!(Device::parse("net_null0,iface=lo").unwrap().has_carrier(), "it stands on no interface");
    }

    #[test]
    fn a_pci_device_must_be_bound_to_a_driver_for_dpdk() {
        let root = std::env::temp_dir().join(format!("pci-{}", std::process::id()));
        for (address, driver) in
            [("0000:01:00.0", Some("ixgbe")), ("0000:02:00.0", None), ("0000:03:00.0", Some("vfio-pci"))]
        {
            std::fs::create_dir_all(root.join(address)).unwrap();
            if let Some(driver) = driver {
                std::os::unix::fs::symlink(format!("/drivers/{driver}"), root.join(address).join("driver"))
                    .unwrap();
            }
        }
        let answers =
            ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"].map(|address| check_pci(address, &root));
        std::fs::remove_dir_all(&root).unwrap();
        assert!(
            matches!(&answers[0], Err(DeviceError::NotBound { driver: Some(driver), .. }) if driver == "ixgbe")
        );
        assert!(matches!(&answers[1], Err(DeviceError::NotBound { driver: None, .. })));
        assert_eq!(answers[2], Ok(()));
    }
}
