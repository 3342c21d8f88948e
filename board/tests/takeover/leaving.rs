//! Endpoints that leave for another board between two requests (0x05 without force, 0x06).

use ipos_wire::{
    ipos::{ClosedReason, DetachOutcome, NextRequest},
    seq::Seq,
    tcp::Flags,
};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::{
    appliance::{Answer, Appliance},
    board_with_nginx, board_with_python,
    client::{Client, request},
    world::Options,
};

/// Moves the endpoint to the board, as often as it takes: a Connection Packet that finds the record in the hands of the agent
/// is dropped, and the appliance repeats it.
fn come_back(client: &Client, appliance: &mut Appliance, id: u64) {
    let mut asked = 0;
    let is_taken = |appliance: &mut Appliance, asked| {
        appliance.send_connection(&client.connection(id));
        appliance.ask_who_holds(client.flow, asked).is_some_and(|(_, held)| held == id)
    };
    while !is_taken(appliance, 1_000_000 + asked) {
        asked += 1;
        assert!(asked < 10_000, "attempt {id} is dropped for ever");
    }
    appliance.await_ack(client.flow, id);
}

#[test]
fn a_quiet_endpoint_leaves_in_silence_and_may_come_back_at_once() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_001, 80);
    for id in 1..=100 {
        come_back(&client, &mut appliance, id);
        assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n", "attempt {id}");
        for _ in 0..2 {
            let outcome = appliance.ask_to_leave(client.flow, id, client.next_request());
            assert_eq!(outcome, DetachOutcome::Detached, "attempt {id}, and the same again");
        }
    }
    assert_eq!(appliance.ask_who_holds(client.flow, 1000), None);
    assert!(!appliance.saw_reset(client.flow), "no word to the client");
    assert_eq!((world.counter("moves_detached"), world.counter("endpoints_held")), (200, 0));
    assert_eq!(world.counter("endpoints_live"), 100);
    // The last attempt never runs again.
    appliance.send_connection(&client.connection(100));
    assert_ne!(appliance.answer(client.flow, 100), Answer::Acknowledged);
}

#[test]
fn an_answer_that_only_the_next_request_acknowledges_is_no_hindrance() {
    let (_world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_002, 80);
    client.migrate(&mut appliance, 1);
    client.send(&mut appliance, request("/small").as_bytes());
    let mut answer = Vec::new();
    while !answer.ends_with(b"a small page\n") {
        let segment = appliance.segment(client.flow);
        if segment.header.seq == client.expected && !segment.payload.is_empty() {
            client.expected = client.expected + u32::try_from(segment.payload.len()).expect("short");
            client.tsecr = segment.header.options.timestamps.expect("timestamps").tsval;
            answer.extend(segment.payload);
        }
    }
    let outcome = appliance.ask_to_leave(client.flow, 1, client.next_request());
    assert_eq!(outcome, DetachOutcome::Detached);
    come_back(&client, &mut appliance, 2);
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    assert!(!appliance.saw_reset(client.flow));
}

/// As when the kernel has told no program of the new socket.
#[test]
fn an_endpoint_whose_coming_was_missed_is_live_once_it_speaks() {
    const STATE_AT: usize = 32;
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_010, 80);
    client.migrate(&mut appliance, 1);
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    let map = MapHandle::from_pinned_path(world.pins().join("endpoints")).expect("a pinned map");
    let key = map.keys().next().expect("one record");
    let state_of = || {
        let record = map.lookup(&key, MapFlags::ANY).expect("a table that can be read").expect("a record");
        (record.get(STATE_AT..STATE_AT + 4).map(<[u8]>::to_vec), record)
    };
    let (live, mut record) = state_of();
    record[STATE_AT..STATE_AT + 4].copy_from_slice(&2_u32.to_ne_bytes());
    map.update(&key, &record, MapFlags::ANY).expect("a table that can be written");
    assert_ne!(state_of().0, live);
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    assert_eq!(state_of().0, live);
    // Also its end is known again: the socket is the record's.
    assert_eq!(appliance.ask_to_leave(client.flow, 1, client.next_request()), DetachOutcome::Detached);
    come_back(&client, &mut appliance, 2);
}

