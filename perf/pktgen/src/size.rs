//! Frame sizes: one, a list in turn, or the simple IMIX.

use std::str::FromStr;

/// The shortest frame, octets with frame check sequence (RFC 2544 section 9.1).
pub const SHORTEST: u16 = 64;
/// The longest frame, octets with frame check sequence.
pub const LONGEST: u16 = 1518;
/// Octets of the frame check sequence, which the port adds.
pub const FCS_OCTETS: u16 = 4;
/// Octets on the line beside the frame: preamble, start delimiter and gap (IEEE 802.3 clause 4).
pub const LINE_OCTETS: u16 = 20;

/// Simple IMIX: 7 of 64, 4 of 594, 1 of 1518 octets, spread so that no burst is of one size.
const IMIX: [u16; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594];
/// The longest list.
const SIZES_MAX: usize = 64;

/// Sizes of frames, octets with frame check sequence, to be used in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(Vec<u16>);

impl Sizes {
    /// Size of the frame of this number.
    #[inline]
    #[must_use]
    pub fn of(&self, number: u64) -> u16 {
        self.0.get((number % self.0.len().max(1) as u64) as usize).copied().unwrap_or(SHORTEST)
    }

    /// Mean octets that a frame takes on the line, preamble and gap included.
    #[must_use]
    pub fn line_octets(&self) -> f64 {
        let sum: u64 = self.0.iter().map(|size| u64::from(size + LINE_OCTETS)).sum();
        sum as f64 / self.0.len().max(1) as f64
    }
}

/// Why a text names no sizes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?}: expected `imix`, or up to {SIZES_MAX} sizes from {SHORTEST} to {LONGEST} octets between commas"
)]
pub struct SizesError(String);

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        if text == "imix" {
            return Ok(Self(IMIX.to_vec()));
        }
        let fail = || SizesError(text.to_owned());
        let size = |part: &str| part.parse().ok().filter(|size| (SHORTEST..=LONGEST).contains(size));
        let sizes: Vec<u16> =
            text.split(',').map(|part| size(part).ok_or_else(fail)).collect::<Result<_, _>>()?;
        if sizes.len() > SIZES_MAX { Err(fail()) } else { Ok(Self(sizes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_used_in_turn() {
        let sizes: Sizes = "64,1518".parse().expect("two sizes");
        assert_eq!([0, 1, 2].map(|n| sizes.of(n)), [64, 1518, 64]);
        assert!((sizes.line_octets() - 811.0).abs() < 1e-9);
    }

    #[test]
    fn imix_has_seven_four_one() {
        let sizes: Sizes = "imix".parse().expect("the IMIX");
        let count = |size| (0..12).filter(|n| sizes.of(*n) == size).count();
        assert_eq!((count(64), count(594), count(1518)), (7, 4, 1));
    }

    #[test]
    fn sizes_that_no_frame_has_are_refused() {
        for wrong in ["", "63", "1519", "64,", "x", "-1"] {
            let error = wrong.parse::<Sizes>().expect_err(wrong).to_string();
            assert!(error.contains("64 to 1518"), "{error}");
        }
    }
}
