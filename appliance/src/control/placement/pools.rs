//! The choice: of the boards of a pool that are fit, the one that the service's policy has first.
//!
//! Every policy is a cost, and the lowest is chosen; equals take turns. Weights are `[[board]] weight` times the weight that the
//! list of boards gives, ramped up while the board is new.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::BoardId;
use ipos_wire::flow::Flow;

use super::super::board::{Board, Need};
use super::super::board_set::BoardSet;
use super::super::boards::Boards;
use super::super::counters::{NoBoard, Reason};
use super::record::{Decision, Record, Verdict};
use super::rules::{Policy, Rules};
use super::{hash, score};

/// The product of weights and ramp of a board of weight 100, that a list names with weight 100, and that joined long ago.
const WEIGHT_ONE: u32 = 1_000_000;

/// A board of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub board: BoardId,
    /// The weight that the list gives it.
    pub weight: u16,
}

/// A pool of the configuration: the boards that a service, or a row of its URL map, names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Whose pool: the service's number.
    pub service: u16,
    /// Its boards.
    pub members: Vec<Member>,
}

impl PoolSettings {
    /// Boards of equal weight, for service 0.
    pub fn equal(boards: impl IntoIterator<Item = BoardId>) -> Self {
        Self { service: 0, members: boards.into_iter().map(|board| Member { board, weight: 100 }).collect() }
    }
}

/// The pools, what their services say of placement, and what was decided.
#[derive(Debug)]
pub struct Pools {
    pools: Vec<Pool>,
    services: Vec<Service>,
    /// The last decisions.
    pub record: Record,
}

#[derive(Debug)]
struct Pool {
    service: u16,
    boards: Vec<BoardId>,
    members: Vec<Turn>,
    /// From where on the next choice looks: equals take turns.
    start: usize,
}

/// A member, and what it is owed of the turns (smooth weighted round-robin).
#[derive(Clone, Copy, Debug)]
struct Turn {
    member: Member,
    credit: i64,
}

#[derive(Debug, Default)]
struct Service {
    rules: Rules,
    /// Its pools, by number.
    pools: Vec<u16>,
    placed: [u64; Reason::ALL.len()],
    failed: [u64; NoBoard::ALL.len()],
}

/// A request for a board.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The connection.
    pub flow: &'a Flow,
    /// The pool that the URL map names.
    pub pool: u16,
    /// Boards that are out of the question: they refused, or were silent.
    pub tried: &'a BoardSet,
    /// Why another board is wanted, when one has been asked already.
    pub after: Option<Reason>,
    /// The board that the request's session is at.
    pub session: Option<BoardId>,
}

/// Whether a request may go to the board that its session is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honours {
    /// It may, or the appliance has just started and cannot tell yet.
    Yes,
    /// The board cannot have it: dead, drained, gone, beyond a limit, ...
    NotNow,
    /// The request's row of the URL map does not name it.
    OtherRow,
}

/// The best so far.
#[derive(Clone, Copy)]
struct Best {
    cost: f64,
    place: usize,
    board: BoardId,
}

/// What is seen while the boards of a pool are looked at.
struct Look {
    best: Option<Best>,
    /// The best of all boards, fit or not: for consistent hashing.
    first: Option<Best>,
    has_home: bool,
    fit: u32,
    /// The sum of the weights of those that are fit, which a turn costs; 0 where there are no turns.
    weights: i64,
    nearest: NoBoard,
}

impl Pools {
    /// The pools of a configuration, by number, and its services' rules, by number.
    pub fn new(pools: Vec<PoolSettings>, rules: Vec<Rules>) -> Self {
        let mut made = Self { pools: Vec::new(), services: Vec::new(), record: Record::default() };
        made.reconfigure(pools, rules);
        made
    }

    /// Those of another configuration, under the same numbers. What was counted and decided stays, and whose turn it is in pools
    /// that are as they were.
    pub fn reconfigure(&mut self, pools: Vec<PoolSettings>, rules: Vec<Rules>) {
        self.services.resize_with(rules.len().max(self.services.len()), Service::default);
        for (place, service) in self.services.iter_mut().enumerate() {
            service.rules = rules.get(place).copied().unwrap_or_default();
            service.pools.clear();
        }
        let mut before = std::mem::take(&mut self.pools).into_iter();
        for (number, settings) in pools.into_iter().enumerate() {
            if let Some(service) = self.services.get_mut(usize::from(settings.service)) {
                service.pools.push(number as u16);
            }
            let kept = before.next().filter(|pool| pool.is(&settings));
            self.pools.push(kept.unwrap_or_else(|| Pool::new(settings)));
        }
    }

