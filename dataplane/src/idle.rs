//! What a worker does when nothing arrives: go on polling, sleep longer and longer up to a bound, or wait until its ports
//! or other threads call it.

use std::time::Duration;

/// How a worker idles.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IdleMode {
    /// Never sleeps: the lowest latency, for a core of its own.
    #[default]
    Poll,
    /// Sleeps when nothing arrives, so that a laboratory shares its cores: until a port's interrupt where every port has
    /// them, otherwise for [`SHORT`], then for [`LONG`].
    Sleep,
}

/// The first sleep after a short spell without work.
pub const SHORT: Duration = Duration::from_micros(50);
/// The sleep after a long spell without work: with the kernel's slack (50 us) and its waking, less than a millisecond.
pub const LONG: Duration = Duration::from_micros(900);
/// The longest wait for a call. Packets and control call, so it serves what goes by time: expiry, and devices that lose
/// an interrupt.
pub const WAIT: Duration = Duration::from_millis(10);
/// The same while a packet waits in the worker, or announcements go on a piece a turn.
pub const WAIT_PENDING: Duration = Duration::from_millis(1);
/// Empty polls before the first sleep.
const SPINS: u32 = 64;
/// Empty polls before the long sleep: about 20 ms of short ones.
const SHORT_SLEEPS: u32 = 400;
/// Sleeps after a call that brought no work, before the next wait: some devices call before their packets can be seen, as
/// `net_tap`, which waits for a signal beside.
const SLEEPS_AFTER_CALL: u32 = 16;
/// Sleeps before interrupts that a device refused are tried again: about a second.
const SLEEPS_AFTER_REFUSAL: u32 = 1_000;

/// What comes after a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// The next turn.
    Turn,
    /// A sleep, and the next turn.
    Nap(Duration),
    /// All who may call are asked to, and the next turn finds what came before.
    Arm,
    /// Nobody is to call any more, and the next turn.
    Disarm,
    /// A wait for a call, at most so long, and the next turn.
    Wait(Duration),
}

/// Counts empty polls and says what to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle {
    mode: IdleMode,
    /// Every port has receive interrupts.
    interrupts: bool,
    empty: u32,
    armed: bool,
    /// Sleeps before the next try to arm.
    sleeps: u32,
}

impl Idle {
    /// A worker that was busy a moment ago.
    #[must_use]
    pub const fn new(mode: IdleMode, interrupts: bool) -> Self {
        Self { mode, interrupts, empty: 0, armed: false, sleeps: 0 }
    }

    /// False for a worker that only polls: it needs no [`Self::after`].
    #[inline]
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.mode != IdleMode::Poll
    }

    /// Takes the work done by one poll, and whether something waits in the worker for its time.
    #[inline]
    pub fn after(&mut self, work: usize, pending: bool) -> Next {
        if !self.may_sleep() {
            return Next::Turn;
        }
        if work > 0 {
            return self.busy();
        }
        if self.armed {
            return Next::Wait(if pending { WAIT_PENDING } else { WAIT });
        }
        self.empty = self.empty.saturating_add(1);
        if self.empty <= SPINS {
            return Next::Turn;
        }
        if self.interrupts && self.sleeps == 0 {
            self.armed = true;
            return Next::Arm;
        }
        self.sleeps = self.sleeps.saturating_sub(1);
        Next::Nap(if self.empty <= SPINS + SHORT_SLEEPS { SHORT } else { LONG })
    }

    /// Somebody called: nobody is to call until the next [`Next::Arm`].
    pub const fn called(&mut self) {
        (self.armed, self.empty, self.sleeps) = (false, 0, SLEEPS_AFTER_CALL);
    }

    /// A port refused to call.
    pub const fn refused(&mut self) {
        (self.armed, self.sleeps) = (false, SLEEPS_AFTER_REFUSAL);
    }

    fn busy(&mut self) -> Next {
        self.empty = 0;
        if self.sleeps <= SLEEPS_AFTER_CALL {
            self.sleeps = 0;
        }
        if std::mem::take(&mut self.armed) { Next::Disarm } else { Next::Turn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same answer so many times without work.
    fn expect(idle: &mut Idle, times: u32, next: Next) {
        for time in 0..times {
            assert_eq!(idle.after(0, false), next, "{time} of {times}: {idle:?}");
        }
    }

    #[test]
    fn polling_never_sleeps() {
        for interrupts in [false, true] {
            let mut idle = Idle::new(IdleMode::Poll, interrupts);
            expect(&mut idle, 10_000, Next::Turn);
            assert!(!idle.may_sleep());
        }
    }

    #[test]
    fn sleeping_grows_to_a_bound_and_work_starts_over() {
        let mut idle = Idle::new(IdleMode::Sleep, false);
        expect(&mut idle, SPINS, Next::Turn);
        expect(&mut idle, SHORT_SLEEPS, Next::Nap(SHORT));
        expect(&mut idle, 10, Next::Nap(LONG));
        assert_eq!(idle.after(1, false), Next::Turn);
        assert_eq!(idle.after(0, false), Next::Turn);
    }

    #[test]
    fn with_interrupts_it_arms_looks_once_more_and_waits() {
        let mut idle = Idle::new(IdleMode::Sleep, true);
        expect(&mut idle, SPINS, Next::Turn);
        expect(&mut idle, 1, Next::Arm);
        // Nobody called, so it stays armed.
        expect(&mut idle, 10, Next::Wait(WAIT));
        assert_eq!(idle.after(0, true), Next::Wait(WAIT_PENDING));
        // Work without a call, such as the last look's.
        assert_eq!(idle.after(1, false), Next::Disarm);
        assert_eq!(idle.after(1, false), Next::Turn);
        expect(&mut idle, SPINS, Next::Turn);
        expect(&mut idle, 1, Next::Arm);
    }

    #[test]
    fn a_call_with_work_is_like_work_and_one_without_sleeps_a_little_first() {
        for (work, sleeps) in [(1, 0), (0, SLEEPS_AFTER_CALL)] {
            let mut idle = Idle::new(IdleMode::Sleep, true);
            expect(&mut idle, SPINS, Next::Turn);
            expect(&mut idle, 1, Next::Arm);
            expect(&mut idle, 1, Next::Wait(WAIT));
            idle.called();
            assert_eq!(idle.after(work, false), Next::Turn);
            let spun = u32::from(work == 0);
            expect(&mut idle, SPINS - spun, Next::Turn);
            expect(&mut idle, sleeps, Next::Nap(SHORT));
            expect(&mut idle, 1, Next::Arm);
        }
    }

    #[test]
    fn what_is_refused_is_tried_again_after_a_second_of_sleeps_whatever_comes() {
        let mut idle = Idle::new(IdleMode::Sleep, true);
        expect(&mut idle, SPINS, Next::Turn);
        expect(&mut idle, 1, Next::Arm);
        idle.refused();
        expect(&mut idle, 10, Next::Nap(SHORT));
        assert_eq!(idle.after(1, false), Next::Turn);
        expect(&mut idle, SPINS, Next::Turn);
        expect(&mut idle, SHORT_SLEEPS, Next::Nap(SHORT));
        expect(&mut idle, SLEEPS_AFTER_REFUSAL - SHORT_SLEEPS - 10, Next::Nap(LONG));
        expect(&mut idle, 1, Next::Arm);
    }
}
