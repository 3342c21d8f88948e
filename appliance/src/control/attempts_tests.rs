//! Tests of [`super`]: every way that a migration can go.

use ipos_wire::tcb::Tcb;

use ipos_pipelines::handoff::{EndedFlow, RetryAfter};

use super::super::admission::{Admit, AdmitSettings};
use super::super::boards::HEARD_WITHIN_NS;
use super::super::boards::tests::{MS, address, alive, farm, mac, unheard};
use super::super::gather::Part;
use super::super::listening::tests::socket;
use super::super::placement::{PoolSettings, Rules};
use super::super::state::tests::QUIET;
use super::super::testing::{WORKER, World, board, flow, id};
use super::*;

const SETTINGS: AttemptSettings =
    AttemptSettings { retry_ns: 20 * MS, tries: 4, deadline_ns: 3000 * MS, capacity: 3, appliance_id: 9 };

/// Boards that report at time 0, board n with n connections; all are in pool 0.
fn world(boards: u16) -> (World, Attempts) {
    let mut world = World::new(farm(boards));
    (0..boards).for_each(|n| alive(&mut world.boards, n, 0, u32::from(n)));
    (world, Attempts::new(SETTINGS, pools((0..boards).map(board))))
}

/// One pool, of a service that says nothing of placement.
fn pools(boards: impl IntoIterator<Item = BoardId>) -> Pools {
    Pools::new(vec![PoolSettings::equal(boards)], vec![Rules::default()])
}

/// What the boards were told since the last look: board number, `connect` or `detach`, id.
fn said(world: &mut World) -> Vec<(u16, &'static str, u64)> {
    let messages = world.out.messages();
    let short = messages.iter().map(|(_, to, message)| {
        let number = u16::from(to[5]) - 1;
        match message {
            Message::Connection { tcb, .. } => (number, "connect", tcb.migration_id),
            Message::Detach { id, .. } => (number, "detach", *id),
            other => panic!("not of an attempt: {other:?}"),
        }
    });
    short.collect()
}

fn migrated(request: &Place, on: u16, id: u64) -> Vec<String> {
    let (entry, flow) = (request.entry, request.flow);
    let command = Command::Migrated { entry, flow, board: board(on), migration_id: id, counted: Counted::No };
    vec![format!("2 {command:?}")]
}

fn answered(request: &Place, answer: Answer) -> Vec<String> {
    vec![format!("2 {:?}", Command::Answer { entry: request.entry, answer })]
}

fn load(world: &World, on: u16) -> (u32, u32) {
    world
        .boards
        .board(board(on))
        .map(|b| (b.traffic.in_flight, b.traffic.placed()))
        .expect("a board of the farm")
}

fn ended(world: &World, on: u16, how: Ended) -> u64 {
    world.boards.board(board(on)).map(|b| b.ended[how as usize]).expect("a board of the farm")
}

#[test]
fn the_connection_packet_carries_the_endpoint_to_the_best_board_and_its_ack_ends_the_attempt() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.place(&mut world.at(1), WORKER, &request, Session::None);
    let tcb = Tcb { migration_id: id(1), appliance_id: 9, epoch: 5, ..request.tcb() };
    let message = Message::Connection { flow: flow(1), server: (address(0), 80), tcb };
    assert_eq!(world.out.messages(), [(ipos_pipelines::handoff::PortIndex(1), mac(0).0, message)]);
    assert_eq!(load(&world, 0), (1, 0));
    attempts.acknowledged(&mut world.at(2), board(0), flow(1), id(1));
    assert_eq!(world.out.commands(), migrated(&request, 0, id(1)));
    assert_eq!((load(&world, 0), attempts.count()), ((0, 1), 0));
    assert_eq!(ended(&world, 0, Ended::Acknowledged), 1);
    let latency = attempts.take_latency();
    assert_eq!(latency.len(), 1);
    assert!((990_000..=1_010_000).contains(&latency.max()), "{}", latency.max());
    assert_eq!(attempts.take_latency().len(), 0);
    attempts.tick(&mut world.at(5000));
    assert_eq!((said(&mut world), world.out.commands()), (vec![], vec![]));
}

