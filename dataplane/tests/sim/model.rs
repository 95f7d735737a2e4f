//! What must hold of every frame that the appliance sends, by an account of its own: clients are told apart by their
//! sequence numbers, which no translation changes, and a connection stays at the backend that it began at.

use std::{collections::HashMap, net::SocketAddr};

use packet::{AnyKey, Body, Fragment, Parsed, parse, tcp, testkit::assert_valid_checksums};
use tables::{NatMode, PortId};

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE};

use crate::{datagrams::Datagrams, ends::Ends, parts::is_udp};

/// Where a connection is.
struct Pinned {
    /// Its packets as its backend sees them.
    key: AnyKey,
    /// Its client has acknowledged the answer of the backend: from here on it stays.
    established: bool,
}

/// What is known of a client's connection.
struct Client {
    /// Its first sequence number.
    isn: u32,
    /// Sequence numbers that it uses, and that it may be told it used.
    span: u32,
    pinned: Option<Pinned>,
    /// Its program has all it wants, or it was reset; its flow may end, and begin again elsewhere.
    ended: bool,
    /// It had a flow that the appliance has, or may have, forgotten.
    forgotten: bool,
}

pub(crate) struct Model {
    ends: Ends,
    /// By the client's port.
    clients: HashMap<u16, Client>,
    pub(crate) datagrams: Datagrams,
}

impl Model {
    pub(crate) fn new(ends: Ends, datagrams: Datagrams) -> Self {
        Self { ends, clients: HashMap::new(), datagrams }
    }

    /// A client begins a connection with this many bytes to send.
    pub(crate) fn client_sends(&mut self, frame: &[u8], bytes: usize) {
        let parsed = parse(frame, frame.len()).expect("a stack's frame parses");
        let Body::Flow { key, tcp_flags } = parsed.body else { return };
        if tcp_flags.opens() {
            let isn = tcp_of(&parsed, frame).seq();
            let span = u32::try_from(bytes).expect("a short stream") + 2;
            let new = || Client { isn, span, pinned: None, ended: false, forgotten: false };
            let client = self.clients.entry(key.sport()).or_insert_with(new);
            assert_eq!(client.isn, isn, "one connection a port");
        }
    }

    /// The connection of this port has all it wants, or is over.
    pub(crate) fn ended(&mut self, port: u16) {
        if let Some(client) = self.clients.get_mut(&port) {
            client.ended = true;
        }
    }

    /// It has passed the point from which on it stays where it is.
    pub(crate) fn is_established(&self, port: u16) -> bool {
        let pinned = self.clients.get(&port).and_then(|client| client.pinned.as_ref());
        pinned.is_some_and(|pinned| pinned.established)
    }

    /// Only these backends are not the Service's from now on; `held` if packets wait for a neighbour.
    pub(crate) fn set_gone(&mut self, gone: &[SocketAddr], held: bool) {
        self.ends.set_gone(gone, held);
        self.datagrams.set_gone(gone, held);
    }

    /// Nothing waits any more.
    pub(crate) const fn settled(&mut self) {
        self.ends.held = false;
        self.datagrams.ends.held = false;
    }

    /// A backend goes: the appliance forgets flows there that are not established, when their clients ask again.
    pub(crate) fn unsettle(&mut self) {
        for client in self.clients.values_mut() {
            client.forgotten |= !client.pinned.as_ref().is_some_and(|pinned| pinned.established);
        }
    }

    /// The appliance has forgotten its flows.
    pub(crate) fn forget(&mut self) {
        for client in self.clients.values_mut() {
            (client.pinned, client.forgotten) = (None, true);
        }
        self.datagrams.forget();
    }

