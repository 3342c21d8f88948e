//! What operators look at: metrics, status, captures, the agents' own checks.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use ipos_tests::lab::{ROOT, binary, repository, said};
use ipos_tests::{Curl, Lab, wait_until};

use crate::Test;

/// Run also where the EtherType is that of the figure.
pub const CORE: &[Test] = &[("wireshark_reads_the_farm", wireshark_reads_the_farm)];

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("promtool_finds_nothing_wrong", promtool_finds_nothing_wrong),
    ("metrics_cover_what_the_appliance_does", metrics_cover_what_the_appliance_does),
    ("replies_bypass_the_appliance", replies_bypass_the_appliance),
    ("flows_are_listed_by_table", flows_are_listed_by_table),
    ("wireshark_reads_the_farm", wireshark_reads_the_farm),
    ("preflight_names_what_to_mend", preflight_names_what_to_mend),
    ("the_configuration_passes_its_check", the_configuration_passes_its_check),
];

fn promtool_finds_nothing_wrong(lab: &Lab) {
    Curl::get(lab, "/1k", &[]);
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be run: package prometheus");
    let text = lab.metrics();
    child.stdin.take().expect("its input is a pipe").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    assert!(output.status.success() && said(&output).trim().is_empty(), "{}", said(&output));
}

/// What operators were promised.
const FAMILIES: &[&str] = &[
    "ipos_packets_total",
    "ipos_octets_total",
    "ipos_drops_total",
    "ipos_table_entries",
    "ipos_handshakes_total",
    "ipos_cookies_failed_total",
    "ipos_migrations_total",
    "ipos_migration_seconds_bucket",
    "ipos_boards_alive",
    "ipos_queue_depth",
    "ipos_queue_overflows_total",
    "ipos_worker_busy_ratio",
];

