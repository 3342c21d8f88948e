//! Migrations: from a complete request head to the board that has acknowledged the endpoint.
//!
//! ```text
//! Place ──choose──> asked ──0x03──> Migrated
//!                    │ │ ▲
//!            silence │ │ └─ next board (0x04; or silence: 0x05 to the old one first), and those that were silent again
//!      (0x01 again)  └─┘ ──no board left, or deadline──> Answer::Unavailable
//! Repeat ──────────> asked (the same board, the same id) ──0x03──> Migrated
//!                      └──0x04, 0x07, or deadline──> Answer::Reset
//! ```
//!
//! The client has not seen an octet and no 0x02 has been sent before `Migrated`, so another board may be asked; after it
//! never (design: system.md, steps 5-7 and 9).

use hdrhistogram::Histogram;
use ipos_pipelines::handoff::{Answer, BoardId, Command, Counted, Place, Session, WorkerId};
use ipos_pipelines::table::slab::EntryRef;
use ipos_wire::flow::Flow;

use super::admission::Admission;
use super::context::Context;
use super::counters::{Did, Ended, Ignored, NoBoard, Reason};
use super::datagrams::Lent;
use super::detaches::Detaches;
use super::placement::{PoolSettings, Pools, Rules, Wanted};
use super::sessions::Sessions;
use super::sink::Message;
use super::spawn::Spawner;
use super::under_way::{At, UnderWay};

mod request;
mod session;
mod waiting;

use request::{Asked, Request};
use session::{Learned, Wish};

/// The times of `[migration]`, and what every control block is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct AttemptSettings {
    /// Until a Connection Packet is repeated; doubles with each one to the same board.
    pub retry_ns: u64,
    /// Connection Packets per board.
    pub tries: u8,
    /// Until a request must have a board.
    pub deadline_ns: u64,
    /// Requests under way at once.
    pub capacity: usize,
    /// Names the appliance.
    pub appliance_id: u16,
}

/// 0x04 reason 3: the accept queue is full (docs/wire.md).
const ACCEPT_QUEUE_FULL: u8 = 3;

/// All requests under way.
#[derive(Debug)]
pub struct Attempts {
    settings: AttemptSettings,
    /// Who may serve what.
    pub pools: Pools,
    requests: UnderWay<Request>,
    /// Endpoints that are taken back.
    pub detaches: Detaches,
    /// What boards may start.
    pub spawner: Spawner,
    /// How many connections services and clients may have.
    pub admission: Admission,
    /// The Cookie Map.
    pub sessions: Sessions,
    /// From a request's first Connection Packet to the acknowledgement, nanoseconds, since [`Self::take_latency`].
    latency: Histogram<u64>,
}

/// The longest wait for an answer, in waits of `retry_ns`.
const WAITS_MAX: u32 = 64;

/// Latencies to 60 s, at two digits.
fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2)
        .expect("constant bounds that the histogram's own rules allow")
}

impl Attempts {
    /// None under way.
    pub fn new(settings: AttemptSettings, pools: Pools) -> Self {
        Self {
            settings,
            pools,
            // Repetitions have the second half: no crowd of new requests keeps those out that a board may have already.
            requests: UnderWay::new(settings.capacity.saturating_mul(2), settings.retry_ns),
            detaches: Detaches::new(settings.retry_ns, settings.tries),
            spawner: Spawner::default(),
            admission: Admission::new(&[]),
            sessions: Sessions::default(),
            latency: latency_histogram(),
        }
    }

    /// Other pools and rules, and another deadline for the requests that come.
    pub fn reconfigure(&mut self, pools: Vec<PoolSettings>, rules: Vec<Rules>, deadline_ns: u64) {
        self.pools.reconfigure(pools, rules);
        self.settings.deadline_ns = deadline_ns;
    }

