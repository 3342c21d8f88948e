//! When each unit (a packet, or a connection) shall start: open loop, so that a slow target does not slow the load down.
//!
//! Unit `i` is intended at `start + i / rate`, whatever became of the units before it. A sender that falls behind sends
//! what is due as soon as it can, and every such start is counted as late. Pure arithmetic in integers: nothing here
//! reads a clock, so that tests run it in virtual time.

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Bits behind the point of the period.
const FRACTION_BITS: u32 = 32;

/// One trial's schedule, and how well it was kept.
#[derive(Debug, Clone)]
pub struct Schedule {
    start_ns: u64,
    /// Nanoseconds between two units, with [`FRACTION_BITS`] bits behind the point.
    period_fp: u128,
    units: u64,
    next: u64,
    late_after_ns: u64,
    late: u64,
    lag_max_ns: u64,
}

impl Schedule {
    /// `units` units from `start_ns` on, `rate` a second (more than 0; at most 10^9, one a nanosecond). A unit that
    /// starts more than `late_after_ns` behind its time is late.
    #[must_use]
    pub fn new(start_ns: u64, rate: f64, units: u64, late_after_ns: u64) -> Self {
        let period_ns = SECOND_NS as f64 / rate.clamp(1e-3, SECOND_NS as f64);
        let period_fp = (period_ns * (1_u64 << FRACTION_BITS) as f64) as u128;
        Self { start_ns, period_fp, units, next: 0, late_after_ns, late: 0, lag_max_ns: 0 }
    }

    /// When unit `index` is intended, nanoseconds on the clock of `start_ns`.
    #[inline]
    #[must_use]
    pub fn intended_ns(&self, index: u64) -> u64 {
        self.start_ns + ((u128::from(index) * self.period_fp) >> FRACTION_BITS) as u64
    }

    /// The next unit, if its time has come.
    #[inline]
    #[must_use]
    pub fn due(&self, now_ns: u64) -> Option<u64> {
        (self.next < self.units && self.intended_ns(self.next) <= now_ns).then_some(self.next)
    }

    /// Takes note that the unit of [`Schedule::due`] has started.
    #[inline]
    pub fn started(&mut self, now_ns: u64) {
        let lag_ns = now_ns.saturating_sub(self.intended_ns(self.next));
        self.late += u64::from(lag_ns > self.late_after_ns);
        self.lag_max_ns = self.lag_max_ns.max(lag_ns);
        self.next += 1;
    }

    /// Plans no more starts.
    pub fn stop(&mut self) {
        self.units = self.next;
    }

    /// Units started.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.next
    }

    /// Units planned.
    #[must_use]
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Whether all units have started.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next >= self.units
    }

    /// When the schedule started, nanoseconds.
    #[must_use]
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// When the last unit is over by the plan, nanoseconds.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        self.intended_ns(self.units)
    }

    /// Units that started late.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The furthest that a start fell behind, nanoseconds.
    #[must_use]
    pub fn lag_max_ns(&self) -> u64 {
        self.lag_max_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls every `step_ns` until the schedule is over; the starts' errors, nanoseconds.
    fn run(schedule: &mut Schedule, step_ns: u64, stall: std::ops::Range<u64>) -> Vec<u64> {
        let mut errors = Vec::new();
        let mut now_ns = schedule.start_ns();
        while !schedule.is_done() {
            if !stall.contains(&now_ns) {
                while let Some(index) = schedule.due(now_ns) {
                    errors.push(now_ns - schedule.intended_ns(index));
                    schedule.started(now_ns);
                }
            }
            now_ns += step_ns;
        }
        errors
    }

    #[test]
    fn in_virtual_time_no_start_is_early_nor_behind_by_more_than_a_poll() {
        for rate in [1.0, 3.0, 999.9, 1e6, 14_880_952.38, 7_654_321.0] {
            let units = (rate as u64 * 2).clamp(3, 100_000);
            let mut schedule = Schedule::new(77, rate, units, 1_000);
            let step_ns = if rate < 1e4 { 1_000 } else { 50 };
            if rate < 10.0 {
                continue;
            }
            let errors = run(&mut schedule, step_ns, 0..0);
            assert_eq!(errors.len() as u64, units);
            assert!(errors.iter().all(|error| *error < step_ns), "{rate}: {:?}", errors.iter().max());
            assert_eq!(schedule.late(), 0);
        }
    }

    #[test]
    fn the_rate_does_not_drift_over_a_day() {
        let rate = 14_880_952.0;
        let schedule = Schedule::new(0, rate, u64::MAX, 0);
        let day_s = 86_400_u64;
        let error_ns = schedule.intended_ns(rate as u64 * day_s).abs_diff(day_s * SECOND_NS);
        assert!(error_ns < day_s * 1_000, "below one in a million: {error_ns} ns");
    }

    #[test]
    fn a_stall_is_caught_up_and_its_starts_are_late() {
        let mut schedule = Schedule::new(0, 1e6, 10_000, 2_000);
        let errors = run(&mut schedule, 500, 2_000_000..3_000_000);
        // 1000 units fell into the stall; the last two of them were within the tolerance.
        assert!((995..=1000).contains(&schedule.late()), "{}", schedule.late());
        assert_eq!(errors.iter().max(), Some(&1_000_000));
        assert_eq!(schedule.lag_max_ns(), 1_000_000);
        assert!(errors.iter().skip(3_100).all(|error| *error < 500), "back on schedule after the burst");
    }

    #[test]
    fn nothing_is_due_before_its_time_nor_after_the_last() {
        let mut schedule = Schedule::new(1_000, 1e9 / 100.0, 2, 0);
        assert_eq!(schedule.due(999), None);
        assert_eq!(schedule.due(1_000), Some(0));
        schedule.started(1_000);
        assert_eq!(schedule.due(1_099), None);
        assert_eq!(schedule.due(1_100), Some(1));
        schedule.started(1_100);
        assert_eq!((schedule.due(u64::MAX), schedule.is_done(), schedule.end_ns()), (None, true, 1_200));
    }
}
