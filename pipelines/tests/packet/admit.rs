//! Services of kind `l4` with limits for clients (`[service.admit]`): a SYN waits until the control core has admitted it, and the
//! entry counts until its end.

use std::sync::Arc;

use ipos_pipelines::admit::{ANSWER_MS, HELD_MAX};
use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Admission, BoardId, Command, Counted, EndedFlow, Event, Takes};
use ipos_pipelines::layer4::HALF_OPEN_MS;
use ipos_pipelines::services::{Kind, Services};
use ipos_pipelines::table::slab::EntryRef;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use crate::common::scripts::REQUEST;
use crate::common::{BOARD, Client, Node, OTHER_BOARD, Rig, SERVICE_PORT, Setup, only};
use crate::layer4::{
    self, L4, PORT, board_of, board_of_unclaimed, client, service, services_of, table, takes,
};
use crate::limits::{ended, tcp};

/// Both boards serve, and the control core admits.
fn rig() -> Rig {
    with(Setup::default())
}

fn with(setup: Setup) -> Rig {
    let mut rig = layer4::with(setup);
    limit(&mut rig);
    rig
}

fn limit(node: &mut Node) {
    let services = services_of(&[BOARD, OTHER_BOARD]).with_limits(&[L4]);
    node.command(Command::Services(Arc::new(services)));
}

/// A SYN waits; what the control core was asked.
#[track_caller]
fn asks(node: &mut Node, client: &Client) -> (EntryRef, Flow) {
    assert_eq!(node.client(&client.syn()), Verdict::Held);
    match only(node.told()) {
        Event::Admit { entry, flow, service: L4 } if flow == client.flow => (entry, flow),
        other => panic!("a connection to admit, not {other:?}"),
    }
}

fn decide(node: &mut Node, (entry, flow): (EntryRef, Flow), admission: Admission) {
    node.command(Command::Admitted { entry, flow, admission });
}

const YES: Admission = Admission::Admitted(Counted::Client);

/// A connection that counts; its client has answered the board's SYN-ACK.
#[track_caller]
fn connected(node: &mut Node, client: &Client) {
    let asked = asks(node, client);
    decide(node, asked, YES);
    node.forwarded();
    board_of(node, &client.ack(0));
}

/// What goes on without another question, and counts.
#[track_caller]
fn assert_counts(node: &Node, client: &Client) {
    let entry = node.entry(&client.flow).expect("an entry");
    assert_eq!((entry.state, entry.counted), (State::Layer4, Counted::Client));
}

/// A packet that is dropped for this reason.
pub fn provoke(reason: Drop) -> Verdict {
    let mut rig = with(Setup { events: 2, ..Setup::default() });
    assert_eq!(rig.client(&client(1).syn()), Verdict::Held);
    rig.client(&client(if reason == Drop::AdmitHeld { 1 } else { 2 }).syn())
}

#[test]
fn a_syn_waits_until_it_is_admitted_and_counts_once_however_often_it_comes() {
    let mut rig = rig();
    let client = client(1);
    let asked = asks(&mut rig, &client);
    assert_eq!(rig.state(&client.flow), Some(State::Admitting));
    for again in [client.syn(), client.ack(0), client.rst(0)] {
        assert_eq!(rig.client(&again), Verdict::Drop(Drop::AdmitHeld));
    }
    rig.assert_silent();
    decide(&mut rig, asked, YES);
    let out = rig.forwarded();
    assert_eq!(out.packet, client.syn().frame()[14..], "as it came");
    assert_eq!((rig.happened(Happening::Originated), rig.happened(Happening::Layer4Placed)), (1, 1));
    let board = board_of(&mut rig, &client.syn());
    for segment in [client.ack(0), client.data(0, b"x"), client.acks(1, 500)] {
        assert_eq!(board_of(&mut rig, &segment), board);
    }
    assert_counts(&rig, &client);
    rig.assert_silent();
}

