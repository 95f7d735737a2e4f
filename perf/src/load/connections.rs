//! Whole TCP connections through a gateway: handshake, a request, a response that repeats it, and the close, one after the
//! other in as many places as may be open at once.

use std::time::{Duration, Instant};

use cpu::{TscClock, tsc};
use dataplane::io::PortIo;
use packet::{AnyKey, TcpFlags};
use serde::Serialize;

use super::{
    FCS_LEN, Latency, Pacer, Plan, PlanError, Stamp, judge::Tally, link::Link, payload, player::flow_of,
    stamp::FLOW_MASK,
};
use crate::{Template, generator::Ends, whole};

/// When a segment that came to nothing is sent again, and when its connection is given up.
const RETRY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(3);
/// How often that is looked at.
const SCAN: Duration = Duration::from_millis(10);
/// What is still open at the end may take so long.
const DRAIN: Duration = Duration::from_secs(4);

/// What a client has sent last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Closed,
    Syn,
    Request,
    Fin,
}

impl Step {
    /// What follows when the answer with these flags comes; `None` where it is no answer to what was sent last.
    fn after(self, flags: TcpFlags) -> Option<Self> {
        let has = |flag: TcpFlags| flags.0 & flag.0 != 0;
        match self {
            Self::Syn if flags == TcpFlags::SYN | TcpFlags::ACK => Some(Self::Request),
            Self::Request if has(TcpFlags::PSH) => Some(Self::Fin),
            Self::Fin if has(TcpFlags::FIN) => Some(Self::Closed),
            _ => None,
        }
    }
}

/// What connections came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ConnectionCounts {
    /// Connections whose first SYN was sent.
    pub begun: u64,
    /// Connections that were closed by both ends, with the response that was due.
    pub completed: u64,
    /// Connections that came to nothing within 3 seconds.
    pub failed: u64,
    /// Resets.
    pub refused: u64,
    /// Segments that were sent once more.
    pub repeated: u64,
    /// Responses to another connection's request.
    pub mixed_up: u64,
    /// How long connections were begun.
    pub seconds: f64,
    /// Connections a second that were completed.
    pub per_second: f64,
    /// Microseconds from the first SYN to the last answer.
    pub time_us: Latency,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    number: u32,
    step: Step,
    begun: u64,
    sent: u64,
}

/// See the module.
pub struct Connections<P: PortIo> {
    plan: Plan,
    outside: Link<P>,
    inside: Link<P>,
    /// A client's segments: what it sends at each step, then its last ACK.
    client: [Template; 4],
    /// A backend's: SYN-ACK, response, FIN.
    backend: [Template; 3],
    places: Vec<Place>,
    /// The place that is looked at next for a new connection.
    next: usize,
    clock: TscClock,
    counts: ConnectionCounts,
    tally: Tally,
}

impl<P: PortIo> Connections<P> {
    /// As many connections at once as the plan has flows.
    ///
    /// # Errors
    /// If the plan's parts do not go together.
    pub fn new(plan: Plan, outside: (P, Ends), inside: (P, Ends)) -> Result<Self, PlanError> {
        plan.check()?;
        let none = [].into();
        let outside = Link::new(outside, &plan, Vec::new(), &none);
        let inside = Link::new(inside, &plan, Vec::new(), &none);
        let len = payload(usize::from(plan.sizes.max() - FCS_LEN - plan.payload_at()));
        let data = 1 + u32::try_from(len.len()).unwrap_or(0);
        let (push, fin) = (TcpFlags::PSH | TcpFlags::ACK, TcpFlags::FIN | TcpFlags::ACK);
        let from = |ends: Ends| {
            let plan = &plan;
            let len = &len;
            move |flags, numbers, data: bool| {
                plan.template(ends, flags, numbers, if data { len } else { &[] })
            }
        };
        let (client, backend) = (from(outside.ends), from(inside.ends));
        let client = [
            client(TcpFlags::SYN, (0, 0), false),
            client(push, (1, 1), true),
            client(fin, (data, data), false),
            client(TcpFlags::ACK, (data + 1, data + 1), false),
        ];
        let backend = [
            backend(TcpFlags::SYN | TcpFlags::ACK, (0, 1), false),
            backend(push, (1, data), true),
            backend(fin, (data, data + 1), false),
        ];
        let place = |number| Place { number, step: Step::Closed, begun: 0, sent: 0 };
        let places = (0..plan.flows.max(1)).map(place).collect();
        let (clock, counts) = (TscClock::calibrate(), ConnectionCounts::default());
        Ok(Self {
            plan,
            outside,
            inside,
            client,
            backend,
            places,
            next: 0,
            clock,
            counts,
            tally: Tally::new(),
        })
    }

    /// Makes connections for this long, so many a second or as many as there are places for, and waits for those that are
    /// still open. `between` runs once a burst.
    pub fn run(
        &mut self,
        rate: Option<f64>,
        time: Duration,
        mut between: impl FnMut([&mut P; 2]),
    ) -> ConnectionCounts {
        let mut pacer = Pacer::new(rate, self.clock.hz(), tsc());
        let (start, mut scanned) = (Instant::now(), Instant::now());
        let mut seconds = None;
        loop {
            let elapsed = start.elapsed();
            if elapsed < time {
                let due = pacer.due(tsc(), dataplane::buf::BURST);
                pacer.sent(self.begin(due));
            } else {
                seconds.get_or_insert(elapsed.as_secs_f64());
                let open = self.places.iter().any(|place| place.step != Step::Closed);
                if !open || elapsed > time + DRAIN {
                    break;
                }
            }
            self.outside.flush();
            between([&mut self.outside.io, &mut self.inside.io]);
            self.serve();
            self.proceed();
            if scanned.elapsed() > SCAN {
                scanned = Instant::now();
                self.repeat();
            }
        }
        self.counts.seconds = seconds.unwrap_or_default();
        self.counts.per_second = self.counts.completed as f64 / self.counts.seconds.max(f64::MIN_POSITIVE);
        self.counts.time_us = Latency::of(&self.tally.cycles, &self.clock);
        self.counts
    }

