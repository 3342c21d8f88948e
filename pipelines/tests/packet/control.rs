//! What the control core says, and what happens when its queue is full: nothing is lost, nothing is waited for.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{
    Answer, Command, Event, FLOW_PAGE_ROWS, FlowCount, FlowFilter, FlowPage, FlowRow, Holder, PortIndex,
    Table, WorkerId,
};
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::table::hot::SEEN_UNIT_MS;
use ipos_pipelines::tlsmap::TlsRules;
use ipos_pipelines::urlmap::UrlMap;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::tcp::Flags;

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{BOARD, Client, MIGRATION, MOVING_SERVICE, Node, Rig, SERVICE, Seg, Setup, only};

/// A rig whose queue to the control core has one place, and that one taken.
fn stalled() -> Rig {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    stall(&mut rig);
    rig
}

/// Fills the queue's one place.
fn stall(rig: &mut Rig) {
    assert_eq!(rig.client(&Client::stranger(999).ack(0)), Verdict::Held);
    assert_eq!(rig.events.depth(), 1);
}

#[test]
fn a_place_event_that_finds_the_queue_full_is_owed() {
    let mut rig = stalled();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
    rig.pass(20);
    rig.pass(20);
    assert!(matches!(only(rig.told()), Event::WhoHolds { .. }));
    rig.pass(19);
    assert!(rig.told().is_empty());
    rig.pass(1);
    assert_eq!(rig.placed().tcb().octets_following, REQUEST_LEN);
    rig.pass(1_000);
    assert!(rig.told().is_empty(), "told once");
}

#[test]
fn the_clients_retransmission_brings_an_owed_event_sooner() {
    let mut rig = stalled();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    rig.told();
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Drop(Drop::OldSegment));
    rig.placed();
    rig.pass(20);
    assert!(rig.told().is_empty());
}

#[test]
fn an_owed_event_is_given_up_at_the_deadline() {
    let mut rig = stalled();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    for _ in 0..500 {
        assert!(rig.segments_out().is_empty());
        rig.pass(20);
    }
    assert!(rig.answer().payload.starts_with(b"HTTP/1.1 503"));
    assert!(rig.events.overflows() >= 500);
    rig.told();
}

#[test]
fn a_rst_that_cannot_be_told_changes_nothing_until_it_can() {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    let mut client = Client::plain();
    rig.request(&mut client, REQUEST);
    stall(&mut rig);
    let rst = client.rst(REQUEST_LEN);
    assert_eq!(rig.client(&rst), Verdict::Drop(Drop::ControlFull));
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
    rig.told();
    assert_eq!(rig.client(&rst), Verdict::Answered);
    assert!(matches!(only(rig.told()), Event::Abandon { migrated: None, .. }));
}

#[test]
fn a_repetition_that_cannot_be_told_is_asked_for_by_the_next_retransmission() {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    let mut client = Client::plain();
    rig.migrate(&mut client, REQUEST);
    stall(&mut rig);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    rig.told();
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
}

#[test]
fn an_idle_question_that_cannot_be_asked_is_asked_later() {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.pass(299_000);
    stall(&mut rig);
    rig.pass(1_000);
    assert!(matches!(only(rig.told()), Event::WhoHolds { board: None, .. }));
    rig.pass(4_999);
    assert!(rig.told().is_empty());
    rig.pass(1);
    assert!(matches!(only(rig.told()), Event::WhoHolds { board: Some(BOARD), .. }));
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
}

#[test]
fn a_farm_frame_that_finds_the_queue_full_is_dropped() {
    let mut rig = stalled();
    let mut frame = vec![0; 60];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xa2, 2, 0, 0, 0, 0xb0, 3, 0x88, 0xb5]);
    frame[26..28].copy_from_slice(&[3, 1]);
    assert_eq!(rig.on_farm(&frame), Verdict::Drop(Drop::ControlFull));
}

#[test]
fn a_stalled_control_core_does_not_stop_forwarding() {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    let mut client = Client::plain();
    rig.settle(&mut client);
    stall(&mut rig);
    for at in 0..100 {
        assert_eq!(rig.client(&client.data(REQUEST_LEN + at, b"x")), Verdict::Forwarded);
    }
    assert_eq!(rig.packets_out().len(), 100);
}

