//! Limits for clients: what is beyond them is refused by the appliance, and nobody else notices. The configuration is the one of
//! docs/services.md.

use std::time::Duration;

use ipos_tests::lab::repository;
use ipos_tests::{Curl, Lab, Script, wait_until};
use serde_json::{Value, json};

use crate::Test;
use crate::command::{Edited, done};
use crate::kinds::{ADDRESS, happened};

/// Run in one shape of lab, and with two workers.
pub const TESTS: &[Test] = &[
    ("a_burst_gets_429_and_another_client_does_not", a_burst_gets_429_and_another_client_does_not),
    ("connections_at_once_are_bounded_until_they_end", connections_at_once_are_bounded_until_they_end),
];

/// Run where there is a service of each kind.
pub const OF_KINDS: &[Test] =
    &[("a_tcp_client_beyond_a_limit_is_reset", a_tcp_client_beyond_a_limit_is_reset)];

/// Run where services are merely forwarded.
pub const OF_FORWARDED: &[Test] = &[
    (
        "an_l4_client_beyond_its_limit_is_refused_until_one_has_ended",
        an_l4_client_beyond_its_limit_is_refused,
    ),
    ("l4_connections_of_before_a_restart_go_on_and_do_not_count", l4_connections_of_before_a_restart_go_on),
];

const PATIENCE: Duration = Duration::from_secs(20);

/// A second address of the client's machine.
pub const OTHER: &str = "203.0.113.11";

/// The second address, until it is dropped.
pub struct Other<'lab>(&'lab Lab);

impl<'lab> Other<'lab> {
    /// The address is there from now on.
    pub fn new(lab: &'lab Lab) -> Self {
        lab.exec("client", &["ip", "address", "add", &format!("{OTHER}/24"), "dev", "eth0"]);
        Self(lab)
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        self.0.run("client", &["ip", "address", "del", &format!("{OTHER}/24"), "dev", "eth0"]);
    }
}

/// The documented limits, of this section.
fn documented(section: &str) -> String {
    let text = std::fs::read_to_string(repository().join("docs/services.md")).expect("the documentation");
    let section = text.split_once(&format!("\n{section}\n")).expect("its section").1;
    let block =
        section.split("```").nth(1).and_then(|block| block.strip_prefix("toml\n")).expect("its block");
    let limits = block.split_once("[service.admit]").expect("limits").1;
    format!("[service.admit]{limits}")
}

/// These limits in force for a service, and none in the end.
struct Limited {
    edited: Edited,
}

impl Limited {
    fn put(service: &str, limits: &str) -> Self {
        let edited = Edited::new();
        let before = edited.before();
        let start = before.find(&format!("\nname = \"{service}\"\n")).expect("the service");
        // Behind the service's own keys, and before its map or whatever comes next.
        let end = start + before[start..].find("\n\n").expect("its end");
        let keys = &before[start..end];
        edited.write(&[(keys, &format!("{keys}\n{limits}\n"))]);
        assert!(done(&["reload"]).contains(&format!("service \"{service}\" changed")));
        Self { edited }
    }

    fn end(self) {
        self.edited.write(&[]);
        done(&["reload"]);
    }
}

fn row(lab: &Lab, service: &str) -> Value {
    let services = lab.status("services");
    let rows = services.as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["service"] == service).unwrap_or(Value::Null)
}

fn refused(lab: &Lab, service: &str, limit: &str) -> u64 {
    row(lab, service)["admitted"]["refused"][limit].as_u64().unwrap_or(0)
}

/// The status of a request on a connection of its own.
fn status(lab: &Lab, from: &str) -> u16 {
    Curl::get(lab, "/1k", &["--interface", from]).status
}

fn a_burst_gets_429_and_another_client_does_not(lab: &Lab) {
    const FROM: &str = "203.0.113.10";
    let _address = Other::new(lab);
    let limited = Limited::put("web", &documented("### Limits for clients"));
    let answers: Vec<u16> = (0..40).map(|_| status(lab, FROM)).collect();
    assert_eq!(answers[0], 200, "{answers:?}");
    let beyond = answers.iter().filter(|status| **status == 429).count();
    assert!(beyond > 0 && answers.iter().all(|status| [200, 429].contains(status)), "{answers:?}");
    assert_eq!(status(lab, OTHER), 200, "another client");
    let counted = refused(lab, "web", "client_rate") + refused(lab, "web", "client_connections");
    assert_eq!(counted, beyond as u64);
    assert!(refused(lab, "web", "client_rate") > 0);
    let total = lab.metric("ipos_over_limit_total", &["service=\"web\"", "limit=\"client_rate\""]);
    assert_eq!(total as u64, refused(lab, "web", "client_rate"));
    let last = wait_until("the bucket is empty", PATIENCE, || {
        let answer = Curl::get(lab, "/1k", &["-i"]);
        (answer.status == 429).then_some(answer)
    });
    assert!(last.body.contains("\r\nRetry-After: 1\r\n") && last.board.is_empty(), "{}", last.body);
    wait_until("it is let in again", PATIENCE, || (status(lab, FROM) == 200).then_some(()));
    let shown = done(&["status", "services"]);
    assert!(shown.contains("web: connections: ") && shown.contains(" of 20; refused: "), "{shown}");
    limited.end();
    for _ in 0..20 {
        assert_eq!(status(lab, FROM), 200, "without limits");
    }
}

