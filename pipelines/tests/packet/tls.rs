//! Services of kind `tls`: the ClientHello in any segments and records, the choice by it, and every refusal; and HTTP/2 that begins without
//! asking.

use std::net::Ipv4Addr;

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Alert, Answer, Command, Event, Place, RetryAfter};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::tcp::Flags;

use crate::common::hello::{PREFACE, hello, records, stream};
use crate::common::{Client, H2C_SERVICE, Rig, STRICT_TLS_SERVICE, TLS_SERVICE, only};

/// Sends a stream in segments of at most so many octets, and acknowledges what is answered; the request to place at its end.
#[track_caller]
fn place(rig: &mut Rig, client: &mut Client, octets: &[u8], segment_octets: usize) -> Place {
    rig.shake(client);
    let mut offset = 0;
    for segment in octets.chunks(segment_octets) {
        assert_eq!(rig.client(&client.data(offset, segment)), Verdict::Held);
        offset += segment.len() as u32;
        if (offset as usize) < octets.len() {
            assert_eq!(rig.answer().ack, client.irs + 1 + offset, "what is incomplete is acknowledged");
        }
    }
    assert_eq!(rig.segments_out(), [], "never the segment that completes it");
    rig.placed()
}

#[test]
fn name_and_protocols_choose_the_pool() {
    for (name, protocols, pool) in [
        (Some(&b"a.example"[..]), &["h2", "http/1.1"][..], 1),
        (Some(b"A.EXAMPLE."), &["http/1.1"], 2),
        (Some(b"x.b.example"), &["h2"], 3),
        (Some(b"b.example"), &["h2"], 7),
        (None, &[], 7),
    ] {
        let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
        let octets = stream(name, protocols);
        let place = place(&mut rig, &mut client, &octets, 16_384);
        assert_eq!((place.pool, place.service), (pool, 3), "{name:?} {protocols:?}");
        assert_eq!((rig.happened(Happening::HelloComplete), rig.happened(Happening::HeadComplete)), (1, 0));
        rig.migrated(&place);
        assert_eq!(rig.forwarded().segment().payload, octets, "the board gets it as it was sent");
    }
}

#[test]
fn segments_and_records_of_any_size_give_the_same() {
    let message = hello(Some(b"a.example"), &["h2"], 1_700);
    for fragment_octets in [1, 3, 5, 700, 16_384] {
        for segment_octets in [1, 4, 536, 1_432] {
            let octets = records(&message, fragment_octets);
            let (mut rig, mut client) = (Rig::new(), Client::of(STRICT_TLS_SERVICE));
            let place = place(&mut rig, &mut client, &octets, segment_octets);
            assert_eq!(place.pool, 1, "{fragment_octets} {segment_octets}");
            rig.migrated(&place);
            let replayed: Vec<u8> =
                rig.packets_out().iter().flat_map(|packet| packet.segment().payload).collect();
            assert_eq!(replayed, octets);
        }
    }
}

#[test]
fn early_data_behind_the_hello_is_held_and_follows() {
    let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
    let octets =
        [&stream(Some(b"a.example"), &["h2"])[..], &[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 2, 7, 7]].concat();
    let place = place(&mut rig, &mut client, &octets, 16_384);
    rig.migrated(&place);
    assert_eq!(rig.forwarded().segment().payload, octets);
}

