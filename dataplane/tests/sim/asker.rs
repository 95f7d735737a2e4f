//! Machines that speak UDP, and what their programs do: clients that ask numbered questions and ask again until each is
//! answered, and servers that answer. What is in a datagram follows from whose it is, so each end can tell that it is whole.

use std::net::SocketAddr;

use smoltcp::{
    iface::SocketHandle,
    socket::udp,
    wire::{IpAddress, IpEndpoint},
};
use tables::Millis;

use crate::{
    host::{Host, SERVER_PORT},
    scenario::Asking,
};

/// How long a client waits for an answer before it asks again, in milliseconds.
const PATIENCE_MS: u32 = 1_000;
/// A question is given up after so many tries. Of a datagram in five parts each way, over two wires that lose 7 in 100 each, one
/// try in four is answered: none of 200 is by chance once in 10^22.
const TRIES_MAX: u32 = 200;
/// The same where something happened that may leave it without an answer.
const TRIES_HARMED: u32 = 10;
const UDP_HEADER: usize = 8;

/// What stands in front of what is said: whose question, which, how long an answer it wants, how long this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    port: u16,
    number: u16,
    want: u16,
    len: u16,
}

impl Header {
    fn of(payload: &[u8]) -> Self {
        let at = |n: usize| u16::from_be_bytes([payload[n], payload[n + 1]]);
        Self { port: at(0), number: at(2), want: at(4), len: at(6) }
    }

    /// The whole datagram.
    fn datagram(self) -> Vec<u8> {
        let head = [self.port, self.number, self.want, self.len].map(u16::to_be_bytes);
        let byte = |at: u16| (at.wrapping_mul(7) ^ (at / 251) ^ self.port ^ self.number).to_le_bytes()[0];
        head.concat().into_iter().chain((0..self.len).map(byte)).collect()
    }

    /// Checks that all of it has come.
    fn check(payload: &[u8]) -> Self {
        let header = Self::of(payload);
        assert_eq!(header.datagram(), payload, "a datagram arrives whole");
        header
    }
}

impl Host {
    /// A socket for datagrams at this port.
    fn datagrams(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16_384]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a free port");
        self.sockets.add(socket)
    }

    /// The server's program: answers every question, with a datagram as long as it wants.
    pub(crate) fn answer(&mut self) {
        let known = self.sockets.iter().next().map(|(handle, _)| handle);
        let handle = known.unwrap_or_else(|| self.datagrams(SERVER_PORT));
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
        while socket.can_recv() && socket.can_send() {
            let (payload, from) = socket.recv().expect("there is one");
            let asked = Header::check(payload);
            let answer = Header { want: 0, len: asked.want, ..asked }.datagram();
            // What finds no room is lost, as in any stack.
            let _full = socket.send_slice(&answer, from);
        }
    }
}

/// A client's program.
pub(crate) struct Asker {
    pub(crate) plan: Asking,
    pub(crate) port: u16,
    handle: SocketHandle,
    /// Of the question that is asked, or will be next.
    number: u16,
    tries: u32,
    /// Questions that were sent, those included that were asked again.
    sent: u32,
    /// When something is sent next.
    next_ms: u32,
    /// Something happened that may leave questions without an answer.
    pub(crate) harmed: bool,
    pub(crate) given_up: bool,
}

impl Asker {
    pub(crate) fn new(plan: Asking, port: u16, host: &mut Host, now: Millis) -> Self {
        let handle = host.datagrams(port);
        let next_ms = now.0 + plan.start_ms;
        Self { plan, port, handle, number: 0, tries: 0, sent: 0, next_ms, harmed: false, given_up: false }
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.given_up || self.number == self.plan.questions
    }

    /// Nothing had to be asked twice.
    pub(crate) fn lost_nothing(&self) -> bool {
        self.sent == self.plan.questions.into()
    }

    /// When its program next does something by itself.
    pub(crate) fn wakes_at(&self) -> Option<u32> {
        (!self.is_done()).then_some(self.next_ms)
    }

    /// Takes answers, and asks. `forgetful` where the appliance may have forgotten who asked what.
    pub(crate) fn step(&mut self, host: &mut Host, vip: SocketAddr, now: Millis, forgetful: bool) {
        let socket = host.sockets.get_mut::<udp::Socket<'_>>(self.handle);
        while socket.can_recv() {
            let (payload, from) = socket.recv().expect("there is one");
            let from = SocketAddr::new(from.endpoint.addr.into(), from.endpoint.port);
            let answer = Header::check(payload);
            // Of a backend that is none any more; or late, to a port that is another client's by now.
            if from != vip || answer.port != self.port && forgetful {
                continue;
            }
            assert_eq!(answer.port, self.port, "an answer to another client: {answer:?}");
            assert_eq!(usize::from(answer.len), self.plan.answer_bytes);
            assert!(answer.number <= self.number, "an answer to what was not asked: {answer:?}");
            if answer.number == self.number && self.tries > 0 {
                (self.number, self.tries, self.next_ms) = (self.number + 1, 0, now.0 + self.plan.pause_ms);
            }
        }
        if !self.is_done() && now.0 >= self.next_ms {
            self.ask(socket, vip, now);
        }
    }

    fn ask(&mut self, socket: &mut udp::Socket<'_>, vip: SocketAddr, now: Millis) {
        let tries_max = if self.harmed { TRIES_HARMED } else { TRIES_MAX };
        if self.tries >= tries_max {
            self.given_up = true;
            return;
        }
        let short = |len: usize| u16::try_from(len).expect("a short datagram");
        let (want, len) = (short(self.plan.answer_bytes), short(self.plan.question_bytes));
        let question = Header { port: self.port, number: self.number, want, len }.datagram();
        let to = IpEndpoint::new(IpAddress::from(vip.ip()), vip.port());
        let _full = socket.send_slice(&question, to);
        (self.tries, self.sent, self.next_ms) = (self.tries + 1, self.sent + 1, now.0 + PATIENCE_MS);
    }
}

/// The client that a datagram is about: asked by it, or answered to it.
pub(crate) fn client_of(udp: &[u8]) -> u16 {
    Header::of(&udp[UDP_HEADER..]).port
}
