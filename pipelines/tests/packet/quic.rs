//! QUIC: connections stick by their id; what names no board that lives goes with its flow, or is placed.

use std::sync::Arc;

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::handoff::{BoardId, Command, Counted, DatagramsPlaced, Event, Takes};
use ipos_pipelines::quic::ServerIds;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ethernet;

use crate::common::{BOARD, Node, OTHER_BOARD, Rig, Setup};
use crate::datagram::{self, Dgram, UDP};

/// One octet, then two that name [`BOARD`] or [`OTHER_BOARD`].
fn with(setup: Setup) -> Rig {
    let mut rig = Rig::with(setup);
    let ids = ServerIds::new(1, 2, vec![(0x0a01, BOARD), (0x0a02, OTHER_BOARD), (0x0a03, BoardId(77))]);
    rig.command(Command::Services(Arc::new(datagram::services().with_server_ids(vec![(UDP, ids)]))));
    rig
}

fn rig() -> Rig {
    with(Setup::default())
}

/// A packet with a short header and this server id.
fn short(port: u16, id: [u8; 2]) -> Dgram {
    Dgram { payload: [&[0x40, 0xff][..], &id, &[0x77; 30]].concat(), ..Dgram::on_port(port) }
}

/// A client's first packet: its connection id is the client's choice, here one that looks like a server's.
fn initial(port: u16) -> Dgram {
    let payload = [&[0xc3, 0, 0, 0, 1, 8, 0xff, 0x0a, 0x02][..], &[0x55; 1_200]].concat();
    Dgram { payload, ..Dgram::on_port(port) }
}

/// It goes to this board at once, and nobody is asked.
#[track_caller]
fn goes_to(rig: &mut Node, datagram: &Dgram, board: BoardId) {
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Forwarded);
    assert_eq!(datagram::sent(rig), [(board, datagram.frame()[ethernet::HEADER_LEN..].to_vec())]);
    assert!(rig.told().is_empty(), "nobody is asked");
}

fn flows(rig: &Rig) -> u64 {
    rig.counters.datagram_flows.read()
}

#[test]
fn a_client_that_changes_its_address_keeps_its_board() {
    let mut rig = rig();
    datagram::settle(&mut rig, &initial(1), BOARD);
    goes_to(&mut rig, &short(1, [0x0a, 1]), BOARD);
    for port in 2..10 {
        goes_to(&mut rig, &short(port, [0x0a, 1]), BOARD);
        goes_to(&mut rig, &short(port, [0x0a, 1]), BOARD);
    }
    assert_eq!((flows(&rig), rig.happened(Happening::QuicFollowed)), (9, 8));
    // Flows made so end as others do.
    for _ in 0..3 {
        rig.pass(10_000);
    }
    assert_eq!(flows(&rig), 0);
}

#[test]
fn a_first_packet_is_placed_by_the_policy_whatever_id_its_client_chose() {
    let mut rig = rig();
    assert_eq!(rig.on_wan(&initial(1).frame()), Verdict::Held);
    let (entry, flow) = datagram::asked(&mut rig);
    // A connection of another board goes on meanwhile, from the same address and port.
    goes_to(&mut rig, &short(1, [0x0a, 2]), OTHER_BOARD);
    rig.command(Command::Datagrams { entry, flow, placed: DatagramsPlaced::At(BOARD, Counted::No) });
    assert_eq!(datagram::sent(&mut rig)[0].0, BOARD);
    goes_to(&mut rig, &initial(1), BOARD);
}

#[test]
fn an_address_and_port_used_again_for_a_connection_of_another_board_goes_over_to_it() {
    let mut rig = rig();
    datagram::settle(&mut rig, &initial(1), BOARD);
    goes_to(&mut rig, &short(1, [0x0a, 2]), OTHER_BOARD);
    assert_eq!((flows(&rig), rig.happened(Happening::QuicMoved)), (1, 1));
    goes_to(&mut rig, &initial(1), OTHER_BOARD);
    let by_board = &rig.worker.core().by_board;
    assert_eq!((by_board.flows(BOARD), by_board.flows(OTHER_BOARD)), (0, 1));
}

#[test]
fn what_names_no_board_goes_with_its_flow_or_is_placed_and_is_counted() {
    let garbage: [(Vec<u8>, Happening); 5] = [
        (short(1, [0xbb, 0xbb]).payload, Happening::QuicUnknown),
        (vec![0x40, 0xff, 0x0a], Happening::QuicTooShort),
        (Vec::new(), Happening::QuicMalformed),
        (vec![0xc0, 0, 0, 0, 1, 200, 1, 2], Happening::QuicMalformed),
        (short(1, [0x0a, 3]).payload, Happening::QuicBoardGone),
    ];
    for (number, (payload, reason)) in (1..).zip(garbage) {
        let mut rig = rig();
        let datagram = Dgram { payload, ..Dgram::on_port(number) };
        datagram::settle(&mut rig, &datagram, OTHER_BOARD);
        assert_eq!(rig.happened(reason), 1, "{reason:?}");
        goes_to(&mut rig, &datagram, OTHER_BOARD);
        assert_eq!(rig.happened(reason), 2, "{reason:?}");
    }
}

#[test]
fn connections_of_a_draining_board_go_on_and_those_of_a_dead_one_are_placed() {
    let mut rig = rig();
    datagram::takes(&mut rig, BOARD, Takes::Known);
    goes_to(&mut rig, &short(1, [0x0a, 1]), BOARD);
    datagram::takes(&mut rig, BOARD, Takes::None);
    datagram::settle(&mut rig, &short(1, [0x0a, 1]), OTHER_BOARD);
    datagram::settle(&mut rig, &short(2, [0x0a, 1]), OTHER_BOARD);
    assert_eq!(rig.happened(Happening::QuicBoardGone), 2);
    goes_to(&mut rig, &short(2, [0x0a, 2]), OTHER_BOARD);
}

#[test]
fn a_flood_with_the_id_of_a_board_has_half_of_the_table_and_is_forwarded_all_the_same() {
    let mut rig = with(Setup { datagram_flows: 64, events: 4_096, ..Setup::default() });
    for port in 1..=200 {
        goes_to(&mut rig, &short(port, [0x0a, 1]), BOARD);
    }
    assert_eq!((flows(&rig), rig.happened(Happening::QuicFollowed)), (32, 32));
    assert_eq!(rig.happened(Happening::QuicUnkept), 168);
    // Whoever begins a connection finds room.
    datagram::settle(&mut rig, &initial(300), OTHER_BOARD);
}

#[test]
fn a_flow_that_no_board_took_does_not_hold_back_a_connection_that_has_its_board() {
    let mut rig = rig();
    assert_eq!(rig.on_wan(&initial(1).frame()), Verdict::Held);
    let (entry, flow) = datagram::asked(&mut rig);
    rig.command(Command::Datagrams { entry, flow, placed: DatagramsPlaced::Nowhere });
    assert_eq!(rig.on_wan(&initial(1).frame()), Verdict::Drop(Drop::NoUdpBoard));
    goes_to(&mut rig, &short(1, [0x0a, 1]), BOARD);
}

#[test]
fn a_service_without_server_ids_reads_none() {
    let mut rig = datagram::rig();
    assert_eq!(rig.on_wan(&short(1, [0x0a, 1]).frame()), Verdict::Held);
    assert!(matches!(rig.told()[..], [Event::PlaceDatagrams { .. }]));
}