#[test]
fn a_refusal_leads_to_the_next_board_at_once_and_to_503_after_the_last() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.place(&mut world.at(1), WORKER, &request, Session::None);
    attempts.refused(&mut world.at(2), board(0), flow(1), id(1), 3);
    assert_eq!(said(&mut world), [(0, "connect", id(1)), (1, "connect", id(2))]);
    assert_eq!(world.out.commands(), [""; 0]);
    attempts.refused(&mut world.at(3), board(1), flow(1), id(2), 1);
    assert_eq!(world.out.commands(), answered(&request, Answer::Unavailable));
    assert_eq!((said(&mut world), attempts.count()), (vec![], 0));
    assert_eq!((ended(&world, 0, Ended::Refused), ended(&world, 1, Ended::Refused)), (1, 1));
    let refusals = |on| world.boards.board(board(on)).map(|b| b.refusals);
    assert_eq!(refusals(0).map(|codes| codes[3]), Some(1));
    assert_eq!(refusals(1).map(|codes| codes[1]), Some(1));
}

#[test]
fn a_refusal_of_another_attempt_or_board_changes_nothing() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.place(&mut world.at(1), WORKER, &request, Session::None);
    attempts.refused(&mut world.at(2), board(0), flow(1), id(7), 3);
    attempts.refused(&mut world.at(2), board(1), flow(1), id(1), 3);
    attempts.refused(&mut world.at(2), board(0), flow(2), id(1), 3);
    assert_eq!(said(&mut world), [(0, "connect", id(1))]);
    let ignored = |reason| world.counters.ignored(reason);
    assert_eq!((ignored(Ignored::LateAnswer), ignored(Ignored::WrongBoard)), (2, 1));
}

#[test]
fn a_silent_board_is_asked_four_times_then_detached_and_the_next_one_asked() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    // The wait for an answer doubles: 20, 40, 80, 160 ms.
    let mut sent_at_ms = vec![0; said(&mut world).len()];
    for at_ms in 1..300 {
        attempts.tick(&mut world.at(at_ms));
        sent_at_ms.extend(said(&mut world).iter().map(|said| {
            assert_eq!(*said, (0, "connect", id(1)));
            at_ms
        }));
    }
    assert_eq!(sent_at_ms, [0, 20, 60, 140]);
    (0..2).for_each(|n| alive(&mut world.boards, n, 299, u32::from(n)));
    attempts.tick(&mut world.at(300));
    assert_eq!(said(&mut world), [(0, "detach", id(1)), (1, "connect", id(2))]);
    assert_eq!((ended(&world, 0, Ended::Silent), load(&world, 0), load(&world, 1)), (1, (0, 0), (1, 0)));
    assert_eq!(world.out.commands(), [""; 0]);
}

#[test]
fn when_all_boards_were_silent_they_are_asked_again_but_not_those_that_refused() {
    let (mut world, mut attempts) = world(3);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    attempts.refused(&mut world.at(0), board(0), flow(1), id(1), 3);
    said(&mut world);
    for at_ms in (20..=900).step_by(20) {
        (0..3).for_each(|n| alive(&mut world.boards, n, at_ms, u32::from(n)));
        attempts.tick(&mut world.at(at_ms));
    }
    let asked: Vec<_> = said(&mut world).into_iter().filter(|said| said.1 == "connect").collect();
    let mut boards: Vec<u16> = asked.iter().map(|said| said.0).collect();
    boards.dedup();
    assert_eq!(boards, [1, 2, 1, 2], "1 from the refusal on");
    let (last, _, last_id) = asked.last().copied().expect("somebody was asked");
    assert_eq!(last_id, id(5), "each time it is a new attempt");
    attempts.acknowledged(&mut world.at(901), board(last), flow(1), last_id);
    assert_eq!(world.out.commands(), migrated(&request, last, last_id));
}

