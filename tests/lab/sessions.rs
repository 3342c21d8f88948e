//! Sessions by cookie, with an application that keeps them in its own memory and with nginx: `deploy/lab up --services`,
//! docs/services.md.

use std::time::Duration;

use ipos_tests::lab::{ROOT, said};
use ipos_tests::{Lab, Script, wait_until};
use serde_json::{Value, json};

use crate::Test;
use crate::command::{Edited, appliance, done, refused, row};
use crate::kinds::{ADDRESS, happened};

/// Run with one worker and with two.
pub const CORE: &[Test] = &[
    ("sessions_that_are_learned_stay_at_their_boards", sessions_that_are_learned_stay_at_their_boards),
    ("sessions_whose_cookie_names_the_board_stay", sessions_whose_cookie_names_the_board_stay),
    ("clients_are_given_a_cookie_and_stay", clients_are_given_a_cookie_and_stay),
];

/// Run with one.
pub const TESTS: &[Test] = &[
    ("sessions_that_are_learned_stay_at_their_boards", sessions_that_are_learned_stay_at_their_boards),
    ("sessions_whose_cookie_names_the_board_stay", sessions_whose_cookie_names_the_board_stay),
    ("clients_are_given_a_cookie_and_stay", clients_are_given_a_cookie_and_stay),
    ("a_client_that_keeps_no_cookie_is_redirected_once", a_client_that_keeps_no_cookie_is_redirected_once),
    ("a_forged_cookie_is_counted_and_placed_as_without", a_forged_cookie_is_counted_and_placed_as_without),
];

const CLIENTS: u64 = 1000;

/// Addresses that the clients come from, while this lives.
struct Addresses<'lab> {
    lab: &'lab Lab,
    all: Vec<String>,
}

impl<'lab> Addresses<'lab> {
    fn add(lab: &'lab Lab) -> Self {
        let all: Vec<String> = (100..164).map(|last| format!("203.0.113.{last}")).collect();
        let lines: String =
            all.iter().map(|address| format!("address add {address}/24 dev eth0\n")).collect();
        let addresses = Self { lab, all };
        addresses.batch(&lines);
        addresses
    }

    fn batch(&self, lines: &str) {
        let path = format!("{ROOT}/sessions-addresses");
        std::fs::write(&path, lines).expect("the lab's directory can be written");
        self.lab.run("client", &["ip", "-batch", &path]);
    }
}

impl Drop for Addresses<'_> {
    fn drop(&mut self) {
        let lines = self.all.iter().map(|address| format!("address del {address}/24 dev eth0\n"));
        self.batch(&lines.collect::<String>());
    }
}

/// A thousand clients of a service.
struct Clients<'lab> {
    script: Script,
    lab: &'lab Lab,
    _addresses: Addresses<'lab>,
}

impl<'lab> Clients<'lab> {
    fn of(lab: &'lab Lab, port: &str, path: &str, login: &str) -> Self {
        wait_fit(lab, port);
        let addresses = Addresses::add(lab);
        let count = CLIENTS.to_string();
        let mut arguments = vec![port, &count, path, login];
        arguments.extend(addresses.all.iter().map(String::as_str));
        Self { script: Script::start(lab, "client", "jars.py", &arguments), lab, _addresses: addresses }
    }

    /// So many requests of each; what came of them.
    fn round(&mut self, requests: u32) -> Value {
        self.script.tell(&requests.to_string());
        let told = self.script.hear();
        assert_eq!(told["failures"], json!([]), "{told}\n{}", self.lab.logs());
        told
    }

    /// The same, and every client is where it was.
    fn stay(&mut self, requests: u32, when: &str) -> Value {
        let told = self.round(requests);
        assert_eq!((&told["moved"], &told["strange"]), (&json!(0), &json!(0)), "{when}: {told}");
        told
    }
}

/// Waits until both boards may take connections: one that died in an earlier test is kept back for a while.
fn wait_fit(lab: &Lab, port: &str) {
    wait_until("both boards are fit", Duration::from_secs(60), || {
        let services = lab.status("services");
        let wanted: Option<u64> = port.parse().ok();
        let of_port = |row: &&Value| row["port"].as_u64() == wanted;
        let service = services.as_array()?.iter().find(of_port)?;
        let boards = service["boards"].as_array()?;
        boards.iter().all(|board| board["unfit"].is_null()).then_some(())
    });
}

