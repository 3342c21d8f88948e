//! Services of kind `udp`: flows of datagrams, and datagrams each for itself.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::datagram::{HELD_EACH, HOLDING_MAX};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{
    BoardId, Command, Counted, DatagramsPlaced, Event, FlowFilter, FlowPage, Takes, WorkerId,
};
use ipos_pipelines::maglev::{HashBy, Maglev, Member};
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::table::slab::EntryRef;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{self, Protocol};
use ipos_wire::{ethernet, ipv4};

pub use crate::common::dgram::Dgram;
use crate::common::scripts::REQUEST;
use crate::common::setup::plain;
use crate::common::{
    BOARD, BOARD_MAC, Client, Node, OTHER_BOARD, OTHER_BOARD_MAC, Pair, Rig, SERVICE, SERVICE_PORT, Setup,
    only,
};

/// The number of the UDP service, which shares address and port with the `http` one.
pub const UDP: u16 = 2;
const IDLE_MS: u32 = 5_000;

/// A datagram whose length field says more than there is.
pub fn cut_short() -> Vec<u8> {
    let mut frame = Dgram::on_port(1).frame();
    let at = ethernet::HEADER_LEN + ipv4::HEADER_LEN + 4;
    frame[at] = 0x7f;
    frame
}

fn service(kind: Kind) -> Arc<Service> {
    Arc::new(plain(SERVICE, SERVICE_PORT, kind, 4))
}

pub fn services() -> Services {
    let both = vec![(0, service(Kind::Http)), (UDP, service(Kind::Udp))];
    Services::numbered(both, Vec::new()).expect("two protocols").with_idle_ms(vec![(UDP, IDLE_MS)])
}

fn with(setup: Setup) -> Rig {
    let mut rig = Rig::with(setup);
    rig.command(Command::Services(Arc::new(services())));
    rig
}

pub fn rig() -> Rig {
    with(Setup::default())
}

pub fn takes(node: &mut Node, board: BoardId, takes: Takes) {
    node.command(Command::Standing { service: UDP, board, takes });
}

/// The flow that the control core was asked to place.
#[track_caller]
pub fn asked(node: &mut Node) -> (EntryRef, Flow) {
    match only(node.told()) {
        Event::PlaceDatagrams { entry, flow, service: UDP, pool: 4, .. } => (entry, flow),
        other => panic!("a flow to place, not {other:?}"),
    }
}

fn placed(node: &mut Node, entry: EntryRef, board: Option<BoardId>) {
    let flow = node.worker.core().datagrams.flows.flow(entry).expect("a flow");
    let placed = board.map_or(DatagramsPlaced::Nowhere, |board| DatagramsPlaced::At(board, Counted::No));
    node.command(Command::Datagrams { entry, flow, placed });
}

/// A flow that this board has taken.
#[track_caller]
pub fn settle(node: &mut Node, datagram: &Dgram, board: BoardId) {
    assert_eq!(node.on_wan(&datagram.frame()), Verdict::Held);
    let (entry, flow) = asked(node);
    assert_eq!(flow, datagram.flow);
    placed(node, entry, Some(board));
    assert_eq!(sent(node), [(board, datagram.clone().frame()[ethernet::HEADER_LEN..].to_vec())]);
}

/// The same, with what the control core says; whether it was told that the flow had a board before.
#[track_caller]
pub fn settle_as(node: &mut Node, datagram: &Dgram, (had_one, placed): (bool, DatagramsPlaced)) {
    assert_eq!(node.on_wan(&datagram.frame()), Verdict::Held);
    match only(node.told()) {
        Event::PlaceDatagrams { entry, flow, moved, .. } => {
            assert_eq!((flow, moved), (datagram.flow, had_one));
            node.command(Command::Datagrams { entry, flow, placed });
        }
        other => panic!("a flow to place, not {other:?}"),
    }
    assert_eq!(sent(node).len(), 1);
}

