//! Services of every kind, each with a real server and a real client: `deploy/lab up --services`, docs/services.md.

use std::process::{Output, Stdio};
use std::time::Duration;

use ipos_tests::client::sha256;
use ipos_tests::lab::{ROOT, said};
use ipos_tests::{Lab, Lossy, Script, wait_until};
use serde_json::{Value, json};

use crate::Test;

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("ssh_runs_a_command_behind_tcp", ssh_runs_a_command_behind_tcp),
    ("ssh_moves_10_mb_each_way_behind_tcp", ssh_moves_10_mb_each_way_behind_tcp),
    ("the_banner_comes_to_a_client_that_sends_nothing", the_banner_comes_to_a_client_that_sends_nothing),
    ("banners_come_over_a_lossy_farm_cable", banners_come_over_a_lossy_farm_cable),
    ("tcp_connections_outlive_the_appliance", tcp_connections_outlive_the_appliance),
    ("a_port_probe_of_tcp_leaves_nothing_behind", a_port_probe_of_tcp_leaves_nothing_behind),
    ("without_a_server_a_tcp_client_is_reset", without_a_server_a_tcp_client_is_reset),
];

/// The services' address.
pub const ADDRESS: &str = "198.51.100.1";
const SSH_PORT: &str = "2222";

/// `ssh` in the client's namespace, with the lab's key, in batch mode.
fn ssh(command: &str) -> Vec<String> {
    let options = [
        "ssh",
        "-F",
        "none",
        "-p",
        SSH_PORT,
        "-i",
        &format!("{ROOT}/services/ssh_client_key"),
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        &format!("UserKnownHostsFile={ROOT}/services/known_hosts"),
        "-o",
        "ConnectTimeout=10",
        &format!("root@{ADDRESS}"),
        command,
    ];
    options.into_iter().map(str::to_owned).collect()
}

fn run_ssh(lab: &Lab, command: &str) -> Output {
    let words = ssh(command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = lab.run("client", &words);
    assert!(output.status.success(), "{command}: {}", said(&output));
    output
}

/// How often something happened to connections.
pub fn happened(lab: &Lab, event: &str) -> f64 {
    lab.metric("ipos_happenings_total", &[&format!("event=\"{event}\"")])
}

/// The entries of the service at this port, by table.
fn flows_of(lab: &Lab, port: u64) -> Vec<Value> {
    let flows = lab.status("flows");
    let rows = flows.as_array().cloned().unwrap_or_default();
    rows.into_iter().filter(|row| row["endpoint_port"] == port).collect()
}

fn ssh_runs_a_command_behind_tcp(lab: &Lab) {
    let before = happened(lab, "server_first");
    let answer = run_ssh(lab, "echo $IPOS_BOARD from $SSH_CONNECTION");
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(matches!(words[0], "board1" | "board2"), "{text}");
    assert_eq!((words[2], words[4], words[5]), ("203.0.113.10", ADDRESS, SSH_PORT), "{text}");
    // Consistent hashing keeps a client at its board.
    for _ in 0..3 {
        let again = run_ssh(lab, "echo $IPOS_BOARD");
        assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), words[0]);
    }
    assert!(happened(lab, "server_first") >= before + 4.0);
}

fn ssh_moves_10_mb_each_way_behind_tcp(lab: &Lab) {
    let down = run_ssh(lab, &format!("cat {ROOT}/files/10m"));
    assert_eq!(sha256(&down.stdout), lab.sha256_of("10m"));
    let words = ssh("sha256sum");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let file = std::fs::File::open(format!("{ROOT}/files/10m")).expect("the lab has the file");
    let output = lab.command("client", &words).stdin(Stdio::from(file)).output().expect("ssh can be run");
    assert!(output.status.success(), "{}", said(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told.split(' ').next(), Some(lab.sha256_of("10m").as_str()));
}

fn the_banner_comes_to_a_client_that_sends_nothing(lab: &Lab) {
    let told = Script::once(lab, "quiet.py", &[ADDRESS, SSH_PORT, "50"]);
    assert_eq!(told["failures"], json!([]), "{told}");
    let lines = told["lines"].as_array().cloned().unwrap_or_default();
    assert!(lines.len() == 1 && lines[0].as_str().is_some_and(|line| line.starts_with("SSH-2.0-OpenSSH")));
    assert_eq!(told["waited_ms"].as_array().map(Vec::len), Some(50));
}

fn banners_come_over_a_lossy_farm_cable(lab: &Lab) {
    let before = happened(lab, "ack_repeated");
    let lossy = Lossy::farm(lab, 20);
    // Of 40 first packets eight are lost; nobody but the appliance would send them again.
    let told = Script::once(lab, "quiet.py", &[ADDRESS, SSH_PORT, "40"]);
    drop(lossy);
    assert_eq!(told["failures"], json!([]), "{told}");
    assert!(happened(lab, "ack_repeated") > before, "no first packet was lost: {told}");
}

fn tcp_connections_outlive_the_appliance(lab: &Lab) {
    let words = ssh("echo here; read answer; echo $answer");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = lab
        .command("client", &words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ssh can be run");
    let mut output = std::io::BufReader::new(child.stdout.take().expect("its output is a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    assert_eq!(line, "here\n");
    lab.verb(&["kill-appliance"]);
    lab.verb(&["start-appliance"]);
    lab.wait_alive(&["board1", "board2"]);
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    std::io::Write::write_all(&mut stdin, b"still\n").expect("ssh reads");
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    assert_eq!(line, "still\n");
    assert!(child.wait().expect("ssh ends").success());
}

fn a_port_probe_of_tcp_leaves_nothing_behind(lab: &Lab) {
    let probe =
        "import socket\nfor _ in range(20): socket.create_connection(('198.51.100.1', 2222), 5).close()";
    let before = happened(lab, "server_first");
    lab.exec("client", &["/usr/bin/python3", "-c", probe]);
    assert!(happened(lab, "server_first") >= before + 20.0);
    wait_until("the probes' entries are gone", Duration::from_secs(30), || {
        flows_of(lab, 2222).is_empty().then_some(())
    });
    for board in ["board1", "board2"] {
        wait_until("their sockets are gone as well", Duration::from_secs(30), || {
            let all = lab.exec(board, &["ss", "-Htn", "state", "connected", "( sport = :2222 )"]);
            all.lines().all(|line| line.starts_with("TIME-WAIT")).then_some(())
        });
    }
}

/// Starts the servers that were stopped.
struct Started<'lab>(&'lab Lab);

impl Drop for Started<'_> {
    fn drop(&mut self) {
        for board in ["1", "2"] {
            self.0.verb(&["start-sshd", board]);
        }
    }
}

fn without_a_server_a_tcp_client_is_reset(lab: &Lab) {
    let before = happened(lab, "reset_unplaced");
    for board in ["1", "2"] {
        lab.verb(&["stop-sshd", board]);
    }
    let started = Started(lab);
    let told = Script::once(lab, "quiet.py", &[ADDRESS, SSH_PORT, "2"]);
    let failures = told["failures"].as_array().cloned().unwrap_or_default();
    assert_eq!(failures.len(), 2, "{told}");
    assert!(
        failures.iter().all(|what| what.as_str().is_some_and(|what| what.contains("ConnectionReset"))),
        "{told}"
    );
    assert_eq!(happened(lab, "reset_unplaced"), before + 2.0);
    drop(started);
    wait_until("a server is there again", Duration::from_secs(10), || {
        let told = Script::once(lab, "quiet.py", &[ADDRESS, SSH_PORT, "1"]);
        (told["failures"] == json!([])).then_some(())
    });
}