    /// The boards of a pool.
    pub fn boards(&self, pool: u16) -> &[BoardId] {
        self.pools.get(usize::from(pool)).map_or(&[], |pool| &pool.boards)
    }

    /// A service's rules.
    pub fn rules(&self, service: u16) -> Rules {
        self.services.get(usize::from(service)).map_or_else(Rules::default, |service| service.rules)
    }

    /// The service that a pool belongs to.
    pub fn service_of(&self, pool: u16) -> Option<u16> {
        self.pools.get(usize::from(pool)).map(|pool| pool.service)
    }

    /// Requests of a service that were placed, by reason; and those that got no board, by reason.
    pub fn counts(&self, service: u16) -> ([u64; Reason::ALL.len()], [u64; NoBoard::ALL.len()]) {
        self.services.get(usize::from(service)).map_or_else(Default::default, |s| (s.placed, s.failed))
    }

    /// Chooses a board for a request, and keeps the decision.
    ///
    /// # Errors
    /// Why there is none; [`Self::failed`] counts it once the request is given up.
    pub fn choose(&mut self, boards: &Boards, now_ns: u64, wanted: &Wanted<'_>) -> Result<BoardId, NoBoard> {
        let Self { pools, services, record } = self;
        let pool = pools.get_mut(usize::from(wanted.pool)).ok_or(NoBoard::Silent)?;
        let service = services.get_mut(usize::from(pool.service)).ok_or(NoBoard::Silent)?;
        let decision = record.begin(wanted.flow, now_ns, wanted.pool).ok_or(NoBoard::Silent)?;
        let (flow, rules) = (wanted.flow, &service.rules);
        let endpoint = (flow.endpoint, flow.endpoint_port);
        let need = rules.need(boards.options(), endpoint);
        let view = View { boards, now_ns, wanted, rules, need };
        let settled = pool.session(&view).map(|board| (board, Reason::Cookie));
        let settled = settled.or_else(|| pool.home(&view).map(|home| (home, Reason::Home)));
        let (chosen, reason) = match settled {
            Some((board, reason)) => (board, wanted.after.unwrap_or(reason)),
            None => {
                let look = pool.look(&view, decision);
                let Some(best) = look.best else { return Err(look.nearest) };
                pool.take_turn(&look, &best);
                (best, wanted.after.unwrap_or_else(|| look.reason(&best)))
            }
        };
        service.placed[reason as usize] += 1;
        decision.chose(chosen.board, chosen.cost, reason);
        record.keep();
        Ok(chosen.board)
    }

    /// Whether a connection of a pool's may go to the board that its session is at.
    pub fn honours(
        &self,
        boards: &Boards,
        now_ns: u64,
        (flow, pool): (&Flow, u16),
        board: BoardId,
    ) -> Honours {
        let Some(pool) = self.pools.get(usize::from(pool)) else { return Honours::OtherRow };
        if !pool.boards.contains(&board) {
            return Honours::OtherRow;
        }
        let rules = self.rules(pool.service);
        let need = rules.need(boards.options(), (flow.endpoint, flow.endpoint_port));
        let fit = boards.board(board).is_some_and(|board| board.fit_for_session(now_ns, &need).is_ok());
        if fit || boards.is_unheard(board, now_ns) { Honours::Yes } else { Honours::NotNow }
    }

    /// Whether a board is fit for a request now. Nothing is counted or kept.
    pub fn has_board(&mut self, boards: &Boards, now_ns: u64, wanted: &Wanted<'_>) -> bool {
        let Self { pools, services, record } = self;
        let Some(pool) = pools.get_mut(usize::from(wanted.pool)) else { return false };
        let Some(service) = services.get(usize::from(pool.service)) else { return false };
        let Some(decision) = record.begin(wanted.flow, now_ns, wanted.pool) else { return false };
        let rules = &service.rules;
        let need = rules.need(boards.options(), (wanted.flow.endpoint, wanted.flow.endpoint_port));
        let view = View { boards, now_ns, wanted, rules, need };
        pool.home(&view).is_some() || pool.look(&view, decision).best.is_some()
    }

