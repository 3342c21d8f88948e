//! Steps 4 and 5 of a connection's life: the request head is assembled, acknowledged while it is incomplete, and handed to
//! the control core.

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::Event;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::tcb::{OptionBits, STATE_ESTABLISHED, Tcb};
use ipos_wire::tcp::{Flags, Options, Timestamps};

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{Client, Rig, SECOND_SERVICE, START_UNIX_US, Seg, only};

const WINDOW: u32 = 16_384;

/// A request whose head has exactly so many octets.
fn head_of(len: usize) -> Vec<u8> {
    let start = "GET / HTTP/1.1\r\nHost: a.example\r\nX: ";
    format!("{start}{}\r\n\r\n", "y".repeat(len - start.len() - 4)).into_bytes()
}

#[test]
fn a_head_in_one_segment_is_placed_and_not_acknowledged() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    rig.pass(30);
    client.tsval = 7_030;
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    let place = rig.placed();
    assert_eq!((place.flow, place.service, place.pool), (client.flow, 0, 1));
    let now_us = START_UNIX_US + 30_000;
    let expected = Tcb {
        state: STATE_ESTABLISHED,
        options: OptionBits::TIMESTAMPS | OptionBits::SACK | OptionBits::WINDOW_SCALE,
        client_mss: 1460,
        our_mss: 1444,
        client_window_scale: 9,
        our_window_scale: 7,
        iss: client.iss,
        irs: client.irs,
        snd_una: client.iss + 1,
        snd_nxt: client.iss + 1,
        snd_wnd: 502 << 9,
        snd_wl1: client.irs + 1,
        snd_wl2: client.iss + 1,
        rcv_nxt: client.irs + 1,
        rcv_wnd: WINDOW,
        ts_recent: 7_030,
        last_tsval: (now_us / 1000) as u32,
        established_at_us: now_us,
        service_id: 0,
        octets_following: REQUEST_LEN,
        // The rest is the control core's to fill in, or unknown.
        ..Tcb::default()
    };
    assert_eq!(place.tcb(), expected);
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
    assert_eq!((rig.happened(Happening::HandshakeProven), rig.happened(Happening::HeadComplete)), (1, 1));
    rig.assert_silent();
}

#[test]
fn the_control_block_holds_what_was_agreed_and_nothing_else() {
    let stamps = Some(Timestamps { tsval: 7_000, tsecr: 0 });
    let none = Options::default();
    let cases = [
        (none, OptionBits(0), (536, 0, 0)),
        (Options { mss: Some(536), ..none }, OptionBits(0), (536, 0, 0)),
        (
            Options { mss: Some(1460), window_scale: Some(14), ..none },
            OptionBits::WINDOW_SCALE,
            (1460, 14, 7),
        ),
        (Options { mss: Some(1452), window_scale: Some(0), ..none }, OptionBits::WINDOW_SCALE, (1440, 0, 7)),
        (Options { mss: Some(1400), sack_permitted: true, ..none }, OptionBits::SACK, (1400, 0, 0)),
        (Options { mss: Some(9000), timestamps: stamps, ..none }, OptionBits::TIMESTAMPS, (8960, 0, 0)),
    ];
    for (offers, agreed, scales) in cases {
        let mut rig = Rig::new();
        let mut client = Client { offers, ..Client::new() };
        let tcb = rig.request(&mut client, REQUEST).tcb();
        assert_eq!(tcb.options, agreed, "{offers:?}");
        assert_eq!((tcb.client_mss, tcb.client_window_scale, tcb.our_window_scale), scales, "{offers:?}");
        assert_eq!(tcb.snd_wnd, 502 << scales.1, "{offers:?}");
        assert_eq!(tcb.ts_recent != 0, offers.timestamps.is_some(), "{offers:?}");
        assert_eq!(tcb.last_tsval != 0, offers.timestamps.is_some(), "{offers:?}");
    }
}

#[test]
fn each_service_has_its_number_and_its_map() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    client.flow.endpoint = SECOND_SERVICE;
    let place = rig.request(&mut client, REQUEST);
    assert_eq!((place.service, place.pool, place.tcb().service_id), (1, 10, 1));
}

#[test]
fn ecn_comes_back_through_the_time_stamp() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let syn = Seg { flags: Flags::SYN | Flags::ECE | Flags::CWR, ..client.syn() };
    assert_eq!(rig.client(&syn), Verdict::Answered);
    let answer = rig.answer();
    client.hears(&answer);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert!(rig.placed().tcb().options.contains(OptionBits::ECN));
}

