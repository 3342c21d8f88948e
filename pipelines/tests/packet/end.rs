//! Step 10 of a connection's life: FIN, RST, the board's notice, idle time; and RST in every state.

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{BoardId, Command, Event, Holder};
use ipos_pipelines::recover::{ASK_AGAIN_MS, UNANSWERED_MAX};
use ipos_pipelines::table::hot::SEEN_UNIT_MS;
use ipos_pipelines::table::slab::EntryRef;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{BOARD, Client, MIGRATION, OTHER_BOARD, OTHER_BOARD_MAC, Rig, Seg, only};

const IDLE_MS: u64 = 300_000;
const HALF_CLOSED_MS: u64 = 60_000;

/// How much earlier than it is an entry may be taken for idle.
const SEEN_MS: u64 = SEEN_UNIT_MS as u64;

/// The board of an idle connection is being asked.
#[track_caller]
fn asked(rig: &mut Rig, flow: Flow) -> EntryRef {
    match only(rig.told()) {
        Event::WhoHolds { entry, flow: about, board } => {
            assert_eq!((about, board), (flow, Some(BOARD)));
            entry
        }
        other => panic!("a question to the board, not {other:?}"),
    }
}

fn closed(flow: Flow, board: BoardId, migration_id: u64) -> Command {
    Command::Closed { flow, board, migration_id }
}

#[test]
fn a_connection_of_which_only_a_time_wait_is_left_is_over_though_its_notice_was_lost() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Forwarded);
    rig.pass(HALF_CLOSED_MS + SEEN_MS);
    let entry = asked(&mut rig, client.flow);
    rig.command(Command::Holder { entry, holder: Holder::TimeWait(BOARD) });
    let found = rig.entry(&client.flow).map(|entry| (entry.state, entry.closing));
    assert_eq!(found, Some((State::Forward, true)), "it lingers");
    assert_eq!(rig.worker.core().by_board.flows(BOARD), 0, "and counts no more");
    assert_eq!(rig.happened(Happening::ClosedByBoard), 1);
    rig.pass(2_000);
    assert_eq!(rig.state(&client.flow), None);
}

#[test]
fn rst_while_temporary_ends_the_entry() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"GET ")), Verdict::Held);
    rig.answer();
    for outside in [client.rst(3), client.rst(5), client.rst(16_384), client.rst(u32::MAX)] {
        assert_eq!(rig.client(&outside), Verdict::Drop(Drop::OutOfWindow));
    }
    assert_eq!(rig.client(&client.rst(4)), Verdict::Answered);
    assert_eq!((rig.state(&client.flow), rig.counters.pending.read()), (None, 0));
    assert_eq!(rig.happened(Happening::ClosedByReset), 1);
    rig.assert_silent();
}

#[test]
fn rst_while_forward_connect_abandons_the_attempt() {
    // At what was acknowledged (nothing), and at what was received.
    for offset in [0, REQUEST_LEN] {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        let place = rig.request(&mut client, REQUEST);
        assert_eq!(rig.client(&client.rst(REQUEST_LEN + 1)), Verdict::Drop(Drop::OutOfWindow));
        assert_eq!(rig.client(&client.rst(1)), Verdict::Drop(Drop::OutOfWindow));
        assert!(rig.told().is_empty());
        assert_eq!(rig.client(&client.rst(offset)), Verdict::Answered);
        match only(rig.told()) {
            Event::Abandon { entry, flow, migrated: None } => {
                assert_eq!((entry, flow), (place.entry, client.flow));
            }
            other => panic!("the attempt is to be given up, not {other:?}"),
        }
        assert_eq!((rig.state(&client.flow), rig.counters.pending.read()), (None, 0));
        rig.assert_silent();
    }
}

#[test]
fn a_damaged_rst_ends_nothing() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.request(&mut client, REQUEST);
    let mut frame = client.rst(REQUEST_LEN).frame();
    frame[50] ^= 0xff;
    assert_eq!(rig.on_wan(&frame), Verdict::Drop(Drop::BadTcpChecksum));
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
}

#[test]
fn rst_before_the_proof_is_forwarded_and_lets_go_after_two_seconds() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.migrate(&mut client, REQUEST);
    assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Forwarded);
    assert_eq!(rig.forwarded().packet, client.rst(REQUEST_LEN).frame()[14..]);
    rig.pass(1_999);
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    rig.pass(1);
    assert_eq!((rig.state(&client.flow), rig.counters.pending.read()), (None, 0));
    rig.assert_silent();
}