#[test]
fn a_late_ack_of_an_abandoned_attempt_is_answered_with_a_detach_and_never_taken() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    (0..2).for_each(|n| alive(&mut world.boards, n, 299, u32::from(n)));
    (1..=15).for_each(|n| attempts.tick(&mut world.at(20 * n)));
    said(&mut world);
    attempts.acknowledged(&mut world.at(301), board(0), flow(1), id(1));
    assert_eq!((said(&mut world), world.out.commands()), (vec![(0, "detach", id(1))], vec![]));
    attempts.acknowledged(&mut world.at(302), board(1), flow(1), id(2));
    assert_eq!(world.out.commands(), migrated(&request, 1, id(2)));
    // Also after the request is settled.
    attempts.acknowledged(&mut world.at(303), board(0), flow(1), id(1));
    assert_eq!((said(&mut world), world.out.commands()), (vec![(0, "detach", id(1))], vec![]));
}

#[test]
fn a_duplicate_ack_is_ignored_and_harms_nobody() {
    let (mut world, mut attempts) = world(1);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    attempts.tick(&mut world.at(20));
    attempts.acknowledged(&mut world.at(21), board(0), flow(1), id(1));
    attempts.acknowledged(&mut world.at(22), board(0), flow(1), id(1));
    assert_eq!(world.out.commands(), migrated(&request, 0, id(1)));
    assert_eq!(said(&mut world), [(0, "connect", id(1)); 2]);
    assert_eq!(world.counters.ignored(Ignored::LateAnswer), 1);
}

#[test]
fn an_ack_without_id_counts_while_one_attempt_was_made_and_not_after() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    attempts.acknowledged(&mut world.at(1), board(0), flow(1), 0);
    assert_eq!(world.out.commands(), migrated(&request, 0, id(1)));

    let request = world.request(2);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    let [first, second] = if load(&world, 0).0 == 1 { [0, 1] } else { [1, 0] };
    attempts.refused(&mut world.at(1), board(first), flow(2), id(2), 3);
    attempts.acknowledged(&mut world.at(2), board(second), flow(2), 0);
    assert_eq!((world.out.commands(), world.counters.ignored(Ignored::BareAck)), (vec![], 1));
}

#[test]
fn an_ack_of_another_board_is_ignored_with_an_id_and_without() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    attempts.acknowledged(&mut world.at(1), board(1), flow(1), id(1));
    attempts.acknowledged(&mut world.at(1), board(1), flow(1), 0);
    assert_eq!((world.out.commands(), world.counters.ignored(Ignored::WrongBoard)), (vec![], 2));
}

#[test]
fn the_deadline_ends_a_request_whatever_boards_are_left() {
    let (mut world, _) = world(2);
    let settings = AttemptSettings { deadline_ns: 50 * MS, ..SETTINGS };
    let mut attempts = Attempts::new(settings, pools([board(0), board(1)]));
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    for at_ms in [20, 40, 60] {
        attempts.tick(&mut world.at(at_ms));
    }
    assert_eq!(world.out.commands(), answered(&request, Answer::Unavailable));
    assert_eq!(said(&mut world).last(), Some(&(0, "detach", id(1))));
    assert_eq!((ended(&world, 0, Ended::Deadline), attempts.count()), (1, 0));
}

#[test]
fn a_repetition_asks_the_same_board_under_the_same_id_until_it_answers() {
    let (mut world, mut attempts) = world(2);
    let request = world.request(1);
    attempts.repeat(&mut world.at(0), WORKER, &request, board(1), id(77));
    // Longer than a first attempt would have been tried.
    (1..=9).for_each(|n| attempts.tick(&mut world.at(20 * n)));
    assert_eq!(said(&mut world), [(1, "connect", id(77)); 10]);
    attempts.refused(&mut world.at(181), board(1), flow(1), id(77), 3);
    assert_eq!(world.out.commands(), [""; 0], "a full accept queue passes");
    attempts.acknowledged(&mut world.at(182), board(1), flow(1), id(77));
    assert_eq!(world.out.commands(), migrated(&request, 1, id(77)));
    assert_eq!(attempts.take_latency().len(), 0, "a repetition is no migration");
}

