//! Services whose server may speak first: placed on the handshake's ACK, which is all that there may ever be of the client.

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, Command, Event, RetryAfter};
use ipos_pipelines::migrate::{ACK_REPEATS_MAX, SETTLE_MS};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use crate::common::{BOARD, Client, MIGRATION, Rig, Seg, Setup, only};

#[test]
fn the_handshakes_ack_alone_is_placed_and_goes_to_the_board() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    assert_eq!((place.pool, place.service, place.tcb().octets_following), (8, 2, 0));
    assert_eq!((place.endpoint.irs, place.endpoint.iss), (client.irs, client.iss));
    assert_eq!(place.tcb().ts_recent, client.tsval);
    assert_eq!((rig.happened(Happening::ServerFirst), rig.happened(Happening::HeadComplete)), (1, 0));
    rig.migrated(&place);
    let segment = rig.forwarded().segment();
    assert_eq!((segment.seq, segment.ack), (client.irs + 1, client.iss + 1));
    assert_eq!((segment.flags, segment.payload.len()), (Flags::ACK, 0));
    assert_eq!(segment.options.timestamps.map(|stamps| stamps.tsval), Some(client.tsval));
    // The client has the server's first words: that is the proof.
    assert_eq!(rig.client(&client.acks(0, 21)), Verdict::Forwarded);
    assert_eq!(rig.happened(Happening::Proven), 1);
    rig.packets_out();
    rig.pass(u64::from(SETTLE_MS));
    rig.assert_silent();
}

#[test]
fn data_that_comes_with_the_ack_or_while_the_board_is_asked_is_held_and_follows() {
    for with_it in [true, false] {
        let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
        let place = if with_it {
            rig.shake(&mut client);
            assert_eq!(rig.client(&client.data(0, b"EHLO ")), Verdict::Held);
            rig.placed()
        } else {
            let place = rig.shake_and_place(&mut client);
            assert_eq!(rig.client(&client.data(0, b"EHLO ")), Verdict::Held);
            place
        };
        assert_eq!(rig.client(&client.data(5, b"client\r\n")), Verdict::Held);
        // Nothing of it is acknowledged: the board's kernel does that.
        rig.assert_silent();
        assert_eq!(rig.client(&client.data(20_000, b"x")), Verdict::Drop(Drop::OutOfWindow));
        rig.migrated(&place);
        let segment = rig.forwarded().segment();
        assert_eq!((&segment.payload[..], segment.flags), (&b"EHLO client\r\n"[..], Flags::ACK | Flags::PSH));
        // The client retransmits: it is asked for again and sent again, as a request is.
        assert_eq!(rig.client(&client.data(0, b"EHLO ")), Verdict::Held);
        assert!(matches!(only(rig.told()), Event::Repeat { board: BOARD, migration_id: MIGRATION, .. }));
    }
}

#[test]
fn what_lies_past_a_gap_does_not_keep_the_board_from_its_socket() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    assert_eq!(rig.client(&client.data(100, b"later")), Verdict::Held);
    rig.migrated(&place);
    let segment = rig.forwarded().segment();
    assert_eq!((segment.seq, segment.flags, segment.payload.len()), (client.irs + 1, Flags::ACK, 0));
}

#[test]
fn a_client_that_closes_right_away_has_its_fin_follow() {
    // After its ACK, before it, and without it.
    for (ack_first, fin_first) in [(true, false), (false, true)] {
        let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
        rig.shake(&mut client);
        for segment in
            [ack_first.then(|| client.ack(0)), Some(client.fin(0)), fin_first.then(|| client.ack(0))]
        {
            let Some(segment) = segment else { continue };
            let verdict = rig.client(&segment);
            assert!(matches!(verdict, Verdict::Held | Verdict::Drop(Drop::OldSegment)), "{verdict:?}");
        }
        let place = rig.placed();
        rig.migrated(&place);
        let segment = rig.forwarded().segment();
        assert_eq!((segment.seq, segment.flags), (client.irs + 1, Flags::ACK | Flags::FIN));
        assert!(rig.entry(&client.flow).is_some_and(|entry| entry.client_fin));
    }
}

