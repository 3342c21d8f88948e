//! What rows of the URL map have the appliance answer itself: redirects and pages; and what it refuses of a request, by reason.

use std::sync::Arc;

use ipos_pipelines::answers::{Answers, LOCATION_OCTETS_MAX, PAGE_OCTETS_MAX, Page};
use ipos_pipelines::counters::{BadReason, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, Command};
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::urlmap::{Action, Rule, UrlMap};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::tcp::Flags;

use crate::common::{Client, Rig, SERVICE, SERVICE_PORT, Segment};

/// `/old/` is redirected, `/away/` too, to a fixed place; `/no/` is 403, `/gone/` 404, `/busy/` 429, `/later/` 503; of these 404 and 503
/// have pages.
fn services(target: &str, page: &[u8]) -> Arc<Services> {
    let row = |prefix: &str, answer| Rule { action: Action::Answer(answer), ..Rule::prefix(None, prefix, 0) };
    let rules = [
        row("/old/", Answer::Redirect(0)),
        row("/away/", Answer::Redirect(1)),
        row("/no/", Answer::Forbidden),
        row("/gone/", Answer::NotFound),
        row("/busy/", Answer::TooManyRequests),
        row("/later/", Answer::Unavailable),
        row("/unknown/", Answer::Redirect(7)),
    ];
    let own = |answer| (answer, Arc::new(Page::own(answer, "text/html", page).expect("a page")));
    let redirect = |status, to| Arc::new(Page::redirect(status, to).expect("a good target"));
    let service = Service {
        address: SERVICE,
        port: SERVICE_PORT,
        kind: Kind::Http,
        urls: UrlMap::build(&rules).expect("good rules"),
        tls: Default::default(),
        h2c: false,
        migrates_requests: false,
        default_pool: 9,
        answers: Answers {
            pages: vec![own(Answer::NotFound), own(Answer::Unavailable)],
            redirects: vec![redirect(301, target), redirect(307, "/elsewhere")],
        },
        cookie: None,
    };
    Arc::new(Services::new(vec![service]).expect("one service"))
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.command(Command::Services(services("https://example.org", b"<p>not here")));
    rig
}

/// All segments of an answer, which must follow each other; the last one has the FIN.
fn joined(segments: &[Segment], client: &Client) -> String {
    let mut text = Vec::new();
    for (place, segment) in segments.iter().enumerate() {
        assert_eq!(segment.seq, client.iss + 1 + text.len() as u32, "segment {place}");
        assert_eq!(segment.flags.contains(Flags::FIN), place + 1 == segments.len(), "segment {place}");
        text.extend_from_slice(&segment.payload);
    }
    String::from_utf8(text).expect("text")
}

