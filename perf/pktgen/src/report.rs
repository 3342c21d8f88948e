//! What a run found: as JSON, and in a few lines for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::boards::BoardCounters;
use crate::client::{ConnectionCounters, ConnectionLatency};
use crate::engine::Target;
use crate::error::Error;
use crate::latency::Latency;
use crate::profiles::Kind;
use crate::search::SearchResult;
use crate::trial::Trial;

/// How a run ended, which its exit status tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Measured.
    Measured,
    /// Ended early by the user.
    Stopped,
    /// The rate was not reached: the figures are of a lower one.
    RateNotReached,
    /// Nothing came back, connections failed, or no rate passed the search.
    Failed,
}

impl Ending {
    /// Exit status.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Ending::Measured => 0,
            Ending::Stopped => 1,
            Ending::RateNotReached => 3,
            Ending::Failed => 4,
        }
    }
}

/// A histogram in figures, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Figures {
    /// Values recorded.
    pub count: u64,
    /// Least.
    pub min_us: f64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90 % are at most this.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p99_9_us: f64,
    /// 99.99 %.
    pub p99_99_us: f64,
    /// Most.
    pub max_us: f64,
}

impl Figures {
    /// The figures of a histogram of nanoseconds.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            min_us: histogram.min() as f64 / 1e3,
            mean_us: histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// A latency, with and without what coordinated omission would hide.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct LatencyFigures {
    /// From the intended starts.
    pub from_intended: Figures,
    /// From the actual starts.
    pub from_sent: Figures,
}

impl LatencyFigures {
    /// The figures of a latency.
    #[must_use]
    pub fn of(latency: &Latency) -> Self {
        Self {
            from_intended: Figures::of(latency.from_intended()),
            from_sent: Figures::of(latency.from_sent()),
        }
    }
}

/// Connections in figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ConnectionFigures {
    /// What became of them.
    #[serde(flatten)]
    pub counters: ConnectionCounters,
    /// From SYN to SYN-ACK.
    pub handshake: LatencyFigures,
    /// From the request to the first octet of the answer.
    pub request: LatencyFigures,
}

impl ConnectionFigures {
    /// The figures of connections.
    #[must_use]
    pub fn of(counters: ConnectionCounters, latency: &ConnectionLatency) -> Self {
        let (handshake, request) = (&latency.handshake, &latency.request);
        Self { counters, handshake: LatencyFigures::of(handshake), request: LatencyFigures::of(request) }
    }
}

/// One trial with its figures.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Rates and counts.
    pub trial: Trial,
    /// From a unit's start to its return (of a connection: to the answer's first octet).
    pub latency: Latency,
    /// Connections, where there are any.
    pub connections: Option<ConnectionFigures>,
}

impl Measured {
    /// Units that lost something: that did not come back, or (of connections) needed a segment sent again.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.trial.lost + self.connections.map_or(0, |connections| connections.counters.retransmitted)
    }

    /// Share of the units that lost something. A search goes by this: a client's patience must not hide what the target
    /// drops.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.lost() as f64 / self.trial.tally.sent.max(1) as f64
    }
}

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `ipos-pktgen` and its version.
    pub generator: String,
    /// What was sent.
    pub profile: Kind,
    /// What stood between the ports.
    pub target: Target,
    /// Ports, clients' first.
    pub ports: Vec<String>,
    /// The service.
    pub service: String,
    /// Flows.
    pub flows: u32,
    /// What the clients' line could carry, units per second; `None` if its speed is unknown.
    pub line_rate: Option<f64>,
    /// The trial that counts: the only one, or the best of a search.
    pub trial: Option<Trial>,
    /// Its latency.
    pub latency: LatencyFigures,
    /// Its connections.
    pub connections: Option<ConnectionFigures>,
    /// How the connections of `established` were opened.
    pub opening: Option<ConnectionFigures>,
    /// The search.
    pub search: Option<SearchResult>,
    /// What the boards saw and did in the whole run.
    pub boards: BoardCounters,
    /// How it ended.
    pub ending: Ending,
}

