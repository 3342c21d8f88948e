//! Tests of [`super`]: every answer of the board that has the connection, and none.

use ipos_pipelines::handoff::{Answer, Counted, SessionKey};
use ipos_wire::ipos::{Offer, Protocol, Trailer};

use super::super::admission::{Admit, AdmitSettings};
use super::super::attempts::AttemptSettings;
use super::super::boards::tests::{MS, alive, farm};
use super::super::offers::tests::{list, name, offer};
use super::super::placement::{PoolSettings, Rules};
use super::super::spawn::{ServiceSettings, Spawner};
use super::super::testing::{WORKER, World, board, flow, id};
use super::*;

/// The attempt by which board 0 has the connection.
const HELD: u64 = 77;

struct Rig {
    world: World,
    attempts: Attempts,
    moves: Moves,
}

impl Rig {
    /// Boards 0 to 2 report; pool 0 is the second and the third, pool 1 the first.
    fn new() -> Self {
        let mut world = World::new(farm(3));
        (0..3).for_each(|n| alive(&mut world.boards, n, 0, u32::from(n)));
        let settings = AttemptSettings {
            retry_ns: 20 * MS,
            tries: 3,
            deadline_ns: 3000 * MS,
            capacity: 2,
            appliance_id: 9,
        };
        let pools = vec![PoolSettings::equal([board(1), board(2)]), PoolSettings::equal([board(0)])];
        let attempts = Attempts::new(settings, Pools::new(pools, vec![Rules::default()]));
        Self { world, attempts, moves: Moves::new(2, 20 * MS, 3) }
    }

    /// A request of board 0's connection, for pool 0.
    fn begins(&mut self, at_ms: u64) -> Place {
        let place = self.world.request(1);
        self.begins_as(at_ms, place)
    }

    fn begins_as(&mut self, at_ms: u64, place: Place) -> Place {
        let pools = &mut self.attempts.pools;
        self.moves.begin(&mut self.world.at(at_ms), pools, WORKER, (&place, Session::None), (board(0), HELD));
        place
    }

    fn said(&self, place: &Place, outcome: DetachOutcome) -> Detached {
        let next = NextRequest { seq: place.endpoint.irs + 1, ack: place.endpoint.iss + 1 };
        let trailer = Trailer::open(HELD);
        Detached { flow: place.flow, protocol: Protocol::Tcp, outcome, next, trailer }
    }

    fn answers(&mut self, at_ms: u64, from: u16, said: &Detached) -> bool {
        self.moves.answered(&mut self.world.at(at_ms), &mut self.attempts, board(from), said)
    }

    /// What the boards were told since the last look.
    fn sent(&mut self) -> Vec<(u16, &'static str, u64)> {
        let short = self.world.out.messages();
        let short = short.iter().map(|(_, to, message)| {
            let number = u16::from(to[5]) - 1;
            match message {
                Message::Connection { tcb, .. } => (number, "connect", tcb.migration_id),
                Message::GiveUp { id, .. } => (number, "give up", *id),
                other => panic!("not of a move: {other:?}"),
            }
        });
        short.collect()
    }

    fn stays(&mut self, place: &Place, why: Stay) {
        let command = Command::Stay { entry: place.entry, why };
        assert_eq!(self.world.out.commands(), [format!("2 {command:?}")]);
        assert_eq!(self.moves.count(), 0);
    }
}

#[test]
fn a_board_that_gives_the_endpoint_up_is_followed_by_one_of_the_row_under_another_id() {
    let mut rig = Rig::new();
    let place = rig.begins(1);
    let next = NextRequest { seq: place.endpoint.irs + 1, ack: place.endpoint.iss + 1 };
    let message = Message::GiveUp { flow: flow(1), id: HELD, next };
    assert_eq!(rig.world.out.messages().into_iter().map(|sent| sent.2).collect::<Vec<_>>(), [message]);
    assert!(rig.answers(2, 0, &rig.said(&place, DetachOutcome::Detached)));
    assert_eq!((rig.sent(), rig.moves.count(), rig.attempts.count()), (vec![(1, "connect", id(1))], 0, 1));
    rig.attempts.acknowledged(&mut rig.world.at(3), board(1), flow(1), id(1));
    let command = Command::Migrated {
        entry: place.entry,
        flow: flow(1),
        board: board(1),
        migration_id: id(1),
        counted: Counted::No,
    };
    assert_eq!(rig.world.out.commands(), [format!("2 {command:?}")]);
    // Said again, it finds no move.
    assert!(!rig.answers(4, 0, &rig.said(&place, DetachOutcome::Detached)));
}