#[test]
fn a_full_shard_and_a_full_pool_take_connections_again_once_there_is_room() {
    for setup in [Setup { entries: 2, ..Setup::default() }, Setup { pending: 2, ..Setup::default() }] {
        let full = if setup.entries == 2 { Drop::ShardFull } else { Drop::PendingFull };
        let mut rig = Rig::with(setup);
        let mut clients = [1, 2, 3].map(Client::on_port);
        for client in &mut clients {
            rig.shake(client);
        }
        let [first, second, third] = &clients;
        for client in [first, second] {
            assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
        }
        assert_eq!(rig.client(&third.data(0, REQUEST)), Verdict::Drop(full));
        assert_eq!(rig.client(&third.syn()), Verdict::Answered, "handshakes need no room");
        assert_eq!(rig.client(&first.rst(REQUEST_LEN)), Verdict::Answered);
        assert_eq!(rig.client(&third.data(0, REQUEST)), Verdict::Held);
        rig.told();
    }
}

#[test]
fn the_control_cores_frames_go_out_as_they_are() {
    let mut rig = Rig::new();
    let frame: Vec<u8> = (0..77).collect();
    let mbuf = rig.mbuf(&frame);
    rig.command(Command::Transmit { port: PortIndex(1), frame: mbuf });
    assert_eq!(only(rig.farm_frames()), frame);
    let mbuf = rig.mbuf(&frame);
    rig.command(Command::Transmit { port: PortIndex(7), frame: mbuf });
    rig.assert_silent();
    assert_eq!(rig.happened(Happening::Originated), 2);
}

#[test]
fn a_worker_stops_after_what_is_queued_has_been_sent() {
    let mut rig = Rig::new();
    let mbuf = rig.mbuf(&[1; 60]);
    let transmit = Command::Transmit { port: PortIndex(0), frame: mbuf };
    for command in [transmit, Command::Stop] {
        rig.commands.send(command).expect("room");
    }
    assert!(!rig.poll(), "stopped");
    assert_eq!(only(rig.wan_frames()), [1; 60]);
}

/// The whole listing, page by page.
fn listing(node: &mut Node) -> Vec<FlowRow> {
    let mut rows = Vec::new();
    let mut cursor = Some(0);
    while cursor.is_some() {
        let page = FlowPage {
            request: 42,
            worker: WorkerId(9),
            cursor,
            filter: FlowFilter::default(),
            rows: Vec::with_capacity(FLOW_PAGE_ROWS),
        };
        node.command(Command::ListFlows(Box::new(page)));
        match only(node.told()) {
            Event::Flows(page) => {
                assert_eq!((page.request, page.worker), (42, WorkerId(0)));
                assert!(page.rows.len() <= FLOW_PAGE_ROWS);
                cursor = page.cursor;
                rows.extend_from_slice(&page.rows);
            }
            other => panic!("a page, not {other:?}"),
        }
    }
    rows
}

#[test]
fn flows_are_listed_page_by_page_each_once() {
    let mut rig = Rig::with(Setup { entries: 1_000, ..Setup::default() });
    assert!(listing(&mut rig).is_empty());
    let mut asking = HashMap::new();
    for port in 1..=700 {
        let stranger = Client::stranger(port);
        rig.ask(&stranger);
        asking.insert(stranger.flow, ());
    }
    let rows = listing(&mut rig);
    assert_eq!(rows.len(), 700);
    for row in rows {
        assert_eq!((row.table, row.board), (Table::ForwardConnect, None));
        assert!(asking.remove(&row.flow).is_some(), "{} twice", row.flow);
    }
    assert!(asking.is_empty());
}

