//! Many files, one picture: pure, file contents in, changes of the model out.
//! An object in several files is taken from the first by path; the others say so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::object::{self, Content, Id, Object};
use crate::model::Change;
use crate::yaml::Problem;

/// Most objects that all files together may hold.
const OBJECTS_MAX: usize = 1_000_000;

/// A file as `show sources` tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileReport {
    /// Path.
    pub file: String,
    /// Objects of it that are in force.
    pub objects: usize,
    /// Objects of kinds that are not followed, by kind.
    pub ignored: BTreeMap<String, usize>,
    /// Whether its present content is good.
    pub good: bool,
    /// Every fault as `FILE:LINE: kind ns/name: path: what; expected`, and objects that another file has first.
    pub problems: Vec<String>,
    /// When its content last changed.
    pub changed: SystemTime,
}

/// What all files say together.
#[derive(Debug, Default)]
pub struct SourceState {
    files: BTreeMap<String, File>,
    owners: BTreeMap<Id, BTreeSet<String>>,
}

#[derive(Debug)]
struct File {
    /// Last good content.
    objects: BTreeMap<Id, Object>,
    ignored: BTreeMap<String, usize>,
    /// Faults of the present content.
    problems: Vec<Problem>,
    changed: SystemTime,
}

impl SourceState {
    /// Takes the present content of a file in; an unreadable one (`Err` says why) is broken.
    pub fn set(&mut self, file: &str, content: Result<&str, String>, now: SystemTime) -> Vec<Change> {
        let mut content = content.map_or_else(unreadable, object::read);
        let own = self.files.get(file).map_or(0, |known| known.objects.len());
        let others = self.files.values().map(|known| known.objects.len()).sum::<usize>() - own;
        if others + content.objects.len() > OBJECTS_MAX {
            content
                .problems
                .push(whole_file(format!("over {OBJECTS_MAX} objects together; fewer are expected")));
        }
        let old = self.files.remove(file);
        if !content.problems.is_empty() {
            let (objects, ignored) = old.map(|old| (old.objects, old.ignored)).unwrap_or_default();
            let broken = File { objects, ignored, problems: content.problems, changed: now };
            self.files.insert(file.to_owned(), broken);
            return Vec::new();
        }
        let objects: BTreeMap<_, _> =
            content.objects.into_iter().map(|(id, (_, object))| (id, object)).collect();
        let before = old.map(|old| old.objects).unwrap_or_default();
        let new = File { objects, ignored: content.ignored, problems: Vec::new(), changed: now };
        self.replace(file, &before, Some(new))
    }

    /// The file is gone.
    pub fn remove(&mut self, file: &str) -> Vec<Change> {
        let Some(old) = self.files.remove(file) else { return Vec::new() };
        self.replace(file, &old.objects, None)
    }

    /// Every file, by path.
    #[must_use]
    pub fn report(&self) -> Vec<FileReport> {
        self.files.iter().map(|(name, file)| self.report_file(name, file)).collect()
    }

    fn report_file(&self, name: &str, file: &File) -> FileReport {
        let mut problems: Vec<_> =
            file.problems.iter().map(|problem| format!("{name}:{}: {problem}", problem.line)).collect();
        let mut objects = 0;
        for id in file.objects.keys() {
            match self.owners.get(id).and_then(BTreeSet::first) {
                Some(owner) if owner != name => {
                    problems.push(format!(
                        "{name}: {id}: {owner} has it too and comes first; it is taken from there"
                    ));
                }
                _ => objects += 1,
            }
        }
        let good = file.problems.is_empty();
        FileReport {
            file: name.to_owned(),
            objects,
            ignored: file.ignored.clone(),
            good,
            problems,
            changed: file.changed,
        }
    }

    fn replace(&mut self, file: &str, before: &BTreeMap<Id, Object>, new: Option<File>) -> Vec<Change> {
        let mut touched: BTreeSet<_> = before.keys().cloned().collect();
        touched.extend(new.iter().flat_map(|new| new.objects.keys().cloned()));
        let mut changes = Vec::new();
        let seen_before: Vec<_> =
            touched.iter().map(|id| self.winner(id, Some((file, before))).cloned()).collect();
        for id in before.keys() {
            if let Some(owners) = self.owners.get_mut(id) {
                owners.remove(file);
                if owners.is_empty() {
                    self.owners.remove(id);
                }
            }
        }
        if let Some(new) = new {
            for id in new.objects.keys() {
                self.owners.entry(id.clone()).or_default().insert(file.to_owned());
            }
            self.files.insert(file.to_owned(), new);
        }
        for (id, old) in touched.iter().zip(seen_before) {
            let now = self.winner(id, None).cloned();
            if now != old {
                changes.push(change(id, now));
            }
        }
        changes
    }

