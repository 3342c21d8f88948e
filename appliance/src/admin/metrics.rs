//! The metrics: names and meanings in one list, filled from counters when somebody asks. `docs/metrics.md` has the same
//! list; a test holds one against the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hdrhistogram::Histogram;
use ipos_pipelines::counters::{BadReason, Drop, Happening, LATENCY_BOUNDS_US, Outcome, WorkerCounters};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use super::collector::About;
use super::rows::{ENTRY_TABLES, TrafficRow};
use crate::control::health::Verdict;
use crate::control::snapshot::{ApplicationRow, LaneRow, PortRow, ServerRow, ServiceRow, Snapshot};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// Every metric: name, type, meaning.
pub const METRICS: &[(&str, Type, &str)] = &[
    ("ipos_build_info", Type::Gauge, "Always 1; the version, the appliance's id and its epoch are labels."),
    ("ipos_start_time_seconds", Type::Gauge, "When the appliance started, Unix time."),
    ("ipos_packets_total", Type::Counter, "Packets by port and direction, as the workers saw them."),
    ("ipos_octets_total", Type::Counter, "Octets of those packets, without frame check sequences."),
    ("ipos_send_failed_total", Type::Counter, "Packets that a port's transmit queue had no room for."),
    (
        "ipos_outcomes_total",
        Type::Counter,
        "Received packets by worker and what became of them; their sum is what came in.",
    ),
    ("ipos_steered_in_total", Type::Counter, "Packets that a worker got from the worker that received them."),
    ("ipos_drops_total", Type::Counter, "Dropped packets by worker and reason; each has exactly one."),
    ("ipos_happenings_total", Type::Counter, "What happened to connections, by worker."),
    ("ipos_bad_requests_total", Type::Counter, "Requests answered 400, by worker and reason."),
    (
        "ipos_handshakes_total",
        Type::Counter,
        "SYNs answered, and handshakes proven by the client's first data.",
    ),
    ("ipos_cookies_failed_total", Type::Counter, "Packets without entry whose SYN cookie does not hold."),
    ("ipos_table_entries", Type::Gauge, "Entries by worker's shard and table."),
    ("ipos_datagram_flows", Type::Gauge, "Flows of datagrams that a worker keeps."),
    ("ipos_table_capacity", Type::Gauge, "Entries that a worker's shard can hold."),
    ("ipos_request_buffers", Type::Gauge, "Buffers for unfinished requests in use, by worker."),
    ("ipos_request_buffers_capacity", Type::Gauge, "Buffers for unfinished requests that a worker has."),
    (
        "ipos_worker_busy_ratio",
        Type::Gauge,
        "Share of the last second that a worker spent on polls that found something to do.",
    ),
    ("ipos_worker_polls_total", Type::Counter, "Polls of a worker."),
    ("ipos_worker_busy_polls_total", Type::Counter, "Polls of a worker that found something to do."),
    ("ipos_worker_cycles_total", Type::Counter, "TSC cycles since a worker started."),
    (
        "ipos_worker_busy_cycles_total",
        Type::Counter,
        "TSC cycles that a worker spent on polls that found something to do.",
    ),
    ("ipos_queue_depth", Type::Gauge, "Messages that wait between worker and control core, by queue."),
    (
        "ipos_queue_overflows_total",
        Type::Counter,
        "Messages that found a queue between worker and control core full.",
    ),
    (
        "ipos_queue_backlog",
        Type::Gauge,
        "Commands that wait in the control core for room in a worker's queue.",
    ),
    (
        "ipos_control_turns_total",
        Type::Counter,
        "Turns of the control core's loop, by whether there was something to do.",
    ),
    ("ipos_control_events_total", Type::Counter, "What the control core did."),
    ("ipos_control_ignored_total", Type::Counter, "Frames that the control core ignored, by reason."),
    (
        "ipos_control_dropped_total",
        Type::Counter,
        "Frames and notices that the control core could not hand to a worker.",
    ),
    ("ipos_migrations_total", Type::Counter, "Attempts to migrate an endpoint, by board and how they ended."),
    ("ipos_refusals_total", Type::Counter, "Refused attempts, by board and the board's reason."),
    ("ipos_placements_total", Type::Counter, "Requests placed on a board, by service and why on that one."),
    ("ipos_placements_failed_total", Type::Counter, "Requests that got no board, by service and why."),
    (
        "ipos_migration_seconds",
        Type::Histogram,
        "From a request's first Connection Packet to the accepted acknowledgement.",
    ),
    (
        "ipos_placement_seconds",
        Type::Histogram,
        "From the segment that completed a request's head to the request on its way to its board.",
    ),
    (
        "ipos_move_seconds",
        Type::Histogram,
        "From the first segment of a later request that belongs to another board to the request on its way there.",
    ),
    ("ipos_checks_total", Type::Counter, "Health checks of a service on a board, by how they ended."),
    (
        "ipos_board_healthy",
        Type::Gauge,
        "Whether a service's health checks of a board pass; absent before the first verdict.",
    ),
    ("ipos_migrations_under_way", Type::Gauge, "Requests that wait for a board."),
    ("ipos_questions_under_way", Type::Gauge, "Questions who holds an endpoint that wait for the farm."),
    (
        "ipos_service_waiting",
        Type::Gauge,
        "Requests that wait until their service's application has been started.",
    ),
    (
        "ipos_service_starting",
        Type::Gauge,
        "Whether a board has been asked to start a service's application.",
    ),
    (
        "ipos_sessions",
        Type::Gauge,
        "Sessions in the Cookie Map, by service that learns its application's cookie.",
    ),
    ("ipos_instances", Type::Gauge, "Instances of a service's application, by board and state."),
    ("ipos_boards_alive", Type::Gauge, "Boards whose reports come."),
    ("ipos_board_up", Type::Gauge, "Whether a board's reports come."),
    ("ipos_board_connections", Type::Gauge, "Established TCP connections that a board reports."),
    ("ipos_board_endpoints", Type::Gauge, "Migrated endpoints that a board reports to hold."),
    ("ipos_board_cpu_ratio", Type::Gauge, "CPU utilization that a board reports, of all its cores."),
    ("ipos_board_memory_available_bytes", Type::Gauge, "Available memory that a board reports."),
    (
        "ipos_board_bandwidth_available_bytes_per_second",
        Type::Gauge,
        "Available bandwidth that a board reports.",
    ),
    (
        "ipos_board_cpu_pressure_ratio",
        Type::Gauge,
        "Share of the last ten seconds in which a task of a board waited for a CPU, where its kernel tells.",
    ),
    (
        "ipos_board_memory_pressure_ratio",
        Type::Gauge,
        "Share of the last ten seconds in which a task of a board waited for memory, where its kernel tells.",
    ),
    ("ipos_application_memory_bytes", Type::Gauge, "Resident memory of a board's applications, by process."),
    (
        "ipos_application_cpu_cores",
        Type::Gauge,
        "CPU that a board's applications use, by process; 1 is a core.",
    ),
    ("ipos_application_processes", Type::Gauge, "Processes of a board's applications, by process."),
    ("ipos_board_report_age_seconds", Type::Gauge, "Since a board's last report."),
    (
        "ipos_service_connections",
        Type::Gauge,
        "Connections that count against a service's limits for clients.",
    ),
    (
        "ipos_over_limit_total",
        Type::Counter,
        "Connections refused, by service and the limit for clients that was reached.",
    ),
    (
        "ipos_limited_clients",
        Type::Gauge,
        "Clients that are remembered for their limits, once for each service.",
    ),
    ("ipos_port_up", Type::Gauge, "Whether a port's link is up."),
    (
        "ipos_port_missed_total",
        Type::Counter,
        "Packets that a port dropped because its receive queue was full.",
    ),
    ("ipos_port_errors_total", Type::Counter, "Packets that a port could not receive or send, by direction."),
    (
        "ipos_port_no_mbuf_total",
        Type::Counter,
        "Packets that a port dropped because no packet buffer was left.",
    ),
    ("ipos_mbufs", Type::Gauge, "Packet buffers that there are."),
    ("ipos_mbufs_used", Type::Gauge, "Packet buffers in use, those in the ports' receive queues included."),
];

