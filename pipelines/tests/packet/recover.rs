//! Packets of connections that the worker does not know: the farm is asked, and nobody is reset on a guess.

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Command, Event, Holder};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{BOARD, BOARD_MAC, Client, MIGRATION, Rig, Setup, only};

#[test]
fn an_unknown_connections_packet_is_held_while_the_farm_is_asked() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    rig.ask(&stranger);
    assert_eq!(rig.state(&stranger.flow), Some(State::Asking));
    for more in [stranger.data(1, b"y"), stranger.ack(1), stranger.fin(2)] {
        assert_eq!(rig.client(&more), Verdict::Drop(Drop::AwaitingHolder));
    }
    assert_eq!((rig.happened(Happening::CookieFailed), rig.happened(Happening::HolderAsked)), (1, 1));
    rig.assert_silent();
}

#[test]
fn a_board_that_holds_it_gets_the_packet_and_all_that_follow() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    let entry = rig.ask(&stranger);
    rig.command(Command::Holder { entry, holder: Holder::Board(BOARD, MIGRATION) });
    let out = rig.forwarded();
    assert_eq!(out.packet, stranger.data(0, b"x").frame()[14..]);
    assert_eq!((out.destination_mac, out.header.flow), (BOARD_MAC, stranger.flow));
    let found = rig.entry(&stranger.flow).expect("the entry");
    assert_eq!((found.state, found.board, found.migration_id), (State::Forward, BOARD, MIGRATION));
    assert_eq!(rig.client(&stranger.data(1, b"y")), Verdict::Forwarded);
    assert_eq!((rig.happened(Happening::HolderFound), rig.happened(Happening::Originated)), (1, 1));
    // And it is one of the many: the board's notice ends it, idle time asks for it.
    rig.pass(300_000);
    assert!(matches!(only(rig.told()), Event::WhoHolds { board: Some(BOARD), .. }));
    rig.command(Command::Closed { flow: stranger.flow, board: BOARD, migration_id: MIGRATION });
    rig.pass(2_000);
    assert_eq!(rig.state(&stranger.flow), None);
}

#[test]
fn what_waits_for_a_time_wait_goes_there_and_its_entry_is_on_its_way_out() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    assert_eq!(rig.client(&stranger.fin(0)), Verdict::Held);
    let Event::WhoHolds { entry, .. } = only(rig.told()) else { panic!("a question") };
    rig.command(Command::Holder { entry, holder: Holder::TimeWait(BOARD) });
    assert_eq!(rig.forwarded().packet, stranger.fin(0).frame()[14..]);
    assert_eq!(rig.worker.core().by_board.flows(BOARD), 0, "no connection of the board's");
    rig.pass(2_000);
    assert_eq!(rig.state(&stranger.flow), None);
}

#[test]
fn a_held_fin_or_rst_counts_when_its_board_is_found() {
    for last in [Client::stranger(1).fin(0), Client::stranger(1).rst(0)] {
        let mut rig = Rig::new();
        assert_eq!(rig.client(&last), Verdict::Held);
        let Event::WhoHolds { entry, .. } = only(rig.told()) else { panic!("a question") };
        rig.command(Command::Holder { entry, holder: Holder::Board(BOARD, MIGRATION) });
        assert_eq!(rig.forwarded().packet, last.frame()[14..]);
        let found = rig.entry(&last.flow).expect("the entry");
        let is_reset = last.flags.contains(Flags::RST);
        assert_eq!((found.closing, found.client_fin), (is_reset, !is_reset));
        rig.pass(2_000);
        assert_eq!(rig.state(&last.flow).is_none(), is_reset);
    }
}

#[test]
fn a_denied_packet_is_answered_by_one_rst_after_the_grace() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    let entry = rig.ask(&stranger);
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    rig.pass(999);
    rig.assert_silent();
    rig.pass(1);
    let reset = rig.answer();
    assert_eq!(reset.flags, Flags::RST);
    assert_eq!((reset.flow, reset.seq, reset.ack), (stranger.flow, stranger.iss + 1, Seq(0)));
    assert_eq!(rig.state(&stranger.flow), None);
    assert_eq!((rig.happened(Happening::HolderDenied), rig.happened(Happening::ResetSent)), (1, 1));
    rig.pass(10_000);
    rig.assert_silent();
}

#[test]
fn a_denied_rst_is_answered_by_nothing() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    assert_eq!(rig.client(&stranger.rst(0)), Verdict::Held);
    let Event::WhoHolds { entry, .. } = only(rig.told()) else { panic!("a question") };
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    rig.pass(1_000);
    assert_eq!(rig.state(&stranger.flow), None);
    assert_eq!(rig.happened(Happening::ResetSent), 0);
    rig.assert_silent();
}

#[test]
fn a_denied_packet_with_a_wrong_checksum_is_answered_by_nothing() {
    let mut rig = Rig::new();
    let mut frame = Client::stranger(1).data(0, b"x").frame();
    *frame.last_mut().expect("an octet") ^= 1;
    assert_eq!(rig.on_wan(&frame), Verdict::Held);
    let Event::WhoHolds { entry, .. } = only(rig.told()) else { panic!("a question") };
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    rig.pass(1_000);
    assert_eq!(rig.happened(Happening::ResetSent), 0);
    rig.assert_silent();
}

