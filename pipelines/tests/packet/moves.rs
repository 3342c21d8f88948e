//! Later requests of one connection: where they begin, which of them are moved, and that all others stay (`watch.rs`).

use ipos_pipelines::config::Timeouts;
use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, Command, Counted, EndedFlow, Event, Holder, NO_POOL, Place, Stay};
use ipos_pipelines::services::{Kind, Services};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ipos::Protocol;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{Flags, Timestamps};

use crate::common::setup::{plain, services};
use crate::common::{
    BOARD, BOARD_MAC, Client, MIGRATION, MOVING_SERVICE, OTHER_BOARD, OTHER_BOARD_MAC, Rig, SERVICE_PORT,
    Seg, Setup, only,
};

const A: &[u8] = b"GET /a/1 HTTP/1.1\r\nHost: a\r\n\r\n";
const B: &[u8] = b"GET /b/1 HTTP/1.1\r\nHost: a\r\n\r\n";
/// The attempt by which the second board takes the connection.
const SECOND: u64 = MIGRATION + 1;
/// Octets of every answer.
const ANSWER: u32 = 100;

/// One connection: how far both sides are.
struct Talk {
    rig: Rig,
    client: Client,
    sent: u32,
    heard: u32,
}

impl Talk {
    /// Up to a watched connection, whose first request has been answered.
    #[track_caller]
    fn begin(first: &[u8]) -> Self {
        Self::with(Rig::new(), Client::of(MOVING_SERVICE), first)
    }

    #[track_caller]
    fn with(rig: Rig, client: Client, first: &[u8]) -> Self {
        let mut talk = Self { rig, client, sent: 0, heard: 0 };
        talk.rig.migrate(&mut talk.client, first);
        talk.sent = first.len() as u32;
        talk.answered();
        talk.is(State::Watched);
        talk
    }

    /// The answer comes, and the client acknowledges it.
    #[track_caller]
    fn answered(&mut self) {
        self.heard += ANSWER;
        self.client.tsval += 3;
        self.client.tsecr += 2;
        assert_eq!(self.takes(self.acks()), Verdict::Forwarded);
        self.rig.forwarded();
    }

    fn takes(&mut self, segment: Seg) -> Verdict {
        self.rig.client(&segment)
    }

    fn acks(&self) -> Seg {
        self.client.acks(self.sent, self.heard)
    }

    /// A segment at this distance from what has been sent so far.
    fn segment(&self, offset: u32, octets: &[u8]) -> Seg {
        Seg { ack: self.client.iss + 1 + self.heard, ..self.client.data(self.sent + offset, octets) }
    }

    #[track_caller]
    fn sends(&mut self, octets: &[u8]) -> Verdict {
        let verdict = self.takes(self.segment(0, octets));
        self.sent += octets.len() as u32;
        verdict
    }

    #[track_caller]
    fn is(&self, state: State) {
        assert_eq!(self.rig.state(&self.client.flow), Some(state));
    }

    /// What was sent last is forwarded as it came.
    #[track_caller]
    fn goes_to(&mut self, mac: Mac, octets: &[u8]) {
        let packet = self.rig.forwarded();
        assert_eq!((packet.destination_mac, packet.segment().payload), (mac, octets.to_vec()));
    }

    /// The control core has been told that the connection is to be moved.
    #[track_caller]
    fn asked(&mut self) -> Place {
        match only(self.rig.told()) {
            Event::Move { place, board, migration_id, .. } => {
                assert_eq!((board, migration_id), (BOARD, MIGRATION));
                place
            }
            other => panic!("a move, not {other:?}"),
        }
    }

    fn moved(&mut self, place: &Place) {
        let (entry, flow) = (place.entry, place.flow);
        self.rig.command(Command::Migrated {
            entry,
            flow,
            board: OTHER_BOARD,
            migration_id: SECOND,
            counted: Counted::No,
        });
    }

    fn stays(&mut self, place: &Place, why: Stay) {
        self.rig.command(Command::Stay { entry: place.entry, why });
    }

    /// The connection stays with its board, and nobody looks at it any more.
    #[track_caller]
    fn is_unwatched(&self, reason: Happening) {
        self.is(State::Forward);
        assert_eq!(self.rig.happened(reason), 1, "{reason:?}");
        assert_eq!(
            self.rig.entry(&self.client.flow).map(|entry| (entry.board, entry.pending)),
            Some((BOARD, None))
        );
    }
}

#[test]
fn a_request_of_the_same_row_goes_on_as_it_is_and_the_next_one_is_found() {
    let mut talk = Talk::begin(A);
    for _ in 0..3 {
        assert_eq!(talk.sends(A), Verdict::Forwarded);
        talk.goes_to(BOARD_MAC, A);
        talk.answered();
    }
    talk.is(State::Watched);
    assert_eq!(talk.sends(B), Verdict::Held);
    talk.asked();
    talk.rig.assert_silent();
}

