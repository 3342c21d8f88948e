//! What health checks say of one board: a verdict for each service that it is checked for.
//!
//! A board that has not been checked yet may take connections: its kernel refuses honestly what nobody listens for. After
//! `fall` checks in a row that failed it takes none, after `rise` that passed it does again. The checks themselves are made
//! in [`super::checks`].

use std::net::Ipv4Addr;

use super::counters::Checked;

/// What the last checks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// There was none yet.
    #[default]
    Unknown,
    /// The board serves.
    Passing,
    /// It does not.
    Failing,
}

impl Verdict {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Unknown => "unknown",
            Verdict::Passing => "passing",
            Verdict::Failing => "failing",
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In a word.
    pub how: Checked,
    /// The status of the answer, or the code of the refusal; 0 where there is neither.
    pub code: u16,
}

impl Outcome {
    /// A sentence for `status`.
    pub fn sentence(self) -> String {
        match self.how {
            Checked::Passed => format!("status {}", self.code),
            Checked::OtherStatus => format!("another status: {}", self.code),
            Checked::NotHttp => "the answer is no HTTP".to_owned(),
            Checked::Cut => "closed without an answer".to_owned(),
            Checked::Refused => {
                let reason = super::board::REFUSALS.get(usize::from(self.code)).unwrap_or(&"other");
                format!("refused: {reason}")
            }
            Checked::Silent => "no acknowledgement".to_owned(),
            Checked::NoAnswer => "acknowledged, but not served in time".to_owned(),
        }
    }
}

/// How many checks in a row change the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Failed ones, until a board takes no connections.
    pub fall: u32,
    /// Passed ones, until it takes them again.
    pub rise: u32,
}

/// One service's checks of one board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The service's address and port.
    pub endpoint: (Ipv4Addr, u16),
    /// What the checks say.
    pub verdict: Verdict,
    /// The last one.
    pub last: Option<Outcome>,
    /// All of them, by [`Checked`].
    pub ended: [u64; Checked::ALL.len()],
    /// Those in a row that contradict the verdict.
    contrary: u32,
}

/// A board's health.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// By service; few.
    services: Vec<ServiceHealth>,
}

impl Health {
    /// The service's checks, if it is checked.
    pub fn of(&self, endpoint: (Ipv4Addr, u16)) -> Option<&ServiceHealth> {
        self.services.iter().find(|service| service.endpoint == endpoint)
    }

    /// Why the board gets none of the service's connections, if it is for its checks.
    pub fn failing(&self, endpoint: (Ipv4Addr, u16)) -> Option<Outcome> {
        self.of(endpoint).filter(|service| service.verdict == Verdict::Failing)?.last
    }

    /// The service will be checked.
    pub fn watch(&mut self, endpoint: (Ipv4Addr, u16)) {
        if self.of(endpoint).is_none() {
            self.services.push(ServiceHealth {
                endpoint,
                verdict: Verdict::Unknown,
                last: None,
                ended: [0; Checked::ALL.len()],
                contrary: 0,
            });
        }
    }

    /// Only these services are checked from now on.
    pub fn watch_only(&mut self, endpoints: &[(Ipv4Addr, u16)]) {
        self.services.retain(|service| endpoints.contains(&service.endpoint));
        endpoints.iter().for_each(|endpoint| self.watch(*endpoint));
    }

    /// Takes the outcome of a check. Returns the verdict when it changed.
    pub fn take(
        &mut self,
        endpoint: (Ipv4Addr, u16),
        outcome: Outcome,
        patience: Patience,
    ) -> Option<Verdict> {
        let service = self.services.iter_mut().find(|service| service.endpoint == endpoint)?;
        service.last = Some(outcome);
        service.ended[outcome.how as usize] += 1;
        let (said, needed) = match outcome.how {
            Checked::Passed => (Verdict::Passing, patience.rise),
            _ => (Verdict::Failing, patience.fall),
        };
        if said == service.verdict {
            service.contrary = 0;
            return None;
        }
        service.contrary += 1;
        // One good check is enough for a board that takes connections already.
        let needed = if service.verdict == Verdict::Unknown && said == Verdict::Passing { 1 } else { needed };
        if service.contrary < needed {
            return None;
        }
        service.contrary = 0;
        service.verdict = said;
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 80);
    const PATIENCE: Patience = Patience { fall: 3, rise: 2 };
    const PASSED: Outcome = Outcome { how: Checked::Passed, code: 200 };
    const FAILED: Outcome = Outcome { how: Checked::OtherStatus, code: 503 };

    fn watched() -> Health {
        let mut health = Health::default();
        health.watch(ENDPOINT);
        health
    }

    #[test]
    fn a_board_fails_after_as_many_as_fall_in_a_row_and_recovers_after_as_many_as_rise() {
        let mut health = watched();
        let changes: Vec<_> =
            [PASSED, FAILED, FAILED, PASSED, FAILED, FAILED, FAILED, FAILED, PASSED, PASSED]
                .into_iter()
                .map(|outcome| health.take(ENDPOINT, outcome, PATIENCE))
                .collect();
        let mut expected = vec![None; 10];
        expected[0] = Some(Verdict::Passing);
        expected[9] = Some(Verdict::Passing);
        expected[6] = Some(Verdict::Failing);
        assert_eq!(changes, expected);
        let ended = health.of(ENDPOINT).expect("watched").ended;
        assert_eq!((ended[Checked::Passed as usize], ended[Checked::OtherStatus as usize]), (4, 6));
    }

    #[test]
    fn an_unknown_board_may_be_used_until_it_has_failed_as_often_as_any_other() {
        let mut health = watched();
        assert_eq!(health.take(ENDPOINT, FAILED, PATIENCE), None);
        assert_eq!((health.take(ENDPOINT, FAILED, PATIENCE), health.failing(ENDPOINT)), (None, None));
        assert_eq!(health.take(ENDPOINT, FAILED, PATIENCE), Some(Verdict::Failing));
        assert_eq!(health.failing(ENDPOINT), Some(FAILED));
    }

    #[test]
    fn services_are_told_apart() {
        let mut health = watched();
        let other = (ENDPOINT.0, 8080);
        health.watch(other);
        for _ in 0..3 {
            health.take(ENDPOINT, FAILED, PATIENCE);
        }
        assert_eq!((health.failing(ENDPOINT), health.failing(other)), (Some(FAILED), None));
        assert_eq!(health.take((ENDPOINT.0, 1), FAILED, PATIENCE), None, "nobody watches it");
    }
}