#[test]
fn a_listing_tells_table_board_and_idle_time() {
    let mut rig = Rig::new();
    let [mut temporary, mut connecting, mut forward, mut local] = [1, 2, 3, 4].map(Client::on_port);
    rig.settle(&mut forward);
    let place = rig.request(&mut local, REQUEST);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    rig.answer();
    rig.pass(500);
    rig.request(&mut connecting, REQUEST);
    rig.shake_and_hold(&mut temporary);
    rig.pass(250);
    let rows: HashMap<Flow, FlowRow> = listing(&mut rig).into_iter().map(|row| (row.flow, row)).collect();
    let expected = [
        (temporary, Table::Temporary, None, 250),
        (connecting, Table::ForwardConnect, None, 250),
        (forward, Table::Forward, Some(BOARD), 750),
        (local, Table::Local, None, 750),
    ];
    assert_eq!(rows.len(), expected.len());
    for (client, table, board, idle_ms) in expected {
        let told_ms = rows[&client.flow].idle_ms;
        assert!((idle_ms..idle_ms + SEEN_UNIT_MS).contains(&told_ms), "{told_ms}");
        assert_eq!(
            rows[&client.flow],
            FlowRow {
                flow: client.flow,
                protocol: ipos_wire::ipos::Protocol::Tcp,
                table,
                board,
                idle_ms: told_ms
            }
        );
        assert_eq!(one(&mut rig, client.flow), [rows[&client.flow]]);
    }
    assert_eq!(one(&mut rig, Client::stranger(9).flow), []);
}

#[test]
fn a_segment_that_is_held_ends_idle_time() {
    const GET: &[u8] = b"GET /a/1 HTTP/1.1\r\nHost: a\r\n\r\n";
    #[track_caller]
    fn is_not_idle(rig: &mut Rig, flow: Flow) {
        let idle_ms = one(rig, flow).first().map(|row| row.idle_ms);
        assert!(idle_ms.is_some_and(|idle_ms| idle_ms < SEEN_UNIT_MS), "{idle_ms:?}");
    }
    let mut rig = Rig::new();
    let mut client = Client::on_port(1);
    rig.shake_and_hold(&mut client);
    rig.pass(250);
    assert_eq!(rig.client(&client.data(9, &REQUEST[9..12])), Verdict::Held);
    rig.answer();
    is_not_idle(&mut rig, client.flow);

    let mut client = Client::of(MOVING_SERVICE);
    let len = GET.len() as u32;
    rig.migrate(&mut client, GET);
    assert_eq!(rig.client(&client.acks(len, 100)), Verdict::Forwarded);
    rig.forwarded();
    for (from, to) in [(0, 9), (9, 12)] {
        rig.pass(250);
        let piece = client.data(len + from as u32, &GET[from..to]);
        assert_eq!(rig.client(&Seg { ack: client.iss + 1 + 100, ..piece }), Verdict::Held);
        is_not_idle(&mut rig, client.flow);
    }
}

/// What is told of one connection.
fn one(node: &mut Node, flow: Flow) -> Vec<FlowRow> {
    let (rows, filter) = (Vec::with_capacity(1), FlowFilter { flow: Some(flow), ..FlowFilter::default() });
    let page = FlowPage { request: 7, worker: WorkerId(9), cursor: Some(0), filter, rows };
    node.command(Command::ListFlows(Box::new(page)));
    match only(node.told()) {
        Event::Flows(page) => {
            assert_eq!((page.request, page.cursor), (7, None));
            page.rows
        }
        other => panic!("a page, not {other:?}"),
    }
}

#[test]
fn a_page_that_finds_the_queue_full_is_lost_and_nothing_else() {
    let mut rig = stalled();
    let page = FlowPage {
        request: 1,
        worker: WorkerId(0),
        cursor: Some(0),
        filter: FlowFilter::default(),
        rows: Vec::with_capacity(8),
    };
    rig.command(Command::ListFlows(Box::new(page)));
    assert!(matches!(only(rig.told()), Event::WhoHolds { .. }));
}

fn service(address: Ipv4Addr, port: u16, default_pool: u16) -> Arc<Service> {
    Arc::new(Service {
        address,
        port,
        kind: Kind::Http,
        urls: UrlMap::default(),
        tls: TlsRules::default(),
        h2c: false,
        migrates_requests: false,
        default_pool,
        answers: Default::default(),
        cookie: None,
    })
}

