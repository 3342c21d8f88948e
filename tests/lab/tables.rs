//! Every table that `status` prints against what `ss`, `ps` and `/proc` say on the boards at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use ipos_tests::lab::{ROOT, binary};
use ipos_tests::{Lab, Script, wait_until};
use serde_json::Value;

use crate::Test;

/// Run in every shape that runs all tests.
pub const TESTS: &[Test] = &[
    ("server_state_is_what_the_boards_say", server_state_is_what_the_boards_say),
    ("listening_sockets_are_those_of_ss", listening_sockets_are_those_of_ss),
    ("applications_are_those_of_ps", applications_are_those_of_ps),
    ("an_applications_cpu_is_that_of_proc", an_applications_cpu_is_that_of_proc),
    ("flows_and_local_tables_are_the_connections_of_ss", flows_and_local_tables_are_the_connections_of_ss),
    ("absurd_reports_are_counted_and_said_once", absurd_reports_are_counted_and_said_once),
];

const BOARDS: [&str; 2] = ["board1", "board2"];
const CONNECTIONS: usize = 20;
/// A report comes every 100 ms, applications every second.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel counts resident pages on each CPU and adds them up in batches of 32, for three kinds of pages (mm_types.h,
/// percpu_counter.h): so far two readers of the same process may differ.
const BATCH_OCTETS: u64 = 32 * 3 * 4096;

/// So many connections of one client that stay until the script goes.
fn crowd(lab: &Lab) -> Script {
    let mut crowd = Script::start(lab, "client", "crowd.py", &[&CONNECTIONS.to_string(), "/1k", "reuse"]);
    let told = crowd.hear();
    assert_eq!((&told["connections"], &told["failures"]), (&CONNECTIONS.into(), &serde_json::json!([])));
    crowd
}

fn server(lab: &Lab, board: &str) -> Value {
    let servers = lab.status("servers");
    let rows = servers.as_array().expect("servers are a list");
    rows.iter().find(|row| row["name"] == board).expect("every board has a row").clone()
}

/// The row of a board's report that was made after this call.
fn next_report(lab: &Lab, board: &str) -> Value {
    let sequence = |row: &Value| row["sequence"].as_u64();
    let before = sequence(&server(lab, board));
    // The next one may have been under way already.
    wait_until(&format!("two reports of {board}"), PATIENCE, || {
        let row = server(lab, board);
        (sequence(&row) >= before.map(|before| before + 2)).then_some(row)
    })
}

/// The rows of a table that are this board's, made after this call.
fn next_rows(lab: &Lab, table: &str, board: &str) -> Vec<Value> {
    let report = next_report(lab, board)["sequence"].as_u64();
    wait_until(&format!("{table} of {board}"), PATIENCE, || {
        let rows = lab.status(table);
        let all = rows.as_array().expect("a table is a list");
        let rows: Vec<Value> = all.iter().filter(|row| row["board"] == board).cloned().collect();
        let is_new = |row: &Value| row["sequence"].is_null() || row["sequence"].as_u64() >= report;
        rows.iter().all(is_new).then_some(rows)
    })
}

/// Lines of `ss`, in words.
fn ss(lab: &Lab, board: &str, options: &str) -> Vec<Vec<String>> {
    let text = lab.exec(board, &["ss", options]);
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The processes in `users:(("nginx",pid=7,fd=3),..)`.
fn users(words: &[String]) -> BTreeMap<u32, String> {
    let text = words.iter().find_map(|word| word.strip_prefix("users:(")).unwrap_or_default();
    let each = text.split("(\"").skip(1).filter_map(|user| {
        let (name, rest) = user.split_once("\",pid=")?;
        Some((rest.split(',').next()?.parse().ok()?, name.to_owned()))
    });
    each.collect()
}

/// A field of `/proc/PID/stat`, counted as proc(5) counts from 3 on.
fn stat(pid: u32, field: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(field - 3)?.parse().ok()
}

const STAT_UTIME: usize = 14;
const STAT_STIME: usize = 15;
const STAT_STARTED: usize = 22;
const STAT_RSS: usize = 24;

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("no number `{key}` in {row}"))
}

fn ratio(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {row}"))
}

/// Octets of a line of /proc/meminfo.
fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("its line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
}

/// `some avg10` of a file of /proc/pressure, 0..=1.
fn pressure(of: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/pressure/{of}")).expect("a kernel with PSI");
    let value = text.split("avg10=").nth(1).and_then(|rest| rest.split(' ').next()).expect("avg10");
    value.parse::<f64>().expect("a number") / 100.0
}

/// Busy and all jiffies of /proc/stat.
fn jiffies() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).expect("its first line");
    let all: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let sum: f64 = all.iter().take(8).sum();
    (sum - all[3] - all[4], sum)
}