/// What comes of a stream that is refused: the alert's level and description, and then our FIN.
#[track_caller]
fn refused(endpoint: Ipv4Addr, octets: &[u8], reason: Happening) -> [u8; 2] {
    let (mut rig, mut client) = (Rig::new(), Client::of(endpoint));
    rig.shake(&mut client);
    let mut offset = 0;
    for segment in octets.chunks(1_024) {
        assert!(matches!(rig.client(&client.data(offset, segment)), Verdict::Held | Verdict::Answered));
        offset += segment.len() as u32;
        if rig.state(&client.flow) == Some(State::Local) {
            break;
        }
        rig.answer();
    }
    let alert = rig.answer();
    assert_eq!(alert.flags, Flags::ACK | Flags::PSH | Flags::FIN);
    assert_eq!((alert.seq, alert.ack), (client.iss + 1, client.irs + 1 + offset));
    assert_eq!((rig.happened(reason), rig.happened(Happening::AlertSent)), (1, 1), "{reason:?}");
    assert_eq!(rig.happened(Happening::AnsweredBadRequest), 0);
    rig.assert_silent();
    // The client acknowledges it and closes: nothing is left.
    assert_eq!(rig.client(&client.acks(offset, 8)), Verdict::Answered);
    let fin = crate::common::Seg { ack: client.iss + 9, ..client.fin(offset) };
    assert_eq!(rig.client(&fin), Verdict::Answered);
    rig.answer();
    rig.pass(2_100);
    assert_eq!(rig.state(&client.flow), None);
    let [21, 3, 3, 0, 2, level, description] = alert.payload[..] else { panic!("{:?}", alert.payload) };
    [level, description]
}

#[test]
fn names_that_nobody_serves_get_alert_112_where_the_service_says_so() {
    for (name, reason) in [(Some(&b"c.example"[..]), Happening::NameUnknown), (None, Happening::NameMissing)]
    {
        assert_eq!(refused(STRICT_TLS_SERVICE, &stream(name, &["h2"]), reason), [2, 112]);
    }
    let (mut rig, mut client) = (Rig::new(), Client::of(STRICT_TLS_SERVICE));
    assert_eq!(place(&mut rig, &mut client, &stream(Some(b"w.b.example"), &[]), 16_384).pool, 3);
}

#[test]
fn what_is_no_hello_gets_alert_50_for_its_own_reason() {
    let long_name = stream(Some(&[b'a'; 300]), &[]);
    let nul = stream(Some(b"a\0.example"), &[]);
    let no_protocols = records(
        &{
            let mut message = hello(None, &["h2"], 0);
            let at = message.len() - 3;
            message[at] = 0;
            message
        },
        16_384,
    );
    let mut interleaved = records(&hello(None, &[], 0), 20);
    interleaved[25] = 23;
    let mut shortened = stream(None, &[]);
    shortened[8] -= 1;
    for (octets, reason) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], Happening::HelloNotTls),
        (b"SSH-2.0-OpenSSH\r\n", Happening::HelloNotTls),
        (b"\x80\x2e\x01\x03\x01", Happening::HelloSsl2),
        (b"\x16\x03\x01\0\0", Happening::HelloBadRecord),
        (&interleaved, Happening::HelloBadRecord),
        (b"\x16\x03\x01\0\x04\x02\0\0\0", Happening::HelloMalformed),
        (&shortened, Happening::HelloMalformed),
        (b"\x16\x03\x01\x40\0\x01\0\x40\0", Happening::HelloTooLong),
        (&long_name, Happening::HelloBadName),
        (&nul, Happening::HelloBadName),
        (&no_protocols, Happening::HelloBadProtocols),
    ] {
        assert_eq!(refused(TLS_SERVICE, octets, reason), [2, 50], "{reason:?}");
    }
}

#[test]
fn a_hello_that_never_ends_is_refused_once_its_window_is_full() {
    // 13,000 octets in records of ten, which their headers make longer than what an entry holds.
    let octets = records(&hello(None, &[], 13_000), 10);
    assert!(octets.len() > 16_384);
    assert_eq!(refused(TLS_SERVICE, &octets[..16_384], Happening::HelloTooLong), [2, 50]);
}

