//! Plays the clients and the backends of a gateway at a rate, every frame numbered and timed.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cpu::{TscClock, tsc};
use dataplane::{buf::BURST, io::PortIo};
use packet::{AnyKey, Body, Parsed, Protocol, TcpFlags, parse};

use super::{Outcome, Pacer, Plan, PlanError, Sizes, Ways, judge::Tally, link::Link};
use crate::{
    generator::{Ends, GeneratorError, OPENING, PATIENCE, RETRY, SLICE},
    slices::Slices,
    whole,
};

/// How long and how often nothing must come before what is under way is taken for lost, and how long that is waited for at
/// most; a machine that was stopped meanwhile has not looked.
const SILENCE: Duration = Duration::from_millis(20);
const LOOKS: u32 = 1000;
const DRAIN: Duration = Duration::from_millis(500);

/// See the module.
pub struct Player<P: PortIo> {
    plan: Plan,
    outside: Link<P>,
    inside: Link<P>,
    clock: TscClock,
    backends: HashSet<IpAddr>,
}

impl<P: PortIo> Player<P> {
    /// A player on the clients' and the backends' link.
    ///
    /// # Errors
    /// If the plan's parts do not go together.
    pub fn new(plan: Plan, outside: (P, Ends), inside: (P, Ends)) -> Result<Self, PlanError> {
        plan.check()?;
        let order: Arc<[u32]> = plan.popularity.order(plan.flows).into();
        let clients: Vec<_> = (0..plan.flows).map(|n| plan.client(n)).collect();
        // What backends send is learned as flows are opened; a device that knows none gets what clients would.
        let backends = clients.iter().map(|key| key.reversed()).collect();
        let outside = Link::new(outside, &plan, clients, &order);
        let inside = Link::new(inside, &plan, backends, &order);
        Ok(Self { plan, outside, inside, clock: TscClock::calibrate(), backends: HashSet::new() })
    }

    /// Opens the flows through the gateway, TCP's with handshakes, and learns which backend each came to. `between` runs
    /// whenever there is nothing to do.
    ///
    /// # Errors
    /// If a flow cannot be opened within 5 seconds, or the gateway does not translate.
    pub fn open(&mut self, mut between: impl FnMut([&mut P; 2])) -> Result<(), GeneratorError> {
        let flows: Vec<u32> = (0..self.plan.flows).collect();
        let syn = self.plan.template(self.outside.ends, TcpFlags::SYN, (0, 0), &[]);
        for flows in flows.chunks(OPENING) {
            let mut opening = Opening::new(&self.plan, flows);
            let (start, mut asked) = (Instant::now(), None::<Instant>);
            while !opening.missing.is_empty() {
                if start.elapsed() > PATIENCE {
                    return Err(GeneratorError::NotOpened(opening.missing.len()));
                }
                if asked.is_none_or(|asked| asked.elapsed() > RETRY) {
                    asked = Some(Instant::now());
                    for flow in opening.missing.iter().copied() {
                        if opening.shaken.contains(&flow) {
                            self.outside.send_one(flow, tsc());
                        } else {
                            self.outside.send_plain(&syn, self.plan.client(flow));
                        }
                    }
                    self.outside.flush();
                }
                between(self.ports_mut());
                self.answer()?;
                opening.take(&mut self.outside)?;
                self.outside.flush();
            }
        }
        Ok(())
    }

    /// Sends frames of other sizes from now on.
    ///
    /// # Errors
    /// If they are too short.
    pub fn set_sizes(&mut self, sizes: Sizes) -> Result<(), PlanError> {
        self.plan.sizes = sizes;
        self.plan.check()?;
        for link in [&mut self.outside, &mut self.inside] {
            link.set_sizes(&self.plan);
        }
        Ok(())
    }

    /// Backends that flows were opened to.
    #[must_use]
    pub fn backends(&self) -> usize {
        self.backends.len()
    }

    /// Answers as the backends do while flows are opened.
    fn answer(&mut self) -> Result<(), GeneratorError> {
        let Self { plan, inside, backends, .. } = self;
        let syn_ack = plan.template(inside.ends, TcpFlags::SYN | TcpFlags::ACK, (0, 1), &[]);
        let mut translated = true;
        inside.arrived(|inside, frame| {
            let Some((key, flags)) = flow_of(frame) else { return };
            translated &= key.dst() != plan.service.ip();
            if let Some(flow) = inside.flow_of(frame) {
                backends.insert(key.dst());
                inside.set_key(flow, key.reversed());
                inside.send_one(flow, tsc());
            } else if flags == TcpFlags::SYN {
                inside.send_plain(&syn_ack, key.reversed());
            }
        });
        inside.flush();
        if translated { Ok(()) } else { Err(GeneratorError::NotTranslated) }
    }

