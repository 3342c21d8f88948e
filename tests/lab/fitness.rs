//! Which boards may take a connection, and how much of the load: limits, a home board, slow start, and boards that come and go.

use std::time::Duration;

use ipos_tests::{Curl, Lab, Script, wait_until};
use serde_json::{Value, json};

use crate::Test;
use crate::command::{Edited, done, row};

/// Run in a lab of four boards.
pub const TESTS: &[Test] = &[
    ("boards_at_their_limit_get_no_more_and_the_rest_is_told", boards_at_their_limit_get_no_more),
    ("the_home_board_keeps_what_it_can_take", the_home_board_keeps_what_it_can_take),
    ("a_board_that_comes_back_starts_slowly", a_board_that_comes_back_starts_slowly),
    ("a_board_that_dies_again_is_kept_back", a_board_that_dies_again_is_kept_back),
];

const PATIENCE: Duration = Duration::from_secs(10);
const BOARDS: [&str; 4] = ["board1", "board2", "board3", "board4"];

/// The service `web` with more keys, in force.
fn reloaded(keys: &str) -> Edited {
    const POLICY: &str = "policy = \"least-connections\"\n";
    let edited = Edited::new();
    edited.write(&[(POLICY, &format!("{POLICY}{keys}\n"))]);
    done(&["reload"]);
    edited
}

/// The service `web` as it was.
fn restored(edited: Edited) {
    drop(edited);
    done(&["reload"]);
}

/// A board's row in the service `web`.
fn candidate(lab: &Lab, board: &str) -> Value {
    let services = lab.status("services");
    let web = services.as_array().and_then(|rows| rows.iter().find(|row| row["service"] == "web"));
    let boards = web.and_then(|row| row["boards"].as_array()).expect("the service's boards");
    boards.iter().find(|row| row["board"] == board).cloned().unwrap_or(Value::Null)
}

fn is_empty(lab: &Lab) {
    wait_until("no board has a connection", PATIENCE, || {
        BOARDS.iter().all(|board| row(lab, board)["connections"] == 0).then_some(())
    });
}

fn boards_at_their_limit_get_no_more(lab: &Lab) {
    is_empty(lab);
    let edited = reloaded("limits = { connections = 2 }");
    let mut crowd = Script::start(lab, "client", "crowd.py", &["10", "/1k", "reuse"]);
    let told = crowd.hear();
    let two_each: Value =
        BOARDS.iter().map(|board| (board.to_string(), json!(2))).collect::<serde_json::Map<_, _>>().into();
    assert_eq!(told["boards"], two_each, "{told}");
    assert_eq!(told["failures"], json!(["status 503", "status 503"]), "after the deadline: {told}");
    let unfit = candidate(lab, "board1")["unfit"].as_str().unwrap_or_default().to_owned();
    assert!(unfit.contains("connections"), "an operator sees why: {unfit:?}");
    crowd.go_on();
    let again = crowd.hear();
    assert_eq!(again["boards"], told["boards"], "those that have a board keep it: {again}");
    is_empty(lab);
    assert_eq!(Curl::get(lab, "/1k", &[]).status, 200, "there is room again");
    restored(edited);
}

fn the_home_board_keeps_what_it_can_take(lab: &Lab) {
    let edited = reloaded("home = \"board3\"");
    for _ in 0..8 {
        assert_eq!(Curl::get(lab, "/1k", &[]).board, "board3");
    }
    assert_eq!(Curl::get(lab, "/b/1k", &[]).board, "board2", "the URL map says otherwise");
    // Its state says otherwise: whoever answers does so from the address that was asked.
    lab.verb(&["stop-nginx", "3"]);
    let elsewhere = Curl::get(lab, "/1k", &[]);
    assert!(elsewhere.status == 200 && elsewhere.board != "board3", "{}", elsewhere.board);
    lab.verb(&["start-nginx", "3"]);
    wait_until("the home board has its connections back", PATIENCE, || {
        (Curl::get(lab, "/1k", &[]).board == "board3").then_some(())
    });
    restored(edited);
}

/// Ends a board's agent for so long that the board is taken for dead, and starts it again.
fn dies_and_comes_back(lab: &Lab, number: &str, board: &str) {
    lab.verb(&["kill-agent", number]);
    wait_until("the board is dead", PATIENCE, || (row(lab, board)["liveness"] == "dead").then_some(()));
    lab.verb(&["start-agent", number]);
    wait_until("the board is alive", PATIENCE, || (row(lab, board)["liveness"] == "alive").then_some(()));
}

fn a_board_that_comes_back_starts_slowly(lab: &Lab) {
    let edited = reloaded("slow_start_s = 4");
    let weight = || candidate(lab, "board4")["weight"].as_f64().unwrap_or(0.0);
    // The lab itself may be as young.
    wait_until("it has its whole weight", PATIENCE, || (weight() == 100.0).then_some(()));
    dies_and_comes_back(lab, "4", "board4");
    let first = weight();
    assert!((10.0..90.0).contains(&first), "{first} % just after it came alive");
    let later = wait_until("its weight grows", PATIENCE, || Some(weight()).filter(|weight| *weight > first));
    assert!(later < 100.0 || weight() == 100.0);
    wait_until("it has its whole weight", PATIENCE, || (weight() == 100.0).then_some(()));
    restored(edited);
}

fn a_board_that_dies_again_is_kept_back(lab: &Lab) {
    let kept_back = || lab.metric("ipos_control_events_total", &["event=\"board_kept_back\""]);
    let before = kept_back();
    dies_and_comes_back(lab, "4", "board4");
    // The one before is remembered from another test, or this is the first.
    if kept_back() == before {
        dies_and_comes_back(lab, "4", "board4");
    }
    assert!(kept_back() > before && row(lab, "board4")["deaths"].as_u64().is_some_and(|deaths| deaths > 1));
    wait_until("its time is over", PATIENCE, || {
        let row = row(lab, "board4");
        (row["kept_back_ms"] == 0 && row["liveness"] == "alive").then_some(())
    });
    wait_until("it is fit again", PATIENCE, || candidate(lab, "board4")["unfit"].is_null().then_some(()));
}
