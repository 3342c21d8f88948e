//! Later requests of one connection that belong to another board, from the client's segment to the packet on its way there.

use ipos_pipelines::counters::Happening;
use ipos_pipelines::entry::State;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ipos::{ClosedReason, DetachOutcome, NextRequest, RefusalReason};
use ipos_wire::tcp::Flags;

use crate::common::{Client, MOVING_SERVICE, Seg};
use crate::world::{Board, FIRST, RETRY_MS, SECOND, Sent, TRIES, World};

/// Of the first board's row, of the second's, of one that the appliance answers.
const A: &[u8] = b"GET /a/1 HTTP/1.1\r\nHost: a\r\n\r\n";
const B: &[u8] = b"GET /b/1 HTTP/1.1\r\nHost: a\r\n\r\n";
const NO: &[u8] = b"GET /no/ HTTP/1.1\r\nHost: a\r\n\r\n";

/// A connection on the first board, and how far both sides are.
struct Talk {
    world: World,
    client: Client,
    id: u64,
    sent: u32,
    heard: u32,
}

impl Talk {
    fn begin() -> Self {
        let (mut world, mut client) = (World::divided(), Client::of(MOVING_SERVICE));
        let (board, id) = world.request(&mut client, A);
        assert_eq!(board, FIRST);
        world.acknowledges(FIRST, client.flow, id);
        assert_eq!(world.sent(), [Sent::Packet(FIRST, A.to_vec())]);
        let mut talk = Self { world, client, id, sent: A.len() as u32, heard: 0 };
        talk.is_answered(FIRST);
        assert_eq!(talk.world.rig.state(&talk.client.flow), Some(State::Watched));
        talk
    }

    /// The client acknowledges an answer of 100 octets.
    #[track_caller]
    fn is_answered(&mut self, board: Board) {
        self.heard += 100;
        let acks = self.client.acks(self.sent, self.heard);
        assert_eq!(self.world.rig.client(&acks), Verdict::Forwarded);
        assert_eq!(self.world.sent(), [Sent::Packet(board, vec![])]);
    }

    fn next(&self) -> NextRequest {
        NextRequest { seq: self.client.irs + 1 + self.sent, ack: self.client.iss + 1 + self.heard }
    }

    /// The client asks; what leaves for the boards.
    fn asks(&mut self, request: &[u8]) -> Vec<Sent> {
        let segment = Seg { ack: self.next().ack, ..self.client.data(self.sent, request) };
        assert_eq!(self.world.rig.client(&segment), Verdict::Held);
        self.world.turn();
        self.world.sent()
    }

    /// The client asks for what the second board has, and the first one is asked to give the connection up.
    #[track_caller]
    fn begins_to_move(&mut self) -> NextRequest {
        let next = self.next();
        assert_eq!(self.asks(B), [Sent::GiveUp(FIRST, self.id, next)]);
        next
    }

    /// A board answers; what leaves for the boards.
    fn board_says(&mut self, outcome: DetachOutcome, next: NextRequest) -> Vec<Sent> {
        self.world.detached(FIRST, self.client.flow, self.id, outcome, next);
        self.world.sent()
    }
}

#[test]
fn a_request_moves_there_and_the_next_one_back() {
    let mut talk = Talk::begin();
    let next = talk.begins_to_move();
    let id = match talk.board_says(DetachOutcome::Detached, next)[..] {
        [Sent::Connection(SECOND, id, flow)] if flow == talk.client.flow && id != talk.id => id,
        ref other => panic!("a Connection Packet under another id, not {other:?}"),
    };
    talk.world.acknowledges(SECOND, talk.client.flow, id);
    assert_eq!(talk.world.sent(), [Sent::Packet(SECOND, B.to_vec())]);
    talk.sent += B.len() as u32;
    talk.is_answered(SECOND);
    // What the first board still says of the endpoint that it had concerns nobody.
    assert_eq!(talk.board_says(DetachOutcome::Detached, next), []);
    assert_eq!(talk.world.rig.entry(&talk.client.flow).map(|entry| entry.closing), Some(false));
    let next = talk.next();
    assert_eq!(talk.asks(A), [Sent::GiveUp(SECOND, id, next)]);
    talk.world.detached(SECOND, talk.client.flow, id, DetachOutcome::Detached, next);
    let back = match talk.world.sent()[..] {
        [Sent::Connection(FIRST, back, _)] if back != talk.id => back,
        ref other => panic!("a Connection Packet to the first board, not {other:?}"),
    };
    talk.world.acknowledges(FIRST, talk.client.flow, back);
    assert_eq!(talk.world.sent(), [Sent::Packet(FIRST, A.to_vec())]);
    assert_eq!(talk.world.rig.happened(Happening::Moved), 2);
    assert_eq!(talk.world.rig.counters.moves.read().iter().sum::<u64>(), 2);
}

