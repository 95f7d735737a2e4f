//! Copies of packets for people to look at: what control wants to see, and the bounded ring by which a worker shows it.
//!
//! A worker asks [`Capture`] three things, in this order: is anything wanted, does this packet match, and is it one of
//! the sample. Nothing waits: what the ring has no room for is counted. Not here: which Service a packet is of
//! (dataplane), files (control).

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use packet::{AnyKey, Body, Parsed, Protocol};

use crate::{
    DropReason, Millis, PortId, Prefix, ServiceInfo,
    punt::FRAME_LEN_MAX,
    rate::Bucket,
    records::{self, HEADER_LEN, Record, RecordReceiver, RecordSender},
};

/// In front of a captured frame: when (8), bytes of the whole frame (4).
const HEAD_LEN: usize = 12;
/// Room for the longest record.
pub const CAPTURED_LEN_MAX: usize = HEAD_LEN + FRAME_LEN_MAX;

const KIND_ARRIVED: u8 = 0;
const KIND_LEFT: u8 = 1;
const KIND_DROPPED: u8 = 2;

/// What became of a packet when it was captured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// It came in by the port, and nothing has changed it yet.
    Arrived,
    /// It is about to leave by the port, and nothing will change it any more, but for a checksum that the port finishes.
    Left,
    /// It came in by the port (or was to leave by it) and goes no further; what was rewritten by then is.
    Dropped(DropReason),
}

/// Kinds of packets that a filter tells apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PacketKind {
    /// ARP.
    Arp,
    /// ICMP and ICMPv6, neighbour discovery too.
    Icmp,
    /// A transport protocol, its fragments too.
    Transport(Protocol),
}

/// The namespace and name of a Service, in a fixed room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServiceName {
    len: u8,
    bytes: [u8; Self::LEN_MAX],
}

impl ServiceName {
    /// Two DNS labels and a slash.
    const LEN_MAX: usize = 63 + 1 + 63;

    /// `namespace/name`; `None` if that is no such name, or longer than Kubernetes lets it be.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        let mut bytes = [0; Self::LEN_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let sound = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
        sound.then_some(Self { len: u8::try_from(text.len()).ok()?, bytes })
    }

    /// True for every port of this Service.
    #[must_use]
    pub fn names(&self, info: &ServiceInfo) -> bool {
        let text = self.bytes.get(..self.len.into()).unwrap_or_default();
        let rest = text.strip_prefix(info.namespace.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        rest == Some(info.name.as_bytes())
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.bytes.get(..self.len.into()).unwrap_or_default();
        write!(f, "{}", String::from_utf8_lossy(text))
    }
}

/// Which packets are meant: those for which all that is said holds; one that says nothing means all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PacketFilter {
    /// Networks of which each has the sender or the receiver. An ICMP error is also of those whose packet it quotes.
    pub hosts: [Option<Prefix>; 2],
    /// Ports of which each is the sender's or the receiver's.
    pub ports: [Option<u16>; 2],
    /// Of this kind.
    pub kind: Option<PacketKind>,
    /// Dropped for this reason.
    pub reason: Option<DropReason>,
    /// To or from this Service, whichever side of the translation; the caller finds out.
    pub service: Option<ServiceName>,
}

impl PacketFilter {
    /// True if all holds but what is said of the Service. Of a packet that could not be read nothing is known.
    #[must_use]
    pub fn matches(&self, event: Event, facts: Option<&Parsed>) -> bool {
        let reason = self.reason.is_none_or(|reason| event == Event::Dropped(reason));
        let kind = self.kind.is_none_or(|kind| facts.is_some_and(|facts| kind.is_of(facts)));
        let has_host = |host: &Prefix| facts.is_some_and(|facts| has_address(facts, *host));
        let has_port = |port: &u16| facts.is_some_and(|facts| keys(facts).any(|key| is_at(key, *port)));
        reason
            && kind
            && self.hosts.iter().flatten().all(has_host)
            && self.ports.iter().flatten().all(has_port)
    }
}

impl PacketKind {
    fn is_of(self, facts: &Parsed) -> bool {
        match (self, facts.body) {
            (Self::Arp, Body::Arp(_)) | (Self::Icmp, Body::Icmp(_) | Body::Nd(_)) => true,
            (Self::Transport(wanted), Body::Flow { key, .. }) => key.protocol() == wanted,
            (Self::Transport(wanted), Body::OtherIp { protocol, .. }) => wanted.number() == protocol,
            (Self::Icmp, Body::OtherIp { protocol, .. }) => matches!(protocol, 1 | 58),
            _ => false,
        }
    }
}

