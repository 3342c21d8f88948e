//! Tests of [`super`]: the text is what Prometheus takes, and what the documentation says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::control::board::REFUSALS;
use crate::control::counters::{Checked, Did, Ended, Ignored, NoBoard, OverLimit, Reason};
use crate::control::snapshot::{
    AdmittedRow, CandidateRow, CheckRow, InstancesRow, Mbufs, MigrationRow, Migrations, ServiceRow,
};

const DOCS: &str = include_str!("../../../docs/metrics.md");

fn about() -> About {
    About {
        id: 3,
        epoch: 9,
        started_s: 1.5e9,
        ports: vec!["wan".to_owned(), "farm".to_owned()],
        boards: vec!["board1".to_owned()],
        urls: Vec::new(),
    }
}

fn application(process: &str, process_id: u32, memory_octets: u64) -> ApplicationRow {
    ApplicationRow {
        process: process.to_owned(),
        memory_octets,
        cpu_cores: Some(0.5),
        interval_ms: 1000,
        processes: 2,
        process_id,
        server: [192, 0, 2, 11].into(),
        board: "board1".to_owned(),
        sequence: Some(9),
    }
}

fn snapshot() -> Snapshot {
    let named = |names: Vec<&str>| -> BTreeMap<String, u64> {
        names.into_iter().enumerate().map(|(count, name)| (name.to_owned(), count as u64)).collect()
    };
    Snapshot {
        servers: vec![ServerRow {
            name: "board1".to_owned(),
            alive: true,
            address: [192, 0, 2, 11].into(),
            connections: Some(3),
            cpu_ratio: Some(0.25),
            memory_free_octets: Some(1024),
            bandwidth_free_bits: Some(800),
            cpu_pressure_ratio: Some(0.125),
            memory_pressure_ratio: Some(0.0),
            endpoints: Some(2),
            in_flight: 0,
            placed: 0,
            ended: 0,
            free_ratio: Some(0.75),
            time_ms: 1.5,
            liveness: "alive".to_owned(),
            deaths: 0,
            kept_back_ms: 0,
            report_age_ms: Some(50),
            sequence: Some(9),
            mac: None,
            weight: 100,
            flows: 0,
            drain: None,
            left: 0,
            deadline_ms: None,
        }],
        applications: vec![application("nginx", 7, 10), application("nginx", 8, 5)],
        services: vec![ServiceRow {
            service: "web".to_owned(),
            address: [198, 51, 100, 1].into(),
            port: 80,
            application: Some("nginx".to_owned()),
            sessions: Some(6),
            waiting: 7,
            starting: Some("board1".to_owned()),
            boards: vec![CandidateRow {
                board: "board1".to_owned(),
                weight: 100.0,
                load: None,
                score: None,
                unfit: None,
                application: Some(InstancesRow { listening: 2, starting: 1, ..InstancesRow::default() }),
                check: Some(CheckRow {
                    verdict: "failing".to_owned(),
                    last: None,
                    ended: named(Checked::ALL.iter().map(|how| how.name()).collect()),
                }),
            }],
            policy: "least-load".to_owned(),
            home: None,
            admitted: Some(AdmittedRow {
                connections: 3,
                connections_max: Some(9),
                refused: named(OverLimit::ALL.iter().map(|limit| limit.name()).collect()),
            }),
            placed: named(Reason::ALL.iter().map(|reason| reason.name()).collect()),
            failed: named(NoBoard::ALL.iter().map(|reason| reason.name()).collect()),
        }],
        migrations: Migrations {
            under_way: 1,
            questions: 2,
            boards: vec![MigrationRow {
                board: "board1".to_owned(),
                ended: named(Ended::ALL.iter().map(|ended| ended.name()).collect()),
                refusals: named(REFUSALS.to_vec()),
            }],
        },
        lanes: vec![LaneRow {
            worker: 0,
            events: 1,
            event_overflows: 2,
            commands: 3,
            command_overflows: 4,
            backlog: 5,
        }],
        ports: vec![PortRow {
            port: "wan".to_owned(),
            device: "net_null0".to_owned(),
            role: "wan".to_owned(),
            mac: String::new(),
            address: [192, 0, 2, 130].into(),
            link_up: true,
            speed_mbps: 0,
            missed: 6,
            receive_errors: 7,
            send_errors: 8,
            no_mbuf: 9,
        }],
        mbufs: Mbufs { size: 100, in_use: 40 },
        clients: 17,
        did: named(Did::ALL.iter().map(|did| did.name()).collect()),
        ignored: named(Ignored::ALL.iter().map(|ignored| ignored.name()).collect()),
        ..Snapshot::default()
    }
}

