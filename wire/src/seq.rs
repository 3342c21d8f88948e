//! Sequence numbers and their modular arithmetic (RFC 9293 section 3.4).

use core::fmt;
use core::ops::{Add, Sub};

/// A TCP sequence or acknowledgement number.
///
/// It has no `Ord`: modular order is not transitive, so sequence numbers must never be sorted or become keys of an
/// ordered map. Compare two with [`Seq::lt`] and its kin, which hold while they are less than 2^31 apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// Octets from `other` forward to `self`; negative when `self` lies before `other`.
    #[inline]
    pub const fn diff(self, other: Seq) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// Whether `self` lies before `other`.
    #[inline]
    pub const fn lt(self, other: Seq) -> bool {
        self.diff(other) < 0
    }

    /// Whether `self` lies before `other` or is it.
    #[inline]
    pub const fn le(self, other: Seq) -> bool {
        self.diff(other) <= 0
    }

    /// Whether `self` lies behind `other`.
    #[inline]
    pub const fn gt(self, other: Seq) -> bool {
        self.diff(other) > 0
    }

    /// Whether `self` lies behind `other` or is it.
    #[inline]
    pub const fn ge(self, other: Seq) -> bool {
        self.diff(other) >= 0
    }
}

impl Add<u32> for Seq {
    type Output = Seq;

    #[inline]
    fn add(self, octets: u32) -> Seq {
        Seq(self.0.wrapping_add(octets))
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;

    #[inline]
    fn sub(self, octets: u32) -> Seq {
        Seq(self.0.wrapping_sub(octets))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seq({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wraps_at_the_end_of_the_space() {
        let last = Seq(u32::MAX);
        assert_eq!(last + 1, Seq(0));
        assert_eq!(Seq(0) - 1, last);
        assert_eq!(Seq(3).diff(last), 4);
        assert_eq!(last.diff(Seq(3)), -4);
    }

    #[test]
    fn order_holds_across_the_wrap() {
        let (before, behind) = (Seq(u32::MAX - 1), Seq(5));
        assert!(before.lt(behind) && before.le(behind));
        assert!(behind.gt(before) && behind.ge(before));
        assert!(!before.gt(behind) && !before.ge(behind));
        assert!(!behind.lt(before) && !behind.le(before));
    }

    #[test]
    fn a_number_neither_precedes_nor_follows_itself() {
        let seq = Seq(7);
        assert!(seq.le(seq) && seq.ge(seq));
        assert!(!seq.lt(seq) && !seq.gt(seq));
    }

    #[test]
    fn prints_the_number() {
        assert_eq!(format!("{} {:?}", Seq(42), Seq(42)), "42 Seq(42)");
    }

    proptest! {
        #[test]
        fn diff_undoes_add(start: u32, step in 0..=i32::MAX.cast_unsigned()) {
            let (start, end) = (Seq(start), Seq(start) + step);
            prop_assert_eq!(end.diff(start), step.cast_signed());
            prop_assert_eq!(end - step, start);
            prop_assert_eq!(start.lt(end), step != 0);
            prop_assert!(end.ge(start));
        }
    }
}
