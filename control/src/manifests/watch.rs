//! The directory on disk: found, read, followed. inotify says when to look and which names were written; a look compares
//! what every file is (device, inode, size, times) with what it was and reads those that differ, so that renames,
//! symlink swaps and directories that come later need no cases of their own.

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A folder under the build's temporary directory, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("fairlead-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("temporary folder");
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).expect("written");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn node(name: &str) -> String {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n")
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let mut told: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Node(name, node) => format!("{name}{}", if node.is_some() { "+" } else { "-" }),
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn only_manifests_are_read_in_subfolders_too() {
        let folder = Folder::new("names");
        fs::create_dir_all(folder.0.join("sub/.git")).expect("folders");
        for name in
            ["a.yaml", "b.yml", "c.json", "sub/d.yaml", ".hidden.yaml", "e.txt", "f.yaml~", "sub/.git/g.yaml"]
        {
            let node =
                name.chars().find(|c| c.is_alphabetic() && *c != 's').map_or("h".into(), |c| c.to_string());
            folder.write(name, &node_in(name, &node));
        }
        folder.write("empty.yaml", "---\n# nothing\n");
        let mut source = Manifests::new(&folder.0);
        assert_eq!(told(&source.load()), ["a.yaml+", "b.yml+", "c.json+", "d.yaml+"]);
        assert!(source.problems().is_empty());
        let mut single = Manifests::new(&folder.0.join("a.yaml"));
        assert_eq!(told(&single.load()), ["a.yaml+"]);
        let mut missing = Manifests::new(&folder.0.join("nowhere"));
        assert!(missing.load().is_empty());
        assert!(missing.problems()[0].contains("No such file"), "{:?}", missing.problems());
    }

    fn node_in(path: &str, _: &str) -> String {
        node(path.rsplit('/').next().expect("a name"))
    }

    async fn next(source: &mut Manifests) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let changes =
                timeout(Duration::from_secs(5), source.changed()).await.expect("in time").expect("inotify");
            if !changes.is_empty() {
                return told(&changes);
            }
        }
        panic!("no change within 5 s");
    }

    #[tokio::test]
    async fn every_way_to_change_a_tree_is_seen() {
        let folder = Folder::new("watch");
        folder.write("a.yaml", &node("a"));
        let mut source = Manifests::new(&folder.0);
        source.follow().expect("inotify");
        assert_eq!(told(&source.load()), ["a+"]);

        folder.write("b.yaml", &node("b"));
        assert_eq!(next(&mut source).await, ["b+"], "a new file");
        folder.write("a.yaml", &node("x"));
        assert_eq!(next(&mut source).await, ["a-", "x+"], "rewritten in place");
        folder.write(".b.yaml.swp", &node("y"));
        fs::rename(folder.0.join(".b.yaml.swp"), folder.0.join("b.yaml")).expect("renamed");
        assert_eq!(next(&mut source).await, ["b-", "y+"], "replaced by rename");
        fs::create_dir_all(folder.0.join("new/deep")).expect("folders");
        folder.write("new/deep/c.yaml", &node("c"));
        assert_eq!(next(&mut source).await, ["c+"], "in a folder that came later");
        folder.write("new/deep/c.yaml", &node("d"));
        assert_eq!(next(&mut source).await, ["c-", "d+"], "and watched from then on");
        fs::remove_file(folder.0.join("b.yaml")).expect("removed");
        assert_eq!(next(&mut source).await, ["y-"], "removed");
        fs::remove_dir_all(folder.0.join("new")).expect("removed");
        assert_eq!(next(&mut source).await, ["d-"], "removed with its folder");
    }

    #[tokio::test]
    async fn a_config_map_is_swapped_as_the_kubelet_does() {
        let folder = Folder::new("configmap");
        let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, folder.0.join(to)).expect("link");
        fs::create_dir_all(folder.0.join("..1")).expect("folder");
        folder.write("..1/a.yaml", &node("old"));
        link("..1", "..data");
        link("..data/a.yaml", "a.yaml");
        let mut source = Manifests::new(&folder.0);
        source.follow().expect("inotify");
        assert_eq!(told(&source.load()), ["old+"]);
        fs::create_dir_all(folder.0.join("..2")).expect("folder");
        folder.write("..2/a.yaml", &node("new"));
        link("..2", "..data_tmp");
        fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).expect("swapped");
        assert_eq!(next(&mut source).await, ["new+", "old-"]);
    }

    #[tokio::test]
    async fn a_change_is_seen_within_fifty_milliseconds() {
        let folder = Folder::new("latency");
        for index in 0..50 {
            folder.write(&format!("{index}.yaml"), &node(&format!("n{index}")));
        }
        let mut source = Manifests::new(&folder.0);
        source.follow().expect("inotify");
        source.load();
        let mut best = Duration::MAX;
        // The best of several: the machine may be busy with other tests.
        for round in 0..5 {
            let start = Instant::now();
            folder.write("7.yaml", &node(&format!("round{round}")));
            next(&mut source).await;
            best = best.min(start.elapsed());
        }
        assert!(best < Duration::from_millis(50), "{best:?}");
    }
}
