//! Connections that count against limits of their service (`[service.admit]`): their end is told once, and those that are refused are
//! answered in the words of the service's kind.

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{
    Answer, Command, Counted, DatagramsPlaced, EndedFlow, Event, RetryAfter, Takes,
};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;
use ipos_wire::tcp::Flags;

use crate::common::hello;
use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{BOARD, Client, MIGRATION, Node, OTHER_BOARD, Rig, Setup, only};
use crate::datagram::{self, Dgram};

/// The control core says that the board has it, and that it counts.
fn counted(node: &mut Node, client: &mut Client) {
    let place = node.request(client, REQUEST);
    let (entry, flow, counted) = (place.entry, place.flow, Counted::Client);
    node.command(Command::Migrated { entry, flow, board: BOARD, migration_id: MIGRATION, counted });
    node.packets_out();
}

/// The ends that were told, by protocol, beside what else was.
pub fn ended(node: &mut Node) -> Vec<EndedFlow> {
    let flows = node.told().into_iter().filter_map(|event| match event {
        Event::Ended(flows) => Some(flows.to_vec()),
        _ => None,
    });
    flows.collect::<Vec<_>>().concat()
}

pub fn tcp(flow: Flow) -> EndedFlow {
    EndedFlow { flow, protocol: Protocol::Tcp, counted: Counted::Client }
}

#[test]
fn the_end_of_a_counted_connection_is_told_when_it_is_seen_and_once() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    counted(&mut rig, &mut client);
    assert_eq!(rig.client(&client.acks(REQUEST_LEN, 100)), Verdict::Forwarded);
    assert_eq!(ended(&mut rig), []);
    assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Forwarded);
    assert_eq!(ended(&mut rig), [tcp(client.flow)], "not only when the entry has lingered");
    rig.pass(10_000);
    assert_eq!((rig.state(&client.flow), ended(&mut rig)), (None, vec![]));
    rig.packets_out();
}

#[test]
fn a_boards_notice_ends_it_as_well() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    counted(&mut rig, &mut client);
    for _ in 0..2 {
        rig.command(Command::Closed { flow: client.flow, board: BOARD, migration_id: MIGRATION });
    }
    assert_eq!(ended(&mut rig), [tcp(client.flow)]);
}

#[test]
fn a_connection_that_does_not_count_tells_nothing() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Forwarded);
    rig.pass(10_000);
    assert_eq!(ended(&mut rig), []);
    rig.packets_out();
}

#[test]
fn a_client_that_left_before_its_board_was_found_ends_when_it_is() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let place = rig.request(&mut client, REQUEST);
    assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Answered);
    assert_eq!(ended(&mut rig), []);
    let (entry, flow, counted) = (place.entry, place.flow, Counted::Client);
    rig.command(Command::Migrated { entry, flow, board: BOARD, migration_id: MIGRATION, counted });
    assert_eq!(ended(&mut rig), [tcp(client.flow)]);
}

#[test]
fn a_connection_on_the_same_ports_ends_the_old_one_before_it_asks_for_a_board() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    counted(&mut rig, &mut client);
    let mut again = Client { irs: client.irs + 1_000_000, ..Client::new() };
    rig.shake(&mut again);
    assert_eq!(rig.client(&again.data(0, REQUEST)), Verdict::Held);
    match &rig.told()[..] {
        [Event::Abandon { .. }, Event::Ended(flows), Event::Place(..)] => {
            assert_eq!(flows[..], [tcp(client.flow)])
        }
        other => panic!("the old one, then the new one, not {other:?}"),
    }
}

#[test]
fn connections_of_a_forgotten_board_end() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    counted(&mut rig, &mut client);
    rig.command(Command::Forget { board: BOARD });
    for _ in 0..200 {
        rig.poll();
    }
    assert_eq!(rig.state(&client.flow), Some(State::GivenUp));
    assert_eq!(ended(&mut rig), [tcp(client.flow)]);
}

