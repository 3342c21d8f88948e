//! The whole road on real mbufs, without a lab: one worker and the control core, with scripted clients and boards on
//! memory ports. The worker alone is tested in pipelines/tests.

#[path = "../../../pipelines/tests/common/mod.rs"]
mod common;
mod datagrams;
mod health;
mod layer4;
mod limits;
mod moves;
mod server_first;
mod sessions;
mod world;

use ipos_pipelines::counters::Happening;
use ipos_pipelines::entry::State;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ipos::{ClosedReason, RefusalReason};
use ipos_wire::tcp::Flags;

use common::scripts::{REQUEST, REQUEST_LEN};
use common::{Client, only};
use world::{Board, DEADLINE_MS, FIRST, RETRY_MS, SECOND, Sent, TRIES, World};

fn request_to(board: Board) -> Vec<Sent> {
    vec![Sent::Packet(board, REQUEST.to_vec())]
}

#[test]
fn a_connection_from_its_syn_to_the_boards_notice() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (board, id) = world.request(&mut client, REQUEST);
    assert_eq!(board, FIRST, "the one with fewer connections");
    world.acknowledges(FIRST, client.flow, id);
    assert_eq!(world.sent(), request_to(FIRST));
    assert_eq!(world.rig.client(&client.acks(REQUEST_LEN, 500)), Verdict::Forwarded);
    assert_eq!(world.rig.client(&client.data(REQUEST_LEN, b"GET /2 HTTP/1.1\r\n\r\n")), Verdict::Forwarded);
    assert_eq!(world.sent().len(), 2);
    world.closes(FIRST, client.flow, id, ClosedReason::Closed);
    assert_eq!(world.rig.state(&client.flow), Some(State::Forward), "it lingers");
    world.pass(2_001);
    assert_eq!(world.rig.state(&client.flow), None);
}

#[test]
fn a_refusal_leads_to_the_next_board_at_once() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, first_id) = world.request(&mut client, REQUEST);
    world.refuses(FIRST, client.flow, first_id, RefusalReason::NoListener);
    let second_id = match world.sent()[..] {
        [Sent::Connection(SECOND, id, _)] => id,
        ref other => panic!("the second board is asked, not {other:?}"),
    };
    assert_ne!(second_id, first_id);
    world.acknowledges(SECOND, client.flow, second_id);
    assert_eq!(world.sent(), request_to(SECOND));
}

#[test]
fn a_silent_board_is_asked_again_then_given_up_by_force_and_the_next_one_asked() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, first_id) = world.request(&mut client, REQUEST);
    // Each wait is twice the one before: 1, 2, 4 and, before it is given up, 8 of them.
    world.pass(RETRY_MS * 7);
    let again = world.sent();
    assert_eq!(again.len(), TRIES - 1);
    assert!(again.iter().all(|sent| *sent == Sent::Connection(FIRST, first_id, client.flow)), "{again:?}");
    world.pass(RETRY_MS * 8);
    let sent = world.sent();
    assert!(sent.contains(&Sent::Detach(FIRST, first_id)), "{sent:?}");
    let second_id = sent
        .iter()
        .find_map(|sent| match sent {
            Sent::Connection(SECOND, id, _) => Some(*id),
            _ => None,
        })
        .expect("the second board is asked");

    // The abandoned attempt's acknowledgement comes after all: it is taken back, and gets no octet.
    world.acknowledges(FIRST, client.flow, first_id);
    let late = world.sent();
    assert!(late.contains(&Sent::Detach(FIRST, first_id)), "{late:?}");
    assert!(!late.iter().any(|sent| matches!(sent, Sent::Packet(..))), "{late:?}");
    world.acknowledges(SECOND, client.flow, second_id);
    assert!(world.sent().contains(&request_to(SECOND)[0]));
    assert_eq!(world.rig.happened(Happening::Migrated), 1);
}

#[test]
fn a_lost_acknowledgement_is_asked_for_again_under_the_same_id() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, id) = world.request(&mut client, REQUEST);
    world.pass(RETRY_MS);
    assert_eq!(world.sent(), [Sent::Connection(FIRST, id, client.flow)]);
    world.acknowledges(FIRST, client.flow, id);
    assert_eq!(world.sent(), request_to(FIRST));
    // The one that was thought lost.
    world.acknowledges(FIRST, client.flow, id);
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Packet(..))), "no replay for a duplicate");
    assert_eq!(world.rig.state(&client.flow), Some(State::Forward));
}

