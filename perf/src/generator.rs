//! Plays the clients and the backends on the two ports of a gateway, over any kind of port.
//!
//! It opens its flows with real handshakes through the gateway, then sends packets of them in both directions as fast as
//! they are taken, and counts what comes back; a sample is checked for addresses, ports and checksums. Or each packet is
//! the first of a new flow. Against a device that only forwards frames it skips the handshakes.

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
use packet::{AnyKey, Body, FlowKey, MacAddr, TcpFlags, parse, testkit::assert_valid_checksums};

use serde::{Serialize, Serializer};

use crate::{
    FRAME_LEN, Random, Template, shuffle,
    slices::Slices,
    stand::{VIP, client, is_client},
};

/// Flows that are opened at once.
pub(crate) const OPENING: usize = 128;
/// How long an opening may take, with its retries.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// When a SYN that came to nothing is sent again.
pub(crate) const RETRY: Duration = Duration::from_millis(20);
/// One received frame in as many is checked.
const SAMPLE: u64 = 1024;
/// The rate is told in slices of this time, so that a wire that changed below a run is seen.
pub(crate) const SLICE: Duration = Duration::from_millis(20);

/// The Ethernet addresses at the two ends of one link.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The gateway's.
    pub gateway: MacAddr,
    /// Ours.
    pub ours: MacAddr,
}

/// What a run of traffic came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// Frames sent, both ways.
    pub sent: u64,
    /// Frames that came back, both ways.
    pub returned: u64,
    /// Frames that were checked.
    pub checked: u64,
    /// How long it took.
    #[serde(serialize_with = "as_seconds", rename = "seconds")]
    pub time: Duration,
    /// Million frames a second that came back, in slices of 20 ms.
    pub slices: Vec<f64>,
}

impl Traffic {
    /// Million frames a second that came back.
    #[must_use]
    pub fn mpps(&self) -> f64 {
        self.returned as f64 / self.time.as_secs_f64() / 1e6
    }
}

fn as_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Why there is no traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GeneratorError {
    /// The gateway did not forward these many handshakes.
    NotOpened(usize),
    /// Packets to the Service came to the backends' link as they were.
    NotTranslated,
    /// What came back was sent by nobody here.
    WrongPacket,
}

impl fmt::Display for GeneratorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpened(flows) => write!(f, "{flows} flows could not be opened through the gateway"),
            Self::NotTranslated => f.write_str(
                "packets to the service come out as they went in: is this a gateway? for a device that knows no flows say \
                 --traffic frames or numbered-frames",
            ),
            Self::WrongPacket => f.write_str("the gateway sent a packet that belongs to no flow"),
        }
    }
}

impl std::error::Error for GeneratorError {}

/// One link of the gateway, and the frames that are sent over it.
struct Side<P: PortIo> {
    io: P,
    /// One of each flow, side by side in the order of sending: what costs memory's time is to be the gateway.
    frames: Vec<[u8; FRAME_LEN]>,
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
            let Some(frame) = self.frames.get(self.next) else { break };
            let Some(buf) = filled(&mut self.io, frame) else { break };
            if self.tx.push(buf).is_err() {
                break;
            }
            self.next = if self.next + 1 == self.frames.len() { 0 } else { self.next + 1 };
        }
        self.send_burst()
    }

    /// Fills the burst with packets of clients from `next` on, one each, and sends what is taken; how many that is.
    fn open(&mut self, syn: &Template, next: &mut u32) -> u64 {
        while self.tx.len() < BURST {
            let Some(mut buf) = filled(&mut self.io, syn.bytes()) else { break };
            syn.readdress(buf.head_mut(), client(*next));
            if self.tx.push(buf).is_err() {
                break;
            }
            *next = next.wrapping_add(1);
        }
        self.send_burst()
    }

    fn send_burst(&mut self) -> u64 {
        let before = self.tx.len();
        self.io.tx(&mut self.tx);
        (before - self.tx.len()) as u64
    }

    /// Receives a burst and counts its TCP packets (a gateway also announces its addresses); of a sample `good` must be
    /// true, and the checksums right.
    fn count(
        &mut self,
        rx: &mut Burst<P::Buf>,
        good: impl Fn(&Self, &FlowKey<Ipv4Addr>) -> bool,
    ) -> Result<u64, GeneratorError> {
        self.io.rx(rx);
        let count = rx.len() as u64;
        if self.received / SAMPLE != (self.received + count) / SAMPLE
            && let Some(buf) = rx.slot(0)
            && let Some((key, _)) = flow_of(buf.head())
        {
            assert_valid_checksums(buf.head());
            self.checked += 1;
            if !good(self, &key) {
                return Err(GeneratorError::WrongPacket);
            }
        }
        self.received += count;
        empty(rx);
        Ok(count)
    }

    /// A packet of a flow that was opened; of a device that knows none, any.
    fn is_ours(&self, key: &FlowKey<Ipv4Addr>) -> bool {
        self.expected.is_empty() || self.expected.contains(key)
    }

    /// A packet from the gateway's own address to a backend.
    fn is_opening(&self, key: &FlowKey<Ipv4Addr>) -> bool {
        key.dst != VIP && !is_client(key.src)
    }

    /// The TCP flows of the segments with just these flags that have arrived; others are thrown away.
    fn arrived(&mut self, flags: TcpFlags, rx: &mut Burst<P::Buf>) -> Vec<FlowKey<Ipv4Addr>> {
        self.io.rx(rx);
        let wanted = |buf: &P::Buf| flow_of(buf.head()).filter(|(_, seen)| *seen == flags);
        let keys = rx.iter().filter_map(wanted).map(|(key, _)| key).collect();
        empty(rx);
        keys
    }
}

