//! `ipos-appliance run`: from a configuration to a running appliance, and back.
//!
//! Order: configuration, log, epoch, admin thread, EAL, packet buffers, ports, workers, control core (on this thread).

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use ipos_dpdk::clock::Tsc;
use ipos_dpdk::eal::{Eal, EalConfig, Memory as EalMemory};
use ipos_dpdk::lcore::{self, LcoreHandle, LcoreId};
use ipos_dpdk::mempool::Mempool;
use ipos_pipelines::clock::Clock;
use ipos_pipelines::config::{PortSettings, WorkerConfig};
use ipos_pipelines::counters::WorkerCounters;
use ipos_pipelines::handoff::{self, BoardId, Command, Event, Receiver, Sender, WorkerId};
use ipos_pipelines::io::QueuePair;
use ipos_pipelines::steer::{self, Owners};
use ipos_pipelines::worker::{Wiring, Worker};
use ipos_wire::tcb::OptionBits;

use crate::admin::collector::Collector;
use crate::admin::live::Live;
use crate::admin::{self};
use crate::config::host::ThisHost;
use crate::config::model::{Config, Device, Memory, Tcp};
use crate::config::snapshot::{Numbers, Snapshot};
use crate::config::{self, size};
use crate::control::core::Core;
use crate::control::outlet::Outlet;
use crate::control::sessions::Sessions;
use crate::control::snapshot::ServiceName;
use crate::control::spawn::Spawner;
use crate::control::turn::{Pages, Request, Turn};
use crate::epoch;

mod ports;
pub(crate) mod settings;

/// Requests of the admin thread that may wait.
const REQUESTS: usize = 64;

/// Buffers that each lcore keeps at hand.
const MEMPOOL_CACHE: u32 = 256;