#[test]
fn a_syn_beyond_a_limit_is_answered_by_rst_and_the_next_one_is_asked_about_anew() {
    let mut rig = rig();
    let client = client(1);
    for count in 1..=2 {
        let asked = asks(&mut rig, &client);
        decide(&mut rig, asked, Admission::OverLimit);
        let answer = rig.answer();
        assert_eq!((answer.flags, answer.seq, answer.ack), (Flags::RST | Flags::ACK, Seq(0), client.irs + 1));
        assert_eq!((rig.state(&client.flow), rig.happened(Happening::ResetOverLimit)), (None, count));
    }
    rig.assert_silent();
}

#[test]
fn the_end_is_told_when_it_is_seen_and_once() {
    let mut rig = rig();
    let clients: Vec<Client> = (1..=3).map(client).collect();
    clients.iter().for_each(|client| connected(&mut rig, client));
    board_of(&mut rig, &clients[0].rst(0));
    assert_eq!(ended(&mut rig), [tcp(clients[0].flow)], "not only when the entry has lingered");
    board_of(&mut rig, &clients[1].fin(0));
    assert_eq!(ended(&mut rig), [tcp(clients[1].flow)], "not only after the time for half-closed ones");
    // It may go on receiving, and say so.
    board_of(&mut rig, &clients[1].acks(1, 500));
    board_of(&mut rig, &clients[1].fin(0));
    board_of(&mut rig, &clients[0].rst(0));
    rig.pass(100_000);
    assert_eq!(ended(&mut rig), []);
    for _ in 0..3 {
        rig.pass(200_000);
    }
    assert_eq!((rig.state(&clients[2].flow), ended(&mut rig)), (None, vec![tcp(clients[2].flow)]), "idle");
}

#[test]
fn a_handshake_that_does_not_go_on_counts_no_longer_than_its_entry() {
    let mut rig = rig();
    let client = client(1);
    let asked = asks(&mut rig, &client);
    decide(&mut rig, asked, YES);
    rig.forwarded();
    rig.pass(u64::from(HALF_OPEN_MS) / 2);
    assert_eq!(ended(&mut rig), []);
    rig.pass(u64::from(HALF_OPEN_MS));
    assert_eq!((rig.state(&client.flow), ended(&mut rig)), (None, vec![tcp(client.flow)]));
}

#[test]
fn what_goes_on_after_a_restart_is_not_admitted_and_counts_nothing() {
    let mut rig = rig();
    let client = client(1);
    board_of_unclaimed(&mut rig, &client.data(7, b"x"));
    for segment in [client.acks(8, 100), client.fin(8)] {
        board_of(&mut rig, &segment);
    }
    rig.pass(100_000);
    assert_eq!((rig.state(&client.flow), ended(&mut rig)), (None, vec![]));
}

#[test]
fn a_packet_sent_ahead_of_the_syn_is_no_way_around_the_limit() {
    let mut rig = rig();
    let client = client(1);
    board_of_unclaimed(&mut rig, &client.ack(0));
    let asked = asks(&mut rig, &client);
    decide(&mut rig, asked, Admission::OverLimit);
    assert!(rig.answer().flags.contains(Flags::RST));
    board_of(&mut rig, &client.ack(0));
    let asked = asks(&mut rig, &client);
    decide(&mut rig, asked, YES);
    rig.forwarded();
    assert_counts(&rig, &client);
}

