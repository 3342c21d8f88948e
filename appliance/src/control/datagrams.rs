//! Datagrams: from the first datagram of a flow to the board that has acknowledged it (Figs 11F and 11I).
//!
//! ```text
//! PlaceDatagrams ──choose──> asked ──0x03──> Datagrams { board }
//!                             │ │ ▲
//!                     silence │ │ └─ next board (0x04, or silence)
//!               (0x01 again)  └─┘ ──no board left, or deadline──> Datagrams { None }
//! ```
//!
//! UDP has no state that could be in two places, so nothing is taken back from a board that was silent. The figure's messages
//! carry no id: an acknowledgement counts when it names the flow, and comes from the board that was asked last.

use ipos_pipelines::handoff::{BoardId, Command, Counted, DatagramsPlaced, WorkerId};
use ipos_pipelines::table::slab::EntryRef;
use ipos_wire::flow::Flow;

use super::admission::Admission;
use super::board_set::BoardSet;
use super::context::Context;
use super::counters::{Did, Ended, Ignored, NoBoard, Reason};
use super::placement::{self, Pools};
use super::sink::Message;
use super::under_way::{At, UnderWay};

/// Flows whose board is being asked at once. More are told that there is none, and ask again.
pub const CAPACITY: usize = 16_384;

/// What placing flows shares with placing connections.
pub struct Lent<'a> {
    /// Who may serve what.
    pub pools: &'a mut Pools,
    /// How many flows services may have.
    pub admission: &'a mut Admission,
}

/// What a worker says of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Client and endpoint.
    pub flow: Flow,
    /// The service's number.
    pub service: u16,
    /// The pool of boards.
    pub pool: u16,
    /// It had a board before: it counts already, if it does.
    pub moved: bool,
}

/// All flows whose boards are being asked.
#[derive(Debug)]
pub struct Datagrams {
    requests: UnderWay<Request>,
    /// Connection Packets per board.
    tries: u8,
    /// Until a flow must have a board, nanoseconds.
    pub deadline_ns: u64,
}

#[derive(Debug)]
struct Request {
    worker: WorkerId,
    entry: EntryRef,
    flow: Flow,
    service: u16,
    pool: u16,
    /// What it counts against.
    counted: Counted,
    asked: Option<BoardId>,
    sent: u8,
    tried: BoardSet,
    after: Option<Reason>,
    deadline_ns: u64,
}

impl Datagrams {
    /// None under way.
    pub fn new(retry_ns: u64, tries: u8, deadline_ns: u64) -> Self {
        Self { requests: UnderWay::new(CAPACITY, retry_ns), tries, deadline_ns }
    }

    /// Flows under way.
    pub fn count(&self) -> usize {
        self.requests.count()
    }

    /// A worker wants a board for a flow.
    pub fn place(
        &mut self,
        ctx: &mut Context<'_>,
        lent: &mut Lent<'_>,
        worker: WorkerId,
        entry: EntryRef,
        wanted: &Wanted,
    ) {
        let Wanted { flow, service, pool, moved } = *wanted;
        ctx.counters.count(Did::DatagramsPlaced);
        if let Some(old) = self.requests.find(&flow) {
            // The worker has forgotten the flow and begun it anew.
            self.leave(ctx, old, Ended::Abandoned);
            self.counts_no_more(lent, old);
            self.requests.remove(old);
        }
        let mut admit = || lent.admission.admit(ctx.now_ns, ctx.counters, service, &flow);
        let admitted = if moved { Ok(Counted::No) } else { admit() };
        let Ok(counted) = admitted else {
            let placed = DatagramsPlaced::OverLimit;
            return ctx.sink.tell(worker, Command::Datagrams { entry, flow, placed });
        };
        let deadline_ns = ctx.now_ns.saturating_add(self.deadline_ns);
        let new = || Request {
            worker,
            entry,
            flow,
            service,
            pool,
            counted,
            asked: None,
            sent: 0,
            tried: BoardSet::default(),
            after: None,
            deadline_ns,
        };
        let Some((at, place)) = self.requests.enter(&flow, new) else {
            ctx.counters.count(Did::AttemptsFull);
            lent.pools.failed(ctx.now_ns, &flow, pool, NoBoard::AttemptsFull);
            lent.admission.release(service, &flow, counted);
            let placed = DatagramsPlaced::Nowhere;
            return ctx.sink.tell(worker, Command::Datagrams { entry, flow, placed });
        };
        // What an earlier flow left there.
        *place = new();
        self.ask_next(ctx, lent, at);
    }

    /// Asks the best board that has not been asked yet.
    fn ask_next(&mut self, ctx: &mut Context<'_>, lent: &mut Lent<'_>, at: At) {
        let Some(request) = self.requests.get_mut(at) else { return };
        let Request { flow, pool, tried, after, .. } = request;
        let wanted = placement::Wanted { flow, pool: *pool, tried, after: *after, session: None };
        match lent.pools.choose(ctx.boards, ctx.now_ns, &wanted) {
            Ok(board) => {
                (request.asked, request.sent) = (Some(board), 0);
                if let Some(board) = ctx.boards.board_mut(board) {
                    board.traffic.in_flight += 1;
                }
                self.send(ctx, at);
            }
            Err(why) => {
                ctx.counters.count(Did::Unavailable);
                lent.pools.failed(ctx.now_ns, &request.flow, request.pool, why);
                self.counts_no_more(lent, at);
                self.end(ctx, at, None);
            }
        }
    }

