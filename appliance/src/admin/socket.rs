//! The admin socket: JSON lines, one request and one response each.
//!
//! Question: `{"what": "servers"}`; for flows also `"worker"` and `"cursor"`, and `"only"` for a part of them; for one
//! flow `"flow": ["client:port", "endpoint:port"]`. Response: `{"rows": ...}`, for flows with `"next"` where the listing goes on; or `{"error": "..."}`. Commands: [`super::commands`].

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use ipos_pipelines::handoff::{BoardId, FlowFilter, Table, WorkerId};
use ipos_wire::flow::Flow;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};

use super::collector::{Collector, NoAnswer};
use super::commands::{Do, carry_out};
use super::rows::{FlowJson, PacketsRow, ShardRow, TrafficRow, table_name};
use crate::control::sessions::rows;
use crate::control::snapshot::Snapshot;

/// Octets of the longest request.
const REQUEST_MAX: u64 = 4096;

/// Connections served at once.
const CONNECTIONS_MAX: usize = 32;

/// How long a client may take for its next request, and for taking an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two pages of flows, over all who list them: 500 pages of 256 flows in a second, whoever asks.
const PAGE_INTERVAL: Duration = Duration::from_millis(2);

/// How often a page is asked for until it comes.
const PAGE_TRIES: u32 = 2;

/// The tables that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Server State Table (Fig. 12)
    Servers,
    /// Listening Sockets Table (Fig. 12)
    #[value(alias = "listening")]
    #[serde(alias = "listening")]
    Sockets,
    /// Application Information Table (Fig. 12)
    Applications,
    /// URL Map (Fig. 12)
    Urls,
    /// Cookie Map (Fig. 12)
    Cookies,
    /// Services, and which boards may take their connections, or why not
    Services,
    /// Temporary, Forward-Connect, Forward and Local Tables (Fig. 12)
    Flows,
    /// One connection, CLIENT:PORT ENDPOINT:PORT: where it is, and why it was placed there
    Flow,
    /// How full the tables are, by worker
    Tables,
    /// Migrations by board and outcome, and how long they took
    Migrations,
    /// Ports and workers
    Ports,
    /// Packets in, and what became of them
    Packets,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The table.
    pub what: What,
    /// Whose flows.
    #[serde(default)]
    pub worker: u8,
    /// From where on.
    #[serde(default)]
    pub cursor: u32,
    /// Which flows.
    #[serde(default)]
    pub only: Only,
    /// Client and endpoint of the one flow that is asked for.
    #[serde(default)]
    pub flow: Option<[SocketAddrV4; 2]>,
}

impl Query {
    /// A question for a table.
    pub fn table(what: What) -> Self {
        Self { what, worker: 0, cursor: 0, only: Only::default(), flow: None }
    }
}

/// Which flows, or sessions, are listed: those that fit all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Only {
    /// Of flows: those of this client, or of the clients of this network (203.0.113.0/24)
    #[arg(long)]
    pub client: Option<String>,
    /// Of flows and cookies: those of this service
    #[arg(long)]
    pub service: Option<String>,
    /// Of flows and cookies: those that this board has
    #[arg(long)]
    pub board: Option<String>,
    /// Of flows: those in this table: temporary, forward-connect, forward or local
    #[arg(long)]
    pub state: Option<String>,
}

/// Where a listing of flows goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// Whose flows.
    pub worker: u8,
    /// From where on.
    pub cursor: u32,
}