fn text() -> String {
    let counters = Arc::new(WorkerCounters::new());
    counters.ports[1].received_packets.add(11);
    counters.ports[1].received_octets.add(1100);
    counters.dropped(Drop::Vlan).add(4);
    counters.entries[2].set(12);
    let mut exporter = Exporter::new();
    let mut latencies = Histogram::new(2).expect("two digits");
    for ns in [1_500, 90_000, 90_000, 2_000_000_000] {
        latencies.record(ns).expect("it grows");
    }
    exporter.latencies(&latencies);
    let mut placements = [0; LATENCY_BOUNDS_US.len() + 1];
    (placements[2], placements[19]) = (3, 1);
    exporter.placements(&placements);
    exporter.render(&about(), &[counters], &[0.5], &snapshot())
}

/// The value of the line that starts like this.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in:\n{text}"))
}

#[test]
fn counters_come_out_as_they_were_read() {
    let text = text();
    for (series, expected) in [
        ("ipos_packets_total{port=\"farm\",direction=\"received\"}", 11.0),
        ("ipos_octets_total{port=\"farm\",direction=\"received\"}", 1100.0),
        ("ipos_drops_total{worker=\"0\",reason=\"vlan\"}", 4.0),
        ("ipos_table_entries{worker=\"0\",table=\"forward\"}", 12.0),
        ("ipos_worker_busy_ratio{worker=\"0\"}", 0.5),
        ("ipos_service_waiting{service=\"web\"}", 7.0),
        ("ipos_service_starting{service=\"web\"}", 1.0),
        ("ipos_instances{service=\"web\",board=\"board1\",state=\"listening\"}", 2.0),
        ("ipos_queue_depth{worker=\"0\",queue=\"commands\"}", 3.0),
        ("ipos_queue_overflows_total{worker=\"0\",queue=\"events\"}", 2.0),
        ("ipos_migrations_total{board=\"board1\",outcome=\"silent\"}", 2.0),
        ("ipos_placements_total{service=\"web\",reason=\"home\"}", 2.0),
        ("ipos_placements_failed_total{service=\"web\",reason=\"late\"}", 1.0),
        ("ipos_service_connections{service=\"web\"}", 3.0),
        ("ipos_over_limit_total{service=\"web\",limit=\"connections\"}", 2.0),
        ("ipos_limited_clients", 17.0),
        ("ipos_boards_alive", 1.0),
        ("ipos_board_bandwidth_available_bytes_per_second{board=\"board1\"}", 100.0),
        ("ipos_board_report_age_seconds{board=\"board1\"}", 0.05),
        ("ipos_board_cpu_pressure_ratio{board=\"board1\"}", 0.125),
        ("ipos_application_memory_bytes{board=\"board1\",process=\"nginx\"}", 15.0),
        ("ipos_application_cpu_cores{board=\"board1\",process=\"nginx\"}", 1.0),
        ("ipos_application_processes{board=\"board1\",process=\"nginx\"}", 4.0),
        ("ipos_port_missed_total{port=\"wan\"}", 6.0),
        ("ipos_mbufs_used", 40.0),
    ] {
        let found = value(&text, series);
        assert!((found - expected).abs() < 1e-9, "{series}: {found}");
    }
}

#[test]
fn an_application_that_has_ended_says_zero_and_names_without_end_are_one_series() {
    let mut exporter = Exporter::new();
    let mut render = |applications| {
        let snapshot = Snapshot { applications, ..Snapshot::default() };
        exporter.render(&about(), &[], &[], &snapshot)
    };
    let memory = |text: &str, process: &str| {
        value(text, &format!("ipos_application_memory_bytes{{board=\"board1\",process=\"{process}\"}}"))
    };
    assert!((memory(&render(vec![application("nginx", 7, 10)]), "nginx") - 10.0).abs() < 1e-9);
    assert!(memory(&render(Vec::new()), "nginx").abs() < 1e-9);
    let many = (0..APPLICATIONS_MAX as u32 + 9).map(|id| application(&format!("p{id}"), id + 1, 1)).collect();
    let text = render(many);
    // One place is nginx's.
    assert!((memory(&text, "other") - 10.0).abs() < 1e-9, "{}", memory(&text, "other"));
    assert!(!text.contains("process=\"p1007\""));
}

