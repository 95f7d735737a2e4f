//! Machines with a real stack, and what those programs do that speak TCP: clients that send a stream in chunks and want it back, and
//! servers that send back what they get.

use std::net::IpAddr;

use packet::{AnyKey, Body, MacAddr, Parsed};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::{Socket, tcp},
    time::{Duration, Instant},
    wire::{EthernetAddress, IpAddress, IpCidr},
};
use tables::Millis;

use crate::{
    card::{Card, told_mtu},
    scenario::Plan,
};

pub(crate) const SERVER_PORT: u16 = 8_080;
/// Sockets that wait for clients; each takes one.
const LISTENING: usize = 3;
/// After so long without an answer a connection is given up: far more than loss alone can cause.
const GIVE_UP: Duration = Duration::from_secs(600);

pub(crate) struct Host {
    pub(crate) mac: MacAddr,
    pub(crate) card: Card,
    addresses: Vec<IpAddr>,
    iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
}

impl Host {
    pub(crate) fn new(
        (seed, mut card): (u64, Card),
        mac: MacAddr,
        addresses: &[(IpAddr, u8)],
        gateway: IpAddr,
    ) -> Self {
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut card, Instant::ZERO);
        iface.update_ip_addrs(|list| {
            for (address, length) in addresses {
                list.push(IpCidr::new((*address).into(), *length)).expect("two addresses at most");
            }
        });
        let routes = iface.routes_mut();
        let added = match gateway {
            IpAddr::V4(gateway) => routes.add_default_ipv4_route(gateway).is_ok(),
            IpAddr::V6(gateway) => routes.add_default_ipv6_route(gateway).is_ok(),
        };
        assert!(added, "one default route");
        let addresses = addresses.iter().map(|(address, _)| *address).collect();
        Self { mac, card, addresses, iface, sockets: SocketSet::new(Vec::new()) }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 8_192]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_timeout(Some(GIVE_UP));
        socket.set_keep_alive(Some(Duration::from_secs(30)));
        self.sockets.add(socket)
    }

    pub(crate) fn poll(&mut self, now: Millis) {
        self.iface.poll(at(now), &mut self.card, &mut self.sockets);
    }

    /// When its stack next has something to do.
    pub(crate) fn poll_at(&mut self, now: Millis) -> Option<u32> {
        let next = self.iface.poll_at(at(now), &self.sockets)?;
        u32::try_from(next.total_millis()).ok()
    }

    /// A frame comes in. A router's word on what fits must be about a packet of this host's own.
    pub(crate) fn receive(&mut self, parsed: &Parsed, frame: &[u8]) {
        let too_big = told_mtu(parsed, frame);
        if let (Some(mtu), Body::Icmp(icmp)) = (too_big, &parsed.body) {
            // About a later part of a datagram: the first one was told of as well.
            let Some(about) = icmp.inner.map(|inner| inner.key) else { return };
            assert!(self.has(icmp.addrs.dst()) && self.has(about.src()), "not its own packet: {icmp:?}");
            return self.card.told(mtu);
        }
        // smoltcp would give the copy of a SYN to another socket that listens.
        if !parsed.key().is_some_and(|key| opens(parsed) && self.knows(key)) {
            self.card.arrive(parsed, frame);
        }
    }

    /// One of its sockets has this connection.
    fn knows(&self, key: AnyKey) -> bool {
        let ends = |(_, socket): (_, &Socket<'_>)| {
            let Socket::Tcp(socket) = socket else { return false };
            socket.remote_endpoint() == Some((key.src(), key.sport()).into())
                && socket.local_endpoint() == Some((key.dst(), key.dport()).into())
        };
        self.sockets.iter().any(ends)
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Its connections are gone, and nobody is told.
    pub(crate) fn crash(&mut self) {
        self.sockets = SocketSet::new(Vec::new());
    }

    /// The server's program: takes whoever comes, sends back what it gets, closes when its client does.
    pub(crate) fn serve(&mut self) {
        let mut ended = Vec::new();
        let mut listening = 0;
        for (handle, socket) in self.sockets.iter_mut() {
            let Socket::Tcp(socket) = socket else { continue };
            listening += usize::from(socket.is_listening());
            echo(socket);
            if socket.state() == tcp::State::CloseWait && socket.send_queue() == 0 && !socket.can_recv() {
                socket.close();
            }
            if socket.state() == tcp::State::Closed {
                ended.push(handle);
            }
        }
        ended.into_iter().for_each(|handle| drop(self.sockets.remove(handle)));
        for _ in listening..LISTENING {
            let handle = self.socket();
            self.sockets.get_mut::<tcp::Socket<'_>>(handle).listen(SERVER_PORT).expect("a port");
        }
    }
}

