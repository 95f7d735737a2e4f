//! The site: two segments, the machines on them, and the place of the appliance between them.
//! What a machine becomes (a node with pods, say) is its owner's business.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::{self, Namespace};
use crate::plan::{Machine, PLACES, Place};
use crate::process;

/// Longest lab name: a namespace's name must stay readable.
const NAME_MAX: usize = 16;

/// Namespaces of the machines and of the segments; their folder of files goes with them.
pub struct Site {
    machines: Vec<(Machine, Arc<Namespace>)>,
    gateway: Arc<Namespace>,
    /// Further places for appliances.
    places: Vec<(Place, Arc<Namespace>)>,
    fabric: Arc<Namespace>,
    dir: PathBuf,
    name: String,
    keep: bool,
}

impl Site {
    /// Makes the segments and plugs the machines in; those of `offloading` keep their checksum and segmentation
    /// offloads. The appliance's place stays empty.
    ///
    /// # Errors
    /// When not root, or when a lab of the name is there already.
    pub fn up(name: &str, machines: &[Machine], offloading: &[&str]) -> Result<Self> {
        check_name(name)?;
        if !netns::existing(name)?.is_empty() {
            bail!("a lab called {name} is running; end it with: lab down {name}");
        }
        let dir = dir_of(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let make = |host: &str| Namespace::create(name, host);
        let mut site = Self {
            machines: Vec::new(),
            gateway: Arc::new(make("gw")?),
            places: Vec::new(),
            fabric: Arc::new(make("fabric")?),
            dir,
            name: name.to_owned(),
            keep: false,
        };
        site.wire_fabric()?;
        for machine in machines {
            let namespace = make(machine.name)?;
            site.plug(machine, &namespace, !offloading.contains(&machine.name))?;
            site.machines.push((*machine, Arc::new(namespace)));
        }
        Ok(site)
    }

    /// A machine by its name; `gw` is the appliance's place, `fabric` holds the segments.
    pub fn machine(&self, name: &str) -> Option<&Arc<Namespace>> {
        let machines = self.machines.iter().map(|(machine, namespace)| (machine.name, namespace));
        let places = self.places.iter().map(|(place, namespace)| (place.name, namespace));
        let own = [("gw", &self.gateway), ("fabric", &self.fabric)];
        machines.chain(places).chain(own).find(|(known, _)| *known == name).map(|(_, namespace)| namespace)
    }

    /// Makes a further place for an appliance.
    ///
    /// # Errors
    /// When there is one of the name, or the kernel refuses.
    pub fn add_place(&mut self, place: Place) -> Result<()> {
        let namespace = Namespace::create(&self.name, place.name)?;
        self.wire_place(&place, &namespace)?;
        self.places.push((place, Arc::new(namespace)));
        Ok(())
    }

    /// Plugs a machine in again whose link was taken down.
    ///
    /// # Errors
    /// When there is no such machine or the kernel refuses.
    pub fn connect(&self, machine: &Machine) -> Result<()> {
        connect(machine, self.machine(machine.name).context("no such machine")?)
    }

    /// The appliance's place.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// The lab's files: configuration, manifests, logs, pods' folders.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets everything live on after this value (`KEEP=1`).
    pub fn release(mut self) {
        self.keep = true;
        for (_, namespace) in &self.machines {
            namespace.release();
        }
        self.gateway.release();
        self.places.iter().for_each(|(_, namespace)| namespace.release());
        self.fabric.release();
    }

    /// Two bridges as the segments, and the appliance's place at both.
    fn wire_fabric(&self) -> Result<()> {
        self.fabric.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        for side in ["out", "in"] {
            self.fabric.script(&format!(
                "ip link add br-{side} type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip link set br-{side} up"
            ))?;
        }
        self.wire_place(&PLACES[0], &self.gateway)
    }

    /// An appliance's two cables. In its namespace an ingress hook drops what arrives after the packet sockets saw it: the
    /// kernel's own stack must not answer beside the appliance.
    fn wire_place(&self, place: &Place, namespace: &Namespace) -> Result<()> {
        namespace.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
        let (near, far, to) = (place.name, namespace, namespace.name());
        let mut hooks = String::from("table netdev lab {\n");
        let mut script = String::new();
        for (side, number) in [("out", 1), ("in", 2)] {
            self.fabric.script(&format!(
                "ip link add {near}-{side} type veth peer name gw-{side} netns {to}
ip link set {near}-{side} master br-{side} up
{}",
                plain(&format!("{near}-{side}"))
            ))?;
            hooks += &format!(
                " chain {side} {{ type filter hook ingress device \"gw-{side}\" priority 0; policy drop; }}\n"
            );
            far.sysctl(&format!("net/ipv6/conf/gw-{side}/disable_ipv6"), "1")?;
            script += &format!(
                "ip link set gw-{side} address 02:00:00:00:0{number}:{:02x} up; {}",
                place.number,
                plain(&format!("gw-{side}"))
            );
        }
        far.script(&format!("echo '{hooks}}}' | nft -f -\n{script}")).map(drop)
    }

    /// A cable between a machine and its segment, its addresses, and the appliance as its default route.
    fn plug(&self, machine: &Machine, namespace: &Namespace, plain_tx: bool) -> Result<()> {
        let bridge = if machine.outside { "br-out" } else { "br-in" };
        let (host, name) = (machine.name, namespace.name());
        self.fabric.script(&format!(
            "ip link add {host} type veth peer name eth0 address {} netns {name}
ip link set {host} master {bridge} up
{}",
            machine.mac(),
            plain(host)
        ))?;
        let offloads = if plain_tx { plain("eth0") } else { String::new() };
        namespace.script(&format!("{offloads}ip addr add {}/24 dev eth0", machine.address()))?;
        connect(machine, namespace)
    }
}

/// Brings a machine's link up, with what goes when a link goes down: its IPv6 address and its default routes.
fn connect(machine: &Machine, namespace: &Namespace) -> Result<()> {
    let (gateway, gateway6) = machine.gateways();
    namespace
        .script(&format!(
            "ip link set eth0 up; ip -6 addr replace {}/64 dev eth0 nodad
ip route replace default via {gateway}; ip -6 route replace default via {gateway6}",
            machine.address6(),
        ))
        .map(drop)
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Ends whatever there is of a lab of this name: its processes, its namespaces, its files.
///
/// # Errors
/// When a namespace resists.
pub fn down(name: &str) -> Result<usize> {
    check_name(name)?;
    let namespaces = netns::existing(name)?;
    for signal in [Signal::TERM, Signal::KILL] {
        let ended = process::until("processes end", Duration::from_secs(6), || {
            let pids: Vec<i32> = namespaces.iter().filter_map(|n| netns::pids(n).ok()).flatten().collect();
            for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, signal);
            }
            pids.is_empty()
        });
        if ended.is_ok() {
            break;
        }
    }
    // Anew: a node that ends takes down its pods, and may have begun one more.
    for namespace in netns::existing(name)? {
        netns::delete(&namespace)?;
    }
    let dir = dir_of(name);
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(namespaces.len())
}

/// Ends labs called `<stem><pid>...` whose program is gone: it was killed before it could tidy up.
pub fn sweep(stem: &str) {
    for entry in fs::read_dir("/tmp/fairlead-lab").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(stem) else { continue };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && !Path::new("/proc").join(&pid).exists() {
            let _ = down(&name);
        }
    }
}

/// Where a lab keeps its files.
pub fn dir_of(name: &str) -> PathBuf {
    PathBuf::from("/tmp/fairlead-lab").join(name)
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_MAX).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Ok(());
    }
    bail!("{name:?} cannot name a lab: 1 to {NAME_MAX} letters a-z and digits")
}

/// Frames as a wire would carry them: no unfinished checksums, no giant segments.
pub(crate) fn plain(device: &str) -> String {
    format!("ethtool -K {device} tx off tso off gso off gro off rxvlan off txvlan off >/dev/null\n")
}