#[test]
fn a_request_of_another_row_moves_the_endpoint_as_its_first_segment_says() {
    let mut talk = Talk::begin(A);
    let (seq, ack) = (talk.client.irs + 1 + talk.sent, talk.client.iss + 1 + talk.heard);
    let first = talk.rig.entry(&talk.client.flow).map(|entry| entry.board);
    assert_eq!(first, Some(BOARD));
    assert_eq!(talk.sends(B), Verdict::Held);
    talk.is(State::ForwardConnect);
    let place = talk.asked();
    let tcb = place.tcb();
    assert_eq!((tcb.rcv_nxt, tcb.snd_nxt, tcb.snd_una), (seq, ack, ack));
    assert_eq!((tcb.ts_recent, tcb.last_tsval), (talk.client.tsval, talk.client.tsecr));
    assert_eq!(
        (tcb.client_mss, tcb.our_mss, tcb.client_window_scale, tcb.our_window_scale),
        (1460, 1444, 9, 7)
    );
    assert_eq!((place.pool, tcb.octets_following), (2, B.len() as u32));
    talk.rig.assert_silent();

    talk.rig.pass(3);
    talk.moved(&place);
    let packet = talk.rig.forwarded();
    let segment = packet.segment();
    assert_eq!(packet.destination_mac, OTHER_BOARD_MAC);
    assert_eq!((segment.seq, segment.ack, segment.payload), (seq, ack, B.to_vec()));
    let stamps = Timestamps { tsval: talk.client.tsval, tsecr: talk.client.tsecr };
    assert_eq!(segment.options.timestamps, Some(stamps));
    assert_eq!((talk.rig.happened(Happening::Moved), talk.rig.counters.moves.read()[11]), (1, 1), "5 ms");

    // The answer comes from there, and the next request goes back.
    talk.answered();
    talk.is(State::Watched);
    assert_eq!(talk.sends(B), Verdict::Forwarded);
    talk.goes_to(OTHER_BOARD_MAC, B);
    talk.answered();
    assert_eq!(talk.sends(A), Verdict::Held);
    match only(talk.rig.told()) {
        Event::Move { place, board: OTHER_BOARD, migration_id: SECOND, .. } => assert_eq!(place.pool, 1),
        other => panic!("a move back, not {other:?}"),
    }
}

#[test]
fn a_client_without_options_is_moved_too() {
    let client = Client { flow: Client::of(MOVING_SERVICE).flow, ..Client::plain() };
    let mut talk = Talk::with(Rig::new(), client, A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    assert_eq!((place.tcb().last_tsval, place.tcb().client_mss), (0, 1460));
    talk.moved(&place);
    assert_eq!(talk.rig.forwarded().segment().options.timestamps, None);
}

#[test]
fn other_services_are_not_watched() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    assert_eq!(rig.state(&client.flow), Some(State::Forward));
    assert_eq!(rig.happened(Happening::WatchBegun), 0);
}

#[test]
fn every_answer_of_the_control_core_lets_the_request_go_on() {
    let reasons = [
        (Stay::Busy, Happening::StayedBusy),
        (Stay::NotHeld, Happening::StayedNotHeld),
        (Stay::Silent, Happening::StayedSilent),
        (Stay::NoBoard, Happening::StayedNoBoard),
        (Stay::NoRoom, Happening::StayedNoRoom),
        (Stay::Shared, Happening::StayedShared),
    ];
    for (why, counted) in reasons {
        let mut talk = Talk::begin(A);
        assert_eq!(talk.sends(B), Verdict::Held);
        let place = talk.asked();
        talk.stays(&place, why);
        talk.goes_to(BOARD_MAC, B);
        assert_eq!(talk.rig.happened(counted), 1, "{why:?}");
        // What a silent board was sent is held until the client shows that it is there.
        talk.is(if why == Stay::Silent { State::Forward } else { State::Watched });
        // A second word changes nothing.
        talk.stays(&place, why);
        talk.rig.assert_silent();
        talk.answered();
        let asks_again = why != Stay::Shared;
        assert_eq!(talk.sends(B), if asks_again { Verdict::Held } else { Verdict::Forwarded }, "{why:?}");
    }
}

#[test]
fn when_no_board_takes_it_the_appliance_answers_with_the_numbers_of_the_request() {
    let mut talk = Talk::begin(A);
    // Its board's clock is ahead of the appliance's.
    talk.client.tsecr += 1_000_000;
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    talk.is(State::Local);
    let answer = talk.rig.answer();
    assert_eq!((answer.seq, answer.ack), (talk.client.iss + 1 + talk.heard, talk.client.irs + 1 + talk.sent));
    assert!(answer.payload.starts_with(b"HTTP/1.1 503 ") && answer.flags.contains(Flags::FIN));
    let stamps = answer.options.timestamps.expect("time stamps are in force");
    assert_eq!(stamps.tsval, talk.client.tsecr, "an earlier one would be dropped");
}

#[test]
fn a_row_that_the_appliance_answers_detaches_first() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(b"HEAD /no/ HTTP/1.1\r\nHost: a\r\n\r\n"), Verdict::Held);
    let place = talk.asked();
    assert_eq!(place.pool, NO_POOL);
    talk.rig.assert_silent();
    talk.rig.command(Command::Detached { entry: place.entry });
    let answer = talk.rig.answer();
    assert_eq!((answer.seq, answer.ack), (talk.client.iss + 1 + talk.heard, talk.client.irs + 1 + talk.sent));
    let text = String::from_utf8(answer.payload).expect("text");
    assert!(text.starts_with("HTTP/1.1 403 ") && text.ends_with("\r\n\r\n"), "{text}");
    assert_eq!(talk.rig.happened(Happening::MovedHere), 1);
    // The connection is nobody's any more: its end abandons nothing.
    let end = answer.seq + text.len() as u32 + 1;
    assert_eq!(
        talk.rig.client(&Seg { seq: answer.ack, ack: end, ..talk.client.rst(talk.sent) }),
        Verdict::Answered
    );
    talk.rig.assert_silent();
}