impl Report {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        write(path, text.map(|text| text + "\n"))
    }

    /// A few lines for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.summarise(&mut text);
        text
    }

    fn summarise(&self, out: &mut String) -> std::fmt::Result {
        let (name, unit) =
            (self.profile.name(), if self.connections.is_some() { "connections" } else { "packets" });
        if let Some(search) = &self.search {
            match search.best_rate {
                Some(rate) => writeln!(out, "{name}: highest rate without loss {rate:.0} {unit}/s")?,
                None => writeln!(out, "{name}: every rate tried lost something")?,
            }
            let failed = search.trials.iter().filter(|trial| !trial.passed).count();
            let narrow = if search.converged { "converged" } else { "did not converge" };
            writeln!(out, "  {} trials, {failed} of them failed; {narrow}", search.trials.len())?;
        }
        let Some(trial) = &self.trial else { return Ok(()) };
        writeln!(
            out,
            "{name}: {} {unit} in {:.2} s, {:.0}/s of {:.0}/s asked for; back {}, lost {} ({:.4} %)",
            trial.tally.sent,
            trial.duration_s,
            trial.reached_rate,
            trial.asked_rate,
            trial.tally.returned,
            trial.lost,
            trial.loss() * 100.0
        )?;
        writeln!(out, "  late starts {}, the latest by {:.0} us", trial.late, trial.lag_max_us)?;
        for (what, figures) in
            [("latency", &self.latency.from_intended), ("  from actual starts", &self.latency.from_sent)]
        {
            writeln!(
                out,
                "  {what}: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
                figures.p50_us, figures.p99_us, figures.p99_9_us, figures.max_us
            )?;
        }
        if let Some(ConnectionFigures { counters, handshake, request }) = &self.connections {
            writeln!(
                out,
                "  completed {}, failed {} (time-out {}, reset {}, answered by the appliance {}), sent again {}",
                counters.completed,
                counters.failed(),
                counters.failed_timeout,
                counters.failed_reset,
                counters.failed_answered,
                counters.retransmitted
            )?;
            for (what, latency) in [("SYN to SYN-ACK", handshake), ("request to answer", request)] {
                let Figures { p50_us, p99_us, .. } = latency.from_sent;
                writeln!(out, "  {what}: p50 {p50_us:.1} us, p99 {p99_us:.1} us")?;
            }
        }
        Ok(())
    }
}

/// Writes a file, in place of what it was.
///
/// # Errors
/// [`Error::Write`].
pub fn write(path: &Path, text: std::io::Result<String>) -> Result<(), Error> {
    text.and_then(|text| fs::write(path, text))
        .map_err(|reason| Error::Write { path: path.display().to_string(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_microseconds() {
        let mut latency = Latency::new();
        for us in 1..=100_u64 {
            latency.record(0, 0, us * 1_000);
        }
        let figures = Figures::of(latency.from_sent());
        assert_eq!(figures.count, 100);
        for (found, right) in [(figures.p50_us, 50.0), (figures.p99_us, 99.0), (figures.max_us, 100.0)] {
            assert!((found - right).abs() / right < 0.002, "{found} for {right}");
        }
        assert_eq!(Figures::of(Latency::new().from_sent()), Figures::default());
    }

    #[test]
    fn what_had_to_be_sent_again_was_lost() {
        let trial = Trial {
            asked_rate: 1.0,
            reached_rate: 1.0,
            duration_s: 1.0,
            planned: 100,
            tally: crate::profiles::Tally { sent: 100, returned: 99, ..Default::default() },
            lost: 1,
            late: 0,
            lag_max_us: 0.0,
            stopped: false,
            client_port: crate::lane::LaneCounters::default(),
            farm_port: None,
        };
        let mut measured = Measured { trial, latency: Latency::new(), connections: None };
        assert!((measured.loss() - 0.01).abs() < 1e-9);
        let counters = ConnectionCounters { retransmitted: 4, ..ConnectionCounters::default() };
        measured.connections = Some(ConnectionFigures::of(counters, &ConnectionLatency::default()));
        assert!((measured.loss() - 0.05).abs() < 1e-9);
    }

    #[test]
    fn endings_have_different_statuses() {
        let all = [Ending::Measured, Ending::Stopped, Ending::RateNotReached, Ending::Failed];
        assert_eq!(all.map(Ending::status), [0, 1, 3, 4]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = write(Path::new("/no/such/directory/file"), Ok(String::new())).expect_err("no directory");
        assert!(error.to_string().contains("/no/such/directory/file"), "{error}");
    }
}