#[test]
fn rst_of_a_settled_connection_is_forwarded_and_the_entry_lingers() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    let rst = Seg { ack: client.iss + 101, ..client.rst(REQUEST_LEN) };
    assert_eq!(rig.client(&rst), Verdict::Forwarded);
    rig.pass(1_500);
    assert_eq!(rig.client(&rst), Verdict::Forwarded, "a repeated RST does not make it linger longer");
    assert_eq!(rig.happened(Happening::ClosedByReset), 1);
    rig.pass(499);
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    rig.pass(1);
    assert_eq!(rig.state(&client.flow), None);
    assert_eq!(rig.packets_out().len(), 2);
}

#[test]
fn rst_of_a_client_that_the_appliance_answers_ends_the_entry() {
    for last in [4, 5, 4 + 16_384] {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        rig.shake(&mut client);
        assert_eq!(rig.client(&client.data(0, b"\0\0\0\0")), Verdict::Answered);
        rig.answer();
        for outside in [client.rst(3), client.rst(4 + 16_385), client.rst(u32::MAX), client.rst(1 << 31)] {
            assert_eq!(rig.client(&outside), Verdict::Drop(Drop::OutOfWindow));
        }
        assert_eq!(rig.client(&client.rst(last)), Verdict::Answered);
        assert_eq!((rig.state(&client.flow), rig.counters.pending.read()), (None, 0));
        assert_eq!(rig.happened(Happening::ClosedByReset), 1);
        rig.assert_silent();
    }
}

#[test]
fn rst_while_the_farm_is_asked_changes_nothing() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    rig.ask(&stranger);
    assert_eq!(rig.client(&stranger.rst(1)), Verdict::Drop(Drop::AwaitingHolder));
    assert_eq!(rig.state(&stranger.flow), Some(State::Asking));
}

#[test]
fn fin_is_forwarded_and_the_board_is_asked_after_the_half_closed_time() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.pass(1_000);
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Forwarded);
    rig.forwarded();
    rig.pass(HALF_CLOSED_MS - 1);
    rig.assert_silent();
    rig.pass(1);
    let entry = asked(&mut rig, client.flow);
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    assert_eq!(rig.state(&client.flow), None);
    assert_eq!(rig.happened(Happening::ExpiredIdle), 1);
}

#[test]
fn a_half_closed_client_that_still_acknowledges_is_not_idle() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Forwarded);
    rig.pass(HALF_CLOSED_MS - 1);
    assert_eq!(rig.client(&client.acks(REQUEST_LEN + 1, 5_000)), Verdict::Forwarded);
    rig.packets_out();
    rig.pass(HALF_CLOSED_MS - SEEN_MS);
    rig.assert_silent();
    rig.pass(SEEN_MS);
    asked(&mut rig, client.flow);
}

#[test]
fn a_fin_before_the_proof_is_timed_from_the_proof_on() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.migrate(&mut client, REQUEST);
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Forwarded);
    assert_eq!(rig.client(&client.acks(REQUEST_LEN + 1, 100)), Verdict::Forwarded);
    rig.packets_out();
    rig.pass(HALF_CLOSED_MS);
    asked(&mut rig, client.flow);
}

#[test]
fn an_idle_connection_that_its_board_holds_is_kept() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    for _ in 0..2 {
        rig.pass(IDLE_MS - 1);
        rig.assert_silent();
        rig.pass(1);
        let entry = asked(&mut rig, client.flow);
        rig.command(Command::Holder { entry, holder: Holder::Board(BOARD, MIGRATION) });
        assert_eq!(rig.state(&client.flow), Some(State::Forward));
    }
    assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded);
    assert_eq!(rig.happened(Happening::HolderAsked), 2);
}

#[test]
fn an_idle_connection_that_another_board_holds_moves_there() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.pass(IDLE_MS);
    let entry = asked(&mut rig, client.flow);
    rig.command(Command::Holder { entry, holder: Holder::Board(OTHER_BOARD, 99) });
    assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded);
    assert_eq!(rig.forwarded().destination_mac, OTHER_BOARD_MAC);
    assert_eq!(rig.entry(&client.flow).map(|entry| entry.migration_id), Some(99));
}

#[test]
fn an_idle_connection_that_its_board_denies_is_forgotten() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.pass(IDLE_MS);
    let entry = asked(&mut rig, client.flow);
    for _ in 0..2 {
        rig.command(Command::Holder { entry, holder: Holder::Nobody });
        assert_eq!((rig.state(&client.flow), rig.happened(Happening::ExpiredIdle)), (None, 1));
        rig.assert_silent();
    }
}

