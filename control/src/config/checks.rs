//! `healthChecks` and `forwarding.slowStart`: how backends are asked whether they serve, and how they begin.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration;
use crate::probe::{Check, EXPECTED, Pace};
use crate::yaml::{At, Errors};

/// How long a slow start may be.
pub(crate) const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// What is asked where a Service does not say, and how often.
pub(super) fn health_checks(at: &At<'_>, errors: &Errors) -> Check {
    at.only(&["check", "interval", "timeout", "rise", "fall"], errors);
    let default = Pace::default();
    let time = |key: &str, default, expected: &str, range: RangeInclusive<Duration>| {
        at.field(key).map_or(default, |at| {
            let read = at.scalar().and_then(duration::parse).filter(|time| range.contains(time));
            read.unwrap_or_else(|| {
                errors.add(&at, "is not usable", expected);
                default
            })
        })
    };
    let streak =
        |key: &str, default| at.field(key).and_then(|at| at.number(1..=100, errors)).unwrap_or(default);
    let interval =
        time("interval", default.interval, "a duration from 100ms to 1h is expected", crate::probe::INTERVAL);
    let timeout = time(
        "timeout",
        default.timeout.min(interval),
        "a duration from 10ms to 1m is expected",
        crate::probe::TIMEOUT,
    );
    let pace =
        Pace { interval, timeout, rise: streak("rise", default.rise), fall: streak("fall", default.fall) };
    if pace.timeout > pace.interval {
        errors.add(
            at,
            "the timeout is longer than the interval",
            "a timeout of at most the interval is expected",
        );
    }
    let base = Check { pace, ..Check::default() };
    let Some(at) = at.field("check") else { return base };
    base.read(at.scalar().unwrap_or_default()).unwrap_or_else(|wrong| {
        errors.add(&at, wrong, format!("{EXPECTED} is expected"));
        base
    })
}

/// A duration, or `none`.
pub(super) fn slow_start(at: &At<'_>, errors: &Errors) -> Option<Duration> {
    if at.scalar() == Some("none") {
        return None;
    }
    let time = at.scalar().and_then(duration::parse).filter(|time| SLOW_START.contains(time));
    if time.is_none() {
        errors.add(at, "is not usable", "none or a duration from 1s to 1h is expected");
    }
    time
}