fn connections_at_once_are_bounded_until_they_end(lab: &Lab) {
    let _address = Other::new(lab);
    let limited = Limited::put("web", "[service.admit]\nclient_connections = 4");
    let mut crowd = Script::start(lab, "client", "crowd.py", &["7", "/1k", "reuse"]);
    let told = crowd.hear();
    assert_eq!(told["failures"], json!(vec!["status 429"; 3]), "{told}");
    let served: u64 = told["boards"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    assert_eq!(served, 4, "{told}");
    assert_eq!(row(lab, "web")["admitted"]["connections"], 4);
    assert_eq!(lab.metric("ipos_service_connections", &["service=\"web\""]), 4.0);
    assert_eq!(Curl::get(lab, "/1k", &[]).status, 429);
    assert_eq!(status(lab, OTHER), 200);
    // Another limit knows who is there.
    limited
        .edited
        .write(&[("\n\n[[service.map]]", "\n\n[service.admit]\nclient_connections = 5\n\n[[service.map]]")]);
    assert!(done(&["reload"]).contains("service \"web\" changed"));
    assert_eq!(Curl::get(lab, "/1k", &[]).status, 200);
    drop(crowd);
    wait_until("all of them have ended", PATIENCE, || {
        (row(lab, "web")["admitted"]["connections"] == 0).then_some(())
    });
    assert_eq!(Curl::get(lab, "/1k", &[]).status, 200);
    limited.end();
}

fn a_tcp_client_beyond_a_limit_is_reset(lab: &Lab) {
    let before = happened(lab, "reset_over_limit");
    let limited = Limited::put("ssh", "[service.admit]\nper_second = 1\nburst = 3");
    let told = Script::once(lab, "quiet.py", &[ADDRESS, "2222", "30"]);
    let failures = told["failures"].as_array().cloned().unwrap_or_default();
    let resets =
        failures.iter().filter(|what| what.as_str().is_some_and(|what| what.contains("ConnectionReset")));
    assert_eq!(resets.count(), failures.len(), "{told}");
    assert!(!failures.is_empty() && failures.len() <= 27, "{told}");
    assert_eq!(happened(lab, "reset_over_limit") - before, failures.len() as f64);
    assert_eq!(refused(lab, "ssh", "rate"), failures.len() as u64);
    wait_until("it is let in again", PATIENCE, || {
        let told = Script::once(lab, "quiet.py", &[ADDRESS, "2222", "1"]);
        (told["failures"] == json!([])).then_some(())
    });
    limited.end();
}

/// Connections to nginx behind kind `l4`, one by one.
struct Several(Script);

impl Several {
    fn start(lab: &Lab) -> Self {
        Self(Script::start(lab, "client", "several.py", &[ADDRESS, "84"]))
    }

    /// What comes of it.
    fn does(&mut self, what: &str) -> Value {
        self.0.tell(what);
        self.0.hear()["outcome"].clone()
    }
}

fn an_l4_client_beyond_its_limit_is_refused(lab: &Lab) {
    let _address = Other::new(lab);
    let before = happened(lab, "reset_over_limit");
    let limited = Limited::put("web-l4", &documented("### Limits for clients of `l4`"));
    let mut several = Several::start(lab);
    for _ in 0..4 {
        assert_eq!(several.does("open"), 200);
    }
    // By RST: a SYN without an answer would end in a time-out.
    assert_eq!(several.does("open"), "ConnectionRefusedError");
    assert_eq!(refused(lab, "web-l4", "client_connections"), 1);
    assert_eq!(happened(lab, "reset_over_limit") - before, 1.0);
    assert_eq!(row(lab, "web-l4")["admitted"]["connections"], 4);
    assert_eq!(lab.metric("ipos_service_connections", &["service=\"web-l4\""]), 4.0);
    let labels = &["service=\"web-l4\"", "limit=\"client_connections\""];
    assert_eq!(lab.metric("ipos_over_limit_total", labels), 1.0);
    let shown = done(&["status", "services"]);
    assert!(shown.contains("web-l4: connections: 4 of 20; refused: "), "{shown}");
    assert_eq!(Curl::get(lab, ":84/1k", &["--interface", OTHER]).status, 200, "another client");
    assert_eq!(several.does("again"), 200, "those that are there notice nothing");
    for end in ["close", "abort"] {
        assert_eq!(several.does(end), end);
        wait_until("the next one is let in", PATIENCE, || (several.does("open") == 200).then_some(()));
        assert_eq!(several.does("open"), "ConnectionRefusedError", "after {end}");
    }
    drop(several);
    wait_until("all of them have ended", PATIENCE, || {
        (row(lab, "web-l4")["admitted"]["connections"] == 0).then_some(())
    });
    assert_eq!(Curl::get(lab, ":84/1k", &[]).status, 200);
    limited.end();
}

fn l4_connections_of_before_a_restart_go_on(lab: &Lab) {
    let limited = Limited::put("web-l4", "[service.admit]\nconnections = 2");
    let (mut old, mut new) = (Several::start(lab), Several::start(lab));
    assert_eq!((old.does("open"), old.does("open")), (json!(200), json!(200)));
    assert_eq!(new.does("open"), "ConnectionRefusedError");
    lab.verb(&["kill-appliance"]);
    lab.verb(&["start-appliance"]);
    assert_eq!(old.does("again"), 200);
    assert_eq!(row(lab, "web-l4")["admitted"]["connections"], 0);
    assert_eq!((new.does("open"), new.does("open")), (json!(200), json!(200)));
    assert_eq!(new.does("open"), "ConnectionRefusedError");
    assert_eq!((old.does("again"), old.does("close")), (json!(200), json!("close")));
    assert_eq!(new.does("open"), "ConnectionRefusedError", "what did not count makes no room");
    assert_eq!(row(lab, "web-l4")["admitted"]["connections"], 2);
    drop((old, new));
    wait_until("all of them have ended", PATIENCE, || {
        (row(lab, "web-l4")["admitted"]["connections"] == 0).then_some(())
    });
    limited.end();
}