fn metrics_cover_what_the_appliance_does(lab: &Lab) {
    let before = lab.metric("ipos_migrations_total", &["board1"]);
    for _ in 0..10 {
        assert_eq!(Curl::get(lab, "/a/1k", &[]).status, 200);
    }
    wait_until("ten migrations to board 1 are counted", Duration::from_secs(5), || {
        (lab.metric("ipos_migrations_total", &["board1"]) >= before + 10.0).then_some(())
    });
    assert!((lab.metric("ipos_boards_alive", &[]) - 2.0).abs() < 0.5);
    let text = lab.metrics();
    let missing: Vec<_> = FAMILIES
        .iter()
        .filter(|name| !text.contains(&format!("\n{name}{{")) && !text.contains(&format!("\n{name} ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?} are missing:\n{text}");
}

/// Octets that an interface has carried, as the kernel of its namespace counts them.
fn octets(lab: &Lab, namespace: &str, interface: &str, direction: &str) -> u64 {
    let path = format!("/sys/class/net/{interface}/statistics/{direction}_bytes");
    lab.exec(namespace, &["cat", &path]).trim().parse().expect("a number")
}

fn replies_bypass_the_appliance(lab: &Lab) {
    let crossed = |lab: &Lab| -> u64 {
        let ports = ["appl-wan", "appl-farm"];
        ports.iter().map(|port| octets(lab, "switch", port, "rx") + octets(lab, "switch", port, "tx")).sum()
    };
    let (before, received) = (crossed(lab), octets(lab, "client", "eth0", "rx"));
    assert_eq!(Curl::get(lab, "/10m", &[]).octets, 10_485_760);
    let (crossed, received) = (crossed(lab) - before, octets(lab, "client", "eth0", "rx") - received);
    assert!(received > 10_485_760, "{received}");
    assert!(crossed * 10 < received, "{crossed} octets crossed the appliance, the client got {received}");
}

fn flows_are_listed_by_table(lab: &Lab) {
    let mut crowd = ipos_tests::Script::start(lab, "client", "crowd.py", &["20", "/1k", "reuse"]);
    assert_eq!(crowd.hear()["connections"], 20);
    let rows = lab.status("flows");
    let rows = rows.as_array().expect("flows are a list");
    let forward =
        rows.iter().filter(|row| row["table"] == "forward" && row["client"] == "203.0.113.10").count();
    assert!(forward >= 20, "{rows:?}");
    crowd.go_on();
    assert_eq!(crowd.hear()["failures"], serde_json::json!([]));
}

/// Captures what one board's cable carries while a request is served; returns the path of the capture.
fn capture(lab: &Lab) -> String {
    let path = format!("{ROOT}/board1.pcap");
    let mut tcpdump = lab
        .command("switch", &["tcpdump", "-U", "-i", "board1", "-w", &path])
        .stderr(Stdio::piped())
        .spawn()
        .expect("tcpdump can be run");
    // It writes the file's header once it listens.
    let octets = || std::fs::metadata(&path).map_or(0, |file| file.len());
    wait_until("tcpdump listens", Duration::from_secs(5), || (octets() > 0).then_some(()));
    assert_eq!(Curl::get(lab, "/a/1k", &[]).status, 200);
    // A report comes every 100 ms, applications every second: two seconds of them, and all before has been written.
    let before = octets();
    wait_until("tcpdump has written the request and reports", Duration::from_secs(10), || {
        (octets() > before + 6000).then_some(())
    });
    tcpdump.kill().expect("tcpdump still runs");
    tcpdump.wait().expect("tcpdump ends");
    path
}

fn wireshark_reads_the_farm(lab: &Lab) {
    let path = capture(lab);
    let script = format!("lua_script:{}", repository().join("docs/ipos.lua").display());
    let output = Command::new("tshark")
        .args(["-X", &script, "-r", &path, "-Y", "ipos_farm", "-T", "fields", "-E", "occurrence=f"])
        .args(["-e", "ipos_farm.type", "-e", "ipos_farm.checksum.good", "-e", "_ws.malformed"])
        .output()
        .expect("tshark can be run");
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for kind in [0x01, 0x02, 0x03, 0x10, 0x11, 0x12] {
        let name = format!("0x{kind:02x}\t1");
        assert!(
            text.lines().any(|line| line.trim_end() == name),
            "no sound message of type {kind:#04x}:\n{text}"
        );
    }
    let wrong: Vec<&str> = text.lines().filter(|line| !line.trim_end().ends_with("\t1")).collect();
    assert!(wrong.is_empty(), "wrong checksum, or malformed: {wrong:?}");
}

fn preflight_names_what_to_mend(lab: &Lab) {
    let program = binary("ipos-board");
    let program = program.to_string_lossy();
    let config = format!("{ROOT}/board2/board.toml");
    let preflight = [&program, "preflight", "--config", &config];
    lab.exec("board2", &preflight);
    {
        let _restored = lab.sysctls("board2", &[("net.ipv4.tcp_syncookies", "0")]);
        let output = lab.run("board2", &preflight);
        assert!(!output.status.success());
        assert!(said(&output).contains("sysctl -w net.ipv4.tcp_syncookies=1"), "{}", said(&output));
    }
    lab.exec("board2", &preflight);
}

fn the_configuration_passes_its_check(lab: &Lab) {
    let program = binary("ipos-appliance");
    let good = format!("{ROOT}/appliance/appliance.toml");
    lab.exec("appliance", &[&program.to_string_lossy(), "check", "--config", &good]);

    // Every mistake at once, each with its line.
    let text = std::fs::read_to_string(&good).expect("the lab's configuration can be read");
    let bad = text
        .replace("iface=farm", "iface=nowhere")
        .replace("control_cpu = 0", "control_cpu = 1000")
        .replace("boards = [\"board1\"]", "boards = [\"board9\"]")
        .replace("id = 1", "id = 1\nidd = 2");
    let path = format!("{ROOT}/bad.toml");
    std::fs::write(&path, &bad).expect("the lab's directory can be written");
    let output = lab.run("appliance", &[&program.to_string_lossy(), "check", "--config", &path]);
    assert!(!output.status.success());
    let told = said(&output);
    for (what, wrong) in
        [("nowhere", "iface=nowhere"), ("1000", "control_cpu"), ("board9", "board9"), ("idd", "idd")]
    {
        let line = bad.lines().position(|line| line.contains(wrong)).expect("the mistake is in the file") + 1;
        assert!(
            told.lines().any(|text| text.contains(what) && text.contains(&format!(":{line}"))),
            "no word of {what} in line {line}:\n{told}"
        );
    }
}
