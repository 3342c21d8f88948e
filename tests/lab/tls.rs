//! Services that TLS chooses boards for, HTTP/2 in the clear, and WebSockets: `deploy/lab up --services`, docs/services.md.

use std::io::Write;
use std::process::Stdio;

use ipos_tests::client::sha256;
use ipos_tests::command::{appliance, done};
use ipos_tests::lab::{ROOT, said};
use ipos_tests::{Lab, Lossy, Script};
use serde_json::json;

use crate::Test;
use crate::kinds::{ADDRESS, happened};

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("tls_is_placed_by_name_in_both_versions", tls_is_placed_by_name_in_both_versions),
    ("http_2_over_tls_is_placed_by_alpn", http_2_over_tls_is_placed_by_alpn),
    (
        "a_client_that_names_no_server_gets_the_default_boards",
        a_client_that_names_no_server_gets_the_default_boards,
    ),
    ("an_unknown_name_is_refused_with_alert_112", an_unknown_name_is_refused_with_alert_112),
    ("hellos_longer_than_a_segment_and_in_many_records", hellos_longer_than_a_segment_and_in_many_records),
    ("what_is_no_hello_is_refused", what_is_no_hello_is_refused),
    ("tls_over_a_lossy_farm_cable", tls_over_a_lossy_farm_cable),
    ("boards_with_the_same_ticket_keys_resume_each_others_sessions", sessions_of_shared_keys),
    ("boards_with_keys_of_their_own_do_a_full_handshake", sessions_of_own_keys),
    ("http_2_in_the_clear_is_placed_once", http_2_in_the_clear_is_placed_once),
    ("a_websocket_outlives_the_appliance", a_websocket_outlives_the_appliance),
    ("without_a_server_a_tls_client_gets_alert_80", without_a_server_a_tls_client_gets_alert_80),
];

const PORT: &str = "443";

/// What curl got: the body's SHA-256, and the words of `-w`: HTTP version, board, version of TLS, server name as the board saw it, new
/// connections.
fn curl(lab: &Lab, url: &str, arguments: &[&str]) -> Result<(String, Vec<String>), String> {
    let format = "\n%{http_version} %header{x-board} %header{x-tls} %header{x-server-name} %{num_connects}";
    let certificate = format!("{ROOT}/services/certificate.pem");
    let mut all = vec!["curl", "-sS", "-m", "30", "-w", format, "--cacert", &certificate];
    all.extend(arguments);
    all.push(url);
    let output = lab.run("client", &all);
    if !output.status.success() {
        return Err(said(&output));
    }
    let end = output.stdout.iter().rposition(|octet| *octet == b'\n').ok_or("curl wrote no result line")?;
    let (body, words) = output.stdout.split_at(end);
    let words = String::from_utf8_lossy(words).split_whitespace().map(str::to_owned).collect();
    Ok((sha256(body), words))
}

/// The same by name, over TLS.
#[track_caller]
fn by_name(lab: &Lab, name: &str, file: &str, arguments: &[&str]) -> Vec<String> {
    let resolve = format!("{name}:443:{ADDRESS}");
    let all: Vec<&str> = ["--resolve", &resolve].iter().chain(arguments).copied().collect();
    let (sum, words) = curl(lab, &format!("https://{name}/{file}"), &all)
        .unwrap_or_else(|error| panic!("{name} {arguments:?}: {error}\n{}", lab.logs()));
    assert_eq!(sum, lab.sha256_of(file), "{name} {arguments:?}");
    words
}

const V12: [&str; 2] = ["--tls-max", "1.2"];
const V13: [&str; 1] = ["--tlsv1.3"];

fn tls_is_placed_by_name_in_both_versions(lab: &Lab) {
    let before = happened(lab, "hello_complete");
    for (version, arguments) in [("TLSv1.2", &V12[..]), ("TLSv1.3", &V13[..])] {
        let http_1 = [&["--http1.1"][..], arguments].concat();
        for (name, board) in [("a.example", "board1"), ("A.Example", "board1"), ("x.b.example", "board2")] {
            let words = by_name(lab, name, "100k", &http_1);
            assert_eq!(&words[..3], ["1.1", board, version], "{name}");
            assert_eq!(words[3], name.to_ascii_lowercase(), "the board sees the hello as it was sent");
        }
        let words = by_name(lab, "a.example", "10m", &http_1);
        assert_eq!(&words[..3], ["1.1", "board1", version]);
    }
    assert!(happened(lab, "hello_complete") >= before + 8.0);
}

