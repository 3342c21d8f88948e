//! Boards in and out, and new configurations, while clients are served: none of them may notice.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipos_tests::lab::{ROOT, binary};
use ipos_tests::{Curl, Lab, Script, wait_until};
use serde_json::Value;

use crate::Test;
use crate::command::{Edited, done, refused, row};

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("drain_and_undrain_under_load", drain_and_undrain_under_load),
    ("remove_and_add_under_load", remove_and_add_under_load),
    ("reload_under_load", reload_under_load),
    ("restart_of_an_agent_under_load", restart_of_an_agent_under_load),
    ("a_deadline_closes_what_is_idle_and_nothing_else", a_deadline_closes_what_is_idle_and_nothing_else),
    ("a_removal_by_force_ends_connections", a_removal_by_force_ends_connections),
    ("flows_are_listed_by_client_service_board_and_state", flows_are_listed_by_what_is_asked),
];

const PATIENCE: Duration = Duration::from_secs(10);

/// The clients' ports of the flows that are listed with these filters.
#[track_caller]
fn listed(filters: &[&str]) -> BTreeSet<u64> {
    let told = done(&[&["status", "flows", "--json"], filters].concat());
    let rows: Value = serde_json::from_str(&told).expect("JSON");
    let rows = rows.as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|row| row["client_port"].as_u64()).collect()
}

