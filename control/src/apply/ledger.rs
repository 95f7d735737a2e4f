//! The file of addresses given to Services: what changes is added at its end, so that one address among ten thousand costs
//! one line; it is written anew when most of it is out of date. The form of the lines is `ipam`'s.

use std::collections::BTreeSet;
use std::io;

use super::ASSIGNMENTS;
use crate::compile::Compiler;
use crate::ipam::Assignments;
use crate::model::ObjectKey;
use crate::state_dir::StateDir;

/// Lines that may be out of date whatever the number of addresses.
const STALE_LINES: usize = 1024;

/// What the file holds, as far as writing must know.
#[derive(Debug)]
pub(super) struct Ledger {
    lines: usize,
    /// With more lines it is written anew.
    most: usize,
    /// Whether nothing can be added to it: it is not there, or its end is in doubt.
    anew: bool,
    /// Services whose lines in the file may be out of date.
    unsaved: BTreeSet<ObjectKey>,
}

impl Ledger {
    /// `text` is what the file holds now.
    pub(super) fn of(text: &str) -> Self {
        let lines = text.lines().count();
        Self { lines, most: most(lines), anew: !text.ends_with('\n'), unsaved: BTreeSet::new() }
    }

    /// Writes down what these Services have now, and what an earlier call could not.
    ///
    /// # Errors
    /// When the disk is full or the folder is gone; the next call tries again.
    pub(super) fn save(
        &mut self,
        changed: BTreeSet<ObjectKey>,
        compiler: &Compiler,
        state: &StateDir,
    ) -> io::Result<()> {
        self.unsaved.extend(changed);
        if self.unsaved.is_empty() {
            return Ok(());
        }
        let added: String =
            self.unsaved.iter().map(|key| Assignments::entry(key, compiler.assigned_to(key))).collect();
        let lines = self.lines + added.lines().count();
        if self.anew || lines > self.most {
            // Only a write that is done makes it whole again.
            self.anew = true;
            let text = compiler.assignments().to_text();
            state.write(ASSIGNMENTS, text.as_bytes())?;
            self.lines = text.lines().count();
            self.most = most(self.lines);
        } else {
            self.anew = true;
            state.append(ASSIGNMENTS, added.as_bytes())?;
            self.lines = lines;
        }
        self.anew = false;
        self.unsaved.clear();
        Ok(())
    }
}

/// Twice the lines that are needed, and some.
fn most(lines: usize) -> usize {
    2 * lines + STALE_LINES
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use packet::Family;

    use super::*;
    use crate::compile::Settings;
    use crate::model::{Change, Service, ServiceType};
    use crate::pool::Pool;

    fn settings() -> Settings {
        let ends = |text: &str| text.parse().unwrap();
        let pool = Pool {
            name: "public".into(),
            ranges: vec![(ends("198.18.0.0"), ends("198.19.255.255"))],
            ..Pool::default()
        };
        Settings { pools: vec![pool], ..Settings::default() }
    }

    fn service(number: u32) -> Service {
        Service {
            key: ObjectKey::new("default", format!("svc-{number}")),
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec![IpAddr::V4((0x0a60_0000 + number).into())],
            families: vec![Family::V4],
            ..Service::default()
        }
    }

    struct Run {
        folder: tempfile::TempDir,
        state: StateDir,
        compiler: Compiler,
        ledger: Ledger,
    }

    impl Run {
        fn start(folder: tempfile::TempDir) -> Self {
            let state = StateDir::open(folder.path()).unwrap();
            let text = String::from_utf8(state.read(ASSIGNMENTS).unwrap().unwrap_or_default()).unwrap();
            let compiler = Compiler::new(settings(), Assignments::from_text(&text).unwrap());
            Self { folder, state, compiler, ledger: Ledger::of(&text) }
        }

        fn again(self) -> Self {
            drop(self.state);
            Self::start(self.folder)
        }

        /// Compiles and saves; how long saving took.
        fn apply(&mut self, changes: Vec<(u32, bool)>) -> Duration {
            for (number, there) in changes {
                let service = service(number);
                let key = service.key.clone();
                self.compiler.apply(Change::Service(key, there.then(|| Arc::new(service))));
            }
            self.compiler.compile();
            let changed = self.compiler.take_reassigned();
            let begun = Instant::now();
            self.ledger.save(changed, &self.compiler, &self.state).unwrap();
            begun.elapsed()
        }

        fn file(&self) -> String {
            String::from_utf8(self.state.read(ASSIGNMENTS).unwrap().unwrap()).unwrap()
        }
    }

    #[test]
    fn what_changes_is_added_and_read_back() {
        let mut run = Run::start(tempfile::tempdir().unwrap());
        run.apply(vec![(1, true), (2, true)]);
        assert_eq!(run.file(), "default/svc-1 198.18.0.0\ndefault/svc-2 198.18.0.1\n");
        run.apply(vec![(1, false), (3, true)]);
        let added = "default/svc-1 -\ndefault/svc-3 -\ndefault/svc-3 198.18.0.0\n";
        assert!(run.file().ends_with(added), "{}", run.file());
        let before = run.compiler.assignments();
        let mut run = run.again();
        assert_eq!(run.compiler.assignments(), before);
        let file = run.file();
        run.apply(vec![(2, true), (3, true)]);
        assert_eq!(run.file(), file, "a restart that changes nothing writes nothing");
        assert_eq!(run.compiler.assignments(), before);
    }

    #[test]
    fn a_line_that_was_not_finished_is_left_out_and_written_over() {
        let mut run = Run::start(tempfile::tempdir().unwrap());
        run.apply(vec![(1, true)]);
        run.state.append(ASSIGNMENTS, b"default/svc-2 198.18.0.1").unwrap();
        let mut run = run.again();
        run.apply(vec![(1, true), (3, true)]);
        assert_eq!(run.file(), "default/svc-1 198.18.0.0\ndefault/svc-3 198.18.0.1\n");
    }

    #[test]
    fn the_file_stays_in_proportion_to_what_it_holds() {
        let mut run = Run::start(tempfile::tempdir().unwrap());
        for _ in 0..1_000 {
            run.apply(vec![(1, true)]);
            run.apply(vec![(1, false), (2, true)]);
            run.apply(vec![(2, false)]);
        }
        let lines = run.file().lines().count();
        assert!(lines <= STALE_LINES + 8, "{lines} lines for no address");
        assert_eq!(run.again().compiler.assignments(), Assignments::default());
    }

    #[test]
    #[ignore = "a measurement: needs --release and a quiet machine"]
    fn one_address_of_ten_thousand() {
        let mut run = Run::start(tempfile::tempdir_in("/var/tmp").unwrap());
        let whole = run.apply((1..=10_000).map(|number| (number, true)).collect());
        let mut times: Vec<_> = (0..200)
            .map(|round| run.apply(vec![(1 + round * 7 % 10_000, round % 2 == 1), (20_000 + round, true)]))
            .collect();
        times.sort_unstable();
        println!("all: {whole:?}; one: median {:?}, p99 {:?}", times[100], times[198]);
    }
}
