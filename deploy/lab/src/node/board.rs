//! What is known about a pod's containers: written by their tasks, read by the pod's.

use std::sync::Mutex;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::Notify;

/// How a process ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
}

/// Where a container is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    Waiting { reason: &'static str, message: String },
    Running(Timestamp),
    Ended(Exit),
}

/// One container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) ready: bool,
    /// How the process before this one ended.
    pub(super) last: Option<Exit>,
    pub(super) restarts: u32,
}

/// The containers of a pod, in the order of its spec.
pub(super) struct Board {
    states: Mutex<Vec<State>>,
    changed: Notify,
}

impl Board {
    /// `count` containers that have not begun.
    pub(super) fn new(count: usize) -> Self {
        let phase = Phase::Waiting { reason: "ContainerCreating", message: String::new() };
        let state = State { phase, ready: false, last: None, restarts: 0 };
        Self { states: Mutex::new(vec![state; count]), changed: Notify::new() }
    }

    /// Changes one container's state.
    pub(super) fn update(&self, index: usize, change: impl FnOnce(&mut State)) {
        let mut states = self.states.lock().expect("no change panics");
        if let Some(state) = states.get_mut(index) {
            change(state);
        }
        drop(states);
        self.changed.notify_one();
    }

    /// All of them now.
    pub(super) fn read(&self) -> Vec<State> {
        self.states.lock().expect("no change panics").clone()
    }

    /// Waits for a change since the last wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}
