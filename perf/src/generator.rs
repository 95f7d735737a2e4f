//! Plays the clients and the backends on the two ports of a gateway, over any kind of port.
//!
//! It opens its flows with real handshakes through the gateway, then sends packets of them in both directions as fast as
//! they are taken, and counts what comes back; a sample is checked for addresses, ports and checksums. Against a device that
//! only forwards frames it skips the handshakes.

use std::{
    collections::HashSet,
    fmt,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use dataplane::{
    buf::{BURST, Burst, PacketBuf},
    io::PortIo,
};
use packet::{AnyKey, FlowKey, MacAddr, TcpFlags, parse, testkit::assert_valid_checksums};

use crate::{Template, stand::client};

/// Flows that are opened at once.
const OPENING: usize = 128;
/// How long an opening may take, with its retries.
const PATIENCE: Duration = Duration::from_secs(5);
/// One received frame in as many is checked.
const SAMPLE: u64 = 1024;

/// The Ethernet addresses at the two ends of one link.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The gateway's.
    pub gateway: MacAddr,
    /// Ours.
    pub ours: MacAddr,
}

/// What a run of traffic came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Frames sent, both ways.
    pub sent: u64,
    /// Frames that came back, both ways.
    pub returned: u64,
    /// Frames that were checked.
    pub checked: u64,
    /// How long it took.
    pub time: Duration,
}

impl Traffic {
    /// Million frames a second that came back.
    #[must_use]
    pub fn mpps(&self) -> f64 {
        self.returned as f64 / self.time.as_secs_f64() / 1e6
    }
}

/// Why there is no traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GeneratorError {
    /// The gateway did not forward these many handshakes.
    NotOpened(usize),
    /// What came back was sent by nobody here.
    WrongPacket,
}

impl fmt::Display for GeneratorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpened(flows) => write!(f, "{flows} flows could not be opened through the gateway"),
            Self::WrongPacket => f.write_str("the gateway sent a packet that belongs to no flow"),
        }
    }
}

impl std::error::Error for GeneratorError {}

/// One link of the gateway, and the frames that are sent over it.
struct Side<P: PortIo> {
    io: P,
    frames: Vec<Vec<u8>>,
    /// Keys of what may come back.
    expected: HashSet<FlowKey<Ipv4Addr>>,
    next: usize,
    tx: Burst<P::Buf>,
    received: u64,
    checked: u64,
}

impl<P: PortIo> Side<P> {
    fn new(io: P) -> Self {
        let (frames, expected) = (Vec::new(), HashSet::new());
        Self { io, frames, expected, next: 0, tx: Burst::new(), received: 0, checked: 0 }
    }

    /// Sends some frames now, as far as the port takes them.
    fn send_all<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) {
        for frame in frames {
            if self.tx.len() == BURST {
                self.io.tx(&mut self.tx);
            }
            if let Some(buf) = filled(&mut self.io, frame) {
                // A full burst is lost like on any wire; the caller tries again.
                drop(self.tx.push(buf));
            }
        }
        self.io.tx(&mut self.tx);
    }

    /// Fills the burst from the rotating frames and sends what is taken; how many that is.
    fn blast(&mut self) -> u64 {
        while self.tx.len() < BURST {
            let Some(buf) = filled(&mut self.io, &self.frames[self.next]) else { break };
            if self.tx.push(buf).is_err() {
                break;
            }
            self.next = if self.next + 1 == self.frames.len() { 0 } else { self.next + 1 };
        }
        let before = self.tx.len();
        self.io.tx(&mut self.tx);
        (before - self.tx.len()) as u64
    }

    /// Receives a burst and counts it; a sample must be packets of our flows, if these are known.
    fn count(&mut self, rx: &mut Burst<P::Buf>) -> Result<u64, GeneratorError> {
        self.io.rx(rx);
        let count = rx.len() as u64;
        if self.received / SAMPLE != (self.received + count) / SAMPLE && !self.expected.is_empty() {
            for buf in rx.iter().take(1) {
                if let Some(key) = flow_of(buf.head()) {
                    assert_valid_checksums(buf.head());
                    self.checked += 1;
                    if !self.expected.contains(&key) {
                        return Err(GeneratorError::WrongPacket);
                    }
                }
            }
        }
        self.received += count;
        empty(rx);
        Ok(count)
    }

    /// The TCP flows of what has arrived.
    fn arrived(&mut self, rx: &mut Burst<P::Buf>) -> Vec<FlowKey<Ipv4Addr>> {
        self.io.rx(rx);
        let keys = rx.iter().filter_map(|buf| flow_of(buf.head())).collect();
        empty(rx);
        keys
    }
}