/// What a request is answered.
fn answered(rig: &mut Rig, request: &str) -> String {
    let mut client = Client::new();
    rig.shake(&mut client);
    let chunks = request.len().div_ceil(1_400);
    for (place, chunk) in request.as_bytes().chunks(1_400).enumerate() {
        rig.segments_out();
        let verdict = rig.client(&client.data(place as u32 * 1_400, chunk));
        let is_last = place + 1 == chunks;
        assert_eq!(verdict, if is_last { Verdict::Answered } else { Verdict::Held }, "{request}");
    }
    assert_eq!(rig.state(&client.flow), Some(State::Local));
    let text = joined(&rig.segments_out(), &client);
    rig.assert_silent();
    text
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

#[test]
fn a_row_redirects_to_the_same_path_elsewhere() {
    for (request, location) in [
        (get("/old/x?y=1&z=%2f"), "https://example.org/old/x?y=1&z=%2f"),
        (get("//old/./x"), "https://example.org//old/./x"),
        (format!("\r\n\r\n{}", get("/old/")), "https://example.org/old/"),
        (
            "GET http://a.example/old/?q HTTP/1.1\r\nHost: a.example\r\n\r\n".into(),
            "https://example.org/old/?q",
        ),
        (get("/away/x"), "/elsewhere"),
    ] {
        let mut rig = rig();
        let text = answered(&mut rig, &request);
        let (status, rest) = text.split_once("\r\n").expect("a status line");
        assert!(
            ["HTTP/1.1 301 Moved Permanently", "HTTP/1.1 307 Temporary Redirect"].contains(&status),
            "{text}"
        );
        let expected = format!("Location: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(rest, expected, "{request}");
        assert_eq!((rig.happened(Happening::Redirected), rig.happened(Happening::HeadComplete)), (1, 1));
    }
}

#[test]
fn no_request_puts_a_line_into_a_redirect() {
    for path in ["/old/%0d%0aSet-Cookie:%20x", "/old/?%0d%0a%0d%0abody", "/old/\u{e4}"] {
        let mut rig = rig();
        let text = answered(&mut rig, &get(path));
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(
            (lines.len(), lines[1]),
            (6, format!("Location: https://example.org{path}").as_str()),
            "{text}"
        );
    }
}

#[test]
fn a_path_that_no_location_has_room_for_is_answered_414() {
    let longest =
        LOCATION_OCTETS_MAX - "HTTP/1.1 301 Moved Permanently\r\nLocation: https://example.org".len();
    let path = |octets: usize| format!("/old/{}", "x".repeat(octets - 5));
    let mut rig = rig();
    assert!(answered(&mut rig, &get(&path(longest))).starts_with("HTTP/1.1 301 "));
    let mut rig = self::rig();
    assert!(answered(&mut rig, &get(&path(longest + 1))).starts_with("HTTP/1.1 414 URI Too Long\r\n"));
    assert_eq!((rig.happened(Happening::AnsweredUriTooLong), rig.happened(Happening::Redirected)), (1, 0));
}

#[test]
fn rows_answer_with_a_status_and_the_services_own_page() {
    for (path, status, body, happening) in [
        ("/no/", "403 Forbidden", "403 Forbidden\n", Happening::AnsweredForbidden),
        ("/gone/x", "404 Not Found", "<p>not here", Happening::AnsweredNotFound),
        ("/busy/", "429 Too Many Requests", "429 Too Many Requests\n", Happening::AnsweredTooMany),
        ("/later/", "503 Service Unavailable", "<p>not here", Happening::AnsweredUnavailable),
        ("/unknown/", "503 Service Unavailable", "503 Service Unavailable\n", Happening::AnsweredUnavailable),
    ] {
        let mut rig = rig();
        let text = answered(&mut rig, &get(path));
        let (head, said) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{text}");
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{text}");
        assert_eq!(head.contains("Retry-After: 1"), status.starts_with("503"), "{text}");
        assert_eq!((said, rig.happened(happening)), (body, 1), "{path}");
        let mut rig = self::rig();
        let bodiless = answered(&mut rig, &get(path).replace("GET", "HEAD"));
        assert_eq!(bodiless, format!("{head}\r\n\r\n"), "of {path} to HEAD");
        let mut rig = self::rig();
        let bodiless = answered(&mut rig, &format!("\r\n{}", get(path).replace("GET", "HEAD")));
        assert_eq!(bodiless, format!("{head}\r\n\r\n"), "of {path} to HEAD after an empty line");
    }
}

#[test]
fn the_control_cores_503_has_the_services_page() {
    let mut rig = rig();
    let mut client = Client::new();
    let place = rig.request(&mut client, get("/x").as_bytes());
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    let text = joined(&rig.segments_out(), &client);
    assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n<p>not here"), "{text}");
}

#[test]
fn the_longest_page_is_sent_in_segments_that_fit_and_again_until_it_is_acknowledged() {
    let page: Vec<u8> = (0..PAGE_OCTETS_MAX).map(|n| b'a' + (n % 23) as u8).collect();
    for mss in [536, 1460, 9000] {
        let mut rig = Rig::new();
        rig.command(Command::Services(services("https://example.org", &page)));
        let mut client = Client::new();
        client.offers.mss = Some(mss);
        rig.shake(&mut client);
        assert_eq!(rig.client(&client.data(0, get("/gone/").as_bytes())), Verdict::Answered);
        let first = rig.segments_out();
        let room = usize::from(mss).min(1460) - 12;
        assert!(
            first.iter().all(|segment| segment.payload.len() <= room),
            "segments within the MSS of {mss}"
        );
        let text = joined(&first, &client);
        assert!(text.as_bytes().ends_with(&page), "the whole page");
        // A reload gives the service another page: what was begun goes on as it was.
        rig.command(Command::Services(services("https://other.example", b"short")));
        rig.segments_out();
        rig.pass(1_000);
        assert_eq!(joined(&rig.segments_out(), &client), text);
        let request = get("/gone/").len() as u32;
        assert_eq!(rig.client(&client.acks(request, text.len() as u32 + 1)), Verdict::Answered);
        rig.pass(2_000);
        assert_eq!(rig.segments_out().len(), 0, "nothing more once it is acknowledged");
    }
}

#[test]
fn a_redirect_is_repeated_as_it_was_whatever_came_since() {
    let mut rig = rig();
    let mut client = Client::new();
    rig.shake(&mut client);
    let request = get("/old/x?y");
    assert_eq!(rig.client(&client.data(0, request.as_bytes())), Verdict::Answered);
    let text = joined(&rig.segments_out(), &client);
    rig.command(Command::Services(services("https://other.example", b"")));
    // The same octets again, changed, and more.
    assert_eq!(
        rig.client(&client.data(0, request.replace("/old/x", "/evil/").as_bytes())),
        Verdict::Answered
    );
    assert_eq!(rig.client(&client.data(request.len() as u32, b"GET /old/z HTTP/1.1\r\n")), Verdict::Answered);
    rig.segments_out();
    rig.pass(1_000);
    assert_eq!(joined(&rig.segments_out(), &client), text);
}

#[test]
fn a_client_of_one_octet_a_second_is_answered_408_and_has_one_entry_and_one_buffer() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    let head = get("/a/x");
    let mut answers = Vec::new();
    for (offset, octet) in head.bytes().enumerate() {
        let _ = rig.client(&client.data(offset as u32, &[octet]));
        answers = rig.segments_out();
        assert_eq!((rig.counters.pending.read(), rig.worker.core().assemblies.in_use()), (1, 1));
        if answers.iter().any(|answer| answer.flags.contains(Flags::FIN)) {
            break;
        }
        rig.pass(1_000);
        answers = rig.segments_out();
        if !answers.is_empty() {
            // Ten seconds after the first octet, however many came since.
            assert!((9..=10).contains(&offset), "after octet {offset}");
            break;
        }
    }
    let text = joined(&answers, &client);
    assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text}");
    assert_eq!((rig.happened(Happening::AnsweredTimeout), rig.state(&client.flow)), (1, Some(State::Local)));
    rig.told();
}