#[test]
fn the_url_map_names_the_pool() {
    let cases: [(&str, u16); 8] = [
        ("GET /a/x HTTP/1.1\r\nHost: a.example\r\n\r\n", 1),
        ("GET /b/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 2),
        ("GET /a/x HTTP/1.1\r\nHost: B.example:80\r\n\r\n", 3),
        ("GET /b/x HTTP/1.1\r\nHost: b.example\r\n\r\n", 2),
        ("GET /c HTTP/1.1\r\nHost: a.example\r\n\r\n", 9),
        ("GET /c/../a/%78 HTTP/1.1\r\nHost: a.example\r\n\r\n", 1),
        ("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", 9),
        ("GET http://b.example/a/ HTTP/1.0\r\n\r\n", 3),
    ];
    for (request, pool) in cases {
        let mut rig = Rig::new();
        let mut client = Client::new();
        assert_eq!(rig.request(&mut client, request.as_bytes()).pool, pool, "{request}");
    }
}

#[test]
fn each_segment_but_the_completing_one_is_acknowledged_up_to_a_fixed_right_edge() {
    for mut client in [Client::plain(), Client::new()] {
        let mut rig = Rig::new();
        rig.shake(&mut client);
        let head = head_of(9_000);
        let chunks: Vec<&[u8]> = head.chunks(1_432).collect();
        let shift = if client.offers.window_scale.is_some() { 7 } else { 0 };
        let mut offset = 0;
        for chunk in &chunks[..chunks.len() - 1] {
            assert_eq!(rig.client(&client.data(offset, chunk)), Verdict::Held);
            offset += chunk.len() as u32;
            let answer = rig.answer();
            assert_eq!((answer.flags, answer.seq), (Flags::ACK, client.iss + 1));
            assert_eq!(answer.ack, client.irs + 1 + offset);
            let edge = offset + (u32::from(answer.window) << shift);
            assert!(edge <= WINDOW && edge > WINDOW - (1 << shift), "right edge at {edge}");
            rig.assert_silent();
        }
        assert_eq!(rig.client(&client.data(offset, chunks[chunks.len() - 1])), Verdict::Held);
        assert_eq!(rig.placed().tcb().octets_following, 9_000);
        rig.assert_silent();
    }
}

#[test]
fn one_octet_at_a_time() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    for (offset, octet) in (0..REQUEST_LEN).zip(REQUEST) {
        assert_eq!(rig.client(&client.data(offset, &[*octet])), Verdict::Held);
        let last = offset + 1 == REQUEST_LEN;
        let acks: Vec<_> = rig.segments_out().iter().map(|answer| answer.ack).collect();
        assert_eq!(acks, if last { vec![] } else { vec![client.irs + 2 + offset] });
    }
    assert_eq!(rig.placed().pool, 1);
}

#[test]
fn segments_out_of_order_are_put_in_order() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    // The first must come first, since it alone proves the cookie; the others come backwards.
    let pieces: Vec<(u32, &[u8])> = (0..).step_by(8).zip(REQUEST.chunks(8)).collect();
    assert_eq!(rig.client(&client.data(0, pieces[0].1)), Verdict::Held);
    assert_eq!(rig.answer().ack, client.irs + 9);
    for (offset, piece) in pieces[2..].iter().rev() {
        assert_eq!(rig.client(&client.data(*offset, piece)), Verdict::Held);
        assert_eq!(rig.answer().ack, client.irs + 9, "a duplicate ACK for the gap");
    }
    assert_eq!(rig.client(&client.data(8, pieces[1].1)), Verdict::Held);
    assert_eq!(rig.placed().tcb().octets_following, REQUEST_LEN);
    rig.assert_silent();
}

#[test]
fn what_is_held_already_is_acknowledged_again_and_what_overlaps_is_joined() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, &REQUEST[..20])), Verdict::Held);
    assert_eq!(rig.answer().ack, client.irs + 21);
    assert_eq!(rig.client(&client.data(0, &REQUEST[..20])), Verdict::Answered, "a duplicate");
    assert_eq!(rig.answer().ack, client.irs + 21);
    assert_eq!(rig.client(&client.data(10, &REQUEST[10..30])), Verdict::Held, "an overlap");
    assert_eq!(rig.answer().ack, client.irs + 31);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held, "all of it");
    assert_eq!(rig.placed().tcb().octets_following, REQUEST_LEN);
}

