//! The kernel's own verdict: real packets through the Node's namespace, whose two interfaces are TAPs that the test holds
//! the other ends of. It keeps `walk` honest.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::netns::Namespace;
use packet::testkit::PacketBuilder;
use packet::{AnyKey, Body, Family, MacAddr, Protocol, TcpFlags};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tun::Tun;

use crate::place::{self, INSIDE, OUTSIDE, Origin};
use crate::walk::{Branch, Fate, Packet};

/// How long nothing comes before that is the answer.
const SILENCE: Duration = Duration::from_millis(40);
const FRAME_MAX: usize = 2048;
/// Ethernet addresses of everybody behind an interface, and of the interfaces.
const PEER: &str = "02:00:00:00:00:fe";
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const NODE: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
const NODE_MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];

/// The Node's interfaces.
pub(crate) struct Kernel {
    runtime: Runtime,
    taps: [Tun; 2],
    namespace: Arc<Namespace>,
}

/// What was seen of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Seen {
    /// It left, with this source and destination.
    Left(SocketAddr, SocketAddr),
    /// Its sender was told that the port is unreachable.
    Unreachable,
    Nothing,
}

impl Kernel {
    /// Makes the interfaces in a namespace; everything beyond them has a fixed Ethernet address.
    pub(crate) fn new(namespace: &Arc<Namespace>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let open = |name: &str| -> Result<Tun> {
            let opened = namespace.within(|| {
                let _reactor = runtime.enter();
                Tun::builder().name(name).tap().build()
            })?;
            opened?.pop().with_context(|| format!("no TAP {name}"))
        };
        let taps = [open(OUTSIDE.0)?, open(INSIDE.0)?];
        for (path, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            namespace.sysctl(path, value)?;
        }
        namespace.script(&script())?;
        Ok(Self { runtime, taps, namespace: Arc::clone(namespace) })
    }

    /// What the kernel does with a packet, if it is none of these.
    pub(crate) fn check(&self, packet: &Packet, branches: &[Branch]) -> Result<Option<Seen>> {
        let seen = self.send(packet)?;
        let fits = |branch: &Branch| match (seen, branch.fate) {
            (Seen::Left(src, dst), Fate::Forward | Fate::Pass) => {
                // A program's own choice of source is rewritten for as much as it differs from it.
                dst == branch.backend.unwrap_or(packet.dst) && (src != packet.src) == branch.snat
            }
            (Seen::Nothing, Fate::Drop) => true,
            // What a program is told is not seen on the wire.
            (Seen::Nothing, Fate::Reject) => packet.origin == Origin::Node,
            (Seen::Unreachable, Fate::Reject) => true,
            _ => false,
        };
        Ok((!branches.iter().any(fits)).then_some(seen))
    }

    /// Whether a packet can be judged from outside: nothing of it ends at the Node.
    pub(crate) fn can_tell(packet: &Packet, branches: &[Branch]) -> bool {
        let sends = packet.origin == Origin::Arrives || packet.protocol == Protocol::Udp;
        let ends_here = |branch: &Branch| {
            let local = place::is_local(branch.backend.unwrap_or(packet.dst).ip());
            local && matches!(branch.fate, Fate::Forward | Fate::Deliver)
        };
        sends && !branches.iter().any(ends_here)
    }

    fn send(&self, packet: &Packet) -> Result<Seen> {
        self.drain();
        match packet.origin {
            Origin::Arrives => {
                let side = side_of(packet.src.ip());
                let key = AnyKey::new(packet.src, packet.dst, packet.protocol).context("two families")?;
                // Connection tracking begins an SCTP association at a chunk that may begin one; a heartbeat may.
                let payload: &[u8] =
                    if packet.protocol == Protocol::Sctp { &[4, 0, 0, 8, 0, 1, 0, 4] } else { &[] };
                let packet = PacketBuilder::flow(key).flags(TcpFlags::SYN).payload(payload);
                let frame = packet.macs(NODE_MACS[side], PEER_MAC).build();
                self.taps[side].try_send(&frame).context("the TAP takes no frame")?;
            }
            Origin::Node => {
                let (src, dst) = (packet.src, packet.dst);
                // The rules may refuse the datagram: then nothing leaves, which is what is looked for.
                let sent =
                    self.namespace.within(|| UdpSocket::bind(src).map(|socket| socket.send_to(b"?", dst)))?;
                drop(sent.context("cannot bind")?);
            }
        }
        Ok(self.watch(packet))
    }