/// The datagrams that went to boards: Fig. 11H.
pub fn sent(node: &mut Node) -> Vec<(BoardId, Vec<u8>)> {
    let read = node.packets_out().into_iter().map(|out| {
        assert_eq!((out.header.kind, out.header.protocol), (ipos::TYPE_PACKET, Protocol::Udp));
        let board = match out.destination_mac {
            BOARD_MAC => BOARD,
            OTHER_BOARD_MAC => OTHER_BOARD,
            other => panic!("no board has {other}"),
        };
        (board, out.packet)
    });
    read.collect()
}

/// Datagrams that are dropped for one of four reasons.
pub fn provoke(reason: Drop) -> Verdict {
    let mut rig = with(Setup { datagram_flows: 1024, events: 4_096, ..Setup::default() });
    let datagram = Dgram::on_port(1);
    match reason {
        Drop::NoUdpBoard => {
            assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Held);
            let (entry, _) = asked(&mut rig);
            placed(&mut rig, entry, None);
            rig.on_wan(&datagram.frame())
        }
        Drop::OverLimit => {
            assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Held);
            let (entry, flow) = asked(&mut rig);
            rig.command(Command::Datagrams { entry, flow, placed: DatagramsPlaced::OverLimit });
            rig.on_wan(&datagram.frame())
        }
        Drop::DatagramsHeld => {
            for _ in 0..HELD_EACH {
                assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Held);
            }
            rig.on_wan(&datagram.frame())
        }
        _ => {
            for port in 0..1_024 {
                let _ = rig.on_wan(&Dgram::on_port(port).frame());
            }
            rig.on_wan(&Dgram::on_port(2_000).frame())
        }
    }
}

#[test]
fn the_first_datagram_asks_and_all_follow_in_order_once_a_board_has_taken_the_flow() {
    let mut rig = rig();
    let numbered = |n: u8| Dgram { payload: vec![n; 9], ..Dgram::on_port(1) };
    for n in 0..HELD_EACH as u8 {
        assert_eq!(rig.on_wan(&numbered(n).frame()), Verdict::Held);
    }
    assert_eq!(rig.on_wan(&numbered(9).frame()), Verdict::Drop(Drop::DatagramsHeld));
    let (entry, _) = asked(&mut rig);
    placed(&mut rig, entry, Some(OTHER_BOARD));
    let expected: Vec<_> = (0..HELD_EACH as u8)
        .map(|n| (OTHER_BOARD, numbered(n).frame()[ethernet::HEADER_LEN..].to_vec()))
        .collect();
    assert_eq!(sent(&mut rig), expected);
    assert_eq!(rig.on_wan(&numbered(7).frame()), Verdict::Forwarded);
    assert_eq!(sent(&mut rig)[0].0, OTHER_BOARD);
    assert_eq!(rig.happened(Happening::DatagramsPlaced), 1);
    // An answer that comes late or twice changes nothing.
    placed(&mut rig, entry, Some(BOARD));
    assert_eq!(rig.on_wan(&numbered(8).frame()), Verdict::Forwarded);
    assert_eq!(sent(&mut rig)[0].0, OTHER_BOARD);
    rig.assert_silent();
}

#[test]
fn tcp_and_udp_with_the_same_addresses_and_ports_do_not_meet() {
    let mut rig = rig();
    let mut client = Client::new();
    rig.settle(&mut client);
    let datagram = Dgram { flow: client.flow, payload: b"x".to_vec() };
    settle(&mut rig, &datagram, OTHER_BOARD);
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    assert_eq!(rig.client(&client.acks(47, 100)), Verdict::Forwarded);
    assert_eq!(rig.forwarded().destination_mac, BOARD_MAC);
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Forwarded);
    assert_eq!(sent(&mut rig)[0].0, OTHER_BOARD);
}

#[test]
fn a_flow_ends_idle_and_nobody_is_asked_about_it() {
    let mut rig = rig();
    let datagram = Dgram::on_port(1);
    settle(&mut rig, &datagram, BOARD);
    for _ in 0..3 {
        rig.pass(u64::from(IDLE_MS) - 500);
        assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Forwarded);
        sent(&mut rig);
    }
    rig.pass(u64::from(IDLE_MS) + 200);
    rig.pass(u64::from(IDLE_MS));
    assert_eq!(rig.counters.datagram_flows.read(), 0);
    assert_eq!(rig.happened(Happening::DatagramsIdle), 1);
    rig.assert_silent();
    settle(&mut rig, &datagram, OTHER_BOARD);
}

