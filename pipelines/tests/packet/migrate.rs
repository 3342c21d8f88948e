//! Steps 7 to 9 of a connection's life: the replay to the board, its repetition, and the proof that ends it.

use ipos_pipelines::counters::Happening;
use ipos_pipelines::counters::LATENCY_BOUNDS_US;
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, Command, Counted, Event, Place};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ipos::{Header, Protocol, TYPE_PACKET};
use ipos_wire::tcp::{Flags, Options, Timestamps};

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::setup::FARM_PORT;
use crate::common::{
    BOARD, BOARD_MAC, Client, Encapsulated, FARM_MAC, MIGRATION, OTHER_BOARD, Rig, Seg, Setup, only,
};

/// A POST whose head and first `body` octets are held.
fn post(rig: &mut Rig, client: &mut Client, body: usize) -> (Place, Vec<u8>) {
    let head = b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let place = rig.request(client, head);
    let body: Vec<u8> = (0..body).map(|at| (at % 251) as u8).collect();
    let mut offset = head.len() as u32;
    for chunk in body.chunks(1_400) {
        assert_eq!(rig.client(&client.data(offset, chunk)), Verdict::Held);
        offset += chunk.len() as u32;
    }
    (place, [&head[..], &body].concat())
}

/// That these packets carry `octets` from IRS+1 on, without a gap; the last one's flags.
fn assert_carry(packets: &[Encapsulated], client: &Client, octets: &[u8]) -> Flags {
    let mut carried = Vec::new();
    for (at, packet) in packets.iter().enumerate() {
        let segment = packet.segment();
        assert_eq!(segment.flow, client.flow);
        assert_eq!(segment.seq, client.irs + 1 + carried.len() as u32);
        assert_eq!((segment.ack, segment.window), (client.iss + 1, client.window));
        if at + 1 < packets.len() {
            assert_eq!(segment.flags, Flags::ACK);
        }
        assert!(packet.frame.len() <= 1_514, "fits a farm without jumbo frames");
        carried.extend_from_slice(&segment.payload);
    }
    assert_eq!(carried, octets);
    packets.last().expect("a packet").segment().flags
}

#[test]
fn what_was_held_goes_to_the_board_as_an_ipos_packet() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let (_, packets) = rig.migrate(&mut client, REQUEST);
    let packet = only(packets);
    assert_eq!((packet.source_mac, packet.destination_mac), (FARM_MAC, BOARD_MAC));
    let header = Header { flow: client.flow, kind: TYPE_PACKET, protocol: Protocol::Tcp };
    assert_eq!(packet.header, header);
    // Fig. 11A and 11B, octet by octet.
    let expected = [
        2, 0, 0, 0, 0xb0, 3, 2, 0, 0, 0, 0, 0xa2, 0x88, 0xb5, // Ethernet
        203, 0, 113, 9, 0x9c, 0x40, 198, 51, 100, 1, 0, 80, 2, 1, // client, endpoint, type, protocol
    ];
    assert_eq!(packet.frame[..28], expected);
    let segment = packet.segment();
    assert_eq!((segment.seq, segment.ack), (client.irs + 1, client.iss + 1));
    assert_eq!((segment.flags, segment.window), (Flags::ACK | Flags::PSH, 502));
    let stamps = Timestamps { tsval: 7_000, tsecr: client.tsecr };
    assert_eq!(segment.options, Options { timestamps: Some(stamps), ..Options::default() });
    assert_eq!(segment.payload, REQUEST);
    assert_eq!((segment.ttl, segment.dont_fragment), (64, true));
    assert_eq!((rig.happened(Happening::Migrated), rig.happened(Happening::Originated)), (1, 1));
    let entry = rig.entry(&client.flow).expect("the entry");
    assert_eq!((entry.board, entry.migration_id), (BOARD, MIGRATION));
    rig.assert_silent();
}

