//! Where a packet leaves: FIB, next hop, neighbour, MTU; then its Ethernet addresses and the transmit buffer.

use std::net::IpAddr;

use packet::{MacAddr, Parsed, ether, vlan};
use tables::{
    DropReason, NextHopId, PortId, Route,
    flow::{Direction, FlowRef},
    hash::way_hash,
};

use super::{
    hold::{Held, Target},
    police::Kind,
};
use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

/// How a packet leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Egress {
    /// Out of a port, from its own address to this station.
    Ready { port: PortId, own: MacAddr, mac: MacAddr, mtu: u16 },
    /// Out of a port, once the neighbour has answered.
    Wait { target: Target, mtu: u16 },
    /// To the kernel: the destination is the appliance.
    Kernel,
    /// Not at all.
    Lost(DropReason),
}

impl Egress {
    /// The bytes an IP packet may have this way, if this one has more.
    #[inline]
    pub(crate) const fn too_small_for(self, parsed: &Parsed) -> Option<u16> {
        match self {
            Self::Ready { mtu, .. } | Self::Wait { mtu, .. } if parsed.ip_len > mtu => Some(mtu),
            _ => None,
        }
    }
}

impl<P: PortIo> Pass<'_, P> {
    /// The way to an address; where there are several, `hash` says which.
    #[inline(never)]
    pub(crate) fn way(&self, dst: IpAddr, hash: impl FnOnce() -> u64) -> Egress {
        self.follow(self.tables.fib.lookup(dst, hash), dst)
    }

    /// The way that a route says.
    fn follow(&self, route: Option<Route>, dst: IpAddr) -> Egress {
        match route {
            None | Some(Route::Spread(_)) => Egress::Lost(DropReason::NoRoute),
            Some(Route::Blackhole) => Egress::Lost(DropReason::Blackhole),
            Some(Route::Local) => Egress::Kernel,
            Some(Route::Via(hop)) => self.over(hop),
            Some(Route::Connected(port)) => match self.tables.port(port) {
                Some(info) => Egress::Wait { target: Target { port, address: dst }, mtu: info.mtu },
                None => Egress::Lost(DropReason::BadDevice),
            },
        }
    }

    /// The way of a flow's packets: its cached next hop while the FIB has not moved, else looked up and cached.
    #[inline(always)]
    pub(crate) fn flow_way(&mut self, flow: FlowRef, direction: Direction, dst: IpAddr) -> Egress {
        let epoch = self.tables.fib_epoch;
        if let Some(hop) = self.state.flows.next_hop(flow, direction, epoch) {
            return self.over(hop);
        }
        self.find_flow_way(flow, direction, dst)
    }

    #[inline(never)]
    fn find_flow_way(&mut self, flow: FlowRef, direction: Direction, dst: IpAddr) -> Egress {
        let route = self.tables.fib.lookup(dst, || self.state.flows.way_hash(flow, direction));
        if let Some(Route::Via(hop)) = route {
            self.state.flows.set_next_hop(flow, direction, self.tables.fib_epoch, hop);
        }
        self.follow(route, dst)
    }

    /// The way over a next hop.
    #[inline(always)]
    pub(crate) fn over(&self, hop: NextHopId) -> Egress {
        let Some(adjacency) = self.tables.adjacencies().get(hop) else {
            return Egress::Lost(DropReason::NoRoute);
        };
        let port = adjacency.port;
        let Some(info) = self.tables.port(port) else {
            return Egress::Lost(DropReason::BadDevice);
        };
        match adjacency.mac() {
            Some(mac) => Egress::Ready { port, own: info.mac, mac, mtu: info.mtu },
            None => Egress::Wait { target: Target { port, address: adjacency.address }, mtu: info.mtu },
        }
    }

    /// Sends a packet whose IP and transport headers are final.
    #[inline(always)]
    pub(crate) fn emit(&mut self, mut buf: P::Buf, parsed: &Parsed, dst: IpAddr, egress: Egress) {
        let bytes = trim(&mut buf, parsed);
        match egress {
            Egress::Ready { port, own, mac, .. } => self.send(buf, port, (mac, own), bytes),
            Egress::Wait { target, .. } => self.wait(buf, target, (dst, parsed)),
            Egress::Kernel => self.punt(buf, Kind::of(parsed, self.tables.port(self.port))),
            Egress::Lost(reason) => self.drop(buf, reason),
        }
    }

    /// Puts on the Ethernet addresses, receiver and sender, and gathers the packet for its port.
    #[inline(always)]
    fn send(&mut self, mut buf: P::Buf, port: PortId, (dst, src): (MacAddr, MacAddr), bytes: usize) {
        ether::set_macs(buf.head_mut(), dst, src);
        self.gather(buf, port, bytes);
    }

    /// Keeps a packet until its neighbour is known, and asks for it if nobody has.
    #[cold]
    fn wait(&mut self, buf: P::Buf, target: Target, (dst, parsed): (IpAddr, &Parsed)) {
        let hash = hash_of(parsed);
        match self.state.hold.push(Held { buf, target, dst, hash, since: self.now }) {
            Ok(true) => self.resolve(target),
            Ok(false) => {}
            Err(held) => {
                // Asked for all the same, or a scan of silent addresses would keep every other neighbour unknown.
                if !self.state.hold.knows(target) && self.state.limit.allow(self.now) {
                    self.resolve(target);
                }
                self.drop(held.buf, DropReason::HoldFull);
            }
        }
    }

    /// Gives every held packet another chance under new tables.
    #[cold]
    pub(crate) fn release_held(&mut self) {
        for _ in 0..self.state.hold.len() {
            let Some(held) = self.state.hold.pop() else { break };
            match self.way(held.dst, || held.hash) {
                Egress::Ready { port, own, mac, mtu } => self.send_held(held, (port, mtu), (mac, own)),
                Egress::Wait { target, .. } => {
                    if let Err(held) = self.state.hold.push(Held { target, ..held }) {
                        self.drop(held.buf, DropReason::HoldFull);
                    }
                }
                Egress::Kernel => self.punt(held.buf, Kind::Other),
                Egress::Lost(reason) => self.drop(held.buf, reason),
            }
        }
    }

    /// Sends what was held, unless its way has become too narrow for it: it is no longer what its sender sent, so that
    /// one learns of it by its next packet.
    fn send_held(&mut self, held: Held<P::Buf>, (port, mtu): (PortId, u16), macs: (MacAddr, MacAddr)) {
        let bytes = held.buf.total_len();
        if bytes > usize::from(mtu) + ether::HEADER_LEN {
            return self.drop(held.buf, DropReason::TooBig);
        }
        self.send(held.buf, port, macs, bytes);
    }

    /// Drops what was held too long.
    pub(crate) fn expire_held(&mut self) {
        while let Some(held) = self.state.hold.pop_expired(self.now) {
            self.port = held.target.port;
            self.drop(held.buf, DropReason::NeighborUnresolved);
        }
    }
}

/// Which of several ways a packet takes.
pub(crate) fn hash_of(parsed: &Parsed) -> u64 {
    parsed.addrs().map_or(0, |addrs| way_hash(addrs, parsed.key()))
}

/// Takes off Ethernet padding, which would be read as payload on a link with other framing, and a priority tag; gives
/// the bytes that are left.
#[inline(always)]
fn trim<B: PacketBuf>(buf: &mut B, parsed: &Parsed) -> usize {
    let (len, end) = (buf.total_len(), parsed.frame_end());
    if len > end {
        buf.truncate(end);
    }
    if parsed.vlan.is_some() {
        buf.trim_front(vlan::TAG_LEN);
        return len.min(end) - vlan::TAG_LEN;
    }
    len.min(end)
}
