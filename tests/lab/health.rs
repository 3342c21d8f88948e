//! Health checks: boards whose server says that it is not well, or takes connections and does not serve them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ipos_tests::lab::ROOT;
use ipos_tests::{Curl, Lab, Script, wait_until};
use serde_json::{Value, json};

use crate::Test;

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("new_connections_avoid_a_board_that_says_503", new_connections_avoid_a_board_that_says_503),
    ("a_board_that_takes_connections_and_never_serves", a_board_that_takes_connections_and_never_serves),
    ("checks_leave_nothing_behind", checks_leave_nothing_behind),
];

/// The row of a board in `status services`.
fn row(lab: &Lab, board: &str) -> Value {
    let services = lab.status("services");
    let rows = services[0]["boards"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["board"] == board).unwrap_or_else(|| panic!("no {board}: {services}"))
}

/// Waits for a verdict about board 1. Returns the sentence about the last check.
fn wait_verdict(lab: &Lab, verdict: &str) -> String {
    wait_until(&format!("the checks of board1 are {verdict}"), Duration::from_secs(10), || {
        let row = row(lab, "board1");
        let check = &row["check"];
        (check["verdict"] == verdict).then(|| check["last"].as_str().unwrap_or_default().to_owned())
    })
}

fn both_pass(lab: &Lab) {
    assert_eq!(wait_verdict(lab, "passing"), "status 200");
    wait_until("the checks of board2 pass", Duration::from_secs(10), || {
        (row(lab, "board2")["check"]["verdict"] == "passing").then_some(())
    });
}

/// So many new connections, one after the other: the boards that answered.
fn boards_of(lab: &Lab, count: usize) -> Vec<String> {
    (0..count).map(|_| Curl::get(lab, "/", &[]).board).collect()
}

fn new_connections_avoid_a_board_that_says_503(lab: &Lab) {
    both_pass(lab);
    let mut crowd = Script::start(lab, "client", "crowd.py", &["40", "/1k", "reuse"]);
    let first = crowd.hear();
    assert_eq!(first["failures"], json!([]), "{first}");
    assert!(first["boards"]["board1"].as_u64() > Some(0), "none on board 1: {first}");

    let mark = format!("{ROOT}/board1/unhealthy");
    fs::write(&mark, "").expect("the board's directory can be written");
    assert_eq!(wait_verdict(lab, "failing"), "another status: 503");
    assert_eq!(boards_of(lab, 20), ["board2"; 20]);
    // Only board 1 has /a/: what it says of itself is believed, though it would answer.
    assert_eq!(Curl::get(lab, "/a/1k", &[]).status, 503);
    let unfit = row(lab, "board1")["unfit"].as_str().unwrap_or_default().to_owned();
    assert_eq!(unfit, "its health check fails: another status: 503");
    assert_eq!(lab.metric("ipos_board_healthy", &["board=\"board1\""]), 0.0);
    assert!(lab.metric("ipos_checks_total", &["board=\"board1\"", "result=\"other_status\""]) >= 3.0);

    // Those that it has live on.
    crowd.go_on();
    let second = crowd.hear();
    assert_eq!((&second["failures"], &second["boards"]), (&json!([]), &first["boards"]), "{second}");

    fs::remove_file(&mark).expect("it was there");
    wait_verdict(lab, "passing");
    assert!(boards_of(lab, 4).contains(&"board1".to_owned()));
}

/// Sends a signal to board 1's nginx, all of it.
fn signal(name: &str) {
    let file = fs::read_to_string(format!("{ROOT}/pids/nginx1.pid")).expect("nginx has a pid file");
    let pid = file.split(' ').next().expect("pid and start");
    let status = Command::new("kill").args([name, "--", &format!("-{pid}")]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {name} -{pid}");
}

/// Lets nginx go on, also when the test fails.
struct Stopped;

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT");
    }
}

fn a_board_that_takes_connections_and_never_serves(lab: &Lab) {
    both_pass(lab);
    signal("-STOP");
    let stopped = Stopped;
    // Its kernel goes on accepting, so it refuses nothing.
    assert_eq!(wait_verdict(lab, "failing"), "acknowledged, but not served in time");
    assert_eq!(boards_of(lab, 20), ["board2"; 20]);
    drop(stopped);
    wait_verdict(lab, "passing");
    assert!(boards_of(lab, 4).contains(&"board1".to_owned()));
}

/// A check's socket ends with it, on the board as well as in the appliance.
fn checks_leave_nothing_behind(lab: &Lab) {
    both_pass(lab);
    let passed = || lab.metric("ipos_checks_total", &["result=\"passed\""]);
    let before = passed();
    wait_until("ten more checks", Duration::from_secs(10), || (passed() >= before + 10.0).then_some(()));
    for board in ["board1", "board2"] {
        let all = lab.exec(board, &["ss", "-Htan", "( sport = :80 and dst 192.0.2.2 )"]);
        // At most the one that is under way.
        assert!(all.lines().count() <= 1, "{board}: {all}");
    }
    let flows = lab.status("flows");
    let of_checks = flows.as_array().into_iter().flatten().filter(|flow| flow["client"] == "192.0.2.2");
    assert_eq!(of_checks.count(), 0, "{flows}");
    let answers = lab.status("packets")["check"].as_u64();
    assert!(answers > Some(10), "{answers:?}");
}
