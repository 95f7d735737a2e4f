//! How far two cores are from each other: what a wire through memory between them costs at least.
//!
//! In a virtual machine this changes from second to second, as the host moves the machine's cores: to two threads of one
//! core, to neighbours below one cache, or apart.

use std::{
    hint::spin_loop,
    io,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use cpu::affinity::{CpuSet, set_current};

/// Rounds at most.
const ROUNDS: u32 = 20_000;
/// Time at most: a core that is busy with something else answers late.
const TIME: Duration = Duration::from_millis(200);
/// Looks at the line between two at the clock.
const PATIENCE: u32 = 1 << 14;

/// Nanoseconds that a cache line takes from one core to another and back.
///
/// # Errors
/// When the kernel lets no thread run on one of the cores.
pub fn round_trip_ns(cores: [usize; 2]) -> io::Result<f64> {
    let ball = AtomicU32::new(0);
    let player = |side: usize| {
        set_current(&CpuSet::from_iter([cores[side]]))?;
        Ok(play(&ball, side))
    };
    thread::scope(|scope| {
        let far = scope.spawn(|| player(1));
        let near = scope.spawn(|| player(0));
        far.join().expect("a player does not panic")?;
        near.join().expect("a player does not panic")
    })
}

/// Sends the ball back whenever it is on this side; nanoseconds a round.
fn play(ball: &AtomicU32, side: usize) -> f64 {
    let (mut began, mut rounds) = (Instant::now(), 0);
    let turns = (u32::from(side == 1)..).step_by(2).take(ROUNDS as usize);
    for turn in turns {
        if !comes(ball, turn, began) {
            break;
        }
        if rounds == 0 {
            // From here on both play.
            began = Instant::now();
        }
        ball.store(turn + 1, Ordering::Release);
        rounds += 1;
    }
    began.elapsed().as_nanos() as f64 / f64::from(rounds.max(2) - 1)
}

/// Waits for the ball; false if time is up.
fn comes(ball: &AtomicU32, turn: u32, began: Instant) -> bool {
    let mut looks = 0;
    while ball.load(Ordering::Acquire) != turn {
        looks += 1;
        if looks % PATIENCE == 0 && began.elapsed() > TIME {
            return false;
        }
        spin_loop();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ball_comes_back_and_a_core_that_is_not_there_is_an_error() {
        let cores: Vec<_> = cpu::affinity::current().unwrap().iter().collect();
        let pair = [cores[0], cores[cores.len() - 1]];
        assert!(round_trip_ns(pair).unwrap() > 1.0);
        assert!(round_trip_ns([cores[0], 8191]).is_err());
    }
}