/// `check`: prints every mistake.
pub fn check(path: &Path) -> ExitCode {
    match config::load(path, &ThisHost::read()) {
        Ok(_) => {
            println!("{}: good", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `run`: until a signal.
pub fn main(path: &Path) -> ExitCode {
    let config = match config::load(path, &ThisHost::read()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    log_to_stderr(&config.appliance.log);
    match run(path, config) {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// 128 random bits from the kernel.
fn random() -> [u8; 16] {
    let read = || -> std::io::Result<[u8; 16]> {
        let mut octets = [0; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut octets)?;
        Ok(octets)
    };
    read().expect("/dev/urandom exists on every Linux and never runs dry")
}

/// What is the same in every worker.
struct Common<'a> {
    config: &'a Config,
    snapshot: Snapshot,
    hash_key: [u64; 2],
    unix_us: u64,
}

fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let mut numbers = Numbers::new(random());
    let ids: Vec<BoardId> = (0..config.boards.len() as u16).map(BoardId).collect();
    let snapshot = numbers.snapshot(&config, &ids, Instant::now())?;
    let appliance = &config.appliance;
    let epoch = epoch::next(&appliance.state_directory)?;
    let workers = config.dpdk.worker_cpus.len();
    let counters: Vec<Arc<WorkerCounters>> = (0..workers).map(|_| Arc::new(WorkerCounters::new())).collect();
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;

    // Before the EAL, which binds this thread, and those it starts, to the control core's CPU.
    let stop = Arc::new(AtomicBool::new(false));
    let (ask, requests) = crossbeam_channel::bounded(REQUESTS);
    let listeners = admin::bind(appliance.metrics, &appliance.admin_socket, appliance.admin_socket_mode)?;
    let about = settings::about(&config, epoch, unix.as_secs_f64());
    let live = Live::new(path.to_owned(), config.clone(), numbers);
    let collector = Collector::new(about, counters.clone(), ask, live);
    admin::spawn(listeners, collector, Arc::clone(&stop))?;

    let services = settings::services(&config, &ids, &snapshot);
    let begun = Begun { snapshot, services, epoch, unix_us: unix.as_micros() as u64 };
    let outcome = start(&config, begun, counters, requests, stop);
    // The socket goes with the appliance; if it is gone already, that is as well.
    let _ = std::fs::remove_file(&appliance.admin_socket);
    outcome
}

/// What is known before DPDK starts.
struct Begun {
    snapshot: Snapshot,
    services: Vec<ServiceName>,
    epoch: u16,
    unix_us: u64,
}

fn start(
    config: &Config,
    Begun { snapshot, services, epoch, unix_us }: Begun,
    counters: Vec<Arc<WorkerCounters>>,
    requests: crossbeam_channel::Receiver<Request>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let eal = Eal::init(&eal_config(config)).context("starting DPDK")?;
    let sizes = size::of(config);
    let mempool = Mempool::new("ipos", sizes.mbufs, MEMPOOL_CACHE, sizes.data_room_octets, None)
        .context("making the packet buffers")?;
    let mut ports = ports::start(config, &mempool)?;
    let key = random();
    let hash_key = [u64::from_ne_bytes(first_half(key)), u64::from_ne_bytes(second_half(key))];
    let owners = Owners::new(counters.len() as u8, hash_key);
    let common = Common { config, snapshot, hash_key, unix_us };
    let started = Instant::now();
    let core_settings = settings::core(
        config,
        epoch,
        owners.clone(),
        &ports.settings,
        &common.snapshot.pools,
        &services,
        unix_us,
    );
    let mut core = Core::new(core_settings, Box::new(random), 0);
    core.attempts.spawner = Spawner::new(settings::starts(config, &services));
    core.attempts.admission.reconfigure(&settings::admits(config, &services));
    core.attempts.sessions = Sessions::new(&settings::sessions(config, &services));
    let lanes = launch(common, &core, &mempool, &counters, &mut ports)?;
    let outlet = Outlet::new(
        lanes.commands,
        ports.settings.clone(),
        config.appliance.ethertype.value,
        owners,
        mempool.clone(),
    );
    tracing::info!(
        dpdk = eal.version(),
        workers = counters.len(),
        ports = ports.settings.len(),
        boards = config.boards.len(),
        epoch,
        "running"
    );
    let turn = Turn {
        core,
        outlet,
        events: lanes.events,
        workers: lanes.handles,
        requests,
        stop,
        ports: ports.named,
        mempool,
        services,
        idle: config.dpdk.control_idle,
        started,
        begun_ns: 0,
        pages: Pages::default(),
        turns: (0, 0),
    };
    Ok(turn.run()?)
}

fn first_half(key: [u8; 16]) -> [u8; 8] {
    std::array::from_fn(|place| key[place])
}

fn second_half(key: [u8; 16]) -> [u8; 8] {
    std::array::from_fn(|place| key[8 + place])
}

fn eal_config(config: &Config) -> EalConfig {
    let dpdk = &config.dpdk;
    // Lcore 0 is the control core, n + 1 is worker n; several may share a CPU.
    let lcores =
        dpdk.worker_cpus.iter().enumerate().map(|(worker, cpu)| format!(",{}@{}", worker + 1, cpu.value));
    let mb = dpdk.memory_mb.value;
    let devices = || config.ports.iter().map(|port| &port.device.value);
    let allow: Vec<String> =
        devices().filter(|device| matches!(device, Device::Pci(_))).map(|d| d.text().to_owned()).collect();
    EalConfig {
        program: "ipos-appliance".to_owned(),
        lcores: format!("0@{}{}", dpdk.control_cpu.value, lcores.collect::<String>()),
        main_lcore: 0,
        memory: match dpdk.memory {
            Memory::Hugepages => EalMemory::Hugepages { mb, in_memory: true },
            Memory::NoHuge => EalMemory::NoHuge { mb },
        },
        no_pci: allow.is_empty(),
        allow,
        vdevs: devices()
            .filter(|device| matches!(device, Device::Virtual(_)))
            .map(|d| d.text().to_owned())
            .collect(),
        file_prefix: dpdk.file_prefix.clone(),
        extra: dpdk.extra.clone(),
        ..EalConfig::default()
    }
}

/// The control core's ends of what the workers are connected to.
struct Lanes {
    commands: Vec<Sender<Command>>,
    events: Vec<Receiver<Event>>,
    handles: Vec<LcoreHandle<()>>,
}

/// Makes the workers and sets them going.
fn launch(
    common: Common<'_>,
    core: &Core,
    mempool: &Mempool,
    counters: &[Arc<WorkerCounters>],
    ports: &mut ports::Ports,
) -> anyhow::Result<Lanes> {
    let workers = counters.len();
    let config = common.config;
    let tsc_hz = Tsc::new()?.hz();
    let clock = Clock::new(Tsc::now(), tsc_hz, common.unix_us);
    let services = Arc::new(common.snapshot.services);
    let mut lanes = Lanes { commands: Vec::new(), events: Vec::new(), handles: Vec::new() };
    // All memory first, then all launches: a worker that cannot be made leaves none running.
    let mut ready = Vec::new();
    for ((number, counters), peers) in counters.iter().enumerate().zip(steer::mesh(workers as u8)) {
        let (events, events_rx) = handoff::queue(config.worker.event_queue as usize);
        let (commands_tx, commands) = handoff::queue(config.worker.command_queue as usize);
        let wiring = Wiring { events, commands, peers, mempool: mempool.clone(), clock: clock.clone() };
        let worker_config = WorkerConfig {
            id: WorkerId(number as u8),
            workers: workers as u8,
            ethertype: config.appliance.ethertype.value,
            entries: config.worker.entries.value,
            pending: config.worker.pending.value,
            datagram_flows: config.worker.datagram_flows,
            hash_key: common.hash_key,
            cookie_keys: core.cookies().keys().clone(),
            options: offered(&config.tcp),
            mss: config.tcp.mss.value,
            farm_mtu: settings::farm_mtu(config),
            idle: config.worker.idle,
            timeouts: settings::timeouts(config),
        };
        let io: Vec<(PortSettings, QueuePair)> = ports.take_queues();
        let (services, counters) = (Arc::clone(&services), Arc::clone(counters));
        // On its own lcore, so that its tables lie on that CPU's NUMA node.
        let made = lcore::launch(lcore_of(number), move || {
            Worker::new(worker_config, io, services, counters, wiring)
        });
        let worker = made
            .with_context(|| format!("making worker {number}"))?
            .join()?
            .with_context(|| format!("taking memory for worker {number}: lower `entries` or `pending`"))?;
        let shard = &worker.core().shard;
        let (entries, mib) = (shard.capacity(), shard.octets() >> 20);
        tracing::info!(worker = number, entries, mib, pages = ?shard.backing(), "tables ready");
        ready.push(worker);
        lanes.commands.push(commands_tx);
        lanes.events.push(events_rx);
    }
    for (number, worker) in ready.into_iter().enumerate() {
        let handle = lcore::launch(lcore_of(number), move || worker.run())
            .with_context(|| format!("starting worker {number}"))?;
        lanes.handles.push(handle);
    }
    Ok(lanes)
}

/// The lcore of a worker: the main lcore, 0, is the control core's.
fn lcore_of(worker: usize) -> LcoreId {
    LcoreId::new(worker as u32 + 1)
}

/// The TCP options that clients are offered.
pub fn offered(tcp: &Tcp) -> OptionBits {
    let all = [
        (tcp.timestamps, OptionBits::TIMESTAMPS),
        (tcp.sack, OptionBits::SACK),
        (tcp.window_scale, OptionBits::WINDOW_SCALE),
        (tcp.ecn, OptionBits::ECN),
    ];
    all.into_iter().filter(|(on, _)| *on).fold(OptionBits::default(), |bits, (_, bit)| bits | bit)
}
