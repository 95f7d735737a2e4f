//! All kinds joined to one source: nothing is told before every kind was listed once, then every difference as it comes.
//!
//! Without an API server at the start the state of the last run is told instead, marked stale; the lists then correct it in
//! one step, so that what was deleted meanwhile goes. While the server is away the last state stays. Not here: what
//! following takes (`reflect`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::counters::Counters;
use super::fault::{Fault, FaultKind};
use super::kind::Kind;
use super::reflect::Seen;
use super::saved::Saver;
use crate::admin::view;
use crate::apply::SourceEvent;
use crate::manifests::change;
use crate::manifests::object::{Id, Object, Reading};
use crate::model::Change;
use crate::state_dir::StateDir;
use crate::yaml::Problem;

/// Sightings taken together at most.
const BATCH_MAX: usize = 1024;
/// Between two looks at what has no event of its own: ages, the file.
const TICK: Duration = Duration::from_secs(1);
/// For so long the API server gets to give everything before the state of the last run serves.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// Faulty objects named in `show sources`.
const FAULTY_SHOWN: usize = 5;

const KINDS: usize = Kind::ALL.len();

/// What is known of one kind.
#[derive(Debug, Default)]
struct Known {
    listed: bool,
    objects: BTreeMap<Id, Object>,
    /// What was passed over in objects.
    problems: BTreeMap<Id, Vec<Problem>>,
    /// Why it is not followed now.
    failing: Option<Fault>,
    /// What of that is in the log.
    logged: Option<FaultKind>,
    /// When it last was as the server has it.
    current: Option<Instant>,
}

/// The state of the last run, in force until every kind was listed.
type Saved = BTreeMap<Id, Object>;

/// Joins what the followers see.
pub(super) struct Source {
    counters: Arc<Counters>,
    events: mpsc::Sender<SourceEvent>,
    known: [Known; KINDS],
    /// Whether every kind was listed.
    synced: bool,
    saved: Option<Saved>,
    begun: Instant,
    /// Whether the file of the last run was looked for.
    looked: bool,
    told: Vec<view::Source>,
    saver: Saver,
}

/// Nobody listens any more.
struct Unheard;

impl Source {
    pub(super) fn new(
        counters: Arc<Counters>,
        state: Arc<StateDir>,
        name: String,
        events: mpsc::Sender<SourceEvent>,
    ) -> Self {
        Self {
            counters,
            events,
            known: Default::default(),
            synced: false,
            saved: None,
            begun: Instant::now(),
            looked: false,
            told: Vec::new(),
            saver: Saver::new(state, name),
        }
    }

    /// Joins until nobody listens.
    pub(super) async fn run(mut self, mut seen: mpsc::Receiver<Seen>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let told = tokio::select! {
                count = seen.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    self.take(batch.drain(..)).await
                }
                _ = tick.tick() => self.keep_house().await,
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, batch: impl Iterator<Item = Seen>) -> Result<(), Unheard> {
        let mut changes = Vec::new();
        let mut status = false;
        for seen in batch {
            status |= !matches!(seen, Seen::Changed(..) | Seen::Deleted(..));
            self.see(seen, &mut changes);
        }
        if !changes.is_empty() {
            self.tell(SourceEvent::Changes(changes)).await?;
        }
        if !self.synced && self.known.iter().all(|known| known.listed) {
            self.sync().await?;
        }
        // A server that answers may give everything in a moment; one that is not there will not.
        let mut failing = self.known.iter().filter_map(|known| known.failing.as_ref());
        if !self.synced && failing.any(|fault| fault.kind.is_absence()) {
            self.fall_back().await?;
        }
        if status { self.tell_status().await } else { Ok(()) }
    }

    /// Takes one sighting in; what it changes of the state in force is added to `changes`.
    fn see(&mut self, seen: Seen, changes: &mut Vec<Change>) {
        let told = self.synced;
        let saver = &mut self.saver;
        let mut differs = |id: &Id, object: Option<&Object>| {
            if told {
                saver.note(id.clone(), object.cloned());
                changes.push(change(id, object.cloned()));
            }
        };
        match seen {
            Seen::Changed(kind, reading) => {
                if let Some((id, object)) = self.known[kind.index()].put(reading) {
                    differs(&id, object.as_ref());
                }
            }
            Seen::Deleted(kind, id) => {
                let known = &mut self.known[kind.index()];
                known.problems.remove(&id);
                if known.objects.remove(&id).is_some() {
                    differs(&id, None);
                }
            }
            Seen::Failing(kind, fault) => self.known[kind.index()].fail(kind, fault),
            Seen::Listed(kind, readings) => {
                let known = &mut self.known[kind.index()];
                let gone = known.list(readings, &mut differs);
                gone.iter().for_each(|id| differs(id, None));
            }
            Seen::Watching(kind) => self.known[kind.index()].watch(kind),
        }
    }

    /// Everything was listed: what differs from the state of the last run (or from nothing) is told in one step.
    async fn sync(&mut self) -> Result<(), Unheard> {
        self.synced = true;
        let before = self.saved.take();
        let mut old = before.clone().unwrap_or_default();
        let mut changes = Vec::new();
        for (id, object) in self.known.iter().flat_map(|known| &known.objects) {
            self.saver.note(id.clone(), Some(object.clone()));
            if old.remove(id).as_ref() != Some(object) {
                changes.push(change(id, Some(object.clone())));
            }
        }
        changes.extend(old.keys().map(|id| change(id, None)));
        tracing::info!(changes = changes.len(), "every kind was listed from the API server");
        self.tell(SourceEvent::Changes(changes)).await?;
        if before.is_none() {
            self.tell(SourceEvent::Synced).await?;
        }
        self.tell(SourceEvent::Current).await
    }

