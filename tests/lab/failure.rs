//! Boards that refuse, fall silent, and come back.

use std::time::{Duration, Instant};

use ipos_tests::{Curl, Lab, Lossy, Script, wait_until};
use serde_json::{Value, json};

use crate::Test;

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("nginx_stopped_on_a_board", nginx_stopped_on_a_board),
    ("the_link_of_a_board_down", the_link_of_a_board_down),
    ("the_agent_of_a_board_killed", the_agent_of_a_board_killed),
    ("an_agent_restarts_under_load", an_agent_restarts_under_load),
    ("nginx_killed_under_load", nginx_killed_under_load),
    ("the_link_lost_under_load", the_link_lost_under_load),
    ("the_agent_killed_under_load", the_agent_killed_under_load),
    ("no_board_left_is_answered_503", no_board_left_is_answered_503),
];

/// The requests that `stream.py` reports: start in seconds, length in seconds, outcome.
fn rows(told: &Value) -> Vec<(f64, f64, String)> {
    let rows = told["rows"].as_array().expect("stream.py lists its requests");
    let row = |row: &Value| {
        let number = |key: &str| row[key].as_f64().expect("times are numbers");
        (number("at_s"), number("took_s"), row["outcome"].as_str().unwrap_or_default().to_owned())
    };
    rows.iter().map(row).collect()
}

/// New connections for two seconds: each must succeed on board 2, within a second.
fn all_on_board_2(lab: &Lab) {
    let told = Script::start(lab, "client", "stream.py", &["/", "2"]);
    let rows = rows(&last(told));
    assert!(rows.len() > 20, "only {} requests in two seconds", rows.len());
    for (at_s, took_s, outcome) in rows {
        assert_eq!(outcome, "board2", "after {at_s:.3} s");
        assert!(took_s < 1.0, "a request took {took_s:.3} s");
    }
}

/// The second line of `stream.py`; the first must tell of an answer.
fn last(mut script: Script) -> Value {
    let first = script.hear();
    assert!(first["started"].as_str().is_some_and(|outcome| outcome.starts_with("board")), "{first}");
    script.hear()
}

/// Waits until board 1 gets connections again.
fn board_1_is_used(lab: &Lab) {
    lab.wait_alive(&["board1", "board2"]);
    wait_until("board 1 is used again", Duration::from_secs(5), || {
        (Curl::get(lab, "/", &[]).board == "board1").then_some(())
    });
    assert_eq!(Curl::get(lab, "/a/1k", &[]).status, 200);
}

fn nginx_stopped_on_a_board(lab: &Lab) {
    lab.verb(&["stop-nginx", "1"]);
    all_on_board_2(lab);
    lab.verb(&["start-nginx", "1"]);
    board_1_is_used(lab);
}

fn the_link_of_a_board_down(lab: &Lab) {
    lab.verb(&["link", "1", "down"]);
    all_on_board_2(lab);
    lab.wait_alive(&["board2"]);
    lab.verb(&["link", "1", "up"]);
    board_1_is_used(lab);
}

fn the_agent_of_a_board_killed(lab: &Lab) {
    let mut crowd = Script::start(lab, "client", "crowd.py", &["40", "/1k", "reuse"]);
    let first = crowd.hear();
    assert_eq!(first["failures"], serde_json::json!([]), "{first}");
    assert!(first["boards"]["board1"].as_u64() > Some(0), "none on board 1: {first}");

    let mut stream = Script::start(lab, "client", "stream.py", &["/", "4"]);
    stream.hear();
    let begin = Instant::now();
    lab.verb(&["kill-agent", "1"]);
    let killed_s = begin.elapsed().as_secs_f64();
    // Connections that live on the board need no agent.
    crowd.go_on();
    let second = crowd.hear();
    assert_eq!(
        (&second["failures"], &second["boards"]),
        (&serde_json::json!([]), &first["boards"]),
        "{second}"
    );

    let rows = rows(&stream.hear());
    let failed: Vec<_> = rows.iter().filter(|row| !row.2.starts_with("board")).collect();
    assert!(failed.is_empty(), "killed at {killed_s:.3} s: {failed:?}");
    let late: Vec<_> = rows.iter().filter(|row| row.0 > killed_s + 1.5).collect();
    assert!(late.len() > 50, "only {} requests later than 1.5 s after the kill", late.len());
    assert!(late.iter().all(|row| row.2 == "board2"), "killed at {killed_s:.3} s: {late:?}");
    lab.wait_alive(&["board2"]);

    lab.verb(&["start-agent", "1"]);
    board_1_is_used(lab);
}

