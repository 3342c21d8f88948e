//! Tests of [`super`] and of the requests that wait: farms whose boards listen nowhere until they are told to.

use ipos_pipelines::handoff::{Answer, Command, Place, RetryAfter, Session};
use ipos_wire::ipos::{Offer, Outcome};

use super::super::applications::tests::application;
use super::super::attempts::{AttemptSettings, Attempts};
use super::super::board::Need;
use super::super::boards::tests::{MS, address, alive, farm};
use super::super::gather::Part;
use super::super::listening::tests::socket;
use super::super::offers::tests::{list, name, offer};
use super::super::placement::{Limits, PoolSettings, Pools, Rules};
use super::super::state::State;
use super::super::state::tests::QUIET;
use super::super::testing::{WORKER, World, board, flow, id};
use super::*;

const DEADLINE_MS: u64 = 300;
const WAIT_MS: u64 = 2000;
const IDLE_MS: u64 = 5000;
const ENDPOINT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 80);

struct Stage {
    world: World,
    attempts: Attempts,
    sequence: u32,
    clients: u16,
}

impl Stage {
    /// Boards that report at time 0, offer the application and do not run it. Service 0 has it.
    fn new(boards: u16) -> Self {
        let mut world = World::new(farm(boards));
        let settings = AttemptSettings {
            retry_ns: 20 * MS,
            tries: 4,
            deadline_ns: DEADLINE_MS * MS,
            capacity: 100,
            appliance_id: 9,
        };
        (0..boards).for_each(|number| alive(&mut world.boards, number, 0, 0));
        let all: Vec<BoardId> = (0..boards).map(board).collect();
        let mut attempts = Attempts::new(
            settings,
            Pools::new(vec![PoolSettings::equal(all.clone())], vec![Rules::default()]),
        );
        let service = ServiceSettings {
            service: "web".to_owned(),
            application: name("nginx"),
            endpoint: ENDPOINT,
            boards: all,
            queue: 3,
            wait_ns: WAIT_MS * MS,
            idle_ns: Some(IDLE_MS * MS),
            instances_max: 2,
        };
        attempts.spawner = Spawner::new(vec![Some(service)]);
        let mut stage = Self { world, attempts, sequence: 10, clients: 0 };
        for number in 0..boards {
            stage.listens(0, number, false);
            stage.offers(number, offer("nginx"));
        }
        stage
    }

    /// Every board reports, so that it lives.
    fn report(&mut self, at_ms: u64) {
        let boards: Vec<BoardId> = self.world.boards.iter().map(|(id, _)| id).collect();
        for id in boards {
            alive(&mut self.world.boards, id.0, at_ms, 0);
        }
    }

    /// A board's sockets, as the core takes them.
    fn listens(&mut self, at_ms: u64, number: u16, listens: bool) {
        self.sequence += 1;
        let rows = if listens { vec![socket([0; 4], 80)] } else { vec![] };
        let part = Part { epoch: 1000, sequence: self.sequence, part: 0, parts: 1, rows };
        assert_eq!(self.world.boards.sockets(board(number), part), Ok(true));
        let ctx = &mut self.world.at(at_ms);
        self.attempts.spawner.sockets(ctx, board(number));
        if self.attempts.spawner.is_awaited(ctx.boards, board(number)) {
            self.attempts.retry_waiting(ctx);
        }
    }

    fn offers(&mut self, number: u16, row: Offer) {
        self.sequence += 1;
        assert_eq!(self.world.boards.offers(board(number), list(self.sequence, vec![row])), Ok(true));
    }

    fn state(&mut self, number: u16, change: impl Fn(&mut State)) {
        if let Some(state) = self.world.boards.board_mut(board(number)).and_then(|board| board.state.as_mut())
        {
            change(state);
        }
    }

    fn request(&mut self, at_ms: u64) -> Place {
        self.clients += 1;
        let request = self.world.request(self.clients);
        self.attempts.place(&mut self.world.at(at_ms), WORKER, &request, Session::None);
        request
    }

    fn tick(&mut self, at_ms: u64) {
        self.attempts.tick(&mut self.world.at(at_ms));
    }