#[test]
fn a_head_in_pieces_is_held_unacknowledged_and_placed_when_it_is_whole() {
    for (row, elsewhere) in [(A, false), (B, true)] {
        let mut talk = Talk::begin(A);
        assert_eq!(talk.sends(&row[..9]), Verdict::Held);
        talk.rig.assert_silent();
        assert_eq!(talk.sends(&row[9..]), Verdict::Held);
        if elsewhere {
            let place = talk.asked();
            talk.moved(&place);
        }
        talk.goes_to(if elsewhere { OTHER_BOARD_MAC } else { BOARD_MAC }, row);
        talk.answered();
        talk.is(State::Watched);
    }
}

#[test]
fn pieces_that_overtake_each_other_wait_for_the_first() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.takes(talk.segment(9, &B[9..])), Verdict::Held);
    talk.rig.assert_silent();
    assert_eq!(talk.takes(talk.segment(0, &B[..9])), Verdict::Held);
    talk.sent += B.len() as u32;
    let place = talk.asked();
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, B);
}

#[test]
fn what_only_an_acknowledgement_would_complete_goes_to_its_board() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.takes(talk.segment(0, &B[..9])), Verdict::Held);
    assert_eq!(talk.takes(talk.segment(0, &B[..9])), Verdict::Drop(Drop::OldSegment));
    talk.goes_to(BOARD_MAC, &B[..9]);
    talk.is_unwatched(Happening::UnwatchedIncomplete);
}

#[test]
fn what_is_not_completed_in_time_goes_to_its_board() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(&B[..9]), Verdict::Held);
    talk.rig.pass(1_000);
    talk.goes_to(BOARD_MAC, &B[..9]);
    talk.is_unwatched(Happening::UnwatchedIncomplete);
    assert_eq!(talk.sends(&B[9..]), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, &B[9..]);
}

#[test]
fn what_is_out_of_reach_is_left_to_the_clients_retransmission() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.takes(talk.segment(16_380, b"12345")), Verdict::Drop(Drop::OutOfWindow));
    assert_eq!(talk.sends(&B[..9]), Verdict::Held);
    assert_eq!(talk.takes(talk.segment(16_380, b"12345")), Verdict::Drop(Drop::OutOfWindow));
    talk.rig.assert_silent();
}

#[test]
fn bodies_are_gone_past() {
    let post = |path: &str, len: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n").into_bytes()
    };
    let mut talk = Talk::begin(A);
    let head = post("/a/", 3_000);
    assert_eq!(talk.sends(&head), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, &head);
    // A body may look like a request, come out of order and again.
    let body = [B, &[b'x'; 1_400]].concat();
    for at in [1_400, 0, 0, 1_400] {
        let piece = &body[..body.len().min(1_400)];
        assert_eq!(talk.takes(talk.segment(at, piece)), Verdict::Forwarded);
        talk.goes_to(BOARD_MAC, piece);
    }
    assert_eq!(talk.takes(talk.segment(2_800, &[b'y'; 200])), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, &[b'y'; 200]);
    talk.sent += 3_000;
    talk.answered();
    // A body that follows its head is held with it, as far as there is room.
    let head = post("/b/", 40_000);
    assert_eq!(talk.sends(&head), Verdict::Held);
    let place = talk.asked();
    for _ in 0..10 {
        assert_eq!(talk.sends(&[b'z'; 1_400]), Verdict::Held);
    }
    let past_the_window =
        [talk.takes(talk.segment(0, &[b'z'; 1_400])), talk.takes(talk.segment(1_400, &[b'z'; 1_400]))];
    assert_eq!(past_the_window, [Verdict::Held, Verdict::Drop(Drop::OutOfWindow)]);
    talk.sent += 1_400;
    talk.moved(&place);
    let packets = talk.rig.packets_out();
    let carried: usize = packets.iter().map(|packet| packet.segment().payload.len()).sum();
    assert_eq!(carried, head.len() + 11 * 1_400);
    // The rest follows straight, even before anything of it is acknowledged.
    let rest = 40_000 - 11 * 1_400;
    for _ in 0..rest / 1_400 {
        assert_eq!(talk.sends(&[b'z'; 1_400]), Verdict::Forwarded);
        talk.goes_to(OTHER_BOARD_MAC, &[b'z'; 1_400]);
    }
    let last = vec![b'z'; rest % 1_400];
    assert_eq!(talk.sends(&last), Verdict::Forwarded);
    talk.goes_to(OTHER_BOARD_MAC, &last);
    talk.answered();
    assert_eq!(talk.sends(A), Verdict::Held);
}

#[test]
fn chunks_are_followed_from_the_first_request_on() {
    let head = b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    let mut talk = Talk::begin(A);
    talk.rig = {
        // A new rig: the first request itself is chunked, and its body is not whole when it is migrated.
        let mut rig = Rig::new();
        let mut client = Client::of(MOVING_SERVICE);
        rig.migrate(&mut client, head);
        talk.client = client;
        rig
    };
    (talk.sent, talk.heard) = (head.len() as u32, 0);
    assert_eq!(talk.sends(b"cde\r\n0\r"), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, b"cde\r\n0\r");
    assert_eq!(talk.sends(b"\n\r\n"), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, b"\n\r\n");
    talk.answered();
    talk.is(State::Watched);
    assert_eq!(talk.sends(B), Verdict::Held);
    talk.asked();
}

