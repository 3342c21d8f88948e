//! The control core's state and its three entrances: events of the workers, frames of the boards, time.
//!
//! Pure: time comes in, decisions go out through a [`Sink`]. The loop around it is in [`super::turn`].

use std::net::Ipv4Addr;

use ipos_pipelines::config::PortSettings;
use ipos_pipelines::handoff::{Admission, Command, Event, FlowPage, PortIndex, WorkerId};
use ipos_pipelines::steer::Owners;
use ipos_wire::mac::Mac;

use super::attempts::{AttemptSettings, Attempts};
use super::board::BoardSettings;
use super::boards::{Boards, Learned, MS_NS};
use super::census::Census;
use super::checks::{CheckSettings, Checks, Stamp};
use super::context::Context;
use super::cookies::{Cookies, Random};
use super::counters::{ControlCounters, Did, Ignored};
use super::datagrams::{self, Datagrams};
use super::holders::{AskSettings, Holders};
use super::ids::Ids;
use super::moves::Moves;
use super::placement::Pools;
use super::sink::{Message, Sink, Way};
use super::standings::{HashedService, Standings};

/// Between two looks at what needs no hurry: ARP, liveness, secrets.
const HOUSEKEEPING_NS: u64 = 10 * MS_NS;

/// What the control core is told at its start.
pub struct CoreSettings {
    /// The farm's EtherType.
    pub ethertype: u16,
    /// Grows at every start.
    pub epoch: u16,
    /// How many workers there are.
    pub workers: u8,
    /// Names the owner of flows.
    pub owners: Owners,
    /// The ports, by number.
    pub ports: Vec<PortSettings>,
    /// The boards, by number.
    pub boards: Vec<BoardSettings>,
    /// TCP options that clients are offered.
    pub options: u16,
    /// How boards are chosen.
    pub pools: Pools,
    /// How migrations are attempted.
    pub attempts: AttemptSettings,
    /// How the farm is asked.
    pub ask: AskSettings,
    /// Which services are checked.
    pub checks: Vec<CheckSettings>,
    /// The services whose boards the workers choose by hash.
    pub hashed: Vec<HashedService>,
    /// The clock's zero, Unix microseconds.
    pub started_unix_us: u64,
}

/// The control core.
pub struct Core {
    pub(super) settings: Fixed,
    /// The boards.
    pub boards: Boards,
    /// Migrations under way.
    pub attempts: Attempts,
    /// Later requests whose old boards are being asked.
    pub moves: Moves,
    /// Flows of datagrams whose boards are being asked.
    pub datagrams: Datagrams,
    /// Questions under way.
    pub holders: Holders,
    /// Health checks.
    pub checks: Checks,
    /// What the workers know of boards that they choose by hash.
    pub(super) standings: Standings,
    /// What is counted.
    pub counters: ControlCounters,
    pub(super) ids: Ids,
    pub(super) census: Census,
    /// Boards that were removed by force, each with its flows at the last count.
    pub(super) forced: Vec<(ipos_pipelines::handoff::BoardId, u32)>,
    cookies: Cookies,
    next_housekeeping_ns: u64,
}

/// What never changes.
pub(super) struct Fixed {
    pub ethertype: u16,
    pub workers: u8,
    pub owners: Owners,
    pub ports: Vec<PortSettings>,
}

