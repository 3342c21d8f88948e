//! QUIC behind kind `udp`: HTTP/3 of aioquic on both boards, and a client that changes its address while a response is on its way.
//! `deploy/lab up --services`; the service is the one of docs/services.md.

use std::time::Duration;

use ipos_tests::lab::{PYTHON, ROOT};
use ipos_tests::{Lab, Script, wait_until};
use serde_json::Value;

use crate::Test;
use crate::command::done;
use crate::kinds::{ADDRESS, happened};
use crate::limits::{OTHER, Other};

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("http3_is_served_by_both_boards", http3_is_served_by_both_boards),
    ("a_quic_client_that_changes_its_address_keeps_its_board", a_client_that_changes_its_address),
    ("a_quic_connection_outlives_the_appliance", a_quic_connection_outlives_the_appliance),
];

/// A response that was fetched while the client changed its address so often.
#[track_caller]
fn fetch(lab: &Lab, path: &str, changes: &str, another: &[&str]) -> Value {
    let certificate = format!("{ROOT}/services/certificate.pem");
    let arguments = [&[ADDRESS, "443", &certificate, path, changes], another].concat();
    Script::start_by(PYTHON, lab, "client", "http3.py", &arguments).hear()
}

/// All of the file, and one more request, from one board.
#[track_caller]
fn whole(lab: &Lab, told: &Value, file: &str) -> String {
    assert_eq!(
        (&told["status"], told["sha256"].as_str()),
        (&"200".into(), Some(lab.sha256_of(file).as_str())),
        "{told}"
    );
    assert_eq!((&told["board_after"], &told["octets_after"]), (&told["board"], &1024.into()), "{told}");
    told["board"].as_str().unwrap_or_default().to_owned()
}

fn http3_is_served_by_both_boards(lab: &Lab) {
    let boards: Vec<String> = (0..4).map(|_| whole(lab, &fetch(lab, "/100k", "0", &[]), "100k")).collect();
    assert!(
        boards.iter().any(|board| board == "board1") && boards.iter().any(|board| board == "board2"),
        "{boards:?}"
    );
}

fn a_client_that_changes_its_address(lab: &Lab) {
    let _address = Other::new(lab);
    let before = happened(lab, "quic_followed");
    for _ in 0..2 {
        let told = fetch(lab, "/10m", "5", &[OTHER]);
        let board = whole(lab, &told, "10m");
        let addresses = told["addresses"].as_array().cloned().unwrap_or_default();
        assert_eq!(addresses.len(), 6, "{told}");
        assert!(addresses[5].as_str().is_some_and(|address| address.starts_with(OTHER)), "{told}");
        // Each of its sockets has a flow, all at the board that the connection began at.
        let flows = lab.status("flows");
        let rows = flows.as_array().cloned().unwrap_or_default();
        for address in &addresses {
            let port = address.as_str().and_then(|address| address.rsplit(':').next()?.parse::<u64>().ok());
            let mut of_port =
                rows.iter().filter(|row| row["endpoint_port"] == 443 && row["client_port"].as_u64() == port);
            assert!(
                of_port.clone().count() == 1 && of_port.all(|row| row["board"] == board.as_str()),
                "{address}: {flows}"
            );
        }
    }
    assert!(happened(lab, "quic_followed") >= before + 10.0);
    let shown = done(&["status", "flows"]);
    assert!(shown.contains("443"), "{shown}");
}

fn a_quic_connection_outlives_the_appliance(lab: &Lab) {
    let certificate = format!("{ROOT}/services/certificate.pem");
    let arguments = [ADDRESS, "443", &certificate, "/10m", "0", "slowly"];
    let mut client = Script::start_by(PYTHON, lab, "client", "http3.py", &arguments);
    assert_eq!(client.hear()["begun"], true);
    lab.verb(&["kill-appliance"]);
    lab.verb(&["start-appliance"]);
    lab.wait_alive(&["board1", "board2"]);
    client.go_on();
    whole(lab, &client.hear(), "10m");
    wait_until("its flow was made by its id", Duration::from_secs(10), || {
        (happened(lab, "quic_followed") > 0.0).then_some(())
    });
}