    /// The API server does not give everything: the state of the last run serves meanwhile, if there is one.
    async fn fall_back(&mut self) -> Result<(), Unheard> {
        if std::mem::replace(&mut self.looked, true) {
            return Ok(());
        }
        let saved = match self.saver.read().await {
            Ok(Some(saved)) => saved,
            Ok(None) => return Ok(()),
            Err(why) => {
                tracing::warn!("{why}");
                return Ok(());
            }
        };
        tracing::warn!(
            objects = saved.len(),
            "the state of the last run serves until the API server gives its own"
        );
        let changes = saved.iter().map(|(id, object)| change(id, Some(object.clone()))).collect();
        self.saved = Some(saved);
        self.tell(SourceEvent::Stale).await?;
        self.tell(SourceEvent::Changes(changes)).await?;
        self.tell(SourceEvent::Synced).await
    }

    async fn keep_house(&mut self) -> Result<(), Unheard> {
        if !self.synced && self.begun.elapsed() >= START_PATIENCE {
            self.fall_back().await?;
        }
        self.saver.tend().await;
        self.tell_status().await
    }

    async fn tell_status(&mut self) -> Result<(), Unheard> {
        let connected = self.counters.is_connected();
        let mut stale = !self.synced || !connected;
        let mut rows = Vec::new();
        for kind in Kind::ALL {
            let known = &mut self.known[kind.index()];
            if connected && known.listed && known.failing.is_none() {
                known.current = Some(Instant::now());
            } else {
                stale = true;
            }
            rows.push(self.row(kind, connected));
        }
        self.counters.set_stale(stale);
        if rows == self.told {
            return Ok(());
        }
        self.told.clone_from(&rows);
        self.tell(SourceEvent::Status(rows)).await
    }

    fn row(&self, kind: Kind, connected: bool) -> view::Source {
        let known = &self.known[kind.index()];
        let of_kind = |saved: &Saved| saved.keys().filter(|id| Kind::of(id) == kind).count();
        let objects = if self.synced { known.objects.len() } else { self.saved.as_ref().map_or(0, of_kind) };
        self.counters.set_objects(kind, objects);
        let state = match (self.synced, &known.failing) {
            (true, None) if connected => view::Source::OK,
            (false, _) if self.saved.is_none() => view::Source::WAITING,
            _ => view::Source::STALE,
        };
        let age = match (connected && known.failing.is_none(), known.current) {
            (true, Some(_)) => self.counters.since_heard(),
            (_, current) => current.map(|at| at.elapsed()),
        };
        view::Source {
            name: kind.name().into(),
            state: state.into(),
            objects: objects as u64,
            ignored: 0,
            error: known.error(),
            last_contact_seconds: age.map(|age| age.as_secs()),
        }
    }

    async fn tell(&self, event: SourceEvent) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_| Unheard)
    }
}

impl Known {
    /// Takes an object in; what it then is, if that differs from before. One that makes no sense leaves the last that did.
    fn put(&mut self, reading: Reading) -> Option<(Id, Option<Object>)> {
        let Reading { id, object, problems } = reading;
        let refused = object.is_none() && !problems.is_empty();
        if problems.is_empty() {
            self.problems.remove(&id);
        } else {
            self.problems.insert(id.clone(), problems);
        }
        if refused || self.objects.get(&id) == object.as_ref() {
            return None;
        }
        match &object {
            Some(object) => self.objects.insert(id.clone(), object.clone()),
            None => self.objects.remove(&id),
        };
        Some((id, object))
    }

    /// Takes a whole list in; returns what is no longer there.
    fn list(&mut self, readings: Vec<Reading>, differs: &mut impl FnMut(&Id, Option<&Object>)) -> Vec<Id> {
        self.problems.clear();
        let mut gone: BTreeSet<_> = self.objects.keys().cloned().collect();
        for reading in readings {
            gone.remove(&reading.id);
            if let Some((id, object)) = self.put(reading) {
                differs(&id, object.as_ref());
            }
        }
        gone.iter().for_each(|id| drop(self.objects.remove(id)));
        self.listed = true;
        gone.into_iter().collect()
    }

    fn fail(&mut self, kind: Kind, fault: Fault) {
        // A stream that ends, or a version that is forgotten, is no news: the next request mends it, or says what is.
        let is_news = !matches!(fault.kind, FaultKind::Cut | FaultKind::Gone);
        if is_news && self.logged.replace(fault.kind) != Some(fault.kind) {
            tracing::warn!(kind = kind.name(), %fault, "not followed; what is known stays in force");
        }
        self.failing = Some(fault);
    }

    fn watch(&mut self, kind: Kind) {
        self.failing = None;
        if self.logged.take().is_some() {
            tracing::info!(kind = kind.name(), "followed again");
        }
    }

    fn error(&self) -> String {
        let failing = self.failing.iter().map(ToString::to_string);
        let faulty = self
            .problems
            .iter()
            .flat_map(|(id, problems)| problems.iter().map(move |problem| format!("{id}: {problem}")));
        let mut lines: Vec<_> = failing.chain(faulty.take(FAULTY_SHOWN)).collect();
        if self.problems.len() > FAULTY_SHOWN {
            lines.push(format!("{} objects are not wholly understood", self.problems.len()));
        }
        lines.join("\n")
    }
}