#[test]
fn a_client_that_resets_while_the_board_is_asked_is_abandoned() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    assert_eq!(rig.client(&client.rst(0)), Verdict::Answered);
    assert!(matches!(only(rig.told()), Event::Abandon { entry, migrated: None, .. } if entry == place.entry));
    assert_eq!(rig.state(&client.flow), None);
    // The board acknowledges all the same: it is told to give the endpoint up.
    rig.migrated(&place);
    assert!(matches!(only(rig.told()), Event::Abandon { migrated: Some((BOARD, MIGRATION)), .. }));
    rig.assert_silent();
}

#[test]
fn an_ack_whose_cookie_does_not_hold_makes_no_entry() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    rig.shake(&mut client);
    let forged = Seg { ack: client.iss + 2, ..client.ack(0) };
    assert_eq!(rig.client(&forged), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::WhoHolds { .. }), "it may be a connection that a board holds");
    assert_eq!((rig.state(&client.flow), rig.happened(Happening::ServerFirst)), (Some(State::Asking), 0));
    // The true one replaces the question.
    assert_eq!(rig.client(&client.ack(0)), Verdict::Held);
    rig.placed();
}

#[test]
fn a_flood_of_syns_makes_no_entry_and_acks_make_as_many_as_there_are_buffers() {
    let mut rig = Rig::with(Setup { pending: 3, ..Setup::default() });
    let mut clients: Vec<Client> = (1..=5)
        .map(|port| {
            let flow = Client::of_server_first().flow;
            Client { flow: ipos_wire::flow::Flow { client_port: port, ..flow }, ..Client::new() }
        })
        .collect();
    clients.iter_mut().for_each(|client| rig.shake(client));
    assert_eq!(rig.counters.entries.iter().map(|gauge| gauge.read()).sum::<u64>(), 0);
    let verdicts: Vec<Verdict> = clients.iter().map(|client| rig.client(&client.ack(0))).collect();
    let full = Verdict::Drop(Drop::PendingFull);
    assert_eq!(verdicts, [Verdict::Held, Verdict::Held, Verdict::Held, full, full]);
}

#[test]
fn after_a_lost_ack_the_clients_keep_alive_or_data_proves_the_cookie() {
    for octets in [0, 1] {
        let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
        rig.shake(&mut client);
        // RFC 9293, section 3.8.4: one octet before SND.NXT, with or without an octet of garbage.
        let probe = Seg { seq: client.irs, payload: vec![0; octets], ..client.ack(0) };
        assert_eq!(rig.client(&probe), Verdict::Held);
        let place = rig.placed();
        assert_eq!(place.endpoint.irs, client.irs);
        rig.migrated(&place);
        let segment = rig.forwarded().segment();
        assert_eq!((segment.seq, segment.payload.len()), (client.irs + 1, 0));
    }
    // A request is waited for where the client speaks first.
    let (mut rig, mut client) = (Rig::new(), Client::new());
    rig.shake(&mut client);
    let probe = Seg { seq: client.irs, ..client.ack(0) };
    assert_eq!(rig.client(&probe), Verdict::Held);
    assert_eq!(rig.happened(Happening::ServerFirst), 0);
    assert_eq!(
        rig.client(&Client { flow: client.flow, ..client.clone() }.ack(0)),
        Verdict::Drop(Drop::NoRequest)
    );
}

#[test]
fn the_ack_is_sent_again_while_nothing_shows_that_the_server_has_the_connection() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    rig.migrated(&place);
    let first = rig.forwarded().segment();
    let mut repeats = 0;
    for _ in 0..2 * SETTLE_MS / 50 {
        rig.pass(50);
        for packet in rig.packets_out() {
            assert_eq!(packet.segment(), first);
            repeats += 1;
        }
    }
    let expected = ACK_REPEATS_MAX - 1;
    assert_eq!((repeats, rig.happened(Happening::AckRepeated)), (expected, expected.into()));
    // At last the whole attempt, so that a dead board is found out.
    assert!(matches!(only(rig.told()), Event::Repeat { board: BOARD, migration_id: MIGRATION, .. }));
    assert!(rig.entry(&client.flow).is_some_and(|entry| entry.pending.is_none()), "the buffer is free again");
    assert_eq!(rig.client(&client.data(0, b"x")), Verdict::Forwarded, "what comes late goes to the board");
    rig.forwarded();
    rig.told();
}

