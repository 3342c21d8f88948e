//! What operators do to the farm while it runs: weights, drains, boards in and out, a whole new configuration.
//!
//! Input: orders and configurations of the admin thread, checked there. Output: what the workers are told. A drain ends when three
//! things say that nothing is left: the workers' count ([`super::census`]), the attempts under way, and the board's own report.

use std::sync::Arc;

use ipos_pipelines::config::Timeouts;
use ipos_pipelines::handoff::{BoardId, Command};
use ipos_pipelines::services::Services;

use super::admission::AdmitSettings;
use super::board::{Board, BoardSettings, Liveness};
use super::boards::MS_NS;
use super::checks::CheckSettings;
use super::core::Core;
use super::counters::Did;
use super::placement::{PoolSettings, Rules};
use super::sessions::MapSettings;
use super::sink::{Message, Sink};
use super::spawn::ServiceSettings;
use super::standing::Drain;
use super::standings::HashedService;

/// Between two messages to a board whose drain is past its deadline.
const TELL_NS: u64 = 1000 * MS_NS;

/// A board's connection that has been quiet for so long, after an answer, is idle, milliseconds.
pub const IDLE_MS: u16 = 1000;

/// What is asked of one board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Another share of new connections.
    Weight(u16),
    /// No new connections; after so many nanoseconds those that are idle are closed.
    Drain(Option<u64>),
    /// New connections again.
    Undrain,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No such board.
    #[error("no board named \"{name}\"; the boards are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// It leaves for good.
    #[error("board \"{0}\" leaves: it is not in the configuration any more; add it again")]
    Leaving(String),
    /// There is no drain to end.
    #[error("board \"{0}\" does not drain")]
    NotDraining(String),
}

/// What is left of a board's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Flows in the workers' Forward Tables, by the last count.
    pub flows: u32,
    /// Attempts to move an endpoint there.
    pub in_flight: u32,
    /// Endpoints that the board says it holds; `None` when it says nothing (any more).
    pub endpoints: Option<u32>,
}

impl Left {
    /// Of a board.
    pub fn of(board: &Board) -> Self {
        Self {
            flows: board.held.flows,
            in_flight: board.traffic.in_flight,
            endpoints: board.state.as_ref().map(|state| state.endpoints),
        }
    }

    /// How many connections that are.
    pub fn connections(&self) -> u32 {
        self.flows.saturating_add(self.in_flight).max(self.endpoints.unwrap_or(0))
    }
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// It drained already.
    pub again: bool,
    /// The weight before.
    pub weight_before: u16,
    /// What is left of its connections.
    pub left: Left,
}

/// What a configuration makes of the farm. Checked, and numbered so that what is under way still means what it meant.
pub struct Farm {
    /// The boards; those that are not among them leave.
    pub boards: Vec<(BoardId, BoardSettings)>,
    /// Boards that are forgotten at once, with their connections.
    pub forced: Vec<BoardId>,
    /// The boards of each pool.
    pub pools: Vec<PoolSettings>,
    /// What the services say of placement, by number.
    pub rules: Vec<Rules>,
    /// The services that are checked.
    pub checks: Vec<CheckSettings>,
    /// The services whose boards the workers choose by hash.
    pub hashed: Vec<HashedService>,
    /// How many connections services and their clients may have.
    pub admits: Vec<AdmitSettings>,
    /// What boards may start, by number of service.
    pub starts: Vec<Option<ServiceSettings>>,
    /// The Cookie Maps, by number of service.
    pub sessions: Vec<Option<MapSettings>>,
    /// What the workers hold.
    pub services: Arc<Services>,
    /// The workers' deadlines.
    pub timeouts: Timeouts,
    /// Until a request must have a board.
    pub deadline_ns: u64,
}

impl Core {
    /// Carries an order out.
    ///
    /// # Errors
    /// [`OrderError`] says why not; nothing is changed then.
    pub fn order(&mut self, now_ns: u64, name: &str, order: Order) -> Result<Obeyed, OrderError> {
        let obeyed = self.obey(now_ns, name, order);
        if obeyed.is_err() {
            self.counters.count(Did::OrderRefused);
        }
        obeyed
    }

