//! Medians, and what else is said of a handful of runs.

/// The figures of several runs of one measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Runs(Vec<f64>);

impl Runs {
    /// Of at least one run; `None` without any, or where one is no number.
    pub fn new(mut values: Vec<f64>) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Self(values))
    }

    /// The middle one, or the mean of the middle two.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len().is_multiple_of(2) {
            (self.0[middle - 1] + self.0[middle]) / 2.0
        } else {
            self.0[middle]
        }
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Run by run: `figure` of the two values of each pair. Pairs are measured one right after the other, so that what slows
/// the machine down for a while slows both.
pub fn paired(ours: &[f64], theirs: &[f64], figure: impl Fn(f64, f64) -> f64) -> Option<Runs> {
    Runs::new(ours.iter().zip(theirs).map(|(ours, theirs)| figure(*ours, *theirs)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_whatever_the_order() {
        let runs = Runs::new(vec![5.0, 1.0, 3.0]).expect("three runs");
        assert_eq!((runs.median(), runs.min(), runs.max(), runs.count()), (3.0, 1.0, 5.0, 3));
        assert_eq!(Runs::new(vec![4.0, 1.0]).map(|runs| runs.median()), Some(2.5));
    }

    #[test]
    fn no_run_and_no_number_have_no_median() {
        assert_eq!(Runs::new(vec![]), None);
        assert_eq!(Runs::new(vec![1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_within_pairs() {
        let ratios = paired(&[1.0, 20.0, 3.0], &[2.0, 40.0, 6.0], |a, b| a / b).expect("three pairs");
        assert_eq!((ratios.median(), ratios.min(), ratios.max()), (0.5, 0.5, 0.5));
    }
}