/// How many clients are at a board.
fn at(told: &Value, board: &str) -> u64 {
    told["clients"][board].as_u64().unwrap_or(0)
}

/// What has to hold of each mode: from the first request to the board's death.
fn through_all_that_happens(clients: &mut Clients<'_>) {
    let told = clients.stay(20, "at first");
    let (first, second) = (at(&told, "board1"), at(&told, "board2"));
    assert!(first + second == CLIENTS && first > 0 && second > 0, "both boards have clients: {told}");
    done(&["board", "drain", "board1"]);
    clients.stay(1, "while their board drains");
    done(&["board", "undrain", "board1"]);
    let edited = Edited::new();
    edited.write(&[("[timeouts]\n", "[timeouts]\nidle_ms = 250000\n")]);
    assert!(done(&["reload"]).contains("idle_ms"));
    clients.stay(1, "after a reload");
    edited.write(&[]);
    done(&["reload"]);
    clients.stay(1, "after another");
}

/// The board's clients move to the other one, and stay there.
fn through_the_boards_death(lab: &Lab, clients: &mut Clients<'_>) -> Value {
    lab.verb(&["link", "1", "down"]);
    // While its reports are merely late, its sessions are still looked for there.
    wait_until("board1 is dead", Duration::from_secs(10), || {
        (row(lab, "board1")["liveness"] == "dead").then_some(())
    });
    let told = clients.round(1);
    assert_eq!((at(&told, "board2"), &told["boards"]["board1"]), (CLIENTS, &Value::Null), "{told}");
    let moved = told["moved"].as_u64().unwrap_or(0);
    assert!(moved > 0, "{told}");
    clients.stay(2, "at the other board");
    lab.verb(&["link", "1", "up"]);
    lab.wait_alive(&["board1", "board2"]);
    told
}

fn sessions_that_are_learned_stay_at_their_boards(lab: &Lab) {
    let learned = |lab: &Lab| lab.metric("ipos_control_events_total", &["event=\"session_learned\""]);
    let before = learned(lab);
    let mut clients = Clients::of(lab, "8093", "/page", "/login");
    through_all_that_happens(&mut clients);
    assert_eq!(learned(lab) - before, CLIENTS as f64);
    assert!(lab.metric("ipos_placements_total", &["service=\"learned\"", "reason=\"cookie\""]) > 20_000.0);
    assert!(lab.metric("ipos_sessions", &["service=\"learned\""]) >= CLIENTS as f64);
    listing_of_sessions();
    let told = through_the_boards_death(lab, &mut clients);
    assert_eq!(
        told["strange"], told["moved"],
        "who was at the dead board is a stranger elsewhere, once: {told}"
    );
    // What it had is at the other board now, and does not go back.
    clients.stay(1, "with both boards again");
}

fn listing_of_sessions() {
    let rows = |arguments: &[&str]| -> Vec<Value> {
        let output = appliance(&[&["status", "cookies", "--json"], arguments].concat());
        let rows: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        rows.as_array().cloned().expect("rows")
    };
    let all = rows(&[]);
    assert!(all.len() >= CLIENTS as usize);
    let of_board = rows(&["--service", "learned", "--board", "board1"]);
    assert!(!of_board.is_empty() && of_board.len() < all.len());
    assert!(of_board.iter().all(|row| row["board"] == "board1" && row["server"] == "192.0.2.11"));
    assert!(all.iter().any(|row| row["hits"].as_u64() > Some(15)), "{:?}", all.first());
    assert_eq!(rows(&["--limit", "3"]).len(), 3);
    let text = done(&["status", "cookies", "--limit", "2"]);
    assert!(text.starts_with("COOKIE ID") && text.lines().count() == 3, "{text}");
    assert!(refused(&["status", "cookies", "--service", "x"]).contains("the services are"));
}

