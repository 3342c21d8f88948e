//! Health checks: the control core as a client, boards that serve, fail, take connections without serving them, and say
//! nothing.

use ipos_pipelines::counters::Outcome;
use ipos_pipelines::handoff::CHECK_PORTS;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{ClosedReason, RefusalReason};
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{self, Flags};

use crate::common::scripts::REQUEST;
use crate::common::{Client, FARM_ADDRESS, SERVICE, Segment};
use crate::world::{Board, CHECK, CHECK_MS, FIRST, SECOND, Sent, World};

/// A segment of a board's kernel that comes right after what it was sent.
fn reply(flow: Flow, to: &Segment, flags: Flags) -> tcp::Repr {
    tcp::Repr {
        src_port: flow.endpoint_port,
        dst_port: flow.client_port,
        seq: to.ack,
        ack: to.seq + to.payload.len() as u32,
        flags,
        window: 500,
        options: tcp::Options::default(),
    }
}

/// Time passes, and both boards answer checks.
fn pass(world: &mut World, ms: u64, [first, second]: [&[u8]; 2]) {
    for _ in 0..ms / 10 {
        world.pass(10);
        let sent = world.sent();
        for sent in sent {
            if let Sent::Connection(board, id, flow) = sent {
                world.acknowledges(board, flow, id);
                serve_one(world, board, if board == FIRST { first } else { second });
            }
        }
    }
}

/// The request of the check that was just acknowledged. An empty answer is none.
fn serve_one(world: &mut World, board: Board, answer: &[u8]) {
    for sent in world.sent() {
        if let Sent::Checked(to, flow, segment) = sent
            && to == board
            && !segment.payload.is_empty()
            && !answer.is_empty()
        {
            world.serves(board, flow, reply(flow, &segment, Flags::ACK | Flags::PSH), answer);
        }
    }
}

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
const NOTHING: &[u8] = b"";

/// The first check of the first board.
fn first_check(world: &mut World) -> (u64, Flow) {
    for _ in 0..CHECK_MS {
        world.pass(1);
        for sent in world.sent() {
            if let Sent::Connection(FIRST, id, flow) = sent {
                return (id, flow);
            }
        }
    }
    panic!("no check of the first board within its interval")
}

/// The board that a new connection is placed on.
fn placed(world: &mut World, port: u16) -> Board {
    world.sent();
    let mut client = Client::on_port(port);
    world.rig.shake(&mut client);
    assert_eq!(world.rig.client(&client.data(0, REQUEST)), Verdict::Held);
    world.turn();
    let asked = world.sent().into_iter().find_map(|sent| match sent {
        Sent::Connection(board, _, flow) if flow == client.flow => Some(board),
        _ => None,
    });
    asked.expect("a board is asked")
}

#[test]
fn a_check_goes_the_way_of_a_connection_and_leaves_nothing_behind() {
    let mut world = World::checked();
    let (id, flow) = first_check(&mut world);
    assert_eq!((flow.client, flow.endpoint, flow.endpoint_port), (FARM_ADDRESS, SERVICE, 80));
    assert!(CHECK_PORTS.contains(&flow.client_port));
    world.acknowledges(FIRST, flow, id);
    let [Sent::Checked(FIRST, _, request)] = &world.sent()[..] else { panic!("the request") };
    assert_eq!((request.payload.as_slice(), request.flags), (CHECK, Flags::ACK | Flags::PSH));
    world.serves(FIRST, flow, reply(flow, request, Flags::ACK), b"HTTP/1.1 2");
    let [Sent::Checked(FIRST, _, acknowledged)] = &world.sent()[..] else { panic!("an acknowledgement") };
    assert_eq!((acknowledged.ack, acknowledged.flags), (request.ack + 10, Flags::ACK));
    world.serves(
        FIRST,
        flow,
        tcp::Repr { seq: request.ack + 10, ..reply(flow, request, Flags::ACK) },
        b"00 OK\r\n",
    );
    let [Sent::Checked(FIRST, _, reset)] = &world.sent()[..] else { panic!("a RST") };
    assert!(reset.flags.contains(Flags::RST));
    assert_eq!((reset.seq, reset.ack), (request.seq + CHECK.len() as u32, request.ack + 17));
    world.closes(FIRST, flow, id, ClosedReason::Closed);
    assert_eq!(world.verdict(FIRST), ("passing", Some("status 200".to_owned())));
    // Two answers, and no entry in any table.
    assert_eq!(world.rig.counters.outcome(Outcome::Check).read(), 2);
    assert_eq!(world.rig.state(&flow), None);
}