#[test]
fn a_long_request_is_replayed_in_segments_of_the_advertised_mss() {
    for mut client in [Client::new(), Client::plain()] {
        let mut rig = Rig::new();
        let (place, octets) = post(&mut rig, &mut client, 15_000);
        client.window = 17;
        client.tsval = 9_999;
        client.tsecr += 1;
        assert_eq!(rig.client(&client.data(octets.len() as u32, b"last")), Verdict::Held);
        rig.migrated(&place);
        let packets = rig.packets_out();
        assert_eq!(
            assert_carry(&packets, &client, &[&octets, &b"last"[..]].concat()),
            Flags::ACK | Flags::PSH
        );
        let stamps = client.offers.timestamps.map(|_| Timestamps { tsval: 7_000, tsecr: client.tsecr });
        assert!(packets.iter().all(|packet| packet.segment().options.timestamps == stamps));
        let full = packets[0].segment().payload.len();
        assert_eq!(full, if stamps.is_some() { 1_432 } else { 1_444 });
        assert_eq!(packets.len(), (octets.len() + 4).div_ceil(full));
    }
}

#[test]
fn a_replay_carries_the_first_time_stamp_and_the_last_echo() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
    client.tsval += 50;
    client.tsecr += 40;
    assert_eq!(rig.client(&client.data(9, &REQUEST[9..])), Verdict::Held);
    let place = rig.placed();
    assert_eq!(place.tcb().ts_recent, 7_000, "of the first packet that follows");
    rig.migrated(&place);
    let stamps = Timestamps { tsval: 7_000, tsecr: client.tsecr };
    assert_eq!(rig.forwarded().segment().options.timestamps, Some(stamps));
}

#[test]
fn a_repeated_replay_carries_the_time_stamp_of_the_retransmission() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let (place, _) = rig.migrate(&mut client, REQUEST);
    client.tsval += 1_400;
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
    rig.migrated(&place);
    let stamps = rig.forwarded().segment().options.timestamps.expect("time stamps are in force");
    assert_eq!(
        stamps.tsval, 8_400,
        "the board echoes it, and the client takes the time since for the round trip"
    );
    // A late copy of the first transmission does not set it back.
    client.tsval -= 1_400;
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    rig.told();
    rig.migrated(&place);
    assert_eq!(rig.forwarded().segment().options.timestamps, Some(stamps));
}

#[test]
fn what_lies_past_a_gap_is_not_replayed() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    assert_eq!(rig.client(&client.data(REQUEST_LEN + 4, b"past")), Verdict::Held);
    rig.migrated(&place);
    assert_carry(&rig.packets_out(), &client, REQUEST);
}

#[test]
fn pipelined_requests_are_held_and_replayed() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let two = [REQUEST, REQUEST].concat();
    let (place, packets) = rig.migrate(&mut client, &two);
    assert_eq!(place.tcb().octets_following, 2 * REQUEST_LEN);
    assert_carry(&packets, &client, &two);
}

#[test]
fn a_held_fin_is_replayed_with_the_last_octets() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let (place, octets) = post(&mut rig, &mut client, 3_000);
    assert_eq!(rig.client(&client.fin(octets.len() as u32)), Verdict::Held);
    rig.migrated(&place);
    let packets = rig.packets_out();
    assert_eq!(assert_carry(&packets, &client, &octets), Flags::ACK | Flags::PSH | Flags::FIN);
    assert!(rig.entry(&client.flow).is_some_and(|entry| entry.client_fin));
}

#[test]
fn both_ethertypes() {
    for ethertype in [0x88b5, 0x0007] {
        let mut rig = Rig::with(Setup { ethertype, ..Setup::default() });
        let mut client = Client::new();
        let (_, packets) = rig.migrate(&mut client, REQUEST);
        assert_eq!(only(packets).frame[12..14], ethertype.to_be_bytes());
    }
}