/// Bounds of the latency histograms, seconds: 1 us to 1 s.
fn latency_bounds() -> [f64; LATENCY_BOUNDS_US.len()] {
    LATENCY_BOUNDS_US.map(|us| f64::from(us) / 1e6)
}

/// Renders the metrics.
pub struct Exporter {
    recorder: PrometheusRecorder,
    /// What the applications' series said last, by board and process: a series whose process has ended must say 0.
    applications: BTreeMap<(String, String), Needs>,
    /// The services that had limits for clients when somebody asked last: those of a service that has none any more say 0.
    limited: BTreeSet<String>,
}

/// What the applications of one name on one board use.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    memory_octets: u64,
    cpu_cores: f64,
    processes: u32,
}

/// Series of applications: boards name their processes, and a series once made stays. Those past it are `other`.
const APPLICATIONS_MAX: usize = 1000;

impl Exporter {
    /// All metrics described, none with a value.
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &latency_bounds())
            .expect("constant bounds that are not empty");
        let recorder = builder.build_recorder();
        metrics::with_local_recorder(&recorder, || {
            for (name, kind, help) in METRICS {
                match kind {
                    Type::Counter => describe_counter!(*name, *help),
                    Type::Gauge => describe_gauge!(*name, *help),
                    Type::Histogram => {
                        describe_histogram!(*name, *help);
                        // So that it is there before the first migration.
                        let _ = histogram!(*name);
                    }
                }
            }
        });
        Self { recorder, applications: BTreeMap::new(), limited: BTreeSet::new() }
    }

    /// Takes latencies, nanoseconds.
    pub fn latencies(&self, latencies: &Histogram<u64>) {
        metrics::with_local_recorder(&self.recorder, || {
            let seconds = histogram!("ipos_migration_seconds");
            for value in latencies.iter_recorded() {
                let count = usize::try_from(value.count_at_value()).unwrap_or(usize::MAX);
                seconds.record_many(value.value_iterated_to() as f64 / 1e9, count);
            }
        });
    }

    /// Takes placements by bucket, as many as were counted since the last call. Each counts as long as its bucket's bound, and
    /// those beyond all bounds as twice the last.
    pub fn placements(&self, counts: &[u64]) {
        self.buckets("ipos_placement_seconds", counts);
    }

    /// The same of moves.
    pub fn moves(&self, counts: &[u64]) {
        self.buckets("ipos_move_seconds", counts);
    }

    fn buckets(&self, name: &'static str, counts: &[u64]) {
        metrics::with_local_recorder(&self.recorder, || {
            let seconds = histogram!(name);
            let bounds = latency_bounds();
            let beyond = bounds.last().map(|last| last * 2.0);
            for (bound, count) in
                bounds.into_iter().chain(beyond).zip(counts).filter(|(_, count)| **count > 0)
            {
                seconds.record_many(bound, usize::try_from(*count).unwrap_or(usize::MAX));
            }
        });
    }

    /// Puts recorded latencies into their buckets. To be called once in a while, or they pile up.
    pub fn upkeep(&self) {
        self.recorder.handle().run_upkeep();
    }

    /// The text in Prometheus' format.
    pub fn render(
        &mut self,
        about: &About,
        workers: &[Arc<WorkerCounters>],
        busy: &[f64],
        snapshot: &Snapshot,
    ) -> String {
        self.take_applications(&snapshot.applications);
        let are_limited = snapshot.services.iter().filter(|row| row.admitted.is_some());
        let limited = are_limited.map(|row| row.service.clone()).collect();
        let before = std::mem::replace(&mut self.limited, limited);
        metrics::with_local_recorder(&self.recorder, || {
            self::about(about);
            for (place, port) in about.ports.iter().enumerate() {
                traffic(port, &TrafficRow::new(place, workers.iter().map(AsRef::as_ref)));
            }
            for (number, counters) in workers.iter().enumerate() {
                worker(&number.to_string(), counters, busy.get(number).copied().unwrap_or(0.0));
            }
            snapshot.lanes.iter().for_each(lane);
            control(snapshot);
            snapshot.services.iter().for_each(placements);
            before.difference(&self.limited).for_each(|service| unlimited(service));
            snapshot.services.iter().for_each(admitted);
            migrations(snapshot);
            snapshot.services.iter().for_each(service);
            snapshot.servers.iter().for_each(board);
            self.applications.iter().for_each(|((board, process), needs)| application(board, process, needs));
            snapshot.services.iter().for_each(checks);
            snapshot.ports.iter().for_each(port);
        });
        self.recorder.handle().render()
    }
}

