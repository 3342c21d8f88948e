//! Datagrams: from the first of a flow, over the board that takes it, to its end; and QUIC, whose connections name their board.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_appliance::control::admission::Admit;
use ipos_appliance::control::counters::OverLimit;
use ipos_appliance::control::placement::Rules;
use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::handoff::{BoardId, Command};
use ipos_pipelines::quic::ServerIds;
use ipos_pipelines::services::{Kind, Services};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;

use crate::common::DATAGRAM_SERVICE;
use crate::common::dgram::Dgram;
use crate::common::setup::plain;
use crate::world::{Board, DEADLINE_MS, FIRST, RETRY_MS, SECOND, Sent, TRIES, UDP_NUMBER, World};

fn world() -> World {
    World::placed_by(Rules { udp: true, ..Rules::default() })
}

fn query(port: u16, payload: &[u8]) -> Dgram {
    let datagram = Dgram::on_port(port);
    let flow = Flow { endpoint: DATAGRAM_SERVICE, ..datagram.flow };
    Dgram { flow, payload: payload.to_vec() }
}

/// The first datagram of a flow comes; the board that is asked.
#[track_caller]
fn begins(world: &mut World, datagram: &Dgram) -> Board {
    assert_eq!(world.rig.on_wan(&datagram.frame()), Verdict::Held);
    world.turn();
    match world.sent()[..] {
        [Sent::Flow(board, flow)] if flow == datagram.flow => board,
        ref other => panic!("one UDP Connection Packet, not {other:?}"),
    }
}

/// It is forwarded at once.
#[track_caller]
fn goes_to(world: &mut World, datagram: &Dgram, board: Board) {
    assert_eq!(world.rig.on_wan(&datagram.frame()), Verdict::Forwarded);
    world.turn();
    assert_eq!(world.sent(), [Sent::Datagram(board, datagram.payload.clone())]);
}

#[test]
fn a_flow_from_its_first_datagram_to_its_idle_end() {
    let mut world = world();
    let first = query(1, b"one");
    let board = begins(&mut world, &first);
    assert_eq!(world.rig.on_wan(&query(1, b"two").frame()), Verdict::Held);
    world.takes(board, first.flow);
    let both = [b"one", b"two"].map(|payload| Sent::Datagram(board, payload.to_vec()));
    assert_eq!(world.sent(), both);
    goes_to(&mut world, &query(1, b"three"), board);
    assert_eq!(world.rig.counters.datagram_flows.read(), 1);
    world.pass(31_000);
    world.pass(31_000);
    assert_eq!(world.rig.counters.datagram_flows.read(), 0);
    assert_eq!(world.sent(), [], "no board is told");
}

#[test]
fn refusal_and_silence_lead_to_the_next_board_and_after_the_last_the_flow_waits() {
    let mut world = world();
    let datagram = query(1, b"one");
    let first = begins(&mut world, &datagram);
    world.takes_not(first, datagram.flow);
    let second = match world.sent()[..] {
        [Sent::Flow(board, _)] => board,
        ref other => panic!("the other board is asked, not {other:?}"),
    };
    assert_ne!(first, second);
    world.pass(RETRY_MS * (TRIES as u64 - 1) + 1);
    assert_eq!(
        world.sent(),
        vec![Sent::Flow(second, datagram.flow); TRIES - 1],
        "again, under the same flow"
    );
    world.pass(DEADLINE_MS);
    assert_eq!(world.rig.happened(Happening::DatagramsUnplaced), 1);
    world.sent();
    // After a second it is asked anew; a late acknowledgement counts for nothing before that.
    let again = begins(&mut world, &datagram);
    world.takes(again, datagram.flow);
    assert_eq!(world.sent(), [Sent::Datagram(again, b"one".to_vec())]);
}