#[test]
fn what_follows_while_the_boards_are_asked_is_followed_too() {
    let head = b"POST /b/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    // The rest of a chunked body, and the next request after its answer.
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(head), Verdict::Held);
    let place = talk.asked();
    assert_eq!(talk.sends(b"cde\r\n0\r\n"), Verdict::Held);
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, &[&head[..], b"cde\r\n0\r\n"].concat());
    assert_eq!(talk.sends(b"\r\n"), Verdict::Forwarded);
    talk.goes_to(OTHER_BOARD_MAC, b"\r\n");
    talk.answered();
    assert_eq!(talk.sends(A), Verdict::Held);
    // The next request before any answer.
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    assert_eq!(talk.sends(A), Verdict::Held);
    assert_eq!(talk.rig.happened(Happening::UnwatchedPipelined), 1);
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, &[B, A].concat());
    talk.answered();
    talk.is(State::Forward);
}

#[test]
fn a_board_that_knows_the_endpoint_by_another_attempt_ends_the_watch() {
    for (id, state) in [(MIGRATION, State::Watched), (0, State::Forward)] {
        let timeouts = Timeouts { idle_ms: 5_000, ..Timeouts::default() };
        let rig = Rig::with(Setup { timeouts, ..Setup::default() });
        let mut talk = Talk::with(rig, Client::of(MOVING_SERVICE), A);
        talk.rig.pass(5_001);
        match only(talk.rig.told()) {
            Event::WhoHolds { entry, .. } => {
                talk.rig.command(Command::Holder { entry, holder: Holder::Board(BOARD, id) });
            }
            other => panic!("a question, not {other:?}"),
        }
        talk.is(state);
    }
}

#[test]
fn a_board_that_is_cut_off_while_the_connection_is_idle_does_not_end_the_watch() {
    let timeouts = Timeouts { idle_ms: 5_000, ..Timeouts::default() };
    let rig = Rig::with(Setup { timeouts, ..Setup::default() });
    let mut talk = Talk::with(rig, Client::of(MOVING_SERVICE), A);
    talk.rig.pass(5_001);
    let Event::WhoHolds { entry, .. } = only(talk.rig.told()) else { panic!("a question") };
    talk.rig.command(Command::Holder { entry, holder: Holder::Unknown });
    talk.is(State::Watched);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, B);
}

#[test]
fn whatever_is_not_sure_stays_where_it_is() {
    let chunked = "POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: [(String, Happening); 9] = [
        (
            "GET /b/ HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".into(),
            Happening::UnwatchedUpgrade,
        ),
        ("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n".into(), Happening::UnwatchedUpgrade),
        ("GET /a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), Happening::UnwatchedLast),
        ("GET /a/ HTTP/1.0\r\n\r\n".into(), Happening::UnwatchedLast),
        (
            "POST /b/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n".into(),
            Happening::UnwatchedLong,
        ),
        (format!("{chunked}zz\r\n"), Happening::UnwatchedChunks),
        ("GET /b/ HTTP/1.1\r\n\r\n".into(), Happening::UnwatchedMalformed),
        (
            "GET /b/%2fx HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                .into(),
            Happening::UnwatchedMalformed,
        ),
        (String::from_utf8([B, B].concat()).expect("text"), Happening::UnwatchedPipelined),
    ];
    for (request, reason) in cases {
        let mut talk = Talk::begin(A);
        assert_eq!(talk.sends(request.as_bytes()), Verdict::Forwarded, "{request}");
        talk.goes_to(BOARD_MAC, request.as_bytes());
        talk.is_unwatched(reason);
        // For good: the fast path has it.
        talk.answered();
        assert_eq!(talk.sends(B), Verdict::Forwarded, "{request}");
        talk.goes_to(BOARD_MAC, B);
    }
}

#[test]
fn the_last_request_of_a_connection_is_moved_too_and_nothing_is_waited_for_then() {
    let mut talk = Talk::begin(A);
    let last = b"GET /b/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(talk.sends(last), Verdict::Held);
    let place = talk.asked();
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, last);
    talk.answered();
    talk.is(State::Forward);
}

#[test]
fn a_request_before_the_answer_is_pipelining() {
    // Right behind the first, while that is not settled yet.
    let mut rig = Rig::new();
    let mut client = Client::of(MOVING_SERVICE);
    rig.migrate(&mut client, A);
    assert_eq!(rig.client(&client.data(A.len() as u32, B)), Verdict::Forwarded);
    assert_eq!(rig.happened(Happening::UnwatchedPipelined), 1);
    // Behind a later one.
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(A), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, A);
    assert_eq!(talk.sends(B), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, B);
    talk.is_unwatched(Happening::UnwatchedPipelined);
    // In the segment that ends a body.
    let mut talk = Talk::begin(A);
    let post = b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(talk.sends(post), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, post);
    let both = [b"abc", B].concat();
    assert_eq!(talk.sends(&both), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, &both);
    talk.is_unwatched(Happening::UnwatchedPipelined);
}

