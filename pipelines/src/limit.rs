//! A bound on how often something may happen: so many per second, counted per millisecond, without a clock of its own.

/// A token bucket that is refilled by the poll's time.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    per_second: u32,
    /// Thousandths of a token.
    tokens: u64,
    filled_ms: u32,
}

impl Limit {
    /// At most `per_second` each second, and as many at once.
    pub const fn per_second(per_second: u32) -> Self {
        Self { per_second, tokens: per_second as u64 * 1000, filled_ms: 0 }
    }

    /// Takes one, if there is one left.
    #[inline]
    pub fn take(&mut self, now_ms: u32) -> bool {
        let elapsed_ms = u64::from(now_ms.wrapping_sub(self.filled_ms));
        self.filled_ms = now_ms;
        let full = u64::from(self.per_second) * 1000;
        self.tokens = full.min(self.tokens + elapsed_ms * u64::from(self.per_second));
        if self.tokens < 1000 {
            return false;
        }
        self.tokens -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_allowed_and_more_with_time() {
        let mut limit = Limit::per_second(10);
        assert_eq!((0..100).filter(|_| limit.take(5)).count(), 10);
        assert!(!limit.take(104));
        assert!(limit.take(205));
        assert_eq!((0..100).filter(|_| limit.take(4_000_000_000)).count(), 10);
    }
}
