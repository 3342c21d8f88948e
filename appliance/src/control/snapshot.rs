//! What the control core shows of itself: plain rows that cross to the admin thread by message, and to `status` as JSON.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipos_pipelines::handoff::BoardId;
use ipos_wire::ipos::ApplicationName;
use serde::{Deserialize, Serialize};

use super::board::{Board, Liveness, REFUSALS, Unfit};
use super::core::Core;
use super::counters::{Checked, Did, Ended, Ignored, NoBoard, OverLimit, Reason};
use super::health::{Outcome, ServiceHealth};
use super::placement::score;

/// The control core at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// The Server State Table (Fig. 12).
    pub servers: Vec<ServerRow>,
    /// The Listening Sockets Table (Fig. 12).
    pub sockets: Vec<SocketRow>,
    /// The Application Information Table (Fig. 12).
    pub applications: Vec<ApplicationRow>,
    /// Services, and the boards that may take their connections.
    pub services: Vec<ServiceRow>,
    /// Migrations.
    pub migrations: Migrations,
    /// The queues between workers and control core.
    pub lanes: Vec<LaneRow>,
    /// Ports.
    pub ports: Vec<PortRow>,
    /// Packet buffers.
    pub mbufs: Mbufs,
    /// Clients that are remembered for their limits.
    #[serde(default)]
    pub clients: usize,
    /// How often the workers have counted the boards' flows.
    pub counted: u64,
    /// What happened, by name.
    pub did: BTreeMap<String, u64>,
    /// Frames ignored, by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Frames, and notices, that the control core could not hand to a worker.
    pub frames_dropped: u64,
    /// Notices among them.
    pub notices_dropped: u64,
    /// Turns of the control core's loop.
    pub turns: u64,
    /// Those that found something to do.
    pub busy_turns: u64,
}

/// A row of the Server State Table: the figure's columns, then ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerRow {
    /// The board's name.
    pub name: String,
    /// Whether its reports come.
    pub alive: bool,
    /// Server IP.
    pub address: Ipv4Addr,
    /// TCP connections; `None` before the first report, as are the next three.
    pub connections: Option<u32>,
    /// CPU utilization, 0..=1.
    pub cpu_ratio: Option<f64>,
    /// Available memory, octets.
    pub memory_free_octets: Option<u64>,
    /// Available bandwidth, bits per second; `None` also when the link's speed is unknown.
    pub bandwidth_free_bits: Option<u64>,
    /// Share of the last ten seconds in which a task waited for a CPU, 0..=1; `None` where the kernel does not tell.
    pub cpu_pressure_ratio: Option<f64>,
    /// Share of the last ten seconds in which a task waited for memory, 0..=1; `None` where the kernel does not tell.
    pub memory_pressure_ratio: Option<f64>,
    /// Endpoints that it holds.
    pub endpoints: Option<u32>,
    /// Attempts under way.
    pub in_flight: u32,
    /// Endpoints placed there since its last report.
    pub placed: u32,
    /// Endpoints that ended there since its last report.
    pub ended: u32,
    /// The share of CPU, memory or bandwidth that is free, whichever is scarcest, 0.2..=1.
    pub free_ratio: Option<f64>,
    /// What a connection takes there of late, milliseconds, at most 1000.
    pub time_ms: f64,
    /// `alive`, `suspect`, `dead` or `unheard`.
    pub liveness: String,
    /// Deaths of a row, each within five minutes of the one before.
    pub deaths: u32,
    /// For how long it gets no connections, since it died again and again, milliseconds.
    pub kept_back_ms: u64,
    /// Since the last report, milliseconds.
    pub report_age_ms: Option<u64>,
    /// That report's sequence number.
    pub sequence: Option<u32>,
    /// Its MAC address, once known.
    pub mac: Option<String>,
    /// Its share of new connections.
    pub weight: u16,
    /// Flows of it in the workers' Forward Tables.
    pub flows: u32,
    /// `draining`, `drained` or `leaving`; `None` while it takes connections.
    pub drain: Option<String>,
    /// Connections that a drain waits for: flows and attempts here, or endpoints that the board reports, whichever is more.
    pub left: u32,
    /// Until its idle connections are closed, milliseconds, where a drain has a deadline; 0 past it.
    pub deadline_ms: Option<u64>,
}

