//! Limits for clients (`[service.admit]`): from the request to the answer, and to the end that makes room again.

use std::net::Ipv4Addr;

use ipos_appliance::control::admission::{Admit, Rate};
use ipos_appliance::control::counters::OverLimit;
use ipos_pipelines::counters::Happening;
use ipos_pipelines::entry::State;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{ClosedReason, RefusalReason};
use ipos_wire::tcp::Flags;

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{Client, Segment};
use crate::world::{DEADLINE_MS, FIRST, SECOND, Sent, World};

const ONE: Admit = Admit { connections: None, rate: None, client_connections: Some(1), client_rate: None };

/// A connection that has its board; its attempt.
#[track_caller]
fn connected(world: &mut World, client: &mut Client) -> u64 {
    let (board, id) = world.request(client, REQUEST);
    world.acknowledges(board, client.flow, id);
    assert_eq!(world.rig.state(&client.flow), Some(State::Forward));
    world.sent();
    id
}

/// The answer to a request that gets no board.
#[track_caller]
fn refused(world: &mut World, client: &mut Client) -> Segment {
    world.rig.shake(client);
    assert_eq!(world.rig.client(&client.data(0, REQUEST)), Verdict::Held);
    world.turn();
    assert_eq!(world.sent(), [], "no board hears of it");
    world.rig.answer()
}

fn of(host: u8, port: u16) -> Client {
    let client = Client::on_port(port);
    Client { flow: Flow { client: Ipv4Addr::new(203, 0, 113, host), ..client.flow }, ..client }
}

#[test]
fn a_client_with_its_connections_gets_429_until_one_has_ended_and_others_are_untouched() {
    let mut world = World::limited(ONE);
    let mut first = Client::on_port(1);
    let id = connected(&mut world, &mut first);
    let answer = refused(&mut world, &mut Client::on_port(2));
    assert!(answer.payload.starts_with(b"HTTP/1.1 429"), "{answer:?}");
    connected(&mut world, &mut of(77, 2));
    assert_eq!(world.admitted().connections, 2);
    world.closes(FIRST, first.flow, id, ClosedReason::Closed);
    connected(&mut world, &mut Client::on_port(3));
    let admitted = world.admitted();
    assert_eq!((admitted.connections, admitted.refused[OverLimit::ClientConnections as usize]), (2, 1));
}

#[test]
fn a_client_that_resets_its_connection_may_have_another_at_once() {
    let mut world = World::limited(ONE);
    for port in 1..=20 {
        let mut client = Client::on_port(port);
        connected(&mut world, &mut client);
        assert_eq!(world.rig.client(&client.acks(REQUEST_LEN, 100)), Verdict::Forwarded);
        assert_eq!(world.rig.client(&client.rst(REQUEST_LEN)), Verdict::Forwarded);
        world.turn();
        world.sent();
    }
    assert_eq!(world.admitted().connections, 0);
}

#[test]
fn a_request_that_no_board_takes_or_that_its_client_gives_up_does_not_count() {
    let mut world = World::limited(ONE);
    let mut client = Client::on_port(1);
    let (_, id) = world.request(&mut client, REQUEST);
    world.refuses(FIRST, client.flow, id, RefusalReason::NoListener);
    let Some(Sent::Connection(SECOND, id, _)) = world.sent().first().cloned() else {
        panic!("the second board")
    };
    assert_eq!(world.admitted().connections, 1, "once, whoever is asked");
    world.refuses(SECOND, client.flow, id, RefusalReason::NoListener);
    assert!(world.rig.answer().payload.starts_with(b"HTTP/1.1 503"));
    assert_eq!(world.admitted().connections, 0);

    world.rig.segments_out();
    let mut client = Client::on_port(2);
    world.request(&mut client, REQUEST);
    assert_eq!(world.rig.client(&client.rst(REQUEST_LEN)), Verdict::Answered);
    world.turn();
    world.sent();
    assert_eq!(world.admitted().connections, 0);

    let mut client = Client::on_port(3);
    world.request(&mut client, REQUEST);
    world.pass(DEADLINE_MS);
    let answers = world.rig.segments_out();
    let last = answers.last().expect("an answer");
    assert!(last.flow == client.flow && last.payload.starts_with(b"HTTP/1.1 503"), "{last:?}");
    assert_eq!(world.admitted().connections, 0);
}

#[test]
fn a_rate_lets_a_burst_in_and_the_client_in_again_when_its_time_has_come() {
    let rate = Rate { per_second: 1, burst: 2 };
    let mut world = World::limited(Admit { client_rate: Some(rate), ..Admit::default() });
    for port in 1..=2 {
        connected(&mut world, &mut Client::on_port(port));
    }
    let answer = refused(&mut world, &mut Client::on_port(3));
    let text = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(text.starts_with("HTTP/1.1 429") && text.contains("\r\nRetry-After: 1\r\n"), "{text}");
    connected(&mut world, &mut of(77, 3));
    world.pass(1_000);
    world.sent();
    world.rig.segments_out();
    connected(&mut world, &mut Client::on_port(4));
    refused(&mut world, &mut Client::on_port(5));
}

#[test]
fn a_flood_of_forged_syns_counts_nothing_and_locks_nobody_out() {
    let rate = Some(Rate { per_second: 1, burst: 1 });
    let mut world =
        World::limited(Admit { connections: Some(1), rate, client_connections: Some(1), client_rate: rate });
    for host in 0..200 {
        for port in 1..20 {
            assert_eq!(world.rig.client(&of(host, port).syn()), Verdict::Answered);
        }
        world.rig.segments_out();
    }
    world.turn();
    assert_eq!(world.admitted().connections, 0);
    connected(&mut world, &mut Client::on_port(9_000));
}

#[test]
fn a_limit_that_a_reload_brings_knows_what_counted_before() {
    let two = Admit { client_connections: Some(2), ..Admit::default() };
    let mut world = World::limited(two);
    connected(&mut world, &mut Client::on_port(1));
    connected(&mut world, &mut Client::on_port(2));
    world.limit(Admit { client_connections: Some(3), ..Admit::default() });
    connected(&mut world, &mut Client::on_port(3));
    refused(&mut world, &mut Client::on_port(4));
    world.limit(two);
    refused(&mut world, &mut Client::on_port(5));
    assert_eq!(world.admitted().connections, 3);
    assert_eq!(world.rig.happened(Happening::AnsweredTooMany), 2);
}

#[test]
fn a_retransmission_of_what_was_refused_is_not_refused_again() {
    let mut world = World::limited(ONE);
    connected(&mut world, &mut Client::on_port(1));
    let mut client = Client::on_port(2);
    let answer = refused(&mut world, &mut client);
    assert!(answer.flags.contains(Flags::FIN));
    let _ = world.rig.client(&client.data(0, REQUEST));
    world.turn();
    assert_eq!(world.admitted().refused[OverLimit::ClientConnections as usize], 1);
    world.rig.segments_out();
}
