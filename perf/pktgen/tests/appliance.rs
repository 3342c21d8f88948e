//! The appliance and the generator, two processes, over shared memory (net_memif): what users run on one machine.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::{Done, Running, Scratch, pktgen, report, scratch, spawn, wait};
use serde_json::Value;

/// The configurations that the README shows.
const EXAMPLE: &str = include_str!("../appliance.memif.toml");
const ONE_CPU: &str = include_str!("../appliance.memif-one-cpu.toml");

/// One appliance at a time: two would be more than a small machine can poll.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The appliance's program: the one in `IPOS_BIN_DIR`, as for the tests in the lab, or one built like this test.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(directory) = std::env::var_os("IPOS_BIN_DIR") {
            return PathBuf::from(directory).join("ipos-appliance");
        }
        let directory = Path::new(env!("CARGO_BIN_EXE_ipos-pktgen")).parent().expect("a profile's directory");
        let target = directory.parent().expect("the target directory");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--profile", "test", "-p", "ipos-appliance", "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.is_ok_and(|status| status.success()), "the appliance can be built");
        target.join("debug/ipos-appliance")
    })
}

/// A running appliance.
struct Appliance {
    running: Option<Running>,
    scratch: Scratch,
    metrics: String,
}

impl Appliance {
    /// The README's appliance, with its files in a place of its own.
    fn start(ethertype: &str) -> Self {
        Self::start_as(EXAMPLE, ethertype)
    }

    /// The same of another example.
    fn start_as(example: &str, ethertype: &str) -> Self {
        let scratch = scratch();
        let metrics = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let metrics = metrics.expect("a free port").to_string();
        let config = example
            .replace("/run/ipos-pktgen/", &scratch.path(""))
            .replace("127.0.0.1:9464", &metrics)
            .replace("0x88b5", ethertype)
            .replace("memory = \"hugepages\"", "memory = \"no-huge\"")
            .replace("idle = \"spin\"", "idle = \"sleep\"")
            .replace(
                "file_prefix = \"ipos\"",
                &format!("file_prefix = \"ipos-memif-{}\"", std::process::id()),
            );
        let path = scratch.path("appliance.toml");
        fs::write(&path, config).expect("a configuration");
        let check = Command::new(program()).args(["check", "--config", &path]).output().expect("a check");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        let mut command = Command::new(program());
        command.args(["run", "--config", &path]);
        let appliance = Self { running: Some(spawn(command)), scratch, metrics };
        wait("the appliance answers", || appliance.status("packets").is_some());
        appliance
    }

    /// What a table says, once the appliance answers.
    fn status(&self, table: &str) -> Option<Value> {
        let socket = self.scratch.path("appliance.sock");
        let output =
            Command::new(program()).args(["status", table, "--json", "--socket", &socket]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }

    /// A table of the running appliance.
    fn table(&self, table: &str) -> Value {
        self.status(table).unwrap_or_else(|| panic!("`status {table}` answers"))
    }

    /// Runs the generator against it.
    fn load(&self, profile: &str, options: &[&str]) -> Done {
        let port = |n: u8, name: &str| {
            let socket = self.scratch.path(name);
            format!("net_memif{n},role=client,id={n},socket-abstract=no,socket={socket}")
        };
        let (wan, farm) = (port(0, "wan.sock"), port(1, "farm.sock"));
        pktgen(&[&[profile, "--client-port", &wan, "--farm-port", &farm][..], options].concat())
    }

    /// Metrics, as Prometheus would read them.
    fn metric(&self, name: &str) -> f64 {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.metrics).expect("the metrics' port");
        let request = "GET /metrics HTTP/1.1\r\nHost: appliance\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let values = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// That every packet the appliance received has exactly one outcome.
    fn assert_sum_is_exact(&self) {
        let received = self.metric("ipos_packets_total{port=\"wan\",direction=\"received\"}")
            + self.metric("ipos_packets_total{port=\"farm\",direction=\"received\"}");
        let settled = self.metric("ipos_outcomes_total");
        assert!(received > 0.0, "packets were received");
        assert_eq!(received, settled, "packets in = packets settled");
        let dropped = self.metric("ipos_drops_total");
        assert_eq!(dropped, self.metric("ipos_outcomes_total{worker=\"0\",outcome=\"dropped\"}"));
    }

    /// Ends it in order.
    fn stop(mut self) {
        let running = self.running.take().expect("a running appliance");
        running.terminate();
        let done = running.wait();
        assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    }
}

#[test]
fn connections_complete_none_fails_and_the_sum_is_exact() {
    let _alone = alone();
    let appliance = Appliance::start("0x88b5");
    let (json, svg) = (appliance.scratch.path("report.json"), appliance.scratch.path("latency.svg"));
    let load = ["--rate", "500", "--duration", "2", "--flows", "5000", "--response-octets", "5000"];
    let done = appliance.load("connections", &[&load[..], &["--json", &json, "--svg", &svg]].concat());
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);