/// A row of the Listening Sockets Table: the figure's columns, then ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketRow {
    /// The board's name.
    pub board: String,
    /// Server IP.
    pub server: Ipv4Addr,
    /// TCP port.
    pub port: u16,
    /// Process.
    pub process: String,
    /// Its id.
    pub process_id: u32,
    /// The address that it is bound to.
    pub address: Ipv4Addr,
    /// Bound to `[::]`.
    pub dual_stack: bool,
    /// Speaks MPTCP: takes no migrated connection.
    pub mptcp: bool,
    /// Connections that wait to be accepted.
    pub queue: u32,
    /// How many may wait.
    pub queue_limit: u32,
}

/// A row of the Application Information Table: the figure's columns, then ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplicationRow {
    /// Process.
    pub process: String,
    /// Resident memory of all its processes, octets.
    pub memory_octets: u64,
    /// CPU of all its processes, 1 is one core; `None` when it has not been measured yet.
    pub cpu_cores: Option<f64>,
    /// How long that was measured, milliseconds.
    pub interval_ms: u16,
    /// Processes counted.
    pub processes: u16,
    /// The process's id.
    pub process_id: u32,
    /// Server IP.
    pub server: Ipv4Addr,
    /// The board's name.
    pub board: String,
    /// The sequence of the report that said so.
    pub sequence: Option<u32>,
}

/// A service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its name.
    pub service: String,
    /// The address that clients connect to.
    pub address: Ipv4Addr,
    /// The port that clients connect to.
    pub port: u16,
    /// How a board is chosen.
    pub policy: String,
    /// Its home board.
    pub home: Option<String>,
    /// What boards may start for it.
    pub application: Option<String>,
    /// Sessions of its Cookie Map, where it learns its application's cookie.
    #[serde(default)]
    pub sessions: Option<u64>,
    /// Requests that wait for a start.
    pub waiting: u32,
    /// The board that has been asked to start it.
    pub starting: Option<String>,
    /// Its boards.
    pub boards: Vec<CandidateRow>,
    /// What its limits for clients have admitted; `None` without such limits.
    #[serde(default)]
    pub admitted: Option<AdmittedRow>,
    /// Requests that were placed, by reason.
    pub placed: BTreeMap<String, u64>,
    /// Requests that got no board, by reason.
    pub failed: BTreeMap<String, u64>,
}

/// What a service's limits for clients have admitted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AdmittedRow {
    /// Connections that count now.
    pub connections: u32,
    /// How many there may be; `None`: any number.
    pub connections_max: Option<u32>,
    /// Connections that were refused, by the limit that was reached.
    pub refused: BTreeMap<String, u64>,
}

/// A board of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CandidateRow {
    /// The board's name.
    pub board: String,
    /// Its weight in the service, percent of an ordinary board's.
    pub weight: f64,
    /// Its connections now, when it is fit.
    pub load: Option<u64>,
    /// What the policy goes by, when it is fit and there is such a thing: the lowest is chosen.
    pub score: Option<f64>,
    /// Why it cannot be.
    pub unfit: Option<String>,
    /// What health checks say, when the service is checked.
    pub check: Option<CheckRow>,
    /// How its application does there; `None` when it may not be started there.
    pub application: Option<InstancesRow>,
}

/// The health checks of one service on one board.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckRow {
    /// `unknown`, `passing` or `failing`.
    pub verdict: String,
    /// How the last one ended, in words.
    pub last: Option<String>,
    /// All of them, by how they ended.
    pub ended: BTreeMap<String, u64>,
}

/// How an application does on a board.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InstancesRow {
    /// Instances that listen.
    pub listening: u16,
    /// Instances that start.
    pub starting: u16,
    /// The most there may be.
    pub instances_max: u16,
    /// Failures since it last ran for a while.
    pub failures: u16,
    /// Until it may be started again, milliseconds.
    pub retry_ms: u32,
    /// It takes no new connections, to be stopped.
    pub leaving: bool,
}

/// Migrations so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Migrations {
    /// Requests that wait for a board.
    pub under_way: usize,
    /// Questions who holds an endpoint.
    pub questions: usize,
    /// By board.
    pub boards: Vec<MigrationRow>,
}

/// Migrations to one board.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MigrationRow {
    /// The board's name.
    pub board: String,
    /// Attempts by how they ended.
    pub ended: BTreeMap<String, u64>,
    /// Refusals by reason.
    pub refusals: BTreeMap<String, u64>,
}

/// The queues between one worker and the control core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneRow {
    /// The worker.
    pub worker: u8,
    /// Events that wait.
    pub events: usize,
    /// Events that the worker could not queue.
    pub event_overflows: u64,
    /// Commands that wait.
    pub commands: usize,
    /// Commands that could not be queued at once.
    pub command_overflows: u64,
    /// Commands that wait for room in the queue.
    pub backlog: usize,
}