impl Exporter {
    /// Applications of one name are one series: process ids come and go, and each would be a series for ever.
    fn take_applications(&mut self, rows: &[ApplicationRow]) {
        self.applications.values_mut().for_each(|needs| *needs = Needs::default());
        for row in rows {
            let known = self.applications.contains_key(&(row.board.clone(), row.process.clone()));
            let full = !known && self.applications.len() >= APPLICATIONS_MAX;
            let process = if full { "other" } else { &row.process };
            let needs = self.applications.entry((row.board.clone(), process.to_owned())).or_default();
            needs.memory_octets = needs.memory_octets.saturating_add(row.memory_octets);
            needs.cpu_cores += row.cpu_cores.unwrap_or(0.0);
            needs.processes = needs.processes.saturating_add(u32::from(row.processes));
        }
    }
}

fn application(board: &str, process: &str, needs: &Needs) {
    let level = |name: &'static str, value: f64| {
        gauge!(name, "board" => board.to_owned(), "process" => process.to_owned()).set(value);
    };
    level("ipos_application_memory_bytes", needs.memory_octets as f64);
    level("ipos_application_cpu_cores", needs.cpu_cores);
    level("ipos_application_processes", f64::from(needs.processes));
}

fn about(about: &About) {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("id", about.id.to_string()),
        ("epoch", about.epoch.to_string()),
    ];
    gauge!("ipos_build_info", &labels).set(1.0);
    gauge!("ipos_start_time_seconds").set(about.started_s);
}