#[test]
fn a_repetition_that_fails_resets_and_never_asks_another_board() {
    for how in ["refused", "closed", "deadline"] {
        let (mut world, mut attempts) = world(2);
        let request = world.request(1);
        attempts.repeat(&mut world.at(0), WORKER, &request, board(1), id(77));
        match how {
            "refused" => attempts.refused(&mut world.at(1), board(1), flow(1), id(77), 5),
            "closed" => assert!(attempts.closed(&mut world.at(1), board(1), flow(1), id(77))),
            _ => (1..=150).for_each(|n| attempts.tick(&mut world.at(20 * n))),
        }
        assert_eq!(world.out.commands(), answered(&request, Answer::Reset), "{how}");
        assert!(said(&mut world).iter().all(|said| *said == (1, "connect", id(77))), "{how}");
        assert_eq!((attempts.count(), load(&world, 1).0), (0, 0), "{how}");
    }
}

#[test]
fn a_repetition_that_is_asked_for_twice_is_one() {
    let (mut world, mut attempts) = world(1);
    let request = world.request(1);
    attempts.repeat(&mut world.at(0), WORKER, &request, board(0), id(77));
    attempts.repeat(&mut world.at(1), WORKER, &request, board(0), id(77));
    assert_eq!(said(&mut world), [(0, "connect", id(77))]);
    attempts.acknowledged(&mut world.at(2), board(0), flow(1), id(77));
    assert_eq!(world.out.commands(), migrated(&request, 0, id(77)));
}

#[test]
fn an_abandoned_attempt_is_detached_until_the_board_confirms() {
    let (mut world, mut attempts) = world(1);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    attempts.abandon(&mut world.at(1), request.entry, flow(1), None);
    assert_eq!(said(&mut world), [(0, "connect", id(1)), (0, "detach", id(1))]);
    attempts.tick(&mut world.at(21));
    assert_eq!(said(&mut world), [(0, "detach", id(1))]);
    assert!(attempts.closed(&mut world.at(22), board(0), flow(1), id(1)));
    (2..=9).for_each(|n| attempts.tick(&mut world.at(20 * n + 1)));
    assert_eq!((said(&mut world), world.out.commands()), (vec![], vec![]));
    assert_eq!((ended(&world, 0, Ended::Abandoned), load(&world, 0)), (1, (0, 0)));
}

#[test]
fn a_detach_that_nobody_confirms_is_repeated_as_often_as_a_connection_packet() {
    let (mut world, mut attempts) = world(1);
    let entry = world.entry();
    attempts.abandon(&mut world.at(0), entry, flow(1), Some((board(0), id(77))));
    (1..=20).for_each(|n| attempts.tick(&mut world.at(20 * n)));
    assert_eq!(said(&mut world), [(0, "detach", id(77)); 4]);
}

#[test]
fn an_abandon_for_another_entry_leaves_the_attempt_alone() {
    let (mut world, mut attempts) = world(1);
    let request = world.request(1);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    let other = world.entry();
    attempts.abandon(&mut world.at(1), other, flow(1), None);
    assert_eq!((said(&mut world), attempts.count()), (vec![(0, "connect", id(1))], 1));
}

#[test]
fn a_second_request_for_the_same_connection_takes_the_first_ones_place() {
    let (mut world, mut attempts) = world(1);
    let (first, second) = (world.request(1), world.request(1));
    attempts.place(&mut world.at(0), WORKER, &first, Session::None);
    attempts.place(&mut world.at(1), WORKER, &second, Session::None);
    assert_eq!(said(&mut world), [(0, "connect", id(1)), (0, "detach", id(1)), (0, "connect", id(2))]);
    attempts.acknowledged(&mut world.at(2), board(0), flow(1), id(2));
    assert_eq!(world.out.commands(), migrated(&second, 0, id(2)));
}

#[test]
fn too_many_requests_at_once_are_answered_503() {
    let (mut world, mut attempts) = world(1);
    for port in 1..=3 {
        let request = world.request(port);
        attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    }
    let request = world.request(4);
    attempts.place(&mut world.at(0), WORKER, &request, Session::None);
    assert_eq!(world.out.commands(), answered(&request, Answer::Unavailable));
    assert_eq!(world.counters.did(Did::AttemptsFull), 1);
}