fn sessions_whose_cookie_names_the_board_stay(lab: &Lab) {
    let mut clients = Clients::of(lab, "8094", "/1k", "-");
    through_all_that_happens(&mut clients);
    restart(lab);
    clients.stay(1, "after a restart of the appliance");
    through_the_boards_death(lab, &mut clients);
}

fn clients_are_given_a_cookie_and_stay(lab: &Lab) {
    let mut clients = Clients::of(lab, "8095", "/1k?a=b", "-");
    let before = happened(lab, "session_cookie_given");
    through_all_that_happens(&mut clients);
    assert_eq!(happened(lab, "session_cookie_given") - before, CLIENTS as f64, "each once");
    restart(lab);
    assert_eq!(clients.stay(1, "after a restart of the appliance")["given"], 0);
    let told = through_the_boards_death(lab, &mut clients);
    assert_eq!(told["given"], told["moved"], "{told}");
}

fn restart(lab: &Lab) {
    lab.verb(&["kill-appliance"]);
    lab.verb(&["start-appliance"]);
    lab.wait_alive(&["board1", "board2"]);
}

/// Status, redirects that were followed, and board, by curl.
fn curl(lab: &Lab, url: &str, arguments: &[&str]) -> (String, String, String) {
    let format = "%{http_code} %{num_redirects} %header{x-board}";
    let all =
        [&["curl", "-sS", "-m", "20", "-L", "-o", "/dev/null", "-w", format], arguments, &[url]].concat();
    let output = lab.run("client", &all);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap_or_default();
    (next(), next(), next())
}

fn a_client_that_keeps_no_cookie_is_redirected_once(lab: &Lab) {
    let url = format!("http://{ADDRESS}:8095/1k?who=nobody");
    let (status, redirects, board) = curl(lab, &url, &[]);
    assert_eq!((status.as_str(), redirects.as_str()), ("200", "1"));
    assert!(board.starts_with("board"));
    let (status, _, _) = curl(lab, &url, &["-X", "POST", "-d", "x"]);
    assert_eq!(status, "405", "nginx's own answer: a POST is placed as it is");
    let (status, redirects, _) = curl(lab, &format!("http://{ADDRESS}:8095/1k"), &["-0"]);
    assert_eq!((status.as_str(), redirects.as_str()), ("200", "0"), "HTTP/1.0");
    let (_, redirects, _) = curl(lab, &format!("http://{ADDRESS}:8095//evil.example/"), &["--path-as-is"]);
    assert_eq!(redirects, "0", "a path that could be taken for a host");
    assert!(lab.metric("ipos_control_events_total", &["event=\"session_cookie_withheld\""]) >= 1.0);
}

fn a_forged_cookie_is_counted_and_placed_as_without(lab: &Lab) {
    let url = format!("http://{ADDRESS}:8094/1k");
    let events = ["session_cookie_malformed", "session_cookie_unknown"];
    let before = events.map(|event| happened(lab, event));
    for forged in ["srv=1", "srv=00000000000000000000000000000000"] {
        assert_eq!(curl(lab, &url, &["-b", forged]).0, "200");
    }
    wait_until("both are counted", Duration::from_secs(10), || {
        let now = events.map(|event| happened(lab, event));
        (now[0] - before[0] == 1.0 && now[1] - before[1] == 1.0).then_some(())
    });
    let told = done_offline(&["--board", "board1"]);
    assert!(
        told.starts_with("srv=") && told.trim_end().ends_with("; Path=/; HttpOnly; SameSite=Lax"),
        "{told}"
    );
    let value = done_offline(&["--board", "board2", "--value"]);
    let cookie = format!("srv={}", value.trim());
    for _ in 0..4 {
        assert_eq!(curl(lab, &url, &["-b", &cookie]).2, "board2");
    }
}

/// What `ipos-appliance cookie` says, which asks no appliance.
fn done_offline(arguments: &[&str]) -> String {
    let config = format!("{ROOT}/appliance/appliance.toml");
    let output = std::process::Command::new(ipos_tests::lab::binary("ipos-appliance"))
        .args(["cookie", "--service", "encoded", "--config", &config])
        .args(arguments)
        .output()
        .expect("the appliance's program can be run");
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}
