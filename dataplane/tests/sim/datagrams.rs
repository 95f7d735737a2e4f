//! What must hold of every datagram that the appliance sends, by an account of its own: clients are told apart by what is in
//! their datagrams, and one's go to one backend as long as that is the Service's, and from then on to another one.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use packet::{AnyKey, MacAddr, Parsed, first_fragment};
use tables::{NatMode, PortId};

use dataplane::testkit::INSIDE;

use crate::{asker::client_of, ends::Ends, parts::name_of};

pub(crate) struct Datagrams {
    pub(crate) ends: Ends,
    /// Of each client, by its port: its datagrams as its backend sees them.
    pinned: HashMap<u16, AnyKey>,
    /// The appliance has forgotten its flows: ports of its own may mean another client.
    pub(crate) forgetful: bool,
    /// Datagrams whose first part went this way, to a backend that is the Service's still; names are used once.
    begun: HashMap<u32, HashSet<(IpAddr, IpAddr)>>,
    /// Clients that ask no more.
    ended: HashSet<u16>,
}

impl Datagrams {
    pub(crate) fn new(ends: Ends) -> Self {
        let (pinned, begun, ended) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { ends, pinned, forgetful: false, begun, ended }
    }

    /// Only these backends are not the Service's from now on: their clients go elsewhere with their next datagram, and with what
    /// is left of the last one. `held` if packets wait for a neighbour.
    pub(crate) fn set_gone(&mut self, gone: &[SocketAddr], held: bool) {
        self.ends.set_gone(gone, held);
        self.pinned.retain(|_, key| !gone.contains(&end(*key)));
        let left = |to: &IpAddr| gone.iter().any(|at| at.ip() == *to);
        self.begun.retain(|_, ways| !ways.iter().any(|(_, to)| left(to)));
    }

    /// A client asks no more: its flow ends, and another one's may have the same port.
    pub(crate) fn ended(&mut self, client: u16) {
        self.pinned.remove(&client);
        self.ended.insert(client);
    }

    /// The appliance has forgotten its flows.
    pub(crate) fn forget(&mut self) {
        self.pinned.clear();
        self.forgetful = true;
    }

    /// The appliance sends a datagram, or a part of one.
    pub(crate) fn appliance_sends(&mut self, port: PortId, parsed: &Parsed, frame: &[u8]) {
        match parsed.key().or_else(|| first_fragment(frame, parsed).map(|(key, _)| key)) {
            Some(key) => {
                let client = client_of(&frame[parsed.l4.into()..]);
                if let Some((src, dst, id)) = name_of(parsed) {
                    self.begun.entry(id).or_default().insert((src, dst));
                }
                if port == INSIDE {
                    self.check_inside(client, key, parsed);
                } else {
                    self.check_outside(client, key);
                }
            }
            None => self.check_later(port, parsed),
        }
    }

    fn check_inside(&mut self, client: u16, key: AnyKey, parsed: &Parsed) {
        assert_eq!(
            self.ends.backends.get(&end(key)),
            Some(&parsed.dst_mac),
            "{key:?} is for no backend's machine"
        );
        if self.ends.mode == NatMode::Dnat {
            assert_eq!((key.src(), key.sport()), (self.ends.client, client), "the client's address is kept");
        }
        if self.ends.gone.contains(&end(key)) {
            return assert!(self.ends.held, "{key:?} goes to a backend that is gone");
        }
        if self.ended.contains(&client) {
            return;
        }
        let other = self.pinned.iter().find(|(port, pinned)| **port != client && **pinned == key);
        assert!(other.is_none(), "two clients are one at {key:?}: {client} and {other:?}");
        if !self.ends.held {
            let pinned = self.pinned.insert(client, key).unwrap_or(key);
            assert_eq!(pinned, key, "{client} was elsewhere");
        }
    }

    fn check_outside(&self, client: u16, key: AnyKey) {
        let src = SocketAddr::new(key.src(), key.sport());
        assert_eq!(key.dst(), self.ends.client, "the client asked");
        assert!(self.forgetful || key.dport() == client, "an answer to {client} goes to {key:?}");
        assert!(src == self.ends.vip || self.ends.is_routed(&src), "the client asked the VIP, not {src}");
    }

    /// A part without ports goes where the first one of its datagram went, if that went anywhere. One that comes once more when
    /// its datagram is gone waits for a first one in vain, and is then routed as it is, if it is not for an address of ours:
    /// nobody knows it.
    fn check_later(&self, port: PortId, parsed: &Parsed) {
        let (src, dst, id) = name_of(parsed).expect("only UDP is in parts here");
        let Ends { mode, client, backends, gone, held, .. } = &self.ends;
        if port != INSIDE && *mode == NatMode::Dnat && backends.keys().any(|at| at.ip() == src) {
            return assert_eq!(dst, *client);
        }
        if port == INSIDE {
            let of = |(at, _): &(&SocketAddr, &MacAddr)| at.ip() == dst;
            let (at, mac) = backends.iter().find(of).expect("a backend");
            assert_eq!(parsed.dst_mac, *mac);
            assert!(*held || !gone.contains(at), "a part for a backend that is gone");
        }
        match self.begun.get(&id) {
            Some(ways) => assert!(ways.contains(&(src, dst)), "{id}: {src} > {dst}, and it began {ways:?}"),
            None => assert!(port == INSIDE || dst == *client),
        }
    }
}

fn end(key: AnyKey) -> SocketAddr {
    SocketAddr::new(key.dst(), key.dport())
}