/// Gives the buffers of a burst back.
fn empty<B>(burst: &mut Burst<B>) {
    for slot in 0..burst.len() {
        drop(burst.take(slot));
    }
    burst.clear();
}

fn filled<P: PortIo>(io: &mut P, frame: &[u8]) -> Option<P::Buf> {
    let mut buf = io.alloc()?;
    buf.append(frame.len())?.copy_from_slice(frame);
    Some(buf)
}

fn flow_of(frame: &[u8]) -> Option<FlowKey<Ipv4Addr>> {
    match parse(frame, frame.len()).ok()?.key() {
        Some(AnyKey::V4(key)) => Some(key),
        _ => None,
    }
}

/// See the module.
pub struct Generator<P: PortIo> {
    outside: Side<P>,
    inside: Side<P>,
    ends: (Ends, Ends),
    rx: Burst<P::Buf>,
}

impl<P: PortIo> Generator<P> {
    /// A generator on the clients' and the backends' link.
    pub fn new(outside: (P, Ends), inside: (P, Ends)) -> Self {
        let ends = (outside.1, inside.1);
        Self { outside: Side::new(outside.0), inside: Side::new(inside.0), ends, rx: Burst::new() }
    }

    /// Opens flows to the VIP through the gateway. `between` runs whenever there is nothing to do.
    ///
    /// # Errors
    /// If a flow cannot be opened within 5 seconds.
    pub fn establish(
        &mut self,
        flows: u32,
        mut between: impl FnMut([&mut P; 2]),
    ) -> Result<(), GeneratorError> {
        let (outside, inside) = self.ends;
        let syn = Template::new(outside.gateway, outside.ours, TcpFlags::SYN);
        let ack = Template::new(outside.gateway, outside.ours, TcpFlags::ACK);
        let syn_ack = Template::new(inside.gateway, inside.ours, TcpFlags::SYN | TcpFlags::ACK);
        let data = Template::new(inside.gateway, inside.ours, TcpFlags::ACK | TcpFlags::PSH);
        let clients: Vec<_> = (0..flows).map(client).collect();
        for clients in clients.chunks(OPENING) {
            let mut missing: HashSet<_> = clients.iter().copied().collect();
            let (start, mut asked) = (Instant::now(), None::<Instant>);
            while !missing.is_empty() {
                if start.elapsed() > PATIENCE {
                    return Err(GeneratorError::NotOpened(missing.len()));
                }
                if asked.is_none_or(|asked| asked.elapsed() > PATIENCE / 10) {
                    asked = Some(Instant::now());
                    let frames: Vec<_> = missing.iter().map(|key| syn.frame(key)).collect();
                    self.outside.send_all(frames.iter().map(Vec::as_slice));
                }
                between(self.ports_mut());
                for key in self.inside.arrived(&mut self.rx) {
                    if self.inside.expected.insert(key) {
                        self.inside.frames.push(data.frame(&key.reversed()));
                    }
                    self.inside.send_all([&syn_ack.frame(&key.reversed())[..]].into_iter());
                }
                for key in self.outside.arrived(&mut self.rx) {
                    self.outside.expected.insert(key);
                    let frame = ack.frame(&key.reversed());
                    self.outside.send_all([&frame[..]].into_iter());
                    if missing.remove(&key.reversed()) {
                        self.outside.frames.push(frame);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes flows as they are, for a device that knows none.
    pub fn assume(&mut self, flows: u32) {
        let (outside, inside) = self.ends;
        let ack = Template::new(outside.gateway, outside.ours, TcpFlags::ACK);
        let data = Template::new(inside.gateway, inside.ours, TcpFlags::ACK | TcpFlags::PSH);
        self.outside.frames = (0..flows).map(|n| ack.frame(&client(n))).collect();
        self.inside.frames = (0..flows).map(|n| data.frame(&client(n).reversed())).collect();
    }

    /// Sends in both directions for this long. `between` runs once a burst.
    ///
    /// # Errors
    /// If a checked packet is not one of the opened flows.
    pub fn run(
        &mut self,
        time: Duration,
        mut between: impl FnMut([&mut P; 2]),
    ) -> Result<Traffic, GeneratorError> {
        let (mut sent, mut returned, start) = (0, 0, Instant::now());
        while start.elapsed() < time {
            for _ in 0..64 {
                sent += self.outside.blast() + self.inside.blast();
                between(self.ports_mut());
                returned += self.inside.count(&mut self.rx)? + self.outside.count(&mut self.rx)?;
            }
        }
        let checked = self.outside.checked + self.inside.checked;
        Ok(Traffic { sent, returned, checked, time: start.elapsed() })
    }

    /// The two ports, outside first.
    fn ports_mut(&mut self) -> [&mut P; 2] {
        [&mut self.outside.io, &mut self.inside.io]
    }
}
