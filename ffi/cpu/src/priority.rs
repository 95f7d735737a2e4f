//! Whether the calling thread runs before others.

use std::io;

/// Lets the calling thread, and threads it creates from now on, run before every thread of the usual kind (`SCHED_FIFO` at the
/// lowest real-time priority, sched(7)). For moments only: nothing usual runs on its core meanwhile.
///
/// # Errors
/// What the kernel answers: `PermissionDenied` without CAP_SYS_NICE.
pub fn run_first() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: pid 0 is the calling thread; the pointer is valid for reads of a sched_param while the call lasts.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_first_or_is_told_why_not() {
        std::thread::spawn(|| match run_first() {
            // SAFETY: no pointers; pid 0 is the calling thread.
            Ok(()) => assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_FIFO),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        })
        .join()
        .unwrap();
    }
}