    /// The first frame that has to do with the packet.
    fn watch(&self, packet: &Packet) -> Seen {
        let (mut first, mut second) = ([0; FRAME_MAX], [0; FRAME_MAX]);
        self.runtime.block_on(async {
            let mut look = async || loop {
                let seen = tokio::select! {
                    length = self.taps[0].recv(&mut first) => read(&first[..length.unwrap_or(0)], packet),
                    length = self.taps[1].recv(&mut second) => read(&second[..length.unwrap_or(0)], packet),
                };
                if let Some(seen) = seen {
                    return seen;
                }
            };
            timeout(SILENCE, look()).await.unwrap_or(Seen::Nothing)
        })
    }

    /// Throws away what came late.
    fn drain(&self) {
        let mut frame = [0; FRAME_MAX];
        self.runtime.block_on(async {
            for tap in &self.taps {
                while timeout(Duration::ZERO, tap.recv(&mut frame)).await.is_ok() {}
            }
        });
    }
}

fn read(frame: &[u8], packet: &Packet) -> Option<Seen> {
    match packet::parse(frame, frame.len()).ok()?.body {
        Body::Flow { key, .. } if key.protocol() == packet.protocol => {
            Some(Seen::Left(SocketAddr::new(key.src(), key.sport()), SocketAddr::new(key.dst(), key.dport())))
        }
        Body::Icmp(icmp) => {
            let unreachable = matches!(
                (Family::of(packet.src.ip()), icmp.kind, icmp.code),
                (Family::V4, 3, 3) | (Family::V6, 1, 4)
            );
            unreachable.then_some(Seen::Unreachable)
        }
        _ => None,
    }
}

/// The interface that a client is behind.
fn side_of(client: IpAddr) -> usize {
    let strangers = [
        place::clients(Family::V4)[0].0,
        place::clients(Family::V4)[1].0,
        place::clients(Family::V6)[0].0,
        place::clients(Family::V6)[1].0,
    ];
    usize::from(!strangers.contains(&client))
}

/// Addresses, routes and neighbours of the Node.
fn script() -> String {
    let mut script = String::new();
    for (side, (name, addresses)) in [OUTSIDE, INSIDE].into_iter().enumerate() {
        script += &format!("ip link set {name} address {} up\n", NODE[side]);
        for address in addresses {
            script += &format!("ip addr add {address} dev {name}\n");
        }
    }
    let gateways = [["192.0.2.254", "2001:db8:1::fe"], ["10.0.0.254", "fd00::fe"]];
    for (side, (name, _)) in [OUTSIDE, INSIDE].into_iter().enumerate() {
        for gateway in gateways[side] {
            script += &format!("ip neigh replace {gateway} lladdr {PEER} dev {name} nud permanent\n");
        }
    }
    for neighbor in ["10.0.0.12", "10.0.0.13", "fd00::12", "fd00::13"] {
        script += &format!("ip neigh replace {neighbor} lladdr {PEER} dev {} nud permanent\n", INSIDE.0);
    }
    for [v4, v6] in [["10.244.0.0/16", "fd00:244::/48"], ["172.16.0.0/12", "2001:db8:bb::/64"]] {
        script += &format!("ip route add {v4} via 10.0.0.254\nip route add {v6} via fd00::fe\n");
    }
    script + "ip route add default via 192.0.2.254\nip route add default via 2001:db8:1::fe\n"
}