#[test]
fn a_retransmission_of_what_the_board_should_have_repeats_the_attempt_once() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let (place, first) = rig.migrate(&mut client, REQUEST);
    rig.pass(200);
    for _ in 0..3 {
        assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    }
    match only(rig.told()) {
        Event::Repeat { place: again, board, migration_id } => {
            assert_eq!((board, migration_id), (BOARD, MIGRATION));
            assert_eq!((again.entry, again.flow, again.pool), (place.entry, place.flow, place.pool));
            let mut tcb = again.tcb();
            assert_eq!(tcb.last_tsval, place.tcb().last_tsval + 200, "our clock has gone on");
            tcb.last_tsval = place.tcb().last_tsval;
            assert_eq!(tcb, place.tcb(), "the same endpoint");
        }
        other => panic!("a repeated attempt, not {other:?}"),
    }
    rig.assert_silent();
    rig.migrated(&place);
    assert_eq!(rig.packets_out(), first);
    assert_eq!((rig.happened(Happening::Migrated), rig.happened(Happening::Repeated)), (1, 1));
    // Lost again: asked again.
    assert_eq!(rig.client(&client.data(3, &REQUEST[3..9])), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
}

#[test]
fn a_retransmitted_fin_repeats_the_attempt_too() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let place = rig.request(&mut client, REQUEST);
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Held);
    rig.migrated(&place);
    rig.forwarded();
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
}

#[test]
fn what_is_new_goes_on_to_the_board_before_the_proof() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.migrate(&mut client, REQUEST);
    for segment in [client.ack(REQUEST_LEN), client.data(REQUEST_LEN, b"more"), client.fin(REQUEST_LEN + 4)] {
        assert_eq!(rig.client(&segment), Verdict::Forwarded);
        assert_eq!(rig.forwarded().packet, segment.frame()[14..]);
    }
    assert_eq!(rig.counters.pending.read(), 1, "held until there is proof");
}

#[test]
fn an_ack_past_the_syn_ack_is_proof() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.migrate(&mut client, REQUEST);
    assert_eq!(rig.counters.pending.read(), 1);
    assert_eq!(rig.client(&client.acks(REQUEST_LEN, 0)), Verdict::Forwarded);
    assert_eq!(rig.counters.pending.read(), 1, "an ACK of the SYN-ACK alone is none");
    assert_eq!(rig.client(&client.acks(REQUEST_LEN, 1)), Verdict::Forwarded);
    assert_eq!((rig.counters.pending.read(), rig.happened(Happening::Proven)), (0, 1));
    assert_eq!(rig.packets_out().len(), 2);
    // From now on what the client sends again is the board's business.
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Forwarded);
    assert!(rig.told().is_empty());
}

#[test]
fn sending_past_the_window_is_proof() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let (place, octets) = post(&mut rig, &mut client, 1_000);
    rig.migrated(&place);
    rig.packets_out();
    let edge = 16_384 - 4;
    assert!(octets.len() < edge as usize);
    assert_eq!(rig.client(&client.data(edge, b"upto")), Verdict::Forwarded);
    assert_eq!(rig.counters.pending.read(), 1, "up to the edge is none");
    assert_eq!(rig.client(&client.data(edge, b"past!")), Verdict::Forwarded);
    assert_eq!((rig.counters.pending.read(), rig.happened(Happening::Proven)), (0, 1));
}

#[test]
fn without_proof_the_octets_are_let_go_after_half_a_minute() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.migrate(&mut client, REQUEST);
    rig.pass(29_999);
    assert_eq!(rig.counters.pending.read(), 1);
    rig.pass(1);
    assert_eq!(rig.counters.pending.read(), 0);
    assert_eq!(rig.state(&client.flow), Some(State::Forward), "the connection itself may still live");
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Forwarded);
}

