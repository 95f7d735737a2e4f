//! The greatest rate at which nothing is lost, by halving (RFC 2544, section 26.1).

/// Trials at most: a range is halved as often.
const TRIALS_MAX: u32 = 20;

/// A search between a rate that is known to be well and one that is known to be too much.
#[derive(Clone, Debug)]
pub struct Search {
    good: f64,
    bad: f64,
    /// The search ends when the two are this near, as a share of the greater.
    precision: f64,
    trials: u32,
}

impl Search {
    /// A search up to this rate, which is the first that is tried.
    #[must_use]
    pub fn new(max: f64, precision: f64) -> Self {
        Self { good: 0.0, bad: max, precision, trials: 0 }
    }

    /// The rate to be tried next; `None` when the search is over.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        match self.trials {
            0 => Some(self.bad).filter(|max| *max > 0.0),
            TRIALS_MAX.. => None,
            _ if self.bad - self.good <= self.bad * self.precision => None,
            _ => Some(f64::midpoint(self.good, self.bad)),
        }
    }

    /// Whether all was well at the rate that was to be tried.
    pub fn tried(&mut self, well: bool) {
        let Some(rate) = self.next() else { return };
        if well {
            self.good = rate;
        } else {
            self.bad = rate;
        }
        self.trials += 1;
    }

    /// The greatest rate at which all was well; 0 if it never was.
    #[must_use]
    pub fn result(&self) -> f64 {
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(max: f64, true_limit: f64, precision: f64) -> (f64, u32) {
        let mut search = Search::new(max, precision);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            search.tried(rate <= true_limit);
            trials += 1;
        }
        (search.result(), trials)
    }

    #[test]
    fn the_limit_is_found_from_below_within_the_precision() {
        for limit in [0.3, 1.0, 4.99, 7.3, 9.999] {
            let (found, trials) = search(10.0, limit, 0.01);
            assert!(found <= limit && found > limit * 0.98, "{found} for {limit}");
            assert!(trials <= 20, "{trials}");
        }
    }

    #[test]
    fn searches_end() {
        assert_eq!(search(10.0, 10.0, 0.01), (10.0, 1), "the first is well");
        assert_eq!(search(10.0, -1.0, 0.01), (0.0, 20), "nothing ever is");
        assert_eq!(search(10.0, 3.0, 0.0).1, 20, "a precision that cannot be had");
        assert_eq!(search(0.0, 3.0, 0.1), (0.0, 0), "nothing to search in");
    }
}
