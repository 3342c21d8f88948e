use ipos_pipelines::handoff::{Answer, Command, WorkerId};

use super::super::super::boards::Boards;
use super::super::super::boards::tests::{MS, alive, farm};
use super::super::super::counters::Reason;
use super::super::super::placement::{Policy, PoolSettings, Pools, Rules};
use super::super::super::sessions::{MapSettings, Sessions};
use super::super::super::sink::Message;
use super::super::super::standing::Drain;
use super::super::super::testing::{WORKER, World, board};
use super::super::AttemptSettings;
use super::*;

const SETTINGS: AttemptSettings =
    AttemptSettings { retry_ns: 20 * MS, tries: 2, deadline_ns: 3000 * MS, capacity: 64, appliance_id: 9 };

/// Three boards of a service that learns; pool 1 has the first two alone.
struct Farm {
    world: World,
    attempts: Attempts,
    now_ms: u64,
    port: u16,
}

fn key(number: u64) -> SessionKey {
    SessionKey::of(1 << 40 | number)
}

fn learned(number: u64) -> Session {
    Session::Learned(key(number))
}

impl Farm {
    fn new() -> Self {
        let mut world = World::new(farm(3));
        (0..3).for_each(|id| alive(&mut world.boards, id, 0, 0));
        let pools = vec![PoolSettings::equal((0..3).map(board)), PoolSettings::equal((0..2).map(board))];
        let rules = Rules { policy: Policy::ConsistentHash, ..Rules::default() };
        let mut attempts = Attempts::new(SETTINGS, Pools::new(pools, vec![rules]));
        attempts.sessions = Sessions::new(&[Some(MapSettings { entries: 4, idle_ns: 1_000_000 * MS })]);
        Self { world, attempts, now_ms: 1, port: 0 }
    }

    fn asked(&mut self) -> Vec<(u16, u64, Place)> {
        let messages = self.world.out.messages();
        let asked = messages.into_iter().filter_map(|(_, to, message)| match message {
            Message::Connection { tcb, .. } => Some((u16::from(to[5]) - 1, tcb.migration_id)),
            _ => None,
        });
        let place = self.world.request(self.port);
        asked.map(|(board, id)| (board, id, place)).collect()
    }

    /// A request, and the board that is asked for it.
    fn ask(&mut self, pool: u16, client: u8, session: Session) -> (u16, u64, Place) {
        self.port += 1;
        let mut place = self.world.request(self.port);
        place.pool = pool;
        place.flow.client = [203, 0, 113, client].into();
        self.attempts.place(&mut self.world.at(self.now_ms), WORKER, &place, session);
        let asked = self.asked();
        let [(board, id, _)] = asked[..] else { panic!("one board is asked, not {asked:?}") };
        (board, id, place)
    }

    /// A request that the board takes.
    fn serve(&mut self, pool: u16, client: u8, session: Session) -> u16 {
        let (on, id, place) = self.ask(pool, client, session);
        self.attempts.acknowledged(&mut self.world.at(self.now_ms), board(on), place.flow, id);
        let told = std::mem::take(&mut self.world.out.told);
        let is_done = |told: &(WorkerId, Command)| matches!(told.1, Command::Migrated { .. });
        assert!(told.iter().any(is_done), "{told:?}");
        on
    }

    fn did(&self, what: Did) -> u64 {
        self.world.counters.did(what)
    }

    fn by_cookie(&self) -> u64 {
        self.attempts.pools.counts(0).0[Reason::Cookie as usize]
    }

    /// A client's address whose own board this is not.
    fn stranger_to(&mut self, on: u16) -> u8 {
        (1..=250).find(|client| self.serve(0, *client, Session::None) != on).expect("boards share clients")
    }

    fn drain(&mut self, on: u16, deadline_ms: Option<u64>) {
        let standing = &mut self.world.boards.board_mut(board(on)).expect("a board").standing;
        standing.drain = Some(Drain::new(0, deadline_ms.map(|ms| ms * MS)));
    }
}

#[test]
fn the_first_value_lands_where_the_request_without_one_did_and_stays_when_the_client_moves() {
    let mut farm = Farm::new();
    for client in 1..=4 {
        let first = farm.serve(0, client, Session::None);
        assert_eq!(farm.serve(0, client, learned(client.into())), first, "the board that set it");
        let elsewhere = farm.stranger_to(first);
        let before = farm.by_cookie();
        assert_eq!(farm.serve(0, elsewhere, learned(client.into())), first, "by the table alone");
        assert_eq!(farm.by_cookie(), before + 1);
    }
    assert_eq!((farm.did(Did::SessionLearned), farm.did(Did::SessionMoved)), (4, 0));
}