#[test]
fn flows_of_a_board_that_dies_are_placed_anew() {
    let mut world = world();
    let datagram = query(1, b"one");
    let board = begins(&mut world, &datagram);
    world.takes(board, datagram.flow);
    world.sent();
    // Nobody but who hears a board die can know: the worker is told so, as by the standings of services.
    let (takes, service) = (ipos_pipelines::handoff::Takes::None, UDP_NUMBER);
    world.silence(board);
    world.pass(2_000);
    world.tell(Command::Standing { service, board: BoardId(u16::from(board.0) - 1), takes });
    let other = begins(&mut world, &datagram);
    assert_ne!(other, board);
    world.takes(other, datagram.flow);
    assert_eq!(world.sent(), [Sent::Datagram(other, b"one".to_vec())]);
    goes_to(&mut world, &query(1, b"two"), other);
}

#[test]
fn a_flood_from_random_sources_is_bounded_and_those_that_are_served_go_on() {
    let mut world = world();
    let datagram = query(1, b"one");
    let board = begins(&mut world, &datagram);
    world.takes(board, datagram.flow);
    world.sent();
    let mut state = 7u32;
    for _ in 0..3_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let client = Ipv4Addr::from_bits(0x0b00_0000 | state >> 8);
        let flow = Flow { client, client_port: state as u16, ..datagram.flow };
        let _ = world.rig.on_wan(&Dgram { flow, payload: state.to_be_bytes().to_vec() }.frame());
        world.turn();
    }
    assert!(world.rig.counters.datagram_flows.read() <= 1024, "as many as the table has room for");
    world.sent();
    goes_to(&mut world, &query(1, b"two"), board);
}

#[test]
fn a_service_beyond_its_limit_takes_no_flow_until_one_has_ended() {
    let mut world = world();
    world.limit(Admit { connections: Some(2), ..Admit::default() });
    for port in 1..=2 {
        let datagram = query(port, b"x");
        let board = begins(&mut world, &datagram);
        world.takes(board, datagram.flow);
        world.sent();
    }
    let third = query(3, b"x");
    assert_eq!(world.rig.on_wan(&third.frame()), Verdict::Held);
    world.turn();
    assert_eq!(world.sent(), []);
    assert_eq!(world.rig.on_wan(&third.frame()), Verdict::Drop(Drop::OverLimit));
    let admitted = world.admitted_flows();
    assert_eq!((admitted.connections, admitted.refused[OverLimit::Connections as usize]), (2, 1));
    world.pass(31_000);
    world.pass(31_000);
    assert_eq!(world.admitted_flows().connections, 0);
    begins(&mut world, &third);
    // A flow that no board takes does not count.
    world.takes_not(FIRST, third.flow);
    world.takes_not(SECOND, third.flow);
    world.pass(DEADLINE_MS);
    assert_eq!(world.admitted_flows().connections, 0);
    world.sent();
}

#[test]
fn a_quic_client_on_its_way_keeps_its_board_and_nobody_is_asked_again() {
    let mut world = world();
    let ids = ServerIds::new(1, 1, vec![(0xb1, BoardId(0)), (0xb2, BoardId(1))]);
    let service = Arc::new(plain(DATAGRAM_SERVICE, 80, Kind::Udp, 6));
    let services = Services::numbered(vec![(UDP_NUMBER, service)], Vec::new()).expect("one service");
    world.tell(Command::Services(Arc::new(services.with_server_ids(vec![(UDP_NUMBER, ids)]))));
    let initial = query(1, &[&[0xc0, 0, 0, 0, 1, 8][..], &[0xb2; 40]].concat());
    let board = begins(&mut world, &initial);
    world.takes(board, initial.flow);
    world.sent();
    let id = 0xb0 + board.0;
    for port in 2..6 {
        goes_to(&mut world, &query(port, &[0x40, 0x99, id, 1, 2, 3]), board);
    }
    assert_eq!(world.rig.happened(Happening::QuicFollowed), 4);
    // What names nobody is asked about like any other flow.
    begins(&mut world, &query(9, &[0x40, 0x99, 0x77, 1, 2, 3]));
}