#[test]
fn octets_that_came_first_stay() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"GET /b/")), Verdict::Held);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert_eq!(rig.placed().pool, 2, "placed by the path that came first");
}

#[test]
fn more_than_sixteen_gaps_are_too_many() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"G")), Verdict::Held);
    for gap in 1..=16 {
        assert_eq!(rig.client(&client.data(gap * 2, b"x")), Verdict::Held, "gap {gap}");
    }
    assert_eq!(rig.client(&client.data(34, b"x")), Verdict::Drop(Drop::TooManyGaps));
    assert_eq!(rig.client(&client.data(1, b"E")), Verdict::Held, "filling a gap makes room");
    assert_eq!(rig.client(&client.data(34, b"x")), Verdict::Held);
}

#[test]
fn body_octets_after_the_head_are_held_without_an_ack() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let head = b"POST /a/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 40000\r\n\r\n";
    let head_len = head.len() as u32;
    let place = rig.request(&mut client, head);
    assert_eq!(place.tcb().octets_following, head_len);
    let body = vec![b'b'; 1_000];
    assert_eq!(rig.client(&client.data(head_len, &body)), Verdict::Held);
    assert_eq!(rig.client(&client.data(head_len + 2_000, &body)), Verdict::Held, "also past a gap");
    assert_eq!(rig.client(&client.data(head_len, &body)), Verdict::Drop(Drop::OldSegment));
    assert_eq!(rig.client(&client.ack(head_len)), Verdict::Drop(Drop::OldSegment));
    rig.assert_silent();
}

#[test]
fn the_first_segment_may_bring_head_and_body() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let octets = b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(rig.request(&mut client, octets).tcb().octets_following, octets.len() as u32);
}

#[test]
fn data_past_the_window_is_dropped_and_up_to_its_edge_taken() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.request(&mut client, REQUEST);
    let outside = Verdict::Drop(Drop::OutOfWindow);
    assert_eq!(rig.client(&client.data(WINDOW, b"x")), outside);
    assert_eq!(rig.client(&client.data(WINDOW - 3, b"four")), outside, "partly outside: none of it");
    assert_eq!(rig.client(&client.data(u32::MAX - 1, b"x")), outside, "before IRS+1");
    assert_eq!(rig.client(&client.data(1 << 31, b"x")), outside);
    assert_eq!(rig.client(&client.data(WINDOW - 4, b"four")), Verdict::Held);
    rig.assert_silent();
}

#[test]
fn an_ack_of_what_was_never_sent_is_dropped() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"GET ")), Verdict::Held);
    rig.answer();
    let ahead = Seg { ack: client.iss + 2, ..client.data(4, b"/ ") };
    assert_eq!(rig.client(&ahead), Verdict::Drop(Drop::OutOfWindow));
    let behind = Seg { ack: client.iss, ..client.data(4, b"/ ") };
    assert_eq!(rig.client(&behind), Verdict::Drop(Drop::OutOfWindow));
    rig.assert_silent();
}

#[test]
fn a_damaged_segment_is_not_taken() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    let mut damaged = client.data(0, REQUEST).frame();
    *damaged.last_mut().expect("an octet") ^= 0x20;
    assert_eq!(rig.on_wan(&damaged), Verdict::Drop(Drop::BadTcpChecksum));
    assert_eq!(rig.state(&client.flow), None, "no entry for it");
    assert_eq!(rig.client(&client.data(0, b"GET ")), Verdict::Held);
    let mut damaged = client.data(4, &REQUEST[4..]).frame();
    *damaged.last_mut().expect("an octet") ^= 0x20;
    assert_eq!(rig.on_wan(&damaged), Verdict::Drop(Drop::BadTcpChecksum));
    assert_eq!(rig.state(&client.flow), Some(State::Temporary));
    let broken = client.data(4, &REQUEST[4..]).frame_with_options(&[8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.on_wan(&broken), Verdict::Drop(Drop::BadTcpOptions));
    assert_eq!(rig.client(&client.data(4, &REQUEST[4..])), Verdict::Held);
    assert_eq!(rig.placed().pool, 1);
}

#[test]
fn broken_options_in_the_first_data_make_no_entry() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    let broken = client.data(0, REQUEST).frame_with_options(&[8, 4, 0, 0]);
    assert_eq!(rig.on_wan(&broken), Verdict::Drop(Drop::BadTcpOptions));
    assert_eq!(rig.state(&client.flow), None);
}