    fn send(&mut self, ctx: &mut Context<'_>, at: At) {
        let Some(request) = self.requests.get_mut(at) else { return };
        request.sent = request.sent.saturating_add(1);
        let flow = request.flow;
        let asked = request
            .asked
            .and_then(|board| Some((ctx.way(board)?, ctx.boards.board(board)?.settings.address)));
        if let Some((way, server)) = asked {
            ctx.sink.send(way, &Message::UdpConnection { flow, server: (server, flow.endpoint_port) });
            ctx.counters.count(Did::ConnectionSent);
        }
        self.requests.start_timer(at, ctx.now_ns);
    }

    /// The request that this board was asked for.
    fn asked_of(&self, ctx: &mut Context<'_>, board: BoardId, flow: &Flow) -> Option<At> {
        let at = self.requests.find(flow);
        let asked = at.and_then(|at| self.requests.get(at)?.asked);
        match asked {
            Some(asked) if asked == board => at,
            Some(_) => {
                ctx.counters.ignore(Ignored::WrongBoard);
                None
            }
            None => {
                ctx.counters.ignore(Ignored::LateAnswer);
                None
            }
        }
    }

    /// A board acknowledged (0x03).
    pub fn acknowledged(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: &Flow) {
        if let Some(at) = self.asked_of(ctx, board, flow) {
            self.leave(ctx, at, Ended::Acknowledged);
            self.end(ctx, at, Some(board));
        }
    }

    /// A board refused (0x04).
    pub fn refused(
        &mut self,
        ctx: &mut Context<'_>,
        lent: &mut Lent<'_>,
        board: BoardId,
        flow: &Flow,
        code: u8,
    ) {
        let Some(at) = self.asked_of(ctx, board, flow) else { return };
        if let Some(board) = ctx.boards.board_mut(board) {
            board.refused(code);
        }
        self.next(ctx, lent, at, Ended::Refused);
    }

    /// The board that was asked does not take the flow.
    fn next(&mut self, ctx: &mut Context<'_>, lent: &mut Lent<'_>, at: At, how: Ended) {
        self.leave(ctx, at, how);
        if let Some(request) = self.requests.get_mut(at)
            && let Some(board) = request.asked.take()
        {
            request.tried.insert(board);
            request.after =
                Some(if how == Ended::Silent { Reason::AfterSilence } else { Reason::AfterRefusal });
        }
        self.ask_next(ctx, lent, at);
    }

    /// Counts how the attempt at a board ended.
    fn leave(&mut self, ctx: &mut Context<'_>, at: At, how: Ended) {
        let asked = self.requests.get(at).and_then(|request| request.asked);
        if let Some(board) = asked.and_then(|asked| ctx.boards.board_mut(asked)) {
            board.attempt_ended(ctx.now_ns, how);
        }
    }

    /// A flow that gets no board does not count any more.
    fn counts_no_more(&mut self, lent: &mut Lent<'_>, at: At) {
        if let Some(request) = self.requests.get_mut(at) {
            let counted = std::mem::take(&mut request.counted);
            lent.admission.release(request.service, &request.flow, counted);
        }
    }

    fn end(&mut self, ctx: &mut Context<'_>, at: At, board: Option<BoardId>) {
        if let Some(request) = self.requests.get(at) {
            let placed =
                board.map_or(DatagramsPlaced::Nowhere, |board| DatagramsPlaced::At(board, request.counted));
            let (entry, flow) = (request.entry, request.flow);
            ctx.sink.tell(request.worker, Command::Datagrams { entry, flow, placed });
        }
        self.requests.remove(at);
    }