    fn outcome(&mut self, at_ms: u64, from: u16, order: u64, progress: Progress, retry_ms: u32) {
        let outcome = Outcome {
            board: address(from),
            appliance: Ipv4Addr::LOCALHOST,
            progress,
            retry_ms,
            id: order,
            pid: 1,
            detail: 0,
            name: name("nginx"),
            tag: [0; 16],
        };
        let ctx = &mut self.world.at(at_ms);
        if self.attempts.spawner.outcome(ctx, board(from), &outcome) {
            self.attempts.retry_waiting(ctx);
        }
    }

    /// What the boards were told since the last look: board number, word, id.
    fn said(&mut self) -> Vec<(u16, &'static str, u64)> {
        let messages = self.world.out.messages();
        let short = messages.iter().map(|(_, to, message)| {
            let number = u16::from(to[5]) - 1;
            match message {
                Message::Order { action: Action::Start, id, .. } => (number, "start", *id),
                Message::Order { action: Action::Stop, id, .. } => (number, "stop", *id),
                Message::Connection { tcb, .. } => (number, "connect", tcb.migration_id),
                other => panic!("unexpected: {other:?}"),
            }
        });
        short.collect()
    }

    /// The one order since the last look.
    #[track_caller]
    fn ordered(&mut self, number: u16, what: &str) -> u64 {
        match self.said()[..] {
            [(to, word, order)] if (to, word) == (number, what) => order,
            ref other => panic!("one order to {what} on board {number}, not {other:?}"),
        }
    }

    fn did(&self, what: Did) -> u64 {
        self.world.counters.did(what)
    }

    fn waiting(&self) -> u32 {
        self.attempts.spawner.shown(0).map_or(0, |shown| shown.waiting)
    }

    /// Answers since the last look, by entry.
    fn answers(&mut self) -> Vec<String> {
        self.world.out.commands()
    }
}

fn answered(request: &Place, answer: Answer) -> String {
    format!("{} {:?}", WORKER.0, Command::Answer { entry: request.entry, answer })
}

#[test]
fn many_requests_start_one_instance_and_all_go_there_once_it_listens() {
    let mut stage = Stage::new(2);
    for _ in 0..3 {
        stage.request(1);
    }
    let order = stage.ordered(0, "start");
    assert_eq!((stage.waiting(), stage.did(Did::StartAsked), stage.did(Did::Waited)), (3, 1, 3));
    stage.outcome(2, 0, order, Progress::Starting, 0);
    stage.tick(100);
    assert_eq!((stage.said(), stage.answers()), (vec![], vec![]));
    stage.report(120);
    stage.listens(121, 0, true);
    let said = stage.said();
    assert_eq!(said.iter().map(|said| (said.0, said.1)).collect::<Vec<_>>(), [(0, "connect"); 3]);
    assert_eq!((stage.waiting(), stage.did(Did::Started)), (0, 1));
    for (number, (_, _, migration)) in said.into_iter().enumerate() {
        stage.attempts.acknowledged(&mut stage.world.at(122), board(0), flow(number as u16 + 1), migration);
    }
    stage.outcome(123, 0, order, Progress::Listening, 0);
    assert_eq!((stage.answers().len(), stage.attempts.count(), stage.did(Did::Started)), (3, 0, 1));
}

#[test]
fn the_board_with_the_most_memory_and_cpu_left_is_asked_and_one_without_room_never() {
    let mut stage = Stage::new(3);
    stage.state(0, |state| state.cpu_hundredths = 9000);
    stage.state(1, |state| state.memory_free_octets = 32 << 20);
    stage.request(1);
    stage.ordered(2, "start");
    let mut stage = Stage::new(2);
    stage.state(0, |state| state.cpu_hundredths = 9000);
    stage.state(1, |state| state.memory_free_octets = 32 << 20);
    let request = stage.request(1);
    assert_eq!((stage.said(), stage.did(Did::NoStart)), (vec![], 1));
    assert_eq!(stage.answers(), [answered(&request, Answer::NotYet(RetryAfter::S1))]);
}

