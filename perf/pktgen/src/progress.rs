//! One line on a terminal while a run lasts; nothing anywhere else.

use std::io::{IsTerminal, Write};

use crate::engine::Engine;
use crate::schedule::SECOND_NS;

/// Between two refreshes, nanoseconds.
const REFRESH_NS: u64 = SECOND_NS / 4;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    seconds: f64,
    sent: u64,
    returned: u64,
    late: u64,
    p99_us: f64,
    failed: Option<u64>,
}

impl Progress {
    /// Looks at the engine.
    #[must_use]
    pub fn of(engine: &Engine, start_ns: u64, now_ns: u64) -> Self {
        let profile = engine.profile();
        let tally = profile.tally();
        Self {
            seconds: now_ns.saturating_sub(start_ns) as f64 / SECOND_NS as f64,
            sent: tally.sent,
            returned: tally.returned,
            late: engine.schedule().late(),
            p99_us: profile.latency().from_intended().value_at_quantile(0.99) as f64 / 1e3,
            failed: profile.connections().map(|(counters, _)| counters.failed()),
        }
    }

    /// As one line.
    #[must_use]
    pub fn line(&self, label: &str) -> String {
        let rate = self.sent as f64 / self.seconds.max(1e-3) / 1e3;
        let failed = self.failed.map_or(String::new(), |failed| format!("  failed {failed}"));
        format!(
            "{label} {:6.1} s  sent {} ({rate:.1} k/s)  back {}{failed}  late {}  p99 {:.0} us",
            self.seconds, self.sent, self.returned, self.late, self.p99_us
        )
    }
}

/// Shows progress.
#[derive(Debug, Default)]
pub struct Watch {
    is_on: bool,
    label: String,
    next_ns: u64,
    width: usize,
}

impl Watch {
    /// Shows progress if the standard error is a terminal.
    #[must_use]
    pub fn on_terminal(quiet: bool) -> Self {
        Self { is_on: !quiet && std::io::stderr().is_terminal(), ..Self::default() }
    }

    /// Names what follows.
    pub fn label(&mut self, label: &str) {
        label.clone_into(&mut self.label);
    }

    /// Refreshes the line when it is time.
    #[inline]
    pub fn show(&mut self, now_ns: u64, progress: impl FnOnce() -> Progress) {
        if !self.is_on || now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns + REFRESH_NS;
        let line = progress().line(&self.label);
        let width = self.width;
        self.width = line.len();
        // A terminal that is gone is no reason to end.
        let _ = write!(std::io::stderr(), "\r{line:<width$}");
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if self.is_on && self.width > 0 {
            let width = std::mem::take(&mut self.width);
            let _ = write!(std::io::stderr(), "\r{:width$}\r", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_counts() {
        let progress =
            Progress { seconds: 2.0, sent: 4_000, returned: 3_999, late: 7, p99_us: 12.3, failed: Some(1) };
        let line = progress.line("connections");
        assert_eq!(line, "connections    2.0 s  sent 4000 (2.0 k/s)  back 3999  failed 1  late 7  p99 12 us");
    }

    #[test]
    fn without_a_terminal_nothing_is_even_looked_at() {
        let mut watch = Watch::on_terminal(true);
        watch.show(u64::MAX, || panic!("not to be asked"));
        watch.clear();
        assert_eq!(watch.width, 0);
    }
}