    /// Sends at a rate, or as fast as frames are taken, for this long, and waits for what is under way. `between` runs once a
    /// burst.
    pub fn run(
        &mut self,
        rate: Option<f64>,
        time: Duration,
        mut between: impl FnMut([&mut P; 2]),
    ) -> Outcome {
        for link in [&mut self.outside, &mut self.inside] {
            link.begin();
        }
        let share = |sends: bool| match (sends, self.plan.ways) {
            (false, _) => Some(0.0),
            (true, Ways::Both) => rate.map(|rate| rate / 2.0),
            (true, Ways::In | Ways::Out) => rate,
        };
        let hz = self.clock.hz();
        let pacer = |sends| Pacer::new(share(sends), hz, tsc());
        let mut pacers = [pacer(self.plan.ways != Ways::Out), pacer(self.plan.ways != Ways::In)];
        let (mut sent, mut slices, start) = (0, Slices::new(SLICE), Instant::now());
        loop {
            for _ in 0..16 {
                for (link, pacer) in [&mut self.outside, &mut self.inside].into_iter().zip(&mut pacers) {
                    let now = tsc();
                    let count = link.send(pacer.due(now, BURST), now);
                    pacer.sent(count);
                    sent += count as u64;
                }
                between(self.ports_mut());
                self.receive();
            }
            slices.at(start.elapsed(), self.received());
            if start.elapsed() >= time {
                break;
            }
        }
        let time = start.elapsed();
        for link in [&mut self.outside, &mut self.inside] {
            link.forget_unsent();
        }
        self.drain(between);
        let mut tally = Tally::new();
        tally.add(&self.outside.tally);
        tally.add(&self.inside.tally);
        let sizes = &self.plan.sizes;
        Outcome {
            sizes: sizes.to_string(),
            asked_pps: rate,
            missed: whole(pacers.iter().map(Pacer::missed).sum()),
            slices: slices.into_rates(),
            ..Outcome::new(&tally, sent, time, sizes.mean(), &self.clock)
        }
    }

    /// Receives a burst of each link.
    fn receive(&mut self) -> usize {
        self.inside.receive(tsc) + self.outside.receive(tsc)
    }

    fn received(&self) -> u64 {
        self.outside.tally.received + self.inside.tally.received
    }

    fn drain(&mut self, mut between: impl FnMut([&mut P; 2])) {
        let (start, mut last, mut looks) = (Instant::now(), Instant::now(), 0);
        while looks < LOOKS || (last.elapsed() < SILENCE && start.elapsed() < DRAIN) {
            between(self.ports_mut());
            looks += 1;
            if self.receive() > 0 && start.elapsed() < DRAIN {
                (last, looks) = (Instant::now(), 0);
            }
        }
    }

    /// The two ports, outside first.
    fn ports_mut(&mut self) -> [&mut P; 2] {
        [&mut self.outside.io, &mut self.inside.io]
    }
}

/// The clients' side of flows that are being opened.
struct Opening {
    by_key: HashMap<AnyKey, u32>,
    missing: HashSet<u32>,
    /// Those that may send data: of TCP, whose SYN was answered.
    shaken: HashSet<u32>,
}

impl Opening {
    fn new(plan: &Plan, flows: &[u32]) -> Self {
        let missing: HashSet<_> = flows.iter().copied().collect();
        let shaken = if plan.protocol == Protocol::Tcp { HashSet::new() } else { missing.clone() };
        Self { by_key: flows.iter().map(|flow| (plan.client(*flow), *flow)).collect(), missing, shaken }
    }

    fn take<P: PortIo>(&mut self, outside: &mut Link<P>) -> Result<(), GeneratorError> {
        let mut translated = true;
        outside.arrived(|outside, frame| {
            let Some((key, flags)) = flow_of(frame) else { return };
            if self.by_key.contains_key(&key) {
                translated = false;
            } else if let Some(flow) = outside.flow_of(frame) {
                self.missing.remove(&flow);
                return;
            }
            if flags == TcpFlags::SYN | TcpFlags::ACK
                && let Some(flow) = self.by_key.get(&key.reversed())
            {
                self.shaken.insert(*flow);
                outside.send_one(*flow, tsc());
            }
        });
        if translated { Ok(()) } else { Err(GeneratorError::NotTranslated) }
    }
}

/// The flow of a frame, and its flags where it is of TCP.
pub(super) fn flow_of(frame: &[u8]) -> Option<(AnyKey, TcpFlags)> {
    match parse(frame, frame.len()) {
        Ok(Parsed { body: Body::Flow { key, tcp_flags }, .. }) => Some((key, tcp_flags)),
        _ => None,
    }
}
