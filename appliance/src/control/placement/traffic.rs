//! One board's connections at this moment: what its last report says, and what came and went since.
//!
//! The board counts before it sends, and the report takes its time: what happened in the last [`GRACE_NS`] before its arrival
//! is taken for later than the report, so that a burst is not forgotten. Ends are told by the board (0x07) and are counted
//! alike.
//!
//! The integral over the endpoints held, by the ends, is how long a connection lasts (Little's law); the time in which any was held,
//! by the ends, is how long the board takes from one end to the next. On a board that serves one after the other the first
//! grows with the line of those who wait, and the second is the service alone; on one that serves all at once it is the other way
//! about: the first is the service, and the second shrinks as more come. Their geometric mean serves for both.

/// What happened so shortly before a report's arrival may not be in it. Two slots of half of it are kept.
pub const GRACE_NS: u64 = 5_000_000;

/// A connection that lasts longer says more of its client than of its board.
pub const TIME_MAX_NS: u64 = 1_000_000_000;

/// What a board that has not ended a connection yet is taken for: quick, so that it is tried.
const TIME_FIRST_NS: u64 = 100_000;

/// With so many ends, what was before counts half.
const ENDS_MAX: u32 = 128;

/// What came and went.
#[derive(Clone, Copy, Debug, Default)]
struct Net {
    placed: u32,
    ended: u32,
}

impl Net {
    fn add(&mut self, other: Net) {
        self.placed = self.placed.saturating_add(other.placed);
        self.ended = self.ended.saturating_add(other.ended);
    }
}

/// The account of one board.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Attempts under way.
    pub in_flight: u32,
    /// Since the last report.
    since: Net,
    /// Of these, in the half of [`GRACE_NS`] before the last, and in the last.
    recent: [Net; 2],
    slot_at_ns: u64,
    /// Endpoints that the last report says are held.
    endpoints: u32,
    /// Endpoints held, times nanoseconds; and the ends in that time.
    held_ns: u64,
    /// Nanoseconds in which any was held.
    busy_ns: u64,
    ends: u32,
    seen_ns: u64,
}

impl Traffic {
    /// Endpoints placed there since the last report.
    pub fn placed(&self) -> u32 {
        self.since.placed
    }

    /// Endpoints that ended there since the last report.
    pub fn ended(&self) -> u32 {
        self.since.ended
    }

    /// Connections now, those on their way included, if so many were reported.
    pub fn connections(&self, reported: u32) -> u64 {
        let since = self.since;
        (u64::from(reported) + u64::from(self.in_flight) + u64::from(since.placed))
            .saturating_sub(u64::from(since.ended))
    }

