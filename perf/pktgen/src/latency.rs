//! Latency without coordinated omission: every answer counts from the time at which its question was *intended*.
//!
//! A sender that stalls together with its target would otherwise measure only the few answers around the stall. Both
//! figures are kept: from the intended start (what a user of a service at that rate would see) and from the actual one.

use hdrhistogram::Histogram;

/// The longest latency that is told apart, nanoseconds: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Decimal digits that a histogram keeps.
const DIGITS: u8 = 3;

/// Histograms of one kind of latency, nanoseconds.
#[derive(Debug, Clone)]
pub struct Latency {
    from_intended: Histogram<u64>,
    from_sent: Histogram<u64>,
}

impl Latency {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        let empty = || {
            Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
                .expect("constant bounds, the upper above the lower")
        };
        Self { from_intended: empty(), from_sent: empty() }
    }

    /// An answer at `now_ns` to what was intended and sent at these times, all on one clock.
    #[inline]
    pub fn record(&mut self, intended_ns: u64, sent_ns: u64, now_ns: u64) {
        self.from_intended.saturating_record(now_ns.saturating_sub(intended_ns).max(1));
        self.from_sent.saturating_record(now_ns.saturating_sub(sent_ns).max(1));
    }

    /// From the intended starts.
    #[must_use]
    pub fn from_intended(&self) -> &Histogram<u64> {
        &self.from_intended
    }

    /// From the actual starts.
    #[must_use]
    pub fn from_sent(&self) -> &Histogram<u64> {
        &self.from_sent
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.from_intended.reset();
        self.from_sent.reset();
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

    const MS: u64 = 1_000_000;

    /// One unit a millisecond for a second; everything, sender included, stands still from 500 to 600 ms.
    fn stalled() -> Latency {
        let mut schedule = Schedule::new(0, 1_000.0, 1_000, 0);
        let mut latency = Latency::new();
        let mut now_ns = 0;
        while !schedule.is_done() {
            if now_ns == 500 * MS {
                now_ns = 600 * MS;
            }
            while let Some(index) = schedule.due(now_ns) {
                schedule.started(now_ns);
                latency.record(schedule.intended_ns(index), now_ns, now_ns + 10_000);
            }
            now_ns += MS;
        }
        latency
    }

    #[test]
    fn a_stall_that_delays_questions_counts_for_each_of_them() {
        let latency = stalled();
        let intended = latency.from_intended();
        assert_eq!(intended.len(), 1_000);
        // 100 questions waited 100, 99, .. 1 ms: a tenth of all, evenly spread.
        let at = |quantile| intended.value_at_quantile(quantile) as f64 / MS as f64;
        assert!((at(0.95) - 50.0).abs() < 2.0, "p95 {}", at(0.95));
        assert!((at(0.99) - 90.0).abs() < 2.0, "p99 {}", at(0.99));
        assert!((at(1.0) - 100.0).abs() < 1.0, "max {}", at(1.0));
        assert!(intended.value_at_quantile(0.89) < 20_000);
    }

    #[test]
    fn from_the_actual_start_the_same_stall_is_invisible() {
        let latency = stalled();
        assert!(latency.from_sent().max() < 10_100, "{}", latency.from_sent().max());
    }

    #[test]
    fn what_is_too_long_saturates_and_what_is_none_counts_as_one() {
        let mut latency = Latency::new();
        latency.record(0, 0, u64::MAX);
        latency.record(5, 5, 5);
        assert_eq!(latency.from_sent().len(), 2);
        assert_eq!(latency.from_sent().min(), 1);
        assert!(latency.from_sent().max() >= LONGEST_NS);
        latency.reset();
        assert!(latency.from_intended().is_empty());
    }
}
