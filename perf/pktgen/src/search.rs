//! The highest rate without loss: the binary search of RFC 2544 section 26.1, with a bound on the number of trials.
//!
//! The highest rate is tried first. Then the interval between the highest rate that passed and the lowest that failed is
//! halved until it is as narrow as the resolution. Pure: the trial is the caller's.

use serde::Serialize;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchPlan {
    /// The highest rate to try, units per second.
    pub max_rate: f64,
    /// The search ends when it knows the rate as exactly as this, units per second.
    pub resolution: f64,
    /// Most trials.
    pub trials_max: u32,
    /// A rate has failed when so many trials of it failed; 1 as in the RFC, more where the machine is noisy.
    pub attempts: u32,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Not more was lost than tolerated.
    Passed,
    /// More was lost.
    Lost,
    /// The sender did not reach the rate, or only in overtime.
    NotHeld,
    /// The user wants to end.
    Stopped,
}

/// What a trial showed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tried {
    /// How it ended.
    pub verdict: Verdict,
    /// Units per second reached.
    pub reached_rate: f64,
    /// Units that lost something.
    pub lost: u64,
    /// The furthest that a start fell behind, microseconds.
    pub lag_max_us: f64,
}

/// One trial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SearchTrial {
    /// Units per second.
    pub rate: f64,
    /// Whether not more was lost than tolerated.
    pub passed: bool,
    /// What it showed.
    #[serde(flatten)]
    pub tried: Tried,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchResult {
    /// The highest rate that passed, units per second; `None` when none did.
    pub best_rate: Option<f64>,
    /// Whether the interval became as narrow as asked for, or the highest rate passed.
    pub converged: bool,
    /// All trials in order.
    pub trials: Vec<SearchTrial>,
}

/// Searches. `trial` sends at a rate and tells how it ended.
///
/// # Errors
/// Those of `trial`.
pub fn search<E>(
    plan: &SearchPlan,
    mut trial: impl FnMut(f64) -> Result<Tried, E>,
) -> Result<SearchResult, E> {
    let mut result = SearchResult { best_rate: None, converged: false, trials: Vec::new() };
    let (mut low, mut high) = (0.0, plan.max_rate);
    let mut rate = plan.max_rate;
    let mut failures = 0;
    while result.trials.len() < plan.trials_max as usize {
        let tried = trial(rate)?;
        if tried.verdict == Verdict::Stopped {
            return Ok(result);
        }
        let passed = tried.verdict == Verdict::Passed;
        result.trials.push(SearchTrial { rate, passed, tried });
        if passed {
            result.best_rate = Some(rate);
            low = rate;
        } else {
            failures += 1;
            if failures < plan.attempts {
                continue;
            }
            high = rate;
        }
        failures = 0;
        if high - low <= plan.resolution {
            result.converged = true;
            return Ok(result);
        }
        rate = (low + high) / 2.0;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> SearchPlan {
        SearchPlan { max_rate: 10_000.0, resolution: 10.0, trials_max: 50, attempts: 1 }
    }

    fn tried(rate: f64, verdict: Verdict) -> Tried {
        Tried { verdict, reached_rate: rate, lost: u64::from(verdict == Verdict::Lost), lag_max_us: 1.0 }
    }

    /// A target that loses whatever comes faster than `limit`.
    fn find(plan: &SearchPlan, limit: f64) -> SearchResult {
        let verdict = |rate| if rate <= limit { Verdict::Passed } else { Verdict::Lost };
        search(plan, |rate| Ok::<_, ()>(tried(rate, verdict(rate)))).expect("trials do not fail")
    }

    #[test]
    fn it_converges_on_the_limit_of_a_scripted_target() {
        for limit in [25.0, 777.7, 5_000.0, 9_989.0] {
            let found = find(&plan(), limit);
            let best = found.best_rate.expect("some rate passes");
            assert!(best <= limit && limit - best <= 10.0, "{limit}: {best}");
            assert!(found.converged);
            // log2(10000 / 10), and the first.
            assert!(found.trials.len() <= 12, "{limit}: {} trials", found.trials.len());
        }
    }

    #[test]
    fn a_target_without_limit_takes_one_trial() {
        let found = find(&plan(), f64::MAX);
        assert_eq!((found.best_rate, found.converged, found.trials.len()), (Some(10_000.0), true, 1));
    }

    #[test]
    fn a_target_that_loses_everything_has_no_best_rate() {
        let found = find(&plan(), 0.0);
        assert_eq!((found.best_rate, found.converged), (None, true));
    }

    #[test]
    fn trials_are_bounded() {
        let found = find(&SearchPlan { trials_max: 3, ..plan() }, 777.7);
        assert_eq!((found.trials.len(), found.converged), (3, false));
    }

    #[test]
    fn a_noisy_failure_is_tried_again_where_wanted() {
        let mut first = true;
        let noisy = |rate: f64| {
            let verdict =
                if rate > 5_000.0 || std::mem::take(&mut first) { Verdict::Lost } else { Verdict::Passed };
            Ok::<_, ()>(tried(rate, verdict))
        };
        let found = search(&SearchPlan { attempts: 2, ..plan() }, noisy).expect("no error");
        assert!(found.best_rate.is_some_and(|best| best > 4_980.0), "{found:?}");
    }

    #[test]
    fn every_trial_says_what_it_showed() {
        let trials = [Verdict::NotHeld, Verdict::Lost, Verdict::Passed];
        let mut next = trials.into_iter();
        let found = search(&SearchPlan { trials_max: 3, ..plan() }, |rate| {
            Ok::<_, ()>(tried(rate, next.next().expect("three trials")))
        });
        let json = serde_json::to_value(found.expect("no error")).expect("a report");
        let of = |field: &str| -> Vec<String> {
            (0..3).map(|trial| json["trials"][trial][field].to_string()).collect()
        };
        assert_eq!(of("verdict"), ["\"not-held\"", "\"lost\"", "\"passed\""]);
        assert_eq!(of("passed"), ["false", "false", "true"]);
        assert_eq!(of("lost"), ["0", "1", "0"]);
        assert_eq!(of("reached_rate"), of("rate"));
    }

    #[test]
    fn a_stop_keeps_what_was_found() {
        let mut trials = 0;
        let stopped = search(&plan(), |rate| {
            trials += 1;
            let verdict = [Verdict::NotHeld, Verdict::Passed, Verdict::Stopped][trials - 1];
            Ok::<_, ()>(tried(rate, verdict))
        });
        let stopped = stopped.expect("no error");
        assert_eq!((stopped.best_rate, stopped.trials.len(), stopped.converged), (Some(5_000.0), 2, false));
    }
}