fn http_2_over_tls_is_placed_by_alpn(lab: &Lab) {
    for (name, arguments, expected) in [
        ("x.b.example", "--http2", ["2", "board1"]),
        ("x.b.example", "--http1.1", ["1.1", "board2"]),
        ("x.b.example", "--no-alpn", ["1.1", "board2"]),
        ("a.example", "--http2", ["2", "board1"]),
    ] {
        for version in [&V12[..], &V13[..]] {
            let words = by_name(lab, name, "10m", &[&[arguments][..], version].concat());
            assert_eq!(&words[..2], expected, "{name} {arguments} {version:?}");
        }
    }
}

fn a_client_that_names_no_server_gets_the_default_boards(lab: &Lab) {
    // Of an address curl makes no server name.
    let (sum, words) = curl(lab, &format!("https://{ADDRESS}/1k"), &["-k"]).expect("an answer");
    assert_eq!((sum, words[1].as_str()), (lab.sha256_of("1k"), "board2"));
}

/// `openssl s_client` with these arguments, and what it said.
fn s_client(lab: &Lab, arguments: &[&str]) -> String {
    s_client_at(lab, PORT, arguments)
}

/// The same at another port.
fn s_client_at(lab: &Lab, port: &str, arguments: &[&str]) -> String {
    let connect = format!("{ADDRESS}:{port}");
    let all: Vec<&str> = ["timeout", "20", "openssl", "s_client", "-connect", &connect]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let mut child = lab
        .command("client", &all)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl can be run");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    // It may have been refused before it reads.
    let _ = stdin.write_all(b"GET /1k HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    let output = child.wait_with_output().expect("openssl ends");
    drop(stdin);
    said(&output)
}

fn an_unknown_name_is_refused_with_alert_112(lab: &Lab) {
    let before = happened(lab, "name_unknown");
    for version in ["-tls1_2", "-tls1_3"] {
        let told = s_client(lab, &[version, "-servername", "c.example"]);
        assert!(told.contains("alert number 112"), "{told}");
        assert!(told.contains("unrecognized name"), "{told}");
        let told = s_client(lab, &[version, "-servername", "a.example", "-ign_eof"]);
        assert!(told.contains("X-Board: board1"), "{told}");
        // A certificate for every name, but no row for b.example itself.
        let told = s_client(lab, &[version, "-servername", "b.example"]);
        assert!(told.contains("alert number 112"), "{told}");
    }
    assert_eq!(happened(lab, "name_unknown"), before + 4.0);
    let error = curl(lab, "https://c.example/", &["--resolve", &format!("c.example:443:{ADDRESS}")]);
    assert!(error.as_ref().is_err_and(|error| error.contains("unrecognized name")), "{error:?}");
}

fn hellos_longer_than_a_segment_and_in_many_records(lab: &Lab) {
    // 150 protocols of 13 octets: 2,300 octets in all, in segments of 1,428 or cut further.
    for arguments in [["cut", "65536", "0", "150"], ["cut", "700", "5", "150"], ["cut", "16", "1", "20"]] {
        let all = [&[ADDRESS, PORT, "a.example"][..], &arguments].concat();
        let told = Script::once(lab, "hello.py", &all);
        assert_eq!(told["head"]["X-Board"], "board1", "{told}");
        assert!(told["hello"].as_u64() > Some(if arguments[3] == "150" { 2_000 } else { 500 }), "{told}");
    }
    for fragment in ["1", "7", "200"] {
        let told = Script::once(lab, "hello.py", &[ADDRESS, PORT, "a.example", "records", fragment]);
        assert_eq!(told["head"]["X-Board"], "board1", "{fragment}: {told}");
    }
}

fn what_is_no_hello_is_refused(lab: &Lab) {
    for (event, octets, alert) in [
        ("hello_not_tls", "474554202f20485454502f312e310d0a0d0a", "15030300020232"),
        ("hello_ssl2", "802e0103010015000000100000", "15030300020232"),
        ("hello_bad_record", "1603010000", "15030300020232"),
        ("hello_malformed", "160301000402000000", "15030300020232"),
        ("hello_too_long", "160301000401ffffff", "15030300020232"),
        // One that never goes on: closed after `request_ms`.
        ("hello_timeout", "16030102000100", "15030300020100"),
    ] {
        let before = happened(lab, event);
        let told = Script::once(lab, "hello.py", &[ADDRESS, PORT, "-", "raw", octets]);
        assert_eq!(told, json!({"heard": alert, "end": "fin"}), "{event}");
        assert_eq!(happened(lab, event), before + 1.0, "{event}");
    }
}

fn tls_over_a_lossy_farm_cable(lab: &Lab) {
    let lossy = Lossy::farm(lab, 5);
    for _ in 0..20 {
        let words = by_name(lab, "a.example", "100k", &["--http1.1"]);
        assert_eq!(words[1], "board1");
    }
    drop(lossy);
}

/// A board gets no new connections until this is dropped.
struct Drained(&'static str);

impl Drained {
    fn new(board: &'static str) -> Self {
        done(&["board", "drain", board]);
        Self(board)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        // Whoever gets no connections because of a failure here fails as well; a panic in a drop would hide the first one.
        appliance(&["board", "undrain", self.0]);
    }
}

/// A client gets a session at board 1, and comes back with it: to board 1, and to board 2. Both times in these words of `s_client`.
#[track_caller]
fn come_back(lab: &Lab, port: &str, version: &str, at_board_1: &str, at_board_2: &str) {
    let file = format!("{ROOT}/services/session{port}{version}.pem");
    let common = [version, "-servername", "a.example", "-ign_eof"];
    let visit = |drained: &'static str, board: &str, session: &str, expected: &str| {
        let drained = Drained::new(drained);
        let told = s_client_at(lab, port, &[&common[..], &[session, &file]].concat());
        drop(drained);
        assert!(told.contains(&format!("X-Board: {board}")), "{version} {session}: {told}");
        assert!(
            told.lines().any(|line| line.starts_with(expected)),
            "{version} at {board}: {expected}: {told}"
        );
    };
    visit("board2", "board1", "-sess_out", "New, ");
    visit("board2", "board1", "-sess_in", at_board_1);
    visit("board1", "board2", "-sess_in", at_board_2);
}

fn sessions_of_shared_keys(lab: &Lab) {
    for version in ["-tls1_2", "-tls1_3"] {
        come_back(lab, "8443", version, "Reused, ", "Reused, ");
    }
}

fn sessions_of_own_keys(lab: &Lab) {
    for version in ["-tls1_2", "-tls1_3"] {
        // The session was good, or this would prove nothing.
        come_back(lab, "8444", version, "Reused, ", "New, ");
    }
}

fn http_2_in_the_clear_is_placed_once(lab: &Lab) {
    let before = happened(lab, "http2_begun");
    let url = format!("http://{ADDRESS}:8090/a/100k");
    let (sum, words) = curl(lab, &url, &["--http2-prior-knowledge"]).expect("an answer");
    // By the URL map /a/ is board 1's; a connection of HTTP/2 goes to the service's own board.
    assert_eq!((sum, &words[..2]), (lab.sha256_of("100k"), &["2".to_owned(), "board2".to_owned()][..]));
    let told = Script::once(lab, "h2c.py", &[ADDRESS, "8090", "/index.html", "/a/index.html", "/index.html"]);
    assert_eq!(
        told,
        json!({"bodies": ["board2\n", "board2\n", "board2\n"]}),
        "three requests of one connection"
    );
    let (sum, _) =
        curl(lab, &format!("http://{ADDRESS}:8090/10m"), &["--http2-prior-knowledge"]).expect("an answer");
    assert_eq!(sum, lab.sha256_of("10m"));
    assert_eq!(happened(lab, "http2_begun"), before + 3.0);
    // A service that does not take it says so.
    let refused = curl(lab, &format!("http://{ADDRESS}/1k"), &["--http2-prior-knowledge"]);
    assert!(refused.is_err(), "{refused:?}");
}

fn a_websocket_outlives_the_appliance(lab: &Lab) {
    let mut client = Script::start(lab, "client", "websocket.py", &[ADDRESS, "8091", "/chat", "40"]);
    let first = client.hear();
    assert!(matches!(first["board"].as_str(), Some("board1" | "board2")), "{first}");
    assert_eq!(first["right"], 40, "{first}");
    lab.verb(&["kill-appliance"]);
    lab.verb(&["start-appliance"]);
    lab.wait_alive(&["board1", "board2"]);
    client.go_on();
    let second = client.hear();
    assert_eq!(second, first, "every message came back, from the same board");
    assert!(first["octets"].as_u64() > Some(1_000_000), "{first}");
}

/// Starts the servers that were stopped.
struct Started<'lab>(&'lab Lab);

impl Drop for Started<'_> {
    fn drop(&mut self) {
        for board in ["1", "2"] {
            self.0.verb(&["start-nginx", board]);
        }
    }
}

fn without_a_server_a_tls_client_gets_alert_80(lab: &Lab) {
    let before = happened(lab, "alert_unavailable");
    for board in ["1", "2"] {
        lab.verb(&["stop-nginx", board]);
    }
    let started = Started(lab);
    let told = s_client(lab, &["-servername", "a.example"]);
    assert!(told.contains("alert number 80"), "{told}");
    assert_eq!(happened(lab, "alert_unavailable"), before + 1.0);
    drop(started);
    ipos_tests::wait_until("a server is there again", std::time::Duration::from_secs(10), || {
        s_client(lab, &["-servername", "a.example", "-ign_eof"]).contains("X-Board: board1").then_some(())
    });
}