    /// The time that a connection takes there, nanoseconds: see above. One that hangs makes it longer as it hangs.
    pub fn time_ns(&self, now_ns: u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.seen_ns);
        let (held_ns, busy_ns) = self.grown(passed_ns);
        let each = |ns: u64| {
            let mean_ns = ns.saturating_add(TIME_FIRST_NS) / (u64::from(self.ends) + 1);
            mean_ns.min(TIME_MAX_NS) as f64
        };
        (each(held_ns) * each(busy_ns)).sqrt() as u64
    }

    /// Both integrals, so much later.
    fn grown(&self, passed_ns: u64) -> (u64, u64) {
        let held = self.held();
        let busy_ns = if held > 0 { passed_ns } else { 0 };
        (self.held_ns.saturating_add(held.saturating_mul(passed_ns)), self.busy_ns.saturating_add(busy_ns))
    }

    fn held(&self) -> u64 {
        let since = self.since;
        (u64::from(self.endpoints) + u64::from(since.placed)).saturating_sub(u64::from(since.ended))
    }

    /// Brings the integrals and the slots up to now.
    fn advance(&mut self, now_ns: u64) {
        (self.held_ns, self.busy_ns) = self.grown(now_ns.saturating_sub(self.seen_ns));
        self.seen_ns = now_ns;
        let slots = now_ns.saturating_sub(self.slot_at_ns) / (GRACE_NS / 2);
        if slots == 0 {
            return;
        }
        let [_, last] = self.recent;
        self.recent = [if slots > 1 { Net::default() } else { last }, Net::default()];
        self.slot_at_ns = now_ns;
    }

    fn happens(&mut self, now_ns: u64, what: Net) {
        self.advance(now_ns);
        self.since.add(what);
        self.recent[1].add(what);
    }

    /// The board acknowledged an endpoint.
    pub fn place(&mut self, now_ns: u64) {
        self.happens(now_ns, Net { placed: 1, ended: 0 });
    }

    /// The board said that an endpoint closed.
    pub fn end(&mut self, now_ns: u64) {
        self.happens(now_ns, Net { placed: 0, ended: 1 });
        self.ends += 1;
        if self.ends >= ENDS_MAX {
            self.ends /= 2;
            self.held_ns /= 2;
            self.busy_ns /= 2;
        }
    }

    /// A report came: with so many endpoints held. A board that holds none is forgiven what it was slow with, an eighth with
    /// each report: it is tried again.
    pub fn report(&mut self, now_ns: u64, endpoints: u32) {
        self.advance(now_ns);
        if self.held() == 0 && endpoints == 0 {
            self.held_ns -= self.held_ns / 8;
            self.busy_ns -= self.busy_ns / 8;
        }
        let [mut since, last] = self.recent;
        since.add(last);
        self.since = since;
        self.endpoints = endpoints;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_came_and_went_since_the_report_counts_until_the_next() {
        let mut traffic = Traffic { in_flight: 2, ..Traffic::default() };
        traffic.report(0, 0);
        (0..5).for_each(|_| traffic.place(10 * MS));
        (0..3).for_each(|_| traffic.end(20 * MS));
        assert_eq!((traffic.placed(), traffic.ended()), (5, 3));
        assert_eq!(traffic.connections(7), 7 + 2 + 5 - 3);
        traffic.report(100 * MS, 2);
        assert_eq!((traffic.placed(), traffic.ended(), traffic.connections(9)), (0, 0, 11));
        traffic.end(100 * MS);
        assert_eq!(Traffic::connections(&traffic, 0), 1, "what ended since, of what was in flight");
    }

    #[test]
    fn what_was_placed_just_before_a_report_came_is_not_in_it() {
        let mut traffic = Traffic::default();
        traffic.place(90 * MS);
        traffic.place(98 * MS);
        traffic.place(99 * MS);
        traffic.report(100 * MS, 1);
        assert_eq!(traffic.placed(), 2);
        traffic.report(200 * MS, 3);
        assert_eq!(traffic.placed(), 0);
    }

    #[test]
    fn the_time_lies_between_that_of_a_connection_and_that_from_end_to_end() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.time_ns(0), TIME_FIRST_NS);
        // Four at a time, each 8 ms long.
        for round in 0..100 {
            (0..4).for_each(|_| traffic.place(round * 8 * MS));
            (0..4).for_each(|_| traffic.end((round + 1) * 8 * MS));
        }
        let time_ns = traffic.time_ns(800 * MS);
        assert!((38 * MS / 10..=4 * MS).contains(&time_ns), "of 8 ms and 2 ms: {time_ns}");
        // Two that hang.
        (0..2).for_each(|_| traffic.place(800 * MS));
        assert!(traffic.time_ns(1_800 * MS) > 10 * MS);
        assert_eq!(traffic.time_ns(1_000_000 * MS), TIME_MAX_NS);
    }

    #[test]
    fn an_idle_board_is_forgiven() {
        let mut traffic = Traffic::default();
        for round in 0..50 {
            traffic.place(round * 200 * MS);
            traffic.end((round + 1) * 200 * MS);
        }
        let slow_ns = traffic.time_ns(10_000 * MS);
        assert!(slow_ns > 190 * MS, "{slow_ns}");
        for report in 1..=50 {
            traffic.report((10_000 + report * 100) * MS, 0);
        }
        assert!(traffic.time_ns(15_000 * MS) < slow_ns / 500);
    }
}