    /// Repeats what is due, and goes on to other boards.
    pub fn tick(&mut self, ctx: &mut Context<'_>, lent: &mut Lent<'_>) {
        while let Some(at) = self.requests.due(ctx.now_ns) {
            let Some(request) = self.requests.get(at) else { continue };
            if ctx.now_ns >= request.deadline_ns {
                lent.pools.failed(ctx.now_ns, &request.flow, request.pool, NoBoard::Late);
                self.leave(ctx, at, Ended::Deadline);
                self.counts_no_more(lent, at);
                self.end(ctx, at, None);
            } else if request.sent < self.tries {
                self.send(ctx, at);
            } else {
                self.next(ctx, lent, at, Ended::Silent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::boards::tests::{MS, alive, farm};
    use super::super::placement::{PoolSettings, Rules};
    use super::super::testing::{WORKER, World, board, flow};
    use super::*;

    struct Scene {
        world: World,
        pools: Pools,
        admission: Admission,
        datagrams: Datagrams,
    }

    impl Scene {
        /// Two boards that live, and listen on nothing that they report; the first has fewer connections.
        fn new() -> Self {
            let mut boards = farm(2);
            alive(&mut boards, 0, 1_000, 1);
            alive(&mut boards, 1, 1_000, 5);
            let rules = Rules { udp: true, ..Rules::default() };
            Self {
                world: World::new(boards),
                pools: Pools::new(vec![PoolSettings::equal([board(0), board(1)])], vec![rules]),
                admission: Admission::new(&[]),
                datagrams: Datagrams::new(20 * MS, 3, 3_000 * MS),
            }
        }

        fn place(&mut self, port: u16) -> EntryRef {
            let entry = self.world.entry();
            self.place_as(entry, port, false);
            entry
        }

        fn place_as(&mut self, entry: EntryRef, port: u16, moved: bool) {
            let Self { world, pools, admission, datagrams } = self;
            let wanted = Wanted { flow: flow(port), service: 0, pool: 0, moved };
            datagrams.place(&mut world.at(1_000), &mut Lent { pools, admission }, WORKER, entry, &wanted);
        }

        fn tick(&mut self, at_ms: u64) {
            let Self { world, pools, admission, datagrams } = self;
            for number in 0..2 {
                alive(&mut world.boards, number, at_ms, 1 + 4 * u32::from(number));
            }
            datagrams.tick(&mut world.at(at_ms), &mut Lent { pools, admission });
        }

        /// The addresses of the boards that were sent a Connection Packet.
        fn asked(&mut self) -> Vec<u8> {
            let sent = self.world.out.messages().into_iter().map(|(_, _, message)| match message {
                Message::UdpConnection { server: (address, 80), .. } => address.octets()[3],
                other => panic!("a Connection Packet, not {other:?}"),
            });
            sent.collect()
        }

        fn told(&mut self) -> Vec<(EntryRef, Option<BoardId>)> {
            let told = self.world.out.told.drain(..).map(|(worker, command)| match command {
                Command::Datagrams { entry, placed: DatagramsPlaced::At(board, _), .. }
                    if worker == WORKER =>
                {
                    (entry, Some(board))
                }
                Command::Datagrams { entry, .. } if worker == WORKER => (entry, None),
                other => panic!("a verdict, not {other:?}"),
            });
            told.collect()
        }
    }

    #[test]
    fn a_flow_goes_to_the_board_that_acknowledges_it() {
        let mut scene = Scene::new();
        let entry = scene.place(1);
        let first = scene.asked();
        assert_eq!(first.len(), 1);
        let Scene { world, datagrams, .. } = &mut scene;
        datagrams.acknowledged(&mut world.at(1_001), board(1), &flow(1));
        assert_eq!(world.counters.ignored(Ignored::WrongBoard), 1, "it was not asked");
        datagrams.acknowledged(&mut world.at(1_001), board(0), &flow(1));
        assert_eq!(scene.told(), [(entry, Some(board(0)))]);
        assert_eq!(scene.datagrams.count(), 0);
        let Scene { world, datagrams, .. } = &mut scene;
        datagrams.acknowledged(&mut world.at(1_002), board(0), &flow(1));
        assert_eq!(world.counters.ignored(Ignored::LateAnswer), 1);
        assert_eq!(world.boards.board(board(0)).map(|board| board.traffic.in_flight), Some(0));
    }

    #[test]
    fn refusal_and_silence_lead_to_the_next_board_and_after_the_last_there_is_none() {
        let mut scene = Scene::new();
        let entry = scene.place(1);
        let first = scene.asked();
        let Scene { world, pools, admission, datagrams } = &mut scene;
        datagrams.refused(&mut world.at(1_001), &mut Lent { pools, admission }, board(0), &flow(1), 1);
        let second = scene.asked();
        assert_ne!(first, second);
        for at_ms in [1_030, 1_060] {
            scene.tick(at_ms);
            assert_eq!(scene.asked(), second, "again");
        }
        scene.tick(1_090);
        assert_eq!((scene.asked(), scene.told()), (vec![], vec![(entry, None)]));
        assert_eq!(scene.datagrams.count(), 0);
    }

    #[test]
    fn a_flow_that_begins_anew_takes_the_place_of_the_old_one() {
        let mut scene = Scene::new();
        scene.place(1);
        let again = scene.place(1);
        assert_eq!((scene.asked().len(), scene.datagrams.count()), (2, 1));
        let Scene { world, datagrams, .. } = &mut scene;
        let both: Vec<u32> = world.boards.iter().map(|(_, board)| board.traffic.in_flight).collect();
        assert_eq!(both.iter().sum::<u32>(), 1);
        for number in 0..2 {
            datagrams.acknowledged(&mut world.at(1_001), board(number), &flow(1));
        }
        assert_eq!(scene.told().iter().map(|told| told.0).collect::<Vec<_>>(), [again]);
    }

    #[test]
    fn more_flows_than_may_be_under_way_are_told_so_at_once() {
        let mut scene = Scene::new();
        let entry = scene.world.entry();
        for port in 0..CAPACITY as u16 {
            scene.place_as(entry, port, false);
        }
        assert_eq!(scene.world.out.told.len(), 0);
        scene.place_as(entry, 60_000, false);
        assert_eq!(scene.told(), [(entry, None)]);
    }
}