#[test]
fn a_connection_on_the_same_ports_ends_the_old_one_before_it_asks() {
    for (end, is_told) in [(client(1).fin(0), false), (client(1).rst(0), false), (client(1).ack(0), true)] {
        let mut rig = rig();
        let old = client(1);
        connected(&mut rig, &old);
        board_of(&mut rig, &end);
        assert_eq!(ended(&mut rig).is_empty(), is_told);
        // The board has been drained, so that the new one does not go on in the old one's entry either.
        takes(&mut rig, BOARD, Takes::Known);
        takes(&mut rig, OTHER_BOARD, Takes::Known);
        for board in [BOARD, OTHER_BOARD] {
            let is_at = rig.entry(&old.flow).map(|entry| entry.board) == Some(board);
            takes(&mut rig, board, if is_at { Takes::Known } else { Takes::New });
        }
        let new = Client { irs: old.irs + 1_000_000, ..client(1) };
        assert_eq!(rig.client(&new.syn()), Verdict::Held);
        match &rig.told()[..] {
            [Event::Ended(flows), Event::Admit { .. }] if is_told => assert_eq!(flows[..], [tcp(old.flow)]),
            [Event::Admit { .. }] if !is_told => {}
            other => panic!("the old one, then the new one, not {other:?}"),
        }
    }
}

#[test]
fn a_syn_sent_again_goes_to_another_board_without_counting_again() {
    let mut rig = rig();
    let client = client(1);
    let asked = asks(&mut rig, &client);
    decide(&mut rig, asked, YES);
    rig.forwarded();
    let board = rig.entry(&client.flow).expect("an entry").board;
    takes(&mut rig, board, Takes::Known);
    let other = if board == BOARD { OTHER_BOARD } else { BOARD };
    for segment in [client.syn(), client.syn(), client.ack(0), client.data(0, b"x")] {
        assert_eq!(board_of(&mut rig, &segment), other);
    }
    assert_counts(&rig, &client);
    rig.assert_silent();
    // No board is left: that is an end.
    let last = layer4::client(2);
    let asked = asks(&mut rig, &last);
    decide(&mut rig, asked, YES);
    rig.forwarded();
    takes(&mut rig, other, Takes::None);
    assert_eq!(rig.client(&last.syn()), Verdict::Answered);
    assert!(rig.answer().flags.contains(Flags::RST));
    assert_eq!(ended(&mut rig), [tcp(last.flow)]);
}

#[test]
fn what_no_board_would_take_is_not_asked_about() {
    let mut rig = rig();
    let mut frame = client(1).syn().frame();
    frame[14 + 20 + 16] ^= 1;
    assert_eq!(rig.on_wan(&frame), Verdict::Drop(Drop::BadTcpChecksum));
    takes(&mut rig, BOARD, Takes::Known);
    takes(&mut rig, OTHER_BOARD, Takes::None);
    assert_eq!(rig.client(&client(1).syn()), Verdict::Answered);
    assert!(rig.answer().flags.contains(Flags::RST));
    assert_eq!(rig.happened(Happening::Layer4NoBoard), 1);
    rig.assert_silent();
}

#[test]
fn a_syn_whose_board_has_gone_meanwhile_is_refused_and_counts_no_more() {
    let mut rig = rig();
    let client = client(1);
    let asked = asks(&mut rig, &client);
    takes(&mut rig, BOARD, Takes::None);
    takes(&mut rig, OTHER_BOARD, Takes::None);
    decide(&mut rig, asked, YES);
    assert!(rig.answer().flags.contains(Flags::RST));
    assert_eq!((rig.state(&client.flow), ended(&mut rig)), (None, vec![tcp(client.flow)]));
}

#[test]
fn an_answer_that_comes_too_late_counts_no_more() {
    let mut rig = rig();
    let client = client(1);
    let asked = asks(&mut rig, &client);
    rig.pass(u64::from(ANSWER_MS) + 100);
    assert_eq!((rig.state(&client.flow), rig.happened(Happening::ExpiredPending)), (None, 1));
    // The same flow asks again before the first answer has come.
    let again = asks(&mut rig, &client);
    decide(&mut rig, asked, YES);
    assert_eq!(ended(&mut rig), [tcp(client.flow)]);
    assert_eq!(rig.state(&client.flow), Some(State::Admitting));
    decide(&mut rig, again, YES);
    rig.forwarded();
    assert_counts(&rig, &client);
    // An answer that was given already changes nothing but the count.
    decide(&mut rig, again, Admission::OverLimit);
    rig.assert_silent();
    assert_counts(&rig, &client);
}

