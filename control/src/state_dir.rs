//! The folder for what must survive a restart: one process at a time, files replaced whole.
//!
//! The lock is flock(2) on the file `lock`, so a crashed process leaves nothing to clean up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The locked folder; dropping it gives the lock back.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process holds the lock.
    #[error("{} is in use by {holder}; stop that one first, or give each appliance a stateDir of its own", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// "process N", as far as the lock file tells.
        holder: String,
    },
    /// The folder or the lock file cannot be made or opened.
    #[error("stateDir {} cannot be used: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StateDir {
    /// Makes the folder if need be and locks it.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let failed = |source| StateDirError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let mut options = OpenOptions::new();
        let mut lock = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateDirError::InUse { path: path.to_owned(), holder: holder(&mut lock) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The content of a file, `None` when it does not exist.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a file: after a crash it holds the old content or the new, never a part.
    ///
    /// # Errors
    /// When the disk is full or the folder is gone; the old content stays.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!(".{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    /// Adds to the end of a file that is there: after a crash a part of the new bytes may be there, and all of the old.
    ///
    /// # Errors
    /// When it is not there or the disk is full; then a part may have been added.
    pub fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.path.join(name))?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    /// Removes a file; one that does not exist is removed already.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.take(16).read_to_string(&mut text);
    match (read, text.trim()) {
        (Ok(_), pid) if !pid.is_empty() => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path()).unwrap();
        let refused = StateDir::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(first);
        StateDir::open(folder.path()).unwrap();
    }

    #[test]
    fn files_are_replaced_whole_and_missing_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("deep/er")).unwrap();
        assert_eq!(state.read("addresses.json").unwrap(), None);
        state.write("addresses.json", b"one").unwrap();
        state.write("addresses.json", b"two").unwrap();
        assert_eq!(state.read("addresses.json").unwrap().as_deref(), Some(&b"two"[..]));
        state.remove("addresses.json").unwrap();
        state.remove("addresses.json").unwrap();
        assert_eq!(state.read("addresses.json").unwrap(), None);
    }

    #[test]
    fn a_path_that_is_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let refused = StateDir::open(&file).unwrap_err().to_string();
        assert!(refused.starts_with("stateDir ") && refused.contains("cannot be used"), "{refused}");
    }
}
