//! A rate in short slices of time: whether it was one rate all along, or two of which a mean would make a third.

use std::time::Duration;

/// Cuts a count that grows into slices.
#[derive(Clone, Debug)]
pub struct Slices {
    width: Duration,
    begun: Duration,
    before: u64,
    rates: Vec<f64>,
}

impl Slices {
    /// Slices of this width, from time and count 0 on.
    #[must_use]
    pub fn new(width: Duration) -> Self {
        Self { width, begun: Duration::ZERO, before: 0, rates: Vec::new() }
    }

    /// The count at this time since the start; a slice ends at the first call after its width, and its rate is by the time
    /// that it really took.
    pub fn at(&mut self, elapsed: Duration, count: u64) {
        let time = elapsed.saturating_sub(self.begun);
        if time < self.width || time.is_zero() {
            return;
        }
        self.rates.push(count.saturating_sub(self.before) as f64 / time.as_secs_f64() / 1e6);
        (self.begun, self.before) = (elapsed, count);
    }

    /// Millions a second, slice by slice; what came after the last whole slice is left out.
    #[must_use]
    pub fn into_rates(self) -> Vec<f64> {
        self.rates
    }
}

/// Of readings of one thing, one in as many may be far from the middle one: a host stops a machine for a moment now and then.
const STRAYS_ONE_IN: usize = 10;

/// The middle one of readings of a thing that did not change: nearly all of them are within a factor of it.
///
/// # Errors
/// If there are none, or they tell of two things: the least and the greatest of all but strays.
pub fn steady(readings: &[f64], factor: f64) -> Result<f64, Option<[f64; 2]>> {
    let mut sorted = readings.to_vec();
    let middle = crate::median(&mut sorted).ok_or(None)?;
    let far = |reading: &&f64| **reading * factor < middle || **reading > middle * factor;
    let strays = sorted.iter().filter(far).count();
    let allowed = sorted.len() / STRAYS_ONE_IN;
    if strays > allowed {
        return Err(Some([sorted[allowed / 2], sorted[sorted.len() - 1 - allowed / 2]]));
    }
    Ok(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_the_rate_of_the_time_it_took() {
        let mut slices = Slices::new(Duration::from_millis(20));
        for (ms, count) in [(10, 50_000), (20, 100_000), (30, 150_000), (60, 180_000), (70, 999_999)] {
            slices.at(Duration::from_millis(ms), count);
        }
        assert_eq!(slices.into_rates(), [5.0, 2.0]);
    }

    #[test]
    fn two_rates_are_told_from_one_with_strays() {
        let series = |slow: usize, fast: usize| [vec![5.0; slow], vec![12.0; fast]].concat();
        for (name, readings, want) in [
            ("nothing", vec![], Err(None)),
            ("one reading", vec![5.0], Ok(5.0)),
            ("a host that stopped once in ten", series(1, 9), Ok(12.0)),
            ("twice in ten", series(2, 8), Err(Some([5.0, 12.0]))),
            ("half and half", series(50, 50), Err(Some([5.0, 12.0]))),
            ("noise within the factor", vec![10.0, 11.0, 12.0, 9.0, 10.0], Ok(10.0)),
        ] {
            assert_eq!(steady(&readings, 1.3), want, "{name}");
        }
    }
}
