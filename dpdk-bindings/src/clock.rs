//! The time stamp counter: the packet path's clock.

use dpdk_sys as sys;

use crate::eal::{NotInitialised, Runtime};

/// The time stamp counter and its rate. A small value: give each worker its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tsc {
    hz: u64,
    /// Microseconds per cycle, times 2^64, rounded up so that a whole second comes out whole.
    us_per_cycle: u64,
}

impl Tsc {
    /// Reads the rate that the EAL measured when it started.
    ///
    /// # Errors
    /// [`NotInitialised`] without a running EAL.
    pub fn new() -> Result<Self, NotInitialised> {
        let _runtime = Runtime::current()?;
        // SAFETY: the EAL runs; reads what it measured.
        Ok(Self::with_hz(unsafe { sys::rte_get_tsc_hz() }))
    }

    /// A counter of the given rate, which no machine has below 1 MHz: 1 MHz and one cycle is taken for those.
    fn with_hz(hz: u64) -> Self {
        let hz = hz.max(1_000_001);
        let us_per_cycle = (1_000_000_u128 << 64).div_ceil(hz.into());
        Self { hz, us_per_cycle: us_per_cycle as u64 }
    }

    /// The counter now, in cycles. Not serialising.
    #[inline(always)]
    #[must_use]
    pub fn now() -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: every x86-64 processor has the instruction, and Linux leaves it to user space.
            unsafe { core::arch::x86_64::_rdtsc() }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            // SAFETY: reads the counter.
            unsafe { sys::dpdk_sys_rte_rdtsc() }
        }
    }

    /// Cycles per second.
    #[inline]
    #[must_use]
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// Microseconds in so many cycles, rounded down. A multiplication, no division.
    #[inline]
    #[must_use]
    pub const fn micros(&self, cycles: u64) -> u64 {
        ((cycles as u128 * self.us_per_cycle as u128) >> 64) as u64
    }

    /// Cycles in so many microseconds. For set-up: it divides.
    #[inline]
    #[must_use]
    pub const fn cycles(&self, micros: u64) -> u64 {
        (micros as u128 * self.hz as u128 / 1_000_000) as u64
    }
}

/// Tells the processor that this is a waiting loop.
#[inline(always)]
pub fn pause() {
    std::hint::spin_loop();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_convert_exactly_at_odd_rates() {
        for hz in [1_000_001, 1_999_999_999, 2_100_000_000, 2_699_999_987, 5_000_000_001] {
            let tsc = Tsc::with_hz(hz);
            assert_eq!(tsc.micros(hz), 1_000_000, "{hz} Hz");
            assert_eq!(tsc.micros(hz * 3600), 3_600_000_000, "{hz} Hz");
            assert_eq!(tsc.cycles(1_000_000), hz);
        }
    }

    #[test]
    fn part_of_a_microsecond_rounds_down() {
        let tsc = Tsc::with_hz(2_000_000_000);
        assert_eq!((tsc.micros(0), tsc.micros(1999), tsc.micros(2000), tsc.micros(3999)), (0, 0, 1, 1));
    }

    #[test]
    fn a_rate_that_was_not_measured_does_not_divide_by_zero() {
        assert_eq!(Tsc::with_hz(0).hz(), 1_000_001);
    }
}