    /// The appliance sends a frame.
    pub(crate) fn appliance_sends(&mut self, port: PortId, frame: &[u8]) {
        let parsed = parse(frame, frame.len()).expect("what is sent parses");
        assert_eq!(parsed.src_mac, Fixture::port_mac(port));
        assert!(parsed.ip_checksum_right, "{parsed:?}");
        // Of a datagram in parts it is looked at where it is put together.
        if parsed.fragment == Fragment::Whole {
            assert_valid_checksums(frame);
        }
        if is_udp(&parsed) {
            return self.datagrams.appliance_sends(port, &parsed, frame);
        }
        let Body::Flow { key, .. } = parsed.body else { return };
        match port {
            INSIDE => self.check_inside(key, &parsed, frame),
            OUTSIDE => self.check_outside(key, &parsed, frame),
            _ => panic!("there are two ports"),
        }
    }

    fn check_inside(&mut self, key: AnyKey, parsed: &Parsed, frame: &[u8]) {
        let mac = self
            .ends
            .backends
            .get(&SocketAddr::new(key.dst(), key.dport()))
            .unwrap_or_else(|| panic!("{key:?} is for no backend"));
        assert_eq!(parsed.dst_mac, *mac, "{key:?} goes to another machine");
        let tcp = tcp_of(parsed, frame);
        let Some(port) = self.sender(key, &tcp) else {
            // A reset says what was acknowledged to it.
            assert!(tcp.flags().rst(), "nobody sent this: {key:?} {}", tcp.flags());
            return;
        };
        let client = self.clients.get_mut(&port).expect("a client's port");
        if self.ends.mode == NatMode::Dnat {
            assert_eq!((key.src(), key.sport()), (self.ends.client, port), "the client's address is kept");
        }
        client.ended |= tcp.flags().rst();
        if client.ended {
            return;
        }
        match &mut client.pinned {
            Some(pinned) if pinned.key == key => pinned.established |= !tcp.flags().syn(),
            // A SYN sent again may begin anew while no answer to it was acknowledged.
            Some(Pinned { established: false, .. }) if tcp.flags().opens() => {
                client.pinned = Some(Pinned { key, established: false });
            }
            Some(pinned) => panic!("a packet of {:?} goes to {key:?}", pinned.key),
            none => *none = Some(Pinned { key, established: false }),
        }
    }

    /// The client that a packet to a backend comes from.
    fn sender(&self, key: AnyKey, tcp: &tcp::Header<&[u8; tcp::HEADER_LEN]>) -> Option<u16> {
        let seq = tcp.seq();
        let find = |is: &dyn Fn(&Client) -> bool| self.clients.iter().find(|(_, client)| is(client));
        let known = |client: &Client| client.pinned.as_ref().is_some_and(|pinned| pinned.key == key);
        let found = match tcp.flags().opens() {
            true => find(&|client| client.isn == seq),
            // Streams of two may overlap.
            false => {
                find(&|client| client.sent(seq) && known(client)).or_else(|| find(&|client| client.sent(seq)))
            }
        };
        found.map(|(port, _)| *port)
    }

    fn check_outside(&mut self, key: AnyKey, parsed: &Parsed, frame: &[u8]) {
        let client = self.clients.get_mut(&key.dport()).expect("a client's port");
        assert_eq!(key.dst(), self.ends.client, "the client asked");
        let src = SocketAddr::new(key.src(), key.sport());
        if src != self.ends.vip {
            // A backend that goes on after its flow went.
            let routed = self.ends.is_routed(&src) && (client.ended || client.forgotten);
            return assert!(routed, "the client asked the VIP, not {src}");
        }
        let tcp = tcp_of(parsed, frame);
        let answers = !tcp.flags().ack() || client.sent(tcp.ack());
        assert!(answers, "{key:?} acknowledges what this client did not send: {}", tcp.flags());
        client.ended |= tcp.flags().rst();
    }
}

impl Client {
    /// The number is in this client's stream.
    const fn sent(&self, number: u32) -> bool {
        number.wrapping_sub(self.isn) <= self.span
    }
}

fn tcp_of<'a>(parsed: &Parsed, frame: &'a [u8]) -> tcp::Header<&'a [u8; tcp::HEADER_LEN]> {
    tcp::Header::at(frame, parsed.l4).expect("only TCP is spoken here")
}