#[test]
fn a_bare_acknowledgement_counts_while_one_attempt_was_made() {
    let (mut world, mut client) = (World::new(), Client::new());
    world.request(&mut client, REQUEST);
    world.acknowledges_barely(FIRST, client.flow);
    assert_eq!(world.sent(), request_to(FIRST));

    let mut other = Client::on_port(40_001);
    let (_, id) = world.request(&mut other, REQUEST);
    world.refuses(FIRST, other.flow, id, RefusalReason::AcceptQueueFull);
    assert!(matches!(world.sent()[..], [Sent::Connection(SECOND, ..)]));
    world.acknowledges_barely(SECOND, other.flow);
    assert_eq!(world.sent(), [], "which attempt it means cannot be known");
    assert_eq!(world.rig.state(&other.flow), Some(State::ForwardConnect));
}

#[test]
fn when_every_board_refuses_the_client_is_answered_503() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, id) = world.request(&mut client, REQUEST);
    world.refuses(FIRST, client.flow, id, RefusalReason::NoListener);
    let Some(Sent::Connection(SECOND, id, _)) = world.sent().first().cloned() else {
        panic!("the second board")
    };
    world.refuses(SECOND, client.flow, id, RefusalReason::NoListener);
    assert!(world.rig.answer().payload.starts_with(b"HTTP/1.1 503"));
    assert_eq!(world.rig.state(&client.flow), Some(State::Local));
}

#[test]
fn when_every_board_is_silent_the_client_is_answered_503_within_the_deadline() {
    let (mut world, mut client) = (World::new(), Client::new());
    world.request(&mut client, REQUEST);
    world.pass(DEADLINE_MS);
    assert!(world.rig.answer().payload.starts_with(b"HTTP/1.1 503"));
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Packet(..))));
}

#[test]
fn a_request_that_was_lost_on_its_way_to_the_board_is_sent_again() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, id) = world.request(&mut client, REQUEST);
    world.acknowledges(FIRST, client.flow, id);
    assert_eq!(world.sent(), request_to(FIRST));
    // The client hears nothing and retransmits.
    world.pass(200);
    assert_eq!(world.rig.client(&client.data(0, REQUEST)), Verdict::Held);
    world.turn();
    assert_eq!(world.sent(), [Sent::Connection(FIRST, id, client.flow)], "the same attempt, the same board");
    world.acknowledges(FIRST, client.flow, id);
    assert_eq!(world.sent(), request_to(FIRST));
}

#[test]
fn after_the_first_packet_no_other_board_gets_the_request() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, id) = world.request(&mut client, REQUEST);
    world.acknowledges(FIRST, client.flow, id);
    world.sent();
    assert_eq!(world.rig.client(&client.data(0, REQUEST)), Verdict::Held);
    world.turn();
    world.sent();
    world.refuses(FIRST, client.flow, id, RefusalReason::NoListener);
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Connection(SECOND, ..))));
    assert!(world.rig.answer().flags.contains(Flags::RST));
    assert_eq!(world.rig.state(&client.flow), None);
}

#[test]
fn a_client_that_leaves_while_the_board_is_asked_has_its_attempt_taken_back() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, id) = world.request(&mut client, REQUEST);
    assert_eq!(world.rig.client(&client.rst(REQUEST_LEN)), Verdict::Answered);
    world.turn();
    assert_eq!(world.sent(), [Sent::Detach(FIRST, id)]);
    world.acknowledges(FIRST, client.flow, id);
    assert!(world.sent().iter().all(|sent| matches!(sent, Sent::Detach(FIRST, _))), "never a packet");
    assert_eq!(world.rig.state(&client.flow), None);
}