#[test]
fn without_a_fit_board_a_request_is_answered_503_at_once() {
    let (mut world, mut attempts) = world(1);
    let part = Part { epoch: QUIET.epoch, sequence: 2, part: 0, parts: 1, rows: vec![socket([0; 4], 81)] };
    assert_eq!(world.boards.sockets(board(0), part), Ok(true));
    let request = world.request(1);
    attempts.place(&mut world.at(1), WORKER, &request, Session::None);
    assert_eq!(world.out.commands(), answered(&request, Answer::Unavailable));
}

#[test]
fn just_after_the_start_a_request_waits_for_the_first_reports() {
    let mut world = World::new(unheard(1));
    let mut attempts = Attempts::new(SETTINGS, pools([board(0)]));
    let request = world.request(1);
    attempts.place(&mut world.at(5), WORKER, &request, Session::None);
    attempts.tick(&mut world.at(25));
    assert_eq!((said(&mut world), world.out.commands()), (vec![], vec![]));
    world.boards = farm(1);
    alive(&mut world.boards, 0, 30, 0);
    attempts.tick(&mut world.at(45));
    assert_eq!(said(&mut world), [(0, "connect", id(1))]);

    let mut world = World::new(unheard(1));
    let late = world.request(2);
    attempts.place(&mut world.at(HEARD_WITHIN_NS / MS), WORKER, &late, Session::None);
    assert_eq!(world.out.commands(), answered(&late, Answer::Unavailable), "by then it had its time");
}

#[test]
fn while_the_last_boards_report_is_overdue_a_request_waits_and_ends_with_the_board() {
    let (mut world, mut attempts) = world(1);
    let request = world.request(1);
    attempts.place(&mut world.at(400), WORKER, &request, Session::None);
    attempts.tick(&mut world.at(420));
    assert_eq!((said(&mut world), world.out.commands()), (vec![], vec![]));
    attempts.tick(&mut world.at(1000));
    assert_eq!(world.out.commands(), answered(&request, Answer::Unavailable));
}

#[test]
fn a_limit_holds_for_all_workers_together_and_each_may_tell_of_the_end() {
    let (mut world, mut attempts) = world(2);
    let admit = Admit { client_connections: Some(2), ..Admit::default() };
    let endpoint = (flow(1).endpoint, flow(1).endpoint_port);
    let protocol = ipos_wire::ipos::Protocol::Tcp;
    attempts.admission.reconfigure(&[AdmitSettings { service: 0, endpoint, protocol, admit }]);
    let counted = Counted::Client;
    for (number, worker) in [WorkerId(0), WorkerId(1)].into_iter().enumerate() {
        let request = world.request(1 + number as u16);
        attempts.place(&mut world.at(1), worker, &request, Session::None);
        let (entry, flow) = (request.entry, request.flow);
        let asked = world.out.messages().into_iter().find_map(|(_, to, message)| match message {
            Message::Connection { tcb, .. } => Some((u16::from(to[5]) - 1, tcb.migration_id)),
            _ => None,
        });
        let (on, migration_id) = asked.expect("a board is asked");
        attempts.acknowledged(&mut world.at(1), board(on), flow, migration_id);
        let command = Command::Migrated { entry, flow, board: board(on), migration_id, counted };
        assert_eq!(world.out.commands(), [format!("{} {command:?}", worker.0)]);
    }
    let third = world.request(3);
    attempts.place(&mut world.at(1), WORKER, &third, Session::None);
    assert_eq!(world.out.commands(), answered(&third, Answer::OverLimit(RetryAfter::S1)));
    assert_eq!(world.counters.did(Did::OverLimit), 1);
    attempts.admission.ended(&EndedFlow { flow: flow(2), protocol, counted });
    let fourth = world.request(4);
    attempts.place(&mut world.at(1), WORKER, &fourth, Session::None);
    assert_eq!(world.out.commands(), [""; 0]);
}