#[test]
fn what_an_instance_was_seen_to_take_counts_where_it_is_more_than_declared() {
    let mut stage = Stage::new(2);
    let taken = 400 << 20;
    stage.offers(0, Offer { listening: 1, ..offer("nginx") });
    stage.listens(0, 0, true);
    let pid = stage.world.boards.board(board(0)).map_or(0, |board| board.listening.sockets()[0].process_id);
    let mut row = application(pid);
    row.memory_octets = taken;
    let part = Part { epoch: 1000, sequence: 1, part: 0, parts: 1, rows: vec![row] };
    assert_eq!(stage.world.boards.applications(board(0), part), Ok(true));
    stage.tick(1);
    // It is gone, and what it took is remembered.
    stage.offers(0, offer("nginx"));
    stage.listens(2, 0, false);
    for number in 0..2 {
        stage.state(number, |state| state.memory_free_octets = taken - 1);
    }
    stage.request(3);
    assert_eq!((stage.said(), stage.did(Did::NoStart)), (vec![], 1));
    stage.state(1, |state| state.memory_free_octets = taken);
    stage.request(4);
    stage.ordered(1, "start");
}

#[test]
fn an_order_is_repeated_under_its_id_until_it_is_answered_and_asked_after_from_then_on() {
    let mut stage = Stage::new(1);
    stage.request(0);
    let order = stage.ordered(0, "start");
    let mut sent_ms = Vec::new();
    for at_ms in 1..=160 {
        stage.tick(at_ms);
        sent_ms.extend(stage.said().iter().map(|said| {
            assert_eq!(*said, (0, "start", order));
            at_ms
        }));
    }
    assert_eq!(sent_ms, [50, 100, 150]);
    stage.outcome(160, 0, order, Progress::Starting, 0);
    stage.report(300);
    for at_ms in 161..=700 {
        stage.tick(at_ms);
        sent_ms.extend(stage.said().iter().map(|_| at_ms));
    }
    assert_eq!(sent_ms, [50, 100, 150, 650]);
}

#[test]
fn a_failure_leads_to_the_next_board_and_after_the_last_the_client_hears_when_to_come_again() {
    for (failure, counter) in [
        (Progress::Unlisted, Did::StartUnlisted),
        (Progress::Exited, Did::StartExited),
        (Progress::NeverListened, Did::StartNeverListened),
        (Progress::BackingOff, Did::StartBackingOff),
        (Progress::Impossible, Did::StartImpossible),
        (Progress::Other(99), Did::StartImpossible),
    ] {
        let mut stage = Stage::new(2);
        let request = stage.request(1);
        let first = stage.ordered(0, "start");
        stage.outcome(2, 0, first, failure, 0);
        let second = stage.ordered(1, "start");
        assert_eq!((stage.answers(), stage.did(counter)), (vec![], 1), "{failure:?}");
        // A repeated outcome of an order that is over changes nothing.
        stage.outcome(3, 0, first, failure, 0);
        stage.outcome(4, 1, second, failure, 8000);
        let after = if failure == Progress::Unlisted { RetryAfter::S10 } else { RetryAfter::S1 };
        assert_eq!(stage.answers(), [answered(&request, Answer::NotYet(after))], "{failure:?}");
        assert_eq!((stage.said(), stage.did(counter), stage.waiting()), (vec![], 2, 0));
    }
}

#[test]
fn a_board_that_failed_is_asked_again_after_a_while() {
    let mut stage = Stage::new(1);
    stage.request(1);
    let order = stage.ordered(0, "start");
    stage.outcome(2, 0, order, Progress::Exited, 250);
    stage.report(1000);
    stage.request(1001);
    assert_eq!(stage.said(), []);
    stage.request(1003);
    assert!(stage.ordered(0, "start") != order);
}

#[test]
fn a_board_that_dies_or_is_silent_is_given_up_for_the_next() {
    let mut stage = Stage::new(2);
    stage.request(0);
    let order = stage.ordered(0, "start");
    let mut said = Vec::new();
    for at_ms in 1..=1000 {
        if at_ms % 100 == 0 {
            stage.report(at_ms);
        }
        stage.tick(at_ms);
        said.extend(stage.said());
    }
    let (next, repeats) = said.split_last().expect("orders");
    assert!(repeats.iter().all(|said| *said == (0, "start", order)), "{repeats:?}");
    assert_eq!((repeats.len(), next.0, next.1, stage.did(Did::StartSilent)), (19, 1, "start", 1));
}

