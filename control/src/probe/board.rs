//! Between the compiler's thread and whoever probes: which probes are wanted, and what came of them. Newest value only, nobody
//! waits, and there is at most one value a probe.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Health, Probe};

/// Values by probe on their way one way.
#[derive(Debug)]
pub struct Mailbox<T> {
    waiting: Mutex<BTreeMap<Probe, T>>,
    arrived: Notify,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    /// Hands values over, each in the place of an older one of its probe.
    pub fn put(&self, values: impl IntoIterator<Item = (Probe, T)>) {
        let mut waiting = self.lock();
        waiting.extend(values);
        if !waiting.is_empty() {
            self.arrived.notify_one();
        }
    }

    /// Everything handed over since the last call, at least one value. Cancel safe.
    pub async fn take(&self) -> BTreeMap<Probe, T> {
        loop {
            let values = std::mem::take(&mut *self.lock());
            if !values.is_empty() {
                return values;
            }
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Probe, T>> {
        // No code that could panic runs under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both ways.
#[derive(Debug, Default)]
pub struct Board {
    /// Probes that are wanted from now on (true), or no longer.
    pub wanted: Mailbox<bool>,
    /// What is known of backends now.
    pub health: Mailbox<Health>,
}