#[test]
fn a_busy_board_gets_the_request_and_is_asked_again_with_the_next() {
    let mut talk = Talk::begin();
    for _ in 0..2 {
        let next = talk.begins_to_move();
        assert_eq!(talk.board_says(DetachOutcome::Busy, next), [Sent::Packet(FIRST, B.to_vec())]);
        talk.sent += B.len() as u32;
        talk.is_answered(FIRST);
    }
    assert_eq!(talk.world.rig.happened(Happening::StayedBusy), 2);
}

#[test]
fn a_silent_board_is_asked_a_few_times_and_keeps_the_connection() {
    let mut talk = Talk::begin();
    let next = talk.begins_to_move();
    talk.world.pass(RETRY_MS * (TRIES as u64 + 1));
    let mut expected = vec![Sent::GiveUp(FIRST, talk.id, next); TRIES - 1];
    expected.push(Sent::Packet(FIRST, B.to_vec()));
    assert_eq!(talk.world.sent(), expected);
    talk.sent += B.len() as u32;
    talk.is_answered(FIRST);
    assert_eq!(talk.world.rig.state(&talk.client.flow), Some(State::Watched));
}

#[test]
fn a_board_that_gave_the_connection_up_and_was_not_heard_is_asked_again_and_the_request_moves() {
    for is_late in [true, false] {
        let mut talk = Talk::begin();
        let next = talk.begins_to_move();
        talk.world.pass(RETRY_MS * (TRIES as u64 + 1));
        talk.world.sent();
        assert_eq!(talk.world.rig.happened(Happening::StayedSilent), 1);
        let asked = if is_late {
            // Its word comes after all.
            talk.board_says(DetachOutcome::Detached, next)
        } else {
            // It meets the request, of whose connection it has no socket any more.
            talk.world.closes(FIRST, talk.client.flow, 0, ClosedReason::Stray);
            talk.world.sent()
        };
        assert_eq!(asked, [Sent::GiveUp(FIRST, talk.id, next)], "the same question");
        let id = match talk.board_says(DetachOutcome::Detached, next)[..] {
            [Sent::Connection(SECOND, id, flow)] if flow == talk.client.flow => id,
            ref other => panic!("a Connection Packet, not {other:?}"),
        };
        talk.world.acknowledges(SECOND, talk.client.flow, id);
        assert_eq!(talk.world.sent(), [Sent::Packet(SECOND, B.to_vec())]);
        talk.sent += B.len() as u32;
        talk.is_answered(SECOND);
        assert_eq!(talk.world.rig.state(&talk.client.flow), Some(State::Watched));
    }
}

#[test]
fn a_board_that_holds_nothing_any_more_ends_the_connection_once_the_farm_says_so() {
    let mut talk = Talk::begin();
    let next = talk.begins_to_move();
    talk.world.pass(RETRY_MS * (TRIES as u64 + 1));
    talk.world.sent();
    let (flow, stray) = (talk.client.flow, ClosedReason::Stray);
    talk.world.closes(FIRST, flow, 0, stray);
    assert_eq!(talk.world.sent(), [Sent::GiveUp(FIRST, talk.id, next)]);
    assert_eq!(talk.board_says(DetachOutcome::NotHeld, next), [Sent::Packet(FIRST, B.to_vec())]);
    talk.world.closes(FIRST, flow, 0, stray);
    assert_eq!(talk.world.rig.state(&flow), None, "the client's next segment asks the farm");
}

#[test]
fn a_repeated_attempt_that_fails_by_the_endpoints_end_ends_the_entry_as_well() {
    let mut talk = Talk::begin();
    let next = talk.begins_to_move();
    let Some(Sent::Connection(SECOND, id, flow)) = talk.board_says(DetachOutcome::Detached, next).pop()
    else {
        panic!("the second board is asked")
    };
    talk.world.acknowledges(SECOND, flow, id);
    // The client sends its request again, and is answered while the attempt is repeated.
    let again = Seg { ack: next.ack, ..talk.client.data(talk.sent, B) };
    assert_eq!(talk.world.rig.client(&again), Verdict::Held);
    talk.world.turn();
    talk.world.sent();
    talk.sent += B.len() as u32;
    talk.is_answered(SECOND);
    talk.world.closes(SECOND, flow, id, ClosedReason::Closed);
    assert_eq!(talk.world.rig.entry(&flow).map(|entry| entry.closing), Some(true));
    assert!(talk.world.rig.segments_out().is_empty(), "the client hears nothing of it");
}

