//! `migrate = "request"`: curl's one connection goes to and fro between the boards with its requests, byte for byte.
//!
//! The configuration is the one of docs/services.md, "Requests on one connection".

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use ipos_tests::client::sha256;
use ipos_tests::lab::{ROOT, URL, repository, said};
use ipos_tests::{Curl, Lab, Lossy};
use serde_json::Value;

use crate::Test;
use crate::command::{Edited, done};

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    (
        "a_thousand_requests_move_one_connection_to_and_fro",
        a_thousand_requests_move_one_connection_to_and_fro,
    ),
    ("ten_megabytes_up_and_down_move_one_connection", ten_megabytes_up_and_down_move_one_connection),
    ("moves_survive_a_client_cable_that_loses_frames", moves_survive_a_client_cable_that_loses_frames),
    ("what_is_not_sure_stays_with_its_board", what_is_not_sure_stays_with_its_board),
    (
        "rows_that_the_appliance_answers_end_a_moved_connection",
        rows_that_the_appliance_answers_end_a_moved_connection,
    ),
];

/// Where curl's answers go.
const ANSWERS: &str = "/run/ipos-lab/moves";

/// The documented configuration in force, with or without moves, and the lab's own back in the end.
struct Moving {
    edited: Edited,
}

impl Moving {
    fn documented() -> Self {
        let text = fs::read_to_string(repository().join("docs/services.md")).expect("the documentation");
        let section = text.split_once("### Requests on one connection").expect("its section").1;
        let block = section.split("```").nth(1).and_then(|block| block.strip_prefix("toml\n"));
        let (service, rows) = block.and_then(|block| block.split_once("\n\n")).expect("a service and rows");
        Self::put(service.contains("migrate = \"request\""), rows)
    }

    fn put(moves: bool, rows: &str) -> Self {
        let edited = Edited::new();
        let before = edited.before();
        let start = before.find("\n[[service.map]]").expect("the lab's rows");
        let end = before.find("\n[[board]]").expect("the lab's boards");
        let service = "kind = \"http\"\n";
        let with = format!("{service}migrate = \"{}\"\n", if moves { "request" } else { "connection" });
        edited.write(&[(&before[start..end], &format!("\n{rows}")), (service, &with)]);
        done(&["reload"]);
        Self { edited }
    }

    /// The lab's own configuration again.
    fn end(self) {
        self.edited.write(&[]);
        done(&["reload"]);
    }
}

/// One request of a series, and who is to answer it with what.
struct Asked {
    path: String,
    /// A file to send.
    body: Option<&'static str>,
    board: &'static str,
    /// SHA-256 of the answer; `None` for the application's own words about the body.
    sha256: Option<String>,
}

/// What curl said of an answer.
struct Answered {
    connects: u32,
    board: String,
    status: u16,
}

/// Sends the requests by one curl, one after the other; checks every answer. Returns how long it took.
#[track_caller]
fn ask_all(lab: &Lab, asked: &[Asked]) -> Duration {
    let _ = fs::remove_dir_all(ANSWERS);
    fs::create_dir_all(ANSWERS).expect("the lab's directory can be written");
    let mut config = String::new();
    for (at, one) in asked.iter().enumerate() {
        if at > 0 {
            config += "next\n";
        }
        let _ = writeln!(config, "url = \"{URL}{}\"\noutput = \"{ANSWERS}/{at}\"\nmax-time = 60", one.path);
        let _ = writeln!(config, "write-out = \"%{{num_connects}} %{{http_code}} %header{{x-board}}\\n\"");
        if let Some(file) = one.body {
            let _ = writeln!(config, "data-binary = \"@{ROOT}/files/{file}\"");
        }
    }
    fs::write(format!("{ANSWERS}/config"), config).expect("the lab's directory can be written");
    let begin = Instant::now();
    let output = lab.run("client", &["curl", "-sS", "-K", &format!("{ANSWERS}/config")]);
    let took = begin.elapsed();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), lab.logs());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers: Vec<Answered> = text.lines().map(answered).collect();
    assert_eq!(answers.len(), asked.len(), "{}", said(&output));
    for (at, (one, answer)) in asked.iter().zip(&answers).enumerate() {
        let about = format!("request {at}, {}", one.path);
        assert_eq!((answer.status, answer.board.as_str()), (200, one.board), "{about}");
        let body = fs::read(format!("{ANSWERS}/{at}")).unwrap_or_default();
        match (&one.sha256, one.body) {
            (Some(expected), _) => assert_eq!(&sha256(&body), expected, "{about}"),
            (None, Some(file)) => {
                let told: Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(told["sha256"], lab.sha256_of(file).as_str(), "{about}");
            }
            (None, None) => assert_eq!(body, b"", "{about}"),
        }
    }
    assert_eq!(answers.iter().map(|answer| answer.connects).sum::<u32>(), 1, "one connection");
    let _ = fs::remove_dir_all(ANSWERS);
    took
}

fn answered(line: &str) -> Answered {
    let mut words = line.split_whitespace();
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(u32::MAX);
    let (connects, status) = (number(), number() as u16);
    Answered { connects, status, board: words.next().unwrap_or_default().to_owned() }
}

/// A thousand requests, to and fro, for files of 1 KiB and of nothing.
fn small(lab: &Lab, both: bool) -> Vec<Asked> {
    for board in ["board1", "board2"] {
        fs::write(format!("{ROOT}/{board}/www/empty"), "").expect("a board's files can be written");
    }
    let sum = lab.sha256_of("1k");
    let ask = |at: usize| {
        let (row, board) = if both && at % 2 == 1 { ("b", "board2") } else { ("a", "board1") };
        let (file, sha256) =
            if (at / 2).is_multiple_of(2) { ("1k", Some(sum.clone())) } else { ("empty", None) };
        Asked { path: format!("/{row}/{file}"), body: None, board, sha256 }
    };
    (0..1_000).map(ask).collect()
}