#[test]
fn new_services_are_served_and_connections_of_removed_ones_go_on() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let mut half = Client::on_port(2);
    rig.settle(&mut client);
    rig.request(&mut half, REQUEST);
    let mut incomplete = Client::on_port(5);
    rig.shake(&mut incomplete);
    assert_eq!(rig.client(&incomplete.data(0, &REQUEST[..9])), Verdict::Held);
    rig.answer();
    let new_address = Ipv4Addr::new(198, 51, 100, 9);
    let (web, other) = ((0, service(SERVICE, 80, 3)), (2, service(SERVICE, 8080, 5)));
    let new = (7, service(new_address, 80, 6));
    let services = Services::numbered(vec![other.clone(), new.clone()], vec![web.clone()]).expect("two");
    rig.command(Command::Services(Arc::new(services)));
    assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded, "the port is no service now");
    assert_eq!(rig.client(&half.data(REQUEST_LEN, b"x")), Verdict::Held);
    let mut late = Client::on_port(3);
    assert_eq!(rig.client(&late.syn()), Verdict::Answered);
    assert!(rig.answer().flags.contains(Flags::RST), "the old port refuses");
    assert_eq!(rig.client(&client.syn()), Verdict::Answered);
    assert!(
        rig.answer().flags.contains(Flags::RST),
        "also where a connection is left: no SYN goes to the board"
    );
    late.flow = Flow { endpoint: new_address, ..late.flow };
    let place = rig.request(&mut late, REQUEST);
    assert_eq!((place.service, place.pool), (7, 6));
    rig.packets_out();
    assert_eq!(rig.client(&incomplete.data(9, &REQUEST[9..])), Verdict::Held);
    let place = rig.placed();
    assert_eq!(
        (place.service, place.pool),
        (0, 3),
        "the request that was under way goes where it would have gone"
    );
    // The address goes as well: connections that are there have all of theirs forwarded, nobody else is answered.
    let services = Services::numbered(vec![new], vec![web, other]).expect("one");
    rig.command(Command::Services(Arc::new(services)));
    assert_eq!(rig.client(&client.data(REQUEST_LEN + 1, b"x")), Verdict::Forwarded);
    assert_eq!(rig.client(&Client::on_port(4).syn()), Verdict::Drop(Drop::OtherAddress));
    assert_eq!(rig.client(&client.fin(REQUEST_LEN + 2)), Verdict::Forwarded);
    assert_eq!(rig.client(&client.rst(REQUEST_LEN + 3)), Verdict::Forwarded);
    assert_eq!(rig.packets_out().len(), 3);
}

#[test]
fn flows_are_counted_by_board() {
    let mut rig = Rig::new();
    let mut clients = [1, 2, 3].map(Client::on_port);
    for client in &mut clients {
        rig.settle(client);
    }
    let mut waiting = Client::on_port(4);
    rig.request(&mut waiting, REQUEST);
    let mut page = FlowCount::new();
    page.asked_at_ns = 77;
    rig.command(Command::Count(Box::new(page)));
    let Event::Counted(page) = only(rig.told()) else { panic!("a count") };
    assert_eq!((page.worker, page.asked_at_ns), (WorkerId(0), 77));
    let expected = |board: usize| if board == usize::from(BOARD.0) { 3 } else { 0 };
    assert!(page.by_board.iter().enumerate().all(|(board, flows)| *flows == expected(board)));
}

#[test]
fn a_forgotten_boards_flows_are_abandoned_and_nobody_elses() {
    let mut rig = Rig::with(Setup { entries: 1_000, ..Setup::default() });
    let mut clients: Vec<Client> = (1..=200).map(Client::on_port).collect();
    for client in &mut clients {
        rig.settle(client);
    }
    let mut waiting = Client::on_port(900);
    rig.request(&mut waiting, REQUEST);
    rig.command(Command::Forget { board: BOARD });
    let mut gone = HashMap::new();
    while gone.len() < clients.len() {
        for event in rig.told() {
            let Event::Abandon { flow, migrated: Some((BOARD, id)), .. } = event else { panic!("{event:?}") };
            assert!(id != 0 && gone.insert(flow, id).is_none(), "{flow} twice");
        }
        rig.poll();
    }
    assert!(clients.iter().all(|client| gone.contains_key(&client.flow)));
    assert!(clients.iter().all(|client| rig.state(&client.flow) == Some(State::GivenUp)));
    assert_eq!(rig.state(&waiting.flow), Some(State::ForwardConnect));
    assert_eq!(rig.happened(Happening::Forgotten), 200);
    rig.check();
    assert_eq!(rig.worker.core().by_board.flows(BOARD), 0);
    assert!(rig.worker.core().place_of(BOARD).is_none(), "nothing is sent there any more");
}