#[test]
fn a_slow_hello_is_closed_and_a_cut_one_refused() {
    let octets = stream(Some(b"a.example"), &[]);
    let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
    rig.shake(&mut client);
    // One octet per second.
    for (second, octet) in octets.iter().take(10).enumerate() {
        assert_eq!(rig.client(&client.data(second as u32, &[*octet])), Verdict::Held);
        rig.answer();
        rig.pass(1_000);
    }
    let alert = rig.answer();
    assert_eq!(alert.payload, [21, 3, 3, 0, 2, 1, 0], "close_notify");
    assert!(alert.flags.contains(Flags::FIN));
    assert_eq!((rig.happened(Happening::HelloTimeout), rig.happened(Happening::AnsweredTimeout)), (1, 0));

    let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, &octets[..30])), Verdict::Held);
    rig.answer();
    assert_eq!(rig.client(&client.fin(30)), Verdict::Answered);
    assert_eq!(rig.answer().payload, [21, 3, 3, 0, 2, 2, 50]);
    assert_eq!(rig.happened(Happening::HelloCut), 1);
}

#[test]
fn without_a_board_a_tls_client_gets_alert_80() {
    for answer in [Answer::Unavailable, Answer::NotYet(RetryAfter::S10)] {
        let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
        let place = place(&mut rig, &mut client, &stream(None, &[]), 16_384);
        rig.command(Command::Answer { entry: place.entry, answer });
        assert_eq!(rig.answer().payload, [21, 3, 3, 0, 2, 2, 80]);
        assert_eq!(rig.happened(Happening::AlertUnavailable), 1);
        assert_eq!(rig.state(&client.flow), Some(State::Local));
    }
    let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
    let place = place(&mut rig, &mut client, &stream(None, &[]), 16_384);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Alert(Alert::InternalError) });
    assert_eq!(rig.happened(Happening::AlertSent), 1);
    rig.answer();
}

#[test]
fn the_handshakes_ack_alone_makes_no_entry() {
    let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.ack(0)), Verdict::Drop(Drop::NoRequest));
    assert_eq!(rig.state(&client.flow), None);
}

#[test]
fn http_2_that_begins_without_asking_is_placed_as_a_whole() {
    for segment_octets in [1, 10, 24] {
        let (mut rig, mut client) = (Rig::new(), Client::of(H2C_SERVICE));
        let place = place(&mut rig, &mut client, PREFACE, segment_octets);
        assert_eq!((place.pool, rig.happened(Happening::Http2Begun)), (9, 1));
        assert_eq!(rig.client(&client.data(24, &[0, 0, 0, 4, 0, 0, 0, 0, 0])), Verdict::Held);
        rig.migrated(&place);
        let replayed = rig.forwarded().segment().payload;
        assert_eq!((&replayed[..24], replayed.len()), (PREFACE, 33));
    }
}

#[test]
fn methods_that_begin_like_the_preface_are_read_as_http_1() {
    let (mut rig, mut client) = (Rig::new(), Client::of(H2C_SERVICE));
    let post = b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(place(&mut rig, &mut client, post, 1).pool, 1);
    let (mut rig, mut client) = (Rig::new(), Client::of(H2C_SERVICE));
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"PRI * HTTP/2.0\r\n\r\nXX")), Verdict::Answered);
    assert!(rig.answer().payload.starts_with(b"HTTP/1.1 400"));
}

#[test]
fn where_http_2_is_not_taken_its_preface_is_a_bad_request() {
    let (mut rig, mut client) = (Rig::new(), Client::new());
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, PREFACE)), Verdict::Answered);
    assert!(rig.answer().payload.starts_with(b"HTTP/1.1 400"));
    assert_eq!(rig.happened(Happening::Http2Begun), 0);
}

#[test]
fn a_client_that_resets_within_its_hello_leaves_nothing() {
    let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, &[22, 3, 1])), Verdict::Held);
    rig.answer();
    assert_eq!(rig.client(&client.rst(3)), Verdict::Answered);
    assert_eq!(rig.state(&client.flow), None);
    let (mut rig, mut client) = (Rig::new(), Client::of(TLS_SERVICE));
    let place = place(&mut rig, &mut client, &stream(None, &[]), 16_384);
    assert_eq!(rig.client(&client.rst(place.endpoint.octets_following)), Verdict::Answered);
    assert!(matches!(only(rig.told()), Event::Abandon { .. }));
}