#[test]
fn after_refusals_the_next_board_is_asked_and_then_the_client_is_answered() {
    let mut rig = Rig::new();
    let place = rig.begins(1);
    rig.sent();
    assert!(rig.answers(2, 0, &rig.said(&place, DetachOutcome::Detached)));
    rig.attempts.refused(&mut rig.world.at(3), board(1), flow(1), id(1), 1);
    rig.attempts.refused(&mut rig.world.at(4), board(2), flow(1), id(2), 1);
    assert_eq!(rig.sent(), [(1, "connect", id(1)), (2, "connect", id(2))], "never the board that had it");
    let command = Command::Answer { entry: place.entry, answer: Answer::Unavailable };
    assert_eq!(rig.world.out.commands(), [format!("2 {command:?}")]);
}

#[test]
fn a_connection_that_moves_is_no_new_one_to_a_limit() {
    let mut rig = Rig::new();
    let admit = Admit { connections: Some(1), ..Admit::default() };
    let endpoint = (flow(1).endpoint, flow(1).endpoint_port);
    let settings = AdmitSettings { service: 0, endpoint, protocol: Protocol::Tcp, admit };
    rig.attempts.admission.reconfigure(&[settings]);
    let first = Place { pool: 1, ..rig.world.request(1) };
    rig.attempts.place(&mut rig.world.at(1), WORKER, &first, Session::None);
    rig.attempts.acknowledged(&mut rig.world.at(1), board(0), flow(1), id(1));
    rig.world.out.commands();
    rig.sent();
    let place = rig.begins(2);
    assert!(rig.answers(3, 0, &rig.said(&place, DetachOutcome::Detached)));
    assert_eq!(rig.sent(), [(0, "give up", HELD), (1, "connect", id(2))], "not refused, though one is all");
    rig.attempts.acknowledged(&mut rig.world.at(4), board(1), flow(1), id(2));
    assert_eq!(rig.attempts.admission.shown(0).map(|(_, admitted)| admitted.connections), Some(1));
}

#[test]
fn a_session_finds_its_board_by_a_later_request_too() {
    for named in [1, 2] {
        let mut rig = Rig::new();
        let place = rig.world.request(1);
        let session = Session::Named { board: board(named), again: None };
        let pools = &mut rig.attempts.pools;
        rig.moves.begin(&mut rig.world.at(1), pools, WORKER, (&place, session), (board(0), HELD));
        assert!(rig.answers(2, 0, &rig.said(&place, DetachOutcome::Detached)));
        assert_eq!(rig.sent()[1..], [(named, "connect", id(1))]);
    }
    let fresh = Session::Fresh(SessionKey::of(1));
    assert_eq!(fresh.to_move_by(), Session::None, "nobody is sent away in mid-connection");
}

#[test]
fn a_busy_board_keeps_it_and_one_that_holds_nothing_too() {
    for (outcome, why) in [(DetachOutcome::Busy, Stay::Busy), (DetachOutcome::NotHeld, Stay::NotHeld)] {
        let mut rig = Rig::new();
        let place = rig.begins(1);
        assert!(rig.answers(2, 0, &rig.said(&place, outcome)));
        rig.stays(&place, why);
        assert_eq!((rig.sent().len(), rig.attempts.count()), (1, 0));
    }
}

#[test]
fn a_silent_board_is_asked_as_often_as_any_and_keeps_it() {
    let mut rig = Rig::new();
    let place = rig.begins(0);
    let mut sent_at_ms = vec![0; rig.sent().len()];
    for at_ms in 1..100 {
        rig.moves.tick(&mut rig.world.at(at_ms));
        sent_at_ms.extend(rig.sent().iter().map(|sent| {
            assert_eq!(*sent, (0, "give up", HELD));
            at_ms
        }));
    }
    assert_eq!(sent_at_ms, [0, 20, 40]);
    rig.stays(&place, Stay::Silent);
    assert!(!rig.answers(101, 0, &rig.said(&place, DetachOutcome::Detached)), "too late");
}

#[test]
fn answers_of_other_boards_attempts_and_requests_change_nothing() {
    let mut rig = Rig::new();
    let place = rig.begins(1);
    let said = rig.said(&place, DetachOutcome::Detached);
    assert!(rig.answers(2, 1, &said));
    assert_eq!(rig.world.counters.ignored(Ignored::WrongBoard), 1);
    assert!(rig.answers(2, 0, &Detached { outcome: DetachOutcome::Other(9), ..said }));
    assert_eq!(rig.world.counters.ignored(Ignored::BadField), 1);
    assert!(!rig.answers(2, 0, &Detached { flow: flow(2), ..said }));
    assert!(!rig.answers(2, 0, &Detached { trailer: Trailer::open(HELD + 1), ..said }));
    let next = NextRequest { seq: said.next.seq + 1, ..said.next };
    assert!(!rig.answers(2, 0, &Detached { next, ..said }), "an earlier request of the same record");
    assert_eq!((rig.world.out.commands(), rig.moves.count()), (vec![], 1));
}