fn server_state_is_what_the_boards_say(lab: &Lab) {
    let _crowd = crowd(lab);
    for board in BOARDS {
        let row = next_report(lab, board);
        let established = ss(lab, board, "-Htan")
            .iter()
            .filter(|words| matches!(words[0].as_str(), "ESTAB" | "CLOSE-WAIT"))
            .count();
        assert_eq!(number(&row, "connections"), established as u64, "{board}: {row}");
        let held = local_table(lab, board).iter().filter(|row| row["state"] == "live").count();
        assert_eq!(number(&row, "endpoints"), held as u64, "{board}: {row}");
        // Free memory moves with whatever runs on this machine.
        let (free, total) = (meminfo("MemAvailable"), meminfo("MemTotal"));
        let difference = number(&row, "memory_free_octets").abs_diff(free);
        assert!(difference < total / 20, "{board}: {free} octets are available: {row}");
        // A link of 10 Gbit/s that carries a few requests.
        let free = number(&row, "bandwidth_free_bits");
        assert!((9_900_000_000..=10_000_000_000).contains(&free), "{board}: {row}");
        for of in ["cpu", "memory"] {
            pressure_is_the_kernels(lab, board, of);
        }
    }
    cpu_is_that_of_proc(lab);
}

/// The kernel changes its average every two seconds, the agent reads it every second: sooner or later the report tells a value
/// that was read here too.
fn pressure_is_the_kernels(lab: &Lab, board: &str, of: &str) {
    let key = format!("{of}_pressure_ratio");
    let mut read = Vec::new();
    wait_until(&format!("a {key} of {board} that the kernel told"), PATIENCE, || {
        read.push(pressure(of));
        let told = ratio(&server(lab, board), &key);
        read.iter().any(|value| (value - told).abs() < 1e-6).then_some(())
    });
}

/// The mean of the reports of two seconds against the kernel's own account of them. Each report speaks of its own 100 ms, and
/// not all are seen: hence the tolerance.
fn cpu_is_that_of_proc(lab: &Lab) {
    let mut seen: BTreeMap<u64, f64> = BTreeMap::new();
    next_report(lab, "board1");
    let (busy, all) = jiffies();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let row = next_report(lab, "board1");
        seen.insert(number(&row, "sequence"), ratio(&row, "cpu_ratio"));
    }
    let now = jiffies();
    let (told, real) = (seen.values().sum::<f64>() / seen.len() as f64, (now.0 - busy) / (now.1 - all));
    assert!((told - real).abs() < 0.25, "the reports say {told}, /proc/stat says {real}: {seen:?}");
}

fn listening_sockets_are_those_of_ss(lab: &Lab) {
    for board in BOARDS {
        let told: BTreeSet<(String, u64, u64, u64, u32, String)> = next_rows(lab, "sockets", board)
            .iter()
            .map(|row| {
                let address =
                    if row["dual_stack"] == true { "*" } else { row["address"].as_str().unwrap_or("") };
                let numbers = [number(row, "port"), number(row, "queue"), number(row, "queue_limit")];
                let process = row["process"].as_str().expect("a name").to_owned();
                (
                    address.to_owned(),
                    numbers[0],
                    numbers[1],
                    numbers[2],
                    number(row, "process_id") as u32,
                    process,
                )
            })
            .collect();
        let real = ss(lab, board, "-Hltnp").into_iter().filter_map(|words| {
            let (address, port) = words[3].rsplit_once(':').expect("an address and a port");
            // Bound to IPv6 alone: it can take nothing over.
            if address.starts_with('[') {
                return None;
            }
            let users = users(&words);
            let (pid, name) = users
                .iter()
                .min_by_key(|(pid, _)| (stat(**pid, STAT_STARTED), **pid))
                .expect("somebody listens");
            let name: String = name.chars().take(12).collect();
            let numbers = [port, &words[1], &words[2]].map(|word| word.parse::<u64>().expect("a number"));
            Some((address.to_owned(), numbers[0], numbers[1], numbers[2], *pid, name))
        });
        assert_eq!(told, real.collect(), "{board}");
        assert!(told.iter().any(|row| (row.1, row.5.as_str()) == (80, "nginx")), "{told:?}");
    }
}

/// A process of `ps`.
struct Ps {
    parent: u32,
    rss_octets: u64,
    name: String,
}

