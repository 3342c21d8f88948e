//! Tests of [`super`]: a core with two boards and two workers that count what they are told to have.

use ipos_pipelines::handoff::{Event, Session, WorkerId};

use super::super::boards::tests::{MS, address, mac};
use super::super::core::tests::{FARM, awake, report, state};
use super::super::counters::Did;
use super::super::testing::{Recorder, World};
use super::*;

/// The workers answer the census: board 0 has so many flows, half of them with each.
fn count(core: &mut Core, out: &mut Recorder, at_ms: u64, flows: u32) {
    core.tick(at_ms * MS, out);
    for (worker, mut page) in std::mem::take(&mut out.counts) {
        page.worker = worker;
        page.by_board[0] = if worker == WorkerId(0) { flows / 2 } else { flows - flows / 2 };
        core.event(at_ms * MS, worker, Event::Counted(page), out);
    }
}

/// Board 0 reports so many endpoints, both boards live.
fn endpoints(core: &mut Core, out: &mut Recorder, at_ms: u64, endpoints: u32) {
    for n in 0..2 {
        let endpoints_held = if n == 0 { endpoints } else { 0 };
        let state = ipos_wire::ipos::ServerState { endpoints_held, ..state(n, 2 + at_ms as u32) };
        assert_eq!(core.frame(at_ms * MS, FARM, &report(&state, mac(n)), out), Ok(()));
    }
}

fn word(core: &Core) -> Option<&'static str> {
    core.boards.board(BoardId(0)).and_then(|board| board.standing.word())
}

fn settings(n: u16) -> BoardSettings {
    BoardSettings { name: format!("board{}", n + 1), address: address(n), mac: None, port: FARM, weight: 100 }
}

fn farm(boards: &[u16]) -> Farm {
    Farm {
        boards: boards.iter().map(|n| (BoardId(*n), settings(*n))).collect(),
        forced: Vec::new(),
        pools: vec![PoolSettings::equal(boards.iter().map(|n| BoardId(*n)))],
        rules: vec![Rules::default()],
        checks: Vec::new(),
        hashed: Vec::new(),
        starts: Vec::new(),
        admits: Vec::new(),
        sessions: Vec::new(),
        services: Arc::default(),
        timeouts: Timeouts::default(),
        deadline_ns: 3000 * MS,
    }
}

/// Which commands were told, without what is in them.
fn told(out: &mut Recorder) -> Vec<String> {
    let words = out.commands().into_iter();
    words.map(|command| command.split(['(', '{']).next().unwrap_or_default().trim().to_owned()).collect()
}

#[test]
fn a_drain_ends_when_workers_and_board_say_that_nothing_is_left() {
    let (mut core, mut out) = awake();
    count(&mut core, &mut out, 1, 5);
    endpoints(&mut core, &mut out, 1, 5);
    let obeyed = core.order(2 * MS, "board1", Order::Drain(None)).expect("a board");
    let left = Left { flows: 5, in_flight: 0, endpoints: Some(5) };
    assert_eq!((obeyed.again, obeyed.left, obeyed.left.connections()), (false, left, 5));
    assert_eq!(word(&core), Some("draining"));
    // A request goes to the other board.
    core.event(
        3 * MS,
        WorkerId(1),
        Event::Place(World::new(super::super::boards::tests::unheard(0)).request(1), Session::None),
        &mut out,
    );
    let messages = out.messages();
    assert!(
        matches!(&messages[..], [(_, to, Message::Connection { .. })] if *to == mac(1).0),
        "{messages:?}"
    );
    endpoints(&mut core, &mut out, 110, 5);
    count(&mut core, &mut out, 110, 0);
    count(&mut core, &mut out, 220, 0);
    assert_eq!(word(&core), Some("draining"), "the board still has some");
    endpoints(&mut core, &mut out, 230, 0);
    count(&mut core, &mut out, 240, 0);
    assert_eq!(word(&core), Some("drained"));
    assert_eq!(core.counters.did(Did::Drained), 1);
    core.order(250 * MS, "board1", Order::Undrain).expect("a board that drains");
    let standing = core.boards.board(BoardId(0)).map(|board| board.standing);
    assert!(standing.is_some_and(|standing| standing.takes_new() && standing.joined_at_ns == Some(250 * MS)));
}

