//! Sessions by cookie, from the request's head to the board: learned, encoded, and given by the appliance.

use ipos_appliance::control::placement::{Policy, Rules};
use ipos_appliance::control::sessions::MapSettings;
use ipos_pipelines::counters::Happening;
use ipos_pipelines::handoff::BoardId;
use ipos_pipelines::sessions::{Cookie, Key, Value};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ipos::RefusalReason;

use crate::common::Client;
use crate::world::{Board, FIRST, SECOND, Sent, World};

const SECRET: Key = Key([3; 16]);

fn get(cookies: &str) -> String {
    let field = if cookies.is_empty() { String::new() } else { format!("Cookie: {cookies}\r\n") };
    format!("GET /a?b HTTP/1.1\r\nHost: a\r\n{field}\r\n")
}

/// A request of a client on a port of its own, which a board takes.
fn serve(world: &mut World, port: u16, cookies: &str) -> Board {
    let mut client = Client::on_port(port);
    let (board, id) = world.request(&mut client, get(cookies).as_bytes());
    world.acknowledges(board, client.flow, id);
    assert!(world.sent().iter().any(|sent| matches!(sent, Sent::Packet(to, _) if *to == board)));
    board
}

fn values() -> Vec<(Value, BoardId)> {
    let of = |board: Board| (value(board), BoardId(u16::from(board.0) - 1));
    vec![of(FIRST), of(SECOND)]
}

fn value(board: Board) -> Value {
    Value::of(&Key([5; 16]), "web", board.address())
}

fn other(board: Board) -> Board {
    if board == FIRST { SECOND } else { FIRST }
}

#[test]
fn a_learned_session_stays_at_its_board_until_that_is_dead_and_then_at_the_next() {
    let rules = Rules { policy: Policy::ConsistentHash, ..Rules::default() };
    let map = MapSettings { entries: 64, idle_ns: u64::MAX / 2 };
    let mut world = World::with_cookie(rules, Cookie::learned("sid", 0, SECRET), Some(map));
    let first = serve(&mut world, 1, "");
    assert_eq!(serve(&mut world, 2, "theme=dark; sid=abc"), first, "the board that set it");
    // The board refuses: the session is at the other one from now on.
    let mut client = Client::on_port(3);
    let (board, id) = world.request(&mut client, get("sid=abc").as_bytes());
    assert_eq!(board, first);
    world.refuses(first, client.flow, id, RefusalReason::AcceptQueueFull);
    let Some(Sent::Connection(next, id, _)) = world.sent().first().cloned() else { panic!("another board") };
    world.acknowledges(next, client.flow, id);
    world.sent();
    assert_eq!(serve(&mut world, 4, "sid=abc"), other(first));
    assert_eq!(serve(&mut world, 5, ""), first, "who has none is placed by its address");
    world.silence(other(first));
    world.pass(1_500);
    assert_eq!(serve(&mut world, 6, "sid=abc"), first);
}

#[test]
fn an_encoded_cookie_leads_to_its_board_whatever_the_policy_says() {
    let mut world = World::with_cookie(Rules::default(), Cookie::encoded("srv", 0, SECRET, values()), None);
    for port in 1..5 {
        assert_eq!(serve(&mut world, port, &format!("srv={}", value(SECOND))), SECOND);
    }
    assert_eq!(serve(&mut world, 5, ""), FIRST, "the one with fewer connections");
    assert_eq!(serve(&mut world, 6, "srv=00000000000000000000000000000000"), FIRST);
    assert_eq!(world.rig.happened(Happening::CookieUnknown), 1);
    world.silence(SECOND);
    world.pass(1_500);
    assert_eq!(serve(&mut world, 7, &format!("srv={}", value(SECOND))), FIRST);
}

#[test]
fn a_client_is_given_a_cookie_comes_again_with_it_or_is_served_without() {
    let given =
        [FIRST, SECOND].map(|board| (BoardId(u16::from(board.0) - 1), format!("srv={}", value(board))));
    let cookie = Cookie::inserted("srv", 0, SECRET, values(), given);
    let mut world = World::with_cookie(Rules::default(), cookie, None);
    let mut client = Client::on_port(1);
    world.rig.shake(&mut client);
    assert_eq!(world.rig.client(&client.data(0, get("").as_bytes())), Verdict::Held);
    world.turn();
    let answer = String::from_utf8(world.rig.answer().payload).expect("text");
    assert!(answer.starts_with("HTTP/1.1 307 ") && answer.contains("\r\nLocation: /a?b\r\n"), "{answer}");
    assert!(answer.contains(&format!("\r\nSet-Cookie: srv={}\r\n", value(FIRST))), "{answer}");
    assert_eq!(world.sent(), [], "no board has been troubled");
    assert_eq!(serve(&mut world, 2, &format!("srv={}", value(FIRST))), FIRST);
    // The same request as the first: this client keeps no cookies.
    assert_eq!(serve(&mut world, 3, ""), FIRST);
    assert_eq!(world.rig.happened(Happening::CookieGiven), 1);
}