#[test]
fn ends_wait_for_room_in_the_queue_and_none_is_lost() {
    let mut rig = Rig::with(Setup { events: 4, pending: 64, ..Setup::default() });
    let mut flows = Vec::new();
    for port in 0..40 {
        let mut client = Client::on_port(port + 1);
        counted(&mut rig, &mut client);
        assert_eq!(rig.client(&client.acks(REQUEST_LEN, 100)), Verdict::Forwarded);
        flows.push(client.flow);
    }
    // Nobody reads the queue.
    for flow in &flows {
        rig.command(Command::Closed { flow: *flow, board: BOARD, migration_id: MIGRATION });
    }
    assert!(rig.worker.core().ended.owed() > 0, "more than the queue has room for");
    let mut told = Vec::new();
    for _ in 0..40 {
        told.extend(ended(&mut rig).iter().map(|ended| ended.flow.client_port));
        rig.poll();
    }
    told.sort_unstable();
    assert_eq!(told, (1..=40).collect::<Vec<u16>>());
    rig.packets_out();
}

#[test]
fn an_http_client_beyond_a_limit_is_told_when_to_come_again() {
    for (retry, seconds) in [(RetryAfter::S1, "1"), (RetryAfter::S10, "10"), (RetryAfter::S60, "60")] {
        let mut rig = Rig::new();
        let mut client = Client::new();
        let place = rig.request(&mut client, REQUEST);
        rig.command(Command::Answer { entry: place.entry, answer: Answer::OverLimit(retry) });
        let text = String::from_utf8(rig.answer().payload).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nRetry-After: {seconds}\r\n")), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert_eq!(rig.happened(Happening::AnsweredTooMany), 1);
    }
}

#[test]
fn other_clients_beyond_a_limit_are_reset() {
    let mut rig = Rig::new();
    let mut client = Client::of_server_first();
    let place = rig.shake_and_place(&mut client);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::OverLimit(RetryAfter::S1) });
    assert!(rig.answer().flags.contains(Flags::RST));
    assert_eq!((rig.state(&client.flow), rig.happened(Happening::ResetOverLimit)), (None, 1));

    let mut client = Client::of(crate::common::TLS_SERVICE);
    let place = rig.request(&mut client, &hello::stream(Some(b"a.example"), &[]));
    rig.command(Command::Answer { entry: place.entry, answer: Answer::OverLimit(RetryAfter::S1) });
    assert!(rig.answer().flags.contains(Flags::RST));
    assert_eq!((rig.state(&client.flow), rig.happened(Happening::ResetOverLimit)), (None, 2));
    assert_eq!(rig.happened(Happening::ResetUnplaced) + rig.happened(Happening::AlertUnavailable), 0);
}

#[test]
fn a_flow_of_datagrams_counts_until_it_is_idle_also_when_it_moves() {
    let mut rig = datagram::rig();
    let datagram = Dgram::on_port(1);
    let at = |board, counted| DatagramsPlaced::At(board, counted);
    datagram::settle_as(&mut rig, &datagram, (false, at(BOARD, Counted::Service)));
    datagram::takes(&mut rig, BOARD, Takes::None);
    datagram::settle_as(&mut rig, &datagram, (true, at(OTHER_BOARD, Counted::No)));
    assert_eq!(ended(&mut rig), []);
    for _ in 0..3 {
        rig.pass(10_000);
    }
    let counted = Counted::Service;
    assert_eq!(ended(&mut rig), [EndedFlow { flow: datagram.flow, protocol: Protocol::Udp, counted }]);
}

#[test]
fn datagrams_beyond_a_limit_are_dropped_for_a_second() {
    let mut rig = datagram::rig();
    let datagram = Dgram::on_port(1);
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Held);
    let (entry, flow) = datagram::asked(&mut rig);
    rig.command(Command::Datagrams { entry, flow, placed: DatagramsPlaced::OverLimit });
    assert_eq!(rig.on_wan(&datagram.frame()), Verdict::Drop(Drop::OverLimit));
    assert_eq!(rig.happened(Happening::DatagramsOverLimit), 1);
    rig.pass(1_100);
    datagram::settle_as(&mut rig, &datagram, (false, DatagramsPlaced::At(BOARD, Counted::Service)));
    // The control core's answer to a flow that was forgotten meanwhile.
    rig.pass(30_000);
    assert_eq!(ended(&mut rig).len(), 1);
    rig.command(Command::Datagrams { entry, flow, placed: DatagramsPlaced::At(BOARD, Counted::Service) });
    assert_eq!(only(ended(&mut rig)).flow, flow);
}
