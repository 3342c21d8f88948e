//! The clients (tests/clients/soak.py), and what they say.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ipos_tests::Lab;
use ipos_tests::lab::repository;
use serde_json::{Value, json};

use crate::plan::BOARDS;
use crate::verdict::{Operation, Outcome};

/// Operations that were not right and are kept: more are counted alone.
const KEPT_MAX: usize = 10_000;
/// How often the clients' clock is asked for; the quickest answer counts.
const CLOCK_ASKED: usize = 20;
/// Lines that may wait while Local Tables are read, so that no client waits for that.
const LINES_MAX: usize = 100_000;
/// An operation waits 30 s for an octet, and sessions pause for 20 s: whoever says nothing for so long never will.
const SILENCE: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(10);

/// The clients' processes.
pub struct Clients {
    child: Child,
    stdin: ChildStdin,
    clock: Receiver<f64>,
}

/// The clients' clock, by ours.
#[derive(Clone, Copy)]
pub struct Clock {
    at: Instant,
    says_s: f64,
}

impl Clock {
    /// What it says now, seconds.
    pub fn now_s(&self) -> f64 {
        self.says_s + self.at.elapsed().as_secs_f64()
    }
}

impl Clients {
    /// Starts them. What they say is to be read by [`Said::read`].
    ///
    /// # Panics
    /// When they cannot be started.
    pub fn start(lab: &Lab, seed: u64) -> (Self, Hearing) {
        let path = repository().join("tests/clients/soak.py");
        let seed = seed.to_string();
        let mut child = lab
            .command("client", &["/usr/bin/python3", "-B", &path.to_string_lossy(), &seed])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 can be run");
        let stdin = child.stdin.take().expect("its input is a pipe");
        let stdout = child.stdout.take().expect("its output is a pipe");
        let (sender, lines) = sync_channel(LINES_MAX);
        // Ends with its input, or with whoever listens.
        thread::spawn(move || BufReader::new(stdout).lines().all(|line| sender.send(line).is_ok()));
        let (sender, clock) = channel();
        (Self { child, stdin, clock }, Hearing { lines, clock: sender })
    }

    /// Asks what time it is for them.
    ///
    /// # Errors
    /// When they do not say.
    pub fn clock(&mut self) -> Result<Clock, String> {
        let mut best: Option<(Duration, Clock)> = None;
        for _ in 0..CLOCK_ASKED {
            let asked = Instant::now();
            self.tell("time")?;
            let says_s =
                self.clock.recv_timeout(PATIENCE).map_err(|_| "the clients do not say their time")?;
            let took = asked.elapsed();
            if best.as_ref().is_none_or(|(quickest, _)| took < *quickest) {
                best = Some((took, Clock { at: asked + took / 2, says_s }));
            }
        }
        best.map(|(_, clock)| clock).ok_or_else(|| "the clients have no clock".to_owned())
    }

    /// Lets every session end.
    ///
    /// # Errors
    /// When they have ended already.
    pub fn stop(&mut self) -> Result<(), String> {
        self.tell("stop")
    }

    fn tell(&mut self, what: &str) -> Result<(), String> {
        writeln!(self.stdin, "{what}").map_err(|error| format!("the clients have ended: {error}"))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // They may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end: what the clients say, line by line.
pub struct Hearing {
    lines: Receiver<std::io::Result<String>>,
    clock: Sender<f64>,
}

/// What became of the operations of one kind.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Operations by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Octets of content that were right.
    pub octets: u64,
    /// Operations that were asked more than once.
    pub repeated: u64,
    /// The longest that was right, seconds.
    pub slowest_s: f64,
}

impl Total {
    /// For the report.
    pub fn json(&self) -> Value {
        json!({"outcomes": self.outcomes, "octets": self.octets, "repeated": self.repeated, "slowest_s": self.slowest_s})
    }
}

/// All that the clients have said.
#[derive(Default)]
pub struct Said {
    /// By kind.
    pub totals: BTreeMap<String, Total>,
    /// Those that were not right, with the boards that had them.
    pub failed: Vec<Operation>,
    /// Those that are not kept in `failed`.
    pub not_kept: u64,
    /// Lines that could not be read, and whatever else was wrong with the clients themselves.
    pub mistakes: Vec<String>,
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Right => "right",
        Outcome::Stale => "stale",
        Outcome::Refused => "refused",
        Outcome::Lost => "lost",
        Outcome::Strayed => "strayed",
        Outcome::Wrong => "wrong",
    }
}

impl Said {
    /// Reads until the clients are done.
    pub fn read(lab: &Lab, hearing: Hearing) -> Self {
        let mut said = Self::default();
        let Hearing { lines, clock } = hearing;
        while let Ok(Ok(line)) = lines.recv_timeout(SILENCE) {
            let line: Value = match serde_json::from_str(&line) {
                Ok(line) => line,
                Err(_) => {
                    said.mistakes.push(format!("the clients said {line:?}"));
                    continue;
                }
            };
            if let Some(now_s) = line["now"].as_f64() {
                // Nobody asks any more when the run is over.
                let _ = clock.send(now_s);
            } else if line["done"] == true {
                return said;
            } else {
                said.hear(lab, line);
            }
        }
        said.mistakes
            .push(format!("the clients ended before they were done, or said nothing for {SILENCE:?}"));
        said
    }

    fn hear(&mut self, lab: &Lab, line: Value) {
        let mut operation = match Operation::read(line) {
            Ok(operation) => operation,
            Err(error) => return self.mistakes.push(error),
        };
        let total = self.totals.entry(operation.kind.clone()).or_default();
        *total.outcomes.entry(name(operation.outcome)).or_default() += 1;
        total.octets += operation.octets;
        total.repeated += u64::from(operation.tries > 1);
        if operation.outcome == Outcome::Right {
            total.slowest_s = total.slowest_s.max(operation.took_s);
            return;
        }
        if self.failed.len() >= KEPT_MAX {
            self.not_kept += 1;
            return;
        }
        // A board remembers a connection for a minute after its end, and this client's ports come again much later. Tables are read only
        // where the verdict needs them: when a board is out, refusals are many, and whoever reads for each is a minute late soon.
        let boards = if operation.outcome == Outcome::Refused { 0 } else { BOARDS };
        for board in 1..=boards {
            match catch_unwind(AssertUnwindSafe(|| lab.local_table(board))) {
                Ok(table) if table.contains_key(&operation.port) => operation.accepted_by.push(board),
                Ok(_) => {}
                Err(_) => self.mistakes.push(format!("the Local Table of board {board} cannot be read")),
            }
        }
        self.failed.push(operation);
    }
}