#[test]
fn an_answer_that_goes_on_ends_the_wait_for_the_rest_of_a_head() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(&B[..9]), Verdict::Held);
    talk.heard += 50;
    assert_eq!(talk.takes(talk.acks()), Verdict::Forwarded);
    let packets = talk.rig.packets_out();
    assert_eq!(
        packets.iter().map(|packet| packet.segment().payload).collect::<Vec<_>>(),
        [B[..9].to_vec(), vec![]]
    );
    talk.is_unwatched(Happening::UnwatchedPipelined);
}

#[test]
fn probes_and_acknowledgements_go_to_the_board_meanwhile() {
    let mut talk = Talk::begin(A);
    for segment in [
        talk.acks(),
        Seg { seq: talk.client.irs + talk.sent, ..talk.segment(0, b"x") },
        Seg { seq: talk.client.irs + talk.sent, ..talk.acks() },
    ] {
        assert_eq!(talk.rig.client(&segment), Verdict::Forwarded);
        assert_eq!(talk.rig.forwarded().destination_mac, BOARD_MAC);
    }
    talk.is(State::Watched);
}

#[test]
fn a_damaged_request_is_nobodys() {
    let mut talk = Talk::begin(A);
    let mut frame = talk.segment(0, B).frame();
    *frame.last_mut().expect("octets") ^= 1;
    assert_eq!(talk.rig.on_wan(&frame), Verdict::Drop(Drop::BadTcpChecksum));
    assert_eq!(talk.sends(B), Verdict::Held);
    talk.asked();
    assert_eq!(talk.rig.on_wan(&frame), Verdict::Drop(Drop::BadTcpChecksum));
}

#[test]
fn a_retransmission_after_the_move_repeats_the_attempt_with_the_same_numbers() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    // While the boards are asked it brings nothing new.
    let again = Seg { seq: talk.client.irs + 1 + A.len() as u32, ..talk.segment(0, B) };
    assert_eq!(talk.rig.client(&again), Verdict::Drop(Drop::OldSegment));
    talk.moved(&place);
    talk.rig.forwarded();
    assert_eq!(talk.rig.client(&again), Verdict::Held);
    match only(talk.rig.told()) {
        Event::Repeat { place: repeated, board: OTHER_BOARD, migration_id: SECOND } => {
            assert_eq!(repeated.tcb(), place.tcb());
        }
        other => panic!("a repetition, not {other:?}"),
    }
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, B);
    talk.answered();
    talk.is(State::Watched);
}

#[test]
fn the_acknowledgement_of_a_repeated_attempt_comes_too_late_to_matter() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.moved(&place);
    talk.rig.forwarded();
    // The answer is lost, and the client sends its request again just before the board does the same with the answer.
    let again = Seg { seq: talk.client.irs + 1 + A.len() as u32, ..talk.segment(0, B) };
    assert_eq!(talk.rig.client(&again), Verdict::Held);
    assert!(matches!(only(talk.rig.told()), Event::Repeat { .. }));
    talk.answered();
    talk.is(State::Watched);
    talk.moved(&place);
    talk.is(State::Watched);
    assert_eq!(talk.rig.told().len(), 0, "nobody is told to give up what lives");

    // The same with a request behind it that is the first board's again: it is not sent to the second.
    assert_eq!(talk.sends(A), Verdict::Held);
    let back = match only(talk.rig.told()) {
        Event::Move { place, board: OTHER_BOARD, migration_id: SECOND, .. } => place,
        other => panic!("a move, not {other:?}"),
    };
    talk.moved(&place);
    talk.is(State::ForwardConnect);
    assert!(talk.rig.packets_out().is_empty());
    let (entry, flow, counted) = (back.entry, back.flow, Counted::No);
    talk.rig.command(Command::Migrated { entry, flow, board: BOARD, migration_id: SECOND + 1, counted });
    talk.goes_to(BOARD_MAC, A);
    talk.answered();
    talk.is(State::Watched);
    assert_eq!(talk.rig.happened(Happening::Repeated), 2);
}

#[test]
fn the_failure_of_a_repeated_attempt_does_not_end_what_moves_on() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.rig.command(Command::Answer { entry: place.entry, answer: Answer::Reset });
    talk.is(State::ForwardConnect);
    assert!(talk.rig.packets_out().is_empty(), "the client hears nothing of it");
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, B);
}

#[test]
fn the_failure_of_a_repeated_attempt_does_not_end_what_has_moved_on() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.moved(&place);
    talk.goes_to(OTHER_BOARD_MAC, B);
    // Nothing has been repeated of this request: the word is about an earlier one.
    let reset = || Command::Answer { entry: place.entry, answer: Answer::Reset };
    talk.rig.command(reset());
    talk.is(State::Forward);
    talk.rig.assert_silent();
    talk.answered();
    talk.rig.command(reset());
    talk.is(State::Watched);
    talk.rig.assert_silent();
}

/// A board that was asked to give the connection up, and was silent, is sent the request.
fn with_a_silent_board() -> (Talk, Place) {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.stays(&place, Stay::Silent);
    talk.goes_to(BOARD_MAC, B);
    talk.is(State::Forward);
    (talk, place)
}

