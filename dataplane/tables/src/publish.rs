//! How tables reach workers: one mailbox of one slot per worker, overwritten by control, emptied between two bursts.
//!
//! Invariants: a worker never waits; a destructor of a published value never runs on a worker (control keeps a clone of
//! each and drops those nobody else holds); a generation is *programmed* when every worker has taken it.
//! Not here: what is published (`snapshot`), and when (control).

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cpu::Bell;
use crossbeam::{queue::ArrayQueue, utils::CachePadded};

use crate::Generation;

/// What can be published: something immutable that knows its version.
pub trait Published {
    /// The version; grows with every publication.
    fn generation(&self) -> Generation;
}

/// What one worker and control share.
struct Seat<T> {
    mailbox: ArrayQueue<Arc<T>>,
    /// The generation the worker has taken. Written by the worker.
    taken: CachePadded<AtomicU64>,
    /// The generation that was current when the worker's last completed sweep began. Written by the worker.
    swept: CachePadded<AtomicU64>,
}

/// Control's end: publishes to all workers and frees what they no longer hold. It must outlive the workers' ends, or
/// the last versions are freed where those end: join the workers first.
pub struct Publisher<T> {
    seats: Vec<Arc<Seat<T>>>,
    /// Every version that a worker may still hold, oldest first; the newest is always here.
    kept: VecDeque<Arc<T>>,
    /// Called after a publication.
    bells: Vec<Arc<Bell>>,
}

/// A worker's end.
pub struct Subscriber<T> {
    seat: Arc<Seat<T>>,
    current: Arc<T>,
    /// The generation that was current when the running sweep began.
    sweep_began: Generation,
}

/// A publisher and its `workers` subscribers, all of which hold `first` already.
pub fn mailboxes<T: Published>(workers: u16, first: T) -> (Publisher<T>, Vec<Subscriber<T>>) {
    let first = Arc::new(first);
    let generation = first.generation();
    let seat = || {
        Arc::new(Seat {
            mailbox: ArrayQueue::new(1),
            taken: CachePadded::new(AtomicU64::new(generation.0)),
            swept: CachePadded::new(AtomicU64::new(generation.0)),
        })
    };
    let seats: Vec<_> = (0..workers).map(|_| seat()).collect();
    let subscribers = seats
        .iter()
        .map(|seat| Subscriber { seat: seat.clone(), current: first.clone(), sweep_began: generation })
        .collect();
    (Publisher { seats, kept: VecDeque::from([first]), bells: Vec::new() }, subscribers)
}

impl<T: Published> Publisher<T> {
    /// Calls these workers at each publication from now on, in case they sleep.
    pub fn call(&mut self, bells: Vec<Arc<Bell>>) {
        self.bells = bells;
    }

    /// Puts `next` in every mailbox, over a version that was not taken yet, and frees what no worker holds.
    pub fn publish(&mut self, next: T) {
        let next = Arc::new(next);
        debug_assert!(next.generation() > self.newest().generation(), "generations grow");
        for seat in &self.seats {
            drop(seat.mailbox.force_push(next.clone()));
        }
        self.bells.iter().for_each(|bell| bell.ring());
        self.kept.push_back(next);
        self.reclaim();
    }

    /// Frees versions that no worker holds any more; returns how many are still kept, the newest included.
    pub fn reclaim(&mut self) -> usize {
        let newest = self.newest().generation();
        // A count of one is ours: neither a mailbox nor a worker has it, and no new reference can come from nowhere.
        self.kept.retain(|version| version.generation() == newest || Arc::strong_count(version) > 1);
        self.kept.len()
    }

    /// The version published last.
    #[must_use]
    pub fn newest(&self) -> &Arc<T> {
        self.kept.back().expect("the newest version is never dropped")
    }

    /// The newest generation that every worker has taken.
    #[must_use]
    pub fn programmed(&self) -> Generation {
        self.least(|seat| &seat.taken)
    }

    /// What is absent from the tables since this generation or longer is in no worker's flow table.
    #[must_use]
    pub fn swept(&self) -> Generation {
        self.least(|seat| &seat.swept)
    }

    fn least(&self, of: impl Fn(&Seat<T>) -> &AtomicU64) -> Generation {
        let least = self.seats.iter().map(|seat| of(seat).load(Ordering::Acquire)).min();
        least.map_or(self.newest().generation(), Generation)
    }
}

