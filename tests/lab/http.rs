//! What clients of HTTP do, and what the appliance itself answers.

use std::time::Duration;

use ipos_tests::client::sha256;
use ipos_tests::{Curl, Lab, Script, wait_until};

use crate::Test;

/// Run in every shape of lab.
pub const CORE: &[Test] = &[
    ("urls_choose_the_board", urls_choose_the_board),
    ("ten_megabytes_arrive_unchanged", ten_megabytes_arrive_unchanged),
    ("post_of_a_megabyte", post_of_a_megabyte),
    ("ten_requests_on_one_connection", ten_requests_on_one_connection),
    ("five_hundred_connections_at_once", five_hundred_connections_at_once),
    ("a_request_of_single_octets", a_request_of_single_octets),
];

/// Run in one.
pub const TESTS: &[Test] = &[
    ("head_has_no_body", head_has_no_body),
    ("expect_100_continue", expect_100_continue),
    ("chunked_upload", chunked_upload),
    ("a_head_of_9_kilobytes", a_head_of_9_kilobytes),
    ("pipelined_requests_run_in_order_and_once", pipelined_requests_run_in_order_and_once),
    ("the_server_closes", the_server_closes),
    ("the_client_closes", the_client_closes),
    ("the_client_resets", the_client_resets),
    ("half_close_after_the_request", half_close_after_the_request),
    ("half_close_after_a_second_request", half_close_after_a_second_request),
    ("a_health_check_without_request", a_health_check_without_request),
    ("garbage_is_answered_400", garbage_is_answered_400),
    ("half_a_head_and_fin_is_answered_400", half_a_head_and_fin_is_answered_400),
    ("a_head_that_never_ends_is_answered_408", a_head_that_never_ends_is_answered_408),
    ("a_head_too_long_is_answered_431", a_head_too_long_is_answered_431),
    ("the_server_sees_the_client", the_server_sees_the_client),
    ("wrk_at_64_connections", wrk_at_64_connections),
];

fn urls_choose_the_board(lab: &Lab) {
    for (path, board) in [("/a/1k", "board1"), ("/a/", "board1"), ("/b/1k", "board2")] {
        let answer = Curl::get(lab, path, &[]);
        assert_eq!((answer.status, answer.board.as_str()), (200, board), "{path}");
    }
    let mut seen: Vec<String> = (0..20).map(|_| Curl::get(lab, "/1k", &[]).board).collect();
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.iter().all(|board| ["board1", "board2"].contains(&board.as_str())), "{seen:?}");
}

fn ten_megabytes_arrive_unchanged(lab: &Lab) {
    for path in ["/a/10m", "/b/10m"] {
        let answer = Curl::get(lab, path, &[]);
        assert_eq!((answer.status, answer.octets), (200, 10_485_760), "{path}");
        assert_eq!(answer.sha256, lab.sha256_of("10m"), "{path}");
    }
}

