//! The timestamp counter and its calibration to nanoseconds.
//!
//! Workers read [`tsc`] once a burst (about 20 cycles, no syscall) and convert with a [`TscClock`] that was calibrated
//! once, before packets flow. Needs an invariant counter, which every x86-64 server since Nehalem and every Arm
//! server has. Not here: wall-clock time.

use std::time::{Duration, Instant};

/// How long [`TscClock::calibrate`] watches both clocks: an error of one microsecond in it is 20 ppm.
const CALIBRATION: Duration = Duration::from_millis(50);
/// Pairs of readings of which the tightest is used, so that a preemption between two reads does not count.
const READINGS: usize = 16;
const NS_PER_S: u128 = 1_000_000_000;

/// The processor's cycle counter; on a processor without one, nanoseconds since the first call.
#[inline(always)]
#[must_use]
pub fn tsc() -> u64 {
    read_counter()
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn read_counter() -> u64 {
    // SAFETY: RDTSC has no operand and is part of the x86-64 baseline; Linux leaves it enabled for user space.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn read_counter() -> u64 {
    let count: u64;
    // SAFETY: Linux lets user space read CNTVCT_EL0 (CNTKCTL_EL1.EL0VCTEN); the read changes no state.
    unsafe {
        std::arch::asm!("mrs {0}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags))
    };
    count
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read_counter() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Turns counter values into nanoseconds and milliseconds since the clock was made.
///
/// Copies share one origin, so that workers and control agree on time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TscClock {
    origin: u64,
    hz: u64,
    /// Nanoseconds a cycle as a 32.32 fixed-point number.
    ns_per_cycle_q32: u64,
}

impl TscClock {
    /// Measures the counter's frequency against the monotonic clock; takes about 50 ms, so call it at start only.
    #[must_use]
    pub fn calibrate() -> Self {
        let (start_tsc, start) = tight_reading();
        std::thread::sleep(CALIBRATION);
        let (end_tsc, end) = tight_reading();
        let cycles = u128::from(end_tsc.wrapping_sub(start_tsc));
        let ns = end.duration_since(start).as_nanos().max(1);
        let hz = u64::try_from(cycles * NS_PER_S / ns).unwrap_or(u64::MAX);
        Self::with_frequency(hz, end_tsc)
    }

    /// A clock of known frequency in Hz (at least 1) that starts at counter value `origin`.
    #[must_use]
    pub fn with_frequency(hz: u64, origin: u64) -> Self {
        let hz = hz.max(1);
        let q32 = (NS_PER_S << 32) / u128::from(hz);
        Self { origin, hz, ns_per_cycle_q32: u64::try_from(q32).unwrap_or(u64::MAX) }
    }

    /// Counter ticks a second.
    #[must_use]
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// Nanoseconds that `cycles` last; exact to 0.25 ppb and good for centuries.
    #[inline]
    #[must_use]
    pub fn cycles_to_ns(&self, cycles: u64) -> u64 {
        let ns = (u128::from(cycles) * u128::from(self.ns_per_cycle_q32)) >> 32;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Nanoseconds from the clock's origin to counter value `tsc`; a value from before the origin (another core's
    /// counter a few cycles behind) is 0.
    #[inline]
    #[must_use]
    pub fn ns_at(&self, tsc: u64) -> u64 {
        // Ahead of the origin by more than half the range means behind it.
        let cycles = tsc.wrapping_sub(self.origin);
        if cycles > u64::MAX / 2 { 0 } else { self.cycles_to_ns(cycles) }
    }

    /// Milliseconds from the clock's origin to counter value `tsc`.
    #[inline]
    #[must_use]
    pub fn ms_at(&self, tsc: u64) -> u64 {
        self.ns_at(tsc) / 1_000_000
    }

    /// Nanoseconds since the clock's origin, now.
    #[inline]
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.ns_at(tsc())
    }

    /// Milliseconds since the clock's origin, now.
    #[inline]
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.ms_at(tsc())
    }
}

/// Both clocks at (nearly) the same moment: the middle of the shortest of several counter intervals around a read.
fn tight_reading() -> (u64, Instant) {
    let mut best: Option<(u64, u64, Instant)> = None;
    for _ in 0..READINGS {
        let before = tsc();
        let now = Instant::now();
        let width = tsc().wrapping_sub(before);
        if best.is_none_or(|(best_width, ..)| width < best_width) {
            best = Some((width, before.wrapping_add(width / 2), now));
        }
    }
    best.map_or_else(|| (tsc(), Instant::now()), |(_, middle, now)| (middle, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_is_exact_over_a_year() {
        const YEAR_S: u64 = 365 * 86_400;
        for hz in [1_000_000_000_u64, 2_100_000_000, 3_999_999_999, 24_000_000] {
            let clock = TscClock::with_frequency(hz, 7);
            let ns = clock.ns_at(7 + hz * YEAR_S);
            let want = YEAR_S * 1_000_000_000;
            // One part in 2^32 of rounding per nanosecond of a cycle.
            assert!(ns.abs_diff(want) <= want / 1_000_000_000, "{hz}: {ns} for {want}");
        }
    }

    #[test]
    fn a_counter_just_behind_the_origin_reads_zero() {
        let clock = TscClock::with_frequency(1_000_000_000, 1_000);
        assert_eq!((clock.ns_at(990), clock.ns_at(1_000), clock.ns_at(1_010)), (0, 0, 10));
        let wrapped = TscClock::with_frequency(1_000_000_000, u64::MAX - 4);
        assert_eq!(wrapped.ns_at(5), 10);
    }

    #[test]
    fn a_frequency_of_zero_or_beyond_reason_still_makes_a_clock() {
        assert_eq!(TscClock::with_frequency(0, 0).hz(), 1);
        assert_eq!(TscClock::with_frequency(u64::MAX, 0).ns_at(u64::MAX / 2), 0);
    }

    #[test]
    fn the_calibrated_clock_follows_the_monotonic_one() {
        let clock = TscClock::calibrate();
        let (start, ns) = (Instant::now(), clock.now_ns());
        std::thread::sleep(Duration::from_millis(20));
        let passed = clock.now_ns() - ns;
        let want = u64::try_from(start.elapsed().as_nanos()).unwrap();
        assert!(passed.abs_diff(want) < want / 20, "{passed} ns for {want} ns");
    }
}
