//! The appliance dies and comes back while clients are in the middle of things.

use ipos_tests::{Curl, Lab, Script};
use serde_json::json;

use crate::Test;

/// Run in every shape of lab.
pub const CORE: &[Test] = &[
    ("a_download_outlives_the_appliance", a_download_outlives_the_appliance),
    ("an_upload_outlives_the_appliance", an_upload_outlives_the_appliance),
];

/// Run in one.
pub const TESTS: &[Test] = &[
    ("a_download_outlives_the_appliance", a_download_outlives_the_appliance),
    ("an_upload_outlives_the_appliance", an_upload_outlives_the_appliance),
    ("idle_connections_outlive_the_appliance", idle_connections_outlive_the_appliance),
    ("a_time_wait_elsewhere_is_no_holder", a_time_wait_elsewhere_is_no_holder),
    ("new_connections_after_a_restart", new_connections_after_a_restart),
];

/// Octets per second that transfers are held to: 10 MB then take four seconds, in the midst of which the appliance dies.
const RATE: &str = "2600000";

/// SIGKILL, then a start; returns once the new process answers.
fn restart(lab: &Lab) {
    lab.verb(&["kill-appliance"]);
    lab.verb(&["start-appliance"]);
}

fn a_download_outlives_the_appliance(lab: &Lab) {
    let mut transfer = Script::start(lab, "client", "transfer.py", &["download", "/10m", RATE]);
    assert_eq!(transfer.hear()["quarter"], true);
    restart(lab);
    assert!(transfer.running(), "the transfer ended before the appliance was back");
    let told = transfer.hear();
    assert_eq!(
        (told["octets"].as_u64(), told["sha256"].as_str()),
        (Some(10_485_760), Some(lab.sha256_of("10m").as_str()))
    );
}

fn an_upload_outlives_the_appliance(lab: &Lab) {
    let mut transfer = Script::start(lab, "client", "transfer.py", &["upload", "10485760", RATE]);
    assert_eq!(transfer.hear()["quarter"], true);
    restart(lab);
    assert!(transfer.running(), "the transfer ended before the appliance was back");
    let told = transfer.hear();
    assert_eq!((&told["status"], told["octets"].as_u64()), (&json!(200), Some(10_485_760)), "{told}");
    assert_eq!(told["sha256"], told["sent"], "{told}");
}

fn idle_connections_outlive_the_appliance(lab: &Lab) {
    let mut crowd = Script::start(lab, "client", "crowd.py", &["200", "/1k", "reuse"]);
    let before = crowd.hear();
    assert_eq!((&before["connections"], &before["failures"]), (&json!(200), &json!([])), "{before}");
    restart(lab);
    crowd.go_on();
    let after = crowd.hear();
    assert_eq!((&after["failures"], &after["boards"]), (&json!([]), &before["boards"]), "{after}");
}

fn a_time_wait_elsewhere_is_no_holder(lab: &Lab) {
    let mut client = Script::start(lab, "client", "request.py", &["reused-port"]);
    let told = client.hear();
    assert_eq!((&told["before"], &told["board"]), (&json!("board1"), &json!("board2")), "{told}");
    let waits = lab.exec("board1", &["ss", "-Htno", "state", "time-wait", "dport = :20123"]);
    assert!(waits.contains("20123"), "board 1 has no TIME-WAIT of the port: {waits:?}");
    restart(lab);
    client.go_on();
    let told = client.hear();
    assert_eq!((&told["status"], &told["board"]), (&json!(200), &json!("board2")), "{told}");
}

fn new_connections_after_a_restart(lab: &Lab) {
    restart(lab);
    lab.wait_alive(&["board1", "board2"]);
    for (path, board) in [("/a/1k", "board1"), ("/b/1k", "board2")] {
        let answer = Curl::get(lab, path, &[]);
        assert_eq!((answer.status, answer.board.as_str()), (200, board));
    }
}