impl<T: Published> Subscriber<T> {
    /// The version this worker forwards by.
    #[inline]
    #[must_use]
    pub fn current(&self) -> &T {
        &self.current
    }

    /// Takes a waiting version, if there is one, and returns the one it replaces. Call it between bursts.
    #[inline]
    pub fn take(&mut self) -> Option<Arc<T>> {
        // `pop` on an empty queue executes a full fence; looking first does not.
        if self.seat.mailbox.is_empty() {
            return None;
        }
        let next = self.seat.mailbox.pop()?;
        // Release: who sees this generation as taken sees that this worker let go of older ones' contents.
        self.seat.taken.store(next.generation().0, Ordering::Release);
        Some(std::mem::replace(&mut self.current, next))
    }

    /// A pass over the whole flow table begins.
    pub fn begin_sweep(&mut self) {
        self.sweep_began = self.current.generation();
    }

    /// The version under which the last pass began.
    #[must_use]
    pub const fn sweep_began(&self) -> Generation {
        self.sweep_began
    }

    /// Tells control that the pass is done.
    pub fn sweep_completed(&mut self) {
        self.seat.swept.store(self.sweep_began.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    /// Knows on which thread it must die.
    struct Version {
        generation: Generation,
        home: ThreadId,
        bulk: Vec<u64>,
    }

    impl Version {
        fn new(generation: u64) -> Self {
            Self {
                generation: Generation(generation),
                home: thread::current().id(),
                bulk: vec![generation; 64],
            }
        }
    }

    impl Published for Version {
        fn generation(&self) -> Generation {
            self.generation
        }
    }

    impl Drop for Version {
        fn drop(&mut self) {
            assert_eq!(thread::current().id(), self.home, "freed on the publisher's thread");
            self.bulk.fill(u64::MAX);
        }
    }

    #[test]
    fn a_version_is_programmed_when_every_worker_took_it() {
        let (mut publisher, mut workers) = mailboxes(2, Version::new(1));
        publisher.publish(Version::new(2));
        assert_eq!(publisher.programmed(), Generation(1));
        assert_eq!(workers[0].take().map(|old| old.generation()), Some(Generation(1)));
        assert_eq!(publisher.programmed(), Generation(1));
        workers[1].take();
        assert_eq!(publisher.programmed(), Generation(2));
        assert_eq!(workers[0].current().generation(), Generation(2));
        assert!(workers[0].take().is_none());
    }

    #[test]
    fn an_untaken_version_is_overwritten_and_freed() {
        let (mut publisher, mut workers) = mailboxes(1, Version::new(1));
        for generation in 2..=100 {
            publisher.publish(Version::new(generation));
            assert!(publisher.reclaim() <= 2, "the one in use and the newest");
        }
        workers[0].take();
        assert_eq!((publisher.reclaim(), publisher.programmed()), (1, Generation(100)));
    }

    #[test]
    fn a_sweep_covers_what_was_gone_when_it_began() {
        let (mut publisher, mut workers) = mailboxes(1, Version::new(1));
        publisher.publish(Version::new(2));
        workers[0].take();
        workers[0].sweep_completed();
        assert_eq!(publisher.swept(), Generation(1), "that pass began under generation 1");
        workers[0].begin_sweep();
        assert_eq!((workers[0].sweep_began(), publisher.swept()), (Generation(2), Generation(1)));
        workers[0].sweep_completed();
        assert_eq!(publisher.swept(), Generation(2));
    }

    #[test]
    fn threads_never_free_and_never_see_a_freed_version() {
        const VERSIONS: u64 = 20_000;
        let (mut publisher, workers) = mailboxes(2, Version::new(1));
        let threads: Vec<_> = workers
            .into_iter()
            .map(|mut worker| {
                thread::spawn(move || {
                    let mut last = 1;
                    while last < VERSIONS {
                        worker.take();
                        let now = worker.current();
                        assert!(now.generation().0 >= last, "generations do not go back");
                        last = now.generation().0;
                        assert!(
                            now.bulk.iter().all(|word| *word == last),
                            "a version is whole while it is held"
                        );
                    }
                    worker
                })
            })
            .collect();
        (2..=VERSIONS).for_each(|generation| publisher.publish(Version::new(generation)));
        // Workers come home before the publisher goes, as at shutdown.
        let workers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(publisher.programmed(), Generation(VERSIONS));
        assert_eq!(publisher.reclaim(), 1);
        drop(workers);
    }
}
