//! How long to wait after a failure: twice as long after each one, up to a bound, and from the start again once it has
//! run for a while.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// What has run for so long did not fail at its start.
pub const STABLE: Duration = Duration::from_secs(10);

/// Failures in a row, and what follows of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    /// Failures since it last ran for a while.
    pub failures: u16,
    until: Option<Instant>,
}

impl Backoff {
    /// It failed. Returns how long to wait.
    pub fn failed(&mut self, now: Instant) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + wait);
        wait
    }

    /// It has run for a while.
    pub fn recovered(&mut self) {
        *self = Backoff::default();
    }

    /// When it may be started again; `None` at once.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// The same in milliseconds, rounded up; 0 at once.
    pub fn left_ms(&self, now: Instant) -> u32 {
        let left = self.until(now).map_or(Duration::ZERO, |until| until - now);
        u32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_half_a_minute() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let waits: Vec<u128> = (0..9).map(|_| backoff.failed(now).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!((backoff.failures, backoff.left_ms(now)), (9, 30_000));
        assert_eq!(backoff.left_ms(now + Duration::from_millis(29_999)), 1);
        assert_eq!(backoff.until(now + Duration::from_secs(30)), None);
        backoff.recovered();
        assert_eq!((backoff.failures, backoff.left_ms(now)), (0, 0));
    }

    #[test]
    fn many_failures_overflow_nothing() {
        let mut backoff = Backoff { failures: u16::MAX, until: None };
        assert_eq!(backoff.failed(Instant::now()), LONGEST);
        assert_eq!(backoff.failures, u16::MAX);
    }
}
