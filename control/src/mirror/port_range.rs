//! The kernel's own source ports, kept out of the SNAT range while a mirror is on.
//!
//! Both use the ports' addresses; without this a connection of the kernel's could take a port that SNAT hands out. The
//! original range is kept in the state directory, so that even a crash does not lose it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::state_dir::StateDir;

/// The kernel parameter, of this network namespace.
const PARAMETER: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// What the kernel may use while a mirror is on: what the default `forwarding.snatPorts` leaves.
const WHILE_MIRRORED: &str = "61000 65535";
/// Name of the file that remembers the original.
const SAVED: &str = "ip_local_port_range";

/// The range is narrowed while this lives.
#[derive(Debug)]
pub struct PortRange {
    parameter: PathBuf,
    original: String,
}

impl PortRange {
    /// Narrows the range and remembers the original in `state`.
    ///
    /// # Errors
    /// When the parameter cannot be written.
    pub fn narrow(state: &StateDir) -> io::Result<Self> {
        Self::narrow_at(Path::new(PARAMETER), state)
    }

    fn narrow_at(parameter: &Path, state: &StateDir) -> io::Result<Self> {
        let original = match (words(parameter)?, saved(state)?) {
            (now, Some(saved)) if now == WHILE_MIRRORED => saved,
            // What stands there is not ours: the system has been restarted or somebody set it since a crash.
            (now, _) => now,
        };
        state.write(SAVED, original.as_bytes())?;
        fs::write(parameter, WHILE_MIRRORED)?;
        Ok(Self { parameter: parameter.to_owned(), original })
    }

    /// Puts back what a crash left narrowed, for an appliance that now runs without a mirror.
    ///
    /// # Errors
    /// When the parameter cannot be written.
    pub fn recover(state: &StateDir) -> io::Result<()> {
        Self::recover_at(Path::new(PARAMETER), state)
    }

    fn recover_at(parameter: &Path, state: &StateDir) -> io::Result<()> {
        let Some(original) = saved(state)? else { return Ok(()) };
        if words(parameter)? == WHILE_MIRRORED {
            fs::write(parameter, original)?;
        }
        state.remove(SAVED)
    }

    /// Puts the original back.
    ///
    /// # Errors
    /// When the parameter cannot be written.
    pub fn restore(self, state: &StateDir) -> io::Result<()> {
        fs::write(&self.parameter, &self.original)?;
        state.remove(SAVED)
    }
}

/// The two numbers with one blank between them, as they are written.
fn words(parameter: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(parameter)?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn saved(state: &StateDir) -> io::Result<Option<String>> {
    Ok(state.read(SAVED)?.and_then(|bytes| String::from_utf8(bytes).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_comes_back_even_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let parameter = folder.path().join("parameter");
        fs::write(&parameter, "32768\t60999\n").unwrap();
        drop(PortRange::narrow_at(&parameter, &state).unwrap());
        assert_eq!(fs::read_to_string(&parameter).unwrap(), WHILE_MIRRORED);
        let second = PortRange::narrow_at(&parameter, &state).unwrap();
        second.restore(&state).unwrap();
        assert_eq!(fs::read_to_string(&parameter).unwrap(), "32768 60999");
        assert_eq!(state.read(SAVED).unwrap(), None);
    }

    #[test]
    fn a_value_set_since_the_crash_is_the_original_and_a_start_without_mirror_puts_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let parameter = folder.path().join("parameter");
        fs::write(&parameter, "32768 60999").unwrap();
        drop(PortRange::narrow_at(&parameter, &state).unwrap());
        fs::write(&parameter, "20000\t50000\n").unwrap();
        drop(PortRange::narrow_at(&parameter, &state).unwrap());
        PortRange::recover_at(&parameter, &state).unwrap();
        assert_eq!(fs::read_to_string(&parameter).unwrap(), "20000 50000");
        assert_eq!(state.read(SAVED).unwrap(), None);
        fs::write(&parameter, WHILE_MIRRORED).unwrap();
        PortRange::recover_at(&parameter, &state).unwrap();
        assert_eq!(fs::read_to_string(&parameter).unwrap(), WHILE_MIRRORED, "not ours: no record of it");
    }
}