    /// The object in force; `aside` is a file whose objects were taken out of `files`.
    fn winner<'a>(&'a self, id: &Id, aside: Option<(&str, &'a BTreeMap<Id, Object>)>) -> Option<&'a Object> {
        let owner = self.owners.get(id)?.first()?;
        match aside {
            Some((file, objects)) if file == owner => objects.get(id),
            _ => self.files.get(owner)?.objects.get(id),
        }
    }
}

fn unreadable(why: String) -> Content {
    Content { problems: vec![whole_file(why)], ..Content::default() }
}

fn whole_file(message: String) -> Problem {
    Problem { line: 1, path: String::new(), message }
}

/// An object as the model takes it in; none: it went.
pub(crate) fn change(id: &Id, object: Option<Object>) -> Change {
    match id {
        Id::Service(key) => {
            let object = object.and_then(|it| if let Object::Service(it) = it { Some(it) } else { None });
            Change::Service(key.clone(), object)
        }
        Id::EndpointSlice(key) => {
            let object =
                object.and_then(|it| if let Object::EndpointSlice(it) = it { Some(it) } else { None });
            Change::EndpointSlice(key.clone(), object)
        }
        Id::Namespace(name) => {
            let object = object.and_then(|it| if let Object::Namespace(it) = it { Some(it) } else { None });
            Change::Namespace(name.clone(), object)
        }
        Id::AddressPool(name) => {
            let object = object.and_then(|it| if let Object::AddressPool(it) = it { Some(it) } else { None });
            Change::AddressPool(name.clone(), object)
        }
        Id::Node(name) => {
            let object = object.and_then(|it| if let Object::Node(it) = it { Some(it) } else { None });
            Change::Node(name.clone(), object)
        }
        Id::ServiceCidr(name) => {
            let object = object.and_then(|it| if let Object::ServiceCidr(it) = it { Some(it) } else { None });
            Change::ServiceCidr(name.clone(), object)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    }

    /// Each change as `name=zone` or `name-`.
    fn told(changes: &[Change]) -> Vec<String> {
        let tell = |change: &Change| match change {
            Change::Node(name, Some(node)) => format!("{name}={}", node.zone.as_deref().unwrap_or_default()),
            Change::Node(name, None) => format!("{name}-"),
            other => panic!("{other:?}"),
        };
        changes.iter().map(tell).collect()
    }

    fn set(state: &mut SourceState, file: &str, text: &str) -> Vec<String> {
        told(&state.set(file, Ok(text), SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut state = SourceState::default();
        let both = format!("{}---\n{}", node("a", "x"), node("b", "x"));
        assert_eq!(set(&mut state, "f", &both), ["a=x", "b=x"]);
        assert_eq!(set(&mut state, "f", &both), [""; 0]);
        assert_eq!(
            set(&mut state, "f", &format!("{}---\n{}", node("b", "y"), node("c", "x"))),
            ["a-", "b=y", "c=x"]
        );
        assert_eq!(told(&state.remove("f")), ["b-", "c-"]);
        assert!(state.report().is_empty());
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_content() {
        let mut state = SourceState::default();
        set(&mut state, "f", &node("a", "x"));
        assert_eq!(set(&mut state, "f", "apiVersion: v1\nkind: [\n"), [""; 0]);
        let report = &state.report()[0];
        assert!(!report.good && report.objects == 1 && report.problems[0].starts_with("f:3: "), "{report:?}");
        assert_eq!(set(&mut state, "g", &node("b", "x")), ["b=x"], "others are followed");
        assert_eq!(set(&mut state, "f", &node("a", "y")), ["a=y"]);
        assert!(state.report()[0].good);
        let why = Err("Permission denied; a readable file is expected".to_owned());
        assert!(state.set("f", why, SystemTime::UNIX_EPOCH).is_empty());
        assert_eq!(state.report()[0].problems, ["f:1: Permission denied; a readable file is expected"]);
    }

    #[test]
    fn the_first_file_by_path_wins_an_object() {
        let mut state = SourceState::default();
        set(&mut state, "b", &node("n", "of-b"));
        assert_eq!(set(&mut state, "c", &node("n", "of-c")), [""; 0]);
        assert_eq!(set(&mut state, "a", &node("n", "of-a")), ["n=of-a"]);
        assert_eq!(
            state.report()[2].problems,
            ["c: Node n: a has it too and comes first; it is taken from there"]
        );
        assert_eq!(told(&state.remove("a")), ["n=of-b"]);
        assert_eq!(told(&state.remove("b")), ["n=of-c"]);
    }

    proptest::proptest! {
        /// Whatever happened on the way, the picture is that of the files as they are now.
        #[test]
        fn history_leaves_no_trace(steps in proptest::collection::vec((0usize..3, 0usize..5, 0usize..3), 0..30)) {
            let text = |kind: usize, zone: usize| match kind {
                0 => String::new(),
                1 => node("a", &format!("z{zone}")),
                2 => format!("{}---\n{}", node("a", &format!("z{zone}")), node("b", "z")),
                3 => node("b", &format!("z{zone}")),
                _ => unreachable!("4 removes"),
            };
            let mut state = SourceState::default();
            let mut seen = BTreeMap::new();
            let mut files = BTreeMap::new();
            let take = |changes: Vec<Change>, seen: &mut BTreeMap<String, String>| for change in changes {
                match change {
                    Change::Node(name, Some(node)) => drop(seen.insert(name, node.zone.as_deref().unwrap().to_owned())),
                    Change::Node(name, None) => drop(seen.remove(&name)),
                    other => panic!("{other:?}"),
                }
            };
            for (file, kind, zone) in steps {
                let name = ["f", "g", "h"][file];
                if kind == 4 {
                    files.remove(name);
                    take(state.remove(name), &mut seen);
                } else {
                    files.insert(name, text(kind, zone));
                    take(state.set(name, Ok(&text(kind, zone)), SystemTime::UNIX_EPOCH), &mut seen);
                }
            }
            let (mut fresh, mut want) = (SourceState::default(), BTreeMap::new());
            for (name, text) in &files {
                take(fresh.set(name, Ok(text), SystemTime::UNIX_EPOCH), &mut want);
            }
            proptest::prop_assert_eq!(seen, want);
        }
    }
}