#[test]
fn a_request_that_a_silent_board_turns_out_not_to_have_is_moved_after_all() {
    let again = |talk: &Talk| Seg {
        seq: talk.client.irs + 1 + A.len() as u32,
        ack: talk.client.iss + 1 + talk.heard,
        ..talk.client.data(0, B)
    };
    let flow = Client::of(MOVING_SERVICE).flow;
    let of_board = |board, migration_id| Command::Left { flow, board, migration_id };
    let stray = Command::Closed { flow, board: BOARD, migration_id: 0 };
    let hints: [(&str, Option<Command>); 3] =
        [("sent again", None), ("a late word", Some(of_board(BOARD, MIGRATION))), ("a stray", Some(stray))];
    for (what, hint) in hints {
        let (mut talk, first) = with_a_silent_board();
        // Of another board, or another attempt: no news.
        talk.rig.command(of_board(OTHER_BOARD, MIGRATION));
        talk.rig.command(of_board(BOARD, SECOND));
        talk.rig.assert_silent();
        match hint {
            None => assert_eq!(talk.takes(again(&talk)), Verdict::Held),
            Some(command) => talk.rig.command(command),
        }
        let place = talk.asked();
        assert_eq!((place.tcb(), place.pool), (first.tcb(), 2), "{what}");
        talk.is(State::ForwardConnect);
        // While it is asked, nothing is asked twice.
        assert_eq!(talk.takes(again(&talk)), Verdict::Drop(Drop::OldSegment));
        talk.rig.command(of_board(BOARD, MIGRATION));
        talk.rig.assert_silent();
        talk.moved(&place);
        talk.goes_to(OTHER_BOARD_MAC, B);
        talk.answered();
        talk.is(State::Watched);
        assert_eq!(talk.rig.happened(Happening::MoveAskedAgain), 1, "{what}");
    }
}

#[test]
fn a_silent_board_that_has_the_request_keeps_the_connection() {
    // It answers the client.
    let (mut talk, place) = with_a_silent_board();
    talk.answered();
    talk.is(State::Watched);
    talk.stays(&place, Stay::Busy);
    talk.rig.assert_silent();
    assert_eq!(talk.sends(A), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, A);
    // It says so when it is asked again.
    let (mut talk, place) = with_a_silent_board();
    let flow = talk.client.flow;
    talk.rig.command(Command::Left { flow, board: BOARD, migration_id: MIGRATION });
    talk.asked();
    talk.stays(&place, Stay::Busy);
    talk.goes_to(BOARD_MAC, B);
    talk.is(State::Watched);
    // Nobody can take it just now, so that the board is not asked: that may be otherwise when the client sends it again.
    let (mut talk, place) = with_a_silent_board();
    talk.rig.command(Command::Left { flow, board: BOARD, migration_id: MIGRATION });
    talk.asked();
    talk.stays(&place, Stay::NoBoard);
    talk.goes_to(BOARD_MAC, B);
    talk.is(State::Forward);
    // Its endpoint closes.
    let (mut talk, _) = with_a_silent_board();
    talk.rig.command(Command::Closed { flow, board: BOARD, migration_id: MIGRATION });
    let closing = |talk: &Talk| talk.rig.entry(&flow).map(|entry| entry.closing);
    assert_eq!(closing(&talk), Some(true));
    talk.rig.command(Command::Left { flow, board: BOARD, migration_id: MIGRATION });
    talk.rig.assert_silent();
    talk.rig.pass(2_000);
    assert_eq!(talk.rig.state(&flow), None);
}

#[test]
fn a_request_with_a_silent_board_is_not_held_for_ever() {
    // Nothing more is heard of it.
    let (mut talk, _) = with_a_silent_board();
    talk.rig.pass(30_000);
    talk.is(State::Watched);
    // The board is silent each time.
    let (mut talk, place) = with_a_silent_board();
    let flow = talk.client.flow;
    let left = || Command::Left { flow, board: BOARD, migration_id: MIGRATION };
    for _ in 0..6 {
        talk.rig.pass(4_900);
        talk.rig.command(left());
        talk.asked();
        talk.stays(&place, Stay::Silent);
        talk.goes_to(BOARD_MAC, B);
    }
    talk.rig.pass(4_900);
    talk.rig.command(left());
    talk.rig.assert_silent();
    talk.is(State::Watched);
}

#[test]
fn a_request_that_a_silent_board_may_have_is_never_answered_by_the_appliance_for_want_of_a_decision() {
    let (mut talk, _) = with_a_silent_board();
    let flow = talk.client.flow;
    talk.rig.command(Command::Left { flow, board: BOARD, migration_id: MIGRATION });
    talk.asked();
    talk.rig.pass(10_000);
    talk.goes_to(BOARD_MAC, B);
    talk.is(State::Forward);
    assert!(matches!(only(talk.rig.told()), Event::Abandon { migrated: None, .. }));
}

#[test]
fn a_fin_that_came_with_a_request_that_stays_shortens_the_time_it_may_be_idle() {
    let timeouts = Timeouts { half_closed_ms: 5_000, ..Timeouts::default() };
    let rig = Rig::with(Setup { timeouts, ..Setup::default() });
    let mut talk = Talk::with(rig, Client::of(MOVING_SERVICE), A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    let fin = Seg { ack: talk.client.iss + 1 + talk.heard, ..talk.client.fin(talk.sent) };
    assert_eq!(talk.rig.client(&fin), Verdict::Held);
    talk.stays(&place, Stay::Busy);
    talk.rig.packets_out();
    talk.rig.pass(5_001);
    assert!(matches!(only(talk.rig.told()), Event::WhoHolds { board: Some(BOARD), .. }));
}

#[test]
fn a_fin_in_the_middle_of_a_move_follows_its_request() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    let fin = Seg { ack: talk.client.iss + 1 + talk.heard, ..talk.client.fin(talk.sent) };
    assert_eq!(talk.rig.client(&fin), Verdict::Held);
    talk.moved(&place);
    let segment = talk.rig.forwarded().segment();
    assert_eq!((segment.payload, segment.flags), (B.to_vec(), Flags::ACK | Flags::PSH | Flags::FIN));
    assert!(talk.rig.entry(&talk.client.flow).is_some_and(|entry| entry.client_fin));
}

