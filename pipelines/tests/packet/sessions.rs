//! Cookies of requests: what the control core is told of a session, and what is counted.

use std::sync::Arc;

use ipos_pipelines::counters::Happening;
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, BoardId, Command, Event, Session, SessionKey};
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::sessions::{Cookie, Key, Value};
use ipos_pipelines::verdict::Verdict;

use crate::common::setup::plain;
use crate::common::{Client, Rig, SERVICE, SERVICE_PORT, Setup, only};

const SECRET: Key = Key([3; 16]);

fn rig(cookie: Cookie) -> Rig {
    rig_with(Setup::default(), cookie)
}

fn rig_with(setup: Setup, cookie: Cookie) -> Rig {
    let mut rig = Rig::with(setup);
    let service = Service { cookie: Some(cookie), ..plain(SERVICE, SERVICE_PORT, Kind::Http, 9) };
    rig.command(Command::Services(Arc::new(Services::new(vec![service]).expect("one service"))));
    rig
}

fn value(last: u8) -> Value {
    Value::of(&Key([5; 16]), "web", [192, 0, 2, last].into())
}

fn encoded() -> Cookie {
    Cookie::encoded("srv", 0, SECRET, vec![(value(11), BoardId(1)), (value(12), BoardId(2))])
}

/// The session that the control core is told of a request, which comes in segments.
#[track_caller]
fn told(rig: &mut Rig, request: &str) -> Session {
    let mut client = Client::new();
    rig.shake(&mut client);
    for (place, chunk) in request.as_bytes().chunks(1_400).enumerate() {
        assert_eq!(rig.client(&client.data(place as u32 * 1_400, chunk)), Verdict::Held);
        rig.segments_out();
    }
    let session = match only(rig.told()) {
        Event::Place(place, session) => {
            assert_eq!((place.service, place.pool), (0, 9));
            session
        }
        other => panic!("a request to place, not {other:?}"),
    };
    let _ = rig.client(&client.rst(request.len() as u32));
    rig.told();
    session
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[track_caller]
fn learned(session: Session) -> SessionKey {
    match session {
        Session::Learned(key) => key,
        other => panic!("a hash, not {other:?}"),
    }
}

#[test]
fn the_control_core_is_told_a_hash_of_a_learned_cookie() {
    let mut rig = rig(Cookie::learned("sid", 0, SECRET));
    let first = learned(told(&mut rig, &get("Cookie: sid=abc\r\n")));
    assert_eq!(learned(told(&mut rig, &get("Cookie: x=y\r\nCookie: sid=abc; sid=z\r\n"))), first);
    assert_ne!(learned(told(&mut rig, &get("Cookie: sid=abd\r\n"))), first);
    assert_eq!(told(&mut rig, &get("")), Session::None);
    let many: String = (0..2_000).map(|n| format!("c{n}=; ")).collect();
    assert_eq!(learned(told(&mut rig, &get(&format!("Cookie: {many}sid=abc\r\n")))), first);
    let long = "x".repeat(16_000);
    learned(told(&mut rig, &get(&format!("Cookie: sid={long}\r\n"))));
}

#[test]
fn an_encoded_cookie_names_its_board_and_what_does_not_is_counted() {
    let mut rig = rig(encoded());
    for (last, board) in [(11, 1), (12, 2)] {
        let request = get(&format!("Cookie: srv={}\r\n", value(last)));
        assert_eq!(told(&mut rig, &request), Session::Named { board: BoardId(board), again: None });
    }
    let counted =
        |rig: &Rig| [Happening::CookieMalformed, Happening::CookieUnknown].map(|what| rig.happened(what));
    assert_eq!(counted(&rig), [0, 0]);
    assert_eq!(told(&mut rig, &get(&format!("Cookie: srv={}\r\n", value(13)))), Session::None);
    assert_eq!(counted(&rig), [0, 1]);
    let cut = value(11).to_string().split_off(1);
    for wrong in [cut, "1".to_owned(), "../../etc".to_owned(), "x".repeat(10_000)] {
        assert_eq!(told(&mut rig, &get(&format!("Cookie: srv={wrong}\r\n"))), Session::None);
    }
    assert_eq!(counted(&rig), [4, 1]);
    assert_eq!(told(&mut rig, &get("")), Session::None);
    assert_eq!(counted(&rig), [4, 1], "none is no fault");
}

#[test]
fn the_session_outlives_a_full_queue_and_a_reload() {
    let mut rig = rig_with(Setup { events: 1, ..Setup::default() }, encoded());
    let mut client = Client::new();
    rig.shake(&mut client);
    let request = get(&format!("Cookie: srv={}\r\n", value(12)));
    assert_eq!(rig.client(&Client::stranger(999).ack(0)), Verdict::Held, "the queue's one place is taken");
    assert_eq!(rig.client(&client.data(0, request.as_bytes())), Verdict::Held);
    rig.command(Command::Services(Arc::new(
        Services::new(vec![plain(SERVICE, SERVICE_PORT, Kind::Http, 9)]).expect("one service"),
    )));
    rig.told();
    rig.pass(50);
    match only(rig.told()) {
        Event::Place(_, session) => {
            assert_eq!(session, Session::Named { board: BoardId(2), again: None });
        }
        other => panic!("the request that was owed, not {other:?}"),
    }
}

/// A cookie that clients are given.
fn inserted() -> Cookie {
    let values = vec![(value(11), BoardId(1)), (value(12), BoardId(2))];
    let given = [(BoardId(1), format!("srv={}; Path=/", value(11)))];
    Cookie::inserted("srv", 0, SECRET, values, given)
}

#[test]
fn a_client_is_given_its_cookie_by_a_redirect_to_the_same_place() {
    let mut rig = rig(inserted());
    let mut client = Client::new();
    rig.shake(&mut client);
    // Empty lines before the request do not belong to it.
    let request = "\r\nGET /a/%62?c=d&e HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(rig.client(&client.data(0, request.as_bytes())), Verdict::Held);
    let entry = match only(rig.told()) {
        Event::Place(place, Session::Fresh(_)) => place.entry,
        other => panic!("a request whose client may be given a cookie, not {other:?}"),
    };
    rig.command(Command::Answer { entry, answer: Answer::Assign(BoardId(1)) });
    assert_eq!(rig.state(&client.flow), Some(State::Local));
    let answer = String::from_utf8(rig.answer().payload).expect("text");
    let expected = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: /a/%62?c=d&e\r\nSet-Cookie: srv={}; Path=/\r\n\
         Cache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        value(11)
    );
    assert_eq!(answer, expected);
    assert_eq!(rig.happened(Happening::CookieGiven), 1);
}

#[test]
fn a_board_that_a_reload_took_away_meanwhile_is_given_to_nobody() {
    let mut rig = rig(inserted());
    let mut client = Client::new();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, get("").as_bytes())), Verdict::Held);
    let entry = rig.placed().entry;
    rig.command(Command::Answer { entry, answer: Answer::Assign(BoardId(2)) });
    assert!(rig.answer().payload.starts_with(b"HTTP/1.1 503"));
    assert_eq!(rig.happened(Happening::CookieGiven), 0);
}