#[test]
fn a_count_that_was_asked_for_before_is_no_proof() {
    let (mut core, mut out) = awake();
    endpoints(&mut core, &mut out, 1, 0);
    core.tick(MS, &mut out);
    core.order(2 * MS, "board1", Order::Drain(None)).expect("a board");
    let pages = std::mem::take(&mut out.counts);
    for (worker, mut page) in pages {
        page.worker = worker;
        core.event(3 * MS, worker, Event::Counted(page), &mut out);
    }
    endpoints(&mut core, &mut out, 20, 0);
    core.tick(30 * MS, &mut out);
    assert_eq!(word(&core), Some("draining"), "a request may have been on its way to the board");
    count(&mut core, &mut out, 110, 0);
    core.tick(130 * MS, &mut out);
    assert_eq!(word(&core), Some("drained"));
}

#[test]
fn a_page_that_is_lost_is_asked_for_again() {
    let (mut core, mut out) = awake();
    core.tick(MS, &mut out);
    assert_eq!(out.counts.len(), 2);
    out.counts.clear();
    core.tick(900 * MS, &mut out);
    assert_eq!(out.counts.len(), 0);
    count(&mut core, &mut out, 1001, 8);
    assert_eq!(core.boards.board(BoardId(0)).map(|board| board.held.flows), Some(8));
}