#[test]
fn a_reset_in_the_middle_of_a_move_abandons_the_endpoint_of_the_board_that_had_it() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    let stray = Seg { seq: talk.client.irs + 1 + talk.sent + 7, ..talk.client.rst(talk.sent) };
    assert_eq!(talk.rig.client(&stray), Verdict::Drop(Drop::OutOfWindow));
    assert_eq!(talk.rig.client(&talk.client.rst(talk.sent)), Verdict::Answered);
    match only(talk.rig.told()) {
        Event::Abandon { entry, migrated, .. } => {
            assert_eq!((entry, migrated), (place.entry, Some((BOARD, MIGRATION))));
        }
        other => panic!("an abandoned endpoint, not {other:?}"),
    }
    // What the control core had decided by then finds nobody.
    talk.stays(&place, Stay::Busy);
    talk.rig.command(Command::Detached { entry: place.entry });
    talk.rig.assert_silent();
    talk.moved(&place);
    assert!(matches!(only(talk.rig.told()), Event::Abandon { migrated: Some((OTHER_BOARD, SECOND)), .. }));
}

#[test]
fn a_reset_while_a_head_is_incomplete_goes_to_the_board() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(&B[..9]), Verdict::Held);
    assert_eq!(talk.rig.client(&talk.client.rst(talk.sent)), Verdict::Forwarded);
    let flags: Vec<_> = talk.rig.packets_out().iter().map(|packet| packet.segment().flags).collect();
    assert_eq!(flags, [Flags::ACK | Flags::PSH, Flags::RST | Flags::ACK]);
    assert!(talk.rig.entry(&talk.client.flow).is_some_and(|entry| entry.closing));
}

#[test]
fn a_port_that_is_used_again_in_the_middle_of_a_move_begins_anew() {
    for held in [&B[..9], B] {
        let mut talk = Talk::begin(A);
        assert_eq!(talk.sends(held), Verdict::Held);
        talk.rig.told();
        let mut new = Client { irs: talk.client.irs + 1_000_000, ..talk.client.clone() };
        talk.rig.shake(&mut new);
        assert_eq!(talk.rig.client(&new.data(0, A)), Verdict::Held);
        let told = talk.rig.told();
        assert!(matches!(told[0], Event::Abandon { migrated: Some((BOARD, MIGRATION)), .. }), "{told:?}");
        assert!(matches!(told[1], Event::Place(..)), "{told:?}");
    }
}

#[test]
fn a_watched_connection_ends_like_any_other() {
    // By its board's word, by its client's RST, idle.
    let mut talk = Talk::begin(A);
    let flow = talk.client.flow;
    talk.rig.command(Command::Closed { flow, board: BOARD, migration_id: MIGRATION });
    talk.rig.pass(2_000);
    assert_eq!(talk.rig.state(&flow), None);

    let mut talk = Talk::begin(A);
    talk.rig.command(Command::Closed { flow, board: BOARD, migration_id: 0 });
    assert_eq!(talk.rig.state(&flow), None);

    let mut talk = Talk::begin(A);
    assert_eq!(talk.rig.client(&talk.client.rst(talk.sent)), Verdict::Forwarded);
    talk.rig.pass(2_000);
    assert_eq!(talk.rig.state(&flow), None);

    let timeouts = Timeouts { idle_ms: 5_000, ..Timeouts::default() };
    let rig = Rig::with(Setup { timeouts, ..Setup::default() });
    let mut talk = Talk::with(rig, Client::of(MOVING_SERVICE), A);
    talk.rig.pass(5_001);
    assert!(matches!(only(talk.rig.told()), Event::WhoHolds { board: Some(BOARD), .. }));
    talk.is(State::Watched);
}

#[test]
fn without_a_buffer_a_request_stays_and_the_next_is_looked_at_again() {
    let mut talk =
        Talk::with(Rig::with(Setup { pending: 1, ..Setup::default() }), Client::of(MOVING_SERVICE), A);
    let mut other = Client::on_port(50_000);
    talk.rig.shake_and_hold(&mut other);
    assert_eq!(talk.sends(B), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, B);
    assert_eq!(talk.rig.happened(Happening::StayedNoRoom), 1);
    assert_eq!(talk.rig.client(&other.rst(9)), Verdict::Answered);
    talk.answered();
    assert_eq!(talk.sends(B), Verdict::Held);
    talk.asked();
}

#[test]
fn a_full_queue_to_the_control_core_leaves_the_request_where_it_is() {
    let mut talk =
        Talk::with(Rig::with(Setup { events: 2, ..Setup::default() }), Client::of(MOVING_SERVICE), A);
    for port in [50_000, 50_001] {
        assert_eq!(talk.rig.client(&Client::stranger(port).data(0, b"x")), Verdict::Held);
    }
    assert_eq!(talk.sends(B), Verdict::Held);
    talk.goes_to(BOARD_MAC, B);
    talk.is(State::Watched);
    assert_eq!(talk.rig.happened(Happening::StayedNoRoom), 1);
}