#[test]
fn a_session_keeps_its_board_when_the_set_of_boards_changes() {
    let mut farm = Farm::new();
    let first = farm.serve(0, 1, learned(1));
    let weights = |farm: &mut Farm, weight| {
        for on in (0..3).filter(|on| *on != first) {
            farm.world.boards.board_mut(board(on)).expect("a board").standing.weight = weight;
        }
    };
    weights(&mut farm, 1000);
    let moved = (1..=250).find(|client| farm.serve(0, *client, Session::None) != first).expect("most do");
    assert_eq!(farm.serve(0, moved, learned(1)), first);
}

#[test]
fn a_draining_board_keeps_its_sessions_until_the_deadline_and_gets_no_new_ones() {
    let mut farm = Farm::new();
    let first = farm.serve(0, 1, learned(1));
    farm.drain(first, Some(100));
    assert_eq!(farm.serve(0, 1, learned(1)), first);
    assert_ne!(farm.serve(0, 1, Session::None), first);
    let second = farm.serve(0, 1, learned(2));
    assert_ne!(second, first, "a new one");
    farm.now_ms = 100;
    assert_ne!(farm.serve(0, 1, learned(1)), first);
    assert_eq!((farm.did(Did::SessionAnew), farm.did(Did::SessionMoved)), (1, 1));
    let named = Session::Named { board: board(first), again: None };
    assert_ne!(farm.serve(0, 1, named), first);
    assert_eq!(farm.did(Did::SessionAnew), 2);
    // Undrained, it has lost that one for good.
    farm.world.boards.board_mut(board(first)).expect("a board").standing.drain = None;
    let now = farm.serve(0, 1, learned(1));
    assert_ne!(now, first);
    assert_eq!(farm.serve(0, 1, named), first, "a named one comes back");
}

#[test]
fn sessions_of_a_board_that_is_dead_refuses_or_is_silent_belong_to_the_next_that_takes_them() {
    let mut farm = Farm::new();
    let first = farm.serve(0, 1, learned(1));
    let (on, id, place) = farm.ask(0, 1, learned(1));
    assert_eq!(on, first);
    farm.attempts.refused(&mut farm.world.at(1), board(first), place.flow, id, 1);
    let asked = farm.asked();
    let [(second, id, _)] = asked[..] else { panic!("another board, not {asked:?}") };
    assert_ne!(second, first);
    farm.attempts.acknowledged(&mut farm.world.at(1), board(second), place.flow, id);
    assert_eq!(farm.serve(0, 1, learned(1)), second);
    assert_eq!(farm.did(Did::SessionMoved), 1);
    // Its reports are late: it may have the session still. Then it is dead.
    for on in (0..3).filter(|on| *on != second) {
        alive(&mut farm.world.boards, on, 400, 0);
        alive(&mut farm.world.boards, on, 1500, 0);
    }
    farm.now_ms = 400;
    assert_eq!(farm.serve(0, 1, learned(1)), second);
    farm.now_ms = 1500;
    assert_ne!(farm.serve(0, 1, learned(1)), second);
    assert_eq!(farm.did(Did::SessionMoved), 2);
}

#[test]
fn after_a_start_a_session_waits_for_its_board_to_be_heard_of() {
    let named = Session::Named { board: board(2), again: Some(key(7)) };
    let just_started = || {
        let mut farm = Farm::new();
        farm.world.boards = boards_with_two_heard();
        farm.port = 1;
        let place = farm.world.request(1);
        farm.attempts.place(&mut farm.world.at(1), WORKER, &place, named);
        assert!(farm.asked().is_empty() && farm.world.out.told.is_empty(), "neither a board nor a cookie");
        farm
    };
    let mut farm = just_started();
    alive(&mut farm.world.boards, 2, 50, 0);
    farm.attempts.tick(&mut farm.world.at(60));
    assert_eq!(farm.asked().first().map(|asked| asked.0), Some(2));
    // One that is never heard of is not waited for beyond the deadline.
    let mut farm = just_started();
    for on in 0..2 {
        alive(&mut farm.world.boards, on, 3000, 0);
    }
    farm.attempts.tick(&mut farm.world.at(2990));
    assert!(farm.asked().is_empty());
    farm.attempts.tick(&mut farm.world.at(3100));
    assert!(farm.asked().first().is_some_and(|asked| asked.0 < 2));
}

fn boards_with_two_heard() -> Boards {
    let mut boards = farm(3);
    (0..2).for_each(|id| alive(&mut boards, id, 0, 0));
    boards
}

