//! Time for the generator: nanoseconds since it started, from the time stamp counter.

use ipos_dpdk::clock::Tsc;
use ipos_dpdk::eal::NotInitialised;

/// A clock of nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: u64,
    /// Nanoseconds per cycle, times 2^32.
    ns_per_cycle: u64,
}

impl Clock {
    /// Starts at (nearly) one: zero is never a time at which something was sent.
    ///
    /// # Errors
    /// [`NotInitialised`] without a running EAL.
    pub fn start() -> Result<Self, NotInitialised> {
        let hz = Tsc::new()?.hz();
        let ns_per_cycle = ((1_000_000_000_u128 << 32) / u128::from(hz)) as u64;
        Ok(Self { start: Tsc::now(), ns_per_cycle })
    }

    /// Nanoseconds since the start, and one.
    #[inline]
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let cycles = Tsc::now().wrapping_sub(self.start);
        1 + ((u128::from(cycles) * u128::from(self.ns_per_cycle)) >> 32) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_goes_as_fast_as_the_system_clock() {
        ipos_dpdk::testing::eal();
        let clock = Clock::start().expect("a running EAL");
        let (wall, start_ns) = (Instant::now(), clock.now_ns());
        while wall.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        let passed_ns = clock.now_ns() - start_ns;
        let wall_ns = wall.elapsed().as_nanos() as u64;
        // Between the two readings lies whatever the scheduler likes.
        assert!(passed_ns >= 49_000_000 && passed_ns <= wall_ns + 1_000_000, "{passed_ns} of {wall_ns}");
    }
}
