//! The control core's loop: events, time, requests of the admin thread, again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipos_dpdk::lcore::LcoreHandle;
use ipos_dpdk::mempool::Mempool;
use ipos_dpdk::port::Port;
use ipos_pipelines::config::Idle;
use ipos_pipelines::handoff::{Command, Event, FLOW_PAGE_ROWS, FlowFilter, FlowPage, Receiver, WorkerId};
use ipos_wire::flow::Flow;
use tokio::sync::oneshot;

use super::boards::TakenNumber;
use super::core::Core;
use super::operate::{Farm, Obeyed, Order, OrderError};
use super::outlet::Outlet;
use super::sessions::rows::{self, CookiePage};
use super::sink::Sink;
use super::snapshot::{self, LaneRow, Mbufs, PortRow, ServiceName, Snapshot};
use super::trace::{self, Trace};

/// Events taken of one worker in one turn.
const EVENT_BURST: usize = 64;

/// Turns between two looks at whether the workers run.
const WATCH_TURNS: u64 = 1024;

/// A turn that begins so long after the one before comes after a stall; what a turn does takes far less.
const STALL_NS: u64 = 100_000_000;

/// How long workers may take to stop.
const STOP_PATIENCE: Duration = Duration::from_millis(1500);

/// Pages of flows that may be asked for at once.
const PAGES_MAX: usize = 64;

/// What the admin thread asks for.
pub enum Request {
    /// The state now, and the latencies of migrations since the last snapshot, in nanoseconds.
    Snapshot(oneshot::Sender<(Snapshot, Histogram<u64>)>),
    /// A page of one worker's flows, from a cursor on.
    Flows {
        /// The worker.
        worker: WorkerId,
        /// Where to go on.
        cursor: u32,
        /// Which flows.
        filter: FlowFilter,
        /// Where to send the page; nothing comes when the worker's queue is full.
        reply: oneshot::Sender<Box<FlowPage>>,
    },
    /// A page of the Cookie Map, from a place on.
    Cookies {
        /// Where to go on.
        from: u32,
        /// Which rows.
        only: rows::Only,
        /// Where to send it, or what is wrong with `only`.
        reply: oneshot::Sender<Result<CookiePage, String>>,
    },
    /// The numbers that no new board may have (see [`Boards::taken`](super::boards::Boards::taken)).
    Taken(oneshot::Sender<Vec<TakenNumber>>),
    /// Something about one board.
    Order {
        /// Its name.
        board: String,
        /// What.
        order: Order,
        /// What became of it.
        reply: oneshot::Sender<Result<Obeyed, OrderError>>,
    },
    /// A new configuration.
    Apply {
        /// What it makes of the farm.
        farm: Box<Farm>,
        /// The services' names.
        services: Vec<ServiceName>,
        /// Told when it is in force in the control core, and on its way to the workers.
        reply: oneshot::Sender<()>,
    },
    /// What was decided about a connection, and whose it is.
    Trace {
        /// The connection.
        flow: Flow,
        /// Where to send it.
        reply: oneshot::Sender<Trace>,
    },
}

/// A port, and what the configuration calls it.
pub struct NamedPort {
    /// The port itself.
    pub port: Port,
    /// Its row, but for what changes.
    pub row: PortRow,
}

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// A worker is gone.
    #[error("worker {0} ended without being told to; its shard is lost, so the appliance stops. Restart it")]
    WorkerDied(usize),
    /// A worker does not stop.
    #[error("worker {0} did not stop within 1.5 s")]
    WorkerStuck(usize),
    /// The admin thread is gone, and with it the signals.
    #[error("the admin thread ended; without it the appliance could not be stopped or watched")]
    AdminDied,
}

/// The loop's own things.
pub struct Turn {
    /// The state machines.
    pub core: Core,
    /// The way out.
    pub outlet: Outlet,
    /// Events, by worker.
    pub events: Vec<Receiver<Event>>,
    /// The workers.
    pub workers: Vec<LcoreHandle<()>>,
    /// Requests of the admin thread.
    pub requests: crossbeam_channel::Receiver<Request>,
    /// Set by a signal.
    pub stop: Arc<AtomicBool>,
    /// The ports.
    pub ports: Vec<NamedPort>,
    /// Packet buffers.
    pub mempool: Mempool,
    /// The services' names.
    pub services: Vec<ServiceName>,
    /// When idle.
    pub idle: Idle,
    /// The clock's zero.
    pub started: Instant,
    /// When the turn began, nanoseconds since `started`.
    pub begun_ns: u64,
    /// Pages of flows on their way.
    pub pages: Pages,
    /// Turns, and those that found something to do.
    pub turns: (u64, u64),
}

/// Pages of flows on their way, and who waits for them.
#[derive(Default)]
pub struct Pages {
    waiting: HashMap<u64, oneshot::Sender<Box<FlowPage>>>,
    next: u64,
}

impl Turn {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Runs until the stop flag is set, and stops the workers.
    ///
    /// # Errors
    /// [`TurnError`] when a worker or the admin thread ended, or a worker does not stop.
    pub fn run(mut self) -> Result<(), TurnError> {
        self.core.start(&mut self.outlet);
        // Making the workers took its time, and is no stall.
        self.begun_ns = self.now_ns();
        let mut empty_turns = 0u32;
        let outcome = loop {
            if self.stop.load(Ordering::Relaxed) {
                break Ok(());
            }
            let work = self.turn();
            self.turns.0 += 1;
            self.turns.1 += u64::from(work > 0);
            empty_turns = if work > 0 { 0 } else { empty_turns.saturating_add(1) };
            if self.turns.0.is_multiple_of(WATCH_TURNS)
                && let Some(dead) = self.workers.iter().position(LcoreHandle::is_finished)
            {
                break Err(TurnError::WorkerDied(dead));
            }
            if work == usize::MAX {
                break Err(TurnError::AdminDied);
            }
            rest(self.idle, empty_turns);
        };
        let stopped = self.stop_workers();
        outcome.and(stopped)
    }

