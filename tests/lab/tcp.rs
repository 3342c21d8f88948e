//! Clients whose TCP lacks options, has small segments, or a narrow path.

use ipos_tests::{Curl, Lab};

use crate::Test;

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("a_client_without_timestamps", |lab| without(lab, &[TIMESTAMPS])),
    ("a_client_without_sack", |lab| without(lab, &[SACK])),
    ("a_client_without_window_scaling", |lab| without(lab, &[WINDOW_SCALING])),
    ("a_client_without_any_option", |lab| without(lab, &[TIMESTAMPS, SACK, WINDOW_SCALING])),
    ("a_client_with_mss_536", a_client_with_mss_536),
    ("a_path_narrower_than_its_ends", a_path_narrower_than_its_ends),
    ("the_service_answers_echo_requests", the_service_answers_echo_requests),
];

const TIMESTAMPS: &str = "net.ipv4.tcp_timestamps";
const SACK: &str = "net.ipv4.tcp_sack";
const WINDOW_SCALING: &str = "net.ipv4.tcp_window_scaling";

/// A download and an upload of 10 MB and of 1 MB, both checked, and keep-alive.
fn transfers(lab: &Lab) {
    let answer = Curl::get(lab, "/a/10m", &[]);
    assert_eq!((answer.status, answer.sha256), (200, lab.sha256_of("10m")));
    let file = format!("{}/files/100k", ipos_tests::lab::ROOT);
    let answer = Curl::get(lab, "/app/upload", &["-H", "Expect:", "--data-binary", &format!("@{file}")]);
    let told: serde_json::Value = serde_json::from_str(&answer.body).expect("the application answers JSON");
    assert_eq!(told["sha256"].as_str(), Some(lab.sha256_of("100k").as_str()));
    let url = format!("{}/1k", ipos_tests::lab::URL);
    let text = lab.exec(
        "client",
        &[
            "curl",
            "-sS",
            "-m",
            "10",
            "-w",
            "%{http_code} %{num_connects}\n",
            "-o",
            "/dev/null",
            &url,
            "-o",
            "/dev/null",
            &url,
        ],
    );
    assert_eq!(text, "200 1\n200 0\n");
}

fn without(lab: &Lab, settings: &[&str]) {
    let off: Vec<(&str, &str)> = settings.iter().map(|setting| (*setting, "0")).collect();
    let _restored = lab.sysctls("client", &off);
    transfers(lab);
}

/// Runs a command in a namespace when dropped.
struct After<'lab>(&'lab Lab, &'static str, &'static [&'static str]);

impl Drop for After<'_> {
    fn drop(&mut self) {
        self.0.run(self.1, self.2);
    }
}

fn a_client_with_mss_536(lab: &Lab) {
    lab.exec("client", &["ip", "route", "change", "default", "via", "203.0.113.1", "advmss", "536"]);
    let _restored = After(lab, "client", &["ip", "route", "change", "default", "via", "203.0.113.1"]);
    transfers(lab);
}

fn a_path_narrower_than_its_ends(lab: &Lab) {
    // The router towards the client takes 1300 octets; both ends believe in 1500. The router's "fragmentation needed" goes
    // to the service address, so to the appliance, which must hand it to the board that holds the flow.
    lab.exec("router", &["ip", "link", "set", "client", "mtu", "1300"]);
    let _restored = After(lab, "router", &["ip", "link", "set", "client", "mtu", "1500"]);
    let _forgotten = After(lab, "board1", &["ip", "route", "flush", "cache"]);
    let answer = Curl::get(lab, "/a/10m", &[]);
    assert_eq!((answer.status, answer.sha256), (200, lab.sha256_of("10m")));
    let learned = lab.exec("board1", &["ip", "route", "get", "203.0.113.10", "from", "198.51.100.1"]);
    assert!(learned.contains("mtu 1300"), "board 1 did not hear of the narrow path: {learned}");
}

fn the_service_answers_echo_requests(lab: &Lab) {
    for address in ["198.51.100.1", "192.0.2.130"] {
        let text = lab.exec("client", &["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", address]);
        assert!(text.contains(" 0% packet loss"), "{text}");
    }
}
