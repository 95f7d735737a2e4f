//! The directory on disk: found, read, followed. inotify says when to look and which names were written; a look compares
//! what every file is (device, inode, size, times) with what it was and reads those that differ, so that renames,
//! symlink swaps and directories that come later need no cases of their own.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use super::state::{FileReport, SourceState};
use crate::model::Change;

/// Largest file in bytes.
const FILE_MAX: u64 = 64 << 20;
/// Most files.
const FILES_MAX: usize = 100_000;
/// Deepest folder below the directory.
const DEPTH_MAX: usize = 16;
/// How long to wait for more after the first event: an editor's or kubectl's burst becomes one look.
const SETTLE: Duration = Duration::from_millis(5);
/// How often to look without an event, for what inotify cannot see (targets of symlinks, network file systems).
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A file that changed without an event may be half written; it is read once it is this old.
const SETTLED_AGE: Duration = Duration::from_millis(500);
const EVENT_BUFFER_BYTES: usize = 16 << 10;

/// What a file is, without its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A directory of manifests, or a single file.
#[derive(Debug)]
pub struct Manifests {
    root: PathBuf,
    state: SourceState,
    stamps: BTreeMap<PathBuf, Stamp>,
    watch: Option<Watch>,
    /// Names that were written since the last look.
    written: BTreeSet<PathBuf>,
    /// Whether an event waits for a look.
    pending: bool,
    /// Why the tree itself could not be followed to its end.
    trouble: Vec<String>,
}

#[derive(Debug)]
struct Watch {
    inotify: AsyncFd<Inotify>,
    folders: HashMap<WatchDescriptor, PathBuf>,
    watched: HashMap<PathBuf, WatchDescriptor>,
}