/// A port as its driver sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortRow {
    /// Its name.
    pub port: String,
    /// What DPDK calls it.
    pub device: String,
    /// `wan`, `farm` or `both`.
    pub role: String,
    /// Its MAC address.
    pub mac: String,
    /// The appliance's address on it.
    pub address: Ipv4Addr,
    /// Whether its link is up.
    pub link_up: bool,
    /// Its rate, Mbit/s; 0 unknown.
    pub speed_mbps: u32,
    /// Packets dropped by the port because the receive queue was full.
    pub missed: u64,
    /// Packets received with an error.
    pub receive_errors: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets dropped because no packet buffer was left.
    pub no_mbuf: u64,
}

/// Packet buffers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Mbufs {
    /// How many there are.
    pub size: u32,
    /// How many are in use.
    pub in_use: u32,
}

/// A service as the configuration names it.
#[derive(Clone, Debug)]
pub struct ServiceName {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// The address that clients connect to.
    pub address: Ipv4Addr,
    /// The port that clients connect to.
    pub port: u16,
    /// Its boards: those of the default pool and of the URL map.
    pub boards: Vec<BoardId>,
}

/// What the core itself knows; the loop around it adds queues, ports and buffers.
pub fn of(core: &Core, now_ns: u64, services: &[ServiceName]) -> Snapshot {
    Snapshot {
        servers: core.boards.iter().map(|(_, board)| server(board, now_ns)).collect(),
        sockets: core.boards.iter().flat_map(|(_, board)| sockets(board)).collect(),
        applications: core.boards.iter().flat_map(|(_, board)| applications(board)).collect(),
        services: services.iter().map(|name| service(core, now_ns, name)).collect(),
        migrations: Migrations {
            under_way: core.attempts.count(),
            questions: core.holders.count(),
            boards: core.boards.iter().map(|(_, board)| migrations(board)).collect(),
        },
        clients: core.attempts.admission.clients(),
        counted: core.census.rounds,
        did: Did::ALL.iter().map(|what| (what.name().to_owned(), core.counters.did(*what))).collect(),
        ignored: Ignored::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), core.counters.ignored(*reason)))
            .collect(),
        ..Snapshot::default()
    }
}

fn server(board: &Board, now_ns: u64) -> ServerRow {
    let state = board.state.as_ref();
    let age_ms = now_ns.saturating_sub(board.reported_at_ns) / super::boards::MS_NS;
    let liveness = board.liveness(now_ns);
    let pressure = state.and_then(|state| state.pressure);
    let until_ms = |deadline_ns: u64| deadline_ns.saturating_sub(now_ns).div_ceil(super::boards::MS_NS);
    ServerRow {
        name: board.settings.name.clone(),
        alive: liveness == Liveness::Alive,
        address: board.settings.address,
        connections: state.map(|state| state.connections),
        cpu_ratio: state.map(|state| f64::from(state.cpu_hundredths) / 10_000.0),
        memory_free_octets: state.map(|state| state.memory_free_octets),
        bandwidth_free_bits: state.filter(|state| state.link_bits > 0).map(|state| state.bandwidth_free_bits),
        cpu_pressure_ratio: pressure.map(|pressure| f64::from(pressure.cpu) / 10_000.0),
        memory_pressure_ratio: pressure.map(|pressure| f64::from(pressure.memory) / 10_000.0),
        endpoints: state.map(|state| state.endpoints),
        in_flight: board.traffic.in_flight,
        placed: board.traffic.placed(),
        ended: board.traffic.ended(),
        free_ratio: state.map(score::free),
        time_ms: board.traffic.time_ns(now_ns) as f64 / 1e6,
        liveness: liveness.name().to_owned(),
        deaths: board.life.deaths(now_ns),
        kept_back_ms: board.life.kept_back_ns(now_ns) / super::boards::MS_NS,
        report_age_ms: state.map(|_| age_ms),
        sequence: state.map(|state| state.sequence),
        mac: board.mac.map(|mac| mac.to_string()),
        weight: board.standing.weight,
        flows: board.held.flows,
        drain: board.standing.word().map(str::to_owned),
        left: super::operate::Left::of(board).connections(),
        deadline_ms: board.standing.drain.and_then(|drain| drain.deadline_ns).map(until_ms),
    }
}