impl Core {
    /// Nothing heard, nothing under way.
    pub fn new(settings: CoreSettings, random: Random, now_ns: u64) -> Self {
        let mut boards = Boards::new(settings.boards, settings.options, now_ns);
        for service in &settings.checks {
            for id in &service.boards {
                if let Some(board) = boards.board_mut(*id) {
                    board.health.watch(service.endpoint);
                }
            }
        }
        let stamp =
            Stamp { appliance_id: settings.attempts.appliance_id, started_unix_us: settings.started_unix_us };
        let addresses = settings.ports.iter().map(|port| port.address).collect();
        Self {
            boards,
            checks: Checks::new(settings.checks, addresses, stamp, now_ns),
            datagrams: Datagrams::new(
                settings.attempts.retry_ns,
                settings.attempts.tries,
                settings.attempts.deadline_ns,
            ),
            moves: Moves::new(
                settings.attempts.capacity,
                settings.attempts.retry_ns,
                settings.attempts.tries,
            ),
            attempts: Attempts::new(settings.attempts, settings.pools),
            holders: Holders::new(settings.ask),
            standings: Standings::new(settings.hashed),
            counters: ControlCounters::default(),
            ids: Ids::new(settings.epoch),
            census: Census::new(settings.workers),
            forced: Vec::new(),
            cookies: Cookies::new(random, now_ns),
            next_housekeeping_ns: now_ns,
            settings: Fixed {
                ethertype: settings.ethertype,
                workers: settings.workers,
                owners: settings.owners,
                ports: settings.ports,
            },
        }
    }

    /// The secrets that the workers start with.
    pub fn cookies(&self) -> &Cookies {
        &self.cookies
    }

    /// Tells the workers what is known before anything was heard: boards whose MAC address is configured.
    pub fn start(&mut self, sink: &mut dyn Sink) {
        let known: Vec<_> = self
            .boards
            .iter()
            .filter_map(|(id, board)| Some((id, board.mac?, board.settings.port)))
            .collect();
        for (board, mac, port) in known {
            self.tell_all(sink, || Command::Board { board, mac, port });
        }
    }

    pub(super) fn tell_all(&self, sink: &mut dyn Sink, command: impl Fn() -> Command) {
        for worker in 0..self.settings.workers {
            sink.tell(WorkerId(worker), command());
        }
    }

    /// An event of a worker. A page of flows is handed back: it is for who asked.
    pub fn event(
        &mut self,
        now_ns: u64,
        worker: WorkerId,
        event: Event,
        sink: &mut dyn Sink,
    ) -> Option<Box<FlowPage>> {
        let Self { boards, counters, ids, attempts, moves, holders, datagrams, .. } = self;
        let ctx = &mut Context { now_ns, boards, counters, ids, sink };
        match event {
            Event::Place(place, session) => attempts.place(ctx, worker, &place, session),
            Event::Repeat { place, board, migration_id } => {
                attempts.repeat(ctx, worker, &place, board, migration_id);
            }
            Event::Move { place, session, board, migration_id } => {
                moves.begin(ctx, &mut attempts.pools, worker, (&place, session), (board, migration_id));
            }
            Event::Abandon { entry, flow, migrated } => {
                moves.abandon(entry, &flow);
                attempts.abandon(ctx, entry, flow, migrated);
            }
            Event::PlaceDatagrams { entry, flow, service, pool, moved } => {
                let wanted = datagrams::Wanted { flow, service, pool, moved };
                datagrams.place(ctx, &mut attempts.lent(), worker, entry, &wanted);
            }
            Event::Admit { entry, flow, service } => {
                let admission = match attempts.admission.admit(now_ns, ctx.counters, service, &flow) {
                    Ok(counted) => Admission::Admitted(counted),
                    Err(_) => Admission::OverLimit,
                };
                ctx.sink.tell(worker, Command::Admitted { entry, flow, admission });
            }
            Event::Ended(flows) => flows.iter().for_each(|flow| attempts.admission.ended(flow)),
            Event::WhoHolds { entry, flow, board } => holders.ask(ctx, worker, entry, flow, board),
            Event::Frame { port, frame } => {
                if let Err(reason) = self.frame(now_ns, port, frame.data(), sink) {
                    self.counters.ignore(reason);
                }
            }
            Event::Flows(page) => return Some(page),
            Event::Counted(page) => {
                if self.census.counted(page, &mut self.boards) {
                    self.counted(sink);
                }
            }
        }
        None
    }