fn traffic(port: &str, row: &TrafficRow) {
    let set = |name: &'static str, direction: &'static str, value: u64| {
        counter!(name, "port" => port.to_owned(), "direction" => direction).absolute(value);
    };
    set("ipos_packets_total", "received", row.received_packets);
    set("ipos_packets_total", "sent", row.sent_packets);
    set("ipos_octets_total", "received", row.received_octets);
    set("ipos_octets_total", "sent", row.sent_octets);
    counter!("ipos_send_failed_total", "port" => port.to_owned()).absolute(row.send_failed);
}

fn worker(number: &str, counters: &WorkerCounters, busy: f64) {
    let count = |name: &'static str, label: &'static str, value: &'static str, n: u64| {
        counter!(name, "worker" => number.to_owned(), label => value).absolute(n);
    };
    for outcome in Outcome::ALL {
        count("ipos_outcomes_total", "outcome", outcome.name(), counters.outcome(*outcome).read());
    }
    for reason in Drop::ALL {
        count("ipos_drops_total", "reason", reason.name(), counters.dropped(*reason).read());
    }
    let happened = |what: Happening| counters.happening(what).read();
    for what in Happening::ALL {
        count("ipos_happenings_total", "event", what.name(), happened(*what));
    }
    for reason in BadReason::ALL {
        count("ipos_bad_requests_total", "reason", reason.name(), counters.bad_request(*reason).read());
    }
    count("ipos_handshakes_total", "stage", "answered", happened(Happening::SynAnswered));
    count("ipos_handshakes_total", "stage", "proven", happened(Happening::HandshakeProven));
    let alone = |name: &'static str, n: u64| counter!(name, "worker" => number.to_owned()).absolute(n);
    alone("ipos_cookies_failed_total", happened(Happening::CookieFailed));
    alone("ipos_steered_in_total", counters.steered_in.read());
    alone("ipos_worker_polls_total", counters.polls.read());
    alone("ipos_worker_busy_polls_total", counters.busy_polls.read());
    alone("ipos_worker_cycles_total", counters.total_cycles.read());
    alone("ipos_worker_busy_cycles_total", counters.busy_cycles.read());
    let level = |name: &'static str, value: f64| gauge!(name, "worker" => number.to_owned()).set(value);
    for (table, entries) in ENTRY_TABLES.iter().zip(&counters.entries) {
        gauge!("ipos_table_entries", "worker" => number.to_owned(), "table" => *table)
            .set(entries.read() as f64);
    }
    level("ipos_datagram_flows", counters.datagram_flows.read() as f64);
    level("ipos_table_capacity", counters.entries_capacity.read() as f64);
    level("ipos_request_buffers", counters.pending.read() as f64);
    level("ipos_request_buffers_capacity", counters.pending_capacity.read() as f64);
    level("ipos_worker_busy_ratio", busy);
}