#[test]
fn a_flood_is_bounded_and_leaves_the_queue_and_the_shard_to_others() {
    let dropped = |rig: &mut Rig, ports: std::ops::Range<u16>| {
        let verdicts = ports.map(|port| rig.client(&client(port).syn()));
        verdicts.filter(|verdict| *verdict == Verdict::Drop(Drop::AdmitFull)).count()
    };
    // By the places to wait.
    let mut rig = with(Setup { events: 4_096, ..Setup::default() });
    assert_eq!(dropped(&mut rig, 1..HELD_MAX as u16 + 11), 10);
    assert_eq!(rig.worker.core().admitting.holding(), HELD_MAX);
    rig.told();
    // By the queue.
    let mut rig = with(Setup { events: 8, ..Setup::default() });
    assert_eq!(dropped(&mut rig, 1..21), 16);
    rig.shake(&mut Client::new());
    assert_eq!(rig.told().len(), 4);
    // By the share of the shard.
    let mut rig = with(Setup { entries: 64, events: 1_024, ..Setup::default() });
    assert_eq!(dropped(&mut rig, 1..101), 100 - 32);
    rig.told();
    rig.request(&mut Client::new(), REQUEST);
}

#[test]
fn no_more_are_asked_about_in_a_second_than_may() {
    let mut rig = rig();
    let mut asked = 0;
    for number in 0..30_000u32 {
        let mut client = client(1 + (number % 60_000) as u16);
        client.irs = Seq(number);
        if rig.client(&client.syn()) == Verdict::Held {
            asked += 1;
            let Event::Admit { entry, flow, .. } = only(rig.told()) else { panic!("a question") };
            decide(&mut rig, (entry, flow), Admission::OverLimit);
            rig.segments_out();
        }
    }
    assert_eq!(asked, 20_000);
}

#[test]
fn limits_that_come_by_a_reload_leave_what_is_there_alone() {
    let mut rig = layer4::with(Setup::default());
    let old = client(1);
    let board = board_of(&mut rig, &old.syn());
    board_of(&mut rig, &old.ack(0));
    limit(&mut rig);
    assert_eq!(board_of(&mut rig, &old.data(0, b"x")), board);
    rig.assert_silent();
    connected(&mut rig, &client(2));
    // And when they go, what counts ends all the same.
    layer4::serve(&mut rig, &[BOARD, OTHER_BOARD]);
    board_of(&mut rig, &client(3).syn());
    rig.assert_silent();
    board_of(&mut rig, &client(2).rst(0));
    assert_eq!(ended(&mut rig), [tcp(client(2).flow)]);
}

#[test]
fn a_reload_while_a_syn_waits() {
    // Without limits: the control core says that it counts nothing.
    let mut rig = rig();
    let waits = client(1);
    let asked = asks(&mut rig, &waits);
    layer4::serve(&mut rig, &[BOARD, OTHER_BOARD]);
    decide(&mut rig, asked, Admission::Admitted(Counted::No));
    rig.forwarded();
    board_of(&mut rig, &waits.fin(0));
    rig.assert_silent();

    // The endpoint is of another kind by then, or of none.
    let http = vec![(0, service(SERVICE_PORT, Kind::L4)), (L4, service(PORT, Kind::Http))];
    let http = Services::numbered(http, Vec::new()).expect("two ports");
    let tables = || vec![(0, table(&[BOARD]))];
    let none = Services::numbered(vec![(0, service(SERVICE_PORT, Kind::L4))], Vec::new()).expect("one");
    for services in [http.with_tables(tables()), none.with_tables(tables())] {
        let mut rig = self::rig();
        let asked = asks(&mut rig, &waits);
        rig.command(Command::Services(Arc::new(services)));
        decide(&mut rig, asked, YES);
        assert_eq!((rig.state(&waits.flow), rig.happened(Happening::OriginateFailed)), (None, 1));
        assert_eq!(ended(&mut rig), [tcp(waits.flow)]);
        rig.assert_silent();
    }
}