    /// Counts a request that got no board, and keeps that.
    pub fn failed(&mut self, now_ns: u64, flow: &Flow, pool: u16, why: NoBoard) {
        let Some(service) = self.service_of(pool) else { return };
        if let Some(service) = self.services.get_mut(usize::from(service)) {
            service.failed[why as usize] += 1;
        }
        if let Some(decision) = self.record.begin(flow, now_ns, pool) {
            decision.verdict = Some(Verdict::None(why));
            self.record.keep();
        }
    }

    /// What a service's policy would go by for a board now, when it is fit; and the board's weight there, percent.
    pub fn candidate(
        &self,
        service: u16,
        board: BoardId,
        boards: &Boards,
        now_ns: u64,
    ) -> (f64, Option<f64>) {
        let Some(Service { rules, pools, .. }) = self.services.get(usize::from(service)) else {
            return (0.0, None);
        };
        let pools = pools.iter().filter_map(|pool| self.pools.get(usize::from(*pool)));
        let turn = pools.flat_map(|pool| &pool.members).find(|turn| turn.member.board == board);
        let (Some(turn), Some(known)) = (turn, boards.board(board)) else { return (0.0, None) };
        let weight = weight(known, turn.member, now_ns, rules.slow_start_ns);
        let cost = match rules.policy {
            Policy::LeastConnections | Policy::LeastLoad => {
                Some(cost(rules.policy, known, turn, weight, now_ns, Ipv4Addr::UNSPECIFIED))
            }
            // Theirs says nothing without a client, or a turn.
            Policy::RoundRobin | Policy::ConsistentHash => None,
        };
        (f64::from(weight) * 100.0 / f64::from(WEIGHT_ONE), cost.filter(|_| weight > 0))
    }
}

/// The weight of a board now: [`WEIGHT_ONE`] for an ordinary one.
fn weight(board: &Board, member: Member, now_ns: u64, slow_start_ns: u64) -> u32 {
    let ramp = board.life.ramp_percent(now_ns, board.standing.joined_at_ns.unwrap_or(0), slow_start_ns);
    u32::from(board.standing.weight) * u32::from(member.weight) * ramp
}

/// What the policy goes by: the lowest is the best. Of a board that is not fit it may mean nothing.
#[inline]
fn cost(policy: Policy, board: &Board, turn: &Turn, weight: u32, now_ns: u64, client: Ipv4Addr) -> f64 {
    let share = || f64::from(weight) / f64::from(WEIGHT_ONE);
    match policy {
        // No division for boards of ordinary weight: this is what most services ask of each board for each request.
        Policy::LeastConnections if weight == WEIGHT_ONE => board.connections() as f64 + 1.0,
        Policy::LeastConnections => (board.connections() as f64 + 1.0) / share(),
        Policy::LeastLoad => {
            let free = board.state.as_ref().map_or(1.0, score::free);
            score::score(board.connections(), board.traffic.time_ns(now_ns), free, share())
        }
        // Who is owed most is first.
        Policy::RoundRobin => -(turn.credit as f64),
        Policy::ConsistentHash => hash::distance(client, board.settings.address) / share(),
    }
}

/// What a choice is made with.
struct View<'a> {
    boards: &'a Boards,
    now_ns: u64,
    wanted: &'a Wanted<'a>,
    rules: &'a Rules,
    need: Need<'a>,
}

impl View<'_> {
    /// Whether a board can take the connection, and its weight; or why not.
    #[inline(always)]
    fn fit(&self, board: &Board, member: Member) -> Result<u32, NoBoard> {
        if self.wanted.tried.contains(member.board) {
            return Err(NoBoard::Tried);
        }
        let weight = self.weight(board, member);
        if weight == 0 {
            return Err(NoBoard::NoWeight);
        }
        match board.fit(self.now_ns, &self.need) {
            Ok(_) => Ok(weight),
            Err(why) => Err(why.counted()),
        }
    }

    fn weight(&self, board: &Board, member: Member) -> u32 {
        weight(board, member, self.now_ns, self.rules.slow_start_ns)
    }

    #[inline(always)]
    fn cost(&self, board: &Board, turn: &Turn, weight: u32) -> f64 {
        cost(self.rules.policy, board, turn, weight, self.now_ns, self.wanted.flow.client)
    }
}