    /// A frame from a farm port, from its Ethernet header on.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn frame(
        &mut self,
        now_ns: u64,
        port: PortIndex,
        frame: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Ignored> {
        super::input::frame(self, now_ns, port, frame, sink)
    }

    /// What ARP says of its sender.
    pub(super) fn arp(
        &mut self,
        now_ns: u64,
        port: PortIndex,
        address: Ipv4Addr,
        mac: Mac,
        sink: &mut dyn Sink,
    ) -> Result<(), Ignored> {
        match self.boards.learn(now_ns, port, address, mac)? {
            Learned::Moved(board, mac) => {
                self.counters.count(Did::MacLearned);
                tracing::info!(board = self.board_name(board), %address, %mac, "MAC address learned");
                self.tell_all(sink, || Command::Board { board, mac, port });
            }
            Learned::Contested(board, rival) => {
                self.counters.ignore(Ignored::AddressConflict);
                tracing::warn!(
                    board = self.board_name(board),
                    %address,
                    %rival,
                    "two machines have the board's address; the one that reports keeps it. Give the other one an address of its own"
                );
            }
            Learned::Known => {}
        }
        Ok(())
    }

    pub(super) fn board_name(&self, board: ipos_pipelines::handoff::BoardId) -> &str {
        self.boards.board(board).map_or("", |board| &board.settings.name)
    }

    /// The core has done nothing for so long (its CPU was taken away, the machine was paused). The boards' reports of that
    /// time wait among the events: until they are read, no board is worse off than before.
    pub fn stalled(&mut self, for_ns: u64) {
        tracing::warn!(for_ms = for_ns / MS_NS, "the control core was held up");
        self.boards.excuse(for_ns);
    }

    /// Time passes: repeats, deadlines, ARP, liveness, secrets.
    pub fn tick(&mut self, now_ns: u64, sink: &mut dyn Sink) {
        let Self { boards, counters, ids, attempts, moves, holders, checks, datagrams, .. } = self;
        let ctx = &mut Context { now_ns, boards, counters, ids, sink };
        attempts.tick(ctx);
        moves.tick(ctx);
        datagrams.tick(ctx, &mut attempts.lent());
        holders.tick(ctx);
        while let Some((board, flow, id)) = checks.tick(ctx) {
            attempts.detaches.begin(ctx, board, flow, id);
        }
        if now_ns >= self.next_housekeeping_ns {
            self.next_housekeeping_ns = now_ns + HOUSEKEEPING_NS;
            self.housekeeping(now_ns, sink);
            self.follow_drains(now_ns, sink);
            self.standings.tick(now_ns, &self.boards, self.settings.workers, sink);
            self.census.tick(now_ns, &mut self.boards, sink);
        }
    }

    fn housekeeping(&mut self, now_ns: u64, sink: &mut dyn Sink) {
        for change in self.boards.transitions(now_ns) {
            self.counters.count(if change.alive { Did::BoardUp } else { Did::BoardDown });
            if change.kept_back_ns > 0 {
                self.counters.count(Did::BoardKeptBack);
            }
            let board = self.board_name(change.board);
            if change.kept_back_ns > 0 {
                let for_s = change.kept_back_ns as f64 / 1e9;
                tracing::warn!(board, for_s, "board is alive again after it died again and again: kept back");
            } else if change.alive {
                tracing::info!(board, "board is alive");
            } else {
                tracing::warn!(board, "board is dead: no reports; it gets no new connections");
            }
        }
        for request in self.boards.arp_due(now_ns) {
            let way = Way { port: request.port, to: request.to.unwrap_or(Mac::BROADCAST) };
            self.counters.count(Did::ArpSent);
            sink.send(way, &Message::WhoHas(request.address));
        }
        if let Some(keys) = self.cookies.due(now_ns).cloned() {
            self.counters.count(Did::CookieRotated);
            self.tell_all(sink, || Command::CookieKeys(keys.clone()));
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
pub(crate) mod tests;
