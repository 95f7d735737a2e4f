//! One wire with VLANs of jumbo frames: clients in one, servers in another, the appliance at its end.
//!
//! The wire is a TAP, whose other end is a switch made here: it has a TAP in each machine and does the tagging. So no
//! kernel needs to know of VLANs.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::appliance::status_of;
use lab::netns::Namespace;
use lab::process::{self, Daemon};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_tun::Tun;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] =
    &[("VLANs of one port, with packets of 9,000 bytes, in both families", vlans_with_jumbo_frames)];

const MTU: u16 = 9_000;
const CLIENTS_VLAN: u16 = 100;
const SERVERS_VLAN: u16 = 200;
const SERVER_PORT: u16 = 7_777;
/// Bytes of a frame with its tag.
const FRAME_MAX: usize = 18 + MTU as usize;
/// A datagram that fills a packet of IPv6, and leaves 20 bytes of one of IPv4.
const DATAGRAM: usize = MTU as usize - 48;
const STREAM: usize = 1 << 20;
/// Longest wait for a start, an answer, a datagram.
const READY: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(2);

/// The three machines, and what lives while they do.
struct Site {
    gateway: Namespace,
    client: Namespace,
    server: Namespace,
    _switch: Runtime,
}

fn vlans_with_jumbo_frames(world: &mut World) -> Result<()> {
    let site = Site::up(&format!("e2e{}v", std::process::id()))?;
    site.serve()?;
    let folder = tempfile::tempdir()?;
    let mut appliance = site.start(world.binary(), folder.path())?;
    let outcome = site.look(world.binary(), folder.path());
    let said = appliance.log_tail(30);
    appliance.stop()?;
    outcome.with_context(|| format!("its log ends so:\n{said}"))
}

impl Site {
    fn up(name: &str) -> Result<Self> {
        let [gateway, client, server] = ["gw", "client", "server"].map(|host| Namespace::create(name, host));
        let (gateway, client, server) = (gateway?, client?, server?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_io().build()?;
        let trunk = Arc::new(tap(&runtime, &gateway, "trunk")?);
        let branches = [(&client, CLIENTS_VLAN), (&server, SERVERS_VLAN)]
            .map(|(machine, vlan)| Ok::<_, anyhow::Error>((vlan, Arc::new(tap(&runtime, machine, "lan")?))));
        let [clients, servers] = branches;
        switch(&runtime, &trunk, &[clients?, servers?]);
        gateway.script("sysctl -qw net.ipv6.conf.trunk.disable_ipv6=1; ip link set trunk up")?;
        for (machine, net, host) in [(&client, 1, 2), (&server, 2, 11)] {
            machine.script(&format!(
                "ip link set lan up; ip addr add 10.{net}.0.{host}/24 dev lan; ip addr add fd0{net}::{host}/64 dev lan; \
                 ip route add default via 10.{net}.0.1; ip route add default via fd0{net}::1"
            ))?;
        }
        Ok(Self { gateway, client, server, _switch: runtime })
    }

    /// Echo by TCP and UDP on the server.
    fn serve(&self) -> Result<()> {
        let any = SocketAddr::from(([0_u16; 8], SERVER_PORT));
        let (listener, socket) = self
            .server
            .within(|| Ok::<_, std::io::Error>((TcpListener::bind(any)?, UdpSocket::bind(any)?)))??;
        thread::spawn(move || {
            let mut datagram = vec![0; usize::from(u16::MAX)];
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                // What cannot be sent back is missed by who waits for it.
                let _ = socket.send_to(&datagram[..len], from);
            }
        });
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        Ok(())
    }