    fn obey(&mut self, now_ns: u64, name: &str, order: Order) -> Result<Obeyed, OrderError> {
        let found = self.boards.find(name).and_then(|id| self.boards.board_mut(id));
        let Some(board) = found else {
            let known: Vec<&str> =
                self.boards.iter().map(|(_, board)| board.settings.name.as_str()).collect();
            return Err(OrderError::Unknown { name: name.to_owned(), known: known.join(", ") });
        };
        let left = Left::of(board);
        let standing = &mut board.standing;
        if standing.leaving {
            return Err(OrderError::Leaving(name.to_owned()));
        }
        let (weight_before, again) = (standing.weight, standing.drain.is_some());
        match order {
            Order::Weight(weight) => {
                standing.weight = weight;
                board.settings.weight = weight;
                self.counters.count(Did::Weighed);
                tracing::info!(board = name, weight, before = weight_before, "weight set");
            }
            Order::Drain(within_ns) => {
                let deadline_ns = within_ns.map(|within_ns| now_ns.saturating_add(within_ns));
                match &mut standing.drain {
                    Some(drain) => drain.deadline_ns = deadline_ns.or(drain.deadline_ns),
                    none => *none = Some(Drain::new(now_ns, deadline_ns)),
                }
                self.counters.count(if again { Did::DrainAgain } else { Did::DrainBegun });
                tracing::info!(board = name, left = left.connections(), again, "draining");
            }
            Order::Undrain => {
                standing.drain.take().ok_or_else(|| OrderError::NotDraining(name.to_owned()))?;
                standing.join(now_ns);
                self.counters.count(Did::Undrained);
                tracing::info!(board = name, "drain ended");
            }
        }
        Ok(Obeyed { again, weight_before, left })
    }

    /// Applies a configuration: all of it between two events.
    pub fn apply(&mut self, now_ns: u64, farm: Farm, sink: &mut dyn Sink) {
        self.counters.count(Did::FarmApplied);
        let stays = |id: BoardId| farm.boards.iter().any(|(staying, _)| *staying == id);
        let leaving: Vec<BoardId> = self.boards.iter().map(|(id, _)| id).filter(|id| !stays(*id)).collect();
        for id in leaving {
            self.leave(now_ns, id, farm.forced.contains(&id), sink);
        }
        for (id, settings) in farm.boards {
            self.stay(now_ns, id, settings, sink);
        }
        for (id, board) in self.boards.iter_mut() {
            let checked = farm.checks.iter().filter(|service| service.boards.contains(&id));
            let endpoints: Vec<_> = checked.map(|service| service.endpoint).collect();
            board.health.watch_only(&endpoints);
        }
        self.checks.reconfigure(farm.checks, now_ns);
        self.standings.reconfigure(farm.hashed);
        self.attempts.spawner.reconfigure(farm.starts);
        self.attempts.admission.reconfigure(&farm.admits);
        self.attempts.sessions.reconfigure(&farm.sessions);
        self.datagrams.deadline_ns = farm.deadline_ns;
        self.attempts.reconfigure(farm.pools, farm.rules, farm.deadline_ns);
        self.tell_all(sink, || Command::Services(Arc::clone(&farm.services)));
        self.tell_all(sink, || Command::Timeouts(farm.timeouts));
    }

    /// A board of the new configuration: a new one, or one that is there.
    fn stay(&mut self, now_ns: u64, id: BoardId, settings: BoardSettings, sink: &mut dyn Sink) {
        let port = settings.port;
        let mac = match self.boards.board_mut(id) {
            Some(board) => {
                if std::mem::take(&mut board.standing.leaving) {
                    board.standing.drain = None;
                    board.standing.join(now_ns);
                    self.forced.retain(|(forced, _)| *forced != id);
                }
                self.boards.change(id, settings)
            }
            None => {
                self.counters.count(Did::BoardAdded);
                tracing::info!(board = settings.name, address = %settings.address, "board added");
                self.boards.enter(id, settings);
                self.boards.board(id).and_then(|board| board.mac)
            }
        };
        if let Some(mac) = mac {
            self.tell_all(sink, || Command::Board { board: id, mac, port });
        }
    }