#[test]
fn latencies_fall_into_buckets_from_a_microsecond_to_a_second() {
    let text = text();
    let bucket = |le: &str| value(&text, &format!("ipos_migration_seconds_bucket{{le=\"{le}\"}}"));
    assert_eq!([bucket("0.000001"), bucket("0.000002"), bucket("0.0001"), bucket("1")], [0.0, 1.0, 3.0, 3.0]);
    assert_eq!([bucket("+Inf"), value(&text, "ipos_migration_seconds_count")], [4.0, 4.0]);
    let sum = value(&text, "ipos_migration_seconds_sum");
    assert!((1.98..2.02).contains(&sum), "{sum}");
}

#[test]
fn a_service_whose_limits_are_taken_away_has_no_connections_that_count() {
    let mut exporter = Exporter::new();
    let series = "ipos_service_connections{service=\"web\"}";
    let mut shown = |snapshot: &Snapshot| value(&exporter.render(&about(), &[], &[], snapshot), series);
    let mut without = snapshot();
    without.services[0].admitted = None;
    let gone = Snapshot { services: Vec::new(), ..snapshot() };
    for after in [without, gone] {
        assert_eq!((shown(&snapshot()), shown(&after), shown(&after)), (3.0, 0.0, 0.0));
    }
}

#[test]
fn placements_keep_their_buckets() {
    let text = text();
    let bucket = |le: &str| value(&text, &format!("ipos_placement_seconds_bucket{{le=\"{le}\"}}"));
    assert_eq!([bucket("0.000002"), bucket("0.000005"), bucket("1"), bucket("+Inf")], [0.0, 3.0, 3.0, 4.0]);
}

#[test]
fn every_metric_has_its_type_and_its_help() {
    let text = text();
    let series: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(|name| {
            let base =
                name.strip_suffix("_bucket").or(name.strip_suffix("_sum")).or(name.strip_suffix("_count"));
            base.filter(|base| base.ends_with("_seconds")).unwrap_or(name)
        })
        .collect();
    let listed: BTreeSet<&str> = METRICS.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(series, listed);
    for (name, kind, help) in METRICS {
        let kind = format!("{kind:?}").to_lowercase();
        assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} {kind}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
    }
}

#[test]
fn promtool_finds_nothing_wrong() {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        // It is in Debian's package prometheus, which the lab's tests need; units' tests run without.
        eprintln!("promtool is not installed: not checked");
        return;
    };
    child.stdin.take().expect("a pipe").write_all(text().as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_documentation_lists_every_metric_and_every_value_of_its_labels() {
    let row = |name: &str, help: &str| format!("| `{name}` | {help} |");
    let mut missing: Vec<String> = Vec::new();
    let mut need = |line: String| {
        if !DOCS.contains(&line) {
            missing.push(line);
        }
    };
    for (name, kind, help) in METRICS {
        let kind = format!("{kind:?}").to_lowercase();
        need(format!("| `{name}` | {kind} | "));
        need(format!("| {help} |"));
    }
    Outcome::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    Drop::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    Happening::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    BadReason::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    Checked::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    Ended::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    Did::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    Ignored::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    Reason::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    NoBoard::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    OverLimit::ALL.iter().for_each(|it| need(row(it.name(), it.help())));
    REFUSALS.iter().for_each(|it| need(format!("| `{it}` |")));
    assert!(missing.is_empty(), "docs/metrics.md lacks:\n{}", missing.join("\n"));
    let known: BTreeSet<&str> = Outcome::ALL
        .iter()
        .map(|it| it.name())
        .chain(Drop::ALL.iter().map(|it| it.name()))
        .chain(Happening::ALL.iter().map(|it| it.name()))
        .chain(BadReason::ALL.iter().map(|it| it.name()))
        .chain(Checked::ALL.iter().map(|it| it.name()))
        .chain(Ended::ALL.iter().map(|it| it.name()))
        .chain(Did::ALL.iter().map(|it| it.name()))
        .chain(Ignored::ALL.iter().map(|it| it.name()))
        .chain(Reason::ALL.iter().map(|it| it.name()))
        .chain(NoBoard::ALL.iter().map(|it| it.name()))
        .chain(OverLimit::ALL.iter().map(|it| it.name()))
        .chain(REFUSALS)
        .chain(METRICS.iter().map(|(name, _, _)| *name))
        .collect();
    let rows = DOCS.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let stale: Vec<&str> = rows.filter(|name| !known.contains(name)).collect();
    assert!(stale.is_empty(), "docs/metrics.md lists what is gone: {stale:?}");
}