fn an_agent_restarts_under_load(lab: &Lab) {
    let mut stream = Script::start(lab, "client", "stream.py", &["/a/1k", "3"]);
    stream.hear();
    lab.verb(&["stop-agent", "1"]);
    lab.verb(&["start-agent", "1"]);
    let failed: Vec<_> = rows(&stream.hear()).into_iter().filter(|row| row.2 != "board1").collect();
    assert!(failed.is_empty(), "{failed:?}");
    board_1_is_used(lab);
}

/// What became of sixteen clients' requests while something happened to board 1.
struct Losses {
    requests: usize,
    failed: usize,
    /// Those of them that began once it had happened.
    failed_after: Vec<Value>,
    slowest_s: f64,
    /// Requests that began a second and a half after it, or later.
    late: usize,
}

/// Lets something happen to board 1 in the midst of requests of 40 ms, each on a connection of its own. Whatever fails had been
/// accepted by board 1: its Local Table has the connection. What begins after the appliance has noticed lands on board 2. The clients
/// mark themselves when it has happened: theirs is the clock that tells which requests began later.
#[track_caller]
fn under_load(lab: &Lab, what: &str, happens: impl FnOnce()) -> Losses {
    let mut load = Script::start(lab, "client", "churn.py", &["/app/slow?ms=40", "16", "4", "3"]);
    load.hear();
    happens();
    load.go_on();
    let told = load.hear();
    let at_s = told["marks"][0].as_f64().unwrap_or_else(|| panic!("the load ended before {what}: {told}"));
    let accepted = lab.local_table(1);
    let mut losses = Losses { requests: 0, failed: 0, failed_after: Vec::new(), slowest_s: 0.0, late: 0 };
    for row in told["rows"].as_array().expect("churn.py lists its requests") {
        let number = |key: &str| row[key].as_f64().expect("times are numbers");
        let (port, outcome) =
            (row["port"].as_u64().unwrap_or(0) as u16, row["outcome"].as_str().unwrap_or(""));
        losses.requests += 1;
        if !outcome.starts_with("board") {
            losses.failed += 1;
            if number("at_s") > at_s {
                losses.failed_after.push(row.clone());
            }
            assert!(accepted.contains_key(&port), "not accepted by board 1, and failed: {row}");
        } else {
            losses.slowest_s = losses.slowest_s.max(number("took_s"));
        }
        if number("at_s") > at_s + 1.5 {
            losses.late += 1;
            assert_eq!(outcome, "board2", "{what}: {row}");
        }
    }
    println!(
        "{what}: {} requests, {} failed, all accepted by the board; the slowest of the others took {:.3} s",
        losses.requests, losses.failed, losses.slowest_s
    );
    assert!(losses.late > 100, "only {} requests after the appliance noticed", losses.late);
    losses
}

fn nginx_killed_under_load(lab: &Lab) {
    let losses = under_load(lab, "SIGKILL of nginx", || {
        lab.verb(&["kill-nginx", "1"]);
    });
    // The command returns when nginx's last process is gone, and with it the last socket that listens: from then on the board's
    // kernel refuses, and the next board is asked.
    assert!(losses.failed_after.is_empty(), "they began when nobody listened: {:?}", losses.failed_after);
    lab.verb(&["start-nginx", "1"]);
    board_1_is_used(lab);
}

fn the_link_lost_under_load(lab: &Lab) {
    let losses = under_load(lab, "loss of the link", || {
        lab.verb(&["link", "1", "down"]);
    });
    assert!(losses.failed <= 16, "the clients had 16 under way: {}", losses.failed);
    assert!(losses.slowest_s < 1.5, "a request took {:.3} s", losses.slowest_s);
    lab.verb(&["link", "1", "up"]);
    board_1_is_used(lab);
}

fn the_agent_killed_under_load(lab: &Lab) {
    let losses = under_load(lab, "SIGKILL of the agent", || {
        lab.verb(&["kill-agent", "1"]);
    });
    assert_eq!(losses.failed, 0, "the kernel goes on without the agent");
    lab.verb(&["start-agent", "1"]);
    board_1_is_used(lab);
}

fn no_board_left_is_answered_503(lab: &Lab) {
    lab.verb(&["stop-nginx", "1"]);
    // Only board 1 has /a/.
    let answer = Curl::get(lab, "/a/1k", &[]);
    assert_eq!((answer.status, answer.board.as_str()), (503, ""), "{answer:?}");
    // Also to who listens only once a body has gone that neither side's buffers hold.
    for loss in [0, 5] {
        let _lossy = Lossy::client(lab, loss);
        let answer = Script::once(lab, "blocking.py", &["/a/app/upload", "20000000"]);
        let told = (&answer["status"], &answer["ended"]);
        assert_eq!(told, (&json!(503), &json!(true)), "{loss} % lost: {answer}");
    }
    assert_eq!(Curl::get(lab, "/b/1k", &[]).status, 200);
    lab.verb(&["start-nginx", "1"]);
    board_1_is_used(lab);
}