#[test]
fn a_forgotten_boards_client_is_reset_without_a_question_and_may_come_again() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.command(Command::Forget { board: BOARD });
    rig.poll();
    assert!(matches!(only(rig.told()), Event::Abandon { flow, .. } if flow == client.flow));
    let next = client.data(REQUEST_LEN, b"GET /again HTTP/1.1\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(rig.client(&next), Verdict::Answered);
        let reset = rig.answer();
        assert_eq!((reset.flags, reset.seq), (Flags::RST, next.ack));
    }
    assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Drop(Drop::StrayReset));
    assert!(rig.told().is_empty(), "the farm is not asked");
    // A new connection on the same addresses and ports is none of the old one.
    let mut again = Client::plain();
    rig.request(&mut again, REQUEST);
    assert_eq!(rig.state(&again.flow), Some(State::ForwardConnect));
    rig.check();
}

#[test]
fn a_flow_that_was_given_up_is_let_go_in_the_end() {
    let mut rig = Rig::new();
    let (mut quiet, mut talking) = (Client::on_port(1), Client::on_port(2));
    for client in [&mut quiet, &mut talking] {
        rig.settle(client);
    }
    rig.command(Command::Forget { board: BOARD });
    rig.poll();
    rig.told();
    assert_eq!(rig.client(&talking.ack(REQUEST_LEN)), Verdict::Answered);
    let timeouts = rig.worker.core().config.timeouts;
    rig.pass(u64::from(timeouts.linger_ms) + 1_000);
    assert_eq!((rig.state(&quiet.flow), rig.state(&talking.flow)), (Some(State::GivenUp), None));
    rig.pass(u64::from(timeouts.idle_ms));
    assert_eq!(rig.state(&quiet.flow), None);
    assert!(rig.told().is_empty(), "nobody is asked about it");
    rig.check();
}

#[test]
fn a_forgotten_boards_flows_stay_while_the_control_core_cannot_be_told() {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    let mut client = Client::plain();
    rig.settle(&mut client);
    stall(&mut rig);
    let flows = rig.worker.core().by_board.flows(BOARD);
    assert_eq!(flows, 1);
    rig.command(Command::Forget { board: BOARD });
    rig.poll();
    assert_eq!(rig.worker.core().by_board.flows(BOARD), flows);
    rig.check();
    rig.told();
    rig.poll();
    assert!(matches!(only(rig.told()), Event::Abandon { flow, .. } if flow == client.flow));
    assert_eq!(rig.worker.core().by_board.flows(BOARD), 0);
}

#[test]
fn commands_about_nothing_do_nothing() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.settle(&mut client);
    rig.command(Command::Closed { flow: client.flow, board: BOARD, migration_id: MIGRATION });
    rig.pass(2_000);
    for answer in [Answer::Unavailable, Answer::Reset] {
        rig.command(Command::Answer { entry: place.entry, answer });
    }
    rig.command(Command::Holder { entry: place.entry, holder: Holder::Board(BOARD, 1) });
    rig.command(Command::Holder { entry: place.entry, holder: Holder::Nobody });
    rig.command(Command::Closed { flow: client.flow, board: BOARD, migration_id: 0 });
    let far = ipos_pipelines::handoff::BoardId(u16::MAX);
    rig.command(Command::Board { board: far, mac: ipos_wire::mac::Mac::default(), port: PortIndex(0) });
    rig.assert_silent();
}

#[test]
fn a_verdict_about_another_state_is_ignored() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake_and_hold(&mut client);
    let entry = rig.worker.core().shard.lookup(&client.flow).expect("the entry");
    rig.command(Command::Answer { entry, answer: Answer::Unavailable });
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    rig.assert_silent();
    assert_eq!(rig.state(&client.flow), Some(State::Temporary));
    rig.migrated_as(entry, client.flow, MIGRATION);
    assert!(matches!(only(rig.told()), Event::Abandon { migrated: Some(_), .. }));
    assert_eq!(rig.state(&client.flow), Some(State::Temporary));
    let stranger = Client::stranger(1);
    let entry = rig.ask(&stranger);
    rig.migrated_as(entry, stranger.flow, MIGRATION);
    assert!(matches!(only(rig.told()), Event::Abandon { migrated: Some(_), .. }));
    assert_eq!(rig.state(&stranger.flow), Some(State::Asking));
}