impl Pool {
    fn new(settings: PoolSettings) -> Self {
        Self {
            service: settings.service,
            boards: settings.members.iter().map(|member| member.board).collect(),
            members: settings.members.into_iter().map(|member| Turn { member, credit: 0 }).collect(),
            start: 0,
        }
    }

    fn is(&self, settings: &PoolSettings) -> bool {
        let members = self.members.iter().map(|turn| &turn.member);
        self.service == settings.service && members.eq(&settings.members)
    }

    /// The board that the request's session is at, when it can have it: whatever its weight is.
    fn session(&self, view: &View<'_>) -> Option<Best> {
        let wanted = view.wanted.session?;
        let (place, turn) = self.members.iter().enumerate().find(|(_, turn)| turn.member.board == wanted)?;
        let board = view.boards.board(wanted)?;
        if view.wanted.tried.contains(wanted) || board.fit_for_session(view.now_ns, &view.need).is_err() {
            return None;
        }
        let weight = view.weight(board, turn.member).max(1);
        Some(Best { cost: view.cost(board, turn, weight), place, board: wanted })
    }

    /// The service's home board, when it can take the connection (Fig. 7).
    fn home(&self, view: &View<'_>) -> Option<Best> {
        let home = view.rules.home?;
        let (place, turn) = self.members.iter().enumerate().find(|(_, turn)| turn.member.board == home)?;
        let board = view.boards.board(home)?;
        let weight = view.fit(board, turn.member).ok()?;
        Some(Best { cost: view.cost(board, turn, weight), place, board: home })
    }

    /// Looks at every board, from where the last choice ended. Those that are fit get what they are due of the turns.
    fn look(&mut self, view: &View<'_>, decision: &mut Decision) -> Look {
        let rules = view.rules;
        let (has_turns, hashes) =
            (rules.policy == Policy::RoundRobin, rules.policy == Policy::ConsistentHash);
        let mut look =
            Look { best: None, first: None, has_home: false, fit: 0, weights: 0, nearest: NoBoard::Silent };
        let count = self.members.len();
        let start = self.start.min(count);
        let (before, after) = self.members.split_at_mut(start);
        let places = (start..count).chain(0..start);
        for (place, turn) in places.zip(after.iter_mut().chain(before)) {
            let member = turn.member;
            let Some(board) = view.boards.board(member.board) else { continue };
            look.has_home |= rules.home == Some(member.board);
            match view.fit(board, member) {
                Ok(weight) => {
                    turn.credit += if has_turns { i64::from(weight) } else { 0 };
                    let cost = view.cost(board, turn, weight);
                    decision.consider(member.board, cost);
                    look.fit += 1;
                    look.weights += if has_turns { i64::from(weight) } else { 0 };
                    let seen = Best { cost, place, board: member.board };
                    first_of(&mut look.best, seen);
                    if hashes {
                        first_of(&mut look.first, seen);
                    }
                }
                Err(why) => {
                    look.nearest = look.nearest.max(why);
                    decision.left_out = decision.left_out.saturating_add(1);
                    let weight = if hashes { view.weight(board, member) } else { 0 };
                    if weight > 0 {
                        let cost = view.cost(board, turn, weight);
                        first_of(&mut look.first, Best { cost, place, board: member.board });
                    }
                }
            }
        }
        look
    }

    /// Notes whose turn it was.
    fn take_turn(&mut self, look: &Look, chosen: &Best) {
        self.start = if chosen.place + 1 < self.members.len() { chosen.place + 1 } else { 0 };
        if let Some(turn) = self.members.get_mut(chosen.place) {
            turn.credit -= look.weights;
        }
    }
}

/// Keeps the lower of the two; of equals the one that was there.
fn first_of(best: &mut Option<Best>, seen: Best) {
    if best.is_none_or(|best| seen.cost < best.cost) {
        *best = Some(seen);
    }
}

impl Look {
    /// Why the best was chosen.
    fn reason(&self, best: &Best) -> Reason {
        match () {
            () if self.has_home => Reason::HomeUnfit,
            () if self.fit == 1 => Reason::OnlyOne,
            () if self.first.is_some_and(|first| first.board != best.board) => Reason::HashNext,
            () => Reason::Policy,
        }
    }
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
