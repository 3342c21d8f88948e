//! What a board's reports cost it: under one percent of a core at 10,000 connections and 500 listening sockets.

use std::fs;
use std::time::{Duration, Instant};

use ipos_tests::lab::ROOT;
use serde_json::Value;

use ipos_tests::{Lab, Script, wait_until};

use crate::Test;

/// Run in one shape of lab: the agent is the same in each.
pub const TESTS: &[Test] = &[
    ("reports_of_500_sockets_and_10000_connections_cost_little", |lab| cost(lab, 1)),
    ("reports_of_500_processes_cost_little", |lab| cost(lab, 500)),
];

const LISTENERS: usize = 500;
const CONNECTIONS: usize = 10_000;
/// Reports that are measured: six seconds of them, with six of the applications.
const REPORTS: u64 = 60;

/// Time that the agent, which has one thread, has spent on a CPU (proc_pid_schedstat, nanoseconds).
fn on_cpu(pid: &str) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the agent runs");
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).expect("nanoseconds"))
}

fn sequence(lab: &Lab) -> u64 {
    let servers = lab.status("servers");
    let row = servers.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "board2"));
    row.and_then(|row| row["sequence"].as_u64()).expect("board2 reports")
}

fn cost(lab: &Lab, processes: usize) {
    let numbers = [LISTENERS, CONNECTIONS, processes].map(|number| number.to_string());
    let arguments: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let mut burden = Script::start(lab, "board2", "burden.py", &arguments);
    assert_eq!(burden.hear()["connections"], CONNECTIONS);
    wait_until("every process has its row", Duration::from_secs(60), || {
        let rows = lab.status("applications");
        let told =
            rows.as_array()?.iter().filter(|row| row["board"] == "board2" && row["process"] == "python3");
        (told.count() >= processes).then_some(())
    });
    wait_until("every socket and its process is told", Duration::from_secs(60), || {
        let sockets = lab.status("sockets");
        let is_told = |row: &&Value| row["board"] == "board2" && row["process"] == "python3";
        (sockets.as_array()?.iter().filter(is_told).count() >= LISTENERS).then_some(())
    });

    let pids = fs::read_to_string(format!("{ROOT}/pids/agent2.pid")).expect("the agent's pid file");
    let pid = pids.split(' ').next().expect("an id");
    let (first, before, begin) = (sequence(lab), on_cpu(pid), Instant::now());
    let last = wait_until("the reports", Duration::from_secs(60), || {
        Some(sequence(lab)).filter(|sequence| *sequence >= first + REPORTS)
    });
    let (used, passed) = (on_cpu(pid) - before, begin.elapsed());
    let share = used.as_secs_f64() / passed.as_secs_f64();
    let each = used / u32::try_from(last - first).expect("a few");
    println!(
        "{LISTENERS} sockets of {processes} processes, {CONNECTIONS} connections: {:.3} % of a core, {each:?} a report",
        share * 100.0
    );
    burden.go_on();
    burden.hear();
    assert!(share < 0.01, "the agent used {used:?} in {passed:?}");
}
