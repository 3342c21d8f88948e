//! Tables for people: Fig. 12's columns first, ours after them.

use std::net::SocketAddrV4;

use serde_json::Value;

use crate::admin::socket::What;
use crate::control::placement::record::DECISIONS_MAX;

/// A column: title, and what stands in it.
type Column = (&'static str, fn(&Value) -> String);

const SERVERS: &[Column] = &[
    ("SERVER IP", |row| plain(&row["address"])),
    ("TCP CONNECTIONS", |row| plain(&row["connections"])),
    ("CPU", |row| percent(&row["cpu_ratio"])),
    ("MEMORY FREE", |row| octets(&row["memory_free_octets"])),
    ("BANDWIDTH FREE", |row| bits(&row["bandwidth_free_bits"])),
    ("BOARD", |row| plain(&row["name"])),
    ("STATE", state),
    ("CPU PRESSURE", |row| percent(&row["cpu_pressure_ratio"])),
    ("MEMORY PRESSURE", |row| percent(&row["memory_pressure_ratio"])),
    ("WEIGHT", |row| plain(&row["weight"])),
    ("DRAIN", drain),
    ("FLOWS", |row| plain(&row["flows"])),
    ("REPORT AGE", |row| unit(&row["report_age_ms"], "ms")),
    ("ENDPOINTS", |row| plain(&row["endpoints"])),
    ("IN FLIGHT", |row| plain(&row["in_flight"])),
    ("PLACED", |row| plain(&row["placed"])),
    ("ENDED", |row| plain(&row["ended"])),
    ("TIME", |row| row["time_ms"].as_f64().map_or_else(String::new, |ms| format!("{ms:.1} ms"))),
    ("FREE", |row| percent(&row["free_ratio"])),
    ("MAC", |row| plain(&row["mac"])),
];

const SOCKETS: &[Column] = &[
    ("SERVER IP", |row| plain(&row["server"])),
    ("TCP PORT", |row| plain(&row["port"])),
    ("PROCESS", |row| plain(&row["process"])),
    ("PID", |row| plain(&row["process_id"])),
    ("BOUND TO", |row| if row["dual_stack"] == true { "[::]".to_owned() } else { plain(&row["address"]) }),
    ("QUEUE", |row| format!("{}/{}", plain(&row["queue"]), plain(&row["queue_limit"]))),
    ("MPTCP", |row| if row["mptcp"] == true { "yes".to_owned() } else { "no".to_owned() }),
    ("BOARD", |row| plain(&row["board"])),
];

const APPLICATIONS: &[Column] = &[
    ("PROCESS", |row| plain(&row["process"])),
    ("MEMORY", |row| octets(&row["memory_octets"])),
    ("CPU", |row| percent(&row["cpu_cores"])),
    ("PROCESSES", |row| plain(&row["processes"])),
    ("PID", |row| plain(&row["process_id"])),
    ("SERVER IP", |row| plain(&row["server"])),
    ("BOARD", |row| plain(&row["board"])),
];

const URLS: &[Column] = &[
    ("SERVICE", |row| plain(&row["service"])),
    ("HOST", |row| or(&row["host"], "*")),
    ("PATH", |row| or(&row["path"], "(the rest)")),
    ("METHOD", |row| or(&row["method"], "*")),
    ("HEADER", |row| or(&row["header"], "*")),
    ("SERVERS", |row| list(&row["boards"])),
    ("ANSWER", |row| or(&row["answer"], "")),
];

const SERVICES: &[Column] = &[
    ("SERVICE", |row| plain(&row["service"])),
    ("ADDRESS", |row| format!("{}:{}", plain(&row["address"]), plain(&row["port"]))),
    ("BOARD", |row| plain(&row["board"])),
    ("POLICY", |row| plain(&row["policy"])),
    ("WEIGHT", |row| row["weight"].as_f64().map_or_else(String::new, |weight| format!("{weight:.0}"))),
    ("LOAD", |row| plain(&row["load"])),
    ("SCORE", |row| score(&row["score"])),
    ("CHECK", |row| or(&row["check"]["verdict"], "")),
    ("LAST CHECK", |row| or(&row["check"]["last"], "")),
    ("APPLICATION", |row| application(row)),
    ("WAITING", |row| plain(&row["waiting"])),
    ("WHY NOT", |row| or(&row["unfit"], "")),
];

const FLOWS: &[Column] = &[
    ("PROTOCOL", |row| or(&row["protocol"], "tcp")),
    ("CLIENT IP", |row| plain(&row["client"])),
    ("CLIENT PORT", |row| plain(&row["client_port"])),
    ("ENDPOINT IP", |row| plain(&row["endpoint"])),
    ("ENDPOINT PORT", |row| plain(&row["endpoint_port"])),
    ("TABLE", |row| plain(&row["table"])),
    ("FORWARD TO", |row| plain(&row["board"])),
    ("IDLE", |row| unit(&row["idle_ms"], "ms")),
    ("WORKER", |row| plain(&row["worker"])),
];

const COOKIES: &[Column] = &[
    ("COOKIE ID", |row| plain(&row["cookie"])),
    ("SERVER IP", |row| plain(&row["server"])),
    ("SERVICE", |row| plain(&row["service"])),
    ("BOARD", |row| or(&row["board"], "(gone)")),
    ("AGE", |row| unit(&row["age_ms"], "ms")),
    ("LAST USE", |row| unit(&row["idle_ms"], "ms")),
    ("HITS", |row| plain(&row["hits"])),
];

/// As those of flows.
const COOKIE_WIDTHS: [usize; 7] = [16, 15, 15, 12, 14, 14, 10];

/// Flows are printed as they come, so their columns have fixed widths.
const FLOW_WIDTHS: [usize; 9] = [8, 15, 11, 15, 13, 15, 12, 11, 6];

const TABLES: &[Column] = &[
    ("WORKER", |row| plain(&row["worker"])),
    ("TEMPORARY", |row| plain(&row["entries"]["temporary"])),
    ("FORWARD-CONNECT", |row| plain(&row["entries"]["forward-connect"])),
    ("FORWARD", |row| plain(&row["entries"]["forward"])),
    ("LOCAL", |row| plain(&row["entries"]["local"])),
    ("ASKING", |row| plain(&row["entries"]["asking"])),
    ("GIVEN UP", |row| plain(&row["entries"]["given-up"])),
    ("LAYER4", |row| plain(&row["entries"]["layer4"])),
    ("DATAGRAM FLOWS", |row| plain(&row["datagram_flows"])),
    ("CAPACITY", |row| plain(&row["capacity"])),
    ("REQUEST BUFFERS", |row| format!("{}/{}", plain(&row["pending"]), plain(&row["pending_capacity"]))),
];

const MIGRATIONS: &[Column] = &[
    ("BOARD", |row| plain(&row["board"])),
    ("ACKNOWLEDGED", |row| plain(&row["ended"]["acknowledged"])),
    ("REFUSED", |row| plain(&row["ended"]["refused"])),
    ("SILENT", |row| plain(&row["ended"]["silent"])),
    ("ABANDONED", |row| plain(&row["ended"]["abandoned"])),
    ("DEADLINE", |row| plain(&row["ended"]["deadline"])),
    ("REFUSALS", |row| counts(&row["refusals"])),
];

const PORTS: &[Column] = &[
    ("PORT", |row| plain(&row["port"])),
    ("ROLE", |row| plain(&row["role"])),
    ("ADDRESS", |row| plain(&row["address"])),
    ("MAC", |row| plain(&row["mac"])),
    ("LINK", |row| if row["link_up"] == true { "up".to_owned() } else { "down".to_owned() }),
    ("IN PACKETS", |row| plain(&row["traffic"]["received_packets"])),
    ("IN OCTETS", |row| plain(&row["traffic"]["received_octets"])),
    ("OUT PACKETS", |row| plain(&row["traffic"]["sent_packets"])),
    ("OUT OCTETS", |row| plain(&row["traffic"]["sent_octets"])),
    ("MISSED", |row| plain(&row["missed"])),
    ("ERRORS", |row| format!("{}/{}", plain(&row["receive_errors"]), plain(&row["send_errors"]))),
    ("NO MBUF", |row| plain(&row["no_mbuf"])),
    ("DEVICE", |row| plain(&row["device"])),
];

const WORKERS: &[Column] = &[
    ("WORKER", |row| plain(&row["worker"])),
    ("BUSY", |row| percent(&row["busy_ratio"])),
    ("EVENTS", |row| plain(&row["events"])),
    ("COMMANDS", |row| plain(&row["commands"])),
    ("BACKLOG", |row| plain(&row["backlog"])),
    ("OVERFLOWS", |row| format!("{}/{}", plain(&row["event_overflows"]), plain(&row["command_overflows"]))),
    ("PACKETS IN", |row| plain(&row["packets"]["received"])),
    ("= FORWARDED", |row| plain(&row["packets"]["forwarded"])),
    ("+ ANSWERED", |row| plain(&row["packets"]["answered"])),
    ("+ HELD", |row| plain(&row["packets"]["held"])),
    ("+ CONTROL", |row| plain(&row["packets"]["control"])),
    ("+ CHECK", |row| plain(&row["packets"]["check"])),
    ("+ STEERED", |row| plain(&row["packets"]["steered"])),
    ("+ DROPPED", |row| plain(&row["packets"]["dropped"])),
];

const ACCOUNT: &[Column] = &[
    ("PACKETS IN", |row| plain(&row["received"])),
    ("= FORWARDED", |row| plain(&row["forwarded"])),
    ("+ ANSWERED", |row| plain(&row["answered"])),
    ("+ HELD", |row| plain(&row["held"])),
    ("+ CONTROL", |row| plain(&row["control"])),
    ("+ CHECK", |row| plain(&row["check"])),
    ("+ STEERED", |row| plain(&row["steered"])),
    ("+ DROPPED", |row| plain(&row["dropped"])),
    ("REASONS", |row| counts(&row["drops"])),
];

/// The text of a table.
pub fn render(what: What, rows: &Value) -> String {
    match what {
        What::Servers => table(SERVERS, array(rows)),
        What::Sockets => table(SOCKETS, array(rows)),
        What::Applications => table(APPLICATIONS, array(rows)),
        What::Urls => table(URLS, array(rows)),
        What::Services => services(array(rows)),
        What::Flow => rows.to_string(),
        What::Flows | What::Cookies => {
            paged_titles(what) + &array(rows).iter().map(|row| paged(what, row)).collect::<String>()
        }
        What::Tables => table(TABLES, array(rows)),
        What::Migrations => migrations(rows),
        What::Ports => format!(
            "{}\n{}\npacket buffers: {} of {} in use\n",
            table(PORTS, array(&rows["ports"])),
            table(WORKERS, array(&rows["workers"])),
            rows["mbufs"]["in_use"],
            rows["mbufs"]["size"]
        ),
        What::Packets => table(ACCOUNT, std::slice::from_ref(rows)),
    }
}

/// One connection: where it is, and what was decided about it.
pub fn trace(client: SocketAddrV4, endpoint: SocketAddrV4, rows: &Value) -> String {
    let entry = &rows["entry"];
    let place = if entry.is_null() {
        "in no table: it has ended, or never was\n".to_owned()
    } else {
        format!(
            "in the table {} of worker {}, forwarded to {}, idle for {} ms\n",
            plain(&entry["table"]),
            plain(&entry["worker"]),
            plain(&entry["board"]),
            plain(&entry["idle_ms"])
        )
    };
    let decisions = array(&rows["decisions"]);
    let none = format!("no decision is kept: the last {DECISIONS_MAX} since the appliance's start are\n");
    let made = if decisions.is_empty() { none } else { decisions.iter().map(decision).collect() };
    format!("{client} -> {endpoint}\n{place}{made}")
}

fn decision(row: &Value) -> String {
    let score = |row: &Value| format!("{} {}", plain(&row["board"]), score(&row["score"]));
    let scores: Vec<String> = array(&row["scores"]).iter().map(score).collect();
    format!(
        "{} ms ago, service {}: {}, reason {}, policy {}; scores: {}; boards left out: {}\n",
        plain(&row["age_ms"]),
        plain(&row["service"]),
        or(&row["board"], "no board"),
        plain(&row["reason"]),
        plain(&row["policy"]),
        if scores.is_empty() { "-".to_owned() } else { scores.join(", ") },
        plain(&row["left_out"])
    )
}

fn migrations(rows: &Value) -> String {
    let latency = &rows["latency"];
    format!(
        "{}\nunder way: {}, questions: {}\nlatency of {}: p50 {:.0} us, p99 {:.0} us, max {:.0} us\n\
         control core: {}\nignored frames: {}\n",
        table(MIGRATIONS, array(&rows["boards"])),
        rows["under_way"],
        rows["questions"],
        latency["count"],
        latency["p50_us"].as_f64().unwrap_or(0.0),
        latency["p99_us"].as_f64().unwrap_or(0.0),
        latency["max_us"].as_f64().unwrap_or(0.0),
        counts(&rows["control"]),
        counts(&rows["ignored"]),
    )
}

/// What a board's state is; with the deaths and the wait of one that died again and again.
fn state(row: &Value) -> String {
    let word = plain(&row["liveness"]);
    match (row["deaths"].as_u64().unwrap_or(0), row["kept_back_ms"].as_u64().unwrap_or(0)) {
        (0 | 1, _) => word,
        (deaths, 0) => format!("{word}, died {deaths} times"),
        (deaths, ms) => format!("{word}, died {deaths} times: kept back for {:.1} s", ms as f64 / 1000.0),
    }
}

fn score(value: &Value) -> String {
    value.as_f64().map_or_else(|| plain(value), |score| format!("{score:.2}"))
}

/// The boards of each service, and below them what was decided.
fn services(rows: &[Value]) -> String {
    let decided = rows.iter().map(|row| {
        format!(
            "{}: placed: {}; got no board: {}\n",
            plain(&row["service"]),
            counts(&row["placed"]),
            counts(&row["failed"])
        ) + &admitted(row)
    });
    table(SERVICES, &candidates(rows)) + "\n" + &decided.collect::<String>()
}

/// How many connections its limits for clients have let in, and which were reached.
fn admitted(row: &Value) -> String {
    let its = &row["admitted"];
    if its.is_null() {
        return String::new();
    }
    format!(
        "{}: connections: {} of {}; refused: {}\n",
        plain(&row["service"]),
        plain(&its["connections"]),
        or(&its["connections_max"], "any"),
        counts(&its["refused"])
    )
}

/// One row for each board of each service.
fn candidates(services: &[Value]) -> Vec<Value> {
    let rows = services.iter().flat_map(|service| {
        array(&service["boards"]).iter().map(|board| {
            let mut row = board.clone();
            for key in ["service", "address", "port", "policy", "waiting"] {
                row[key] = service[key].clone();
            }
            row["may_start"] = service["application"].clone();
            row["asked"] = (service["starting"] == board["board"]).into();
            row
        })
    });
    rows.collect()
}

/// How a service's application does on a board: what may be started there, and how many run.
fn application(row: &Value) -> String {
    let Some(name) = row["may_start"].as_str() else { return "-".to_owned() };
    let its = &row["application"];
    if its.is_null() {
        return format!("{name}: not offered");
    }
    let mut text = format!("{name} {}/{}", its["listening"], its["instances_max"]);
    if row["asked"] == true || its["starting"].as_u64() > Some(0) {
        text += ", starting";
    }
    if its["leaving"] == true {
        text += ", stopping";
    }
    if its["retry_ms"].as_u64() > Some(0) {
        text += &format!(", {} failures, not for {} ms", its["failures"], its["retry_ms"]);
    }
    text
}

/// The titles of a table that is printed as it comes: flows, or cookies.
pub fn paged_titles(what: What) -> String {
    let (columns, widths) = paged_columns(what);
    fixed(columns.iter().map(|(title, _)| (*title).to_owned()), widths)
}

/// The line of a row of such a table.
pub fn paged(what: What, row: &Value) -> String {
    let (columns, widths) = paged_columns(what);
    fixed(columns.iter().map(|(_, cell)| cell(row)), widths)
}

fn paged_columns(what: What) -> (&'static [Column], &'static [usize]) {
    if what == What::Cookies { (COOKIES, &COOKIE_WIDTHS) } else { (FLOWS, &FLOW_WIDTHS) }
}

fn fixed(cells: impl Iterator<Item = String>, widths: &[usize]) -> String {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

fn table(columns: &[Column], rows: &[Value]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()).collect();
    let width = |place: usize, title: &str| {
        let widths = cells.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count());
        widths.max().unwrap_or(0).max(title.len())
    };
    let widths: Vec<usize> =
        columns.iter().enumerate().map(|(place, (title, _))| width(place, title)).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let titles = line(&mut columns.iter().map(|(title, _)| *title));
    cells.iter().fold(titles, |text, row| text + &line(&mut row.iter().map(String::as_str)))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn or(value: &Value, none: &str) -> String {
    if value.is_null() { none.to_owned() } else { plain(value) }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn unit(value: &Value, unit: &str) -> String {
    if value.is_null() { plain(value) } else { format!("{value} {unit}") }
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| plain(value), |ratio| format!("{:.1} %", ratio * 100.0))
}

fn octets(value: &Value) -> String {
    value.as_f64().map_or_else(|| plain(value), |octets| format!("{:.0} MiB", octets / 1_048_576.0))
}

fn bits(value: &Value) -> String {
    value.as_f64().map_or_else(|| plain(value), |bits| format!("{:.0} Mbit/s", bits / 1e6))
}

fn list(value: &Value) -> String {
    array(value).iter().map(plain).collect::<Vec<_>>().join(", ")
}

/// How far a drain is: `draining, 3 left`, with its deadline.
fn drain(row: &Value) -> String {
    let deadline = row["deadline_ms"].as_u64().filter(|ms| *ms > 0);
    let deadline = deadline.map_or(String::new(), |ms| format!(", deadline in {} s", ms.div_ceil(1000)));
    match row["drain"].as_str() {
        None => "-".to_owned(),
        Some("drained") => "drained".to_owned(),
        Some(word) => format!("{word}, {} left{deadline}", row["left"]),
    }
}

/// Counters that have counted something.
fn counts(value: &Value) -> String {
    let all = value.as_object().into_iter().flatten();
    let some: Vec<String> = all
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if some.is_empty() { "-".to_owned() } else { some.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = json!([{"service": "web", "host": null, "path": "/a/", "boards": ["board1", "board2"]}]);
        assert_eq!(
            render(What::Urls, &rows),
            "SERVICE  HOST  PATH  METHOD  HEADER  SERVERS         ANSWER\n\
             web      *     /a/   *       *       board1, board2\n"
        );
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_zero_counters_are_left_out() {
        let rows = json!([{"address": "192.0.2.11", "connections": null, "cpu_ratio": 0.015}]);
        let text = render(What::Servers, &rows);
        let line = text.lines().nth(1).expect("a row");
        assert!(line.starts_with("192.0.2.11  -                1.5 %"), "{line}");
        assert_eq!(counts(&json!({"a": 0, "b": 2})), "b 2");
    }

    #[test]
    fn an_application_has_the_figures_columns_first() {
        let rows = json!([
            {"process": "nginx", "memory_octets": 20_971_520, "cpu_cores": 1.5, "interval_ms": 1000, "processes": 3,
             "process_id": 77, "server": "192.0.2.11", "board": "board1", "sequence": 9},
            {"process": "new", "memory_octets": 0, "cpu_cores": null, "interval_ms": 0, "processes": 1,
             "process_id": 78, "server": "192.0.2.11", "board": "board1", "sequence": 9}]);
        let text = render(What::Applications, &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "PROCESS  MEMORY  CPU      PROCESSES  PID  SERVER IP   BOARD");
        assert_eq!(lines[1], "nginx    20 MiB  150.0 %  3          77   192.0.2.11  board1");
        assert_eq!(lines[2], "new      0 MiB   -        1          78   192.0.2.11  board1");
    }

    #[test]
    fn a_flow_is_told_with_its_place_and_each_decision() {
        let [client, endpoint] =
            ["203.0.113.7:9", "198.51.100.1:80"].map(|text| text.parse().expect("address and port"));
        let entry = json!({"table": "forward", "worker": 0, "board": "board2", "idle_ms": 3});
        let decision = json!({"age_ms": 12, "service": "web", "board": "board2", "reason": "policy",
            "policy": "least-load", "left_out": 1,
            "scores": [{"board": "board1", "score": 12.4}, {"board": "board2", "score": 3.0}]});
        let text = trace(client, endpoint, &json!({"entry": entry, "decisions": [decision]}));
        assert_eq!(
            text,
            "203.0.113.7:9 -> 198.51.100.1:80\nin the table forward of worker 0, forwarded to board2, idle for \
             3 ms\n12 ms ago, service web: board2, reason policy, policy least-load; scores: board1 12.40, board2 \
             3.00; boards left out: 1\n"
        );
        let gone = trace(client, endpoint, &json!({"entry": null, "decisions": []}));
        assert!(
            gone.contains("in no table") && gone.contains("no decision is kept: the last 65536"),
            "{gone}"
        );
    }

    #[test]
    fn a_service_has_a_line_for_each_of_its_boards() {
        let rows = json!([{"service": "web", "address": "198.51.100.1", "port": 80, "policy": "least-load",
            "placed": {"only_one": 3, "policy": 0}, "failed": {"silent": 0}, "boards": [
            {"board": "board1", "weight": 100.0, "load": 3, "score": 2.5, "unfit": null,
             "check": {"verdict": "passing", "last": "status 200"}},
            {"board": "board2", "weight": 50.0, "load": null, "score": null, "unfit": "draining", "check": null}]}]);
        let text = render(What::Services, &rows);
        assert_eq!(text.lines().count(), 5);
        assert!(text.lines().nth(1).is_some_and(|line| line.contains("passing  status 200")), "{text}");
        assert!(text.lines().nth(2).is_some_and(|line| line.ends_with("draining")), "{text}");
        assert!(text.contains("board1  least-load  100     3     2.50"), "{text}");
        assert!(text.ends_with("\nweb: placed: only_one 3; got no board: -\n"), "{text}");
    }

    #[test]
    fn a_service_says_how_its_application_does_on_each_board() {
        let idle = json!({"listening": 0, "starting": 0, "instances_max": 1, "failures": 0, "retry_ms": 0, "leaving": false});
        let mut failed = idle.clone();
        failed["failures"] = json!(3);
        failed["retry_ms"] = json!(1500);
        let rows = json!([{"service": "web", "address": "198.51.100.1", "port": 80, "application": "nginx",
            "waiting": 7, "starting": "board1", "boards": [
            {"board": "board1", "load": null, "unfit": "no", "application": idle},
            {"board": "board2", "load": null, "unfit": "no", "application": failed},
            {"board": "board3", "load": null, "unfit": "no", "application": null}]}]);
        let text = render(What::Services, &rows);
        for part in
            ["nginx 0/1, starting", "nginx 0/1, 3 failures, not for 1500 ms", "nginx: not offered", " 7 "]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