    /// One turn. Returns how much there was to do; `usize::MAX` when the admin thread is gone.
    pub fn turn(&mut self) -> usize {
        let begun_ns = self.now_ns();
        let since_ns = begun_ns.saturating_sub(std::mem::replace(&mut self.begun_ns, begun_ns));
        if since_ns >= STALL_NS {
            self.core.stalled(since_ns);
        }
        self.outlet.flush();
        // The turn has one time: to read the clock for every event would cost as much as many an event.
        let mut work = 0;
        for place in 0..self.events.len() {
            work += self.take_events(place, begun_ns);
        }
        self.core.tick(begun_ns, &mut self.outlet);
        match self.requests.try_recv() {
            Ok(request) => {
                self.answer(request);
                work + 1
            }
            Err(crossbeam_channel::TryRecvError::Empty) => work,
            Err(crossbeam_channel::TryRecvError::Disconnected) => usize::MAX,
        }
    }

    fn take_events(&mut self, place: usize, now_ns: u64) -> usize {
        let worker = WorkerId(place as u8);
        for count in 0..EVENT_BURST {
            if !self.outlet.is_open(worker) {
                return count;
            }
            let Some(event) = self.events.get_mut(place).and_then(Receiver::receive) else { return count };
            if let Some(page) = self.core.event(now_ns, worker, event, &mut self.outlet)
                && let Some(reply) = self.pages.waiting.remove(&page.request)
            {
                // Who asked may have given up; the page goes with it.
                let _ = reply.send(page);
            }
        }
        EVENT_BURST
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Snapshot(reply) => {
                let snapshot = self.snapshot();
                let _ = reply.send((snapshot, self.core.attempts.take_latency()));
            }
            Request::Trace { flow, reply } => {
                let _ = reply.send(trace::of(&self.core, self.now_ns(), &self.services, &flow));
            }
            Request::Cookies { from, only, reply } => {
                let _ = reply.send(rows::page(&self.core, self.now_ns(), &self.services, from, &only));
            }
            Request::Taken(reply) => {
                let _ = reply.send(self.core.boards.taken(self.now_ns()));
            }
            Request::Order { board, order, reply } => {
                let now_ns = self.now_ns();
                let _ = reply.send(self.core.order(now_ns, &board, order));
            }
            Request::Apply { farm, services, reply } => {
                let now_ns = self.now_ns();
                self.core.apply(now_ns, *farm, &mut self.outlet);
                self.services = services;
                let _ = reply.send(());
            }
            Request::Flows { worker, cursor, filter, reply } => {
                self.pages.waiting.retain(|_, waiting| !waiting.is_closed());
                if self.pages.waiting.len() >= PAGES_MAX {
                    return;
                }
                self.pages.next += 1;
                let request = self.pages.next;
                self.pages.waiting.insert(request, reply);
                let rows = Vec::with_capacity(FLOW_PAGE_ROWS);
                let page = FlowPage { request, worker, cursor: Some(cursor), filter, rows };
                self.outlet.tell(worker, Command::ListFlows(Box::new(page)));
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = snapshot::of(&self.core, self.now_ns(), &self.services);
        snapshot.lanes =
            self.events.iter().enumerate().map(|(place, events)| self.lane(place, events)).collect();
        snapshot.ports = self.ports.iter().map(port_row).collect();
        snapshot.mbufs = Mbufs { size: self.mempool.count(), in_use: self.mempool.in_use() };
        snapshot.frames_dropped = self.outlet.frames_dropped + self.outlet.no_mbuf;
        snapshot.notices_dropped = self.outlet.notices_dropped;
        (snapshot.turns, snapshot.busy_turns) = self.turns;
        snapshot
    }

    fn lane(&self, place: usize, events: &Receiver<Event>) -> LaneRow {
        let worker = place as u8;
        let (commands, backlog, command_overflows) = self.outlet.lane(WorkerId(worker));
        LaneRow {
            worker,
            events: events.depth(),
            event_overflows: events.overflows(),
            commands,
            command_overflows,
            backlog,
        }
    }

    /// Tells the workers to stop, and waits for them.
    fn stop_workers(&mut self) -> Result<(), TurnError> {
        let deadline = Instant::now() + STOP_PATIENCE;
        for place in 0..self.workers.len() {
            self.outlet.tell(WorkerId(place as u8), Command::Stop);
        }
        while let Some(running) = self.workers.iter().position(|worker| !worker.is_finished()) {
            if Instant::now() > deadline {
                return Err(TurnError::WorkerStuck(running));
            }
            self.outlet.flush();
            // A worker that is stuck on a full queue of events would never see the command.
            for events in &mut self.events {
                while events.receive().is_some() {}
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }
}

fn port_row(named: &NamedPort) -> PortRow {
    let (link, stats) = (named.port.link(), named.port.stats());
    PortRow {
        link_up: link.up,
        speed_mbps: link.speed_mbps,
        missed: stats.imissed,
        receive_errors: stats.ierrors,
        send_errors: stats.oerrors,
        no_mbuf: stats.rx_nombuf,
        ..named.row.clone()
    }
}

fn rest(idle: Idle, empty_turns: u32) {
    match idle {
        Idle::Sleep { after_polls, sleep_us } if empty_turns >= after_polls => {
            std::thread::sleep(Duration::from_micros(u64::from(sleep_us)));
        }
        _ => std::hint::spin_loop(),
    }
}