#[test]
fn a_farm_that_is_not_sure_concludes_nothing() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    let entry = rig.ask(&stranger);
    rig.command(Command::Holder { entry, holder: Holder::Unknown });
    assert_eq!(rig.state(&stranger.flow), None);
    assert_eq!(rig.happened(Happening::HolderUnknown), 1);
    rig.assert_silent();
    // The client's retransmission asks again; the late answer to the first question is not the second's.
    let second = rig.ask(&stranger);
    assert_ne!(entry, second);
    rig.command(Command::Holder { entry, holder: Holder::Board(BOARD, MIGRATION) });
    assert_eq!(rig.state(&stranger.flow), Some(State::Asking));
    rig.assert_silent();
}

#[test]
fn a_question_that_is_never_answered_is_given_up_without_a_rst() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    rig.ask(&stranger);
    rig.pass(4_999);
    assert_eq!(rig.state(&stranger.flow), Some(State::Asking));
    rig.pass(1);
    assert_eq!(rig.state(&stranger.flow), None);
    rig.assert_silent();
}

#[test]
fn a_first_segment_within_the_grace_saves_the_overtaken_request() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(9, &REQUEST[9..])), Verdict::Held);
    let Event::WhoHolds { entry, .. } = only(rig.told()) else { panic!("a question") };
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    rig.pass(900);
    assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
    assert_eq!(rig.placed().tcb().octets_following, REQUEST_LEN);
    rig.pass(200);
    assert_eq!(rig.happened(Happening::ResetSent), 0);
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
    // The answer to the question comes too late to matter.
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
}

#[test]
fn a_restarted_appliance_learns_its_connections_from_the_farm() {
    let mut before = Rig::new();
    let mut client = Client::new();
    before.settle(&mut client);
    let mut after = Rig::new();
    let next = client.acks(REQUEST_LEN, 5_000);
    assert_eq!(after.client(&next), Verdict::Held);
    let Event::WhoHolds { entry, flow, board: None } = only(after.told()) else { panic!("a question") };
    assert_eq!(flow, client.flow);
    after.command(Command::Holder { entry, holder: Holder::Board(BOARD, MIGRATION) });
    assert_eq!(after.forwarded().packet, next.frame()[14..]);
}

#[test]
fn only_so_many_flows_wait_at_once() {
    let mut rig = Rig::with(Setup { events: 2_048, ..Setup::default() });
    for port in 0..1_024 {
        assert_eq!(rig.client(&Client::stranger(port).data(0, b"x")), Verdict::Held);
    }
    assert_eq!(rig.client(&Client::stranger(1_024).data(0, b"x")), Verdict::Drop(Drop::AskLimit));
    let entries: Vec<_> = rig
        .told()
        .into_iter()
        .map(|event| match event {
            Event::WhoHolds { entry, .. } => entry,
            other => panic!("a question, not {other:?}"),
        })
        .collect();
    assert_eq!(entries.len(), 1_024);
    // Every one of them is given up in time, a bounded number each poll.
    let mut left = 1_024;
    rig.pass(5_000);
    for _ in 0..64 {
        let now_left = rig.counters.entries[State::Asking.index()].read();
        assert!(left - now_left <= 64, "{} in one poll", left - now_left);
        left = now_left;
        rig.poll();
    }
    assert_eq!(left, 0);
    assert_eq!(rig.client(&Client::stranger(1_024).data(0, b"x")), Verdict::Held);
    rig.told();
}

#[test]
fn denied_packets_take_no_more_than_half_of_the_places() {
    let mut rig = Rig::new();
    for port in 0..1_100 {
        let entry = rig.ask(&Client::stranger(port));
        rig.command(Command::Holder { entry, holder: Holder::Nobody });
        let answered = rig.segments_out();
        // The first half has its grace; whoever comes after it is answered at once.
        assert_eq!(answered.len(), usize::from(port >= 512), "flow {port}");
        assert!(answered.iter().all(|segment| segment.flags == Flags::RST));
    }
    // A connection that a board holds is still found.
    let held = Client::stranger(2_000);
    let entry = rig.ask(&held);
    rig.command(Command::Holder { entry, holder: Holder::Board(BOARD, MIGRATION) });
    assert_eq!(rig.forwarded().header.flow, held.flow);
}

#[test]
fn a_full_queue_to_the_control_core_asks_nothing() {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    rig.ask(&Client::stranger(1));
    assert_eq!(rig.client(&Client::stranger(2).data(0, b"x")), Verdict::Held);
    assert_eq!(rig.client(&Client::stranger(3).data(0, b"x")), Verdict::Drop(Drop::ControlFull));
    assert_eq!(rig.state(&Client::stranger(3).flow), None);
    assert_eq!(rig.told().len(), 1);
}

#[test]
fn a_closed_port_of_a_service_address_refuses() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    client.flow.endpoint_port = 81;
    assert_eq!(rig.client(&client.syn()), Verdict::Answered);
    let refused = rig.answer();
    assert_eq!(refused.flags, Flags::RST | Flags::ACK);
    assert_eq!((refused.seq, refused.ack), (Seq(0), client.irs + 1));
    assert_eq!(rig.client(&client.data(0, b"xyz")), Verdict::Answered);
    let refused = rig.answer();
    assert_eq!((refused.flags, refused.seq), (Flags::RST, client.iss + 1));
    assert_eq!(rig.client(&client.rst(0)), Verdict::Drop(Drop::StrayReset));
    rig.assert_silent();
}
