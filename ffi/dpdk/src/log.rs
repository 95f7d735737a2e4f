//! DPDK's log, kept in memory: it says why something failed, and a library must not write to somebody's terminal.

use std::{
    collections::VecDeque,
    ffi::c_char,
    sync::{Mutex, PoisonError},
};

/// Lines kept, the oldest go first.
const LINES_MAX: usize = 200;
const LINE_LEN_MAX: usize = 400;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// The last lines DPDK logged, oldest first; at most 200.
#[must_use]
pub fn log_lines() -> Vec<String> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Forgets what was logged, so that what comes next belongs to the next operation.
pub(crate) fn forget() {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The lines since [`forget`] that speak of trouble, as one text; empty if there are none.
pub(crate) fn trouble() -> String {
    let lines = log_lines();
    let bad = |line: &&String| {
        let line = line.to_ascii_lowercase();
        ["error", "fail", "cannot", "can't", "could not", "unable", "invalid", "no such", "not "]
            .iter()
            .any(|word| line.contains(word))
    };
    lines.iter().filter(bad).cloned().collect::<Vec<_>>().join("; ")
}

/// Sends DPDK's log here.
pub(crate) fn capture() {
    // SAFETY: `sink` neither unwinds nor logs, and lives as long as the process.
    unsafe { dpdk_sys::fairlead_log_to(Some(sink)) };
}

unsafe extern "C" fn sink(bytes: *const c_char, len: usize) {
    if bytes.is_null() {
        return;
    }
    // SAFETY: stdio gives `len` readable bytes for the time of this call.
    let text = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    for line in String::from_utf8_lossy(text).lines().map(str::trim).filter(|line| !line.is_empty()) {
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(LINE_LEN_MAX).collect());
    }
}
