//! The URL map with all that a row can ask for, what the appliance answers itself, and requests that servers read differently: held
//! against what nginx makes of them.
//!
//! The configuration is the one of docs/services.md.

use std::time::Duration;

use ipos_tests::lab::{ROOT, repository};
use ipos_tests::{Curl, Lab, Script, wait_until};
use serde_json::Value;

use crate::Test;
use crate::command::{Edited, done};

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("rows_choose_by_path_host_method_and_header", rows_choose_by_path_host_method_and_header),
    ("the_appliance_redirects_and_has_pages", the_appliance_redirects_and_has_pages),
    ("no_spelling_reaches_the_board_of_another_path", no_spelling_reaches_the_board_of_another_path),
    ("what_servers_read_differently_reaches_no_board", what_servers_read_differently_reaches_no_board),
    ("a_client_of_one_octet_a_second_is_answered_408", a_client_of_one_octet_a_second_is_answered_408),
    ("heads_beyond_their_bounds_are_answered_431", heads_beyond_their_bounds_are_answered_431),
    ("a_hundred_thousand_rows_are_reloaded_under_load", a_hundred_thousand_rows_are_reloaded_under_load),
];

const PAGE: &str = "<!doctype html><p>This part is closed.\n";

/// The documented rows in force, and the lab's own back in the end.
struct Rows {
    edited: Edited,
}

impl Rows {
    fn documented() -> Self {
        let text = std::fs::read_to_string(repository().join("docs/services.md")).expect("the documentation");
        let section = text.split_once("## The URL map").expect("its section").1;
        let block = section.split("```").nth(1).and_then(|block| block.strip_prefix("toml\n"));
        let pages = format!("{ROOT}/appliance/");
        std::fs::write(format!("{pages}403.html"), PAGE).expect("the lab's directory can be written");
        Self::put(&block.expect("a configuration").replace("/etc/ipos/", &pages))
    }

    fn put(rows: &str) -> Self {
        let edited = Edited::new();
        let before = edited.before();
        let start = before.find("\n[[service.map]]").expect("the lab's rows");
        let end = before.find("\n[[board]]").expect("the lab's boards");
        edited.write(&[(&before[start..end], &format!("\n{rows}"))]);
        let told = done(&["reload"]);
        assert!(told.contains("service \"web\" changed"), "{told}");
        Self { edited }
    }

    /// The lab's own rows again.
    fn end(self, lab: &Lab) {
        self.edited.write(&[]);
        done(&["reload"]);
        assert_eq!(Curl::get(lab, "/b/1k", &[]).board, "board2");
    }
}

fn rows_choose_by_path_host_method_and_header(lab: &Lab) {
    let rows = Rows::documented();
    let host = |name: &'static str| ["-H", name];
    let (www, other) = (host("Host: www.example.org"), host("Host: Shop.Example.ORG:80"));
    let cases: [(&str, &[&str], &str); 14] = [
        ("/1k", &[], "board2"),
        ("/1k?x", &[], "board2"),
        ("/100k", &[], "board1"),
        ("/a/1k", &[], "board1"),
        ("/a/1k", &["-X", "POST", "-d", "x"], "board2"),
        ("/a/1k", &["-X", "PUT", "-d", "x"], "board1"),
        ("/b/1k", &[], "board2"),
        ("/b/1k", &["-H", "X-Beta: no"], "board2"),
        ("/100k", &["-H", "x-beta:   yes  "], "board2"),
        ("/100k", &["-H", "X-Beta: yes!"], "board1"),
        ("/100k", &www, "board1"),
        ("/b/1k", &www, "board1"),
        ("/100k", &other, "board2"),
        ("/a/1k", &other, "board2"),
    ];
    for (path, arguments, board) in cases {
        let answer = Curl::get(lab, path, arguments);
        assert_eq!(answer.board, board, "{path} {arguments:?}");
    }
    let shown = lab.status("urls");
    let shown: Vec<&Value> = shown.as_array().expect("rows").iter().collect();
    let has = |key: &str, value: &str| shown.iter().any(|row| row[key] == value);
    for (key, value) in [
        ("path", "=/1k"),
        ("host", "*.example.org"),
        ("method", "POST"),
        ("header", "X-Beta: yes"),
        ("answer", "403"),
        ("answer", "301 http://198.51.100.1/b/1k"),
    ] {
        assert!(has(key, value), "no {key} {value} in {shown:?}");
    }
    rows.end(lab);
}

fn happened(lab: &Lab, event: &str) -> f64 {
    lab.metric("ipos_happenings_total", &[&format!("event=\"{event}\"")])
}