fn opens(parsed: &Parsed) -> bool {
    matches!(parsed.body, Body::Flow { tcp_flags, .. } if tcp_flags.opens())
}

fn at(now: Millis) -> Instant {
    Instant::from_millis(i64::from(now.0))
}

/// Sends back what has come.
fn echo(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() && socket.can_send() {
        let room = socket.send_capacity() - socket.send_queue();
        let bytes = socket.recv(|bytes| {
            let len = bytes.len().min(room);
            (len, bytes[..len].to_vec())
        });
        let bytes = bytes.expect("there are some");
        assert_eq!(socket.send_slice(&bytes), Ok(bytes.len()));
    }
}

/// A client's connection, and its program.
pub(crate) struct Connection {
    pub(crate) plan: Plan,
    pub(crate) port: u16,
    handle: Option<SocketHandle>,
    /// Bytes of the chunks that are begun; those of them that the stack has, and those that came back.
    begun: usize,
    sent: usize,
    pub(crate) received: usize,
    /// When the connection, or the next chunk, is begun.
    next_ms: u32,
    pub(crate) end: Option<End>,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// All bytes came back.
    Whole,
    /// Its stack says that it is over before that.
    Broken,
}

impl Connection {
    pub(crate) fn new(plan: Plan, port: u16, now: Millis) -> Self {
        let next_ms = now.0 + plan.start_ms;
        Self { plan, port, handle: None, begun: 0, sent: 0, received: 0, next_ms, end: None }
    }

    /// When its program next does something by itself.
    pub(crate) fn wakes_at(&self, now: Millis) -> Option<u32> {
        let waits = self.end.is_none() && self.received == self.begun && self.next_ms >= now.0;
        waits.then_some(self.next_ms)
    }

    /// It has begun.
    pub(crate) const fn has_begun(&self) -> bool {
        self.handle.is_some()
    }

    pub(crate) fn step(&mut self, client: &mut Host, vip: (IpAddr, u16), now: Millis) {
        if self.end.is_some() || self.received == self.begun && now.0 < self.next_ms {
            return;
        }
        let handle = *self.handle.get_or_insert_with(|| {
            let handle = client.socket();
            let socket = client.sockets.get_mut::<tcp::Socket<'_>>(handle);
            let vip = (IpAddress::from(vip.0), vip.1);
            socket.connect(client.iface.context(), vip, self.port).expect("a free port");
            handle
        });
        let socket = client.sockets.get_mut::<tcp::Socket<'_>>(handle);
        self.receive(socket, now);
        self.send(socket, now);
    }

    fn receive(&mut self, socket: &mut tcp::Socket<'_>, now: Millis) {
        let mut buffer = [0; 2_048];
        while socket.can_recv() {
            let len = socket.recv_slice(&mut buffer).expect("there are some");
            for got in &buffer[..len] {
                assert_eq!(*got, self.byte(self.received), "bytes arrive whole and in order");
                self.received += 1;
            }
            assert!(self.received <= self.sent, "more came back than was sent");
            self.next_ms = now.0 + self.plan.pause_ms;
        }
        if self.received == self.plan.bytes() {
            self.end = Some(End::Whole);
            socket.close();
        } else if !socket.is_open() {
            self.end = Some(End::Broken);
        }
    }

    fn send(&mut self, socket: &mut tcp::Socket<'_>, now: Millis) {
        if self.end.is_some() || !socket.can_send() {
            return;
        }
        if self.received == self.begun && now.0 >= self.next_ms {
            self.begun += self.plan.chunk_bytes;
        }
        let chunk: Vec<u8> = (self.sent..self.begun).map(|at| self.byte(at)).collect();
        self.sent += socket.send_slice(&chunk).expect("it can send");
    }

    /// The byte of its stream at a position.
    fn byte(&self, at: usize) -> u8 {
        u8::try_from((at * 7 + at / 251 + usize::from(self.port)) % 256).expect("a remainder")
    }
}
