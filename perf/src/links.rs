//! What the links are: memory between two processes, virtual pairs of the kernel's, or real ports.

use std::{
    error::Error,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::process::Running;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The gateway's addresses by link; flowgen sends to the first (a constant of testpmd).
const GATEWAY_MACS: [&str; 2] = ["00:01:02:03:04:01", "00:01:02:03:04:02"];
/// The generator's own addresses, which are the neighbours'.
const PEER_MACS: [&str; 2] = ["02:00:00:00:00:02", "02:00:00:00:00:03"];
/// Those that DPDK's vhost driver makes up, by port.
const VHOST_MACS: [&str; 2] = ["56:48:4f:53:54:00", "56:48:4f:53:54:01"];
/// Ends of the kernel's pairs: the gateway's and the generator's.
const PAIRS: [[&str; 2]; 2] = [["flwire0a", "flwire0b"], ["flwire1a", "flwire1b"]];
/// The words that choose.
const USAGE: &str = "--wire=memif|vhost|af_xdp, or --nic --outside=DEVICE --inside=DEVICE --gateway-outside=MAC --gateway-inside=MAC \
                     [--gateway-is=fairlead|macswap] for a gateway that runs elsewhere";

/// What the links are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wire {
    /// DPDK's memif: the gateway is the server.
    Memif,
    /// The gateway has virtio's end as in a virtual machine, the generator vhost's, which copies.
    Vhost,
    /// Pairs of virtual devices of the kernel's, with AF_XDP at both ends.
    AfXdp,
    /// Ports of this machine, cabled to a gateway that is there already.
    Nic(Nic),
}

/// See [`Wire::Nic`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nic {
    /// PCI addresses, or devices of DPDK: outside, inside.
    devices: [String; 2],
    /// The gateway's addresses on these links.
    gateway_macs: [String; 2],
    /// It sends every frame back where it came from, and knows no flows.
    pub is_macswap: bool,
}

impl Wire {
    /// The one that the words say, memif if none does. Other words with dashes are refused, but for cargo's and `--quick`.
    ///
    /// # Errors
    /// What is wrong with a word, and which there are.
    pub fn of(words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut wire, mut nic, mut is_macswap) = (Self::Memif, false, false);
        let mut named = [const { None::<String> }; 4];
        for word in words.filter(|word| word.starts_with("--")) {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            let at = ["--outside", "--inside", "--gateway-outside", "--gateway-inside"];
            match (name, value) {
                ("--bench" | "--quick", "") => {}
                ("--wire", "memif") => wire = Self::Memif,
                ("--wire", "vhost") => wire = Self::Vhost,
                ("--wire", "af_xdp") => wire = Self::AfXdp,
                ("--nic", "") => nic = true,
                ("--gateway-is", "fairlead" | "macswap") => is_macswap = value == "macswap",
                _ => match at.iter().position(|one| *one == name).filter(|_| !value.is_empty()) {
                    Some(at) => named[at] = Some(value.to_owned()),
                    None => {
                        return Err(
                            format!("`{word}` is none of the words that this bench knows: {USAGE}").into()
                        );
                    }
                },
            }
        }
        match (nic, named) {
            (false, [None, None, None, None]) if !is_macswap => Ok(wire),
            (true, [Some(outside), Some(inside), Some(gateway_outside), Some(gateway_inside)]) => {
                let (devices, gateway_macs) = ([outside, inside], [gateway_outside, gateway_inside]);
                Ok(Self::Nic(Nic { devices, gateway_macs, is_macswap }))
            }
            _ => Err(format!(
                "both devices and both addresses of the gateway go with --nic, and only there: {USAGE}"
            )
            .into()),
        }
    }

    /// The name of its report.
    #[must_use]
    pub const fn report(&self) -> &'static str {
        match self {
            Self::Memif => "wire",
            Self::Vhost => "wire-vhost",
            Self::AfXdp => "wire-af_xdp",
            Self::Nic(_) => "wire-nic",
        }
    }

    /// The gateway runs elsewhere, and what it is.
    #[must_use]
    pub const fn elsewhere(&self) -> Option<&Nic> {
        if let Self::Nic(nic) = self { Some(nic) } else { None }
    }

    /// The gateway's address.
    #[must_use]
    pub fn gateway_mac(&self, link: usize) -> &str {
        match self {
            Self::Nic(nic) => &nic.gateway_macs[link],
            _ => GATEWAY_MACS[link],
        }
    }

    /// The generator's address.
    #[must_use]
    pub const fn peer_mac(&self, link: usize) -> &'static str {
        if matches!(self, Self::Vhost) { VHOST_MACS[link] } else { PEER_MACS[link] }
    }

    /// The gateway's end of a link as a device of DPDK.
    #[must_use]
    pub fn gateway(&self, folder: &Path, link: usize) -> String {
        let (socket, mac) = (socket(folder, link), self.gateway_mac(link));
        let socket = socket.display();
        match self {
            Self::Memif => memif(link, "server", (&socket, mac)),
            Self::Vhost => {
                format!("net_virtio_user{link},path={socket},server=1,queues=1,queue_size=1024,mac={mac}")
            }
            Self::AfXdp => af_xdp(link, PAIRS[link][0]),
            Self::Nic(nic) => nic.devices[link].clone(),
        }
    }

    /// The generator's end.
    #[must_use]
    pub fn generator(&self, folder: &Path, link: usize) -> String {
        let (socket, mac) = (socket(folder, link), self.peer_mac(link));
        let socket = socket.display();
        match self {
            Self::Memif => memif(link, "client", (&socket, mac)),
            Self::Vhost => format!("net_vhost{link},iface={socket},client=1,queues=1"),
            Self::AfXdp => af_xdp(link, PAIRS[link][1]),
            Self::Nic(nic) => nic.devices[link].clone(),
        }
    }

    /// What the gateway's DPDK is told besides: virtio's peer maps all of its memory, as few files.
    #[must_use]
    pub const fn gateway_args(&self) -> &'static [&'static str] {
        if matches!(self, Self::Vhost) { &["--single-file-segments"] } else { &[] }
    }

    /// Makes so many links anew: a server in memory does not always outlive its peer.
    ///
    /// # Errors
    /// If the kernel makes no pair.
    pub fn prepare(&self, folder: &Path, links: usize) -> Result<()> {
        for link in 0..links {
            match self {
                Self::Memif | Self::Vhost => drop(fs::remove_file(socket(folder, link))),
                Self::AfXdp => make_pair(link)?,
                Self::Nic(_) => {}
            }
        }
        Ok(())
    }

    /// The gateway's ends are there.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn is_up(&self, folder: &Path, links: usize, gateway: &Running) -> Result<bool> {
        Ok(match self {
            Self::Memif => (0..links).all(|link| socket(folder, link).exists()),
            // The driver waits at each for its peer before it makes the next.
            Self::Vhost => socket(folder, 0).exists(),
            // testpmd's word, and the appliance's.
            Self::AfXdp => gateway
                .log()?
                .lines()
                .any(|line| line.starts_with("Checking link") || line.contains("ready: ")),
            Self::Nic(_) => true,
        })
    }

    /// Takes away what was made.
    pub fn clean(&self) {
        if *self == Self::AfXdp {
            PAIRS.iter().for_each(|[end, _]| drop(ip(&format!("link del {end}"))));
        }
    }
}