/// Heads that servers read differently, or that hide a second request; what follows is never looked at.
const SHAPES: [(BadReason, &[u8]); 46] = [
    (
        BadReason::LengthAndEncoding,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    ),
    (
        BadReason::LengthAndEncoding,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-length: 6\r\n\r\n",
    ),
    (
        BadReason::ContentLength,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nContent-Length: 7\r\n\r\n",
    ),
    (
        BadReason::ContentLength,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nContent-Length: 6\r\n\r\n",
    ),
    (BadReason::ContentLength, b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6, 6\r\n\r\n"),
    (BadReason::ContentLength, b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: +6\r\n\r\n"),
    (BadReason::ContentLength, b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: -6\r\n\r\n"),
    (BadReason::ContentLength, b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0x6\r\n\r\n"),
    (BadReason::ContentLength, b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
    (
        BadReason::ContentLength,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n",
    ),
    (BadReason::TransferEncoding, b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    (
        BadReason::TransferEncoding,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    ),
    (
        BadReason::TransferEncoding,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    ),
    (BadReason::TransferEncoding, b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    (BadReason::TransferEncoding, b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
    (
        BadReason::TransferEncoding,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    ),
    (
        BadReason::TransferEncoding,
        b"POST /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (BadReason::TransferEncoding, b"POST /a/ HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (BadReason::ObsFold, b"GET /a/ HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n"),
    (BadReason::ObsFold, b"GET /a/ HTTP/1.1\r\n\tHost: a\r\n\r\n"),
    (BadReason::SpaceBeforeColon, b"GET /a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n"),
    (BadReason::SpaceBeforeColon, b"GET /a/ HTTP/1.1\r\nHost : a\r\n\r\n"),
    (BadReason::SpaceBeforeColon, b"GET /a/ HTTP/1.1\r\nHost: a\r\nContent-Length\t: 6\r\n\r\n"),
    (BadReason::BareLf, b"GET /a/ HTTP/1.1\nHost: a\n\n"),
    (BadReason::BareLf, b"GET /a/ HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n"),
    (BadReason::BareLf, b"\nGET /a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (BadReason::BareCr, b"GET /a/ HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n"),
    (BadReason::RequestLine, b"GET /a/ HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    (BadReason::Nul, b"GET /a/ HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n"),
    (BadReason::Nul, b"GET /a/%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (BadReason::Header, b"GET /a/ HTTP/1.1\r\nHost: a\r\nTransfer Encoding: chunked\r\n\r\n"),
    (BadReason::Header, b"GET /a/ HTTP/1.1\r\nHost: a\r\nX[0]: y\r\n\r\n"),
    (BadReason::Header, b"GET /a/ HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"),
    (BadReason::Header, b"GET /a/ HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n"),
    (BadReason::Header, b"GET /a/ HTTP/1.1\r\nHost: a\r\nX: \x0b\r\n\r\n"),
    (BadReason::RequestLine, b"GET /a/\r\n"),
    (BadReason::RequestLine, b"GET  /a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (BadReason::RequestLine, b"GET /a/ HTTP/1.1 \r\nHost: a\r\n\r\n"),
    (BadReason::Version, b"GET /a/ HTTP/0.9\r\n\r\n"),
    (BadReason::Version, b"GET /a/ HTTP/1.2\r\nHost: a\r\n\r\n"),
    (BadReason::NoHost, b"GET /a/ HTTP/1.1\r\n\r\n"),
    (BadReason::TwoHosts, b"GET /a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (BadReason::OtherHost, b"GET http://b/a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (BadReason::Host, b"GET /a/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (BadReason::Fragment, b"GET /b/#/a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (BadReason::TwoReadings, b"GET /a%2f..%2fb/ HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[test]
fn what_servers_read_differently_reaches_no_board_and_is_counted_by_reason() {
    for (reason, octets) in SHAPES {
        for cut in [octets.len(), 1] {
            let mut rig = Rig::new();
            let mut client = Client::plain();
            rig.shake(&mut client);
            let mut offset = 0;
            for piece in octets.chunks(cut) {
                let _ = rig.client(&client.data(offset, piece));
                offset += piece.len() as u32;
            }
            let name = String::from_utf8_lossy(octets).into_owned();
            let answers = rig.segments_out();
            let refused = answers.iter().find(|answer| answer.flags.contains(Flags::FIN));
            let refused = refused.unwrap_or_else(|| panic!("no answer to {name:?}"));
            assert!(refused.payload.starts_with(b"HTTP/1.1 400 "), "{name:?}");
            assert!(rig.told().is_empty(), "a board was asked for {name:?}");
            let counts: Vec<_> =
                BadReason::ALL.iter().filter(|it| rig.counters.bad_request(**it).read() > 0).collect();
            assert_eq!(counts, [&reason], "{name:?} in pieces of {cut}");
        }
    }
}

#[test]
fn heads_beyond_their_bounds_are_answered_431() {
    let hundred = "X-Filler: ".to_owned() + &"f".repeat(8 << 10) + "\r\n";
    let long = format!("GET /a/ HTTP/1.1\r\nHost: a\r\n{}\r\n", hundred.repeat(100));
    let cookie = format!("GET /a/ HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(16 << 10));
    let many = format!("GET /a/ HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101));
    for head in [long, cookie, many] {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        rig.shake(&mut client);
        let mut offset = 0;
        for chunk in head.as_bytes().chunks(1_400) {
            let chunk = &chunk[..chunk.len().min(16_384 - offset)];
            let _ = rig.client(&client.data(offset as u32, chunk));
            offset += chunk.len();
            if offset == 16_384 || rig.state(&client.flow) == Some(State::Local) {
                break;
            }
        }
        let answers = rig.segments_out();
        let last = answers.last().expect("an answer");
        assert!(last.payload.starts_with(b"HTTP/1.1 431 "), "{:?}", &head[..60]);
        assert_eq!(rig.happened(Happening::AnsweredTooLarge), 1);
        assert!(rig.told().is_empty());
    }
    // And what just fits goes to a board.
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    let cookie = format!("GET /a/ HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(16_000));
    for (chunk, offset) in cookie.as_bytes().chunks(1_400).zip((0..).step_by(1_400)) {
        let _ = rig.client(&client.data(offset, chunk));
    }
    rig.segments_out();
    assert_eq!(rig.placed().pool, 1);
}