fn sockets(board: &Board) -> impl Iterator<Item = SocketRow> {
    board.listening.sockets().iter().map(|socket| SocketRow {
        board: board.settings.name.clone(),
        server: board.settings.address,
        port: socket.port,
        process: socket.process.clone(),
        process_id: socket.process_id,
        address: socket.address,
        dual_stack: socket.dual_stack,
        mptcp: socket.mptcp,
        queue: socket.queue,
        queue_limit: socket.queue_limit,
    })
}

fn applications(board: &Board) -> impl Iterator<Item = ApplicationRow> {
    board.applications.rows().iter().map(|application| ApplicationRow {
        process: application.process.clone(),
        memory_octets: application.memory_octets,
        cpu_cores: (application.interval_ms > 0).then(|| f64::from(application.cpu_hundredths) / 10_000.0),
        interval_ms: application.interval_ms,
        processes: application.processes,
        process_id: application.process_id,
        server: board.settings.address,
        board: board.settings.name.clone(),
        sequence: board.applications.sequence(),
    })
}

fn service(core: &Core, now_ns: u64, service: &ServiceName) -> ServiceRow {
    let shown = core.attempts.spawner.shown(service.number);
    let application = shown.as_ref().and_then(|shown| shown.application.parse().ok());
    let pools = &core.attempts.pools;
    let rules = pools.rules(service.number);
    let endpoint = (service.address, service.port);
    let need = rules.need(core.boards.options(), endpoint);
    let candidate = |id: &BoardId| {
        let board = core.boards.board(*id)?;
        let (weight, score) = pools.candidate(service.number, *id, &core.boards, now_ns);
        let fit = if weight > 0.0 { board.fit(now_ns, &need).map(|_| ()) } else { Err(Unfit::NoWeight) };
        Some(CandidateRow {
            board: board.settings.name.clone(),
            weight,
            load: fit.is_ok().then(|| board.connections()),
            score: score.filter(|_| fit.is_ok()),
            unfit: fit.err().map(Unfit::reason),
            check: board.health.of((service.address, service.port)).map(check),
            application: application.and_then(|name| instances(board, &name)),
        })
    };
    let (placed, failed) = pools.counts(service.number);
    let placed = Reason::ALL.iter().zip(placed).map(|(reason, count)| (reason.name().to_owned(), count));
    let failed = NoBoard::ALL.iter().zip(failed).map(|(reason, count)| (reason.name().to_owned(), count));
    let home = rules.home.and_then(|home| core.boards.board(home));
    ServiceRow {
        service: service.name.clone(),
        address: service.address,
        port: service.port,
        policy: rules.policy.name().to_owned(),
        home: home.map(|board| board.settings.name.clone()),
        application: shown.as_ref().map(|shown| shown.application.clone()),
        sessions: core.attempts.sessions.count(service.number).map(|(count, _)| count as u64),
        waiting: shown.as_ref().map_or(0, |shown| shown.waiting),
        starting: shown.and_then(|shown| shown.starting).map(|board| core.board_name(board).to_owned()),
        boards: service.boards.iter().filter_map(candidate).collect(),
        admitted: core.attempts.admission.shown(service.number).map(|(admit, admitted)| AdmittedRow {
            connections: admitted.connections,
            connections_max: admit.connections,
            refused: OverLimit::ALL
                .iter()
                .zip(admitted.refused)
                .map(|(reason, count)| (reason.name().to_owned(), count))
                .collect(),
        }),
        placed: placed.collect(),
        failed: failed.collect(),
    }
}

fn check(health: &ServiceHealth) -> CheckRow {
    let ended = Checked::ALL.iter().zip(health.ended).map(|(how, count)| (how.name().to_owned(), count));
    CheckRow {
        verdict: health.verdict.name().to_owned(),
        last: health.last.map(Outcome::sentence),
        ended: ended.collect(),
    }
}

fn instances(board: &Board, name: &ApplicationName) -> Option<InstancesRow> {
    let offer = board.offers.find(name)?;
    Some(InstancesRow {
        listening: offer.listening,
        starting: offer.starting,
        instances_max: offer.instances_max,
        failures: offer.failures,
        retry_ms: offer.retry_ms,
        leaving: board.offers.is_leaving(offer),
    })
}

fn migrations(board: &Board) -> MigrationRow {
    let ended = Ended::ALL.iter().zip(board.ended).map(|(how, count)| (how.name().to_owned(), count));
    let refusals = REFUSALS.iter().zip(board.refusals).map(|(reason, count)| ((*reason).to_owned(), count));
    MigrationRow { board: board.settings.name.clone(), ended: ended.collect(), refusals: refusals.collect() }
}
