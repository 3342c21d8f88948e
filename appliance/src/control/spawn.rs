//! Spawning (Figs 13-17): has a board start the application of a service that nothing can serve, and stops what is idle.
//!
//! ```text
//! no board for a request ──choose by free memory and CPU──> ordered (0x20) ──0x21──> starting ──> listening: placed
//!                                                             │ silent        failed │
//!                                                             └──── barred for a while, next board
//! idle ──held back──> ordered to stop ──0x21──> stopped, or busy: it goes on
//! ```
//!
//! One start at a time for each service, whatever waits for it.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{BOARDS_MAX, BoardId, WorkerId};
use ipos_wire::ipos::{Action, ApplicationName, Outcome, Progress};

use super::board::Liveness;
use super::boards::{Boards, MS_NS};
use super::context::Context;
use super::counters::Did;
use super::sink::Message;

mod choice;
mod idle;

use choice::Rank;

/// Until an order that is not answered is sent again.
const REPEAT_NS: u64 = 50 * MS_NS;
/// Orders to a board that does not answer.
const TRIES: u8 = 20;
/// How often a board that has begun is asked how far it is: its own word may have been lost.
const POLL_NS: u64 = 500 * MS_NS;
/// A board that failed is not asked again for so long at least.
const BAR_NS: u64 = 1000 * MS_NS;
/// Nor one that does not list the application: its configuration has to change first.
const UNLISTED_NS: u64 = 10_000 * MS_NS;
/// Between two looks at what instances take, and for what is idle.
const LOOK_NS: u64 = 100 * MS_NS;

/// What the configuration says of a service whose application boards may start.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// Its name, for messages.
    pub service: String,
    /// The application.
    pub application: ApplicationName,
    /// Address and port.
    pub endpoint: (Ipv4Addr, u16),
    /// Every board that serves it.
    pub boards: Vec<BoardId>,
    /// Requests that may wait.
    pub queue: u32,
    /// How long a request may wait.
    pub wait_ns: u64,
    /// An instance without a connection for so long is stopped; `None` never.
    pub idle_ns: Option<u64>,
    /// Most instances on all boards together.
    pub instances_max: u32,
}

/// What a request without a board may hope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// An instance will be there soon.
    Soon,
    /// No board can start one before so many nanoseconds have passed.
    None(u64),
}

/// Everything that can be spawned, by number of service.
#[derive(Debug, Default)]
pub struct Spawner {
    services: Vec<Option<Service>>,
    next_look_ns: u64,
}

/// A service whose application boards may start.
#[derive(Debug)]
struct Service {
    settings: ServiceSettings,
    waiting: u32,
    start: Option<Order>,
    stop: Option<Order>,
    /// Boards that failed, and until when they are not asked again.
    bars: Vec<(BoardId, u64)>,
    /// What an instance was last seen to take: octets of memory, hundredths of a core.
    measured: (u64, u64),
    /// When a connection was last placed on a board, or ended there, by board.
    used_ns: Vec<u64>,
}

/// An order under way.
#[derive(Clone, Copy, Debug)]
struct Order {
    board: BoardId,
    /// 0 until it has been sent.
    id: u64,
    since_ns: u64,
    sent_ns: u64,
    /// Since the board's last answer.
    sent: u8,
    /// The board has begun.
    begun: bool,
}

impl Order {
    fn to(board: BoardId, now_ns: u64) -> Self {
        Self { board, id: 0, since_ns: now_ns, sent_ns: 0, sent: 0, begun: false }
    }

    /// Sends it, again or for the first time. Costs nothing when it is not due.
    fn send(&mut self, ctx: &mut Context<'_>, action: Action, name: ApplicationName) {
        let every_ns = if self.begun { POLL_NS } else { REPEAT_NS };
        if self.id != 0 && ctx.now_ns.saturating_sub(self.sent_ns) < every_ns {
            return;
        }
        if self.id == 0 {
            self.id = ctx.ids.next(WorkerId(0));
        }
        self.sent_ns = ctx.now_ns;
        self.sent = self.sent.saturating_add(1);
        let way = ctx.way(self.board);
        let server = ctx.boards.board(self.board).map(|board| board.settings.address);
        if let (Some(way), Some(server)) = (way, server) {
            ctx.sink.send(way, &Message::Order { server, action, id: self.id, name });
            ctx.counters.count(Did::OrderSent);
        }
    }

    fn is_silent(&self, ctx: &Context<'_>) -> bool {
        let due_ns = self.sent_ns.saturating_add(if self.begun { POLL_NS } else { REPEAT_NS });
        self.sent >= TRIES && ctx.now_ns >= due_ns
    }
}

/// A row for `status services`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The application.
    pub application: String,
    /// Requests that wait.
    pub waiting: u32,
    /// The board that has been asked to start it.
    pub starting: Option<BoardId>,
}

