//! The memory and the open files of the appliance and of the agents, over the life of each process.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use ipos_tests::lab::ROOT;
use serde_json::{Value, json};

use crate::plan::BOARDS;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a process may take for what it allocates once.
const SETTLED: Duration = Duration::from_secs(20);
/// A life that was watched for less after that says nothing.
const WATCHED_MIN: Duration = Duration::from_secs(20);

const PAGE_OCTETS: u64 = 4096;

/// What a kind of process may grow by once it has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Resident octets.
    pub memory_octets: u64,
    /// Open files.
    pub files: u64,
}

/// A buffer for a request is 16 KiB and touched when it is used, a packet buffer 2.5 KiB: what one burst more than ever before takes
/// stays resident, and is part of what was reserved at the start. The ring of decisions that `status flow` shows has 4 MiB, of which
/// each placement touches 64 octets (placement/record.rs). Runs of six minutes grew by 2 MiB at most.
const OF_APPLIANCE: Bound = Bound { memory_octets: 12 << 20, files: 32 };
/// An agent keeps a table of processes and sockets, no connections: those are in its maps, which are allocated whole. Runs of six
/// minutes grew by less than 0.2 MiB.
const OF_AGENT: Bound = Bound { memory_octets: 2 << 20, files: 8 };

/// One process, from its start to its end.
#[derive(Clone, Debug)]
pub struct Life {
    name: String,
    pid: u32,
    bound: Bound,
    begin: Instant,
    /// When it had settled: since then, resident octets and open files.
    settled: Option<(Instant, u64, u64)>,
    last: (Instant, u64, u64),
    /// The most that was seen once it had settled.
    most: (u64, u64),
}

impl Life {
    fn new(name: &str, pid: u32, bound: Bound, seen: (Instant, u64, u64)) -> Self {
        let name = name.to_owned();
        Self { name, pid, bound, begin: seen.0, settled: None, last: seen, most: (seen.1, seen.2) }
    }

    fn see(&mut self, seen: (Instant, u64, u64)) {
        if self.settled.is_none() && seen.0 - self.begin >= SETTLED {
            self.settled = Some(seen);
            self.most = (seen.1, seen.2);
        }
        self.most = (self.most.0.max(seen.1), self.most.1.max(seen.2));
        self.last = seen;
    }

    /// Whether it was watched long enough to say something.
    fn is_telling(&self) -> bool {
        self.settled.is_some_and(|(at, ..)| self.last.0 - at >= WATCHED_MIN)
    }

    /// By how much it has grown, when that is too much.
    fn grown(&self) -> Option<String> {
        let (_, memory, files) = self.settled.filter(|_| self.is_telling())?;
        let (memory, files) = (self.last.1.saturating_sub(memory), self.last.2.saturating_sub(files));
        (memory > self.bound.memory_octets || files > self.bound.files).then(|| {
            format!(
                "{} (pid {}) has grown by {memory} octets and {files} open files in {:.0} s",
                self.name,
                self.pid,
                (self.last.0 - self.begin).as_secs_f64()
            )
        })
    }

    fn json(&self) -> Value {
        let settled = self.settled.map(|(_, memory, files)| json!({"memory_octets": memory, "files": files}));
        json!({"name": self.name, "pid": self.pid, "seconds": (self.last.0 - self.begin).as_secs(), "settled": settled,
            "most": {"memory_octets": self.most.0, "files": self.most.1},
            "last": {"memory_octets": self.last.1, "files": self.last.2}})
    }
}

/// All processes of a run.
pub struct Processes {
    lives: BTreeMap<(String, u32), Life>,
    next: Instant,
}

impl Processes {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self { lives: BTreeMap::new(), next: Instant::now() }
    }

    /// Looks at all of them, when it is time to.
    pub fn look(&mut self) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + INTERVAL;
        self.one("appliance", OF_APPLIANCE);
        for board in 1..=BOARDS {
            self.one(&format!("agent{board}"), OF_AGENT);
        }
    }

    fn one(&mut self, name: &str, bound: Bound) {
        // It may be away just now.
        let Some((pid, memory, files)) = running(name) else { return };
        let seen = (Instant::now(), memory, files);
        let life =
            self.lives.entry((name.to_owned(), pid)).or_insert_with(|| Life::new(name, pid, bound, seen));
        life.see(seen);
    }

    /// What has grown, one sentence for each; and a sentence for each name that was never watched for long enough.
    pub fn grown(&self) -> Vec<String> {
        let mut sentences: Vec<String> = self.lives.values().filter_map(Life::grown).collect();
        let names: std::collections::BTreeSet<&String> = self.lives.keys().map(|(name, _)| name).collect();
        for name in names {
            if !self.lives.values().any(|life| &life.name == name && life.is_telling()) {
                sentences.push(format!("{name} never lived for long enough to show a leak: soak for longer"));
            }
        }
        sentences
    }

    /// For the report.
    pub fn json(&self) -> Value {
        self.lives.values().map(Life::json).collect()
    }
}

/// Pid, resident octets and open files of a daemon of the lab's, while it runs.
fn running(name: &str) -> Option<(u32, u64, u64)> {
    let file = fs::read_to_string(format!("{ROOT}/pids/{name}.pid")).ok()?;
    let pid: u32 = file.split_whitespace().next()?.parse().ok()?;
    let pages: u64 =
        fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split_whitespace().nth(1)?.parse().ok()?;
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    // A process that is on its way out has no memory any more.
    (pages > 0).then_some((pid, pages * PAGE_OCTETS, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(memories: &[u64]) -> Life {
        let begin = Instant::now();
        let at = |place: usize| begin + Duration::from_secs(10 * place as u64);
        let mut life = Life::new("agent1", 7, OF_AGENT, (begin, memories[0], 10));
        for (place, memory) in memories.iter().enumerate() {
            life.see((at(place), *memory, 10));
        }
        life
    }

    #[test]
    fn what_grows_before_it_has_settled_is_no_leak() {
        assert_eq!(life(&[0, 1 << 30, 1 << 30, 1 << 30, 1 << 30]).grown(), None);
    }

    #[test]
    fn what_grows_after_that_is_one() {
        let grown = life(&[0, 0, 0, 3 << 20, 5 << 20]).grown();
        assert!(
            grown.is_some_and(|sentence| sentence.contains("agent1 (pid 7) has grown by 5242880 octets"))
        );
        assert_eq!(life(&[0, 0, 0, 9 << 20, 1 << 20]).grown(), None, "it gave it back");
    }

    #[test]
    fn a_short_life_says_nothing() {
        let life = life(&[0, 0, 0, 1 << 30]);
        assert_eq!((life.is_telling(), life.grown()), (false, None));
    }

    #[test]
    fn who_was_never_watched_is_named() {
        let mut processes = Processes::new();
        let short = life(&[0, 0]);
        processes.lives.insert(("agent1".to_owned(), 7), short);
        assert!(processes.grown().iter().any(|sentence| sentence.contains("agent1 never lived")));
    }
}
