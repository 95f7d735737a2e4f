//! One link of a measured run: makes the frames of its flows, and takes what comes.

use std::sync::Arc;

use dataplane::{
    buf::{BURST, Burst, PacketBuf},
    io::PortIo,
};
use packet::AnyKey;

use super::{Plan, STAMP_LEN, Sequence, Stamp, judge::Tally, stamp::RUNS};
use crate::{
    Template,
    generator::{Ends, empty, filled},
};

/// A port with the flows of its end of the gateway.
pub(super) struct Link<P: PortIo> {
    pub(super) io: P,
    pub(super) ends: Ends,
    /// By size.
    templates: Vec<Template>,
    /// Which template is next, over and over.
    cycle: Vec<usize>,
    at: usize,
    /// Which flow is next, over and over.
    order: Arc<[u32]>,
    turn: usize,
    /// Of what is sent, by flow.
    keys: Vec<AnyKey>,
    run: u16,
    /// Frames that were made, by flow.
    made: Vec<u32>,
    /// Of what comes, by flow.
    sequences: Vec<Sequence>,
    payload_at: usize,
    check_every: u64,
    frames_only: bool,
    tx: Burst<P::Buf>,
    rx: Burst<P::Buf>,
    pub(super) tally: Tally,
}

impl<P: PortIo> Link<P> {
    pub(super) fn new((io, ends): (P, Ends), plan: &Plan, keys: Vec<AnyKey>, order: &Arc<[u32]>) -> Self {
        let (templates, cycle) = plan.templates(ends);
        Self {
            io,
            ends,
            templates,
            cycle,
            at: 0,
            order: Arc::clone(order),
            turn: 0,
            run: 0,
            made: vec![0; keys.len()],
            sequences: vec![Sequence::default(); keys.len()],
            keys,
            payload_at: plan.payload_at().into(),
            check_every: plan.check_every.max(1),
            frames_only: plan.frames_only,
            tx: Burst::new(),
            rx: Burst::new(),
            tally: Tally::new(),
        }
    }

    /// Makes frames of the plan's sizes from now on.
    pub(super) fn set_sizes(&mut self, plan: &Plan) {
        (self.templates, self.cycle) = plan.templates(self.ends);
        self.at = 0;
    }

    /// Sets the key of what is sent from here for this flow.
    pub(super) fn set_key(&mut self, flow: u32, key: AnyKey) {
        self.keys[flow as usize] = key;
    }

    /// Forgets all that was counted, and the numbers of frames; what is under way counts no more.
    pub(super) fn begin(&mut self) {
        self.run = (self.run + 1) % RUNS;
        self.tally = Tally::new();
        self.made.fill(0);
        self.sequences.fill(Sequence::default());
    }

    /// Sends so many frames of the flows whose turn it is, as far as the port takes them; how many that is. Those it does not
    /// take wait, and their time has begun.
    #[inline]
    pub(super) fn send(&mut self, count: usize, now: u64) -> usize {
        while self.tx.len() < count.min(BURST) {
            let flow = self.order[self.turn];
            let Some(buf) = self.frame(flow, now) else { break };
            if self.tx.push(buf).is_err() {
                break;
            }
            self.turn = if self.turn + 1 == self.order.len() { 0 } else { self.turn + 1 };
        }
        self.flush()
    }

    /// Sends one frame of this flow soon.
    pub(super) fn send_one(&mut self, flow: u32, now: u64) {
        if self.tx.is_full() {
            self.flush();
        }
        if let Some(buf) = self.frame(flow, now) {
            // A full burst is lost like on any wire.
            drop(self.tx.push(buf));
        }
    }

    /// Sends a frame that has no number soon.
    pub(super) fn send_plain(&mut self, template: &Template, key: AnyKey) {
        self.send_stamped(template, key, None);
    }

    /// Sends a frame with this stamp soon, or with its template's.
    pub(super) fn send_stamped(&mut self, template: &Template, key: AnyKey, stamp: Option<Stamp>) {
        if self.tx.is_full() {
            self.flush();
        }
        if let Some(mut buf) = filled(&mut self.io, template.bytes()) {
            template.readdress(buf.head_mut(), key);
            if let Some(stamp) = stamp {
                buf.head_mut()[self.payload_at..][..STAMP_LEN].copy_from_slice(&stamp.bytes());
            }
            drop(self.tx.push(buf));
        }
    }

    #[inline]
    pub(super) fn flush(&mut self) -> usize {
        let before = self.tx.len();
        self.io.tx(&mut self.tx);
        before - self.tx.len()
    }

    /// Gives frames back that were not sent; they were never made.
    pub(super) fn forget_unsent(&mut self) {
        empty(&mut self.tx);
    }

    #[inline]
    fn frame(&mut self, flow: u32, now: u64) -> Option<P::Buf> {
        let template = &self.templates[self.cycle[self.at]];
        let mut buf = filled(&mut self.io, template.bytes())?;
        let (head, made) = (buf.head_mut(), &mut self.made[flow as usize]);
        template.readdress(head, self.keys[flow as usize]);
        let stamp = Stamp { flow, run: self.run, sequence: *made, cycles: now };
        head[self.payload_at..][..STAMP_LEN].copy_from_slice(&stamp.bytes());
        *made = made.wrapping_add(1);
        self.at = if self.at + 1 == self.cycle.len() { 0 } else { self.at + 1 };
        Some(buf)
    }

    /// Receives a burst, and takes the frames with numbers into account; how many frames came.
    #[inline]
    pub(super) fn receive(&mut self, clock: fn() -> u64) -> usize {
        self.io.rx(&mut self.rx);
        let (count, now) = (self.rx.len(), clock());
        for slot in 0..count {
            if let Some(buf) = self.rx.take(slot) {
                self.judge(buf.head(), now);
            }
        }
        self.rx.clear();
        count
    }

    #[inline]
    fn judge(&mut self, frame: &[u8], now: u64) {
        let stamp = frame.get(self.payload_at..).and_then(Stamp::read);
        if stamp.is_some_and(|stamp| stamp.run != self.run) {
            return;
        }
        let known = stamp.and_then(|stamp| {
            Some((stamp, self.sequences.get_mut(stamp.flow as usize)?, self.keys.get(stamp.flow as usize)?))
        });
        let Some((stamp, sequence, key)) = known else {
            self.tally.unmarked(frame);
            return;
        };
        self.tally.count(sequence, stamp.sequence, now.saturating_sub(stamp.cycles));
        if self.tally.received.is_multiple_of(self.check_every) {
            let flow = if self.frames_only { *key } else { key.reversed() };
            self.tally.check(frame, &flow, self.ends.ours, self.payload_at);
        }
    }

    /// Receives a burst, and hands every frame to `see`.
    pub(super) fn arrived(&mut self, mut see: impl FnMut(&mut Self, &[u8])) {
        self.io.rx(&mut self.rx);
        for slot in 0..self.rx.len() {
            if let Some(buf) = self.rx.take(slot) {
                see(self, buf.head());
            }
        }
        self.rx.clear();
    }

    /// The number of a frame's flow.
    pub(super) fn flow_of(&self, frame: &[u8]) -> Option<u32> {
        let stamp = Stamp::read(frame.get(self.payload_at..)?)?;
        ((stamp.flow as usize) < self.keys.len()).then_some(stamp.flow)
    }
}