#[test]
fn flows_of_a_dead_or_removed_board_are_placed_anew_at_their_next_datagram() {
    let mut rig = rig();
    let datagram = Dgram::on_port(1);
    settle(&mut rig, &datagram, BOARD);
    takes(&mut rig, BOARD, Takes::Known);
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Forwarded, "it drains, and keeps what it has");
    sent(&mut rig);
    takes(&mut rig, BOARD, Takes::None);
    settle(&mut rig, &datagram, OTHER_BOARD);
    rig.command(Command::Forget { board: OTHER_BOARD });
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Held);
    asked(&mut rig);
    assert_eq!(rig.happened(Happening::DatagramsMoved), 2);
}

#[test]
fn a_flow_that_no_board_takes_asks_again_after_a_second() {
    let mut rig = rig();
    let datagram = Dgram::on_port(1);
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Held);
    let (entry, _) = asked(&mut rig);
    placed(&mut rig, entry, None);
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Drop(Drop::NoUdpBoard));
    rig.pass(1_100);
    settle(&mut rig, &datagram, BOARD);
    assert_eq!(rig.happened(Happening::DatagramsUnplaced), 1);
}

#[test]
fn a_flood_costs_what_was_set_aside_and_no_tcp_connection() {
    let setup = Setup { datagram_flows: 64, entries: 64, events: 4_096, mbufs: 8_191, ..Setup::default() };
    let mut rig = with(setup);
    let mut client = Client::new();
    rig.settle(&mut client);
    for number in 0..20_000u32 {
        let from = Ipv4Addr::from_bits(0x0b00_0000 + number);
        let verdict = rig.on_wan(&Dgram::of(from, 53).frame());
        assert_eq!(verdict == Verdict::Held, number < 64, "{number}: {verdict:?}");
    }
    assert_eq!(rig.counters.datagram_flows.read(), 64);
    assert_eq!(rig.told().len(), 64);
    assert_eq!(rig.client(&client.acks(47, 100)), Verdict::Forwarded);
    rig.packets_out();
    (1..=12).for_each(|port| {
        rig.request(&mut Client::on_port(port), REQUEST);
    });
    // Nobody answers: the flows are forgotten, and what waited with them.
    (0..210).for_each(|_| rig.pass(100));
    assert_eq!((rig.counters.datagram_flows.read(), rig.worker.core().datagrams.holding()), (0, 0));
}

#[test]
fn the_queue_to_the_control_core_keeps_half_of_its_room_for_tcp() {
    let mut rig = with(Setup { events: 8, ..Setup::default() });
    let held = (0..20).filter(|port| rig.on_wan(&Dgram::on_port(*port).frame()) == Verdict::Held).count();
    assert_eq!(held, 4);
    rig.shake(&mut Client::new());
    assert_eq!(rig.told().len(), 4);
}

#[test]
fn no_more_flows_hold_datagrams_than_may() {
    let mut rig = with(Setup { events: 4_096, ..Setup::default() });
    let ports = 0..HOLDING_MAX as u16 + 10;
    let held = ports.filter(|port| rig.on_wan(&Dgram::on_port(*port).frame()) == Verdict::Held).count();
    assert_eq!((held, rig.worker.core().datagrams.holding()), (HOLDING_MAX as usize, HOLDING_MAX));
    // Those whose datagram was dropped are placed all the same.
    assert_eq!(rig.told().len(), HOLDING_MAX as usize + 10);
}

