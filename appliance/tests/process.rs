//! The program as an operator meets it: start, status, metrics, signals, what is left behind. DPDK runs for real, on
//! memory ports and without hugepages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipos-appliance");

/// How long anything may take here, with other tests on the same CPUs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of one test, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ipos-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a configuration; `metrics` is an address.
    fn config(&self, metrics: &str, more: &str) -> PathBuf {
        let cpu = first_cpu();
        let text = format!(
            r#"
[appliance]
admin_socket = "{socket}"
state_directory = "{state}"
metrics = "{metrics}"
[dpdk]
memory = "no-huge"
memory_mb = 256
control_cpu = {cpu}
worker_cpus = [{cpu}, {cpu}]
control_after_polls = 10
file_prefix = "ipos-process-{pid}-{prefix}"
[worker]
entries = 4096
pending = 64
after_polls = 10
[[port]]
name = "wan"
device = "net_ring0"
role = "wan"
address = "192.0.2.130/25"
[[port]]
name = "farm"
device = "net_ring1"
role = "farm"
address = "192.0.2.2/25"
[[service]]
name = "web"
address = "198.51.100.1"
port = 80
[[board]]
name = "board1"
address = "192.0.2.11"
{more}
"#,
            socket = self.path("admin.sock").display(),
            state = self.path("state").display(),
            prefix = self.0.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            pid = std::process::id(),
        );
        let path = self.path("appliance.toml");
        std::fs::write(&path, text).expect("the directory can be written");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A CPU that this process may use.
fn first_cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = allowed.and_then(|list| list.trim().split([',', '-']).next());
    first.expect("a CPU at least").to_owned()
}

/// A running appliance; killed when the test ends early.
struct Appliance {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Appliance {
    /// Starts it and waits until it says that it runs.
    fn start(config: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = BufReader::new(child.stderr.take().expect("its log is a pipe"));
        let mut appliance = Self { child, log, said: String::new() };
        while !appliance.said.contains("running") {
            let octets = appliance.log.read_line(&mut appliance.said).expect("the log is text");
            assert!(octets > 0, "it ended: {}", appliance.said);
        }
        appliance
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill can be run");
        assert!(sent.success());
    }

    /// Waits for its end: exit code and log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = std::mem::take(&mut self.said);
        self.log.read_to_string(&mut said).expect("the log is text");
        (self.child.wait().expect("it ends").code(), said)
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str], path: &Path) -> Output {
    Command::new(PROGRAM).args(arguments).arg(path).output().expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn status(place: &Place, what: &str) -> Value {
    let output = run(&["status", what, "--json", "--socket"], &place.path("admin.sock"));
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

/// A port that was free a moment ago.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the appliance listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers text");
    answer
}

#[test]
fn an_appliance_starts_shows_itself_and_stops_on_sigterm() {
    let place = Place::new("start");
    let address = free_address();
    let config = place.config(&address, "");
    let appliance = Appliance::start(&config);
    let servers = status(&place, "servers");
    assert_eq!((&servers[0]["name"], &servers[0]["alive"]), (&"board1".into(), &false.into()));
    for what in ["sockets", "urls", "services", "flows", "tables", "migrations", "ports", "packets"] {
        status(&place, what);
        let table = run(&["status", what, "--socket"], &place.path("admin.sock"));
        assert!(table.status.success() && !table.stdout.is_empty(), "{what}: {}", text(&table));
    }
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/metrics").contains("\nipos_boards_alive 0\n"));

    // The ARP requests for the board come back on a ring: received, and accounted for.
    let begin = Instant::now();
    loop {
        let packets = status(&place, "packets");
        let sum: u64 = ["forwarded", "answered", "held", "control", "steered", "dropped"]
            .iter()
            .filter_map(|outcome| packets[*outcome].as_u64())
            .sum();
        if packets["received"].as_u64() == Some(sum) && sum > 0 {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{packets}");
    }

    let begin = Instant::now();
    appliance.signal("-TERM");
    let (code, log) = appliance.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(log.contains("stopped") && !log.contains("ERROR"), "{log}");
    assert!(!place.path("admin.sock").exists());
}

#[test]
fn a_killed_appliance_is_followed_by_one_with_a_higher_epoch() {
    let place = Place::new("kill");
    let config = place.config("", "");
    let appliance = Appliance::start(&config);
    assert!(appliance.said.contains("epoch=1"), "{}", appliance.said);
    appliance.signal("-KILL");
    assert_eq!(appliance.end().0, None);
    assert!(place.path("admin.sock").exists(), "nobody could remove it");
    let appliance = Appliance::start(&config);
    assert!(appliance.said.contains("epoch=2"), "{}", appliance.said);
    appliance.signal("-INT");
    let (code, log) = appliance.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_second_appliance_on_the_same_socket_is_refused() {
    let place = Place::new("second");
    let config = place.config("", "");
    let first = Appliance::start(&config);
    let second = run(&["run", "--config"], &config);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains("another appliance runs here"), "{}", text(&second));
    status(&place, "servers");
    first.signal("-TERM");
    assert_eq!(first.end().0, Some(0));
}

#[test]
fn what_hinders_the_start_is_said_with_its_cure() {
    let place = Place::new("hinder");
    let bad = place.config("", "[[board]]\nname = \"far\"\naddress = \"203.0.113.9\"\n");
    for command in ["check", "run"] {
        let output = run(&[command, "--config"], &bad);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output);
        assert!(said.contains("appliance.toml:") && said.contains("is on no farm port's network"), "{said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = run(&["run", "--config"], &place.config(&address, ""));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("choose another `metrics` address"), "{}", text(&output));
    let good = place.config("", "");
    let output = run(&["check", "--config"], &good);
    assert!(output.status.success(), "{}", text(&output));
    let output = run(&["status", "servers", "--config"], &good);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("is it running"), "{}", text(&output));
}