/// The 5-tuple of a packet, and the one that an ICMP error quotes.
pub fn keys(facts: &Parsed) -> impl Iterator<Item = AnyKey> {
    let quoted = match facts.body {
        Body::Icmp(icmp) => icmp.inner.map(|inner| inner.key),
        _ => None,
    };
    facts.key().into_iter().chain(quoted)
}

fn is_at(key: AnyKey, port: u16) -> bool {
    key.sport() == port || key.dport() == port
}

fn has_address(facts: &Parsed, host: Prefix) -> bool {
    let of = |ends: [IpAddr; 2]| ends.into_iter().any(|end| host.contains(end));
    if let Body::Arp(arp) = facts.body {
        return of([arp.sender_ip.into(), arp.target_ip.into()]);
    }
    let outer = facts.addrs().is_some_and(|addrs| of([addrs.src(), addrs.dst()]));
    outer || keys(facts).any(|key| of([key.src(), key.dst()]))
}

/// What control wants to see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CaptureSpec {
    /// Packets that arrive and leave, not only those dropped.
    pub passing: bool,
    /// Which of them.
    pub filter: PacketFilter,
    /// Bytes of each frame at most, up to [`FRAME_LEN_MAX`].
    pub snap_len: u16,
    /// One of so many that match.
    pub one_in: u32,
    /// Most in a second.
    pub per_second: u32,
}

/// What a worker has captured, over all captures.
#[derive(Debug, Default)]
struct Tally {
    taken: AtomicU64,
    over_rate: AtomicU64,
    lost: AtomicU64,
}

/// What a worker has captured, over all captures.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CaptureCounts {
    /// Packets shown to control.
    pub taken: u64,
    /// Packets of the sample that were more than the rate allows.
    pub over_rate: u64,
    /// Packets that the ring had no room for.
    pub lost: u64,
}

/// A worker's end. While nothing is wanted it costs a look at a flag where a packet is dropped, and one a burst.
pub struct Capture {
    spec: Option<CaptureSpec>,
    ring: RecordSender,
    bucket: Bucket,
    /// Matching packets until the next of the sample.
    until_next: u32,
    /// Nanoseconds of the worker's clock.
    time_ns: u64,
    tally: Arc<Tally>,
}

/// Control's end.
pub struct CaptureReceiver {
    ring: RecordReceiver,
    tally: Arc<Tally>,
}

/// A captured packet; its bytes are [`Captured::frame`] of the caller's buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Captured {
    /// What became of it.
    pub event: Event,
    /// The port it came or goes by.
    pub port: PortId,
    /// When the worker's turn began, in nanoseconds of its clock; later for later packets of a worker.
    pub time_ns: u64,
    /// Bytes of the whole frame.
    pub wire_len: u32,
    end: usize,
}

/// A ring of `bytes`, of at least one longest frame.
#[must_use]
pub fn capture_ring(bytes: usize) -> (Capture, CaptureReceiver) {
    let (sender, receiver) = records::ring(bytes.max(HEADER_LEN + CAPTURED_LEN_MAX));
    let tally = Arc::new(Tally::default());
    let capture = Capture {
        spec: None,
        ring: sender,
        bucket: Bucket::default(),
        until_next: 0,
        time_ns: 0,
        tally: Arc::clone(&tally),
    };
    (capture, CaptureReceiver { ring: receiver, tally })
}

impl Capture {
    /// Begins, changes or ends what is wanted.
    pub fn set(&mut self, spec: Option<CaptureSpec>) {
        self.spec = spec;
        self.bucket = Bucket::default();
        self.until_next = 0;
    }

    /// Tells what time it is, in nanoseconds of the worker's clock.
    pub fn set_time(&mut self, time_ns: u64) {
        self.time_ns = time_ns;
    }

    /// Something is wanted.
    #[inline]
    #[must_use]
    pub const fn is_armed(&self) -> bool {
        self.spec.is_some()
    }

    /// Packets that pass are wanted.
    #[inline]
    #[must_use]
    pub const fn takes_passing(&self) -> bool {
        matches!(self.spec, Some(CaptureSpec { passing: true, .. }))
    }

    /// Which packets are wanted, if any are.
    #[must_use]
    pub const fn filter(&self) -> Option<&PacketFilter> {
        match &self.spec {
            Some(spec) => Some(&spec.filter),
            None => None,
        }
    }