fn socket(folder: &Path, link: usize) -> PathBuf {
    folder.join(format!("wire{link}.sock"))
}

/// An end of a memif link, in this role.
fn memif(link: usize, role: &str, (socket, mac): (&impl Display, &str)) -> String {
    format!("net_memif{link},role={role},id=0,socket={socket},socket-abstract=no,mac={mac}")
}

/// A kernel's interface by AF_XDP.
fn af_xdp(link: usize, interface: &str) -> String {
    format!("net_af_xdp{link},iface={interface},start_queue=0,queue_count=1")
}

fn make_pair(link: usize) -> Result<()> {
    let [gateway, generator] = PAIRS[link];
    // Of an earlier run that was killed, or of the round before.
    ip(&format!("link del {gateway}")).ok();
    let macs = (GATEWAY_MACS[link], PEER_MACS[link]);
    ip(&format!("link add {gateway} address {} type veth peer name {generator} address {}", macs.0, macs.1))?;
    for end in [gateway, generator] {
        // The kernel is to say nothing on them.
        ip(&format!("link set {end} addrgenmode none"))?;
        ip(&format!("link set {end} up"))?;
    }
    Ok(())
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Result<Wire> {
        Wire::of(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_choose_a_wire() {
        for (words, wire) in [
            ("--bench --quick latency", Wire::Memif),
            ("--wire=memif", Wire::Memif),
            ("'both ways' --wire=vhost", Wire::Vhost),
            ("--wire=af_xdp", Wire::AfXdp),
        ] {
            assert_eq!(of(words).unwrap(), wire, "{words}");
        }
        let words = "--nic --outside=0000:03:00.0 --inside=net_ring1,nodeaction=r:0:CREATE --gateway-outside=02:00:00:00:00:0a \
                     --gateway-inside=02:00:00:00:00:0b --gateway-is=macswap";
        let wire = of(words).unwrap();
        assert_eq!(wire.generator(Path::new("/"), 1), "net_ring1,nodeaction=r:0:CREATE");
        assert_eq!(wire.gateway_mac(1), "02:00:00:00:00:0b");
        assert!(wire.elsewhere().is_some_and(|nic| nic.is_macswap));
    }

    #[test]
    fn words_that_do_not_go_together_are_refused_with_those_that_there_are() {
        for (words, said) in [
            ("--wire=tin", "`--wire=tin` is none"),
            ("--wire", "`--wire` is none"),
            ("--outside=", "`--outside=` is none"),
            ("--nic", "both devices"),
            ("--nic --outside=a --inside=b --gateway-outside=c", "both devices"),
            ("--outside=a --inside=b --gateway-outside=c --gateway-inside=d", "both devices"),
            ("--gateway-is=macswap", "both devices"),
        ] {
            let error = of(words).unwrap_err().to_string();
            assert!(error.contains(said) && error.ends_with(USAGE), "{words}: {error}");
        }
    }
}