fn the_appliance_redirects_and_has_pages(lab: &Lab) {
    let rows = Rows::documented();
    let redirected = happened(lab, "redirected");
    let followed = Curl::get(lab, "/old", &["-L"]);
    assert_eq!((followed.status, followed.board.as_str()), (200, "board2"));
    assert_eq!(followed.sha256, lab.sha256_of("1k"));
    let answers = raw(
        lab,
        &["GET /moved/x?y=1 HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /moved/ HTTP/1.1\r\nHost: a\r\n\r\n"],
    );
    for (answer, location) in
        answers.iter().zip(["https://www.example.org/moved/x?y=1", "https://www.example.org/moved/"])
    {
        assert_eq!((answer["status"].as_u64(), &answer["board"]), (Some(308), &Value::Null), "{answer}");
        assert_eq!((&answer["location"], &answer["ended"]), (&location.into(), &true.into()), "{answer}");
    }
    assert_eq!(happened(lab, "redirected") - redirected, 3.0);
    let closed = Curl::get(lab, "/private/x", &[]);
    assert_eq!((closed.status, closed.board.as_str(), closed.body.as_str()), (403, "", PAGE));
    let head = Curl::get(lab, "/private/x", &["-I"]);
    assert_eq!(head.status, 403);
    assert!(head.body.contains("Content-Type: text/html") && !head.body.contains("doctype"), "{}", head.body);
    // What curl sends of an upload that is refused at once does not keep it from reading why.
    let upload = Curl::get(lab, "/private/x", &["--data-binary", &"x".repeat(60_000)]);
    assert_eq!((upload.status, upload.body.as_str()), (403, PAGE));
    // Another page at a reload.
    std::fs::write(format!("{ROOT}/appliance/403.html"), "shut").expect("the lab's directory can be written");
    assert!(done(&["reload"]).contains("service \"web\" changed"));
    wait_until("the new page is sent", Duration::from_secs(10), || {
        (Curl::get(lab, "/private/x", &[]).body == "shut").then_some(())
    });
    rows.end(lab);
}

/// What comes back for requests as they are.
fn raw(lab: &Lab, requests: &[&str]) -> Vec<Value> {
    let hexadecimal = |text: &&str| text.bytes().map(|octet| format!("{octet:02x}")).collect::<String>();
    let arguments: Vec<String> = requests.iter().map(hexadecimal).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Script::once(lab, "raw.py", &arguments)["answers"].as_array().cloned().unwrap_or_default()
}

fn no_spelling_reaches_the_board_of_another_path(lab: &Lab) {
    let rows = Rows::documented();
    let spellings = [
        "/b/1k",
        "/b//1k",
        "//b/1k",
        "/./b/1k",
        "/a/../b/1k",
        "/a/%2e%2e/b/1k",
        "/a/.%2E/b/1k",
        "/a/x/../../b/1k",
        "/%62/1k",
        "/%62%2f1k",
        "/b%2f1k",
        "/b%2F1k",
        "/%2fb/1k",
        "/a%2f..%2fb/1k",
        "/a%2F../b/1k",
        "/a/..%2fb/1k",
        "/a/%2e%2e%2fb/1k",
        "/a/..%2F..%2fb/1k",
        "/a/..//b/1k",
        "//a/..//b/1k",
        "/a/.%2f../b/1k",
        "/%2e/b/1k",
        "/b/%31k",
        "/%252e%252e/b/1k",
        "/a/%252e%252e/b/1k",
        "/a/..;/b/1k",
        "/a\\..\\b/1k",
        "/a/..%5cb/1k",
        "/b/1k?x=/a/",
        "/a/1k?/../b/",
        "/a/%2e/1k",
        "/a/b/../1k",
        "/a%2f1k",
        "/b/../a/1k",
        "/b/%2e%2e/a/1k",
        "/a/1k/..%2f1k",
        "/../b/1k",
        "/../../b/1k",
    ];
    let requests: Vec<String> =
        spellings.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    let answers = raw(lab, &requests);
    assert_eq!(answers.len(), spellings.len());
    let (mut of_b, mut refused) = (0, 0);
    for (spelling, answer) in spellings.iter().zip(&answers) {
        let Some(board) = answer["board"].as_str() else {
            assert_eq!(answer["status"], 400, "{spelling}: {answer}");
            refused += 1;
            continue;
        };
        // nginx refuses what leaves the root before it has a path.
        let uri = answer["uri"].as_str().unwrap_or_default();
        let allowed = if uri.starts_with("/b/") { "board2" } else { "board1" };
        assert!(board == allowed || answer["status"] == 400, "{spelling} is {uri} for nginx: {answer}");
        of_b += usize::from(uri.starts_with("/b/"));
    }
    assert!(of_b >= 12 && refused >= 8, "{of_b} are of /b/, {refused} were refused: {answers:?}");
    assert!(lab.metric("ipos_bad_requests_total", &["reason=\"two_readings\""]) >= 8.0);
    rows.end(lab);
}

