//! A service whose server may speak first: refusals, silence and the end of all boards, from the handshake's ACK on.

use ipos_pipelines::counters::Happening;
use ipos_pipelines::entry::State;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ipos::{ClosedReason, RefusalReason};
use ipos_wire::tcp::Flags;

use crate::common::Client;
use crate::world::{Board, DEADLINE_MS, FIRST, SECOND, Sent, World};

/// Handshake, and its ACK; the Connection Packet that comes of it.
#[track_caller]
fn connect(world: &mut World, client: &mut Client) -> (Board, u64) {
    world.rig.shake(client);
    assert_eq!(world.rig.client(&client.ack(0)), Verdict::Held);
    world.turn();
    match world.sent()[..] {
        [Sent::Connection(board, id, flow)] if flow == client.flow => (board, id),
        ref other => panic!("one Connection Packet, not {other:?}"),
    }
}

fn bare_ack(board: Board) -> [Sent; 1] {
    [Sent::Packet(board, Vec::new())]
}

#[test]
fn the_ack_alone_moves_the_endpoint_and_is_repeated_until_the_client_heard_the_server() {
    let (mut world, mut client) = (World::new(), Client::of_server_first());
    let (board, id) = connect(&mut world, &mut client);
    assert_eq!(board, FIRST);
    world.acknowledges(FIRST, client.flow, id);
    assert_eq!(world.sent(), bare_ack(FIRST));
    world.pass(300);
    assert_eq!(world.sent(), bare_ack(FIRST), "the packet may be lost, and the client sends nothing");
    assert_eq!(world.rig.client(&client.acks(0, 40)), Verdict::Forwarded);
    world.sent();
    world.pass(20_000);
    assert_eq!(world.sent(), []);
    world.closes(FIRST, client.flow, id, ClosedReason::Closed);
    world.pass(2_100);
    assert_eq!(world.rig.state(&client.flow), None);
}

#[test]
fn a_refusal_leads_to_the_next_board_and_with_none_left_to_a_rst() {
    let (mut world, mut client) = (World::new(), Client::of_server_first());
    let (_, id) = connect(&mut world, &mut client);
    world.refuses(FIRST, client.flow, id, RefusalReason::AcceptQueueFull);
    let Some(Sent::Connection(SECOND, id, _)) = world.sent().first().cloned() else {
        panic!("the second board")
    };
    world.refuses(SECOND, client.flow, id, RefusalReason::NoListener);
    assert!(world.rig.answer().flags.contains(Flags::RST));
    assert_eq!((world.rig.state(&client.flow), world.rig.happened(Happening::ResetUnplaced)), (None, 1));
}

#[test]
fn when_every_board_is_silent_the_client_is_reset_within_the_deadline() {
    let (mut world, mut client) = (World::new(), Client::of_server_first());
    connect(&mut world, &mut client);
    world.pass(DEADLINE_MS);
    assert!(world.rig.answer().flags.contains(Flags::RST));
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Packet(..))));
}

#[test]
fn a_client_whose_board_died_before_the_server_spoke_is_reset() {
    let (mut world, mut client) = (World::new(), Client::of_server_first());
    let (_, id) = connect(&mut world, &mut client);
    world.acknowledges(FIRST, client.flow, id);
    world.silence(FIRST);
    world.pass(17_000 + DEADLINE_MS);
    assert!(
        world.sent().contains(&Sent::Connection(FIRST, id, client.flow)),
        "the attempt is repeated at last"
    );
    assert_eq!(world.rig.answer().flags, Flags::RST | Flags::ACK);
    assert_eq!(world.rig.state(&client.flow), None);
}

#[test]
fn a_board_that_has_forgotten_the_endpoint_gets_it_again_and_no_other_does() {
    let (mut world, mut client) = (World::new(), Client::of_server_first());
    let (_, id) = connect(&mut world, &mut client);
    world.acknowledges(FIRST, client.flow, id);
    world.sent();
    // Its agent was started anew, without what it knew: the first packet is a stray there.
    world.closes(FIRST, client.flow, 0, ClosedReason::Stray);
    assert_eq!(world.sent(), [Sent::Connection(FIRST, id, client.flow)]);
    world.acknowledges(FIRST, client.flow, id);
    assert_eq!(world.sent(), bare_ack(FIRST));
    assert_eq!(world.rig.state(&client.flow), Some(State::Forward));
    // The endpoint has ended there, and the notice of it was lost.
    world.closes(FIRST, client.flow, 0, ClosedReason::Stray);
    assert_eq!(world.sent(), [Sent::Connection(FIRST, id, client.flow)]);
    world.closes(FIRST, client.flow, id, ClosedReason::Closed);
    assert!(!world.sent().iter().any(|sent| matches!(sent, Sent::Connection(SECOND, ..))));
}