impl Spawner {
    /// The services of a configuration, by number; `None` for those whose application no board may start.
    pub fn new(services: Vec<Option<ServiceSettings>>) -> Self {
        let service = |settings: ServiceSettings| Service {
            settings,
            waiting: 0,
            start: None,
            stop: None,
            bars: Vec::new(),
            measured: (0, 0),
            used_ns: vec![0; BOARDS_MAX],
        };
        let services = services.into_iter().map(|settings| settings.map(service)).collect();
        Self { services, next_look_ns: 0 }
    }

    /// Other services. Those that go on, with the same application, keep what is under way for them; what waits for the others
    /// waits no more.
    pub fn reconfigure(&mut self, services: Vec<Option<ServiceSettings>>) {
        let before = std::mem::replace(&mut self.services, Self::new(services).services);
        for (now, before) in self.services.iter_mut().zip(before) {
            let (Some(now), Some(mut before)) = (now, before) else { continue };
            let (old, new) = (&before.settings, &now.settings);
            if (old.application, old.endpoint) == (new.application, new.endpoint) {
                std::mem::swap(&mut before.settings, &mut now.settings);
                *now = before;
            }
        }
    }

    fn service(&self, number: u16) -> Option<&Service> {
        self.services.get(usize::from(number))?.as_ref()
    }

    fn service_mut(&mut self, number: u16) -> Option<&mut Service> {
        self.services.get_mut(usize::from(number))?.as_mut()
    }

    /// How long a request of the service may wait for a start; `None` when nothing can be started for it.
    pub fn wait_ns(&self, service: u16) -> Option<u64> {
        self.service(service).map(|service| service.settings.wait_ns)
    }

    /// Takes one more request into the queue; false when it is full.
    pub fn enter(&mut self, service: u16) -> bool {
        match self.service_mut(service) {
            Some(service) if service.waiting < service.settings.queue => {
                service.waiting += 1;
                true
            }
            _ => false,
        }
    }

    /// A request waits no more.
    pub fn leave(&mut self, service: u16) {
        if let Some(service) = self.service_mut(service) {
            service.waiting = service.waiting.saturating_sub(1);
        }
    }

    /// What is shown of a service.
    pub fn shown(&self, service: u16) -> Option<Shown> {
        self.service(service).map(|service| Shown {
            application: service.settings.application.as_str().to_owned(),
            waiting: service.waiting,
            starting: service.start.map(|start| start.board),
        })
    }

    /// Whether requests wait that this board's sockets may serve.
    pub fn is_awaited(&self, boards: &Boards, id: BoardId) -> bool {
        let Some(board) = boards.board(id) else { return false };
        self.services.iter().flatten().any(|service| {
            let (address, port) = service.settings.endpoint;
            service.waiting > 0 && board.listening.covers(address, port)
        })
    }

    /// A request of this service finds no board among these. Has one start the application, unless one is about to.
    /// `asked` is for a request that a board has been asked for already.
    pub fn want(&mut self, ctx: &mut Context<'_>, service: u16, boards: &[BoardId], asked: bool) -> Prospect {
        let Some(service) = self.service_mut(service) else { return Prospect::None(0) };
        if service.start.is_some() {
            return Prospect::Soon;
        }
        if service.cancel_stop(ctx, boards) {
            return Prospect::Soon;
        }
        let (best, view) = service.look(ctx, boards);
        let instances = service.instances(ctx.boards);
        if view.starts {
            return Prospect::Soon;
        }
        match best {
            // One that is about to stop runs already: it is kept, which takes no further instance.
            Some((rank, board)) if rank == Rank::Kept || instances < service.settings.instances_max => {
                let name = ctx.boards.board(board).map_or("", |board| &board.settings.name);
                tracing::info!(
                    service = service.settings.service,
                    application = service.settings.application.as_str(),
                    board = name,
                    "asking for a start"
                );
                ctx.counters.count(Did::StartAsked);
                let mut order = Order::to(board, ctx.now_ns);
                order.send(ctx, Action::Start, service.settings.application);
                service.start = Some(order);
                Prospect::Soon
            }
            // It takes them in a moment: its queue was full, or it is started again by itself.
            _ if view.comes_back_ns.is_some_and(|ns| ns < service.settings.wait_ns) => Prospect::Soon,
            _ if asked && view.listens => Prospect::Soon,
            _ => Prospect::None(view.barred_ns.unwrap_or(0)),
        }
    }

    /// What has come of an order (0x21). True when requests that wait should be looked at again.
    pub fn outcome(&mut self, ctx: &mut Context<'_>, board: BoardId, outcome: &Outcome) -> bool {
        let is =
            |order: &Option<Order>| order.is_some_and(|order| order.id == outcome.id && order.board == board);
        let all = &mut self.services;
        let Some(service) = all.iter_mut().flatten().find(|s| is(&s.start) || is(&s.stop)) else {
            ctx.counters.ignore(super::counters::Ignored::LateAnswer);
            return false;
        };
        if is(&service.stop) {
            return service.stop_outcome(ctx, outcome);
        }
        match outcome.progress {
            Progress::Starting | Progress::Stopping => {
                if let Some(start) = &mut service.start {
                    (start.begun, start.sent) = (true, 0);
                }
                false
            }
            Progress::Listening => service.started(ctx),
            failure => service.failed(ctx, board, failure, outcome),
        }
    }