/// How often the board of an idle connection is asked, by when it is forgotten, if questions end like this.
#[track_caller]
fn questions(rig: &mut Rig, client: &Client, mut unanswered: impl FnMut(&mut Rig, EntryRef)) -> u8 {
    let flow = client.flow;
    rig.pass(IDLE_MS);
    for count in 1.. {
        let entry = asked(rig, flow);
        unanswered(rig, entry);
        if rig.state(&flow).is_none() {
            assert_eq!(rig.happened(Happening::ExpiredIdle), 1);
            rig.assert_silent();
            return count;
        }
        rig.pass(u64::from(ASK_AGAIN_MS) - 1);
        rig.assert_silent();
        rig.pass(1);
    }
    unreachable!()
}

#[test]
fn an_idle_connection_whose_board_is_silent_is_asked_about_some_times_more_before_it_is_forgotten() {
    let silent = |rig: &mut Rig, entry| rig.command(Command::Holder { entry, holder: Holder::Unknown });
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    assert_eq!(questions(&mut rig, &client, silent), UNANSWERED_MAX);
    // A control core that says nothing at all is no other case.
    let stalled = |rig: &mut Rig, _| {
        rig.pass(4_999);
        rig.assert_silent();
        rig.pass(1);
    };
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    assert_eq!(questions(&mut rig, &client, stalled), UNANSWERED_MAX);
}

#[test]
fn an_idle_connection_that_is_heard_of_between_questions_is_kept() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.pass(IDLE_MS);
    for count in 1..=3 * UNANSWERED_MAX {
        let entry = asked(&mut rig, client.flow);
        let by_board = count % UNANSWERED_MAX == 0 && count < 2 * UNANSWERED_MAX;
        let by_client = count % UNANSWERED_MAX == 0 && !by_board;
        if by_client {
            assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded);
            rig.forwarded();
        }
        let holder = if by_board { Holder::Board(BOARD, MIGRATION) } else { Holder::Unknown };
        rig.command(Command::Holder { entry, holder });
        assert_eq!(rig.state(&client.flow), Some(State::Forward), "{count}");
        rig.pass(u64::from(ASK_AGAIN_MS));
        if by_board || by_client {
            rig.assert_silent();
            rig.pass(IDLE_MS);
        }
    }
}

#[test]
fn traffic_puts_the_idle_time_off() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    for _ in 0..5 {
        rig.pass(IDLE_MS - SEEN_MS);
        assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded);
        assert!(rig.told().is_empty());
    }
    rig.packets_out();
    rig.pass(IDLE_MS);
    asked(&mut rig, client.flow);
}

#[test]
fn an_answer_about_idleness_that_nobody_asked_for_is_ignored() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.settle(&mut client);
    rig.command(Command::Holder { entry: place.entry, holder: Holder::Nobody });
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
}

#[test]
fn the_boards_notice_lets_the_entry_linger_two_seconds() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.command(closed(client.flow, BOARD, MIGRATION));
    rig.pass(1_000);
    // The client's last ACK still finds its way, and a repeated notice changes nothing.
    assert_eq!(rig.client(&client.acks(REQUEST_LEN, 200)), Verdict::Forwarded);
    rig.command(closed(client.flow, BOARD, MIGRATION));
    rig.pass(999);
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    rig.pass(1);
    assert_eq!(rig.state(&client.flow), None);
    assert_eq!(rig.happened(Happening::ClosedByBoard), 1);
    rig.packets_out();
    rig.assert_silent();
}

#[test]
fn a_notice_about_another_board_attempt_or_state_is_ignored() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    rig.command(closed(client.flow, BOARD, MIGRATION));
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
    rig.migrated(&place);
    rig.command(closed(client.flow, OTHER_BOARD, MIGRATION));
    rig.command(closed(client.flow, BOARD, MIGRATION + 1));
    rig.command(closed(Client::on_port(1).flow, BOARD, MIGRATION));
    rig.pass(2_000);
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    assert_eq!(rig.happened(Happening::ClosedByBoard), 0);
}

#[test]
fn a_stray_packets_notice_removes_a_settled_entry_at_once() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    rig.command(closed(client.flow, OTHER_BOARD, 0));
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    rig.command(closed(client.flow, BOARD, 0));
    assert_eq!(rig.state(&client.flow), None);
    // So the next packet asks the farm.
    assert_eq!(rig.client(&client.acks(REQUEST_LEN, 200)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::WhoHolds { board: None, .. }));
}

#[test]
fn a_stray_packets_notice_before_the_proof_leaves_it_to_the_clients_retransmission() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.migrate(&mut client, REQUEST);
    rig.command(closed(client.flow, BOARD, 0));
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
}

#[test]
fn the_boards_notice_before_the_proof_releases_what_is_held() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.migrate(&mut client, REQUEST);
    rig.command(closed(client.flow, BOARD, MIGRATION));
    rig.pass(2_000);
    assert_eq!((rig.state(&client.flow), rig.counters.pending.read()), (None, 0));
}