fn lane(lane: &LaneRow) {
    let worker = lane.worker.to_string();
    for (queue, depth, overflows) in
        [("events", lane.events, lane.event_overflows), ("commands", lane.commands, lane.command_overflows)]
    {
        gauge!("ipos_queue_depth", "worker" => worker.clone(), "queue" => queue).set(depth as f64);
        counter!("ipos_queue_overflows_total", "worker" => worker.clone(), "queue" => queue)
            .absolute(overflows);
    }
    gauge!("ipos_queue_backlog", "worker" => worker).set(lane.backlog as f64);
}

fn control(snapshot: &Snapshot) {
    let idle = snapshot.turns.saturating_sub(snapshot.busy_turns);
    counter!("ipos_control_turns_total", "work" => "yes").absolute(snapshot.busy_turns);
    counter!("ipos_control_turns_total", "work" => "no").absolute(idle);
    for (event, count) in &snapshot.did {
        counter!("ipos_control_events_total", "event" => event.clone()).absolute(*count);
    }
    for (reason, count) in &snapshot.ignored {
        counter!("ipos_control_ignored_total", "reason" => reason.clone()).absolute(*count);
    }
    counter!("ipos_control_dropped_total", "what" => "frame").absolute(snapshot.frames_dropped);
    counter!("ipos_control_dropped_total", "what" => "notice").absolute(snapshot.notices_dropped);
    gauge!("ipos_limited_clients").set(snapshot.clients as f64);
    gauge!("ipos_mbufs").set(f64::from(snapshot.mbufs.size));
    gauge!("ipos_mbufs_used").set(f64::from(snapshot.mbufs.in_use));
}

fn placements(service: &ServiceRow) {
    let all = [("ipos_placements_total", &service.placed), ("ipos_placements_failed_total", &service.failed)];
    for (name, counts) in all {
        for (reason, count) in counts {
            let labels = [("service", service.service.clone()), ("reason", reason.clone())];
            counter!(name, &labels).absolute(*count);
        }
    }
}

fn admitted(row: &ServiceRow) {
    let Some(admitted) = &row.admitted else { return };
    gauge!("ipos_service_connections", "service" => row.service.clone()).set(f64::from(admitted.connections));
    for (limit, count) in &admitted.refused {
        let labels = [("service", row.service.clone()), ("limit", limit.clone())];
        counter!("ipos_over_limit_total", &labels).absolute(*count);
    }
}

/// A reload has taken a service's limits away, or the service: nothing counts against them any more.
fn unlimited(service: &str) {
    gauge!("ipos_service_connections", "service" => service.to_owned()).set(0.0);
}