#[test]
fn a_port_used_again_detaches_the_old_endpoint_and_migrates_the_new_one() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, old_id) = world.request(&mut client, REQUEST);
    world.acknowledges(FIRST, client.flow, old_id);
    assert_eq!(world.rig.client(&client.acks(REQUEST_LEN, 500)), Verdict::Forwarded);
    world.sent();
    let mut again = Client { irs: client.irs + 1_000_000, ..Client::new() };
    world.rig.shake(&mut again);
    assert_eq!(world.rig.client(&again.data(0, REQUEST)), Verdict::Held);
    world.turn();
    let sent = world.sent();
    assert!(sent.contains(&Sent::Detach(FIRST, old_id)), "{sent:?}");
    let new = sent.iter().find_map(|sent| match sent {
        Sent::Connection(board, id, _) => Some((*board, *id)),
        _ => None,
    });
    let (board, id) = new.expect("the new connection is placed");
    assert_ne!(id, old_id);
    world.acknowledges(board, again.flow, id);
    assert!(world.sent().contains(&request_to(board)[0]));
}

#[test]
fn an_appliance_that_knows_nothing_learns_who_holds_a_connection() {
    let mut world = World::new();
    let client = Client::stranger(41_000);
    assert_eq!(world.rig.client(&client.data(0, b"next request")), Verdict::Held);
    world.turn();
    let asked: Vec<Board> = world
        .sent()
        .iter()
        .map(|sent| match sent {
            Sent::Question(board, _) => *board,
            other => panic!("a question, not {other:?}"),
        })
        .collect();
    assert_eq!(asked, [FIRST, SECOND]);
    world.holds(SECOND, client.flow, 77);
    assert_eq!(world.sent(), [Sent::Packet(SECOND, b"next request".to_vec())]);
    assert_eq!(world.rig.state(&client.flow), Some(State::Forward));
}

fn questions(world: &mut World) -> Vec<(Board, u64)> {
    let question = |sent| match sent {
        Sent::Question(board, id) => (board, id),
        other => panic!("a question, not {other:?}"),
    };
    world.sent().into_iter().map(question).collect()
}

#[test]
fn a_connection_that_every_live_board_denies_is_reset() {
    let mut world = World::new();
    let client = Client::stranger(41_001);
    assert_eq!(world.rig.client(&client.data(0, b"x")), Verdict::Held);
    world.turn();
    for (board, id) in questions(&mut world) {
        world.closes(board, client.flow, id, ClosedReason::NotHeld);
    }
    world.pass(1_001);
    assert_eq!(only(world.rig.segments_out()).flags, Flags::RST);
    assert_eq!(world.rig.state(&client.flow), None);
}

#[test]
fn a_connection_that_one_live_board_says_nothing_about_is_not_reset() {
    let mut world = World::new();
    let client = Client::stranger(41_002);
    assert_eq!(world.rig.client(&client.data(0, b"x")), Verdict::Held);
    world.turn();
    for (board, id) in questions(&mut world).into_iter().filter(|(board, _)| *board == FIRST) {
        world.closes(board, client.flow, id, ClosedReason::NotHeld);
    }
    world.pass(3_000);
    assert_eq!(world.rig.segments_out(), []);
    assert_eq!(world.rig.state(&client.flow), None, "forgotten: its next packet asks again");
}

#[test]
fn an_appliance_that_has_just_started_resets_nothing_before_its_boards_were_heard() {
    let mut world = World::unheard();
    let client = Client::stranger(41_003);
    assert_eq!(world.rig.client(&client.data(0, b"x")), Verdict::Held);
    world.turn();
    for (board, id) in questions(&mut world).into_iter().filter(|(board, _)| *board == FIRST) {
        world.closes(board, client.flow, id, ClosedReason::NotHeld);
    }
    world.pass(500);
    assert_eq!(world.rig.segments_out(), []);
}

#[test]
fn a_board_whose_reports_stop_gets_no_new_connection() {
    let (mut world, mut client) = (World::new(), Client::new());
    world.silence(FIRST);
    world.pass(500);
    assert_eq!(world.request(&mut client, REQUEST).0, SECOND);
}

#[test]
fn an_acknowledgement_from_another_board_or_of_another_attempt_moves_nothing() {
    let (mut world, mut client) = (World::new(), Client::new());
    let (_, id) = world.request(&mut client, REQUEST);
    world.acknowledges(SECOND, client.flow, id);
    world.acknowledges(Board(9), client.flow, id);
    world.acknowledges(FIRST, client.flow, id + 1);
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Packet(..))));
    assert_eq!(world.rig.state(&client.flow), Some(State::ForwardConnect));
    world.acknowledges(FIRST, client.flow, id);
    assert!(world.sent().contains(&request_to(FIRST)[0]));
}
