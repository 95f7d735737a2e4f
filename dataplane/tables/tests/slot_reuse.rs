//! A slot comes back only when no flow table of any worker can still name its last use: publication, sweeps and the slot
//! allocator together, over random schedules.

use std::collections::HashSet;

use proptest::{collection::vec, prelude::*};
use tables::{
    Backend, BackendId, BackendState, Generation, SlotAllocator, Tables,
    publish::{Subscriber, mailboxes},
};

/// What happens next; the number chooses which worker or backend.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add,
    Remove(usize),
    Take(usize),
    NewFlow(usize, usize),
    Sweep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Add),
        any::<usize>().prop_map(Step::Remove),
        (0..2usize).prop_map(Step::Take),
        (0..2usize, any::<usize>()).prop_map(|(worker, pick)| Step::NewFlow(worker, pick)),
        (0..2usize).prop_map(Step::Sweep),
    ]
}

/// A worker whose flow table is the set of backends that its flows name.
struct Worker {
    tables: Subscriber<Tables>,
    flows: HashSet<BackendId>,
    half_swept: bool,
}

impl Worker {
    /// A flow to some backend of the version this worker has.
    fn open(&mut self, pick: usize) {
        let backends: Vec<_> = self.tables.current().backends.iter().map(|backend| backend.id).collect();
        if let Some(id) = backends.get(pick % backends.len().max(1)) {
            self.flows.insert(*id);
        }
    }

    /// Half a pass: of every other slot, names that the version has not are forgotten.
    fn sweep(&mut self) {
        let now = self.tables.current();
        let odd = u32::from(self.half_swept);
        self.flows.retain(|id| id.slot() % 2 != odd || now.backends.is_live(*id));
        if self.half_swept {
            self.tables.sweep_completed();
            self.tables.begin_sweep();
        }
        self.half_swept = !self.half_swept;
    }
}

proptest! {
    #[test]
    fn no_flow_names_the_last_use_of_a_new_slot(steps in vec(step(), 0..400)) {
        let mut working = Tables::empty(Generation(0));
        let (mut publisher, subscribers) = mailboxes(2, working.clone());
        let mut workers: Vec<_> =
            subscribers.into_iter().map(|tables| Worker { tables, flows: HashSet::new(), half_swept: false }).collect();
        let (mut slots, mut ids) = (SlotAllocator::<BackendId>::new(4), Vec::new());
        for step in steps {
            match step {
                Step::Add => {
                    slots.reclaim(publisher.swept());
                    let Some(id) = slots.allocate() else { continue };
                    let named = |worker: &Worker| worker.flows.iter().any(|flow| flow.slot() == id.slot());
                    prop_assert!(!workers.iter().any(named), "{:?} is still named", id);
                    let state = BackendState::Active;
                    working.backends.insert(Backend {
                        id, address: [10, 0, 0, 1].into(), port: 80, weight: 1, state, node: None,
                    });
                    ids.push(id);
                }
                Step::Remove(pick) if !ids.is_empty() => {
                    let id = ids.swap_remove(pick % ids.len());
                    working.backends.remove(id);
                    prop_assert!(slots.retire(id, working.generation.next()));
                }
                Step::Remove(_) => continue,
                Step::Take(worker) => {
                    workers[worker].tables.take();
                    continue;
                }
                Step::NewFlow(worker, pick) => {
                    workers[worker].open(pick);
                    continue;
                }
                Step::Sweep(worker) => {
                    workers[worker].sweep();
                    continue;
                }
            }
            working.generation = working.generation.next();
            publisher.publish(working.clone());
        }
    }
}
