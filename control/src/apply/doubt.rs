//! Has the segments asked for addresses that the API server has not confirmed, and tells the compiler what they say.

use std::time::Duration;

use tokio::time::Instant;

use super::engine::Engine;
use crate::inquiry::{Answer, Heard};

/// After so long an address that another host had is asked for again: while the API server is away nobody else says
/// that the other host is gone.
const AGAIN: Duration = Duration::from_secs(5);

impl Engine {
    /// What comes now is the state of an earlier run, or it is confirmed.
    pub(super) fn set_stale(&mut self, stale: bool) {
        self.compiler.set_stale(stale);
        self.inquiry.clear();
        self.asked_again = None;
        self.listen();
        // Who was in doubt may be gone by now, so that nothing is to be compiled; the full state is there all the same.
        if self.compiler.is_dirty() || self.synced && self.first_full.is_none() {
            self.changed();
        }
    }

    /// Asks for the addresses that the last compilation left out in doubt.
    pub(super) fn ask_segments(&mut self) {
        let now = Instant::now();
        for (address, speakers) in self.compiler.take_questions() {
            self.inquiry.ask(address, speakers, now);
        }
        self.listen();
    }

    /// When the segments are to be asked, or asked again.
    pub(super) fn inquiry_due(&self) -> Option<Instant> {
        self.inquiry.due().into_iter().chain(self.asked_again).min()
    }

    pub(super) fn inquire(&mut self) {
        let now = Instant::now();
        if self.asked_again.take_if(|again| *again <= now).is_some() {
            for address in self.compiler.held_elsewhere() {
                self.inquiry.ask(address, self.compiler.speakers(address), now);
            }
            self.listen();
        }
        let voice = &self.parts.segments.voice;
        // A probe that finds the ring full is a lost one; there are more.
        let free = self.inquiry.step(now, |port, frame| _ = voice.say(port, frame));
        self.answered(free);
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        let answer = self.inquiry.hear(heard);
        self.answered(answer.into_iter().collect());
    }

    fn answered(&mut self, answers: Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        for (address, holder) in &answers {
            let known = self.compiler.held_elsewhere().any(|held| held == *address);
            match holder {
                Some(holder) if !known => tracing::warn!(
                    %address, %holder,
                    "not served: another host has this address, and the API server, which could say whose it is, is away"
                ),
                None if known => {
                    tracing::info!(%address, "served: the other host that had this address is gone")
                }
                _ => {}
            }
        }
        self.compiler.settle(answers);
        let held = self.compiler.held_elsewhere().count();
        if held > 0 {
            self.asked_again.get_or_insert_with(|| Instant::now() + AGAIN);
        }
        self.listen();
        self.changed();
    }

    /// Frames are looked into while somebody asks, and no longer.
    fn listen(&self) {
        self.parts.segments.voice.listen(!self.inquiry.is_quiet());
        self.parts.metrics.held_elsewhere.set(self.compiler.held_elsewhere().count() as u64);
    }
}