#[test]
fn nobody_is_asked_where_the_request_need_not_or_cannot_move() {
    let mut rig = Rig::new();
    let place = Place { pool: 1, ..rig.world.request(1) };
    rig.begins_as(1, place);
    rig.stays(&place, Stay::Shared);
    // Pool 2 has no boards.
    let place = Place { pool: 2, ..place };
    rig.begins_as(1, place);
    rig.stays(&place, Stay::NoBoard);
    // No board has reported for long.
    let place = Place { pool: 0, ..place };
    let later_ms = 60_000;
    rig.world.boards.transitions(later_ms * MS);
    rig.begins_as(later_ms, place);
    rig.stays(&place, Stay::NoBoard);
    assert_eq!(rig.sent(), []);
    // Nothing of that counts as a request that was placed, or not.
    let (placed, failed) = rig.attempts.pools.counts(0);
    assert_eq!((placed.iter().sum::<u64>(), failed.iter().sum::<u64>()), (0, 0));
}

#[test]
fn a_request_that_the_appliance_answers_needs_no_board() {
    let mut rig = Rig::new();
    let place = Place { pool: NO_POOL, ..rig.world.request(1) };
    rig.begins_as(1, place);
    assert_eq!(rig.sent(), [(0, "give up", HELD)]);
    assert!(rig.answers(2, 0, &rig.said(&place, DetachOutcome::Detached)));
    let command = Command::Detached { entry: place.entry };
    assert_eq!(rig.world.out.commands(), [format!("2 {command:?}")]);
    assert_eq!((rig.attempts.count(), rig.moves.count()), (0, 0));
}

#[test]
fn an_application_is_idle_from_when_its_connection_moved_away() {
    const IDLE_MS: u64 = 5000;
    let mut rig = Rig::new();
    let service = ServiceSettings {
        service: "web".to_owned(),
        application: name("nginx"),
        endpoint: (flow(1).endpoint, 80),
        boards: vec![board(0)],
        queue: 3,
        wait_ns: 2000 * MS,
        idle_ns: Some(IDLE_MS * MS),
        instances_max: 1,
    };
    rig.attempts.spawner = Spawner::new(vec![Some(service)]);
    let runs = list(10, vec![Offer { listening: 1, ..offer("nginx") }]);
    assert_eq!(rig.world.boards.offers(board(0), runs), Ok(true));
    let is_stopped = |rig: &mut Rig, at_ms: u64| {
        (0..3).for_each(|n| alive(&mut rig.world.boards, n, at_ms, 0));
        // Chosen in the one look, ordered with the next turn.
        (0..2).for_each(|later_ms| rig.attempts.tick(&mut rig.world.at(at_ms + later_ms)));
        rig.world.out.messages().iter().any(|sent| matches!(sent.2, Message::Order { .. }))
    };
    assert!(!is_stopped(&mut rig, 1), "seen for the first time");
    assert!(!is_stopped(&mut rig, 2990), "not idle for so long yet");
    let place = rig.begins(3000);
    assert!(rig.answers(3001, 0, &rig.said(&place, DetachOutcome::Detached)));
    assert!(!is_stopped(&mut rig, IDLE_MS + 100), "not yet, though nothing has been placed there since");
    assert!(is_stopped(&mut rig, 3001 + IDLE_MS + 200));
}

#[test]
fn too_many_at_once_stay() {
    let mut rig = Rig::new();
    for port in 1..=2 {
        let place = rig.world.request(port);
        rig.begins_as(1, place);
    }
    let place = rig.world.request(3);
    rig.begins_as(1, place);
    let command = Command::Stay { entry: place.entry, why: Stay::NoRoom };
    assert_eq!(rig.world.out.commands(), [format!("2 {command:?}")]);
    assert_eq!(rig.moves.count(), 2);
}

#[test]
fn a_connection_that_is_given_up_is_asked_for_no_more() {
    let mut rig = Rig::new();
    let place = rig.begins(1);
    let other = rig.world.entry();
    rig.moves.abandon(other, &place.flow);
    assert_eq!(rig.moves.count(), 1, "another entry's");
    rig.moves.abandon(place.entry, &place.flow);
    rig.sent();
    rig.moves.tick(&mut rig.world.at(45));
    assert_eq!((rig.moves.count(), rig.sent(), rig.world.out.commands()), (0, vec![], vec![]));
    // A request of a new entry takes the place of one whose entry is gone.
    rig.begins(46);
    let again = rig.begins(47);
    assert!(rig.answers(48, 0, &rig.said(&again, DetachOutcome::Busy)));
    rig.stays(&again, Stay::Busy);
}