#[test]
fn datagrams_each_for_itself_go_by_the_table_and_leave_nothing() {
    let mut rig = Rig::new();
    let member = |board: BoardId| {
        let address = Ipv4Addr::new(192, 0, 2, 10 + board.0 as u8);
        Member { board, address, weight: 100 }
    };
    let table = Maglev::build(HashBy::Flow, vec![member(BOARD), member(OTHER_BOARD)], 1021);
    rig.command(Command::Services(Arc::new(services().with_tables(vec![(UDP, Arc::new(table))]))));
    let where_to = |rig: &mut Rig, port: u16| {
        let frame = Dgram::on_port(port).frame();
        assert_eq!(rig.on_wan(&frame), Verdict::Forwarded);
        only(sent(rig)).0
    };
    let before: Vec<BoardId> = (0..100).map(|port| where_to(&mut rig, port)).collect();
    assert!(before.contains(&BOARD) && before.contains(&OTHER_BOARD));
    rig.pass(5_000);
    takes(&mut rig, BOARD, Takes::New);
    takes(&mut rig, OTHER_BOARD, Takes::New);
    let after: Vec<BoardId> = (0..100).map(|port| where_to(&mut rig, port)).collect();
    assert_eq!(before, after);
    takes(&mut rig, BOARD, Takes::Known);
    assert!((0..100).all(|port| where_to(&mut rig, port) == OTHER_BOARD));
    takes(&mut rig, OTHER_BOARD, Takes::None);
    assert_eq!(rig.on_wan(&Dgram::on_port(1).frame()), Verdict::Drop(Drop::NoUdpBoard));
    assert_eq!(rig.counters.datagram_flows.read(), 0);
    rig.assert_silent();
}

#[test]
fn a_flow_of_a_removed_service_goes_on_and_others_are_refused() {
    let mut rig = rig();
    let datagram = Dgram::on_port(1);
    settle(&mut rig, &datagram, BOARD);
    let only_http = Services::numbered(vec![(0, service(Kind::Http))], vec![(UDP, service(Kind::Udp))]);
    rig.command(Command::Services(Arc::new(only_http.expect("one service"))));
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Forwarded);
    sent(&mut rig);
    assert_eq!(rig.on_wan(&Dgram::on_port(2).frame()), Verdict::Drop(Drop::NoUdpService));
}

#[test]
fn flows_are_listed_behind_connections_with_their_protocol() {
    let mut rig = rig();
    let mut client = Client::new();
    rig.settle(&mut client);
    settle(&mut rig, &Dgram::on_port(1), OTHER_BOARD);
    assert_eq!(rig.on_wan(&Dgram::on_port(2).frame()), Verdict::Held);
    asked(&mut rig);
    let (mut rows, mut cursor) = (Vec::new(), Some(0));
    while cursor.is_some() {
        let filter = FlowFilter::default();
        let page = FlowPage { request: 1, worker: WorkerId(0), cursor, filter, rows: Vec::with_capacity(64) };
        rig.command(Command::ListFlows(Box::new(page)));
        let Event::Flows(page) = only(rig.told()) else { panic!("a page") };
        rows.extend(page.rows.iter().map(|row| (row.protocol, row.flow.client_port, row.board)));
        cursor = page.cursor;
    }
    rows.sort_by_key(|row| row.1);
    let expected = [
        (Protocol::Udp, 1, Some(OTHER_BOARD)),
        (Protocol::Udp, 2, None),
        (Protocol::Tcp, client.flow.client_port, Some(BOARD)),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn the_owner_of_a_flow_gets_its_datagrams() {
    let mut pair = Pair::new();
    for node in &mut pair.nodes {
        node.command(Command::Services(Arc::new(services())));
    }
    let verdicts: Vec<_> = (1..=20).map(|port| pair.on_wan(0, &Dgram::on_port(port).frame())).collect();
    let steered = verdicts.iter().filter(|(first, _)| *first == Verdict::Steered).count();
    assert!((1..20).contains(&steered), "{steered}");
    let owned =
        |verdict: &(Verdict, Option<Verdict>)| verdict.0 == Verdict::Held || verdict.1 == Some(Verdict::Held);
    assert!(verdicts.iter().all(owned), "{verdicts:?}");
}

#[test]
fn what_does_not_fit_the_farm_is_told() {
    let mut rig = rig();
    let mut datagram = Dgram::on_port(1);
    settle(&mut rig, &datagram, BOARD);
    datagram.payload = vec![1; 1484 - 28];
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Forwarded);
    sent(&mut rig);
    datagram.payload.push(1);
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Answered);
    rig.wan_frames();
    assert_eq!(rig.happened(Happening::TooBigTold), 1);
}
