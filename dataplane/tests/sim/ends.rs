//! Who asks and who serves, as the account of a protocol has them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use packet::MacAddr;
use tables::NatMode;

pub(crate) struct Ends {
    pub(crate) mode: NatMode,
    pub(crate) client: IpAddr,
    pub(crate) vip: SocketAddr,
    /// Backends, and the Ethernet addresses of their machines.
    pub(crate) backends: HashMap<SocketAddr, MacAddr>,
    /// Those of them that are not the Service's.
    pub(crate) gone: HashSet<SocketAddr>,
    /// Packets that were translated before the tables at hand came may still wait for their neighbour.
    pub(crate) held: bool,
}

impl Ends {
    pub(crate) fn new(
        mode: NatMode,
        client: IpAddr,
        vip: SocketAddr,
        backends: HashMap<SocketAddr, MacAddr>,
    ) -> Self {
        Self { mode, client, vip, backends, gone: HashSet::new(), held: false }
    }

    /// Only these backends are not the Service's from now on; `held` if packets wait for a neighbour.
    pub(crate) fn set_gone(&mut self, gone: &[SocketAddr], held: bool) {
        self.gone = gone.iter().copied().collect();
        self.held |= held;
    }

    /// What this address sends may reach the client as its own: a backend that is none any more is routed as any other host.
    /// It may be one again when its packet's neighbour has answered.
    pub(crate) fn is_routed(&self, src: &SocketAddr) -> bool {
        let none = self.gone.contains(src) || self.held && self.backends.contains_key(src);
        self.mode == NatMode::Dnat && none
    }
}
