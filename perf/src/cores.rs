//! How far two cores are from each other: what a wire through memory between them costs at least.
//!
//! In a virtual machine this changes from second to second, as the host moves the machine's cores: to two threads of one
//! core, to neighbours below one cache, or apart. So it is looked at again and again while something runs on that wire.

use std::{
    hint::spin_loop,
    io,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cpu::{
    affinity::{CpuSet, set_current},
    priority::run_first,
};

/// Rounds at most.
const ROUNDS: usize = 1024;
/// Rounds that are timed together; who loses the core in the middle of some spoils only those.
const BATCH: usize = 16;
/// Time at most: a core that is busy with something else answers late.
const TIME: Duration = Duration::from_millis(200);
/// Looks at the line between two at the clock.
const PATIENCE: u32 = 1 << 10;

/// Nanoseconds that a cache line takes from one core to another and back: the median, so that it tells of the cores and not
/// of what else runs on them.
///
/// # Errors
/// When the kernel lets no thread run on one of the cores, or other work keeps the two threads from ever meeting.
pub fn round_trip_ns(cores: [usize; 2]) -> io::Result<f64> {
    let (ball, over, ready) = (AtomicU32::new(0), AtomicBool::new(false), Barrier::new(2));
    let player = |side: usize| {
        // Between two polling threads a turn comes in milliseconds; ahead of them it takes a fraction of one. Who may not
        // be first waits.
        run_first().ok();
        let pinned = set_current(&CpuSet::from_iter([cores[side]]));
        // Whoever waited in a loop for the other to be made would keep its maker from a core.
        ready.wait();
        pinned.map(|()| play(&ball, &over, side))
    };
    thread::scope(|scope| {
        let far = scope.spawn(|| player(1));
        let near = scope.spawn(|| player(0));
        let far: io::Result<Option<f64>> = far.join().expect("a player does not panic");
        let trip = far.and(near.join().expect("a player does not panic"))?;
        trip.ok_or_else(|| io::Error::other("two cores were never free at once: other work has them"))
    })
}

/// Sends the ball back whenever it is on this side; nanoseconds a round, if some were played.
fn play(ball: &AtomicU32, over: &AtomicBool, side: usize) -> Option<f64> {
    let (began, mut batch) = (Instant::now(), Instant::now());
    let mut times = Vec::with_capacity(ROUNDS / BATCH);
    let turns = (u32::from(side == 1)..).step_by(2).take(ROUNDS);
    for (round, turn) in turns.enumerate() {
        if !comes(ball, over, turn, began) {
            break;
        }
        // The first batch ends when both have begun to play.
        if round % BATCH == 0 {
            let now = Instant::now();
            if round > 0 {
                times.push(now.duration_since(batch).as_nanos() as f64 / BATCH as f64);
            }
            batch = now;
        }
        ball.store(turn + 1, Ordering::Release);
    }
    crate::median(&mut times)
}

/// Waits for the ball; false if time is up, here or on the other side.
fn comes(ball: &AtomicU32, over: &AtomicBool, turn: u32, began: Instant) -> bool {
    let mut looks = 0;
    while ball.load(Ordering::Acquire) != turn {
        looks += 1;
        if looks % PATIENCE == 0 && (over.load(Ordering::Relaxed) || began.elapsed() > TIME) {
            over.store(true, Ordering::Relaxed);
            return false;
        }
        spin_loop();
    }
    true
}

/// Measures the distance of two cores at intervals, beside whatever runs on them: a measurement takes a fraction of a
/// millisecond of both.
#[derive(Debug)]
pub struct Watch {
    thread: JoinHandle<Vec<f64>>,
    stop: Sender<()>,
}

impl Watch {
    /// Begins to measure, now and then once an interval.
    #[must_use]
    pub fn start(cores: [usize; 2], interval: Duration) -> Self {
        let (stop, stopped) = channel();
        Self { thread: thread::spawn(move || watch(cores, interval, &stopped)), stop }
    }

    /// Ends, and gives every distance that was measured, in nanoseconds.
    ///
    /// # Panics
    /// If the measuring thread has.
    #[must_use]
    pub fn stop(self) -> Vec<f64> {
        drop(self.stop);
        self.thread.join().expect("the watch does not panic")
    }
}

fn watch(cores: [usize; 2], interval: Duration, stopped: &Receiver<()>) -> Vec<f64> {
    let mut trips = Vec::new();
    loop {
        // One that could not be made says nothing of the distance.
        trips.extend(round_trip_ns(cores).ok());
        if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
            return trips;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ball_comes_back_and_a_core_that_is_not_there_is_an_error() {
        let cores: Vec<_> = cpu::affinity::current().unwrap().iter().collect();
        // One core alone has no distance: two threads that each run first would take turns of a whole time-out.
        if let [first, .., last] = cores[..] {
            assert!((1..=50).any(|_| round_trip_ns([first, last]).is_ok_and(|trip| trip > 1.0)));
        }
        assert!(round_trip_ns([cores[0], 8191]).is_err());
    }

    #[test]
    fn a_watch_that_is_stopped_ends_and_nothing_is_measured_where_nothing_can_be() {
        let watch = Watch::start([8190, 8191], Duration::from_secs(3600));
        assert_eq!(watch.stop(), Vec::<f64>::new());
    }
}