#[test]
fn a_connection_of_another_kind_proves_itself_where_a_syn_waits() {
    let mut rig = rig();
    let waits = client(1);
    let asked = asks(&mut rig, &waits);
    let http = vec![(L4, service(PORT, Kind::Http))];
    rig.command(Command::Services(Arc::new(Services::numbered(http, Vec::new()).expect("one"))));
    let mut http = client(1);
    assert_eq!(rig.client(&http.data(0, REQUEST)), Verdict::Drop(Drop::AwaitingHolder));
    rig.shake(&mut http);
    assert_eq!(rig.client(&http.data(0, REQUEST)), Verdict::Held);
    rig.placed();
    decide(&mut rig, asked, YES);
    assert_eq!(ended(&mut rig), [tcp(waits.flow)]);
    assert_eq!(rig.state(&http.flow), Some(State::ForwardConnect));
}

#[test]
fn connections_of_a_forgotten_board_end() {
    let mut rig = rig();
    let client = client(1);
    connected(&mut rig, &client);
    let board: BoardId = rig.entry(&client.flow).expect("an entry").board;
    rig.command(Command::Forget { board });
    for _ in 0..200 {
        rig.poll();
    }
    let EndedFlow { flow, counted, .. } = only(ended(&mut rig));
    assert_eq!((rig.state(&flow), flow, counted), (Some(State::GivenUp), client.flow, Counted::Client));
}

#[test]
fn a_forged_syn_does_nothing_to_a_connection_that_does_not_count() {
    let (yes, no) = (Some(YES), Some(Admission::OverLimit));
    for (admission, boards_left) in [(yes, true), (no, true), (None, true), (yes, false)] {
        let mut rig = rig();
        let old = client(1);
        let board = board_of_unclaimed(&mut rig, &old.data(7, b"x"));
        let forged = Client { irs: old.irs + 1_000_000, ..client(1) };
        let asked = asks(&mut rig, &forged);
        assert_eq!(board_of(&mut rig, &old.data(8, b"x")), board, "it is not held up");
        assert_eq!(rig.client(&forged.syn()), Verdict::Drop(Drop::AdmitHeld));
        // In the table there is only the other board by now.
        let other = if board == BOARD { OTHER_BOARD } else { BOARD };
        let services = services_of(&[other]).with_limits(&[L4]);
        rig.command(Command::Services(Arc::new(services)));
        if !boards_left {
            takes(&mut rig, board, Takes::Known);
            takes(&mut rig, other, Takes::Known);
        }
        match admission {
            Some(admission) => decide(&mut rig, asked, admission),
            None => rig.pass(u64::from(ANSWER_MS) + 100),
        }
        let resets = rig.segments_out().len();
        assert_eq!(resets, usize::from(admission == no || !boards_left));
        assert_eq!(rig.packets_out().len(), usize::from(admission == yes && boards_left));
        let counts = admission == yes && boards_left;
        assert_eq!(rig.entry(&old.flow).map(|entry| entry.counted != Counted::No), Some(counts));
        assert_eq!(ended(&mut rig).len(), usize::from(admission == yes && !boards_left));
        for segment in [old.data(9, b"x"), old.data(10, b"x"), old.fin(11)] {
            assert_eq!(board_of(&mut rig, &segment), board, "{admission:?}");
        }
        rig.pass(100_000);
        assert_eq!((rig.state(&old.flow), ended(&mut rig).len()), (None, usize::from(counts)));
    }
    // A queue that has no room, and a table without a place, leave it alone as well.
    let mut rig = with(Setup { events: 2, ..Setup::default() });
    let old = client(1);
    let board = board_of_unclaimed(&mut rig, &old.data(7, b"x"));
    assert_eq!(rig.client(&client(2).syn()), Verdict::Held);
    assert_eq!(rig.client(&old.syn()), Verdict::Drop(Drop::AdmitFull));
    assert_eq!(board_of(&mut rig, &old.data(8, b"x")), board);
}
