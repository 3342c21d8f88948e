//! What the appliance answers itself (the Local Table): 400, 408, 431, 503, and RST.

use ipos_pipelines::config::Timeouts;
use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, Command, Event};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{Flags, Options, Timestamps};

use crate::common::client::CLIENT_MAC;
use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{Client, Rig, START_UNIX_US, Seg, Segment, Setup, WAN_MAC, only};

const NOT_HTTP: &[u8] = b"\x16\x03\x01\x02\x00";

/// A client that has been answered 400, and the answer.
fn answered(rig: &mut Rig, client: &mut Client) -> Segment {
    rig.shake(client);
    assert_eq!(rig.client(&client.data(0, NOT_HTTP)), Verdict::Answered);
    let answer = rig.answer();
    assert_eq!(rig.state(&client.flow), Some(State::Local));
    answer
}

/// Octets of sequence space of an answer with its FIN.
fn taken_by(answer: &Segment) -> u32 {
    answer.payload.len() as u32 + 1
}

fn status(answer: &Segment) -> String {
    String::from_utf8_lossy(&answer.payload[..12]).into_owned()
}

#[test]
fn what_is_not_http_is_answered_400_at_once_and_closed() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let answer = answered(&mut rig, &mut client);
    assert_eq!(status(&answer), "HTTP/1.1 400");
    assert_eq!(answer.flags, Flags::ACK | Flags::PSH | Flags::FIN);
    assert_eq!((answer.seq, answer.ack), (client.iss + 1, client.irs + 6));
    let stamps = Timestamps { tsval: (START_UNIX_US / 1000) as u32, tsecr: 7_000 };
    assert_eq!(answer.options, Options { timestamps: Some(stamps), ..Options::default() });
    assert_eq!((answer.source_mac, answer.destination_mac), (WAN_MAC, CLIENT_MAC));
    assert_eq!(rig.happened(Happening::AnsweredBadRequest), 1);
    rig.assert_silent();
}

#[test]
fn a_fin_with_an_incomplete_head_is_answered_400() {
    for with_data in [true, false] {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        rig.shake(&mut client);
        if with_data {
            let both = Seg { flags: Flags::ACK | Flags::FIN, ..client.data(0, b"GET /") };
            assert_eq!(rig.client(&both), Verdict::Answered);
        } else {
            assert_eq!(rig.client(&client.data(0, b"GET /")), Verdict::Held);
            rig.answer();
            assert_eq!(rig.client(&client.fin(5)), Verdict::Answered);
        }
        let answer = rig.answer();
        assert_eq!((status(&answer).as_str(), answer.ack), ("HTTP/1.1 400", client.irs + 7), "the FIN too");
        assert_eq!(rig.state(&client.flow), Some(State::Local));
        // The client has closed its side already: its ACK of our FIN ends it all.
        assert_eq!(rig.client(&client.acks(6, taken_by(&answer))), Verdict::Answered);
        rig.pass(2_000);
        assert_eq!(rig.state(&client.flow), None);
        rig.assert_silent();
    }
}

#[test]
fn a_fin_that_overtook_the_data_before_it_waits() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
    assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Drop(Drop::OldSegment));
    assert_eq!(rig.state(&client.flow), Some(State::Temporary));
    assert_eq!(rig.client(&client.data(9, &REQUEST[9..])), Verdict::Held);
    rig.placed();
}

#[test]
fn a_request_longer_than_the_window_is_answered_431() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    let head = [&b"GET / HTTP/1.1\r\nHost: a\r\nX: "[..], &[b'x'; 17_000]].concat();
    let mut offset = 0;
    for chunk in head[..16_384].chunks(1_024) {
        assert_eq!(rig.state(&client.flow).is_some(), offset > 0);
        let last = offset + 1_024 == 16_384;
        let verdict = rig.client(&client.data(offset, chunk));
        assert_eq!(verdict, if last { Verdict::Answered } else { Verdict::Held });
        offset += 1_024;
        let answer = rig.answer();
        assert_eq!(answer.ack, client.irs + 1 + offset);
        assert_eq!(answer.flags.contains(Flags::FIN), last);
        if last {
            assert_eq!((status(&answer).as_str(), answer.window), ("HTTP/1.1 431", u16::MAX));
        }
    }
    assert_eq!(rig.happened(Happening::AnsweredTooLarge), 1);
}