    /// A board that is not in the new configuration.
    fn leave(&mut self, now_ns: u64, id: BoardId, by_force: bool, sink: &mut dyn Sink) {
        let Some(board) = self.boards.board_mut(id) else { return };
        let name = board.settings.name.clone();
        let left = Left::of(board).connections();
        if !std::mem::replace(&mut board.standing.leaving, true) {
            board.standing.drain.get_or_insert(Drain::new(now_ns, None)).is_done = false;
            self.counters.count(Did::BoardLeaves);
            tracing::info!(board = name, left, "board leaves");
        }
        if by_force {
            self.counters.count(Did::BoardForced);
            tracing::warn!(board = name, left, "board removed by force: its connections are given up");
            self.forced.push((id, u32::MAX));
            self.tell_all(sink, || Command::Forget { board: id });
        }
    }

    /// Goes on with drains; boards that leave go when nothing of theirs is left.
    pub(super) fn follow_drains(&mut self, now_ns: u64, sink: &mut dyn Sink) {
        let draining = self.boards.iter().filter(|(_, board)| board.standing.is_draining());
        let ids: Vec<BoardId> = draining.map(|(id, _)| id).collect();
        for id in ids {
            let by_force = self.forced.iter().any(|(forced, _)| *forced == id);
            let Some(board) = self.boards.board_mut(id) else { continue };
            let silent = matches!(board.liveness(now_ns), Liveness::Dead | Liveness::Unheard);
            let is_empty = is_empty(board, silent || by_force);
            let way = board.mac.map(|mac| super::sink::Way { port: board.settings.port, to: mac });
            let leaving = board.standing.leaving;
            let Some(drain) = &mut board.standing.drain else { continue };
            if is_empty && !std::mem::replace(&mut drain.is_done, true) {
                self.counters.count(Did::Drained);
                tracing::info!(board = board.settings.name, "drained: none of its connections is left");
            }
            if is_empty && leaving {
                self.go(now_ns, id, sink);
            } else if !drain.is_done
                && drain.deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns.max(drain.tell_at_ns))
            {
                drain.tell_at_ns = now_ns + TELL_NS;
                if let Some(way) = way {
                    sink.send(way, &Message::CloseIdle { board: board.settings.address, idle_ms: IDLE_MS });
                    self.counters.count(Did::IdleCloseSent);
                }
            }
        }
    }

    /// A board is gone.
    fn go(&mut self, now_ns: u64, id: BoardId, sink: &mut dyn Sink) {
        self.forced.retain(|(forced, _)| *forced != id);
        if let Some(board) = self.boards.remove(id, now_ns) {
            self.counters.count(Did::BoardRemoved);
            tracing::info!(board = board.settings.name, "board removed");
        }
        self.tell_all(sink, || Command::Forget { board: id });
    }

    /// A round of the census is complete. Attempts that were under way may have brought a forgotten board flows again.
    pub(super) fn counted(&mut self, sink: &mut dyn Sink) {
        let Self { forced, boards, .. } = self;
        let mut again = Vec::new();
        for (id, before) in forced.iter_mut() {
            let flows = boards.board(*id).map_or(0, |board| board.held.flows);
            // A sweep that goes on is not begun anew.
            if flows > 0 && flows >= *before {
                again.push(*id);
            }
            *before = flows;
        }
        for board in again {
            self.tell_all(sink, || Command::Forget { board });
        }
    }
}

/// Whether nothing of a board's connections is left, known from what was counted and reported after the drain began.
fn is_empty(board: &Board, without_report: bool) -> bool {
    let Some(drain) = board.standing.drain else { return false };
    let (held, left) = (board.held, Left::of(board));
    let is_counted =
        held.is_whole && held.asked_at_ns > drain.since_ns && left.flows == 0 && left.in_flight == 0;
    let is_reported = board.reported_at_ns > drain.since_ns && left.endpoints == Some(0);
    is_counted && (without_report || is_reported)
}

#[cfg(test)]
#[path = "operate_tests.rs"]
mod tests;