/// A megabyte that is no repetition of one octet.
fn megabyte() -> Vec<u8> {
    (0..1_048_576u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Writes an upload's body where curl finds it.
fn body_file() -> (String, String) {
    let content = megabyte();
    let path = format!("{}/megabyte", ipos_tests::lab::ROOT);
    std::fs::write(&path, &content).expect("the lab's directory can be written");
    (format!("@{path}"), sha256(&content))
}

fn uploaded(answer: &Curl, sum: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let told: serde_json::Value = serde_json::from_str(&answer.body).expect("the application answers JSON");
    assert_eq!((told["octets"].as_u64(), told["sha256"].as_str()), (Some(1_048_576), Some(sum)));
}

fn post_of_a_megabyte(lab: &Lab) {
    let (body, sum) = body_file();
    // An empty Expect keeps curl from asking first.
    uploaded(&Curl::get(lab, "/app/upload", &["-H", "Expect:", "--data-binary", &body]), &sum);
}

fn expect_100_continue(lab: &Lab) {
    let (body, sum) = body_file();
    // curl waits a minute for the 100 before it sends the body: without it the test runs into its own limit.
    let patience = ["-H", "Expect: 100-continue", "--expect100-timeout", "60", "--data-binary", &body];
    uploaded(&Curl::get(lab, "/app/upload", &patience), &sum);
}

fn chunked_upload(lab: &Lab) {
    let (body, sum) = body_file();
    let arguments = [
        "-H",
        "Transfer-Encoding: chunked",
        "-H",
        "Expect:",
        "-X",
        "POST",
        "-T",
        body.trim_start_matches('@'),
    ];
    uploaded(&Curl::get(lab, "/app/upload", &arguments), &sum);
}

fn head_has_no_body(lab: &Lab) {
    let answer = Curl::get(lab, "/a/100k", &["-I", "-o", "/dev/null"]);
    assert_eq!((answer.status, answer.board.as_str(), answer.octets), (200, "board1", 0));
}

fn ten_requests_on_one_connection(lab: &Lab) {
    let url = format!("{}/100k", ipos_tests::lab::URL);
    let mut arguments =
        vec!["curl", "-sS", "-m", "30", "-w", "%{http_code} %{num_connects} %{size_download}\n"];
    for _ in 0..10 {
        arguments.extend(["-o", "/dev/null", &url]);
    }
    let text = lab.exec("client", &arguments);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 10, "{text}");
    assert_eq!(rows[0], "200 1 102400", "{text}");
    assert!(rows[1..].iter().all(|row| *row == "200 0 102400"), "{text}");
}

fn five_hundred_connections_at_once(lab: &Lab) {
    let told = Script::once(lab, "crowd.py", &["500", "/100k"]);
    assert_eq!(told["connections"], 500, "{told}");
    assert_eq!(told["failures"], serde_json::json!([]), "{}", lab.status("migrations"));
    let boards = told["boards"].as_object().expect("boards are counted");
    let counts: Vec<u64> = boards.values().filter_map(serde_json::Value::as_u64).collect();
    assert_eq!(counts.iter().sum::<u64>(), 500, "{told}");
    // Fewest connections first: neither board is left out.
    assert!(counts.len() == 2 && counts.iter().all(|count| *count >= 100), "{told}");
}

/// Runs a mode of `request.py`.
fn request(lab: &Lab, mode: &str) -> serde_json::Value {
    Script::once(lab, "request.py", &[mode])
}

/// Asserts that the board answered with the whole file of 100 KB.
fn whole_file(lab: &Lab, told: &serde_json::Value) {
    assert_eq!((&told["status"], told["octets"].as_u64()), (&200.into(), Some(102_400)), "{told}");
    assert_eq!(told["sha256"].as_str(), Some(lab.sha256_of("100k").as_str()), "{told}");
}

fn a_request_of_single_octets(lab: &Lab) {
    let told = request(lab, "one-byte");
    whole_file(lab, &told);
    assert_eq!(told["board"], "board1");
    assert!(told["segments"].as_u64() > Some(30), "{told}");
}

fn a_head_of_9_kilobytes(lab: &Lab) {
    let told = request(lab, "long-head");
    whole_file(lab, &told);
    assert_eq!(told["board"], "board2");
    assert!(told["head"].as_u64() > Some(9000) && told["segments"].as_u64() >= Some(39), "{told}");
}

fn pipelined_requests_run_in_order_and_once(lab: &Lab) {
    let lines = |lab: &Lab| (1..=2).map(|board| lab.nginx_log(board).lines().count()).sum::<usize>();
    let before = lines(lab);
    let told = request(lab, "pipelined");
    assert_eq!(told["statuses"], serde_json::json!([200, 200, 200, 200, 200]), "{told}");
    assert_eq!(told["octets"], serde_json::json!([1024, 102_400, 1024, 1024, 102_400]), "{told}");
    wait_until("nginx has logged five requests", Duration::from_secs(5), || {
        (lines(lab) >= before + 5).then_some(())
    });
    assert_eq!(lines(lab), before + 5, "a request ran twice");
}

/// Waits until the appliance has no flow of this client port any more.
fn flow_ends(lab: &Lab, told: &serde_json::Value) {
    let port = told["port"].as_u64().expect("the client says its port");
    wait_until(&format!("the flow of client port {port} ends"), Duration::from_secs(10), || {
        (!flows(lab).contains(&port)).then_some(())
    });
}

/// The client ports of the appliance's flows.
fn flows(lab: &Lab) -> Vec<u64> {
    let rows = lab.status("flows");
    let rows = rows.as_array().expect("flows are a list");
    rows.iter().filter_map(|row| row["client_port"].as_u64()).collect()
}

fn the_server_closes(lab: &Lab) {
    let told = request(lab, "server-closes");
    whole_file(lab, &told);
    assert_eq!((&told["ended"], &told["connection"]), (&true.into(), &"close".into()), "{told}");
    flow_ends(lab, &told);
}

fn the_client_closes(lab: &Lab) {
    let told = request(lab, "client-closes");
    assert_eq!(told["status"], 200);
    flow_ends(lab, &told);
}

fn the_client_resets(lab: &Lab) {
    let told = request(lab, "client-resets");
    assert_eq!(told["status"], 200);
    flow_ends(lab, &told);
}

fn half_close_after_the_request(lab: &Lab) {
    let told = request(lab, "half-close");
    assert_eq!(
        (&told["status"], told["sha256"].as_str()),
        (&200.into(), Some(lab.sha256_of("1k").as_str())),
        "{told}"
    );
    assert_eq!(told["ended"], true, "{told}");
    flow_ends(lab, &told);
}

fn half_close_after_a_second_request(lab: &Lab) {
    let told = request(lab, "half-close-later");
    assert_eq!(
        (&told["first"], &told["status"], &told["ended"]),
        (&200.into(), &200.into(), &true.into()),
        "{told}"
    );
    assert!(told["seconds"].as_f64() >= Some(0.4), "{told}");
    flow_ends(lab, &told);
}

fn a_health_check_without_request(lab: &Lab) {
    let told = request(lab, "no-request");
    assert_eq!(told["ended"], true, "{told}");
    assert!(told["seconds"].as_f64() < Some(1.0), "{told}");
}

/// The appliance itself answered with this status, and closed.
fn appliance_answers(lab: &Lab, mode: &str, status: u64) -> serde_json::Value {
    let told = request(lab, mode);
    assert_eq!((told["status"].as_u64(), &told["board"]), (Some(status), &serde_json::Value::Null), "{told}");
    assert_eq!(told["ended"], true, "{told}");
    told
}

fn garbage_is_answered_400(lab: &Lab) {
    appliance_answers(lab, "garbage", 400);
}

fn half_a_head_and_fin_is_answered_400(lab: &Lab) {
    appliance_answers(lab, "cut", 400);
}

fn a_head_that_never_ends_is_answered_408(lab: &Lab) {
    let told = appliance_answers(lab, "endless", 408);
    let seconds = told["seconds"].as_f64().expect("the client measures");
    assert!((2.5..6.0).contains(&seconds), "the lab's request_ms is 3000: {told}");
}

fn a_head_too_long_is_answered_431(lab: &Lab) {
    appliance_answers(lab, "too-long", 431);
}

fn the_server_sees_the_client(lab: &Lab) {
    let headers = Curl::get(lab, "/a/1k", &["-D", "-", "-o", "/dev/null", "--local-port", "40123"]).body;
    assert!(headers.to_ascii_lowercase().contains("x-client: 203.0.113.10:40123"), "{headers}");
}

fn wrk_at_64_connections(lab: &Lab) {
    let url = format!("{}/1k", ipos_tests::lab::URL);
    let text = lab.exec("client", &["wrk", "-t1", "-c64", "-d2", &url]);
    assert!(text.contains("requests in"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
}