#[test]
fn a_thousand_moves_to_and_fro_leave_every_count_right() {
    let mut talk = Talk::begin();
    let (mut here, mut there) = (FIRST, SECOND);
    for round in 0..1_000 {
        let (next, row) = (talk.next(), if there == SECOND { B } else { A });
        assert_eq!(talk.asks(row), [Sent::GiveUp(here, talk.id, next)], "{round}");
        talk.world.detached(here, talk.client.flow, talk.id, DetachOutcome::Detached, next);
        let id = match talk.world.sent()[..] {
            [Sent::Connection(board, id, _)] if board == there => id,
            ref other => panic!("a Connection Packet, not {other:?}"),
        };
        // Said again: nothing leaves twice.
        talk.world.detached(here, talk.client.flow, talk.id, DetachOutcome::Detached, next);
        talk.world.acknowledges(there, talk.client.flow, id);
        assert_eq!(talk.world.sent(), [Sent::Packet(there, row.to_vec())]);
        talk.id = id;
        talk.sent += row.len() as u32;
        talk.is_answered(there);
        (here, there) = (there, here);
    }
    assert_eq!(here, FIRST);
    // What the boards report does not change in this world.
    let [first, second] = [FIRST, SECOND].map(|board| talk.world.counts(board));
    assert_eq!((first.0, second.0), (11, 20), "what was reported, and the one connection");
    assert_eq!((first.1, second.1), (0, 0), "no attempt is under way");
    // A later count of the workers' tables.
    talk.world.pass(3_000);
    let [first, second] = [FIRST, SECOND].map(|board| talk.world.counts(board).2);
    assert_eq!((first, second), (1, 0));
    assert_eq!(talk.world.rig.happened(Happening::Moved), 1_000);
}

#[test]
fn when_the_row_refuses_after_the_detach_the_client_is_answered_503() {
    let mut talk = Talk::begin();
    let next = talk.begins_to_move();
    let Some(Sent::Connection(SECOND, id, flow)) = talk.board_says(DetachOutcome::Detached, next).pop()
    else {
        panic!("the second board is asked")
    };
    talk.world.refuses(SECOND, flow, id, RefusalReason::NoListener);
    assert_eq!(talk.world.sent(), [], "the board that had it is not asked to take it back");
    let answer = talk.world.rig.answer();
    assert!(answer.payload.starts_with(b"HTTP/1.1 503 ") && answer.flags.contains(Flags::FIN));
    assert_eq!((answer.seq, answer.ack), (next.ack, next.seq + B.len() as u32));
}

#[test]
fn a_row_without_a_fit_board_detaches_nobody() {
    let mut talk = Talk::begin();
    talk.world.silence(SECOND);
    talk.world.pass(15_000);
    talk.world.sent();
    assert_eq!(talk.asks(B), [Sent::Packet(FIRST, B.to_vec())]);
    assert_eq!(talk.world.rig.happened(Happening::StayedNoBoard), 1);
}

#[test]
fn a_row_that_the_appliance_answers_takes_the_connection_from_its_board() {
    let mut talk = Talk::begin();
    let next = talk.next();
    assert_eq!(talk.asks(NO), [Sent::GiveUp(FIRST, talk.id, next)]);
    assert_eq!(talk.board_says(DetachOutcome::Detached, next), []);
    let answer = talk.world.rig.answer();
    assert!(answer.payload.starts_with(b"HTTP/1.1 403 "));
    assert_eq!((answer.seq, answer.ack), (next.ack, next.seq + NO.len() as u32));
}

#[test]
fn a_client_that_resets_in_the_middle_leaves_no_endpoint_anywhere() {
    // While the old board is asked.
    let mut talk = Talk::begin();
    let next = talk.begins_to_move();
    talk.sent += B.len() as u32;
    assert_eq!(talk.world.rig.client(&talk.client.rst(talk.sent)), Verdict::Answered);
    talk.world.turn();
    assert_eq!(talk.world.sent(), [Sent::Detach(FIRST, talk.id)]);
    assert_eq!(talk.board_says(DetachOutcome::Detached, next), [], "nobody is asked any more");
    // While the new one is.
    let mut talk = Talk::begin();
    let next = talk.begins_to_move();
    talk.sent += B.len() as u32;
    let Some(Sent::Connection(SECOND, id, _)) = talk.board_says(DetachOutcome::Detached, next).pop() else {
        panic!("the second board is asked")
    };
    assert_eq!(talk.world.rig.client(&talk.client.rst(talk.sent)), Verdict::Answered);
    talk.world.turn();
    let sent = talk.world.sent();
    assert!(sent.contains(&Sent::Detach(SECOND, id)), "{sent:?}");
}