    /// What placing flows of datagrams shares.
    pub fn lent(&mut self) -> Lent<'_> {
        Lent { pools: &mut self.pools, admission: &mut self.admission }
    }

    /// Requests under way.
    pub fn count(&self) -> usize {
        self.requests.count()
    }

    /// The latencies since the last call.
    pub fn take_latency(&mut self) -> Histogram<u64> {
        let empty = Histogram::new_from(&self.latency);
        std::mem::replace(&mut self.latency, empty)
    }

    /// A worker wants a board for a request.
    pub fn place(&mut self, ctx: &mut Context<'_>, worker: WorkerId, place: &Place, session: Session) {
        ctx.counters.count(Did::Placed);
        self.supersede(ctx, &place.flow);
        let wish = self.wish(ctx, place, session);
        if self.give(ctx, worker, place, &wish) {
            return;
        }
        let counted = match self.admission.admit(ctx.now_ns, ctx.counters, place.service, &place.flow) {
            Ok(counted) => counted,
            Err(beyond) => return answer(ctx, worker, place.entry, Answer::OverLimit(beyond.retry)),
        };
        self.ask_for(ctx, worker, place, wish, counted);
    }

    /// A board has given an endpoint up for a later request: another one is wanted. The connection is no new one to any limit.
    pub fn place_moved(&mut self, ctx: &mut Context<'_>, worker: WorkerId, place: &Place, session: Session) {
        ctx.counters.count(Did::Placed);
        self.supersede(ctx, &place.flow);
        let wish = self.wish(ctx, place, session);
        self.ask_for(ctx, worker, place, wish, Counted::No);
    }

    fn ask_for(
        &mut self,
        ctx: &mut Context<'_>,
        worker: WorkerId,
        place: &Place,
        wish: Wish,
        counted: Counted,
    ) {
        let has_room = self.requests.count() < self.settings.capacity;
        match has_room.then(|| self.enter(ctx, worker, place, false)).flatten() {
            Some(at) => {
                if let Some(request) = self.requests.get_mut(at) {
                    request.counted = counted;
                    request.wish = wish;
                }
                self.ask_next(ctx, at);
            }
            None => {
                self.admission.release(place.service, &place.flow, counted);
                ctx.counters.count(Did::AttemptsFull);
                self.pools.failed(ctx.now_ns, &place.flow, place.pool, NoBoard::AttemptsFull);
                answer(ctx, worker, place.entry, Answer::Unavailable);
            }
        }
    }

    /// A worker wants an attempt repeated: the client shows that the board may not have its request.
    pub fn repeat(
        &mut self,
        ctx: &mut Context<'_>,
        worker: WorkerId,
        place: &Place,
        board: BoardId,
        id: u64,
    ) {
        ctx.counters.count(Did::RepeatAsked);
        let under_way = self.requests.find(&place.flow).and_then(|at| self.requests.get_mut(at));
        if let Some(request) = under_way.filter(|request| request.asked.is_some_and(|asked| asked.id == id)) {
            request.place.entry = place.entry;
            return;
        }
        self.supersede(ctx, &place.flow);
        let Some(at) = self.enter(ctx, worker, place, true) else {
            ctx.counters.count(Did::RepeatFailed);
            return answer(ctx, worker, place.entry, Answer::Reset);
        };
        if let Some(request) = self.requests.get_mut(at) {
            request.asked = Some(Asked { board, id, sent: 0, waits: 0 });
            request.made = 1;
        }
        if let Some(board) = ctx.boards.board_mut(board) {
            board.traffic.in_flight += 1;
        }
        self.send(ctx, at);
    }

    fn enter(&mut self, ctx: &Context<'_>, worker: WorkerId, place: &Place, repeat: bool) -> Option<At> {
        let deadline_ns = ctx.now_ns.saturating_add(self.settings.deadline_ns);
        let (at, request) = self.requests.enter(&place.flow, || Request::new(worker, *place))?;
        request.begin(worker, place, deadline_ns, repeat);
        Some(at)
    }

    /// A request for a connection that one is under way for: the earlier entry is gone, and its attempt with it.
    fn supersede(&mut self, ctx: &mut Context<'_>, flow: &Flow) {
        if let Some(old) = self.requests.find(flow) {
            self.give_up(ctx, old, Ended::Abandoned);
        }
    }

    /// A worker gives an endpoint up. With `migrated` the board holds it; without, an attempt may be under way. When its
    /// acknowledgement is on the way to the worker, the worker comes back with `migrated`.
    pub fn abandon(
        &mut self,
        ctx: &mut Context<'_>,
        entry: EntryRef,
        flow: Flow,
        migrated: Option<(BoardId, u64)>,
    ) {
        if let Some(at) = self.requests.find(&flow)
            && self.requests.get(at).is_some_and(|request| request.place.entry == entry)
        {
            self.give_up(ctx, at, Ended::Abandoned);
        }
        if let Some((board, id)) = migrated {
            self.detaches.begin(ctx, board, flow, id);
        }
    }

    /// Ends a request that nobody waits for any more, and takes the endpoint back.
    fn give_up(&mut self, ctx: &mut Context<'_>, at: At, how: Ended) {
        self.waits_no_more(at);
        self.counts_no_more(at);
        let gone = self.requests.get(at).and_then(|request| Some((request.asked?, request.place.flow)));
        self.requests.remove(at);
        let Some((asked, flow)) = gone else { return };
        ended(ctx, asked.board, how);
        // A board that was never sent anything has nothing to give back.
        if asked.sent > 0 {
            self.detaches.begin(ctx, asked.board, flow, asked.id);
        }
    }

    /// A board acknowledged (0x03). Id 0 is an acknowledgement without trailer.
    pub fn acknowledged(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64) {
        let under_way = self.requests.find(&flow).and_then(|at| Some((at, self.requests.get(at)?)));
        let Some((at, request, asked)) =
            under_way.and_then(|(at, request)| Some((at, request, request.asked?)))
        else {
            return self.late_ack(ctx, board, id);
        };
        if id == 0 && request.made != 1 {
            return ctx.counters.ignore(Ignored::BareAck);
        }
        if id != 0 && asked.id != id {
            return self.late_ack(ctx, board, id);
        }
        if asked.board != board {
            return ctx.counters.ignore(Ignored::WrongBoard);
        }
        let (worker, entry, service) = (request.worker, request.place.entry, request.place.service);
        let counted = request.counted;
        let learned = Learned::of(request);
        if let Some(sent_ns) = request.first_sent_ns.filter(|_| !request.repeat) {
            self.latency.saturating_record(ctx.now_ns.saturating_sub(sent_ns).max(1));
        }
        self.requests.remove(at);
        ended(ctx, board, Ended::Acknowledged);
        self.spawner.placed(ctx.now_ns, service, board);
        self.learn(ctx, &learned, board);
        ctx.sink.tell(worker, Command::Migrated { entry, flow, board, migration_id: asked.id, counted });
    }

    /// An acknowledgement that no request waits for: a duplicate, or that of an abandoned attempt.
    pub(super) fn late_ack(&mut self, ctx: &mut Context<'_>, board: BoardId, id: u64) {
        ctx.counters.ignore(Ignored::LateAnswer);
        if id != 0 {
            self.detaches.late_ack(ctx, board, id);
        }
    }

    /// A board refused (0x04).
    pub fn refused(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64, reason: u8) {
        let Some((at, request)) = self.asked_of(ctx, board, &flow, id) else { return };
        let full_again = request.repeat && reason == ACCEPT_QUEUE_FULL;
        if let Some(board) = ctx.boards.board_mut(board) {
            board.refused(reason);
        }
        // The board holds the endpoint already and only its application is slow: that passes.
        if !full_again {
            self.failed(ctx, at, Ended::Refused);
        }
    }

    /// Whether an attempt with this id is being repeated: its endpoint was there before.
    pub fn is_repeating(&self, flow: &Flow, id: u64) -> bool {
        let request = self.requests.find(flow).and_then(|at| self.requests.get(at));
        request.is_some_and(|request| request.repeat && request.asked.is_some_and(|asked| asked.id == id))
    }

    /// A board says that the endpoint of an attempt is gone (0x07). Whether one was under way, or being taken back.
    pub fn closed(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64) -> bool {
        if let Some(at) = self.requests.find(&flow)
            && let Some(asked) = self.requests.get(at).and_then(|request| request.asked)
            && asked.id == id
            && asked.board == board
        {
            self.failed(ctx, at, Ended::Refused);
            return true;
        }
        self.detaches.confirmed(board, id)
    }

    /// The request that this board was asked for under this id.
    fn asked_of(
        &self,
        ctx: &mut Context<'_>,
        board: BoardId,
        flow: &Flow,
        id: u64,
    ) -> Option<(At, &Request)> {
        let under_way = self.requests.find(flow).and_then(|at| Some((at, self.requests.get(at)?)));
        match under_way.and_then(|(_, request)| request.asked) {
            Some(asked) if asked.id == id && asked.board == board => under_way,
            Some(asked) if asked.id == id => {
                ctx.counters.ignore(Ignored::WrongBoard);
                None
            }
            _ => {
                ctx.counters.ignore(Ignored::LateAnswer);
                None
            }
        }
    }

    /// The board that was asked does not take the endpoint: asks the next one, or ends a repetition.
    fn failed(&mut self, ctx: &mut Context<'_>, at: At, how: Ended) {
        let Some(request) = self.requests.get_mut(at) else { return };
        let Some(asked) = request.asked.take() else { return };
        ended(ctx, asked.board, how);
        request.tried.insert(asked.board);
        request.after = Some(Reason::AfterRefusal);
        if how == Ended::Silent {
            request.after = Some(Reason::AfterSilence);
            request.silent.insert(asked.board);
        }
        if request.repeat {
            ctx.counters.count(Did::RepeatFailed);
            self.end(ctx, at, Answer::Reset);
        } else {
            self.ask_next(ctx, at);
        }
    }

    /// A request ends without a board: its connection does not count any more.
    fn counts_no_more(&mut self, at: At) {
        let Self { requests, admission, .. } = self;
        if let Some(request) = requests.get_mut(at) {
            let counted = std::mem::take(&mut request.counted);
            admission.release(request.place.service, &request.place.flow, counted);
        }
    }

    fn end(&mut self, ctx: &mut Context<'_>, at: At, say: Answer) {
        self.waits_no_more(at);
        self.counts_no_more(at);
        if let Some(request) = self.requests.get(at) {
            answer(ctx, request.worker, request.place.entry, say);
        }
        self.requests.remove(at);
    }

    /// Asks the best board that has not been asked yet, or only been silent. With none, waits while one may still turn out
    /// alive.
    fn ask_next(&mut self, ctx: &mut Context<'_>, at: At) {
        let Self { requests, pools, .. } = self;
        let Some(request) = requests.get_mut(at) else { return };
        let (flow, pool) = (request.place.flow, request.place.pool);
        if request.waits_for_its_board(ctx) {
            return self.requests.start_timer(at, ctx.now_ns);
        }
        let mut choose = |request: &Request| {
            let (tried, after, session) = (&request.tried, request.after, request.wish.board);
            let wanted = Wanted { flow: &flow, pool, tried, after, session };
            pools.choose(ctx.boards, ctx.now_ns, &wanted)
        };
        let mut next = choose(request);
        if next.is_err() && !request.silent.is_empty() {
            request.silent.iter().for_each(|board| request.tried.remove(board));
            request.silent.clear();
            next = choose(request);
        }
        match next {
            Ok(board) => {
                request.asked = Some(Asked { board, id: ctx.ids.next(request.worker), sent: 0, waits: 0 });
                request.made += 1;
                if let Some(board) = ctx.boards.board_mut(board) {
                    board.traffic.in_flight += 1;
                }
                if request.waiting {
                    request.deadline_ns =
                        request.deadline_ns.max(ctx.now_ns.saturating_add(self.settings.deadline_ns));
                    self.waits_no_more(at);
                }
                self.send(ctx, at);
            }
            Err(why) if self.waits_for_start(ctx, at, why) => {}
            Err(why) if self.may_turn_up(ctx, at, why) => self.requests.start_timer(at, ctx.now_ns),
            Err(why) => {
                ctx.counters.count(Did::Unavailable);
                self.pools.failed(ctx.now_ns, &flow, pool, why);
                self.end(ctx, at, Answer::Unavailable);
            }
        }
    }

    /// Goes on waiting for the board that was asked.
    fn wait_on(&mut self, ctx: &mut Context<'_>, at: At) {
        if let Some(asked) = self.requests.get_mut(at).and_then(|request| request.asked.as_mut()) {
            asked.waits -= 1;
        }
        self.requests.start_timer(at, ctx.now_ns);
    }

    /// Sends the Connection Packet, once more or for the first time.
    fn send(&mut self, ctx: &mut Context<'_>, at: At) {
        let Some(request) = self.requests.get_mut(at) else { return };
        let Some(asked) = &mut request.asked else { return };
        asked.sent = asked.sent.saturating_add(1);
        // A board that is slow is not made faster by more packets. A repetition is urgent: its client already waits.
        asked.waits = if request.repeat {
            1
        } else {
            1u32.checked_shl(u32::from(asked.sent) - 1).unwrap_or(WAITS_MAX).min(WAITS_MAX)
        };
        let way = ctx.way(asked.board);
        let server = ctx.boards.board(asked.board).map(|board| board.settings.address);
        if let (Some(way), Some(server)) = (way, server) {
            let flow = request.place.flow;
            let mut tcb = request.place.tcb();
            tcb.migration_id = asked.id;
            tcb.appliance_id = self.settings.appliance_id;
            tcb.epoch = ctx.ids.epoch();
            ctx.sink.send(way, &Message::Connection { flow, server: (server, flow.endpoint_port), tcb });
            ctx.counters.count(Did::ConnectionSent);
            request.first_sent_ns.get_or_insert(ctx.now_ns);
        }
        self.requests.start_timer(at, ctx.now_ns);
    }

    /// Repeats what is due, and gives up what has been silent for too long.
    pub fn tick(&mut self, ctx: &mut Context<'_>) {
        while let Some(at) = self.requests.due(ctx.now_ns) {
            self.overdue(ctx, at);
        }
        self.detaches.tick(ctx);
        self.admission.tick(ctx.now_ns);
        self.age_sessions(ctx);
        if self.spawner.tick(ctx) {
            self.retry_waiting(ctx);
        }
    }

    fn overdue(&mut self, ctx: &mut Context<'_>, at: At) {
        let Some(request) = self.requests.get(at) else { return };
        let (late, repeat) = (ctx.now_ns >= request.deadline_ns, request.repeat);
        let (worker, flow, entry) = (request.worker, request.place.flow, request.place.entry);
        let pool = request.place.pool;
        match request.asked {
            None => self.ask_next(ctx, at),
            Some(_) if late && repeat => self.failed(ctx, at, Ended::Deadline),
            Some(_) if late => {
                ctx.counters.count(Did::Unavailable);
                self.pools.failed(ctx.now_ns, &flow, pool, NoBoard::Late);
                self.give_up(ctx, at, Ended::Deadline);
                answer(ctx, worker, entry, Answer::Unavailable);
            }
            Some(asked) if asked.waits > 1 => self.wait_on(ctx, at),
            // After the first 0x02 the board is final: it is asked until the deadline.
            Some(asked) if repeat || asked.sent < self.settings.tries => self.send(ctx, at),
            Some(asked) => {
                self.detaches.begin(ctx, asked.board, flow, asked.id);
                self.failed(ctx, at, Ended::Silent);
            }
        }
    }
}

fn ended(ctx: &mut Context<'_>, board: BoardId, how: Ended) {
    if let Some(board) = ctx.boards.board_mut(board) {
        board.attempt_ended(ctx.now_ns, how);
    }
}

fn answer(ctx: &mut Context<'_>, worker: WorkerId, entry: EntryRef, answer: Answer) {
    ctx.sink.tell(worker, Command::Answer { entry, answer });
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
