//! Placement on boards of unequal speed: what the policies do is counted, and one connection's decision can be looked up.

use std::time::Duration;

use ipos_tests::lab::{ROOT, binary};
use ipos_tests::{Lab, Script, wait_until};
use serde_json::Value;

use crate::Test;

/// Run where each board takes its own time for a request, see `--service-ms`.
pub const TESTS: &[Test] = &[
    ("round_robin_is_even_and_least_load_is_not", round_robin_is_even_and_least_load_is_not),
    ("a_client_keeps_its_board_by_consistent_hash", a_client_keeps_its_board_by_consistent_hash),
    ("the_decision_about_a_connection_is_shown", the_decision_about_a_connection_is_shown),
];

/// The timed services' ports, see `deploy/lab.d/ipos_lab/plan.py`.
const ROUND_ROBIN: u16 = 8001;
const LEAST_LOAD: u16 = 8003;
const CONSISTENT_HASH: u16 = 8004;

/// Clients at a time: at the end `wrk` leaves so many requests where they are, placed and perhaps not acknowledged.
const CLIENTS: u64 = 16;

/// Lets them ask for two seconds; no request may fail.
fn crowd(lab: &Lab, port: u16) {
    let url = format!("http://198.51.100.1:{port}/");
    let clients = format!("-c{CLIENTS}");
    let said = lab.exec("client", &["wrk", "-t1", &clients, "-d2s", "-H", "Connection: close", &url]);
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
}

/// Acknowledged migrations by board, once no request is under way.
fn acknowledged(lab: &Lab) -> Vec<u64> {
    let migrations = wait_until("no request waits for a board", Duration::from_secs(5), || {
        Some(lab.status("migrations")).filter(|rows| rows["under_way"] == 0)
    });
    let boards = migrations["boards"].as_array().expect("a list of boards");
    boards.iter().map(|row| row["ended"]["acknowledged"].as_u64().expect("a count")).collect()
}

/// What a load of a port brought each board.
fn share(lab: &Lab, port: u16) -> Vec<u64> {
    let before = acknowledged(lab);
    crowd(lab, port);
    acknowledged(lab).iter().zip(before).map(|(after, before)| after - before).collect()
}

fn service(lab: &Lab, name: &str) -> Value {
    let services = lab.status("services");
    let rows = services.as_array().expect("a list of services");
    rows.iter().find(|row| row["service"] == name).cloned().unwrap_or_else(|| panic!("no service {name}"))
}

fn round_robin_is_even_and_least_load_is_not(lab: &Lab) {
    lab.exec("client", &["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"]);
    let even = share(lab, ROUND_ROBIN);
    let (least, most) = (even.iter().min().expect("boards"), even.iter().max().expect("boards"));
    assert!(*least > 0 && most - least <= CLIENTS, "in turns: {even:?}");
    let uneven = share(lab, LEAST_LOAD);
    assert!(uneven.windows(2).all(|pair| pair[0] > pair[1]), "the faster the more: {uneven:?}");
    let row = service(lab, "timed-least-load");
    let placed = row["placed"]["policy"].as_u64().expect("a count");
    assert!(placed >= uneven.iter().sum() && row["policy"] == "least-load", "{row}");
    assert!(row["boards"][0]["score"].is_f64(), "{row}");
    let counted = lab.metric("ipos_placements_total", &["service=\"timed-least-load\"", "reason=\"policy\""]);
    assert!(counted as u64 >= placed, "{counted}");
}

fn a_client_keeps_its_board_by_consistent_hash(lab: &Lab) {
    let share = share(lab, CONSISTENT_HASH);
    assert_eq!(share.iter().filter(|count| **count > 0).count(), 1, "one client, one board: {share:?}");
}

fn the_decision_about_a_connection_is_shown(lab: &Lab) {
    let mut client = Script::start(lab, "client", "hold.py", &[]);
    let held = client.hear();
    let port = held["port"].as_u64().expect("the client's port");
    let status = |arguments: &[&str]| {
        let socket = format!("{ROOT}/appliance/admin.sock");
        let from = format!("203.0.113.10:{port}");
        let mut command = std::process::Command::new(binary("ipos-appliance"));
        command.args(["status", "flow", &from, "198.51.100.1:80", "--socket", &socket]).args(arguments);
        let output = command.output().expect("ipos-appliance can be run");
        assert!(output.status.success(), "{}", ipos_tests::lab::said(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let flow: Value = serde_json::from_str(&status(&["--json"])).expect("JSON");
    let decision = &flow["decisions"][0];
    assert_eq!((&flow["entry"]["table"], &decision["service"]), (&"forward".into(), &"web".into()), "{flow}");
    assert_eq!((&decision["board"], &decision["reason"]), (&held["board"], &"policy".into()), "{flow}");
    assert_eq!(flow["entry"]["board"], held["board"], "{flow}");
    assert_eq!(decision["scores"].as_array().map(Vec::len), Some(4), "{flow}");
    let text = status(&[]);
    assert!(text.contains("in the table forward of worker 0") && text.contains("reason policy"), "{text}");
    client.go_on();
}