#[test]
fn a_client_that_sends_is_left_to_its_own_retransmissions() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    rig.migrated(&place);
    rig.packets_out();
    assert_eq!(rig.client(&client.data(0, b"PING\r\n")), Verdict::Forwarded);
    rig.packets_out();
    rig.pass(10_000);
    assert_eq!(rig.happened(Happening::AckRepeated), 0);
    rig.assert_silent();
}

#[test]
fn a_keep_alive_probe_with_an_octet_goes_to_the_board_that_answers_it() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    rig.migrated(&place);
    rig.packets_out();
    let probe = Seg { seq: client.irs, payload: vec![0], ..client.ack(0) };
    assert_eq!(rig.client(&probe), Verdict::Forwarded);
    assert!(rig.told().is_empty());
    rig.packets_out();
    rig.pass(300);
    assert_eq!(rig.packets_out().len(), 1, "it is no word of the client's");
}

#[test]
fn a_board_that_knows_nothing_of_it_is_asked_again() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    rig.migrated(&place);
    rig.packets_out();
    let stray = || Command::Closed { flow: client.flow, board: BOARD, migration_id: 0 };
    rig.command(stray());
    assert!(matches!(only(rig.told()), Event::Repeat { board: BOARD, migration_id: MIGRATION, .. }));
    rig.command(stray());
    assert!(rig.told().is_empty(), "one repetition at a time");
    rig.migrated(&place);
    assert_eq!(rig.forwarded().segment().flags, Flags::ACK);
}

#[test]
fn without_a_board_the_client_gets_a_rst_and_no_word_of_http() {
    for answer in [Answer::Unavailable, Answer::NotYet(RetryAfter::S5), Answer::Reset] {
        let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
        let place = rig.shake_and_place(&mut client);
        rig.command(Command::Answer { entry: place.entry, answer });
        let segment = rig.answer();
        assert_eq!((segment.flags, segment.seq), (Flags::RST | Flags::ACK, client.iss + 1));
        assert_eq!(segment.ack, client.irs + 1);
        assert_eq!(rig.state(&client.flow), None);
        let unplaced = u64::from(answer != Answer::Reset);
        assert_eq!(
            (rig.happened(Happening::ResetUnplaced), rig.happened(Happening::ResetSent)),
            (unplaced, 1)
        );
        assert_eq!(rig.happened(Happening::AnsweredUnavailable), 0);
    }
    // The same when the control core says nothing in time.
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    rig.shake_and_place(&mut client);
    rig.pass(10_001);
    assert!(rig.answer().flags.contains(Flags::RST));
    assert_eq!((rig.happened(Happening::ResetUnplaced), rig.happened(Happening::ExpiredPending)), (1, 1));
    rig.told();
}

#[test]
fn a_new_connection_on_the_same_ports_replaces_the_old_one_by_its_ack() {
    let (mut rig, mut client) = (Rig::new(), Client::of_server_first());
    let place = rig.shake_and_place(&mut client);
    rig.migrated(&place);
    assert_eq!(rig.client(&client.acks(0, 10)), Verdict::Forwarded);
    rig.packets_out();
    let mut again = Client { irs: Seq(7_000), ..client.clone() };
    rig.shake(&mut again);
    assert_eq!(rig.client(&again.ack(0)), Verdict::Held);
    let told = rig.told();
    assert!(matches!(told[0], Event::Abandon { migrated: Some((BOARD, MIGRATION)), .. }), "{told:?}");
    assert!(matches!(told[1], Event::Place(place, _) if place.endpoint.irs == Seq(7_000)), "{told:?}");
    assert_eq!(rig.happened(Happening::Replaced), 1);
    // A SYN-ACK that came late makes the client acknowledge once more: the same connection still.
    assert_eq!(rig.client(&again.syn()), Verdict::Answered);
    rig.answer();
    assert_eq!(rig.client(&again.ack(0)), Verdict::Drop(Drop::OldSegment));
    assert_eq!(rig.happened(Happening::Replaced), 1);
}

#[test]
fn an_event_that_found_the_queue_full_is_told_later() {
    let mut rig = Rig::with(Setup { events: 1, ..Setup::default() });
    let mut client = Client::of_server_first();
    // Something else is in the queue.
    assert_eq!(rig.client(&Client::stranger(9).data(0, b"x")), Verdict::Held);
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.ack(0)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::WhoHolds { .. }));
    rig.pass(21);
    assert_eq!(rig.placed().flow, client.flow);
}