    let report = report(&json);
    let connections = &report["connections"];
    assert_eq!(connections["started"], 1000, "{connections}");
    assert_eq!(connections["completed"], 1000, "{connections}");
    for field in ["failed_timeout", "failed_reset", "failed_answered"] {
        assert_eq!(connections[field], 0, "{field}: {connections}");
    }
    assert_eq!(report["latency"]["from_intended"]["count"], 1000);
    assert_eq!(connections["request"]["from_sent"]["count"], 1000);
    // And the first connection, which shows that the target is there.
    assert_eq!(report["boards"]["closed"], 1001, "{}", report["boards"]);
    assert_eq!(report["boards"]["refused"], 0, "{}", report["boards"]);

    let plot = fs::read_to_string(&svg).expect("a plot");
    let plot = roxmltree::Document::parse(&plot).expect("a plot in XML");
    assert_eq!(plot.descendants().filter(|node| node.has_tag_name("polyline")).count(), 2);

    appliance.assert_sum_is_exact();
    assert_eq!(appliance.metric("ipos_happenings_total{worker=\"0\",event=\"migrated\"}"), 1001.0);
    appliance.stop();
}

#[test]
fn established_connections_are_opened_loaded_and_closed_again() {
    let _alone = alone();
    let appliance = Appliance::start("0x0007");
    let json = appliance.scratch.path("report.json");
    let load = ["--ethertype", "0x0007", "--rate", "2000", "--duration", "1", "--size", "64,594"];
    let flows = ["--flows", "200", "--open-rate", "500"];
    let done = appliance.load("established", &[&load[..], &flows, &["--json", &json]].concat());
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);

    let report = report(&json);
    assert_eq!(report["trial"]["sent"], 2000);
    assert_eq!(report["trial"]["returned"], 2000, "{}", report["trial"]);
    assert_eq!(report["trial"]["duplicates"], 0);
    assert_eq!(report["opening"]["failed_timeout"], 0);
    // Every connection was ended: its boards have let it go, and so will the appliance.
    assert_eq!(report["boards"]["closed"], 200, "{}", report["boards"]);
    assert_eq!(appliance.metric("ipos_happenings_total{worker=\"0\",event=\"closed_by_reset\"}"), 200.0);
    appliance.assert_sum_is_exact();
    appliance.stop();
}

#[test]
fn a_second_run_finds_the_appliance_as_the_first_did() {
    let _alone = alone();
    let appliance = Appliance::start_as(ONE_CPU, "0x88b5");
    let json = appliance.scratch.path("report.json");
    let load = ["--cpu", "1", "--rate", "2000", "--duration", "1", "--flows", "200", "--open-rate", "500"];
    for run in 1..=2 {
        let done = appliance.load("established", &[&load[..], &["--json", &json]].concat());
        assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
        let report = report(&json);
        assert_eq!(report["trial"]["returned"], 2000, "run {run}: {}", report["trial"]);
        // Neither did the boards refuse flows that they had before, nor did the appliance have to ask for any.
        assert_eq!(report["boards"]["refused"], 0, "run {run}: {}", report["boards"]);
        assert_eq!(report["boards"]["asked"], 0, "run {run}: {}", report["boards"]);
        assert_eq!(
            appliance.metric("ipos_happenings_total{worker=\"0\",event=\"migrated\"}"),
            200.0 * f64::from(run)
        );
        assert_eq!(appliance.metric("ipos_mbufs_used"), 0.0, "run {run}: buffers that the ports kept");
    }
    appliance.assert_sum_is_exact();
    appliance.stop();
}

#[test]
fn every_syn_of_a_flood_is_answered_and_leaves_nothing_behind() {
    let _alone = alone();
    let appliance = Appliance::start("0x88b5");
    let json = appliance.scratch.path("report.json");
    let done = appliance.load("syn-flood", &["--rate", "2000", "--duration", "1", "--json", &json]);
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    let report = report(&json);
    assert_eq!(report["trial"]["returned"], 2000, "{}", report["trial"]);
    assert_eq!(appliance.metric("ipos_handshakes_total{worker=\"0\",stage=\"answered\"}"), 2000.0);
    assert_eq!(appliance.metric("ipos_table_entries"), 0.0);
    appliance.assert_sum_is_exact();
    appliance.stop();
}

#[test]
fn a_service_that_is_not_there_is_said_in_one_line() {
    let _alone = alone();
    let appliance = Appliance::start("0x88b5");
    for (options, words) in [
        (&["--service", "198.51.100.9:80"][..], "nobody answers ARP for 198.51.100.9"),
        (&["--appliance-address", "192.0.2.99"], "nobody answers ARP for 192.0.2.99"),
        // The appliance resets what it does not serve.
        (
            &["--service", "198.51.100.1:81", "--timeout-ms", "1000"],
            "no connection to 198.51.100.1:81 completes",
        ),
    ] {
        let done = appliance.load("connections", &[&["--rate", "10"], options].concat());
        assert_eq!(done.status, 1, "{}", done.stderr);
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    let tables = appliance.table("tables");
    assert!(!tables.is_null());
    appliance.stop();
}
