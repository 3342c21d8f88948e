//! A board's life: how often it died, and for how long it is kept back after it has died again and again (docs/placement.md,
//! liveness).

/// Nanoseconds per second.
const S_NS: u64 = 1_000_000_000;

/// Deaths further apart have nothing to do with each other.
pub const FLAP_WINDOW_NS: u64 = 300 * S_NS;

/// How long a board must live after its second death of a row; doubles with each further one.
const HOLD_FIRST_NS: u64 = S_NS;

/// The longest that it must live.
const HOLD_MAX_NS: u64 = 64 * S_NS;

/// A slow start begins with this share of the weight, percent.
const RAMP_FIRST_PERCENT: u64 = 10;

/// The life of one board.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// Deaths of a row, each within [`FLAP_WINDOW_NS`] of the one before.
    deaths: u32,
    died_at_ns: u64,
    /// From when on it may have connections.
    trusted_at_ns: u64,
}

impl Life {
    /// It died.
    pub fn die(&mut self, now_ns: u64) {
        let in_a_row = self.deaths > 0 && now_ns.saturating_sub(self.died_at_ns) < FLAP_WINDOW_NS;
        self.deaths = if in_a_row { self.deaths.saturating_add(1) } else { 1 };
        self.died_at_ns = now_ns;
    }

    /// It came alive. Returns whether it is kept back for a while.
    pub fn rise(&mut self, now_ns: u64) -> bool {
        let doublings = self.deaths.saturating_sub(2);
        let hold_ns = match self.deaths {
            0 | 1 => 0,
            _ => HOLD_FIRST_NS.checked_shl(doublings.min(32)).unwrap_or(HOLD_MAX_NS).min(HOLD_MAX_NS),
        };
        self.trusted_at_ns = now_ns.saturating_add(hold_ns);
        hold_ns > 0
    }

    /// For how long it is still kept back, nanoseconds.
    pub fn kept_back_ns(&self, now_ns: u64) -> u64 {
        self.trusted_at_ns.saturating_sub(now_ns)
    }

    /// Deaths of a row.
    pub fn deaths(&self, now_ns: u64) -> u32 {
        if now_ns.saturating_sub(self.died_at_ns) < FLAP_WINDOW_NS { self.deaths } else { 0 }
    }

    /// The share of its weight that it has by now, percent: all of it `slow_start_ns` after it came alive and was no longer
    /// kept back, or after `joined_at_ns` when that is later.
    pub fn ramp_percent(&self, now_ns: u64, joined_at_ns: u64, slow_start_ns: u64) -> u32 {
        if slow_start_ns == 0 {
            return 100;
        }
        let joined_ns = now_ns.saturating_sub(self.trusted_at_ns.max(joined_at_ns));
        if joined_ns >= slow_start_ns {
            return 100;
        }
        // Beyond some centuries nothing is left to be exact about.
        let percent = joined_ns.saturating_mul(100) / slow_start_ns;
        percent.clamp(RAMP_FIRST_PERCENT, 100) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dies at a second and rises at the next: for how many seconds it is kept back.
    fn flap(life: &mut Life, at_s: u64) -> u64 {
        life.die(at_s * S_NS);
        let now_ns = (at_s + 1) * S_NS;
        assert_eq!(life.rise(now_ns), life.kept_back_ns(now_ns) > 0);
        life.kept_back_ns(now_ns) / S_NS
    }

    #[test]
    fn each_death_of_a_row_keeps_it_back_for_twice_as_long() {
        let mut life = Life::default();
        assert!(!life.rise(0), "its first life");
        let held: Vec<u64> = (1..=10).map(|n| flap(&mut life, n * 100)).collect();
        assert_eq!(held, [0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(life.kept_back_ns(1065 * S_NS), 0);
        assert_eq!((life.deaths(1299 * S_NS), life.deaths(1300 * S_NS)), (10, 0));
        assert_eq!(flap(&mut life, 1300), 0, "five minutes later it is a new one");
    }

    #[test]
    fn a_slow_start_ramps_from_a_tenth_to_the_whole_weight() {
        let mut life = Life::default();
        life.rise(10 * S_NS);
        let ramp = |at_s: u64| life.ramp_percent(at_s * S_NS, 0, 20 * S_NS);
        assert_eq!([ramp(10), ramp(11), ramp(15), ramp(20), ramp(30), ramp(99)], [10, 10, 25, 50, 100, 100]);
        assert_eq!(life.ramp_percent(10 * S_NS, 0, 0), 100, "none");
        assert_eq!(life.ramp_percent(40 * S_NS, 30 * S_NS, 20 * S_NS), 50, "it joined again");
    }
}
