//! What became of Services and pools, for those who tell the cluster: one value an object, the newest only, handed over
//! once every worker has it. Whoever reads slowly finds fewer, newer values; whoever writes never waits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use packet::Protocol;
use tokio::sync::Notify;

use crate::ipam::PoolCount;
use crate::model::{ObjectKey, Service};

/// What became of a Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The object this is about; none when it is gone.
    pub service: Option<Arc<Service>>,
    /// Whether its load balancer addresses are ours to give.
    pub ours: bool,
    /// The addresses that it was given and that are served, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// The pools they are of.
    pub pools: Vec<String>,
    /// Why it lacks an address.
    pub lacks: Vec<String>,
    /// What else is wrong with it.
    pub problems: Vec<String>,
    /// Ports of the addresses that another Service has.
    pub lost_ports: Vec<(Protocol, u16)>,
}

/// What became of an AddressPool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolOutcome {
    /// The generation this is about; none when it is gone.
    pub generation: Option<i64>,
    /// Its addresses, when it is in force.
    pub count: Option<PoolCount>,
    /// Why it is not in force; empty when it is.
    pub refused: String,
}

/// Values by object.
#[derive(Debug, Default)]
pub struct Batch {
    /// Services.
    pub services: BTreeMap<ObjectKey, Outcome>,
    /// AddressPools.
    pub pools: BTreeMap<String, PoolOutcome>,
    /// What traffic has shown to be wrong with a Service, each time it shows anew.
    pub warnings: BTreeMap<ObjectKey, String>,
}

impl Batch {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.pools.is_empty() && self.warnings.is_empty()
    }

    /// Takes newer values in.
    pub fn extend(&mut self, newer: Self) {
        self.services.extend(newer.services);
        self.pools.extend(newer.pools);
        self.warnings.extend(newer.warnings);
    }
}

/// Values on their way, newest only.
#[derive(Debug, Default)]
pub struct Outcomes {
    waiting: Mutex<Batch>,
    arrived: Notify,
    /// Why a Service's outcome could not be told to the cluster.
    faults: Mutex<BTreeMap<ObjectKey, String>>,
}

impl Outcomes {
    /// Hands values over.
    pub fn put(&self, batch: Batch) {
        if !batch.is_empty() {
            lock(&self.waiting).extend(batch);
            self.arrived.notify_one();
        }
    }

    /// Everything that was handed over since the last call, at least one value. Cancel safe.
    pub async fn take(&self) -> Batch {
        loop {
            let batch = std::mem::take(&mut *lock(&self.waiting));
            if !batch.is_empty() {
                return batch;
            }
            self.arrived.notified().await;
        }
    }

    /// Notes why a Service's outcome cannot be told, or that it was.
    pub fn set_fault(&self, key: &ObjectKey, fault: Option<String>) {
        let mut faults = lock(&self.faults);
        match fault {
            Some(fault) => drop(faults.insert(key.clone(), fault)),
            None => drop(faults.remove(key)),
        }
    }

    /// Nothing is to be told any more.
    pub fn clear_faults(&self) {
        lock(&self.faults).clear();
    }

    /// Why a Service's outcome cannot be told.
    #[must_use]
    pub fn fault(&self, key: &ObjectKey) -> Option<String> {
        lock(&self.faults).get(key).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that could panic runs under a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, lack: &str) -> Batch {
        let outcome = Outcome { lacks: vec![lack.into()], ..Outcome::default() };
        Batch { services: [(ObjectKey::new("default", name), outcome)].into(), ..Batch::default() }
    }

    #[tokio::test]
    async fn the_newest_value_of_each_object_is_handed_over_once() {
        let outcomes = Arc::new(Outcomes::default());
        outcomes.put(Batch::default());
        outcomes.put(one("a", "old"));
        outcomes.put(one("b", "b"));
        outcomes.put(one("a", "new"));
        let batch = outcomes.take().await;
        let lacks: Vec<_> = batch.services.values().map(|outcome| outcome.lacks[0].as_str()).collect();
        assert_eq!(lacks, ["new", "b"]);
        let waiter = Arc::clone(&outcomes);
        let waits = tokio::spawn(async move { waiter.take().await.services.len() });
        tokio::task::yield_now().await;
        outcomes.put(one("c", "c"));
        assert_eq!(waits.await.expect("it ends"), 1);
    }
}