    /// Shows a packet that matches to control, if it is one of the sample and there is room.
    pub fn take<'a>(
        &mut self,
        (event, port): (Event, PortId),
        wire_len: usize,
        segments: impl Iterator<Item = &'a [u8]> + Clone,
        now: Millis,
    ) {
        let Some(spec) = &self.spec else { return };
        if self.until_next > 0 {
            self.until_next -= 1;
            return;
        }
        self.until_next = spec.one_in.saturating_sub(1);
        // A tenth of a second's worth may come at once.
        if !self.bucket.allow(spec.per_second, (spec.per_second / 10).max(1), now) {
            self.tally.over_rate.fetch_add(1, Relaxed);
            return;
        }
        let (kind, snap) = (kind_of(event), usize::from(spec.snap_len).min(FRAME_LEN_MAX));
        let mut head = [0; HEAD_LEN];
        head[..8].copy_from_slice(&self.time_ns.to_be_bytes());
        head[8..].copy_from_slice(&u32::try_from(wire_len).unwrap_or(u32::MAX).to_be_bytes());
        let body = segments.scan(snap, |left, segment| {
            let here = segment.get(..segment.len().min(*left))?;
            *left -= here.len();
            Some(here)
        });
        let len = HEAD_LEN + body.clone().map(<[u8]>::len).sum::<usize>();
        let parts = std::iter::once(head.as_slice()).chain(body);
        let taken = self.ring.push(kind, port, len, parts).is_ok();
        let counter = if taken { &self.tally.taken } else { &self.tally.lost };
        counter.fetch_add(1, Relaxed);
    }
}

impl CaptureReceiver {
    /// Takes the oldest packet; its record goes to the front of `buffer`.
    pub fn receive(&mut self, buffer: &mut [u8; CAPTURED_LEN_MAX]) -> Option<Captured> {
        let Record { kind, port, len } = self.ring.pop(buffer)?;
        let (time, rest) = buffer.split_first_chunk::<8>()?;
        let wire_len = u32::from_be_bytes(*rest.first_chunk()?);
        Some(Captured {
            event: event_of(kind)?,
            port,
            time_ns: u64::from_be_bytes(*time),
            wire_len,
            end: len.max(HEAD_LEN),
        })
    }

    /// What the worker has counted so far.
    #[must_use]
    pub fn counts(&self) -> CaptureCounts {
        let Tally { taken, over_rate, lost } = &*self.tally;
        let [taken, over_rate, lost] = [taken, over_rate, lost].map(|count| count.load(Relaxed));
        CaptureCounts { taken, over_rate, lost }
    }
}

impl Captured {
    /// The captured bytes, in the buffer that was given to [`CaptureReceiver::receive`].
    #[must_use]
    pub fn frame<'b>(&self, buffer: &'b [u8; CAPTURED_LEN_MAX]) -> &'b [u8] {
        buffer.get(HEAD_LEN..self.end).unwrap_or_default()
    }
}

fn kind_of(event: Event) -> u8 {
    match event {
        Event::Arrived => KIND_ARRIVED,
        Event::Left => KIND_LEFT,
        Event::Dropped(reason) => KIND_DROPPED + reason as u8,
    }
}

fn event_of(kind: u8) -> Option<Event> {
    match kind {
        KIND_ARRIVED => Some(Event::Arrived),
        KIND_LEFT => Some(Event::Left),
        kind => DropReason::ALL.get(usize::from(kind - KIND_DROPPED)).copied().map(Event::Dropped),
    }
}

const _: () = assert!(DropReason::COUNT + KIND_DROPPED as usize <= u8::MAX as usize, "a kind is one byte");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NatMode;

    #[test]
    fn a_service_is_named_by_both_words_alone() {
        let info = |namespace: &str, name: &str| ServiceInfo {
            namespace: namespace.into(),
            name: name.into(),
            port_name: String::new(),
            port: 80,
            protocol: Protocol::Tcp,
            mode: NatMode::Snat,
        };
        let name = ServiceName::parse("shop/web").unwrap();
        assert!(name.names(&info("shop", "web")));
        for (namespace, other) in
            [("shop", "web2"), ("shop", "we"), ("sho", "p/web"), ("", "shop/web"), ("web", "shop")]
        {
            assert!(!name.names(&info(namespace, other)), "{namespace} {other}");
        }
        let longest = format!("{0}/{0}", "a".repeat(63));
        assert!(ServiceName::parse(&longest).is_some());
        for refused in ["", "web", "/web", "shop/", "a/b/c", &format!("{longest}a")] {
            assert_eq!(ServiceName::parse(refused), None, "{refused}");
        }
    }

    #[test]
    fn every_event_survives_the_ring() {
        let dropped = DropReason::ALL.into_iter().map(Event::Dropped);
        for event in [Event::Arrived, Event::Left].into_iter().chain(dropped) {
            assert_eq!(event_of(kind_of(event)), Some(event));
        }
        assert_eq!(event_of(u8::MAX), None);
    }
}
