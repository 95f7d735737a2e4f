//! Source ports of translated flows. A port need not be unique, only the reply key that comes of it: the flow table is
//! asked whether a key is free, and no other state is kept. Each worker chooses among those reply keys that a NIC with our
//! key brings to its own queue, so that a reply names the worker that has the flow.
//! Invariants: at most [`PROBES_MAX`] keys of one address are looked up; a port that is reserved, or whose reply is
//! another worker's, is never chosen.

use std::fmt;

use packet::{Address, FlowKey};

use crate::flow::{FlowRef, FlowTable};
use crate::hash::{FlowHash, lower, scale};
use crate::rss::{self, Rss};
use crate::tcp_state::Phase;
use crate::{Millis, SnatRange, WorkerId};

/// Reply keys looked up for one address.
pub const PROBES_MAX: u32 = 32;
/// Ports considered for one address and worker: reserved ones and those of other workers cost no look-up, but the walk past
/// them must end too.
const STEPS_MAX: u32 = 4 * PROBES_MAX;
/// How long a server remembers a connection that it closed first: TIME_WAIT as Linux has it. A SYN of another client
/// behind the same address and port is refused meanwhile where its timestamps are older (PAWS, RFC 7323 section 5).
const TIME_WAIT_MS: u32 = 60_000;
/// How long a flow must be silent after a reset until its key is free: no sequence number was checked, so the reset may
/// be forged and the flow alive, and what was under way when it was sent would reach the next flow.
const RESET_MS: u32 = 2_000;
/// Strides of the walk. Primes above every number of ports, so that a walk meets each port once before any twice.
const STRIDES: [u32; 8] = [65_537, 65_539, 65_543, 65_551, 65_557, 65_563, 65_579, 65_581];

/// Every reply key that was looked up is in use, at every address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnatExhausted;

impl fmt::Display for SnatExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no source port is free for this backend")
    }
}

impl std::error::Error for SnatExhausted {}

/// The ports that one worker may use; cheap to make, kept by nobody.
#[derive(Clone, Copy, Debug)]
pub struct SnatPorts<'a> {
    range: &'a SnatRange,
    count: u32,
    /// Whose replies they bring, where there are several workers.
    share: Option<Share<'a>>,
}

/// One of several workers.
#[derive(Clone, Copy, Debug)]
struct Share<'a> {
    rss: &'a Rss,
    worker: WorkerId,
    workers: u16,
}

/// A flow that needs a source port.
#[derive(Clone, Copy, Debug)]
pub struct SnatRequest<A> {
    /// Key of the client's packets as they arrive.
    pub original: FlowKey<A>,
    /// Where they will go.
    pub backend: A,
    /// The backend's port.
    pub port: u16,
}

impl<A: Address> SnatRequest<A> {
    /// The reply key if the flow leaves from this address and port.
    fn reply(&self, address: A, port: u16) -> FlowKey<A> {
        let protocol = self.original.protocol;
        FlowKey { src: self.backend, dst: address, sport: self.port, dport: port, protocol }
    }
}

impl<'a> SnatPorts<'a> {
    /// Those of `range` that `worker` may use, one of so many that share replies by `rss`.
    #[must_use]
    pub fn new(range: &'a SnatRange, rss: &'a Rss, worker: WorkerId, workers: u16) -> Self {
        let (first, last) = (u32::from(range.first()), u32::from(range.last()));
        let share = (workers > 1).then_some(Share { rss, worker, workers });
        Self { range, count: (last + 1).saturating_sub(first), share }
    }

    /// The reply key that `choose` tries first at this address, or after `passed` others; `hash` is that of the original
    /// key. If no flow has it, `choose` takes it.
    #[must_use]
    pub fn likely<A: Address>(
        &self,
        (request, hash): (&SnatRequest<A>, FlowHash),
        address: A,
        passed: usize,
    ) -> Option<FlowKey<A>> {
        let walk = self.walk((request, hash), address);
        match walk.at(0) {
            Some(first) if passed == 0 => Some(first),
            _ => walk.keys().nth(passed),
        }
    }

    /// A reply key that no flow has: at the first address where one is found, never used (or long gone) before last
    /// closed longest ago. A closed flow whose key is taken is removed. What a server closed within 60 s is taken only
    /// if no address has another, and a flow that was reset is in use until it has been silent for 2 s.
    ///
    /// # Errors
    /// When all that was probed is in use.
    pub fn choose<A: Address>(
        &self,
        table: &mut FlowTable,
        request: &SnatRequest<A>,
        addresses: impl IntoIterator<Item = A>,
        now: Millis,
    ) -> Result<FlowKey<A>, SnatExhausted> {
        let hash = table.hash(&request.original);
        let mut in_time_wait: Option<Closed<A>> = None;
        for address in addresses {
            match self.probe(table, (request, hash), address, now) {
                Probe::Free(reply) => return Ok(reply),
                Probe::Closed(closed) => return Ok(closed.reuse(table)),
                Probe::TimeWait(closed) => in_time_wait = Closed::older(in_time_wait, closed),
                Probe::Nothing => {}
            }
        }
        in_time_wait.map(|closed| closed.reuse(table)).ok_or(SnatExhausted)
    }