#[test]
fn an_endpoint_with_something_under_way_stays_and_never_notices() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_003, 80);
    client.migrate(&mut appliance, 1);
    assert_eq!(
        appliance.ask_to_leave(client.flow, 1, client.next_request()),
        DetachOutcome::Busy,
        "no socket yet"
    );
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");

    let NextRequest { seq, ack } = client.next_request();
    let unread = NextRequest { seq: seq + 1, ack };
    let unsent = NextRequest { seq: seq + 2, ack: ack + 1 };
    for (next, why) in [(unread, "an octet is missing"), (unsent, "an octet was never sent")] {
        assert_eq!(appliance.ask_to_leave(client.flow, 1, next), DetachOutcome::Busy, "{why}");
    }
    let unacknowledged = NextRequest { seq, ack: Seq(ack.0.wrapping_sub(1)) };
    assert_eq!(appliance.ask_to_leave(client.flow, 1, unacknowledged), DetachOutcome::Busy);
    // The same request: who was told "busy" may have sent it on already.
    assert_eq!(appliance.ask_to_leave(client.flow, 1, client.next_request()), DetachOutcome::Busy);

    // Half a request, which nginx has read and will not answer: the client had the last word.
    let whole = request("/small");
    let (half, rest) = whole.split_at(20);
    client.send(&mut appliance, half.as_bytes());
    assert_eq!(appliance.ask_to_leave(client.flow, 1, client.next_request()), DetachOutcome::Busy);
    client.send(&mut appliance, rest.as_bytes());
    assert_eq!(client.response(&mut appliance).0, b"a small page\n");
    assert_eq!((world.counter("moves_busy"), world.counter("endpoints_held")), (6, 1));
    assert_eq!(world.counter("egress_hidden"), 0, "nothing was held back meanwhile");

    assert_eq!(appliance.ask_to_leave(client.flow, 1, client.next_request()), DetachOutcome::Detached);
}

#[test]
fn a_request_that_was_let_in_keeps_the_endpoint_even_where_tcp_has_not_seen_it() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_006, 80);
    client.migrate(&mut appliance, 1);
    // The client does not acknowledge the answer.
    client.send(&mut appliance, request("/small").as_bytes());
    let mut end = client.expected;
    let mut answer = Vec::new();
    while !answer.ends_with(b"a small page\n") {
        let segment = appliance.segment(client.flow);
        if segment.header.seq == end && !segment.payload.is_empty() {
            end = end + u32::try_from(segment.payload.len()).expect("short");
            answer.extend(segment.payload);
        }
    }
    client.expected = end;
    let next = client.next_request();
    // The next request passes the programs; TCP does not take it, as if it were still on its way there on another CPU.
    let mut damaged = client.packet(client.next, Flags::ACK | Flags::PSH, request("/small").as_bytes());
    *damaged.last_mut().expect("octets") ^= 1;
    appliance.send_packet(client.flow, &damaged);
    // Then the board has the last word: it sends its answer again.
    appliance.forget();
    while appliance.segment(client.flow).payload.is_empty() {}
    assert_eq!(appliance.ask_to_leave(client.flow, 1, next), DetachOutcome::Busy);
    // Without harm: it gets the request, and may leave with the one after.
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    assert_eq!(appliance.ask_to_leave(client.flow, 1, client.next_request()), DetachOutcome::Detached);
    assert!(!appliance.saw_reset(client.flow));
    assert_eq!(world.counter("moves_detached"), 1);
}

#[test]
fn who_is_not_held_is_said_to_be_so() {
    let (world, mut appliance) = board_with_python();
    let mut client = Client::new(44_004, 8080);
    let next = client.next_request();
    assert_eq!(appliance.ask_to_leave(client.flow, 1, next), DetachOutcome::NotHeld, "never seen");
    client.migrate(&mut appliance, 1);
    assert_eq!(appliance.ask_to_leave(client.flow, 2, next), DetachOutcome::NotHeld, "another's id");
    let (_, mut ended) = client.get(&mut appliance, "/page");
    while !ended {
        ended = client.receive(&mut appliance).1;
    }
    client.send_bare(&mut appliance, Flags::FIN | Flags::ACK);
    assert_eq!(appliance.closed(client.flow), (ClosedReason::Closed, 1));
    let next = client.next_request();
    assert_eq!(appliance.ask_to_leave(client.flow, 1, next), DetachOutcome::NotHeld, "it has closed");
    assert_eq!(world.counter("moves_not_held"), 3);
}

#[test]
fn without_its_agent_a_board_gives_up_as_well_and_takes_back_when_there_is_one() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_005, 80);
    client.migrate(&mut appliance, 1);
    client.get(&mut appliance, "/small");
    world.kill_agent();
    assert_eq!(appliance.ask_to_leave(client.flow, 1, client.next_request()), DetachOutcome::Detached);
    let back = client.connection(2);
    appliance.send_connection(&back);
    world.start_agent();
    appliance.await_ack(client.flow, 2);
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    assert!(!appliance.saw_reset(client.flow));
    assert_eq!(world.counter("endpoints_held"), 1);
}