#[test]
fn records_are_bounded() {
    let mut rig = Rig::with(Setup { pending: 1, ..Setup::default() });
    for port in 0..5 {
        let flow = Client::of(MOVING_SERVICE).flow;
        let mut client = Client::on_port(50_000 + port);
        client.flow.endpoint = flow.endpoint;
        rig.migrate(&mut client, A);
        assert_eq!(rig.client(&client.acks(A.len() as u32, 1)), Verdict::Forwarded);
        let expected = if port < 4 { State::Watched } else { State::Forward };
        assert_eq!(rig.state(&client.flow), Some(expected));
    }
    assert_eq!(rig.happened(Happening::UnwatchedNoRoom), 1);
}

#[test]
fn a_board_that_is_gone_when_the_request_comes_back_is_the_end() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.rig.command(Command::Forget { board: BOARD });
    talk.stays(&place, Stay::Silent);
    let told = talk.rig.told();
    let given_up = |event: &Event| matches!(event, Event::Abandon { migrated: Some((BOARD, MIGRATION)), .. });
    assert!(told.iter().any(given_up), "{told:?}");
    let reset = talk.rig.answer();
    assert!(reset.flags.contains(Flags::RST));
    assert_eq!(reset.seq, talk.client.iss + 1 + talk.heard);
    assert_eq!(talk.rig.state(&talk.client.flow), None);
}

#[test]
fn a_service_that_moves_no_requests_any_more_ends_the_watch() {
    let mut talk = Talk::begin(A);
    // The same address, and another number.
    let other = Services::new(vec![plain(MOVING_SERVICE, SERVICE_PORT, Kind::Http, 9)]).expect("a service");
    talk.rig.command(Command::Services(other.into()));
    assert_eq!(talk.sends(B), Verdict::Forwarded);
    talk.goes_to(BOARD_MAC, B);
    talk.is_unwatched(Happening::UnwatchedReload);
}

#[test]
fn after_a_reload_the_control_core_says_whether_the_board_is_still_one_of_the_rows() {
    let mut talk = Talk::begin(A);
    talk.rig.command(Command::Services(services()));
    assert_eq!(talk.sends(A), Verdict::Held);
    let place = talk.asked();
    talk.stays(&place, Stay::Shared);
    talk.goes_to(BOARD_MAC, A);
    talk.answered();
    assert_eq!(talk.sends(A), Verdict::Forwarded, "it need not be asked again");
}

#[test]
fn a_move_that_nobody_decides_ends_with_503_and_the_board_gives_the_endpoint_up() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    talk.rig.pass(10_000);
    assert!(talk.rig.answer().payload.starts_with(b"HTTP/1.1 503 "));
    assert!(matches!(only(talk.rig.told()), Event::Abandon { migrated: Some((BOARD, MIGRATION)), .. }));
    // What is decided after all is too late: the client has its answer.
    for why in [Stay::Busy, Stay::Silent, Stay::NoBoard] {
        talk.stays(&place, why);
    }
    talk.rig.command(Command::Detached { entry: place.entry });
    talk.rig.assert_silent();
    talk.is(State::Local);
}

#[test]
fn numbers_that_wrap_in_a_body_do_not_matter() {
    let mut client = Client::of(MOVING_SERVICE);
    client.irs = Seq(u32::MAX - 500);
    let mut talk = Talk::with(Rig::new(), client, A);
    let post = b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    assert_eq!(talk.sends(post), Verdict::Forwarded);
    assert_eq!(talk.sends(&[0; 1_000]), Verdict::Forwarded);
    talk.rig.packets_out();
    talk.answered();
    assert_eq!(talk.sends(B), Verdict::Held);
    assert_eq!(talk.asked().tcb().rcv_nxt, talk.client.irs + 1 + talk.sent - B.len() as u32);
}

#[test]
fn a_connection_that_counts_goes_on_counting_while_it_moves_and_its_end_is_told() {
    let mut talk = Talk::begin(A);
    assert_eq!(talk.sends(B), Verdict::Held);
    let place = talk.asked();
    let (entry, flow, counted) = (place.entry, place.flow, Counted::Client);
    talk.rig.command(Command::Migrated { entry, flow, board: OTHER_BOARD, migration_id: SECOND, counted });
    talk.rig.packets_out();
    talk.answered();
    assert_eq!(talk.sends(A), Verdict::Held);
    let place = match only(talk.rig.told()) {
        Event::Move { place, board: OTHER_BOARD, .. } => place,
        other => panic!("a move, not {other:?}"),
    };
    let (entry, nothing_new) = (place.entry, Counted::No);
    let back =
        Command::Migrated { entry, flow, board: BOARD, migration_id: SECOND + 1, counted: nothing_new };
    talk.rig.command(back);
    talk.rig.packets_out();
    talk.answered();
    let reset = talk.client.rst(talk.sent);
    assert_eq!(talk.takes(reset), Verdict::Forwarded);
    talk.rig.poll();
    let ended = talk.rig.told().into_iter().find_map(|event| match event {
        Event::Ended(flows) => Some(flows.to_vec()),
        _ => None,
    });
    assert_eq!(ended, Some(vec![EndedFlow { flow, protocol: Protocol::Tcp, counted }]));
}