/// So many times 10 MB up to one board and down from the other.
fn large(lab: &Lab, times: usize) -> Vec<Asked> {
    let sum = lab.sha256_of("10m");
    let pair = |at: usize| {
        let (up, down) = if at.is_multiple_of(2) {
            (("a", "board1"), ("b", "board2"))
        } else {
            (("b", "board2"), ("a", "board1"))
        };
        [
            Asked { path: format!("/{}/app/upload", up.0), body: Some("10m"), board: up.1, sha256: None },
            Asked { path: format!("/{}/10m", down.0), body: None, board: down.1, sha256: Some(sum.clone()) },
        ]
    };
    (0..times).flat_map(pair).collect()
}

fn happened(lab: &Lab, event: &str) -> f64 {
    lab.metric("ipos_happenings_total", &[&format!("event=\"{event}\"")])
}

/// The bounds below which half and 99 of 100 moves stayed, as `ipos_move_seconds` has them.
fn quantiles(lab: &Lab) -> (String, String) {
    let text = lab.metrics();
    let buckets: Vec<(String, f64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ipos_move_seconds_bucket{le=\"")?.split_once("\"} "))
        .filter_map(|(bound, count)| Some((bound.to_owned(), count.parse().ok()?)))
        .collect();
    let all = buckets.last().map_or(0.0, |bucket| bucket.1);
    let below = |share: f64| {
        let bucket = buckets.iter().find(|bucket| bucket.1 >= share * all);
        bucket.map_or_else(|| "?".to_owned(), |bucket| format!("{} s", bucket.0))
    };
    (below(0.5), below(0.99))
}

fn a_thousand_requests_move_one_connection_to_and_fro(lab: &Lab) {
    let moving = Moving::documented();
    let before = happened(lab, "moved");
    let took = ask_all(lab, &small(lab, true));
    let moved = happened(lab, "moved") - before;
    assert!(moved >= 999.0, "{moved} moves");
    let without = ask_all(lab, &small(lab, false));
    let (p50, p99) = quantiles(lab);
    let rate = |took: Duration| 1_000.0 / took.as_secs_f64();
    println!(
        "moves: p50 <= {p50}, p99 <= {p99}; {:.0} requests/s with one for each, {:.0} without",
        rate(took),
        rate(without)
    );
    assert!(lab.metric("ipos_table_entries", &["table=\"watched\""]) >= 0.0);
    moving.end();
}

fn ten_megabytes_up_and_down_move_one_connection(lab: &Lab) {
    let moving = Moving::documented();
    let before = happened(lab, "moved");
    ask_all(lab, &large(lab, 20));
    // Two in a row go to the same board at each turn.
    let moved = happened(lab, "moved") - before;
    assert!(moved >= 20.0, "{moved} moves");
    moving.end();
}

fn moves_survive_a_client_cable_that_loses_frames(lab: &Lab) {
    let moving = Moving::documented();
    let lossy = Lossy::client(lab, 1);
    let of_small = ask_all(lab, &small(lab, true));
    let of_large = ask_all(lab, &large(lab, 20));
    println!("with 1 % loss: 1,000 small requests {of_small:.1?}, 20 times 10 MB up and down {of_large:.1?}");
    drop(lossy);
    moving.end();
}

fn what_is_not_sure_stays_with_its_board(lab: &Lab) {
    let moving = Moving::documented();
    // Two requests at once: both are the first one's board's.
    let before = happened(lab, "unwatched_pipelined");
    let two = "GET /a/1k HTTP/1.1\\r\\nHost: a\\r\\n\\r\\nGET /b/1k HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";
    let script = format!(
        "import socket\ns = socket.create_connection(('198.51.100.1', 80), 10)\ns.settimeout(10)\ns.sendall(b'{two}')\nall = b''\nwhile True:\n    part = s.recv(65536)\n    if not part: break\n    all += part\nprint(all.count(b'X-Board: board1'), all.count(b'X-Board: board2'), len(all))"
    );
    let told = lab.exec("client", &["/usr/bin/python3", "-c", &script]);
    let words: Vec<usize> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(words.get(..2), Some(&[2, 0][..]), "{told}");
    assert!(happened(lab, "unwatched_pipelined") > before);
    moving.end();
}

fn rows_that_the_appliance_answers_end_a_moved_connection(lab: &Lab) {
    let rows = "[[service.map]]\npath = \"/a/\"\nboards = [\"board1\"]\n\n[[service.map]]\npath = \"/no/\"\nanswer = 403\n";
    let moving = Moving::put(true, rows);
    let before = happened(lab, "moved_here");
    let script = "import http.client\nc = http.client.HTTPConnection('198.51.100.1', 80, timeout=10)\nfor path in ('/a/1k', '/a/1k', '/no/x'):\n    c.request('GET', path)\n    r = c.getresponse()\n    b = r.read()\n    print(r.status, r.getheader('X-Board'), len(b), r.will_close)";
    let told = lab.exec("client", &["/usr/bin/python3", "-c", script]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..2], ["200 board1 1024 False"; 2], "{told}");
    assert_eq!(lines[2], "403 None 14 True", "{told}");
    assert_eq!(happened(lab, "moved_here"), before + 1.0);
    // The old board's socket is gone, and its client heard nothing of it.
    assert_eq!(Curl::get(lab, "/a/1k", &[]).board, "board1");
    moving.end();
}
