//! A token bucket in integers: so many new connections per second, and so many at once after a pause.

const SECOND_NS: u64 = 1_000_000_000;

/// How many per second, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// New connections per second.
    pub per_second: u32,
    /// How many may come at once after a pause.
    pub burst: u32,
}

impl Rate {
    fn full(self) -> u64 {
        u64::from(self.burst) * SECOND_NS
    }
}

/// The bucket of one client or service. A token is 10^9 parts, so that each nanosecond adds a whole number of them.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    parts: u64,
    filled_ns: u64,
}

impl Bucket {
    /// A full one, however large its rate says that it is.
    pub const FULL: Self = Self { parts: u64::MAX, filled_ns: 0 };

    fn level(&self, rate: Rate, now_ns: u64) -> u64 {
        let elapsed_ns = now_ns.saturating_sub(self.filled_ns);
        let more = elapsed_ns.saturating_mul(u64::from(rate.per_second));
        self.parts.saturating_add(more).min(rate.full())
    }

    /// How long until there is a token, nanoseconds; 0 when there is one.
    pub fn wait_ns(&self, rate: Rate, now_ns: u64) -> u64 {
        let missing = SECOND_NS.saturating_sub(self.level(rate, now_ns));
        missing.div_ceil(u64::from(rate.per_second.max(1)))
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate, now_ns: u64) {
        self.parts = self.level(rate, now_ns).saturating_sub(SECOND_NS);
        self.filled_ns = self.filled_ns.max(now_ns);
    }

    /// Whether nothing is remembered in it.
    pub fn is_full(&self, rate: Rate, now_ns: u64) -> bool {
        self.level(rate, now_ns) == rate.full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS_NS: u64 = 1_000_000;

    fn taken(bucket: &mut Bucket, rate: Rate, now_ns: u64) -> bool {
        let has = bucket.wait_ns(rate, now_ns) == 0;
        if has {
            bucket.take(rate, now_ns);
        }
        has
    }

    #[test]
    fn a_burst_then_the_rate_and_the_wait_is_what_it_says() {
        let (rate, mut bucket) = (Rate { per_second: 10, burst: 3 }, Bucket::FULL);
        assert_eq!((0..9).filter(|_| taken(&mut bucket, rate, MS_NS)).count(), 3);
        assert_eq!(bucket.wait_ns(rate, MS_NS), 100 * MS_NS);
        assert!(!taken(&mut bucket, rate, 100 * MS_NS) && taken(&mut bucket, rate, 101 * MS_NS));
        assert!(!bucket.is_full(rate, 400 * MS_NS) && bucket.is_full(rate, 401 * MS_NS));
        // Time that goes backwards gives nothing away.
        assert!(!taken(&mut bucket, rate, 0));
    }

    #[test]
    fn never_more_than_burst_and_rate_allow() {
        // Numbers without a pattern, the same at every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..1_000 {
            let rate = Rate { per_second: 1 + below(1_000_000) as u32, burst: 1 + below(1_000) as u32 };
            let (mut bucket, mut now_ns, mut count) = (Bucket::FULL, 0, 0u128);
            for _ in 0..50 {
                let bits = below(32);
                now_ns += below(1 << bits);
                count += (0..below(50)).filter(|_| taken(&mut bucket, rate, now_ns)).count() as u128;
                let more = u128::from(now_ns) * u128::from(rate.per_second) / u128::from(SECOND_NS);
                let most = u128::from(rate.burst) + more;
                assert!(count <= most, "{rate:?}: {count} of {most}");
            }
        }
    }
}