#[test]
fn a_board_that_fails_is_left_out_after_three_and_taken_back_after_two_good_ones() {
    let mut world = World::checked();
    pass(&mut world, 2 * CHECK_MS, [GOOD, GOOD]);
    assert_eq!(placed(&mut world, 40_000), FIRST, "fewer connections");
    pass(&mut world, 2 * CHECK_MS, [BAD, GOOD]);
    assert_eq!(placed(&mut world, 40_001), FIRST, "two failures are not three");
    pass(&mut world, CHECK_MS, [BAD, GOOD]);
    assert_eq!(world.verdict(FIRST), ("failing", Some("another status: 503".to_owned())));
    assert_eq!(placed(&mut world, 40_002), SECOND);
    pass(&mut world, CHECK_MS, [GOOD, GOOD]);
    assert_eq!(placed(&mut world, 40_003), SECOND, "one good one is not two");
    pass(&mut world, CHECK_MS, [GOOD, GOOD]);
    assert_eq!(placed(&mut world, 40_004), FIRST);
}

#[test]
fn a_board_that_acknowledges_and_never_serves_is_left_out() {
    let mut world = World::checked();
    assert_eq!(placed(&mut world, 40_000), FIRST, "nothing is known yet: it is used");
    pass(&mut world, 5 * CHECK_MS, [NOTHING, GOOD]);
    assert_eq!(world.verdict(FIRST), ("failing", Some("acknowledged, but not served in time".to_owned())));
    assert_eq!(placed(&mut world, 40_001), SECOND);
}

#[test]
fn a_check_without_an_answer_is_taken_back_by_force() {
    let mut world = World::checked();
    let (id, flow) = first_check(&mut world);
    world.acknowledges(FIRST, flow, id);
    world.pass(CHECK_MS);
    let sent = world.sent();
    let requests = sent.iter().filter(|sent| matches!(sent, Sent::Checked(FIRST, of, _) if *of == flow));
    assert!(requests.count() > 1, "it is sent again: {sent:?}");
    assert!(sent.contains(&Sent::Detach(FIRST, id)), "{sent:?}");
    // The acknowledgement of one that is over is answered in the same way.
    world.closes(FIRST, flow, id, ClosedReason::Forced);
    world.acknowledges(FIRST, flow, id);
    assert!(world.sent().contains(&Sent::Detach(FIRST, id)));
}

#[test]
fn refusals_and_silence_fail_too() {
    let mut world = World::checked();
    let (id, flow) = first_check(&mut world);
    world.refuses(FIRST, flow, id, RefusalReason::AcceptQueueFull);
    assert_eq!(world.verdict(FIRST), ("unknown", Some("refused: accept_queue_full".to_owned())));
    world.pass(3 * CHECK_MS + 10);
    assert_eq!(world.verdict(FIRST), ("failing", Some("no acknowledgement".to_owned())));
}

#[test]
fn when_all_fail_the_client_is_answered_503() {
    let mut world = World::checked();
    pass(&mut world, 4 * CHECK_MS, [BAD, BAD]);
    let mut client = Client::on_port(40_010);
    world.rig.shake(&mut client);
    assert_eq!(world.rig.client(&client.data(0, REQUEST)), Verdict::Held);
    world.turn();
    assert!(world.rig.answer().payload.starts_with(b"HTTP/1.1 503"));
}

#[test]
fn a_dead_board_is_not_checked_and_keeps_its_verdict() {
    let mut world = World::checked();
    pass(&mut world, 2 * CHECK_MS, [GOOD, GOOD]);
    world.silence(FIRST);
    world.pass(4 * CHECK_MS);
    assert_eq!(world.verdict(FIRST).0, "passing", "its silence is known, and says nothing of its server");
    world.sent();
    world.pass(2 * CHECK_MS);
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Connection(FIRST, ..))));
}

#[test]
fn a_socket_that_missed_the_end_of_its_check_is_reset() {
    let mut world = World::checked();
    let flow = Flow { client: FARM_ADDRESS, client_port: 60_000, endpoint: SERVICE, endpoint_port: 80 };
    let stray = tcp::Repr {
        src_port: 80,
        dst_port: 60_000,
        seq: Seq(7),
        ack: Seq(9),
        flags: Flags::ACK,
        window: 1,
        options: tcp::Options::default(),
    };
    world.sent();
    world.serves(FIRST, flow, stray, b"HTTP/1.1 200 OK\r\n");
    let sent = world.sent();
    let reset = sent.iter().find_map(|sent| match sent {
        Sent::Checked(FIRST, of, segment) if *of == flow => Some(segment),
        _ => None,
    });
    let reset = reset.unwrap_or_else(|| panic!("a RST, not {sent:?}"));
    assert_eq!((reset.seq, reset.flags.contains(Flags::RST)), (stray.ack, true));
    // A RST is never answered.
    world.serves(FIRST, flow, tcp::Repr { flags: Flags::RST | Flags::ACK, ..stray }, b"");
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Checked(..))));
}

#[test]
fn nobody_but_a_board_answers_a_check() {
    let mut world = World::checked();
    let (id, flow) = first_check(&mut world);
    world.acknowledges(FIRST, flow, id);
    let [Sent::Checked(FIRST, _, request)] = &world.sent()[..] else { panic!("the request") };
    let forged = reply(flow, request, Flags::ACK);
    world.serves(Board(9), flow, forged, GOOD);
    world.serves(SECOND, flow, forged, GOOD);
    assert_eq!(world.verdict(FIRST), ("unknown", None));
}