    fn start(&self, binary: &Path, folder: &Path) -> Result<Daemon> {
        let shown = folder.display();
        fs::create_dir_all(folder.join("state"))?;
        fs::create_dir_all(folder.join("manifests"))?;
        fs::write(folder.join("manifests/echo.yaml"), manifests())?;
        // DPDK 22.11's driver for AF_PACKET takes no packet of more than 1,500 bytes; libpcap's does.
        let config = format!(
            "apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- {{name: wire, device: \"net_pcap0,iface=trunk\", mtu: {MTU}, tap: false}}
- {{name: clients, parent: wire, vlan: {CLIENTS_VLAN}, addresses: [10.1.0.1/24, \"fd01::1/64\"]}}
- {{name: servers, parent: wire, vlan: {SERVERS_VLAN}, addresses: [10.2.0.1/24, \"fd02::1/64\"]}}
workers: {{count: 1, idle: sleep}}
dpdk: {{memoryMiB: 256, hugepages: auto}}
kubernetes: {{manifests: {shown}/manifests}}
pools: [{{name: public, cidrs: [203.0.113.0/24, \"2001:db8:f::/120\"]}}]
forwarding: {{flowsPerWorker: 1024}}
admin: {{socket: {shown}/admin.sock}}
metrics: {{listen: \"127.0.0.1:9472\"}}
stateDir: {shown}/state
"
        );
        fs::write(folder.join("config.yaml"), config)?;
        let mut command = self.gateway.command(binary.to_str().context("the program's path is not UTF-8")?);
        command.arg("run").arg("--config").arg(folder.join("config.yaml"));
        let daemon = Daemon::start("fairlead", &mut command, &folder.join("fairlead.log"))?;
        process::until("fairlead is ready", READY, || {
            status_of(&self.gateway, "/readyz").is_ok_and(|status| status == 200)
        })
        .with_context(|| format!("its log ends so:\n{}", daemon.log_tail(30)))?;
        Ok(daemon)
    }

    /// The client uses the Services, the appliance's own addresses, and then `fairlead show ports` tells of it.
    fn look(&self, binary: &Path, folder: &Path) -> Result<()> {
        for (vip, own) in [("203.0.113.10", "10.1.0.1"), ("2001:db8:f::10", "fd01::1")] {
            let target = SocketAddr::new(vip.parse()?, 7);
            self.client.within(|| stream(target))?.with_context(|| format!("TCP to {target}"))?;
            self.client.within(|| datagram(target))?.with_context(|| format!("UDP to {target}"))?;
            // The kernel answers, by the sub-port's mirror.
            let headers = if own.contains(':') { 48 } else { 28 };
            let ping = format!("ping -n -c 2 -W 2 -M do -s {} {own}", usize::from(MTU) - headers);
            self.client.script(&ping).with_context(|| format!("a ping of {MTU} bytes"))?;
        }
        let show = |what: &str| -> Result<Value> {
            let mut command = std::process::Command::new(binary);
            command.args(["show", what, "-o", "json", "--socket"]).arg(folder.join("admin.sock"));
            Ok(serde_json::from_str(&process::run(&mut command, "", ANSWER * 5)?.ok()?)?)
        };
        let ports = show("ports")?;
        for (name, device) in [("clients", "wire vlan 100"), ("servers", "wire vlan 200")] {
            let rows = ports.as_array().context("a list")?;
            let row = rows.iter().find(|row| row["name"] == name).context("no such port")?;
            ensure!(row["device"] == device && row["mtu"] == MTU, "{row}");
            let bytes = |key: &str| row[key].as_u64().unwrap_or_default();
            ensure!(bytes("rxBytes").min(bytes("txBytes")) > 2 * STREAM as u64, "{row}");
        }
        let drops = show("drops")?;
        let faults = ["BadVlan", "TooBig", "Truncated", "SplitHeader"];
        let rows = drops.as_array().context("a list")?.iter();
        let found: Vec<_> = rows.filter(|row| faults.iter().any(|fault| row["reason"] == *fault)).collect();
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    }
}

fn manifests() -> String {
    let one = |(name, cluster_ip, vip, family, endpoint): (&str, &str, &str, &str, &str)| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default, annotations: {{fairlead.dev/ips: \"{vip}\"}}}}
spec:
  type: LoadBalancer
  clusterIP: \"{cluster_ip}\"
  ipFamilies: [{family}]
  ports: [{{name: tcp, port: 7, protocol: TCP}}, {{name: udp, port: 7, protocol: UDP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {family}
ports: [{{name: tcp, port: {SERVER_PORT}, protocol: TCP}}, {{name: udp, port: {SERVER_PORT}, protocol: UDP}}]
endpoints: [{{addresses: [\"{endpoint}\"], conditions: {{ready: true}}}}]
---
"
        )
    };
    let both = [
        ("echo", "10.96.0.10", "203.0.113.10", "IPv4", "10.2.0.11"),
        ("echo6", "fd00:96::10", "2001:db8:f::10", "IPv6", "fd02::11"),
    ];
    both.map(one).concat()
}

/// A TAP of this name in a namespace, with the wire's MTU.
fn tap(runtime: &Runtime, namespace: &Namespace, name: &str) -> Result<Tun> {
    let opened = namespace.within(|| {
        let _reactor = runtime.enter();
        Tun::builder().name(name).tap().build()
    })?;
    let tap = opened?.pop().with_context(|| format!("no TAP {name}"))?;
    namespace.script(&format!("ip link set {name} mtu {MTU}"))?;
    Ok(tap)
}

/// Carries frames between the trunk, where they have tags, and the branches, where they have none.
fn switch(runtime: &Runtime, trunk: &Arc<Tun>, branches: &[(u16, Arc<Tun>)]) {
    for (vlan, branch) in branches.iter().cloned() {
        let trunk = Arc::clone(trunk);
        runtime.spawn(async move {
            let mut frame = vec![0; FRAME_MAX];
            while let Ok(len) = branch.recv(&mut frame).await {
                let tag = [0x81, 0, vlan.to_be_bytes()[0], vlan.to_be_bytes()[1]];
                let tagged = [&frame[..12], &tag, &frame[12..len]].concat();
                // A full queue loses a frame, as on any wire.
                let _ = trunk.send(&tagged).await;
            }
        });
    }
    let (trunk, branches) = (Arc::clone(trunk), branches.to_vec());
    runtime.spawn(async move {
        let mut frame = vec![0; FRAME_MAX];
        while let Ok(len) = trunk.recv(&mut frame).await {
            let tag =
                (len > 16 && frame[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([frame[14], frame[15]]));
            let branch = branches.iter().find(|(vlan, _)| Some(*vlan) == tag);
            if let Some((_, branch)) = branch {
                let _ = branch.send(&[&frame[..12], &frame[16..len]].concat()).await;
            }
        }
    });
}

/// A stream goes there and comes back whole.
fn stream(target: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect_timeout(&target, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER * 5))?;
    let sent: Vec<u8> = (0..STREAM).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect();
    let (mut writer, mut reader) = (stream.try_clone()?, stream);
    let writing = sent.clone();
    let writing =
        thread::spawn(move || writer.write_all(&writing).and_then(|()| writer.shutdown(Shutdown::Write)));
    let mut back = Vec::new();
    reader.read_to_end(&mut back)?;
    writing.join().ok().context("the writer panicked")??;
    ensure!(back == sent, "{} bytes came back, or others", back.len());
    Ok(())
}

/// A datagram as long as a packet may be comes back whole; it may not be cut on the way.
fn datagram(target: SocketAddr) -> Result<()> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.connect(target)?;
    let sent = vec![0x5a; DATAGRAM];
    socket.send(&sent)?;
    let mut back = vec![0; DATAGRAM + 1];
    let len = socket.recv(&mut back).context("no echo")?;
    ensure!(back[..len] == sent, "{len} bytes came back");
    Ok(())
}