#[test]
fn orders_that_cannot_be_are_said_and_counted() {
    let (mut core, mut out) = awake();
    let error = |core: &mut Core, name: &str, order| {
        core.order(MS, name, order).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let unknown = "no board named \"x\"; the boards are board1, board2";
    assert_eq!(error(&mut core, "x", Order::Drain(None)), unknown);
    assert_eq!(error(&mut core, "x", Order::Weight(1)), unknown);
    assert_eq!(error(&mut core, "board1", Order::Undrain), "board \"board1\" does not drain");
    assert_eq!(core.counters.did(Did::OrderRefused), 3);
    // A second drain is none: it may set another deadline.
    core.order(MS, "board1", Order::Drain(Some(9000 * MS))).expect("a board");
    let again = core.order(2 * MS, "board1", Order::Drain(None)).expect("a board");
    let deadline = |core: &Core| {
        core.boards
            .board(BoardId(0))
            .and_then(|board| board.standing.drain)
            .and_then(|drain| drain.deadline_ns)
    };
    assert!(again.again);
    assert_eq!(deadline(&core), Some(9001 * MS));
    core.order(3 * MS, "board1", Order::Drain(Some(MS))).expect("a board");
    assert_eq!(deadline(&core), Some(4 * MS));
    assert_eq!((core.counters.did(Did::DrainBegun), core.counters.did(Did::DrainAgain)), (1, 2));
    core.apply(5 * MS, farm(&[1]), &mut out);
    assert!(error(&mut core, "board1", Order::Undrain).contains("leaves"));
}

#[test]
fn past_the_deadline_the_board_is_told_every_second_until_nothing_is_left() {
    let (mut core, mut out) = awake();
    count(&mut core, &mut out, 1, 2);
    endpoints(&mut core, &mut out, 1, 2);
    core.order(2 * MS, "board1", Order::Drain(Some(50 * MS))).expect("a board");
    let asked = |core: &mut Core, out: &mut Recorder, at_ms: u64| {
        core.tick(at_ms * MS, out);
        let close = Message::CloseIdle { board: address(0), idle_ms: IDLE_MS };
        out.messages()
            .iter()
            .filter(|(port, to, message)| (*port, *to) == (FARM, mac(0).0) && *message == close)
            .count()
    };
    assert_eq!(asked(&mut core, &mut out, 40), 0);
    assert_eq!(asked(&mut core, &mut out, 60), 1);
    assert_eq!(asked(&mut core, &mut out, 900), 0);
    endpoints(&mut core, &mut out, 950, 1);
    assert_eq!(asked(&mut core, &mut out, 1060), 1);
    endpoints(&mut core, &mut out, 1100, 0);
    out.counts.clear();
    count(&mut core, &mut out, 2200, 0);
    endpoints(&mut core, &mut out, 2250, 0);
    core.tick(2300 * MS, &mut out);
    out.messages();
    assert_eq!(word(&core), Some("drained"));
    assert_eq!(asked(&mut core, &mut out, 4000), 0);
}

#[test]
fn a_board_that_is_not_in_the_configuration_goes_with_its_last_connection() {
    let (mut core, mut out) = awake();
    count(&mut core, &mut out, 1, 3);
    endpoints(&mut core, &mut out, 1, 3);
    core.apply(2 * MS, farm(&[1]), &mut out);
    assert_eq!(told(&mut out), ["0 Services", "1 Services", "0 Timeouts", "1 Timeouts"]);
    assert_eq!(word(&core), Some("leaving"));
    endpoints(&mut core, &mut out, 110, 0);
    count(&mut core, &mut out, 120, 0);
    count(&mut core, &mut out, 230, 0);
    assert!(core.boards.board(BoardId(0)).is_none());
    assert_eq!(told(&mut out), ["0 Forget", "1 Forget"]);
    // Its number is nobody's for a minute; its frames are not a board's.
    let taken = |core: &Core, at_ms: u64| {
        core.boards.taken(at_ms * MS).iter().map(|(id, _)| id.0).collect::<Vec<_>>()
    };
    assert_eq!(taken(&core, 60_000), [0, 1]);
    assert_eq!(taken(&core, 61_000), [1]);
    assert!(core.frame(300 * MS, FARM, &report(&state(0, 999), mac(0)), &mut out).is_err());
    assert_eq!((core.counters.did(Did::BoardLeaves), core.counters.did(Did::BoardRemoved)), (1, 1));
}

#[test]
fn a_board_that_leaves_and_is_in_the_next_configuration_stays() {
    let (mut core, mut out) = awake();
    count(&mut core, &mut out, 1, 3);
    core.apply(2 * MS, farm(&[1]), &mut out);
    core.apply(3 * MS, farm(&[0, 1]), &mut out);
    assert_eq!(word(&core), None);
    let board = core.boards.board(BoardId(0)).expect("it stays");
    assert!(board.state.is_some() && board.standing.takes_new(), "what it reported is still known");
}

#[test]
fn a_board_is_added_and_heard_like_the_others() {
    let (mut core, mut out) = awake();
    core.apply(2 * MS, farm(&[0, 1, 4]), &mut out);
    told(&mut out);
    core.tick(20 * MS, &mut out);
    let asked = out.messages();
    assert!(asked.iter().any(|(_, _, message)| *message == Message::WhoHas(address(4))), "{asked:?}");
    assert_eq!(core.frame(21 * MS, FARM, &super::super::core::tests::arp_reply(4, mac(4)), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["0 Board", "1 Board"]);
    assert_eq!(core.frame(22 * MS, FARM, &report(&state(4, 1), mac(4)), &mut out), Ok(()));
    assert_eq!(core.counters.did(Did::BoardAdded), 1);
}

#[test]
fn a_board_removed_by_force_is_forgotten_at_once_and_gone_when_its_flows_are() {
    let (mut core, mut out) = awake();
    count(&mut core, &mut out, 1, 6);
    endpoints(&mut core, &mut out, 1, 6);
    core.apply(2 * MS, Farm { forced: vec![BoardId(0)], ..farm(&[1]) }, &mut out);
    assert_eq!(told(&mut out)[..2], ["0 Forget", "1 Forget"]);
    count(&mut core, &mut out, 110, 4);
    assert_eq!(told(&mut out), [""; 0], "the sweep goes on");
    count(&mut core, &mut out, 220, 4);
    assert_eq!(told(&mut out), ["0 Forget", "1 Forget"], "it has come to its end, and there are flows again");
    count(&mut core, &mut out, 330, 0);
    core.tick(340 * MS, &mut out);
    assert!(core.boards.board(BoardId(0)).is_none(), "whatever the board reports");
    assert_eq!(core.counters.did(Did::BoardForced), 1);
}

#[test]
fn a_weight_is_set_by_order_and_by_configuration() {
    let (mut core, mut out) = awake();
    let weight = |core: &Core| core.boards.board(BoardId(0)).map(|board| board.standing.weight);
    let obeyed = core.order(MS, "board1", Order::Weight(7)).expect("a board");
    assert_eq!((obeyed.weight_before, weight(&core)), (100, Some(7)));
    core.apply(2 * MS, farm(&[0, 1]), &mut out);
    assert_eq!(weight(&core), Some(100));
}