#[test]
fn a_scaled_window_that_opens_no_further_is_answered_431() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    let head = [&b"GET / HTTP/1.1\r\nHost: a\r\nX: "[..], &[b'x'; 17_000]].concat();
    // The last 127 octets can never be offered in units of 128.
    let (mut offset, mut edge) = (0, 16_384);
    while offset < 16_257 {
        assert_eq!(rig.state(&client.flow).is_some(), offset > 0);
        let len = (edge - offset).min(1_000);
        assert!(len > 0, "the client waits at {offset}");
        let answer = match rig.client(&client.data(offset, &head[offset as usize..][..len as usize])) {
            Verdict::Held => rig.answer(),
            Verdict::Answered => break,
            other => panic!("{other:?} at {offset}"),
        };
        offset += len;
        edge = offset + (u32::from(answer.window) << 7);
    }
    assert_eq!(status(&rig.answer()), "HTTP/1.1 431");
}

#[test]
fn a_hundred_and_one_headers_are_answered_431() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x:y\r\n".repeat(100));
    assert_eq!(rig.client(&client.data(0, head.as_bytes())), Verdict::Answered);
    assert_eq!(status(&rig.answer()), "HTTP/1.1 431");
}

#[test]
fn a_head_that_never_ends_is_answered_408_however_busy_the_client_is() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    for second in 0..10 {
        assert_eq!(rig.client(&client.data(second, &REQUEST[second as usize..][..1])), Verdict::Held);
        rig.answer();
        rig.pass(if second < 9 { 1_000 } else { 999 });
    }
    rig.assert_silent();
    rig.pass(1);
    let answer = rig.answer();
    assert_eq!((status(&answer).as_str(), answer.ack), ("HTTP/1.1 408", client.irs + 11));
    assert_eq!(rig.state(&client.flow), Some(State::Local));
    assert_eq!((rig.happened(Happening::AnsweredTimeout), rig.happened(Happening::ExpiredPending)), (1, 1));
}

#[test]
fn no_board_is_answered_503_and_a_head_request_gets_no_body() {
    for (request, body) in [(REQUEST, true), (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", false)] {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        let place = rig.request(&mut client, request);
        rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
        let answer = rig.answer();
        assert_eq!(status(&answer), "HTTP/1.1 503");
        assert_eq!(answer.payload.ends_with(b"503 Service Unavailable\n"), body);
        assert_eq!(answer.payload.ends_with(b"\r\n\r\n"), !body);
        assert_eq!(answer.ack, client.irs + 1 + request.len() as u32, "now the request is acknowledged");
        assert_eq!(rig.happened(Happening::AnsweredUnavailable), 1);
        assert_eq!(rig.state(&client.flow), Some(State::Local));
        rig.assert_silent();
    }
}

#[test]
fn a_control_core_that_never_decides_is_answered_for_by_503() {
    let timeouts = Timeouts { place_ms: 3_000, ..Timeouts::default() };
    let mut rig = Rig::with(Setup { timeouts, ..Setup::default() });
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    rig.pass(2_999);
    rig.assert_silent();
    rig.pass(1);
    assert_eq!(status(&rig.answer()), "HTTP/1.1 503");
    match only(rig.told()) {
        Event::Abandon { entry, flow, migrated: None } => {
            assert_eq!((entry, flow), (place.entry, place.flow))
        }
        other => panic!("the attempt is to be given up, not {other:?}"),
    }
    // The decision that comes all the same is undone.
    rig.migrated(&place);
    assert!(matches!(only(rig.told()), Event::Abandon { migrated: Some(_), .. }));
    assert_eq!(rig.state(&client.flow), Some(State::Local));
    rig.assert_silent();
}

#[test]
fn every_answer_can_be_ordered() {
    for (answer, code) in [
        (Answer::BadRequest, "HTTP/1.1 400"),
        (Answer::RequestTimeout, "HTTP/1.1 408"),
        (Answer::HeadTooLarge, "HTTP/1.1 431"),
        (Answer::Unavailable, "HTTP/1.1 503"),
    ] {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        let place = rig.request(&mut client, REQUEST);
        rig.command(Command::Answer { entry: place.entry, answer });
        assert_eq!(status(&rig.answer()), code);
    }
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Reset });
    let reset = rig.answer();
    assert_eq!(reset.flags, Flags::RST | Flags::ACK);
    assert_eq!((reset.seq, reset.ack), (client.iss + 1, client.irs + 1 + REQUEST_LEN));
    assert_eq!(rig.state(&client.flow), None);
    assert_eq!(rig.happened(Happening::ResetSent), 1);
}