    /// A board's listening sockets are known anew: what was ordered may be there.
    pub fn sockets(&mut self, ctx: &mut Context<'_>, board: BoardId) {
        for service in self.services.iter_mut().flatten() {
            let (address, port) = service.settings.endpoint;
            let ordered = service.start.is_some_and(|start| start.board == board);
            let is_there = ctx.boards.board(board).is_some_and(|board| {
                board.listening.covers(address, port) && !board.offers.are_leaving((address, port))
            });
            if ordered && is_there {
                service.started(ctx);
            }
        }
    }

    /// Repeats orders, gives silent boards up, stops what is idle. True when requests that wait should be looked at again.
    pub fn tick(&mut self, ctx: &mut Context<'_>) -> bool {
        let mut again = false;
        for service in self.services.iter_mut().flatten() {
            again |= service.tick_start(ctx);
            service.tick_stop(ctx);
        }
        if ctx.now_ns >= self.next_look_ns {
            self.next_look_ns = ctx.now_ns.saturating_add(LOOK_NS);
            for service in self.services.iter_mut().flatten() {
                service.measure(ctx.boards);
                service.look_for_idle(ctx);
            }
        }
        again
    }

    /// A connection was placed on a board.
    pub fn placed(&mut self, now_ns: u64, service: u16, board: BoardId) {
        if let Some(used) =
            self.service_mut(service).and_then(|service| service.used_ns.get_mut(usize::from(board.0)))
        {
            *used = now_ns;
        }
    }

    /// A connection to this endpoint ended on a board.
    pub fn ended(&mut self, now_ns: u64, endpoint: (Ipv4Addr, u16), board: BoardId) {
        let of = self.services.iter_mut().flatten().find(|service| service.settings.endpoint == endpoint);
        if let Some(used) = of.and_then(|service| service.used_ns.get_mut(usize::from(board.0))) {
            *used = now_ns;
        }
    }
}

impl Service {
    /// What was ordered listens.
    fn started(&mut self, ctx: &mut Context<'_>) -> bool {
        let Some(start) = self.start.take() else { return false };
        let after_ms = ctx.now_ns.saturating_sub(start.since_ns) as f64 / MS_NS as f64;
        let board = ctx.boards.board(start.board).map_or("", |board| &board.settings.name);
        let (service, waiting) = (&self.settings.service, self.waiting);
        tracing::info!(
            service,
            board,
            waiting,
            "the application listens {after_ms:.1} ms after it was asked for"
        );
        ctx.counters.count(Did::Started);
        self.bars.retain(|(barred, _)| *barred != start.board);
        if let Some(used) = self.used_ns.get_mut(usize::from(start.board.0)) {
            *used = ctx.now_ns;
        }
        true
    }

    /// What was ordered will not come from that board: the next one is asked by whoever waits.
    fn failed(&mut self, ctx: &mut Context<'_>, board: BoardId, why: Progress, outcome: &Outcome) -> bool {
        let (counter, word) = match why {
            Progress::Unlisted => (Did::StartUnlisted, "the board's configuration does not list it"),
            Progress::Exited => (Did::StartExited, "it ended before it listened"),
            Progress::NeverListened => (Did::StartNeverListened, "it did not listen in time"),
            Progress::BackingOff => {
                (Did::StartBackingOff, "it failed there before and is not started again yet")
            }
            _ => (Did::StartImpossible, "it cannot be started there"),
        };
        let least_ns = if why == Progress::Unlisted { UNLISTED_NS } else { BAR_NS };
        let (detail, retry_ms) = (outcome.detail, outcome.retry_ms);
        let name = ctx.boards.board(board).map_or("", |board| &board.settings.name);
        tracing::warn!(service = self.settings.service, board = name, detail, retry_ms, "no start: {word}");
        self.bar(ctx, board, counter, u64::from(retry_ms).saturating_mul(MS_NS).max(least_ns));
        true
    }

    fn bar(&mut self, ctx: &mut Context<'_>, board: BoardId, why: Did, for_ns: u64) {
        ctx.counters.count(why);
        self.start = None;
        self.bars.retain(|(barred, _)| *barred != board);
        self.bars.push((board, ctx.now_ns.saturating_add(for_ns)));
    }

    fn tick_start(&mut self, ctx: &mut Context<'_>) -> bool {
        let Some(start) = self.start else { return false };
        let lives = ctx
            .boards
            .board(start.board)
            .is_some_and(|board| matches!(board.liveness(ctx.now_ns), Liveness::Alive | Liveness::Suspect));
        if !lives || start.is_silent(ctx) {
            let name = ctx.boards.board(start.board).map_or("", |board| &board.settings.name);
            tracing::warn!(
                service = self.settings.service,
                board = name,
                "no start: the board does not answer"
            );
            self.bar(ctx, start.board, Did::StartSilent, BAR_NS);
            return true;
        }
        if let Some(start) = &mut self.start {
            start.send(ctx, Action::Start, self.settings.application);
        }
        false
    }
}

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;