    /// Begins so many connections where there is a place; how many that was.
    fn begin(&mut self, count: usize) -> usize {
        for begun in 0..count {
            let place = &mut self.places[self.next];
            if place.step != Step::Closed {
                return begun;
            }
            (place.step, place.begun, place.sent) = (Step::Syn, tsc(), tsc());
            let key = self.plan.client(place.number);
            self.outside.send_plain(&self.client[0], key);
            self.counts.begun += 1;
            self.next = if self.next + 1 == self.places.len() { 0 } else { self.next + 1 };
        }
        count
    }

    /// Answers as a backend does, which remembers nothing.
    fn serve(&mut self) {
        let backend = &self.backend;
        let payload_at = usize::from(self.plan.payload_at());
        self.inside.arrived(|inside, frame| {
            let Some((key, flags)) = flow_of(frame) else { return };
            let has = |flag: TcpFlags| flags.0 & flag.0 != 0;
            let key = key.reversed();
            if flags == TcpFlags::SYN {
                inside.send_plain(&backend[0], key);
            } else if has(TcpFlags::PSH) {
                let stamp = frame.get(payload_at..).and_then(Stamp::read);
                inside.send_stamped(&backend[1], key, stamp);
            } else if has(TcpFlags::FIN) {
                inside.send_plain(&backend[2], key);
            }
        });
        self.inside.flush();
    }

    /// Takes the answers to clients, and sends what is next.
    fn proceed(&mut self) {
        let Self { plan, outside, places, client, counts, tally, .. } = self;
        let payload_at = usize::from(plan.payload_at());
        outside.arrived(|outside, frame| {
            let Some((key, flags)) = flow_of(frame) else { return };
            let Some(number) = plan.number_of(key.dst(), key.dport()) else { return };
            let index = number as usize % places.len();
            let place = &mut places[index];
            if place.number != number || place.step == Step::Closed {
                return;
            }
            if flags.rst() {
                counts.refused += 1;
                place.close(places_of(plan));
                return;
            }
            let Some(next) = place.step.after(flags) else { return };
            let stamp = frame.get(payload_at..).and_then(Stamp::read);
            if next == Step::Fin && stamp.is_none_or(|stamp| stamp.flow != number & FLOW_MASK) {
                counts.mixed_up += 1;
            }
            send(outside, client, next, (key.reversed(), number));
            (place.step, place.sent) = (next, tsc());
            if next == Step::Closed {
                counts.completed += 1;
                tally.cycles.saturating_record(tsc().saturating_sub(place.begun));
                place.close(places_of(plan));
            }
        });
        self.outside.flush();
    }

    /// Sends again what was not answered, and gives up what never was.
    fn repeat(&mut self) {
        let now = tsc();
        let cycles = |time: Duration| whole(time.as_secs_f64() * self.clock.hz() as f64);
        let (retry, patience) = (cycles(RETRY), cycles(PATIENCE));
        for place in &mut self.places {
            if place.step == Step::Closed || now.saturating_sub(place.sent) < retry {
                continue;
            }
            if now.saturating_sub(place.begun) > patience {
                self.counts.failed += 1;
                place.close(places_of(&self.plan));
                continue;
            }
            self.counts.repeated += 1;
            place.sent = now;
            let key = self.plan.client(place.number);
            send(&mut self.outside, &self.client, place.step, (key, place.number));
        }
        self.outside.flush();
    }
}

/// Connections at once.
fn places_of(plan: &Plan) -> u32 {
    plan.flows.max(1)
}

impl Place {
    /// Makes room for the next client, whose number has the same place.
    fn close(&mut self, places: u32) {
        (self.step, self.number) = (Step::Closed, self.number.wrapping_add(places));
    }
}

/// Sends a client's segment of this step; of a closed connection its last ACK.
fn send<P: PortIo>(outside: &mut Link<P>, client: &[Template; 4], step: Step, (key, number): (AnyKey, u32)) {
    match step {
        Step::Syn => outside.send_plain(&client[0], key),
        Step::Request => {
            let stamp = Stamp { flow: number, run: 0, sequence: 0, cycles: tsc() };
            outside.send_stamped(&client[1], key, Some(stamp));
        }
        Step::Fin => outside.send_plain(&client[2], key),
        Step::Closed => outside.send_plain(&client[3], key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_goes_on_with_the_answer_to_what_it_sent_last_only() {
        let syn_ack = TcpFlags::SYN | TcpFlags::ACK;
        let data = TcpFlags::PSH | TcpFlags::ACK;
        let fin = TcpFlags::FIN | TcpFlags::ACK;
        for (step, flags, want) in [
            (Step::Syn, syn_ack, Some(Step::Request)),
            (Step::Syn, data, None),
            (Step::Request, syn_ack, None),
            (Step::Request, TcpFlags::ACK, None),
            (Step::Request, data, Some(Step::Fin)),
            (Step::Fin, data, None),
            (Step::Fin, fin, Some(Step::Closed)),
            (Step::Closed, fin, None),
        ] {
            assert_eq!(step.after(flags), want, "{step:?} {flags:?}");
        }
    }
}