fn what_servers_read_differently_reaches_no_board(lab: &Lab) {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let post =
        |fields: &str| format!("POST /app/upload HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n{smuggled}");
    let shapes = [
        ("length_and_encoding", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        ("content_length", post("Content-Length: 5\r\nContent-Length: 50\r\n")),
        ("transfer_encoding", post("Transfer-Encoding: chunked, identity\r\n")),
        ("transfer_encoding", post("Transfer-Encoding: xchunked\r\n")),
        ("obs_fold", post("X: y\r\n Transfer-Encoding: chunked\r\n")),
        ("space_before_colon", post("Transfer-Encoding : chunked\r\n")),
        ("bare_lf", post("X: y\nTransfer-Encoding: chunked\r\n")),
        ("bare_cr", post("X: y\rTransfer-Encoding: chunked\r\n")),
        ("nul", post("X: y\0\r\n")),
        ("header", post("X(: y\r\n")),
        ("two_hosts", post("Host: b\r\n")),
        ("other_host", smuggled.replace("GET /", "GET http://b/")),
        ("version", smuggled.replace("HTTP/1.1", "HTTP/0.9")),
        ("escape", smuggled.replace("/smuggled", "/%smuggled")),
        ("target_fragment", smuggled.replace("/smuggled", "/#/smuggled")),
    ];
    let log = |lab: &Lab| lab.nginx_log(1) + &lab.nginx_log(2);
    let counted = |reason: &str| lab.metric("ipos_bad_requests_total", &[&format!("reason=\"{reason}\"")]);
    for (reason, request) in &shapes {
        let before = counted(reason);
        let answer = raw(lab, &[request]).remove(0);
        assert_eq!(
            (&answer["status"], &answer["board"]),
            (&400.into(), &Value::Null),
            "{request:?}: {answer}"
        );
        assert_eq!(counted(reason) - before, 1.0, "{reason}");
    }
    // A request that nginx logs after all of them.
    assert_eq!(Curl::get(lab, "/a/1k?last-of-all", &[]).status, 200);
    wait_until("nginx has logged the last", Duration::from_secs(10), || {
        log(lab).contains("last-of-all").then_some(())
    });
    assert!(!log(lab).contains("smuggled"), "a hidden request was served");
}

fn a_client_of_one_octet_a_second_is_answered_408(lab: &Lab) {
    let before = happened(lab, "answered_408");
    let told = Script::once(lab, "request.py", &["slow"]);
    assert_eq!((told["status"].as_u64(), &told["board"]), (Some(408), &Value::Null), "{told}");
    let seconds = told["seconds"].as_f64().expect("the client measures");
    assert!((2.5..6.0).contains(&seconds) && told["ended"] == true, "the lab's request_ms is 3000: {told}");
    assert_eq!(happened(lab, "answered_408") - before, 1.0);
}

fn heads_beyond_their_bounds_are_answered_431(lab: &Lab) {
    for mode in ["cookie", "headers"] {
        let told = Script::once(lab, "request.py", &[mode]);
        assert_eq!((told["status"].as_u64(), &told["board"]), (Some(431), &Value::Null), "{mode}: {told}");
    }
}

fn a_hundred_thousand_rows_are_reloaded_under_load(lab: &Lab) {
    let row = |n: u32| format!("[[service.map]]\npath = \"/r{n}/\"\nboards = [\"board{}\"]\n", 1 + n % 2);
    let last = "[[service.map]]\npath = \"/b/\"\nboards = [\"board2\"]\n";
    let text: String = (0..100_000).map(row).chain([last.to_owned()]).collect();
    let wrk = ["wrk", "-t1", "-c16", "-d30", "--latency", "http://198.51.100.1/1k"];
    let load =
        lab.command("client", &wrk).stdout(std::process::Stdio::piped()).spawn().expect("wrk can be run");
    let rows = Rows::put(&text);
    assert_eq!(lab.status("urls").as_array().map(Vec::len), Some(100_002));
    for n in [0, 1, 49_998, 99_999] {
        assert_eq!(Curl::get(lab, &format!("/r{n}/"), &[]).board, format!("board{}", 1 + n % 2), "{n}");
    }
    rows.end(lab);
    let sent = std::process::Command::new("kill").args(["-INT", &load.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the load was there to the end");
    let output = load.wait_with_output().expect("wrk ends");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        told.contains("requests in") && !told.contains("Socket errors") && !told.contains("Non-2xx"),
        "{told}"
    );
}
