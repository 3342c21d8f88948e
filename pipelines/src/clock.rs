//! Time on the packet path: the TSC, read once per poll.

/// The time of one poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the worker started; wraps after 49 days, as the timing wheel allows.
    pub ms: u32,
    /// Milliseconds on the clock that the appliance's TCP time stamps show (RFC 7323, section 4): the same in all workers.
    pub timestamp: u32,
    /// The slot of the SYN cookies, 64 s each (system.md, step 1).
    pub cookie_slot: u32,
    /// Unix time, microseconds.
    pub unix_us: u64,
}

/// Turns the TSC into [`Now`].
#[derive(Clone, Debug)]
pub struct Clock {
    start_tsc: u64,
    start_unix_us: u64,
    /// Cycles per microsecond, as a fixed-point reciprocal: microseconds = cycles * us_per_cycle >> 32.
    us_per_cycle: u64,
}

impl Clock {
    /// A clock that starts now. `tsc_hz` is the TSC's rate.
    pub fn new(tsc: u64, tsc_hz: u64, unix_us: u64) -> Self {
        let us_per_cycle = ((1_000_000u128 << 32) / u128::from(tsc_hz.max(1))) as u64;
        Self { start_tsc: tsc, start_unix_us: unix_us, us_per_cycle }
    }

    /// The time at this reading of the TSC.
    #[inline]
    pub fn at(&self, tsc: u64) -> Now {
        let cycles = tsc.wrapping_sub(self.start_tsc);
        let us = ((u128::from(cycles) * u128::from(self.us_per_cycle)) >> 32) as u64;
        let unix_us = self.start_unix_us + us;
        // Truncation is meant: both clocks wrap.
        Now {
            ms: (us / 1000) as u32,
            timestamp: (unix_us / 1000) as u32,
            cookie_slot: (unix_us / 64_000_000) as u32,
            unix_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_cycles_is_a_second() {
        let clock = Clock::new(1_000, 2_600_000_000, 5_000_000);
        let now = clock.at(1_000 + 2_600_000_000);
        assert!((999..=1_000).contains(&now.ms), "{now:?}");
        assert!((5_999_990..=6_000_000).contains(&now.unix_us), "{now:?}");
    }

    #[test]
    fn the_cookie_slot_is_64_seconds_of_unix_time() {
        let clock = Clock::new(0, 1_000_000, 640_000_000);
        assert_eq!(clock.at(0).cookie_slot, 10);
        assert_eq!(clock.at(64_100_000).cookie_slot, 11);
    }
}