fn ps() -> BTreeMap<u32, Ps> {
    let output = std::process::Command::new("ps").args(["-e", "-o", "pid=,ppid=,rss=,comm="]).output();
    let text = String::from_utf8_lossy(&output.expect("ps can be run").stdout).into_owned();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let mut number = || words.next()?.parse::<u64>().ok();
        let (pid, parent, rss) = (number()?, number()?, number()?);
        let name = words.collect::<Vec<_>>().join(" ");
        Some((pid as u32, Ps { parent: parent as u32, rss_octets: rss * 1024, name }))
    };
    text.lines().filter_map(line).collect()
}

/// The process and its descendants.
fn family(all: &BTreeMap<u32, Ps>, root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

fn applications_are_those_of_ps(lab: &Lab) {
    let _crowd = crowd(lab);
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    for board in BOARDS {
        // Processes may start, and memory may grow, between the report and the look; not ten times in a row.
        wait_until(&format!("applications of {board} as ps has them"), PATIENCE, || {
            let rows = next_rows(lab, "applications", board);
            let all = ps();
            let owners: BTreeSet<u32> = ss(lab, board, "-Hltnp")
                .iter()
                .filter_map(|words| {
                    users(words).into_keys().min_by_key(|pid| (stat(*pid, STAT_STARTED), *pid))
                })
                .collect();
            let told: BTreeSet<u32> = rows.iter().map(|row| number(row, "process_id") as u32).collect();
            let same = told == owners
                && rows.iter().all(|row| {
                    let pid = number(row, "process_id") as u32;
                    let family = family(&all, pid);
                    let shown: String = all[&pid].name.chars().take(12).collect();
                    let memory = number(row, "memory_octets");
                    let in_ps: u64 = family.iter().map(|pid| all[pid].rss_octets).sum();
                    let in_proc: Option<u64> =
                        family.iter().map(|pid| Some(stat(*pid, STAT_RSS)? * 4096)).sum();
                    let tolerance = BATCH_OCTETS * cpus * family.len() as u64;
                    row["process"] == shown
                        && number(row, "processes") == family.len() as u64
                        && in_proc == Some(memory)
                        && memory.abs_diff(in_ps) <= tolerance
                });
            same.then_some(())
        });
        let nginx = next_rows(lab, "applications", board)
            .into_iter()
            .find(|row| row["process"] == "nginx")
            .expect("nginx listens");
        assert!(number(&nginx, "processes") >= 2, "its master and a worker: {nginx}");
    }
}

fn an_applications_cpu_is_that_of_proc(lab: &Lab) {
    let mut burn = Script::start(lab, "board2", "burn.py", &["9999"]);
    let told = burn.hear();
    let pids = ["pid", "child"].map(|key| number(&told, key) as u32);
    let ticks = || {
        pids.iter().map(|pid| Some(stat(*pid, STAT_UTIME)? + stat(*pid, STAT_STIME)?)).sum::<Option<u64>>()
    };
    let row_after = |sequence: Option<u64>| {
        wait_until("a report of the new application", PATIENCE, || {
            let rows = lab.status("applications");
            let row = rows
                .as_array()?
                .iter()
                .find(|row| row["process_id"].as_u64() == Some(pids[0].into()))?
                .clone();
            (row["sequence"].as_u64() > sequence && number(&row, "processes") == 2).then_some(row)
        })
    };
    let first = row_after(None);
    let (before, begin) = (ticks().expect("both run"), Instant::now());
    let row = row_after(first["sequence"].as_u64());
    let used = (ticks().expect("both run") - before) as f64 / 100.0 / begin.elapsed().as_secs_f64();
    // The report's second ends a little before this one's; a tick is a hundredth.
    let cpu = ratio(&row, "cpu_cores");
    assert!((cpu - used).abs() < 0.2, "the report says {cpu}, /proc says {used}: {row}");
    assert!(cpu > 0.05 && (900..1500).contains(&number(&row, "interval_ms")), "{row}");
    burn.go_on();
}

/// `ipos-board status --json` on a board: its Local Table.
fn local_table(lab: &Lab, board: &str) -> Vec<Value> {
    let program = binary("ipos-board");
    let config = format!("{ROOT}/{board}/board.toml");
    let text = lab.exec(board, &[&program.to_string_lossy(), "status", "--json", "--config", &config]);
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert!(told["counters"]["frames_received"].is_u64(), "{told}");
    told["endpoints"].as_array().expect("endpoints are a list").clone()
}

/// A client's address and port, and who serves it.
type Served = (String, u64, u32, String);

fn served_by_ss(lab: &Lab, board: &str) -> BTreeSet<Served> {
    let lines = ss(lab, board, "-Htnp").into_iter().filter(|words| words[3] == "198.51.100.1:80");
    let row = |words: Vec<String>| {
        let (address, port) = words[4].rsplit_once(':').expect("an address and a port");
        let (pid, name) = users(&words).pop_first().expect("accepted");
        (address.to_owned(), port.parse().expect("a port"), pid, name)
    };
    lines.map(row).collect()
}

fn served_by_local_table(lab: &Lab, board: &str) -> BTreeSet<Served> {
    let rows = local_table(lab, board).into_iter().filter(|row| row["state"] == "live");
    rows.map(|row| {
        assert_eq!((&row["endpoint"], &row["endpoint_port"]), (&"198.51.100.1".into(), &80.into()));
        assert_eq!(row["appliance"], "192.0.2.2");
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        assert!(text("migration_id").starts_with("0x"), "{row}");
        (text("client"), number(&row, "client_port"), number(&row, "process_id") as u32, text("process"))
    })
    .collect()
}

fn flows_and_local_tables_are_the_connections_of_ss(lab: &Lab) {
    let mut crowd = crowd(lab);
    // Connections of tests before may still be going.
    let real = wait_until("nothing but the crowd's connections", PATIENCE, || {
        let real = BOARDS.map(|board| served_by_ss(lab, board));
        (real.iter().map(BTreeSet::len).sum::<usize>() == CONNECTIONS).then_some(real)
    });
    let expected: BTreeSet<(String, u64, &str)> = BOARDS
        .iter()
        .zip(&real)
        .flat_map(|(board, served)| served.iter().map(|row| (row.0.clone(), row.1, *board)))
        .collect();
    wait_until("the appliance's flows to be the boards' connections", PATIENCE, || {
        let flows = lab.status("flows");
        let rows = flows.as_array().expect("flows are a list");
        let forward = rows.iter().filter(|row| row["table"] == "forward").filter_map(|row| {
            let board = BOARDS.into_iter().find(|board| row["board"] == *board)?;
            Some((row["client"].as_str()?.to_owned(), number(row, "client_port"), board))
        });
        (forward.collect::<BTreeSet<_>>() == expected).then_some(())
    });
    for (board, real) in BOARDS.iter().zip(&real) {
        assert_eq!(served_by_local_table(lab, board), *real, "{board}");
    }
    // The agent is not asked: it need not run.
    lab.verb(&["stop-agent", "1"]);
    assert_eq!(served_by_local_table(lab, "board1"), real[0]);
    let text = {
        let program = binary("ipos-board");
        let config = format!("{ROOT}/board1/board.toml");
        lab.exec("board1", &[&program.to_string_lossy(), "status", "--config", &config])
    };
    lab.verb(&["start-agent", "1"]);
    lab.wait_alive(&BOARDS);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..2], ["CLIENT", "IP"]);
    for row in &real[0] {
        let cells = [&row.0, &row.1.to_string(), "198.51.100.1", "80", "live", &row.2.to_string(), &row.3];
        assert!(lines.iter().any(|line| line.get(..7) == Some(&cells[..])), "{cells:?}:\n{text}");
    }
    assert!(lines.iter().any(|line| line.first() == Some(&"endpoints_held")), "{text}");
    crowd.go_on();
    assert_eq!(crowd.hear()["failures"], serde_json::json!([]));
}