/// Serves the socket for ever.
pub async fn serve(listener: UnixListener, collector: Arc<Mutex<Collector>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let pace = Arc::new(Mutex::new(Instant::now()));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (collector, pace) = (Arc::clone(&collector), Arc::clone(&pace));
                tokio::spawn(async move {
                    // A client that goes away, or says nothing, costs nobody else anything.
                    let _ = converse(stream, collector, pace).await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(
    stream: UnixStream,
    collector: Arc<Mutex<Collector>>,
    pace: Arc<Mutex<Instant>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = String::new();
        // By request and answer, not by conversation: whoever pages through millions of flows may read for hours.
        let mut limited = (&mut lines).take(REQUEST_MAX);
        if timeout(PATIENCE, limited.read_line(&mut line)).await?? == 0 {
            return Ok(());
        }
        let reply = match understand(&line) {
            Ok(Request::Query(query)) => {
                if matches!(query.what, What::Flows | What::Cookies) {
                    keep_pace(&pace).await;
                }
                answer(query, &mut *collector.lock().await).await
            }
            Ok(Request::Command(command)) => carry_out(command, &mut *collector.lock().await).await,
            Err(error) => json!({ "error": format!("not a request: {error}") }),
        };
        timeout(PATIENCE, write.write_all(format!("{reply}\n").as_bytes())).await??;
    }
}

/// What a line asks for.
enum Request {
    Query(Query),
    Command(Do),
}

fn understand(line: &str) -> Result<Request, serde_json::Error> {
    let value: Value = serde_json::from_str(line)?;
    if value.get("do").is_some() {
        Ok(Request::Command(serde_json::from_value(value)?))
    } else {
        Ok(Request::Query(serde_json::from_value(value)?))
    }
}

/// Waits until the next page of flows may be asked for: all who list flows share one pace, so that listing costs the workers a
/// bounded share of their time.
async fn keep_pace(pace: &Mutex<Instant>) {
    let mut next = pace.lock().await;
    tokio::time::sleep_until(*next).await;
    *next = Instant::now() + PAGE_INTERVAL;
}

/// The response to a question.
pub async fn answer(query: Query, collector: &mut Collector) -> Value {
    if query.what == What::Flows {
        return flows(query, collector).await;
    }
    if query.what == What::Cookies {
        return cookies(query, collector).await;
    }
    if query.what == What::Flow {
        return flow(&query, collector).await;
    }
    match collector.snapshot().await {
        Ok(snapshot) => json!({ "rows": rows(query.what, collector, &snapshot) }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

async fn flow(query: &Query, collector: &Collector) -> Value {
    let Some([client, endpoint]) = query.flow else {
        return json!({ "error": "which flow? expected \"flow\": [client, endpoint], each \"address:port\"" });
    };
    let flow = Flow {
        client: *client.ip(),
        client_port: client.port(),
        endpoint: *endpoint.ip(),
        endpoint_port: endpoint.port(),
    };
    match collector.trace(flow).await {
        Ok((trace, entry)) => {
            let row = |row| FlowJson::new(&row, trace.worker, &collector.about.boards);
            json!({ "rows": { "entry": entry.map(row), "decisions": trace.decisions } })
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
}

async fn cookies(query: Query, collector: &Collector) -> Value {
    if query.only.client.is_some() || query.only.state.is_some() {
        return json!({ "error": "sessions have no client and no state; expected --service and --board alone" });
    }
    let only = rows::Only { service: query.only.service, board: query.only.board };
    match collector.cookies(query.cursor, only).await {
        Ok(Ok(page)) => {
            let next = page.next.map(|cursor| Next { worker: 0, cursor });
            json!({ "rows": page.rows, "next": next })
        }
        Ok(Err(error)) => json!({ "error": error }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

async fn flows(query: Query, collector: &Collector) -> Value {
    if usize::from(query.worker) >= collector.workers.len() {
        return json!({ "error": format!("no worker {}", query.worker) });
    }
    let filter = match query.only.filter(collector) {
        Ok(filter) => filter,
        Err(error) => return json!({ "error": error }),
    };
    let mut page = Err(NoAnswer);
    // A page is lost where the worker's queue was full when it was done.
    for _ in 0..PAGE_TRIES {
        page = collector.flows(WorkerId(query.worker), query.cursor, filter).await;
        if page.is_ok() {
            break;
        }
    }
    match page {
        Ok(page) => {
            let row = |row| FlowJson::new(row, query.worker, &collector.about.boards);
            let rows: Vec<FlowJson> = page.rows.iter().map(row).collect();
            let next = page.cursor.map(|cursor| Next { worker: query.worker, cursor }).or_else(|| {
                let worker = query.worker + 1;
                (usize::from(worker) < collector.workers.len()).then_some(Next { worker, cursor: 0 })
            });
            json!({ "rows": rows, "next": next })
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
}

impl Only {
    /// The filter that a worker understands.
    fn filter(&self, collector: &Collector) -> Result<FlowFilter, String> {
        let config = collector.live.config();
        let client = self.client.as_ref().map(|text| {
            network(text)
                .ok_or_else(|| format!("\"{text}\" is no client such as 203.0.113.7 or 203.0.113.0/24"))
        });
        let endpoint = self.service.as_ref().map(|name| {
            let found = config.services.iter().find(|service| service.name.value == *name);
            found.map(|service| (service.address.value, service.port)).ok_or_else(|| {
                let known: Vec<&str> = config.services.iter().map(|s| s.name.value.as_str()).collect();
                format!("no service named \"{name}\"; the services are {}", known.join(", "))
            })
        });
        let boards = &collector.about.boards;
        let board = self.board.as_ref().map(|name| {
            // One that has left may have flows all the same; its name may have been another board's before.
            let left = || Some(BoardId(boards.iter().rposition(|board| board == name)? as u16));
            let id = collector.live.id_of(name).or_else(left);
            id.ok_or_else(|| format!("no board named \"{name}\"; the boards are {}", boards.join(", ")))
        });
        let tables = [Table::Temporary, Table::ForwardConnect, Table::Forward, Table::Local];
        let table = self.state.as_ref().map(|name| {
            let known = tables.map(table_name);
            let found = tables.into_iter().find(|table| table_name(*table) == name);
            found.ok_or_else(|| format!("no state \"{name}\"; expected {}", known.join(", ")))
        });
        Ok(FlowFilter {
            client: client.transpose()?,
            endpoint: endpoint.transpose()?,
            board: board.transpose()?,
            table: table.transpose()?,
            flow: None,
        })
    }
}

/// An address, or a network with the length of its prefix: the address and the mask.
fn network(text: &str) -> Option<(u32, u32)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let (address, prefix): (Ipv4Addr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
    let mask = u32::MAX.checked_shl(32u32.checked_sub(prefix)?).unwrap_or(0);
    Some((address.to_bits() & mask, mask))
}

fn rows(what: What, collector: &Collector, snapshot: &Snapshot) -> Value {
    let workers = || collector.workers.iter().map(AsRef::as_ref);
    match what {
        What::Servers => json!(snapshot.servers),
        What::Sockets => json!(snapshot.sockets),
        What::Applications => json!(snapshot.applications),
        What::Urls => json!(collector.about.urls),
        What::Services => json!(snapshot.services),
        What::Tables => {
            json!(
                workers()
                    .enumerate()
                    .map(|(worker, counters)| ShardRow::new(worker, counters))
                    .collect::<Vec<_>>()
            )
        }
        What::Migrations => {
            let mut all = json!(snapshot.migrations);
            all["latency"] = json!(collector.latency());
            all["control"] = json!(snapshot.did);
            all["ignored"] = json!(snapshot.ignored);
            all
        }
        What::Ports => ports(collector, snapshot),
        What::Packets => {
            let each: Vec<PacketsRow> = workers().map(PacketsRow::new).collect();
            let mut sum = json!(each.iter().fold(PacketsRow::default(), PacketsRow::add));
            sum["workers"] = json!(each);
            sum
        }
        // Answered by the worker, or by the control core page by page, and not here.
        What::Flows | What::Flow | What::Cookies => Value::Null,
    }
}

fn ports(collector: &Collector, snapshot: &Snapshot) -> Value {
    let ports = snapshot.ports.iter().enumerate().map(|(place, port)| {
        let mut row = json!(port);
        row["traffic"] = json!(TrafficRow::new(place, collector.workers.iter().map(AsRef::as_ref)));
        row
    });
    let lanes = snapshot.lanes.iter().map(|lane| {
        let mut row = json!(lane);
        let worker = usize::from(lane.worker);
        row["busy_ratio"] = json!(collector.busy().get(worker));
        row["packets"] = json!(collector.workers.get(worker).map(|counters| PacketsRow::new(counters)));
        row
    });
    json!({
        "ports": ports.collect::<Vec<_>>(),
        "workers": lanes.collect::<Vec<_>>(),
        "mbufs": snapshot.mbufs,
        "control": { "turns": snapshot.turns, "busy_turns": snapshot.busy_turns },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hdrhistogram::Histogram;
    use ipos_pipelines::counters::{Outcome, WorkerCounters};
    use ipos_pipelines::handoff::{FlowPage, FlowRow};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

    use super::super::collector::About;
    use super::super::live::tests::live;
    use super::super::rows::UrlRow;
    use super::*;
    use crate::control::sessions::rows::{CookiePage, CookieRow};
    use crate::control::snapshot::{Migrations, Snapshot};
    use crate::control::testing::flow;
    use crate::control::trace::{DecisionRow, Trace};
    use crate::control::turn::Request;

    /// A collector, and a control core that answers on a thread until the collector is gone. Worker 1 has two pages of
    /// flows; what is asked of worker 0 gets lost.
    fn collector() -> Collector {
        let (ask, requests) = crossbeam_channel::bounded(4);
        std::thread::spawn(move || {
            for request in requests {
                match request {
                    Request::Snapshot(reply) => {
                        let migrations = Migrations { under_way: 3, ..Migrations::default() };
                        let did = BTreeMap::from([("placed".to_owned(), 8)]);
                        let snapshot = Snapshot { migrations, did, ..Snapshot::default() };
                        let mut latency = Histogram::new(2).expect("two digits");
                        latency.record(5000).expect("it grows");
                        let _ = reply.send((snapshot, latency));
                    }
                    Request::Flows { worker: WorkerId(0), .. } => {}
                    Request::Trace { flow, reply } => {
                        let decision = DecisionRow {
                            age_ms: 5,
                            service: "web".to_owned(),
                            policy: "least-load".to_owned(),
                            board: Some("board1".to_owned()),
                            reason: "policy".to_owned(),
                            scores: Vec::new(),
                            left_out: 1,
                        };
                        let known = flow.client_port == 7;
                        let decisions = if known { vec![decision] } else { Vec::new() };
                        let _ = reply.send(Trace { worker: 1, decisions });
                    }
                    Request::Flows { worker, filter: FlowFilter { flow: Some(only), .. }, reply, .. } => {
                        let row = FlowRow {
                            protocol: ipos_wire::ipos::Protocol::Tcp,
                            flow: only,
                            table: Table::Forward,
                            board: Some(BoardId(0)),
                            idle_ms: 3,
                        };
                        let rows = if only.client_port == 7 { vec![row] } else { Vec::new() };
                        let page = FlowPage {
                            request: 1,
                            worker,
                            cursor: None,
                            filter: FlowFilter::default(),
                            rows,
                        };
                        let _ = reply.send(Box::new(page));
                    }
                    Request::Cookies { from, only, reply } => {
                        let row = CookieRow {
                            cookie: format!("{from:016x}"),
                            server: [192, 0, 2, 11].into(),
                            service: "web".to_owned(),
                            board: Some("board1".to_owned()),
                            age_ms: 7,
                            idle_ms: 5,
                            hits: 3,
                        };
                        let next = (from == 0).then_some(1024);
                        let known = only.board.is_none_or(|board| board == "board1");
                        let page = CookiePage { rows: vec![row], next };
                        let _ = reply.send(known.then_some(page).ok_or("no such board".to_owned()));
                    }
                    Request::Taken(_) | Request::Order { .. } | Request::Apply { .. } => {}
                    Request::Flows { worker, cursor, reply, .. } => {
                        let row = FlowRow {
                            protocol: ipos_wire::ipos::Protocol::Tcp,
                            flow: flow(7),
                            table: Table::Forward,
                            board: Some(BoardId(0)),
                            idle_ms: 9,
                        };
                        let cursor = (cursor == 0).then_some(1);
                        let page = FlowPage {
                            request: 1,
                            worker,
                            cursor,
                            filter: FlowFilter::default(),
                            rows: vec![row],
                        };
                        let _ = reply.send(Box::new(page));
                    }
                }
            }
        });
        let about = About {
            id: 1,
            epoch: 1,
            started_s: 0.0,
            ports: vec!["wan".to_owned()],
            boards: vec!["board1".to_owned()],
            urls: vec![UrlRow { service: "web".to_owned(), ..UrlRow::default() }],
        };
        let workers = vec![Arc::new(WorkerCounters::new()), Arc::new(WorkerCounters::new())];
        workers[1].outcome(Outcome::Forwarded).add(4);
        workers[1].steered_in.add(4);
        Collector::new(about, workers, ask, live())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(future)
    }

    fn ask(what: What, worker: u8, cursor: u32) -> Value {
        block_on(async { answer(Query { worker, cursor, ..Query::table(what) }, &mut collector()).await })
    }

    #[test]
    fn every_table_has_its_shape() {
        assert_eq!(ask(What::Servers, 0, 0), json!({ "rows": [] }));
        assert_eq!(ask(What::Applications, 0, 0), json!({ "rows": [] }));
        assert_eq!(ask(What::Urls, 0, 0)["rows"][0]["service"], "web");
        let packets = ask(What::Packets, 0, 0);
        assert_eq!((&packets["rows"]["received"], &packets["rows"]["forwarded"]), (&json!(4), &json!(4)));
        assert_eq!(packets["rows"]["workers"][1]["forwarded"], 4);
        assert_eq!(ask(What::Tables, 0, 0)["rows"][1]["worker"], 1);
        let migrations = ask(What::Migrations, 0, 0);
        assert_eq!(
            (&migrations["rows"]["under_way"], &migrations["rows"]["control"]["placed"]),
            (&json!(3), &json!(8))
        );
        assert_eq!(migrations["rows"]["latency"]["count"], 1);
        assert!(ask(What::Ports, 0, 0)["rows"]["workers"].is_array());
    }

    #[test]
    fn flows_come_page_by_page_and_say_where_they_go_on() {
        let first = ask(What::Flows, 1, 0);
        let row = &first["rows"][0];
        assert_eq!(
            (&row["client_port"], &row["table"], &row["board"]),
            (&json!(7), &json!("forward"), &json!("board1"))
        );
        assert_eq!(first["next"], json!({ "worker": 1, "cursor": 1 }));
        assert_eq!(ask(What::Flows, 1, 1)["next"], Value::Null);
        assert_eq!(ask(What::Flows, 2, 0)["error"], "no worker 2");
        let lost = ask(What::Flows, 0, 0);
        assert!(lost["error"].as_str().is_some_and(|error| error.contains("does not answer")), "{lost}");
    }

    #[test]
    fn sessions_come_page_by_page_of_a_service_or_a_board() {
        let ask = |cursor, only: Only| {
            let query = Query { cursor, only, ..Query::table(What::Cookies) };
            block_on(async { answer(query, &mut collector()).await })
        };
        let first = ask(0, Only::default());
        assert_eq!((&first["rows"][0]["hits"], &first["next"]["cursor"]), (&json!(3), &json!(1024)));
        assert_eq!(ask(1024, Only::default())["next"], Value::Null);
        let board = Only { board: Some("board9".to_owned()), ..Only::default() };
        assert_eq!(ask(0, board)["error"], "no such board");
        let client = Only { client: Some("203.0.113.7".to_owned()), ..Only::default() };
        assert!(ask(0, client)["error"].as_str().is_some_and(|error| error.contains("--service")));
    }

    #[test]
    fn a_boards_flows_are_those_of_its_number_now() {
        let mut collector = collector();
        // Number 2 was the second board's while number 1 had not been given back.
        collector.about.boards = ["board1", "board2", "board2", "board3"].map(str::to_owned).to_vec();
        let board = |name: &str| {
            let only = Only { board: Some(name.to_owned()), ..Only::default() };
            only.filter(&collector).map(|filter| filter.board)
        };
        assert_eq!(board("board2"), Ok(Some(BoardId(1))));
        assert_eq!(board("board3"), Ok(Some(BoardId(3))), "it has left, and its last flows linger");
        assert!(board("board4").is_err_and(|error| error.contains("no board named")));
    }

    #[test]
    fn one_flow_is_shown_with_what_was_decided_about_it() {
        let ask = |port: u16| {
            let flow = [([203, 0, 113, 7], port), ([198, 51, 100, 1], 80)]
                .map(|(address, port)| SocketAddrV4::new(address.into(), port));
            let query = Query { flow: Some(flow), ..Query::table(What::Flow) };
            block_on(async { answer(query, &mut collector()).await })["rows"].take()
        };
        let known = ask(7);
        assert_eq!((&known["entry"]["table"], &known["entry"]["worker"]), (&json!("forward"), &json!(1)));
        assert_eq!(known["decisions"][0]["reason"], "policy");
        assert_eq!(ask(8), json!({ "entry": null, "decisions": [] }));
        let none = block_on(async { answer(Query::table(What::Flow), &mut collector()).await });
        assert!(none["error"].as_str().is_some_and(|error| error.contains("expected")), "{none}");
    }

    #[test]
    fn a_core_that_is_gone_is_said_and_nothing_hangs() {
        let (ask, requests) = crossbeam_channel::bounded(1);
        drop(requests);
        let about = collector().about.clone();
        let mut collector = Collector::new(about, Vec::new(), ask, live());
        let answer = block_on(async { answer(Query::table(What::Servers), &mut collector).await });
        assert!(answer["error"].is_string(), "{answer}");
    }

    #[test]
    fn a_conversation_is_json_line_by_line_and_survives_nonsense() {
        block_on(async {
            let (client, server) = UnixStream::pair().expect("a pair");
            tokio::spawn(converse(
                server,
                Arc::new(Mutex::new(collector())),
                Arc::new(Mutex::new(Instant::now())),
            ));
            let (read, mut write) = client.into_split();
            let mut lines = BufReader::new(read).lines();
            for (request, key) in [
                ("{\"what\": \"servers\"}", "rows"),
                ("nonsense", "error"),
                ("{\"what\": \"servers\", \"x\": 1}", "error"),
                ("{\"what\": \"listening\"}", "rows"),
            ] {
                write.write_all(format!("{request}\n").as_bytes()).await.expect("the server reads");
                let line = lines.next_line().await.expect("the server writes").expect("a line");
                let answer: Value = serde_json::from_str(&line).expect("JSON");
                assert!(answer.get(key).is_some(), "{request}: {answer}");
            }
        });
    }

    #[test]
    fn a_client_may_talk_for_hours_but_not_stay_silent() {
        block_on(async {
            tokio::time::pause();
            let (client, server) = UnixStream::pair().expect("a pair");
            let talk = tokio::spawn(converse(
                server,
                Arc::new(Mutex::new(collector())),
                Arc::new(Mutex::new(Instant::now())),
            ));
            let (read, mut write) = client.into_split();
            let mut lines = BufReader::new(read).lines();
            for _ in 0..10 {
                tokio::time::sleep(PATIENCE * 9 / 10).await;
                write.write_all(b"nonsense\n").await.expect("the server reads");
                let line = lines.next_line().await.expect("the server writes");
                assert!(line.is_some_and(|line| line.contains("not a request")));
            }
            let end = talk.await.expect("no panic").expect_err("the client says nothing more");
            assert_eq!(end.kind(), std::io::ErrorKind::TimedOut);
        });
    }
}
