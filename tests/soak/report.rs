//! The report of a run: JSON for programs, a few lines for people.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::processes::Processes;
use crate::traffic::Said;
use crate::verdict::{Happened, excuse};

/// Failed operations that the report quotes.
const QUOTED_MAX: usize = 200;

/// What is known of a run.
pub struct Report {
    /// The seed of clients and events.
    pub seed: u64,
    /// How long it was to be.
    pub time: Duration,
    /// Why it is no success; none when it is one.
    pub failures: Vec<String>,
    /// What happened.
    pub happened: Vec<Happened>,
    /// What the clients said.
    pub said: Said,
    /// How often which excuse was good.
    pub excuses: BTreeMap<&'static str, u64>,
    /// Requests that the boards' nginx have logged.
    pub served: u64,
    /// Memory and open files.
    pub processes: Processes,
    /// The appliance's counts at the end; since its last restart.
    pub counts: Value,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            seed: 0,
            time: Duration::ZERO,
            failures: Vec::new(),
            happened: Vec::new(),
            said: Said::default(),
            excuses: BTreeMap::new(),
            served: 0,
            processes: Processes::new(),
            counts: Value::Null,
        }
    }
}

impl Report {
    /// Finds an excuse for whatever was not right, and says what has none.
    pub fn judge(&mut self) {
        self.failures.append(&mut self.said.mistakes);
        for operation in &self.said.failed {
            match excuse(operation, &self.happened) {
                Some(why) => *self.excuses.entry(why).or_default() += 1,
                None => self.failures.push(format!(
                    "without excuse, accepted by {:?}: {}",
                    operation.accepted_by, operation.line
                )),
            }
        }
        if self.said.not_kept > 0 {
            self.failures.push(format!("{} more operations failed than are kept", self.said.not_kept));
        }
        // A run in which nothing was asked proves nothing.
        for (kind, total) in &self.said.totals {
            if total.outcomes.get("right").is_none_or(|right| *right == 0) {
                self.failures.push(format!("no operation of {kind} was right"));
            }
        }
        if self.said.totals.len() < KINDS {
            self.failures.push(format!("only {} of {KINDS} kinds of traffic", self.said.totals.len()));
        }
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let totals: BTreeMap<&String, Value> =
            self.said.totals.iter().map(|(kind, total)| (kind, total.json())).collect();
        let failed = self.said.failed.iter().take(QUOTED_MAX);
        let failed: Vec<Value> = failed
            .map(|one| json!({"said": one.line, "accepted_by": one.accepted_by, "excuse": excuse(one, &self.happened)}))
            .collect();
        let happened = self.happened.iter().map(|one| {
            json!({"event": one.event.name(), "board": one.event.board(), "from_s": one.from_s, "until_s": one.until_s,
                "away_s": one.away_s})
        });
        json!({
            "seed": self.seed, "seconds": self.time.as_secs(), "ok": self.failures.is_empty(), "failures": self.failures,
            "totals": totals, "excuses": self.excuses, "failed": failed, "requests_logged": self.served,
            "events": happened.collect::<Vec<_>>(), "processes": self.processes.json(), "appliance": self.counts,
        })
    }

    /// Writes it to a file; a report that cannot be written is said, and no failure of the farm's.
    pub fn write(&self, path: &Path) {
        if let Err(error) = std::fs::write(path, format!("{:#}\n", self.json())) {
            eprintln!("soak: {} cannot be written: {error}", path.display());
        }
    }
}

/// Kinds of traffic that the clients make.
const KINDS: usize = 17;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:15} {:>8} {:>6} {:>8} {:>6} {:>8} {:>6} {:>9} {:>8} {:>10}",
            "KIND", "RIGHT", "STALE", "REFUSED", "LOST", "STRAYED", "WRONG", "REPEATED", "MB", "SLOWEST s"
        )?;
        for (kind, total) in &self.said.totals {
            let of = |name: &str| total.outcomes.get(name).copied().unwrap_or(0);
            writeln!(
                f,
                "{kind:15} {:>8} {:>6} {:>8} {:>6} {:>8} {:>6} {:>9} {:>8.1} {:>10.2}",
                of("right"),
                of("stale"),
                of("refused"),
                of("lost"),
                of("strayed"),
                of("wrong"),
                total.repeated,
                total.octets as f64 / 1e6,
                total.slowest_s
            )?;
        }
        let mut events: BTreeMap<&str, u32> = BTreeMap::new();
        for one in &self.happened {
            *events.entry(one.event.name()).or_default() += 1;
        }
        let text = |(name, count): (&&str, &u32)| format!("{name} {count}");
        writeln!(f, "events: {}", events.iter().map(text).collect::<Vec<_>>().join(", "))?;
        for (why, count) in &self.excuses {
            writeln!(f, "excused {count}: {why}")?;
        }
        writeln!(
            f,
            "requests in the boards' logs: {}, none of them twice unless it is said below",
            self.served
        )
    }
}
