//! The protocol of `publish`, checked over every interleaving of a small case: one publisher, one worker.
//!
//! The mailbox is modelled as one slot behind a lock (the real queue is crossbeam's and tested by threads); counting,
//! taking, acknowledging and reclaiming are as in `publish`. Run: `make loom`.
#![cfg(loom)]

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// A published version with the reference count that `std`'s `Arc` keeps, made visible to the model.
struct Version {
    generation: u64,
    references: AtomicUsize,
    freed: AtomicBool,
}

/// A counted reference.
struct Ref(Arc<Version>);

impl Ref {
    fn new(generation: u64) -> Self {
        Self(Arc::new(Version { generation, references: AtomicUsize::new(1), freed: AtomicBool::new(false) }))
    }

    fn share(&self) -> Self {
        self.0.references.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }

    fn read(&self) -> u64 {
        assert!(!self.0.freed.load(Ordering::Relaxed), "read after free");
        self.0.generation
    }

    /// Lets go; true when this was the last reference, which frees.
    fn release(self) -> bool {
        let last = self.0.references.fetch_sub(1, Ordering::Release) == 1;
        if last {
            loom::sync::atomic::fence(Ordering::Acquire);
            assert!(!self.0.freed.swap(true, Ordering::Relaxed), "freed twice");
        }
        last
    }
}

struct Seat {
    mailbox: Mutex<Option<Ref>>,
    taken: AtomicU64,
}

#[test]
fn the_worker_never_frees_and_the_publisher_frees_all_but_the_newest() {
    loom::model(|| {
        let first = Ref::new(1);
        let seat = Arc::new(Seat { mailbox: Mutex::new(None), taken: AtomicU64::new(1) });
        let mut current = first.share();
        let worker = {
            let seat = seat.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    let waiting = seat.mailbox.lock().unwrap().take();
                    if let Some(next) = waiting {
                        assert!(next.read() > current.read(), "generations grow");
                        seat.taken.store(next.read(), Ordering::Release);
                        let old = std::mem::replace(&mut current, next);
                        assert!(!old.release(), "a worker freed tables");
                    }
                    current.read();
                }
                current
            })
        };
        let mut kept = vec![first];
        for generation in 2..=3 {
            let next = Ref::new(generation);
            let replaced = seat.mailbox.lock().unwrap().replace(next.share());
            if let Some(replaced) = replaced {
                assert!(!replaced.release(), "the publisher keeps a clone of what it overwrites");
            }
            kept.push(next);
            kept = reclaim(kept, generation);
        }
        let current = worker.join().unwrap();
        let last = seat.mailbox.lock().unwrap().take();
        let taken = seat.taken.load(Ordering::Acquire);
        assert_eq!(current.read(), taken, "acknowledged is what the worker holds");
        assert!(!last.is_some_and(Ref::release));
        assert!(!current.release());
        assert_eq!(reclaim(kept, 3).len(), 1, "only the newest stays");
    });
}

/// As in `Publisher::reclaim`: a count of one is the publisher's own.
fn reclaim(kept: Vec<Ref>, newest: u64) -> Vec<Ref> {
    let (keep, free): (Vec<_>, Vec<_>) = kept
        .into_iter()
        .partition(|version| version.read() == newest || version.0.references.load(Ordering::Relaxed) > 1);
    for version in free {
        assert!(version.release(), "nobody else may hold what is freed");
    }
    keep
}