#[test]
fn after_the_first_packet_to_the_board_only_a_rst_can_be_said() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let (place, _) = rig.migrate(&mut client, REQUEST);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    let reset = rig.answer();
    assert_eq!(reset.flags, Flags::RST | Flags::ACK);
    assert_eq!((reset.seq, reset.ack), (client.iss + 1, client.irs + 1 + REQUEST_LEN));
    assert!(reset.payload.is_empty());
    assert_eq!((rig.state(&client.flow), rig.counters.pending.read()), (None, 0));
    rig.assert_silent();
}

#[test]
fn a_late_answer_does_not_harm_a_settled_connection() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let place = rig.settle(&mut client);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Reset });
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    rig.assert_silent();
}

#[test]
fn an_acknowledgement_for_an_entry_that_is_gone_is_undone() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let place = rig.request(&mut client, REQUEST);
    assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Answered);
    rig.told();
    rig.migrated(&place);
    match only(rig.told()) {
        Event::Abandon { entry, flow, migrated } => {
            assert_eq!((entry, flow), (place.entry, place.flow));
            assert_eq!(migrated, Some((BOARD, MIGRATION)));
        }
        other => panic!("the endpoint is to be detached, not {other:?}"),
    }
    rig.assert_silent();
}

#[test]
fn an_acknowledgement_of_another_attempt_than_the_one_in_force_is_undone() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let (place, _) = rig.migrate(&mut client, REQUEST);
    rig.command(Command::Migrated {
        entry: place.entry,
        flow: place.flow,
        board: OTHER_BOARD,
        migration_id: MIGRATION + 1,
        counted: Counted::No,
    });
    match only(rig.told()) {
        Event::Abandon { migrated, .. } => assert_eq!(migrated, Some((OTHER_BOARD, MIGRATION + 1))),
        other => panic!("the second endpoint is to be detached, not {other:?}"),
    }
    let entry = rig.entry(&client.flow).expect("the entry");
    assert_eq!((entry.board, entry.migration_id), (BOARD, MIGRATION));
    rig.assert_silent();
}

#[test]
fn a_repeated_acknowledgement_after_the_proof_replays_nothing() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let place = rig.settle(&mut client);
    rig.migrated(&place);
    rig.assert_silent();
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
}

#[test]
fn a_board_whose_mac_is_unknown_gets_the_replay_when_the_client_asks_again() {
    let mut rig = Rig::with(Setup { boards_known: false, ..Setup::default() });
    let mut client = Client::new();
    let (place, packets) = rig.migrate(&mut client, REQUEST);
    assert!(packets.is_empty());
    assert_eq!(rig.happened(Happening::OriginateFailed), 1);
    rig.command(Command::Board { board: BOARD, mac: BOARD_MAC, port: FARM_PORT });
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
    rig.migrated(&place);
    assert_carry(&rig.packets_out(), &client, REQUEST);
}

#[test]
fn a_keep_alive_probe_before_the_proof_repeats_the_attempt() {
    // The client has heard nothing since its request: that it asks means that the board's ACK is missing.
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.migrate(&mut client, REQUEST);
    assert_eq!(rig.client(&client.data(REQUEST_LEN - 1, b"\0")), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
    let bare = Seg { seq: client.irs + REQUEST_LEN, ..client.ack(0) };
    assert_eq!(rig.client(&bare), Verdict::Forwarded);
}

#[test]
fn the_time_from_the_heads_end_to_the_replay_is_counted_once() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    rig.pass(3);
    let (entry, flow, counted) = (place.entry, client.flow, Counted::No);
    let migrated = || Command::Migrated { entry, flow, board: BOARD, migration_id: MIGRATION, counted };
    rig.command(migrated());
    rig.command(migrated());
    let placements = rig.counters.placements.read();
    let bound = LATENCY_BOUNDS_US.iter().position(|us| *us == 5_000).expect("a bound of 5 ms");
    assert_eq!((placements[bound], placements.iter().sum::<u64>()), (1, 1));
    rig.packets_out();
}
