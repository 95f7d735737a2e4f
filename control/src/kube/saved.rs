//! The last known state in a file: what serves after a restart while the API server is away.
//!
//! A header, then one object a line, as JSON of the model. Replaced whole. It is of one cluster: a file that another source
//! left, or a newer version of this program, is not used. Whoever writes keeps the objects of the file, so that following the
//! cluster costs no more than what changes. Not here: when it is taken.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::Instant;

use crate::manifests::object::{Id, Object};
use crate::state_dir::StateDir;

/// Its name in the stateDir.
const FILE: &str = "kubernetes";
/// Of the form of the lines. A field added to the model with a default needs no new version.
const VERSION: u32 = 1;
/// Most objects that are taken.
const OBJECTS_MAX: usize = 1_000_000;

/// Between two writes, at least; and at most this part of the time goes into writing.
const INTERVAL: Duration = Duration::from_secs(5);
const SHARE: u32 = 20;

/// The objects of the file, or of the next one.
type Content = BTreeMap<Id, Object>;

/// Keeps the file up to date, beside everything else.
#[derive(Debug)]
pub(super) struct Saver {
    state: Arc<StateDir>,
    /// Names the source in the file.
    source: String,
    /// What `content` does not hold yet: an object, or that there is none.
    changed: BTreeMap<Id, Option<Object>>,
    content: Content,
    /// The write under way: it has the content, and gives it back with how long it took.
    writing: Option<JoinHandle<(Content, Duration)>>,
    next: Instant,
}

impl Saver {
    /// Nothing is to be written yet.
    pub(super) fn new(state: Arc<StateDir>, source: String) -> Self {
        let (changed, content) = (BTreeMap::new(), Content::new());
        Self { state, source, changed, content, writing: None, next: Instant::now() }
    }

    /// An object is this now, or gone.
    pub(super) fn note(&mut self, id: Id, object: Option<Object>) {
        self.changed.insert(id, object);
    }

    /// Begins to write if there is something new and it is time.
    pub(super) async fn tend(&mut self) {
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            let (content, took) = writing.await.unwrap_or_else(panicked);
            self.content = content;
            self.next = Instant::now() + INTERVAL.max(took * SHARE);
        }
        if self.changed.is_empty() || self.writing.is_some() || Instant::now() < self.next {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        let mut content = std::mem::take(&mut self.content);
        let (state, source) = (Arc::clone(&self.state), self.source.clone());
        self.writing = Some(spawn_blocking(move || {
            let begun = Instant::now();
            for (id, object) in changed {
                match object {
                    Some(object) => content.insert(id, object),
                    None => content.remove(&id),
                };
            }
            if let Err(error) = write(&state, &source, &content) {
                tracing::error!(%error, "the state cannot be written to the stateDir; a restart without the API server would serve an older one");
            }
            (content, begun.elapsed())
        }));
    }

    /// The objects of the last run's file; see [`read`].
    pub(super) async fn read(&self) -> Result<Option<Content>, String> {
        let (state, source) = (Arc::clone(&self.state), self.source.clone());
        spawn_blocking(move || read(&state, &source)).await.unwrap_or_else(panicked)
    }
}

/// What a bug in the task on the other thread means here.
fn panicked<T>(error: JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}

#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Header {
    version: u32,
    /// Which source it is of.
    source: String,
}

/// Writes all objects; `source` says where they come from.
///
/// # Errors
/// When the disk is full or the folder is gone; the old file stays.
pub(super) fn write(state: &StateDir, source: &str, objects: &Content) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(&Header { version: VERSION, source: source.to_owned() })?;
    text.push(b'\n');
    for object in objects.values() {
        serde_json::to_writer(&mut text, object)?;
        text.write_all(b"\n")?;
    }
    state.write(FILE, &text)
}

/// The objects of the file; none when there is none of this source.
///
/// # Errors
/// Why there is a file that cannot be used, in one sentence.
pub(super) fn read(state: &StateDir, source: &str) -> Result<Option<Content>, String> {
    let refuse = |what: String| format!("{FILE} in the stateDir: {what}; it is not used");
    let Some(text) = state.read(FILE).map_err(|error| refuse(error.to_string()))? else { return Ok(None) };
    let mut lines = text.split(|byte| *byte == b'\n');
    let header = lines.next().unwrap_or_default();
    let header: Header = serde_json::from_slice(header).map_err(|error| refuse(error.to_string()))?;
    if header.version != VERSION {
        return Err(refuse(format!("version {}, {VERSION} is expected", header.version)));
    }
    if header.source != source {
        return Err(refuse(format!("it is of {}, not of {source}", header.source)));
    }
    let mut objects = BTreeMap::new();
    for (number, line) in (2..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let object: Object =
            serde_json::from_slice(line).map_err(|error| refuse(format!("line {number}: {error}")))?;
        if objects.len() == OBJECTS_MAX {
            return Err(refuse(format!("over {OBJECTS_MAX} objects")));
        }
        objects.insert(object.id(), object);
    }
    Ok(Some(objects))
}