/// Times that each absurd report is sent.
const REPEATS: usize = 5;

fn absurd_reports_are_counted_and_said_once(lab: &Lab) {
    let ignored = || lab.metric("ipos_control_ignored_total", &["reason=\"absurd_report\""]);
    let said = || {
        let log = lab.appliance_log();
        log.lines().filter(|line| line.contains("report ignored") && line.contains("board2")).count()
    };
    let (before, before_said) = (ignored(), said());
    let mac = lab.exec("appliance", &["cat", "/sys/class/net/farm/address"]);
    let board_mac = lab.exec("board2", &["cat", "/sys/class/net/eth0/address"]);
    let ethertype = if lab.shape().options.contains(&"0x0007") { "0x0007" } else { "0x88b5" };
    let repeats = REPEATS.to_string();
    let arguments = ["appl-farm", mac.trim(), ethertype, "192.0.2.12", board_mac.trim(), &repeats];
    let sent = number(&Script::start(lab, "switch", "absurd.py", &arguments).hear(), "sent");
    assert!(sent >= 20 * REPEATS as u64);
    wait_until("every absurd report is counted", PATIENCE, || {
        (ignored() >= before + sent as f64).then_some(())
    });
    assert!((ignored() - before - sent as f64).abs() < 0.5, "and nothing else is");
    assert_eq!(said() - before_said, 3, "once for each type of report");
    // None of it is believed.
    let row = next_report(lab, "board2");
    assert_eq!((&row["liveness"], number(&row, "connections") < 1000), (&"alive".into(), true), "{row}");
    listening_sockets_are_those_of_ss(lab);
}
