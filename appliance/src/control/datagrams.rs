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

use ipos_pipelines::handoff::{BoardId, Command, WorkerId};
use ipos_pipelines::table::slab::EntryRef;
use ipos_wire::flow::Flow;

use super::board_set::BoardSet;
use super::context::Context;
use super::counters::{Did, Ended, Ignored, NoBoard, Reason};
use super::placement::{Pools, Wanted};
use super::sink::Message;
use super::under_way::{At, UnderWay};

/// Flows whose board is being asked at once. More are told that there is none, and ask again.
pub const CAPACITY: usize = 16_384;

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
    pool: u16,
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
        pools: &mut Pools,
        worker: WorkerId,
        entry: EntryRef,
        (flow, pool): (Flow, u16),
    ) {
        ctx.counters.count(Did::DatagramsPlaced);
        if let Some(old) = self.requests.find(&flow) {
            // The worker has forgotten the flow and begun it anew.
            self.leave(ctx, old, Ended::Abandoned);
            self.requests.remove(old);
        }
        let deadline_ns = ctx.now_ns.saturating_add(self.deadline_ns);
        let new = || Request {
            worker,
            entry,
            flow,
            pool,
            asked: None,
            sent: 0,
            tried: BoardSet::default(),
            after: None,
            deadline_ns,
        };
        let Some((at, place)) = self.requests.enter(&flow, new) else {
            ctx.counters.count(Did::AttemptsFull);
            pools.failed(ctx.now_ns, &flow, pool, NoBoard::AttemptsFull);
            return ctx.sink.tell(worker, Command::Datagrams { entry, board: None });
        };
        // What an earlier flow left there.
        *place = new();
        self.ask_next(ctx, pools, at);
    }

    /// Asks the best board that has not been asked yet.
    fn ask_next(&mut self, ctx: &mut Context<'_>, pools: &mut Pools, at: At) {
        let Some(request) = self.requests.get_mut(at) else { return };
        let wanted = Wanted {
            flow: &request.flow,
            pool: request.pool,
            tried: &request.tried,
            after: request.after,
            session: None,
        };
        match pools.choose(ctx.boards, ctx.now_ns, &wanted) {
            Ok(board) => {
                (request.asked, request.sent) = (Some(board), 0);
                if let Some(board) = ctx.boards.board_mut(board) {
                    board.traffic.in_flight += 1;
                }
                self.send(ctx, at);
            }
            Err(why) => {
                ctx.counters.count(Did::Unavailable);
                pools.failed(ctx.now_ns, &request.flow, request.pool, why);
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
        pools: &mut Pools,
        board: BoardId,
        flow: &Flow,
        code: u8,
    ) {
        let Some(at) = self.asked_of(ctx, board, flow) else { return };
        if let Some(board) = ctx.boards.board_mut(board) {
            board.refused(code);
        }
        self.next(ctx, pools, at, Ended::Refused);
    }

    /// The board that was asked does not take the flow.
    fn next(&mut self, ctx: &mut Context<'_>, pools: &mut Pools, at: At, how: Ended) {
        self.leave(ctx, at, how);
        if let Some(request) = self.requests.get_mut(at)
            && let Some(board) = request.asked.take()
        {
            request.tried.insert(board);
            request.after =
                Some(if how == Ended::Silent { Reason::AfterSilence } else { Reason::AfterRefusal });
        }
        self.ask_next(ctx, pools, at);
    }

    /// Counts how the attempt at a board ended.
    fn leave(&mut self, ctx: &mut Context<'_>, at: At, how: Ended) {
        let asked = self.requests.get(at).and_then(|request| request.asked);
        if let Some(board) = asked.and_then(|asked| ctx.boards.board_mut(asked)) {
            board.attempt_ended(ctx.now_ns, how);
        }
    }

    fn end(&mut self, ctx: &mut Context<'_>, at: At, board: Option<BoardId>) {
        if let Some(request) = self.requests.get(at) {
            ctx.sink.tell(request.worker, Command::Datagrams { entry: request.entry, board });
        }
        self.requests.remove(at);
    }

    /// Repeats what is due, and goes on to other boards.
    pub fn tick(&mut self, ctx: &mut Context<'_>, pools: &mut Pools) {
        while let Some(at) = self.requests.due(ctx.now_ns) {
            let Some(request) = self.requests.get(at) else { continue };
            if ctx.now_ns >= request.deadline_ns {
                pools.failed(ctx.now_ns, &request.flow, request.pool, NoBoard::Late);
                self.leave(ctx, at, Ended::Deadline);
                self.end(ctx, at, None);
            } else if request.sent < self.tries {
                self.send(ctx, at);
            } else {
                self.next(ctx, pools, at, Ended::Silent);
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
                datagrams: Datagrams::new(20 * MS, 3, 3_000 * MS),
            }
        }

        fn place(&mut self, port: u16) -> EntryRef {
            let entry = self.world.entry();
            let Self { world, pools, datagrams } = self;
            datagrams.place(&mut world.at(1_000), pools, WORKER, entry, (flow(port), 0));
            entry
        }

        fn tick(&mut self, at_ms: u64) {
            let Self { world, pools, datagrams } = self;
            for number in 0..2 {
                alive(&mut world.boards, number, at_ms, 1 + 4 * u32::from(number));
            }
            datagrams.tick(&mut world.at(at_ms), pools);
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
                Command::Datagrams { entry, board } if worker == WORKER => (entry, board),
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
        let Scene { world, pools, datagrams } = &mut scene;
        datagrams.refused(&mut world.at(1_001), pools, board(0), &flow(1), 1);
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
        let Scene { world, pools, datagrams } = &mut scene;
        for port in 0..CAPACITY as u16 {
            datagrams.place(&mut world.at(1_000), pools, WORKER, entry, (flow(port), 0));
        }
        assert_eq!(world.out.told.len(), 0);
        datagrams.place(&mut world.at(1_000), pools, WORKER, entry, (flow(60_000), 0));
        assert_eq!(scene.told(), [(entry, None)]);
    }
}