/// Gives the buffers of a burst back.
pub(crate) fn empty<B>(burst: &mut Burst<B>) {
    for slot in 0..burst.len() {
        drop(burst.take(slot));
    }
    burst.clear();
}

fn whole(frame: &[u8]) -> [u8; FRAME_LEN] {
    *frame.first_chunk().expect("templates are of that length")
}

/// A buffer that holds a copy of the frame.
#[inline]
pub(crate) fn filled<P: PortIo>(io: &mut P, frame: &[u8]) -> Option<P::Buf> {
    let mut buf = io.alloc()?;
    buf.append(frame.len())?.copy_from_slice(frame);
    Some(buf)
}

fn flow_of(frame: &[u8]) -> Option<(FlowKey<Ipv4Addr>, TcpFlags)> {
    match parse(frame, frame.len()).ok()?.body {
        Body::Flow { key: AnyKey::V4(key), tcp_flags } => Some((key, tcp_flags)),
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
        let syn_ack_flags = TcpFlags::SYN | TcpFlags::ACK;
        let syn_ack = Template::new(inside.gateway, inside.ours, syn_ack_flags);
        let data = Template::new(inside.gateway, inside.ours, TcpFlags::ACK | TcpFlags::PSH);
        let clients: Vec<_> = (0..flows).map(client).collect();
        for clients in clients.chunks(OPENING) {
            let mut missing: HashSet<_> = clients.iter().copied().collect();
            let (start, mut asked) = (Instant::now(), None::<Instant>);
            while !missing.is_empty() {
                if start.elapsed() > PATIENCE {
                    return Err(GeneratorError::NotOpened(missing.len()));
                }
                if asked.is_none_or(|asked| asked.elapsed() > RETRY) {
                    asked = Some(Instant::now());
                    let frames: Vec<_> = missing.iter().map(|key| syn.frame(*key)).collect();
                    self.outside.send_all(frames.iter().map(Vec::as_slice));
                }
                between(self.ports_mut());
                for key in self.inside.arrived(TcpFlags::SYN, &mut self.rx) {
                    if self.inside.expected.insert(key) {
                        self.inside.frames.push(whole(&data.frame(key.reversed())));
                    }
                    self.inside.send_all([&syn_ack.frame(key.reversed())[..]].into_iter());
                }
                for key in self.outside.arrived(syn_ack_flags, &mut self.rx) {
                    self.outside.expected.insert(key);
                    let frame = ack.frame(key.reversed());
                    self.outside.send_all([&frame[..]].into_iter());
                    if missing.remove(&key.reversed()) {
                        self.outside.frames.push(whole(&frame));
                    }
                }
            }
        }
        self.shuffle();
        Ok(())
    }

    /// Takes flows as they are, for a device that knows none.
    pub fn assume(&mut self, flows: u32) {
        let (outside, inside) = self.ends;
        let ack = Template::new(outside.gateway, outside.ours, TcpFlags::ACK);
        let data = Template::new(inside.gateway, inside.ours, TcpFlags::ACK | TcpFlags::PSH);
        self.outside.frames = (0..flows).map(|n| whole(&ack.frame(client(n)))).collect();
        self.inside.frames = (0..flows).map(|n| whole(&data.frame(client(n).reversed()))).collect();
        self.shuffle();
    }

    /// In the order that flows are opened a gateway's records may lie side by side.
    fn shuffle(&mut self) {
        shuffle(&mut self.outside.frames, &mut Random::new(1));
        shuffle(&mut self.inside.frames, &mut Random::new(2));
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
        let mut slices = Slices::new(SLICE);
        while start.elapsed() < time {
            for _ in 0..64 {
                sent += self.outside.blast() + self.inside.blast();
                between(self.ports_mut());
                returned += self.inside.count(&mut self.rx, Side::is_ours)?;
                returned += self.outside.count(&mut self.rx, Side::is_ours)?;
            }
            slices.at(start.elapsed(), returned);
        }
        let checked = self.outside.checked + self.inside.checked;
        Ok(Traffic { sent, returned, checked, time: start.elapsed(), slices: slices.into_rates() })
    }

    /// Sends SYNs of clients that nobody has heard of, from this one on, for this long; what comes back is what the
    /// gateway sends to backends, and a sample of it is checked. `between` runs once a burst.
    ///
    /// # Errors
    /// If a checked packet is no SYN to a backend.
    pub fn run_new(
        &mut self,
        mut next: u32,
        time: Duration,
        mut between: impl FnMut([&mut P; 2]),
    ) -> Result<Traffic, GeneratorError> {
        let (outside, _) = self.ends;
        let syn = Template::new(outside.gateway, outside.ours, TcpFlags::SYN);
        let (mut sent, mut returned, start) = (0, 0, Instant::now());
        let mut slices = Slices::new(SLICE);
        while start.elapsed() < time {
            for _ in 0..64 {
                sent += self.outside.open(&syn, &mut next);
                between(self.ports_mut());
                returned += self.inside.count(&mut self.rx, Side::is_opening)?;
                // What the gateway says to clients, such as a refusal, is none of these.
                self.outside.count(&mut self.rx, |_, _| true)?;
            }
            slices.at(start.elapsed(), returned);
        }
        Ok(Traffic {
            sent,
            returned,
            checked: self.inside.checked,
            time: start.elapsed(),
            slices: slices.into_rates(),
        })
    }

    /// The two ports, outside first.
    fn ports_mut(&mut self) -> [&mut P; 2] {
        [&mut self.outside.io, &mut self.inside.io]
    }
}