#[test]
fn a_row_that_does_not_name_the_sessions_board_ignores_it_and_leaves_it_alone() {
    let mut farm = Farm::new();
    let client = (1..=250).find(|client| farm.serve(0, *client, Session::None) == 2).expect("one of board 2");
    assert_eq!(farm.serve(0, client, learned(1)), 2);
    assert_ne!(farm.serve(1, client, learned(1)), 2);
    let named = Session::Named { board: board(2), again: None };
    assert_ne!(farm.serve(1, client, named), 2, "no cookie reaches a board that the row does not name");
    assert_eq!((farm.did(Did::SessionOtherRow), farm.did(Did::SessionMoved)), (2, 0));
    assert_eq!(farm.serve(0, client, learned(1)), 2, "it is still there");
    let nobody = Session::Named { board: board(900), again: None };
    farm.serve(0, client, nobody);
    assert_eq!(farm.did(Did::SessionOtherRow), 3);
}

#[test]
fn a_request_that_no_board_took_teaches_nothing() {
    let mut farm = Farm::new();
    let (on, id, place) = farm.ask(0, 1, learned(1));
    farm.attempts.abandon(&mut farm.world.at(1), place.entry, place.flow, None);
    farm.attempts.acknowledged(&mut farm.world.at(1), board(on), place.flow, id);
    assert_eq!((farm.did(Did::SessionLearned), farm.attempts.sessions.count(0)), (0, Some((0, 4))));
}

/// The board that a request's client is given.
fn given(farm: &mut Farm, pool: u16, session: Session) -> Option<u16> {
    farm.port += 1;
    let mut place = farm.world.request(farm.port);
    place.pool = pool;
    farm.attempts.place(&mut farm.world.at(farm.now_ms), WORKER, &place, session);
    let asked = farm.asked();
    let told = std::mem::take(&mut farm.world.out.told);
    match (told.as_slice(), asked.as_slice()) {
        ([(_, Command::Answer { entry, answer: Answer::Assign(board) })], []) if *entry == place.entry => {
            Some(board.0)
        }
        ([], [_]) => None,
        other => panic!("a cookie or a board, not {other:?}"),
    }
}

#[test]
fn a_client_without_a_cookie_is_given_one_once_and_then_served_without() {
    let mut farm = Farm::new();
    let own = given(&mut farm, 0, Session::Fresh(key(1))).expect("a cookie");
    assert_eq!(farm.attempts.count(), 0, "nothing is under way");
    let named = Session::Named { board: board(own), again: Some(key(2)) };
    assert_eq!(farm.serve(0, 1, named), own);
    assert_eq!(given(&mut farm, 0, Session::Fresh(key(1))), None, "it does not keep it");
    assert_eq!(farm.did(Did::CookieWithheld), 1);
    assert!(given(&mut farm, 0, Session::Fresh(key(3))).is_some(), "another request");
    farm.now_ms += 20_000;
    (0..3).for_each(|id| alive(&mut farm.world.boards, id, farm.now_ms, 0));
    assert!(given(&mut farm, 0, Session::Fresh(key(1))).is_some());
}

#[test]
fn a_cookie_of_a_board_that_cannot_serve_is_replaced_and_one_of_another_row_is_not() {
    let mut farm = Farm::new();
    let named = |on, request| Session::Named { board: board(on), again: Some(key(request)) };
    assert_eq!(given(&mut farm, 1, named(2, 1)), None, "its session lives");
    assert_eq!(farm.did(Did::SessionOtherRow), 1);
    farm.drain(2, Some(50));
    assert_eq!(farm.serve(0, 1, named(2, 2)), 2);
    farm.now_ms = 60;
    let other = given(&mut farm, 0, named(2, 3)).expect("another cookie");
    assert_ne!(other, 2);
    assert_eq!((farm.did(Did::SessionAnew), given(&mut farm, 0, named(2, 3))), (1, None));
    // A request that cannot be repeated is placed as it is.
    assert_eq!(given(&mut farm, 0, Session::Named { board: board(2), again: None }), None);
    // Nobody is there to be given.
    (0..3).for_each(|on| farm.drain(on, None));
    farm.port += 1;
    let place = farm.world.request(farm.port);
    farm.attempts.place(&mut farm.world.at(60), WORKER, &place, Session::Fresh(key(9)));
    assert!(farm.world.out.commands()[0].contains("Unavailable"));
}

#[test]
fn a_full_map_and_an_idle_session_are_counted() {
    let mut farm = Farm::new();
    for number in 0..5 {
        let _ = farm.serve(0, 1, learned(number));
    }
    assert_eq!((farm.did(Did::SessionLearned), farm.did(Did::SessionEvicted)), (5, 1));
    farm.now_ms = 2_000_000;
    farm.attempts.tick(&mut farm.world.at(farm.now_ms));
    assert_eq!((farm.did(Did::SessionExpired), farm.attempts.sessions.count(0)), (4, Some((0, 4))));
}
