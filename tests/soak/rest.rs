//! What must be true when the clients have gone: nothing is left, and the sums are exact.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipos_tests::lab::ROOT;
use ipos_tests::{Lab, Record};
use serde_json::{Value, json};

use crate::plan::{BOARDS, SPARE};

/// Until the last entry is gone: a connection whose end was lost is asked for every `idle_ms` until its TIME-WAIT is over, one of a board
/// that was removed by force is remembered for `idle_ms`, and either may have been seen last at the clients' end.
const EMPTY: Duration = Duration::from_secs(150);
/// Gauges that must be 0 at rest.
const AT_REST: &[&str] = &[
    "ipos_table_entries",
    "ipos_datagram_flows",
    "ipos_request_buffers",
    "ipos_migrations_under_way",
    "ipos_questions_under_way",
    "ipos_queue_backlog",
    "ipos_mbufs_used",
];

/// The lines of a metrics page: name with labels, and value.
fn lines(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name, value.parse().ok()?))
    })
}

/// The lines of a metric.
fn of<'text>(text: &'text str, metric: &'text str) -> impl Iterator<Item = (&'text str, f64)> {
    lines(text).filter(move |(name, _)| name.split('{').next() == Some(metric))
}

fn sum(text: &str, metric: &str, label: &str) -> f64 {
    of(text, metric).filter(|(name, _)| name.contains(label)).map(|(_, value)| value).sum()
}

/// What is not 0 and has to be, or is not said at all.
fn left(text: &str) -> Vec<String> {
    let mut left = Vec::new();
    for metric in AT_REST {
        if of(text, metric).next().is_none() {
            left.push(format!("{metric} is not there"));
        }
        let all = of(text, metric).filter(|(_, value)| *value != 0.0);
        left.extend(all.map(|(name, value)| format!("{name} {value}")));
    }
    left
}

/// Packets in against what became of them, and drops against their reasons; nothing when both are exact.
fn inexact(text: &str) -> Option<String> {
    let came =
        sum(text, "ipos_packets_total", "direction=\"received\"") + sum(text, "ipos_steered_in_total", "");
    let became = sum(text, "ipos_outcomes_total", "");
    let (dropped, reasons) =
        (sum(text, "ipos_outcomes_total", "outcome=\"dropped\""), sum(text, "ipos_drops_total", ""));
    (came == 0.0 || came != became || dropped != reasons).then(|| {
        format!("{came} packets came in, of {became} it is known what became of them; {dropped} were dropped, {reasons} for a reason")
    })
}

/// Looks until there is nothing to complain about, or the deadline passes. The last complaint.
fn until_well(deadline: Duration, mut look: impl FnMut() -> Option<String>) -> Option<String> {
    let end = Instant::now() + deadline;
    loop {
        let complaint = look()?;
        if Instant::now() > end {
            return Some(format!("{complaint} (for {deadline:?})"));
        }
        sleep(Duration::from_millis(200));
    }
}

/// The kernel's side of a connection that was merely forwarded to the spare board. When that was removed by force, its client was reset and
/// nobody tells the board, whose server waits for the next request for ten minutes (`keepalive_timeout` in the lab).
fn is_given_up(line: &str, board: u32) -> bool {
    board == SPARE && line.split_whitespace().any(|word| word == "198.51.100.1:84")
}

/// Waits until the farm is at rest. What is not as it must be, one sentence for each. `is_forced` says that a board was removed by force.
pub fn complaints(lab: &Lab, is_forced: bool) -> Vec<String> {
    let mut complaints = Vec::new();
    complaints.extend(until_well(EMPTY, || {
        let left = left(&lab.metrics());
        (!left.is_empty()).then(|| format!("left in the appliance: {}", left.join(", ")))
    }));
    complaints.extend(until_well(Duration::from_secs(10), || inexact(&lab.metrics())));
    for board in 1..=BOARDS {
        complaints.extend(until_well(EMPTY, || {
            let table = lab.local_table(board);
            let alive: Vec<_> = table.iter().filter(|(_, record)| **record != Record::Gone).collect();
            (!alive.is_empty()).then(|| format!("left in the Local Table of board {board}: {alive:?}"))
        }));
        complaints.extend(until_well(EMPTY, || {
            let filter = ["ss", "-Htn", "state", "connected", "src", "198.51.100.1", "dst", "203.0.113.0/24"];
            let text = lab.exec(&format!("board{board}"), &filter);
            let alive = text.lines().filter(|line| !line.starts_with("TIME-WAIT"));
            let alive: Vec<&str> = alive.filter(|line| !(is_forced && is_given_up(line, board))).collect();
            (!alive.is_empty()).then(|| format!("left in the kernel of board {board}: {alive:?}"))
        }));
    }
    complaints.extend(said_in_logs());
    complaints
}

