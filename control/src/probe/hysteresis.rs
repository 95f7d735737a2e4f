//! When a backend counts as failing, and when as good again. Pure: answers in, what is known out.

use super::{Fault, Health, Pace};

/// What is known of one backend, and how sure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hysteresis {
    health: Health,
    /// Answers in a row that speak against what is known.
    against: u8,
}

impl Hysteresis {
    /// Nothing is known yet.
    pub(super) const fn new() -> Self {
        Self { health: Health::Unknown(None), against: 0 }
    }

    /// What is known.
    pub(super) const fn health(&self) -> Health {
        self.health
    }

    /// Takes an answer in; what is known now, if that is news. What could not be asked says nothing.
    pub(super) fn note(&mut self, answer: Result<(), Fault>, pace: Pace) -> Option<Health> {
        let old = self.health;
        self.health = match (answer, old) {
            (Err(fault @ Fault::Unasked(_)), Health::Unknown(_)) => Health::Unknown(Some(fault)),
            (Err(Fault::Unasked(_)), known) => known,
            (Ok(()), Health::Unknown(_) | Health::Good) => self.settled(Health::Good),
            (Ok(()), Health::Failing(_)) => self.weigh(pace.rise, Health::Good),
            (Err(fault), Health::Failing(_)) => self.settled(Health::Failing(fault)),
            (Err(fault), Health::Unknown(_) | Health::Good) => self.weigh(pace.fall, Health::Failing(fault)),
        };
        (self.health != old).then_some(self.health)
    }

    fn settled(&mut self, health: Health) -> Health {
        self.against = 0;
        health
    }

    fn weigh(&mut self, enough: u8, other: Health) -> Health {
        self.against = self.against.saturating_add(1);
        if self.against < enough { self.health } else { self.settled(other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        interval: std::time::Duration::from_secs(1),
        timeout: std::time::Duration::from_secs(1),
        rise: 2,
        fall: 3,
    };
    const REFUSED: Result<(), Fault> = Err(Fault::Refused);
    const UNASKED: Fault = Fault::Unasked(std::io::ErrorKind::NetworkUnreachable);

    /// Plays answers: + good, - refused, ? not asked; what is known after each: g, f or u.
    fn play(answers: &str) -> String {
        let mut state = Hysteresis::new();
        let one = |answer| {
            let before = state.health;
            let news = state.note(
                match answer {
                    '+' => Ok(()),
                    '-' => REFUSED,
                    _ => Err(UNASKED),
                },
                PACE,
            );
            assert_eq!(news.is_some(), before != state.health, "only news are told");
            match state.health {
                Health::Good => 'g',
                Health::Failing(_) => 'f',
                Health::Unknown(_) => 'u',
            }
        };
        answers.chars().map(one).collect()
    }

    #[test]
    fn a_streak_decides_and_a_single_answer_does_not() {
        for (answers, known) in [
            ("+---", "gggf"),
            ("+--+--+", "ggggggg"),
            ("---", "uuf"),
            ("---+", "uuff"),
            ("---++", "uuffg"),
            ("---+-++", "uuffffg"),
            ("---++---", "uuffgggf"),
        ] {
            assert_eq!(play(answers), known, "{answers}");
        }
    }

    #[test]
    fn what_could_not_be_asked_changes_nothing() {
        for (answers, known) in
            [("???", "uuu"), ("+???-", "ggggg"), ("---???++", "uufffffg"), ("-?-?-", "uuuuf")]
        {
            assert_eq!(play(answers), known, "{answers}");
        }
    }

    #[test]
    fn the_reason_follows_the_newest_answer() {
        let mut state = Hysteresis::new();
        for _ in 0..3 {
            state.note(REFUSED, PACE);
        }
        assert_eq!(state.note(REFUSED, PACE), None);
        assert_eq!(state.note(Err(Fault::Status(503)), PACE), Some(Health::Failing(Fault::Status(503))));
        let mut state = Hysteresis::new();
        assert_eq!(state.note(Err(UNASKED), PACE), Some(Health::Unknown(Some(UNASKED))));
    }
}
