//! Waiting without work: a spin hint and a nap of bounded length.

use std::io;
use std::time::Duration;

/// The longest nap: a worker that sleeps longer would answer the control plane late.
pub const NAP_MAX: Duration = Duration::from_millis(10);

/// Tells the core that this is a spin loop.
#[inline(always)]
pub fn pause() {
    std::hint::spin_loop();
}

/// Sleeps for `duration`, at most [`NAP_MAX`], plus the thread's timer slack.
pub fn nap(duration: Duration) {
    std::thread::sleep(duration.min(NAP_MAX));
}

/// Sets by how much the kernel may lengthen naps of the calling thread; its default of 50 us doubles a 50 us nap.
///
/// # Errors
/// What the kernel answers; it refuses nothing but exotic scheduling policies.
pub fn set_timer_slack(slack: Duration) -> io::Result<()> {
    // 0 would mean "back to the default" (prctl(2), PR_SET_TIMERSLACK).
    let slack_ns = u64::try_from(slack.as_nanos()).unwrap_or(u64::MAX).clamp(1, u64::from(u32::MAX));
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory of ours; the other arguments are unused.
    match unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_nap_has_a_bound() {
        set_timer_slack(Duration::from_micros(1)).unwrap();
        let start = Instant::now();
        nap(Duration::from_secs(3600));
        assert!(start.elapsed() < Duration::from_secs(5));
        pause();
    }
}