/// What the appliance and the agents said that they may not say.
fn said_in_logs() -> Vec<String> {
    let agents = (1..=BOARDS).map(|board| format!("{ROOT}/board{board}/agent.log"));
    let mut found = Vec::new();
    for path in agents.chain([format!("{ROOT}/appliance/appliance.log")]) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let bad = text.lines().filter(|line| line.contains("panicked") || line.contains(" ERROR "));
        found.extend(bad.take(5).map(|line| format!("{path}: {line}")));
    }
    found
}

/// How often each named request is in the boards' logs: requests that servers have seen, and those that they have seen more than once.
pub fn served() -> (u64, Vec<String>) {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for board in 1..=BOARDS {
        let text = fs::read_to_string(format!("{ROOT}/board{board}/nginx-access.log")).unwrap_or_default();
        for line in text.lines() {
            let name = line.split("?soak=").nth(1).and_then(|rest| rest.split([' ', '"']).next());
            if let Some(name) = name {
                *seen.entry(name.to_owned()).or_insert(0) += 1;
            }
        }
    }
    let twice = seen.iter().filter(|(_, times)| **times > 1);
    let twice = twice.map(|(name, times)| format!("request {name} was served {times} times")).collect();
    (seen.len() as u64, twice)
}

/// The appliance's counts that a report shows.
pub fn counts(lab: &Lab) -> Value {
    let text = lab.metrics();
    let by = |metric: &str| -> BTreeMap<String, f64> {
        let all = of(&text, metric).filter(|(_, value)| *value != 0.0);
        all.map(|(name, value)| (name.trim_start_matches(metric).to_owned(), value)).collect()
    };
    json!({
        "packets": by("ipos_packets_total"), "outcomes": by("ipos_outcomes_total"), "drops": by("ipos_drops_total"),
        "happenings": by("ipos_happenings_total"), "missed": by("ipos_port_missed_total"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP ipos_packets_total Packets.\n\
        ipos_packets_total{port=\"wan\",direction=\"received\"} 10\n\
        ipos_packets_total{port=\"wan\",direction=\"sent\"} 99\n\
        ipos_packets_total{port=\"farm\",direction=\"received\"} 5\n\
        ipos_outcomes_total{worker=\"0\",outcome=\"forwarded\"} 12\n\
        ipos_outcomes_total{worker=\"0\",outcome=\"dropped\"} 3\n\
        ipos_drops_total{worker=\"0\",reason=\"no_request\"} 3\n\
        ipos_steered_in_total{worker=\"0\"} 0\n\
        ipos_table_entries{worker=\"0\",table=\"forward\"} 0\n\
        ipos_datagram_flows{worker=\"0\"} 0\n\
        ipos_request_buffers{worker=\"0\"} 0\n\
        ipos_migrations_under_way 0\n\
        ipos_questions_under_way 0\n\
        ipos_queue_backlog{worker=\"0\"} 0\n\
        ipos_mbufs_used 0\n\
        ipos_mbufs 16383\n";

    #[test]
    fn the_sum_is_exact_or_said() {
        assert_eq!(inexact(TEXT), None);
        assert!(inexact(&TEXT.replace("\"forwarded\"} 12", "\"forwarded\"} 11")).is_some());
        assert!(inexact(&TEXT.replace("\"no_request\"} 3", "\"no_request\"} 2")).is_some());
    }

    #[test]
    fn what_is_left_is_named() {
        assert!(left(TEXT).is_empty());
        let text = TEXT.replace("ipos_mbufs_used 0", "ipos_mbufs_used 2");
        assert_eq!(left(&text), ["ipos_mbufs_used 2"]);
        let text = TEXT.replace("forward\"} 0", "forward\"} 7");
        assert_eq!(left(&text), ["ipos_table_entries{worker=\"0\",table=\"forward\"} 7"]);
    }

    #[test]
    fn only_what_was_forwarded_to_the_spare_board_is_given_up() {
        let line = "ESTAB 0      0      198.51.100.1:84 203.0.113.10:5547";
        assert!(is_given_up(line, SPARE));
        assert!(!is_given_up(line, 1));
        assert!(!is_given_up(&line.replace(":84 ", ":80 "), SPARE), "what was taken over is told its end");
    }

    #[test]
    fn a_page_that_says_nothing_is_no_proof() {
        assert_eq!(left("").len(), AT_REST.len());
        assert!(inexact("").is_some());
    }
}