#[test]
fn an_answer_is_sent_again_with_doubling_pauses_and_given_up_with_a_rst() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let first = answered(&mut rig, &mut client);
    for pause_ms in [1_000, 2_000, 4_000, 8_000] {
        rig.pass(pause_ms - 1);
        rig.assert_silent();
        rig.pass(1);
        assert_eq!(rig.answer(), first);
    }
    rig.pass(15_999);
    rig.assert_silent();
    rig.pass(1);
    let reset = rig.answer();
    assert_eq!(reset.flags, Flags::RST | Flags::ACK);
    assert_eq!(reset.seq, client.iss + 1 + taken_by(&first), "where the client may have got to");
    assert_eq!(rig.state(&client.flow), None);
}

#[test]
fn an_answer_that_is_sent_again_says_the_same_whatever_the_client_has_sent_since() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"HEAD")), Verdict::Held);
    rig.answer();
    rig.pass(10_000);
    let first = rig.answer();
    assert_eq!(rig.client(&client.data(4, b" / HTTP/1.1\r\n")), Verdict::Answered);
    let acknowledged = rig.answer();
    assert_eq!(acknowledged.seq, client.iss + 1 + taken_by(&first));
    rig.pass(1_000);
    let again = rig.answer();
    assert_eq!((again.seq, again.flags, again.payload), (first.seq, first.flags, first.payload));
    assert_eq!(again.ack, acknowledged.ack);
}

#[test]
fn an_acknowledged_answer_is_not_sent_again() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let answer = answered(&mut rig, &mut client);
    assert_eq!(rig.client(&client.acks(5, taken_by(&answer))), Verdict::Answered);
    rig.pass(1_000);
    assert_eq!(rig.client(&client.ack(5)), Verdict::Answered, "an ACK that was overtaken takes nothing back");
    rig.pass(2_000);
    rig.assert_silent();
    assert_eq!(rig.state(&client.flow), Some(State::Local), "the client's FIN is still to come");
    rig.pass(4_000);
    rig.pass(8_000);
    rig.pass(16_000);
    assert_eq!(rig.answer().flags, Flags::RST | Flags::ACK, "a client that never closes");
    assert_eq!(rig.state(&client.flow), None);
}

#[test]
fn ack_and_fin_end_it_and_a_lost_last_ack_is_repeated() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let answer = answered(&mut rig, &mut client);
    let end = taken_by(&answer);
    assert_eq!(rig.client(&client.acks(5, end)), Verdict::Answered);
    rig.assert_silent();
    let fin = Seg { ack: client.iss + 1 + end, ..client.fin(5) };
    for pass_ms in [1_000, 999] {
        assert_eq!(rig.client(&fin), Verdict::Answered);
        let last = rig.answer();
        assert_eq!(last.flags, Flags::ACK);
        assert_eq!((last.seq, last.ack), (client.iss + 1 + end, client.irs + 7));
        rig.pass(pass_ms);
    }
    assert_eq!(rig.state(&client.flow), Some(State::Local));
    // A client that never stops does not keep it.
    rig.pass(1);
    assert_eq!(rig.state(&client.flow), None);
    rig.assert_silent();
}

#[test]
fn a_fin_before_the_answer_is_acknowledged_ends_it_too() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let answer = answered(&mut rig, &mut client);
    assert_eq!(rig.client(&client.fin(5)), Verdict::Answered, "crossed our answer");
    assert_eq!(rig.answer().ack, client.irs + 7);
    assert_eq!(rig.client(&client.acks(6, taken_by(&answer))), Verdict::Answered);
    rig.pass(2_000);
    assert_eq!(rig.state(&client.flow), None);
    rig.assert_silent();
}

#[test]
fn a_client_that_goes_on_sending_is_acknowledged() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let answer = answered(&mut rig, &mut client);
    assert_eq!(rig.client(&client.data(5, b"more")), Verdict::Answered);
    let ack = rig.answer();
    assert_eq!((ack.seq, ack.ack), (client.iss + 1 + taken_by(&answer), client.irs + 10));
    assert_eq!((ack.flags, ack.window), (Flags::ACK, u16::MAX));
    assert_eq!(rig.client(&client.ack(9)), Verdict::Drop(Drop::OldSegment), "nothing new in it");
    rig.assert_silent();
}