#[test]
fn waiting_is_bounded_in_number_and_in_time() {
    let mut stage = Stage::new(1);
    let waits: Vec<Place> = (0..3).map(|_| stage.request(0)).collect();
    let order = stage.ordered(0, "start");
    stage.outcome(1, 0, order, Progress::Starting, 0);
    let beyond = stage.request(1);
    assert_eq!(stage.answers(), [answered(&beyond, Answer::NotYet(RetryAfter::S2))]);
    assert_eq!((stage.did(Did::WaitFull), stage.waiting()), (1, 3));
    for at_ms in 2..WAIT_MS {
        if at_ms % 100 == 0 {
            stage.report(at_ms);
            stage.outcome(at_ms, 0, order, Progress::Starting, 0);
        }
        stage.tick(at_ms);
        assert_eq!(stage.answers(), [""; 0], "{at_ms} ms");
    }
    (WAIT_MS..WAIT_MS + 25).for_each(|at_ms| stage.tick(at_ms));
    let expected: Vec<String> =
        waits.iter().map(|request| answered(request, Answer::NotYet(RetryAfter::S1))).collect();
    assert_eq!(stage.answers(), expected);
    assert_eq!((stage.waiting(), stage.did(Did::WaitOver), stage.attempts.count()), (0, 3, 0));
}

#[test]
fn a_client_that_leaves_waits_no_more() {
    let mut stage = Stage::new(1);
    let request = stage.request(0);
    assert_eq!(stage.waiting(), 1);
    stage.attempts.abandon(&mut stage.world.at(1), request.entry, request.flow, None);
    assert_eq!((stage.waiting(), stage.attempts.count()), (0, 0));
}

#[test]
fn a_full_accept_queue_right_after_the_start_is_waited_for() {
    let mut stage = Stage::new(1);
    let request = stage.request(0);
    stage.ordered(0, "start");
    stage.offers(0, Offer { listening: 1, ..offer("nginx") });
    stage.listens(10, 0, true);
    let (_, _, first) = stage.said()[0];
    stage.attempts.refused(&mut stage.world.at(11), board(0), request.flow, first, 3);
    assert_eq!((stage.answers(), stage.waiting()), (vec![], 1));
    stage.tick(35);
    assert!(matches!(stage.said()[..], [(0, "connect", again)] if again != first));
    stage.attempts.refused(&mut stage.world.at(36), board(0), request.flow, first, 3);
    assert_eq!(stage.answers(), [""; 0]);
}

#[test]
fn what_starts_by_itself_or_by_another_appliance_is_waited_for() {
    let mut stage = Stage::new(1);
    stage.offers(0, Offer { starting: 1, ..offer("nginx") });
    stage.request(0);
    assert_eq!((stage.said(), stage.waiting()), (vec![], 1));
    // It crashed, and comes back soon.
    stage.offers(0, Offer { starting: 1, retry_ms: 500, failures: 2, ..offer("nginx") });
    stage.request(1);
    assert_eq!((stage.said(), stage.waiting()), (vec![], 2));
    // It is in a crash loop: too long for anybody to wait.
    stage.offers(0, Offer { starting: 1, retry_ms: 30_000, failures: 9, ..offer("nginx") });
    let request = stage.request(2);
    assert_eq!(stage.answers(), [answered(&request, Answer::NotYet(RetryAfter::S1))]);
    // Another board takes over at once.
    let mut stage = Stage::new(2);
    stage.offers(0, Offer { starting: 1, retry_ms: 500, failures: 2, ..offer("nginx") });
    stage.request(1);
    stage.ordered(1, "start");
}

#[test]
fn no_more_instances_than_allowed_are_started() {
    let mut stage = Stage::new(3);
    for number in 0..2 {
        stage.offers(number, Offer { listening: 1, ..offer("nginx") });
    }
    stage.request(1);
    assert_eq!((stage.said(), stage.did(Did::NoStart)), (vec![], 1));
}