/// The ports of a crowd's connections.
fn ports(said: &Value) -> BTreeSet<u64> {
    said["ports"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// 64 clients that keep their connections, and 64 that make a new one for each request.
struct Load {
    clients: [Child; 2],
}

impl Load {
    /// Starts them, and waits until both boards serve.
    fn start(lab: &Lab) -> Self {
        Self::start_on(lab, &["board1", "board2"])
    }

    /// Starts them, and waits until these boards serve.
    fn start_on(lab: &Lab, boards: &[&str]) -> Self {
        let wrk = ["wrk", "-c", "64", "-t", "1", "-d", "60", "--timeout", "10s"];
        let start = |more: &[&str]| {
            let mut all = wrk.to_vec();
            all.extend(more);
            all.push("http://198.51.100.1/1k");
            lab.command("client", &all).stdout(Stdio::piped()).spawn().expect("wrk can be run")
        };
        let clients = [start(&[]), start(&["-H", "Connection: close"])];
        boards.iter().for_each(|board| is_served(lab, board));
        Self { clients }
    }

    /// Ends them: not one request has failed.
    fn end(self, lab: &Lab) {
        for mut client in self.clients {
            assert!(matches!(client.try_wait(), Ok(None)), "the load ended before what it was to be under");
            // wrk stops at SIGINT and says what it saw.
            let sent = Command::new("kill").args(["-INT", &client.id().to_string()]).status();
            assert!(sent.is_ok_and(|status| status.success()), "wrk cannot be stopped");
            let output = client.wait_with_output().expect("wrk ends");
            let told = String::from_utf8_lossy(&output.stdout);
            let failed = told.contains("Socket errors") || told.contains("Non-2xx");
            assert!(output.status.success() && !failed, "{told}\n{}", lab.logs());
            let requests = told.lines().find_map(|line| line.trim().split_once(" requests in"));
            let requests: u64 = requests.and_then(|(number, _)| number.parse().ok()).unwrap_or(0);
            assert!(requests > 200, "{told}");
        }
    }
}

/// Waits until a board gets new connections.
fn is_served(lab: &Lab, board: &str) {
    let acknowledged = || {
        let migrations = lab.status("migrations");
        let rows = migrations["boards"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["board"] == board);
        row.and_then(|row| row["ended"]["acknowledged"].as_u64()).unwrap_or(0)
    };
    let before = acknowledged();
    wait_until(&format!("new connections on {board}"), PATIENCE, || (acknowledged() > before).then_some(()));
}

/// Waits until a board's connections are those of the clients that keep them.
fn is_left_to_those_that_stay(lab: &Lab, board: &str) {
    wait_until(&format!("only kept connections on {board}"), PATIENCE, || {
        let row = row(lab, board);
        let left = row["flows"].as_u64().unwrap_or(u64::MAX);
        (row["in_flight"] == 0 && (1..=64).contains(&left)).then_some(())
    });
}

fn drain_and_undrain_under_load(lab: &Lab) {
    let load = Load::start(lab);
    let told = done(&["board", "drain", "board2"]);
    assert!(told.contains("drains: ") && told.contains(" left ("), "{told}");
    is_left_to_those_that_stay(lab, "board2");
    assert_eq!(row(lab, "board2")["drain"], "draining");
    let again = done(&["board", "drain", "board2"]);
    assert!(again.contains("drains already"), "{again}");
    done(&["board", "undrain", "board2"]);
    is_served(lab, "board2");
    load.end(lab);
    assert!(refused(&["board", "undrain", "board2"]).contains("does not drain"));
    assert!(refused(&["board", "drain", "nobody"]).contains("the boards are board1, board2"));
    // Without clients it comes to its end by itself.
    let told = done(&["board", "drain", "board2", "--wait"]);
    assert!(told.ends_with("board \"board2\" is drained\n"), "{told}");
    assert_eq!(row(lab, "board2")["drain"], "drained");
    done(&["board", "undrain", "board2"]);
}

const MAP_OF_BOARD_2: &str = "[[service.map]]\npath = \"/b/\"\nboards = [\"board2\"]\n";
const BOARD_2: &str = "[[board]]\nname = \"board2\"\naddress = \"192.0.2.12\"\n";

fn remove_and_add_under_load(lab: &Lab) {
    let edited = Edited::new();
    let load = Load::start(lab);
    // It serves a row of the map alone: whoever asked for that would find nobody.
    assert!(refused(&["board", "remove", "board2"]).contains("the only one of a row"));
    edited.write(&[(MAP_OF_BOARD_2, "")]);
    done(&["reload"]);
    assert!(refused(&["board", "remove", "board2"]).contains("drain it first"));
    edited.write(&[(MAP_OF_BOARD_2, ""), (BOARD_2, "")]);
    let told = done(&["reload"]);
    assert!(told.contains("board \"board2\" leaves when its last connection ends"), "{told}");
    is_left_to_those_that_stay(lab, "board2");
    // Back, while it still has connections: the same board.
    let told = done(&["board", "add", "board2", "--address", "192.0.2.12", "--service", "web"]);
    assert!(told.contains("added"), "{told}");
    is_served(lab, "board2");
    assert!(
        refused(&["board", "add", "board2", "--address", "192.0.2.13", "--service", "web"])
            .contains("already")
    );
    load.end(lab);
    done(&["board", "drain", "board2", "--wait"]);
    done(&["board", "remove", "board2"]);
    wait_until("board 2 is gone", PATIENCE, || row(lab, "board2").is_null().then_some(()));
    assert_eq!(Curl::get(lab, "/1k", &[]).board, "board1");
    // A new life, under a number of its own.
    let load = Load::start_on(lab, &["board1"]);
    done(&["board", "add", "board2", "--address", "192.0.2.12", "--service", "web", "--weight", "100"]);
    is_served(lab, "board2");
    load.end(lab);
    edited.write(&[]);
    done(&["reload"]);
    assert_eq!(Curl::get(lab, "/b/1k", &[]).board, "board2");
}

fn reload_under_load(lab: &Lab) {
    let edited = Edited::new();
    let load = Load::start(lab);
    edited.write(&[("request_ms = 3000", "request_ms = 3500"), ("path = \"/b/\"", "path = \"/c/\"")]);
    let told = done(&["reload"]);
    assert!(told.contains("request_ms: 3000 -> 3500") && told.contains("service \"web\" changed"), "{told}");
    // A port that is closed, and opened again: connections go on.
    edited.write(&[("port = 80\n", "port = 81\n")]);
    let crowd = {
        let mut crowd = Script::start(lab, "client", "crowd.py", &["20", "/1k", "reuse"]);
        assert_eq!(crowd.hear()["failures"], serde_json::json!([]));
        crowd
    };
    load.end(lab);
    let told = done(&["reload"]);
    assert!(told.contains("closed") && told.contains(":81 opened"), "{told}");
    let mut crowd = crowd;
    crowd.go_on();
    let told = crowd.hear();
    assert_eq!(told["failures"], serde_json::json!([]), "{told}");
    assert!(Curl::attempt(lab, "/1k", &[]).is_err(), "the port is closed");
    // A mistake, and a key that cannot change: each said with its line, and nothing changes.
    let before = lab.status("services");
    edited
        .write(&[("request_ms = 3000", "request_ms = \"x\""), ("boards = [\"board1\"]", "boards = [\"b\"]")]);
    let told = refused(&["reload"]);
    assert!(
        told.lines().count() >= 2 && told.contains("request_ms") && told.contains("no board named"),
        "{told}"
    );
    edited.write(&[("entries = 65536", "entries = 32768"), ("id = 1", "id = 2")]);
    let told = refused(&["reload"]);
    assert!(
        told.contains("`entries` in [worker] cannot change") && told.contains("`id` in [appliance]"),
        "{told}"
    );
    assert_eq!(before[0]["port"], lab.status("services")[0]["port"]);
    // By signal, as the file was.
    edited.write(&[]);
    let pid = std::fs::read_to_string(format!("{ROOT}/pids/appliance.pid")).unwrap_or_default();
    let pid = pid.split_whitespace().next().unwrap_or_default().to_owned();
    let sent = Command::new("kill").args(["-HUP", &pid]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{pid:?}");
    wait_until("the service is back", PATIENCE, || (lab.status("services")[0]["port"] == 80).then_some(()));
    assert_eq!(Curl::get(lab, "/b/1k", &[]).board, "board2");
}

fn restart_of_an_agent_under_load(lab: &Lab) {
    let load = Load::start(lab);
    lab.verb(&["stop-agent", "2"]);
    lab.verb(&["start-agent", "2"]);
    is_served(lab, "board2");
    load.end(lab);
}

fn a_deadline_closes_what_is_idle_and_nothing_else(lab: &Lab) {
    let mut crowd = Script::start(lab, "client", "crowd.py", &["40", "/1k", "reuse"]);
    let first = crowd.hear();
    assert_eq!(first["failures"], serde_json::json!([]), "{first}");
    let on_board_2 = first["boards"]["board2"].as_u64().unwrap_or(0);
    assert!(on_board_2 > 0, "{first}");
    // Requests that are under way for longer than a connection may be quiet, on both boards; from ports that no other
    // connection has.
    let own = 20_000u64..20_100;
    let range = format!("{}-{}", own.start, own.end - 1);
    let curl = ["curl", "-sS", "-m", "20", "--local-port", &range, "-w", "%{http_code}", "-o", "/dev/null"];
    let slow: Vec<Child> = ["a", "b"]
        .repeat(3)
        .iter()
        .map(|row| {
            let mut command = lab.command("client", &curl);
            command.arg(format!("http://198.51.100.1/{row}/app/slow?ms=5000")).stdout(Stdio::piped());
            command.spawn().expect("curl can be run")
        })
        .collect();
    let of_slow = |board| listed(&["--board", board]).range(own.clone()).count();
    wait_until("the slow requests have their boards", PATIENCE, || {
        (of_slow("board1") == 3 && of_slow("board2") == 3).then_some(())
    });
    let told = done(&["board", "drain", "board2", "--deadline", "0", "--wait"]);
    assert!(told.ends_with("is drained\n"), "{told}");
    for request in slow {
        let output = request.wait_with_output().expect("curl ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "the request was cut off");
    }
    crowd.go_on();
    let second = crowd.hear();
    let failures = second["failures"].as_array().cloned().unwrap_or_default();
    assert_eq!(failures.len() as u64, on_board_2, "{second}");
    assert_eq!(second["boards"]["board1"], first["boards"]["board1"], "{second}");
    done(&["board", "undrain", "board2"]);
}

fn a_removal_by_force_ends_connections(lab: &Lab) {
    let edited = Edited::new();
    edited.write(&[(MAP_OF_BOARD_2, "")]);
    done(&["reload"]);
    let mut crowd = Script::start(lab, "client", "crowd.py", &["20", "/1k", "reuse"]);
    let first = crowd.hear();
    let on_board_2 = first["boards"]["board2"].as_u64().unwrap_or(0);
    assert!(on_board_2 > 0, "{first}");
    assert!(refused(&["board", "remove", "board2"]).contains("--force"));
    done(&["board", "remove", "board2", "--force"]);
    wait_until("board 2 is gone", PATIENCE, || row(lab, "board2").is_null().then_some(()));
    crowd.go_on();
    let second = crowd.hear();
    let failures = second["failures"].as_array().cloned().unwrap_or_default();
    assert_eq!(failures.len() as u64, on_board_2, "{second}");
    let is_reset = |failure: &Value| failure.as_str().is_some_and(|text| text.contains("ConnectionReset"));
    assert!(failures.iter().all(is_reset), "their clients are told at once: {second}");
    assert_eq!(second["boards"]["board1"], first["boards"]["board1"], "{second}");
    let sockets = lab.exec("board2", &["ss", "-Htno", "state", "established", "sport = :80"]);
    assert_eq!(sockets.trim(), "", "the board has given them up as well");
    edited.write(&[]);
    done(&["reload"]);
    lab.wait_alive(&["board1", "board2"]);
    wait_until("board 2 serves again", PATIENCE, || {
        (Curl::get(lab, "/b/1k", &[]).status == 200).then_some(())
    });
}

fn flows_are_listed_by_what_is_asked(lab: &Lab) {
    let mut crowd = Script::start(lab, "client", "crowd.py", &["30", "/1k", "reuse"]);
    let first = crowd.hear();
    let ports = ports(&first);
    for board in ["board1", "board2"] {
        let expected = first["boards"][board].as_u64().unwrap_or(0);
        assert!(expected > 0, "{first}");
        // Its client may have an answer before the appliance has the board's acknowledgement.
        let args = ["--board", board, "--client", "203.0.113.0/24", "--service", "web"];
        wait_until(&format!("{expected} of {ports:?} are listed with {args:?}"), PATIENCE, || {
            (listed(&args).intersection(&ports).count() as u64 == expected).then_some(())
        });
    }
    assert!(listed(&["--state", "forward"]).is_superset(&ports));
    let count = |arguments: &[&str]| listed(arguments).len();
    assert_eq!(count(&["--client", "203.0.113.11"]), 0);
    assert!(listed(&["--state", "local"]).is_disjoint(&ports));
    assert!(refused(&["status", "flows", "--board", "x"]).contains("no board named \"x\""));
    assert!(refused(&["status", "flows", "--client", "x"]).contains("no client"));
    assert!(refused(&["status", "servers", "--client", "203.0.113.11"]).contains("status flows"));
    // Again every second, until a signal.
    let socket = format!("{ROOT}/appliance/admin.sock");
    let mut watch = Command::new(binary("ipos-appliance"))
        .args(["status", "servers", "--json", "--watch", "--socket", &socket])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the appliance's program can be run");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().expect("a pipe")));
    for _ in 0..2 {
        let line = lines.next().expect("another one").expect("text");
        assert!(serde_json::from_str::<Value>(&line).is_ok_and(|rows| rows.is_array()), "{line}");
    }
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");
    crowd.go_on();
    crowd.hear();
}