/// A client that reads only once it has sent all would never hear the answer if its window closed.
#[test]
fn a_body_of_any_length_is_acknowledged_and_thrown_away() {
    const LEN: u32 = 1_000;
    let mut rig = Rig::new();
    // The numbers go round meanwhile.
    let mut client = Client { irs: Seq(u32::MAX - 2_000_000), ..Client::new() };
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n";
    let place = rig.request(&mut client, head);
    let begin = head.len() as u32;
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    let answer = rig.answer();
    assert_eq!(
        (status(&answer).as_str(), answer.window),
        ("HTTP/1.1 503", u16::MAX),
        "nothing is kept of it"
    );
    for at in (begin..begin + 4_000_000).step_by(LEN as usize) {
        let body = [b'x'; LEN as usize];
        client.tsval += 1;
        assert_eq!(rig.client(&client.data(at, &body)), Verdict::Answered);
        let ack = rig.answer();
        assert_eq!(ack.ack, client.irs + 1 + at + LEN);
        assert_eq!(
            ack.options.timestamps.map(|stamps| stamps.tsecr),
            Some(client.tsval),
            "or it takes us for slow"
        );
    }
    // The client has sent all, and reads.
    let fin = Seg { ack: client.iss + 1 + taken_by(&answer), ..client.fin(begin + 4_000_000) };
    assert_eq!(rig.client(&fin), Verdict::Answered);
    assert_eq!(rig.answer().ack, client.irs + 2 + begin + 4_000_000);
    rig.pass(2_000);
    assert_eq!(rig.state(&client.flow), None);
    rig.assert_silent();
}

#[test]
fn what_is_lost_behind_an_answer_need_not_come_again() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let answer = answered(&mut rig, &mut client);
    let end = taken_by(&answer);
    let takes = |rig: &mut Rig, segment: &Seg, next: u32, what: &str| {
        assert_eq!(rig.client(segment), Verdict::Answered, "{what}");
        assert_eq!(rig.answer().ack, client.irs + 1 + next, "{what}");
    };
    takes(&mut rig, &client.data(9, b"more"), 13, "octets behind a gap");
    takes(&mut rig, &client.data(5, b"lost"), 13, "what was lost, after all");
    takes(&mut rig, &client.data(11, b"__gap?"), 17, "two octets were there before");
    takes(&mut rig, &client.ack(16), 17, "a probe");
    takes(&mut rig, &client.ack(20), 20, "an acknowledgement ahead of octets that are lost");
    takes(&mut rig, &Seg { ack: client.iss + 1 + end, ..client.fin(30) }, 31, "a FIN ahead of them");
    takes(&mut rig, &client.data(20, b"before it"), 31, "late");
    takes(&mut rig, &client.data(31, b"past it"), 31, "nothing comes after a FIN");
    assert_eq!(rig.client(&client.rst(30)), Verdict::Drop(Drop::OutOfWindow));
    assert_eq!(rig.client(&client.rst(31)), Verdict::Answered);
    assert_eq!(rig.state(&client.flow), None);
}

#[test]
fn what_a_local_entry_cannot_have_sent_or_heard_is_dropped() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let answer = answered(&mut rig, &mut client);
    let outside = Verdict::Drop(Drop::OutOfWindow);
    assert_eq!(rig.client(&client.acks(5, taken_by(&answer) + 1)), outside);
    assert_eq!(rig.client(&Seg { ack: client.iss, ..client.ack(5) }), outside);
    assert_eq!(rig.client(&client.data(5 + 65_535, b"x")), outside);
    let mut damaged = client.data(5, b"more").frame();
    *damaged.last_mut().expect("an octet") ^= 1;
    assert_eq!(rig.on_wan(&damaged), Verdict::Drop(Drop::BadTcpChecksum));
    rig.assert_silent();
}

#[test]
fn a_client_with_a_tiny_mss_gets_the_answer_in_pieces() {
    let mut rig = Rig::new();
    let mut client = Client { offers: Options { mss: Some(100), ..Options::default() }, ..Client::new() };
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, NOT_HTTP)), Verdict::Answered);
    let pieces = rig.segments_out();
    let mut text = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        assert_eq!(piece.seq, client.iss + 1 + text.len() as u32);
        assert!(piece.payload.len() <= 64, "{} octets", piece.payload.len());
        assert_eq!(piece.flags.contains(Flags::FIN), at + 1 == pieces.len());
        text.extend_from_slice(&piece.payload);
    }
    assert!(pieces.len() > 1 && text.ends_with(b"400 Bad Request\n"));
}

#[test]
fn late_verdicts_find_nothing_to_do() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    rig.answer();
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    rig.assert_silent();
    assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Answered);
    assert_eq!(rig.state(&client.flow), None);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    rig.assert_silent();
}