    fn probe<A: Address>(
        &self,
        table: &mut FlowTable,
        (request, hash): (&SnatRequest<A>, FlowHash),
        address: A,
        now: Millis,
    ) -> Probe<A> {
        // Seen without a look at any record, which would be a cache miss each.
        let walk = self.walk((request, hash), address);
        let replies = || walk.keys().take(PROBES_MAX as usize);
        if let Some(reply) = replies().find(|reply| table.is_absent(table.hash(reply))) {
            return Probe::Free(reply);
        }
        let (mut closed, mut in_time_wait) = (None, None);
        for reply in replies() {
            let Some((flow, _)) = table.lookup(&reply, now) else { return Probe::Free(reply) };
            let phase = table.phase(flow);
            if !phase.is_closed() {
                continue;
            }
            let found = Closed { flow, reply, age_ms: now.since(table.last_seen(flow)) };
            if phase == Phase::Reset && found.age_ms < RESET_MS {
                continue;
            }
            if phase == Phase::ClosedByServer && found.age_ms < TIME_WAIT_MS {
                in_time_wait = Closed::older(in_time_wait, found);
            } else {
                closed = Closed::older(closed, found);
            }
        }
        match (closed, in_time_wait) {
            (Some(closed), _) => Probe::Closed(closed),
            (None, Some(closed)) => Probe::TimeWait(closed),
            (None, None) => Probe::Nothing,
        }
    }

    /// The reply keys that a flow may have at an address.
    fn walk<A: Address>(&self, (request, hash): (&SnatRequest<A>, FlowHash), address: A) -> Walk<'a, A> {
        let Self { range, count, share } = *self;
        let start = scale(lower(hash.0), count as usize);
        let stride = STRIDES[(hash.0 >> 61) as usize] as usize;
        let without = request.reply(address, 0);
        let share = share.map(|share| (share, share.rss.hash(&without)));
        Walk { range, count, share, start, stride, without }
    }
}

/// Reply keys to try for a flow, from the port that its hash names on; without reserved ports and other workers' keys.
#[derive(Clone, Copy)]
struct Walk<'a, A> {
    range: &'a SnatRange,
    count: u32,
    /// With the RSS hash of the key without its port.
    share: Option<(Share<'a>, u32)>,
    start: usize,
    stride: usize,
    /// The key without its port.
    without: FlowKey<A>,
}

impl<'a, A: Address> Walk<'a, A> {
    /// The key of this step, if it may be had. The first, nearly always the last, needs no division.
    #[inline(always)]
    fn at(&self, step: u32) -> Option<FlowKey<A>> {
        let nth = match step {
            0 => self.start,
            _ => (self.start + step as usize * self.stride) % self.count as usize,
        };
        let port = u16::try_from(usize::from(self.range.first()) + nth).ok()?;
        (self.range.contains(port) && self.is_ours(port)).then_some(FlowKey { dport: port, ..self.without })
    }

    #[inline(always)]
    fn is_ours(&self, port: u16) -> bool {
        self.share.is_none_or(|(Share { rss, worker, workers }, without)| {
            rss::worker(without ^ rss.receiver_port::<A>(port), workers) == worker
        })
    }

    fn keys(self) -> impl Iterator<Item = FlowKey<A>> + use<'a, A> {
        let workers = self.share.map_or(1, |(share, _)| u32::from(share.workers));
        (0..(STEPS_MAX * workers).min(self.count)).filter_map(move |step| self.at(step))
    }
}

/// What the probes at one address came to.
enum Probe<A> {
    Free(FlowKey<A>),
    Closed(Closed<A>),
    TimeWait(Closed<A>),
    Nothing,
}

/// A closed flow whose reply key could be used again.
#[derive(Clone, Copy)]
struct Closed<A> {
    flow: FlowRef,
    reply: FlowKey<A>,
    age_ms: u32,
}

impl<A: Address> Closed<A> {
    fn older(best: Option<Self>, found: Self) -> Option<Self> {
        best.filter(|best| best.age_ms >= found.age_ms).or(Some(found))
    }

    fn reuse(self, table: &mut FlowTable) -> FlowKey<A> {
        table.remove(self.flow);
        self.reply
    }
}