fn migrations(snapshot: &Snapshot) {
    for row in &snapshot.migrations.boards {
        for (outcome, count) in &row.ended {
            let labels = [("board", row.board.clone()), ("outcome", outcome.clone())];
            counter!("ipos_migrations_total", &labels).absolute(*count);
        }
        for (reason, count) in &row.refusals {
            let labels = [("board", row.board.clone()), ("reason", reason.clone())];
            counter!("ipos_refusals_total", &labels).absolute(*count);
        }
    }
    gauge!("ipos_migrations_under_way").set(snapshot.migrations.under_way as f64);
    gauge!("ipos_questions_under_way").set(snapshot.migrations.questions as f64);
    let alive = snapshot.servers.iter().filter(|server| server.alive).count();
    gauge!("ipos_boards_alive").set(alive as f64);
}

fn service(row: &ServiceRow) {
    if let Some(sessions) = row.sessions {
        gauge!("ipos_sessions", "service" => row.service.clone()).set(sessions as f64);
    }
    if row.application.is_none() {
        return;
    }
    let service = || row.service.clone();
    gauge!("ipos_service_waiting", "service" => service()).set(f64::from(row.waiting));
    gauge!("ipos_service_starting", "service" => service()).set(f64::from(u8::from(row.starting.is_some())));
    for candidate in &row.boards {
        let Some(instances) = &candidate.application else { continue };
        for (state, count) in [("listening", instances.listening), ("starting", instances.starting)] {
            let labels =
                [("service", service()), ("board", candidate.board.clone()), ("state", state.to_owned())];
            gauge!("ipos_instances", &labels).set(f64::from(count));
        }
    }
}

fn board(server: &ServerRow) {
    let level = |name: &'static str, value: Option<f64>| {
        if let Some(value) = value {
            gauge!(name, "board" => server.name.clone()).set(value);
        }
    };
    level("ipos_board_up", Some(f64::from(u8::from(server.alive))));
    level("ipos_board_connections", server.connections.map(f64::from));
    level("ipos_board_endpoints", server.endpoints.map(f64::from));
    level("ipos_board_cpu_ratio", server.cpu_ratio);
    level("ipos_board_memory_available_bytes", server.memory_free_octets.map(|octets| octets as f64));
    let bandwidth = server.bandwidth_free_bits.map(|bits| bits as f64 / 8.0);
    level("ipos_board_bandwidth_available_bytes_per_second", bandwidth);
    level("ipos_board_cpu_pressure_ratio", server.cpu_pressure_ratio);
    level("ipos_board_memory_pressure_ratio", server.memory_pressure_ratio);
    level("ipos_board_report_age_seconds", server.report_age_ms.map(|ms| ms as f64 / 1000.0));
}

fn checks(service: &ServiceRow) {
    for board in &service.boards {
        let Some(check) = &board.check else { continue };
        let labels = [("service", service.service.clone()), ("board", board.board.clone())];
        for (result, count) in &check.ended {
            let [service, board] = labels.clone();
            counter!("ipos_checks_total", &[service, board, ("result", result.clone())]).absolute(*count);
        }
        if check.verdict != Verdict::Unknown.name() {
            let passing = check.verdict == Verdict::Passing.name();
            gauge!("ipos_board_healthy", &labels).set(f64::from(u8::from(passing)));
        }
    }
}

fn port(row: &PortRow) {
    let port = || row.port.clone();
    gauge!("ipos_port_up", "port" => port()).set(f64::from(u8::from(row.link_up)));
    counter!("ipos_port_missed_total", "port" => port()).absolute(row.missed);
    counter!("ipos_port_no_mbuf_total", "port" => port()).absolute(row.no_mbuf);
    for (direction, count) in [("received", row.receive_errors), ("sent", row.send_errors)] {
        counter!("ipos_port_errors_total", "port" => port(), "direction" => direction).absolute(count);
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