#[test]
fn an_idle_instance_is_held_back_stopped_and_started_again_when_wanted() {
    let mut stage = Stage::new(1);
    stage.offers(0, Offer { listening: 1, ..offer("nginx") });
    stage.listens(0, 0, true);
    stage.tick(1);
    // A connection is placed, and ends.
    stage.report(1000);
    let request = stage.request(1000);
    let (_, _, migration) = stage.said()[0];
    stage.attempts.acknowledged(&mut stage.world.at(1001), board(0), request.flow, migration);
    stage.attempts.spawner.ended(3000 * MS, ENDPOINT, board(0));
    stage.report(7900);
    stage.tick(7900);
    assert_eq!(stage.said(), []);
    stage.tick(8001);
    stage.tick(8002);
    let stop = stage.ordered(0, "stop");
    stage.outcome(8003, 0, stop, Progress::Stopping, 0);
    let fit = |stage: &Stage, at_ms: u64| {
        let boards = &stage.world.boards;
        let need = Need {
            options: boards.options(),
            listener: true,
            endpoint: ENDPOINT,
            limits: &Limits::default(),
        };
        boards.board(board(0)).map(|b| b.fit(at_ms * MS, &need).is_ok())
    };
    assert_eq!(fit(&stage, 8003), Some(false), "held back");
    stage.offers(0, offer("nginx"));
    stage.listens(8300, 0, false);
    stage.outcome(8300, 0, stop, Progress::Stopped, 0);
    assert_eq!((stage.did(Did::StopAsked), stage.did(Did::Stopped)), (1, 1));
    stage.report(8400);
    stage.request(8400);
    stage.ordered(0, "start");
}

#[test]
fn a_busy_instance_goes_on_and_is_not_asked_again_before_it_has_been_idle_anew() {
    let mut stage = Stage::new(1);
    stage.offers(0, Offer { listening: 1, ..offer("nginx") });
    stage.listens(0, 0, true);
    stage.tick(1);
    stage.report(5100);
    stage.tick(5101);
    stage.tick(5102);
    let stop = stage.ordered(0, "stop");
    stage.outcome(5103, 0, stop, Progress::Busy, 0);
    stage.request(5104);
    let [(0, "connect", migration)] = stage.said()[..] else { panic!("it serves on") };
    stage.attempts.acknowledged(&mut stage.world.at(5105), board(0), flow(1), migration);
    for at_ms in [5300, 7000, 10_000] {
        stage.report(at_ms);
        stage.tick(at_ms);
        assert!(stage.said().iter().all(|said| said.1 != "stop"), "{at_ms}");
    }
    assert_eq!((stage.did(Did::StopBusy), stage.did(Did::Stopped)), (1, 0));
}

#[test]
fn a_request_keeps_what_is_about_to_stop() {
    let mut stage = Stage::new(1);
    stage.offers(0, Offer { listening: 1, ..offer("nginx") });
    stage.listens(0, 0, true);
    stage.tick(1);
    stage.report(5100);
    stage.tick(5101);
    // The order has not gone out: nobody needs to know.
    let request = stage.request(5101);
    assert_eq!((stage.said(), stage.waiting()), (vec![], 1));
    (5102..5125).for_each(|at_ms| stage.tick(at_ms));
    assert!(matches!(stage.said()[..], [(0, "connect", _)]), "{request:?}");

    let mut stage = Stage::new(1);
    stage.offers(0, Offer { listening: 1, ..offer("nginx") });
    stage.listens(0, 0, true);
    stage.tick(1);
    stage.report(5100);
    stage.tick(5101);
    stage.tick(5102);
    let stop = stage.ordered(0, "stop");
    // The order is on its way: a start overtakes it.
    stage.request(5103);
    let start = stage.ordered(0, "start");
    stage.outcome(5104, 0, stop, Progress::Busy, 0);
    stage.outcome(5104, 0, start, Progress::Listening, 0);
    assert!(matches!(stage.said()[..], [(0, "connect", _)]));
    assert_eq!(stage.answers(), [""; 0]);
}

#[test]
fn without_an_application_nothing_is_started() {
    let mut stage = Stage::new(1);
    stage.attempts.spawner = Spawner::new(vec![None]);
    let request = stage.request(1);
    assert_eq!(stage.answers(), [answered(&request, Answer::Unavailable)]);
    assert_eq!(stage.said(), []);
    assert!(id(1) != 0 && QUIET.wrong().is_none());
}