#[test]
fn a_keep_alive_probe_is_answered_while_the_head_is_incomplete() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"GET ")), Verdict::Held);
    rig.answer();
    for probe in [client.ack(3), client.data(3, b"\0"), client.ack(u32::MAX), client.data(u32::MAX, b"\0")] {
        assert_eq!(rig.client(&probe), Verdict::Answered);
        assert_eq!(rig.answer().ack, client.irs + 5);
    }
    assert_eq!(rig.client(&client.ack(4)), Verdict::Drop(Drop::OldSegment), "an ACK is not acknowledged");
    assert_eq!(rig.client(&client.data(4, &REQUEST[4..])), Verdict::Held, "the probe's octet is no data");
    assert_eq!(rig.placed().pool, 1);
}

#[test]
fn a_probe_that_brings_new_octets_brings_them_to_their_place() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"GET ")), Verdict::Held);
    let probe = client.data(u32::MAX, &[b"\0", REQUEST].concat());
    assert_eq!(rig.client(&probe), Verdict::Held);
    let place = rig.placed();
    assert_eq!((place.pool, place.tcb().octets_following), (1, REQUEST_LEN));
    rig.migrated(&place);
    assert_eq!(rig.forwarded().segment().payload, REQUEST);
}

#[test]
fn answers_echo_the_newest_time_stamp_in_order_and_the_board_gets_the_first() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    let mut send = |tsval: u32, offset: u32, octets: &[u8]| {
        client.tsval = tsval;
        assert_eq!(rig.client(&client.data(offset, octets)), Verdict::Held);
        rig.segments_out().first().and_then(|answer| answer.options.timestamps).map(|stamps| stamps.tsecr)
    };
    assert_eq!(send(7_100, 0, &REQUEST[..4]), Some(7_100));
    assert_eq!(send(7_300, 8, &REQUEST[8..12]), Some(7_100), "past a gap: RFC 7323, section 4.3");
    assert_eq!(send(7_200, 4, &REQUEST[4..8]), Some(7_200));
    assert_eq!(send(7_150, 12, &REQUEST[12..16]), Some(7_200), "never backwards");
    assert_eq!(send(7_400, 16, &REQUEST[16..]), None);
    assert_eq!(rig.placed().tcb().ts_recent, 7_100);
}

#[test]
fn a_fin_after_a_complete_head_is_held() {
    for in_one in [true, false] {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        rig.shake(&mut client);
        if in_one {
            let both = Seg { flags: Flags::ACK | Flags::FIN, ..client.data(0, REQUEST) };
            assert_eq!(rig.client(&both), Verdict::Held);
        } else {
            assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
            assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Held);
            assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Drop(Drop::OldSegment), "again");
        }
        rig.placed();
        assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
        rig.assert_silent();
    }
}

#[test]
fn a_fin_that_contradicts_what_is_held_is_dropped() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.request(&mut client, REQUEST);
    assert_eq!(rig.client(&client.fin(3)), Verdict::Drop(Drop::OutOfWindow));
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Held);
    assert_eq!(rig.client(&client.data(REQUEST_LEN, b"more")), Verdict::Drop(Drop::OutOfWindow));
}

#[test]
fn a_second_segment_that_overtakes_the_first_waits_for_it() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(20, &REQUEST[20..])), Verdict::Held, "nothing proves it");
    let question = only(rig.told());
    assert!(matches!(question, Event::WhoHolds { board: None, .. }), "{question:?}");
    assert_eq!(rig.client(&client.data(0, &REQUEST[..20])), Verdict::Held);
    assert_eq!(rig.placed().tcb().octets_following, REQUEST_LEN);
    // Whether the first of the two halves is acknowledged on the way does not matter; the whole head is not.
    assert!(rig.segments_out().iter().all(|answer| answer.ack == client.irs + 21));
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
}

#[test]
fn a_damaged_first_segment_costs_no_more_than_a_retransmission() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(20, &REQUEST[20..])), Verdict::Held);
    let mut damaged = client.data(0, &REQUEST[..20]).frame();
    *damaged.last_mut().expect("an octet") ^= 1;
    assert_eq!(rig.on_wan(&damaged), Verdict::Drop(Drop::BadTcpChecksum));
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert_eq!(rig.state(&client.flow), Some(State::ForwardConnect));
}