impl Manifests {
    /// Names the source; nothing is read yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        // A bare name is put in its folder, as the names in events are.
        let bare = root.parent() == Some(Path::new(""));
        Self {
            root: if bare { Path::new(".").join(root) } else { root.to_owned() },
            state: SourceState::default(),
            stamps: BTreeMap::new(),
            watch: None,
            written: BTreeSet::new(),
            pending: false,
            trouble: Vec::new(),
        }
    }

    /// Begins to follow the tree; to be called within a tokio runtime and before [`Self::load`], so that nothing is missed.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance (fs.inotify.max_user_instances).
    pub fn follow(&mut self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "the newer one is unsafe; Inotify keeps one open descriptor all its life, which is all it asks"
        )]
        let inotify = AsyncFd::new(Inotify::init()?)?;
        self.watch = Some(Watch { inotify, folders: HashMap::new(), watched: HashMap::new() });
        Ok(())
    }

    /// Looks at the whole tree and reads what is new.
    pub fn load(&mut self) -> Vec<Change> {
        self.pending = false;
        let written = std::mem::take(&mut self.written);
        let found = self.find();
        let mut changes = Vec::new();
        let gone: Vec<_> = self.stamps.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        for path in gone {
            self.stamps.remove(&path);
            changes.extend(self.state.remove(&path.to_string_lossy()));
        }
        for (path, stamp) in found {
            let known = self.stamps.get(&path);
            if written.contains(&path) || (known != Some(&stamp) && is_settled(known, &stamp)) {
                let content = read_bounded(&path);
                let text = content.as_deref().map_err(Clone::clone);
                changes.extend(self.state.set(&path.to_string_lossy(), text, SystemTime::now()));
                self.stamps.insert(path, stamp);
            }
        }
        changes
    }

    /// Waits for the next changes of the model; empty when a look found nothing new. Safe to cancel.
    ///
    /// # Errors
    /// When inotify fails; without [`Self::follow`] it only looks every 2 s.
    pub async fn changed(&mut self) -> io::Result<Vec<Change>> {
        if !self.pending
            && let Some(watch) = &mut self.watch
        {
            match timeout(LOOK_EVERY, watch.inotify.readable_mut()).await {
                Ok(ready) => drop(ready?),
                Err(_) => return Ok(self.load()),
            }
            self.pending = true;
        } else if self.watch.is_none() {
            sleep(LOOK_EVERY).await;
            return Ok(self.load());
        }
        sleep(SETTLE).await;
        self.drain_events().await?;
        Ok(self.load())
    }

    /// Every file with its state; what is wrong with the tree itself comes first, under the root's name.
    #[must_use]
    pub fn report(&self) -> Vec<FileReport> {
        let mut reports = self.state.report();
        if !self.trouble.is_empty() {
            let report = FileReport {
                file: self.root.display().to_string(),
                objects: 0,
                ignored: BTreeMap::new(),
                good: false,
                problems: self.trouble.clone(),
                changed: SystemTime::UNIX_EPOCH,
            };
            reports.insert(0, report);
        }
        reports
    }

    /// Every fault, a line each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.report().into_iter().flat_map(|report| report.problems).collect()
    }

    /// Notes the names of all waiting events.
    async fn drain_events(&mut self) -> io::Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let mut buffer = vec![0; EVENT_BUFFER_BYTES];
        // Each turn empties a buffer; a flood ends because the kernel's own queue is bounded.
        for _ in 0..1024 {
            let Ok(ready) = timeout(Duration::ZERO, watch.inotify.readable_mut()).await else { break };
            let mut ready = ready?;
            let Ok(events) = ready.try_io(|inotify| inotify.get_mut().read_events(&mut buffer)) else {
                break;
            };
            for event in events? {
                if event.mask.contains(EventMask::IGNORED)
                    && let Some(folder) = watch.folders.remove(&event.wd)
                {
                    watch.watched.remove(&folder);
                }
                let complete = event.mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO);
                if let (true, Some(name), Some(folder)) = (complete, event.name, watch.folders.get(&event.wd))
                {
                    self.written.insert(folder.join(name));
                }
            }
        }
        Ok(())
    }

    /// All manifests of the tree with what they are; folders are watched before they are listed.
    fn find(&mut self) -> BTreeMap<PathBuf, Stamp> {
        let mut found = BTreeMap::new();
        self.trouble.clear();
        let root = self.root.clone();
        match fs::metadata(&root) {
            Ok(meta) if meta.is_file() => {
                self.watch_folder(
                    root.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")),
                );
                found.insert(root, stamp(&meta));
            }
            Ok(_) => self.list(&root, 0, &mut found),
            Err(error) => {
                self.watch_folder(root.parent().unwrap_or(Path::new("/")));
                self.trouble.push(format!(
                    "{}:1: {error}; a directory or file of manifests is expected",
                    root.display()
                ));
            }
        }
        found
    }

    fn list(&mut self, folder: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) {
        let trouble = |what: String| format!("{}:1: {what}", folder.display());
        if depth > DEPTH_MAX {
            return self
                .trouble
                .push(trouble(format!("folders over {DEPTH_MAX} deep; a flatter tree is expected")));
        }
        self.watch_folder(folder);
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                return self.trouble.push(trouble(format!("{error}; a readable directory is expected")));
            }
        };
        for entry in entries.flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Follows symlinks; one that leads nowhere is no file.
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_dir() {
                self.list(&path, depth + 1, found);
            } else if meta.is_file() && is_manifest(&path) {
                if found.len() == FILES_MAX {
                    return self.trouble.push(trouble(format!("over {FILES_MAX} files; fewer are expected")));
                }
                found.insert(path, stamp(&meta));
            }
        }
    }

    fn watch_folder(&mut self, folder: &Path) {
        let Some(watch) = &mut self.watch else { return };
        if watch.watched.contains_key(folder) {
            return;
        }
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO;
        match watch.inotify.get_ref().watches().add(folder, mask) {
            Ok(descriptor) => {
                watch.folders.insert(descriptor.clone(), folder.to_owned());
                watch.watched.insert(folder.to_owned(), descriptor);
            }
            Err(error) => {
                let what = "is looked at every 2 s only; raise fs.inotify.max_user_watches";
                self.trouble.push(format!("{}:1: {error}; {what}", folder.display()));
            }
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(OsStr::to_str), Some("yaml" | "yml" | "json"))
}

fn stamp(meta: &fs::Metadata) -> Stamp {
    Stamp {
        file: (meta.dev(), meta.ino()),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }
}

/// A new file or another file under the name is complete for all we know; one that changed in place without an event
/// may have a writer still.
fn is_settled(known: Option<&Stamp>, stamp: &Stamp) -> bool {
    if known.is_none_or(|known| known.file != stamp.file) {
        return true;
    }
    let since_epoch = Duration::new(u64::try_from(stamp.modified.0).unwrap_or(0), 0);
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since_epoch);
    // A time in the future says nothing about a writer.
    age.map_or(true, |age| age > SETTLED_AGE + Duration::from_secs(1))
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| format!("{error}; a readable file is expected"))?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{error}; a readable file is expected"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("larger than {} MiB; split the file", FILE_MAX >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8; YAML or JSON in UTF-8 is expected".to_owned())
}
