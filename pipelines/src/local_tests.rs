//! Tests of the texts of the appliance's own answers.

use super::*;
use crate::answers::Page;

const ANSWERS: [Answer; 11] = [
    Answer::BadRequest,
    Answer::Forbidden,
    Answer::NotFound,
    Answer::RequestTimeout,
    Answer::UriTooLong,
    Answer::TooManyRequests,
    Answer::HeadTooLarge,
    Answer::Unavailable,
    Answer::NotYet(RetryAfter::S1),
    Answer::NotYet(RetryAfter::S10),
    Answer::NotYet(RetryAfter::S60),
];

fn local(answer: Answer, page: Option<Page>) -> Local {
    let resource = OffsetRange { start: 4, end: 8 };
    Local { answer, page: page.map(Arc::new), resource, len: 0, fin_acked: false, client_fin: false, sent: 0 }
}

fn whole(local: &Local) -> String {
    String::from_utf8(parts(local, b"GET /x?y HTTP/1.1").concat()).unwrap()
}

/// The length that the head says is the body's, and the status is the answer's.
fn is_sound(answer: Answer, text: &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), body.len(), "{text}");
    assert!(head.contains("\r\nConnection: close"), "{text}");
    let (status, reason) = answer.status().unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} {reason}\r\n")), "{text}");
}

#[test]
fn every_answer_is_a_whole_response() {
    for answer in ANSWERS {
        is_sound(answer, &whole(&local(answer, None)));
        let own = whole(&local(answer, Page::own(answer, "text/html", b"<p>no")));
        is_sound(answer, &own);
        assert!(own.contains("\r\nContent-Type: text/html\r\n") && own.ends_with("\r\n\r\n<p>no"), "{own}");
    }
}

#[test]
fn a_service_that_starts_says_when_to_come_again_on_its_own_page_too() {
    for (seconds, said) in [(0, 1), (2, 2), (3, 5), (9, 10), (11, 30), (31, 60), (u64::MAX, 60)] {
        let answer = Answer::NotYet(RetryAfter::at_least(seconds));
        for page in [None, Page::own(answer, "text/plain", b"soon")] {
            let text = whole(&local(answer, page));
            assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
            assert!(text.contains(&format!("\r\nRetry-After: {said}\r\n")), "{seconds}: {text}");
        }
    }
}

#[test]
fn a_redirect_repeats_the_requests_path_where_it_is_to() {
    for (to, location) in [
        ("https://example.org", "https://example.org/x?y"),
        ("https://example.org/new{path}", "https://example.org/new/x?y"),
        ("https://example.org/", "https://example.org/"),
        ("/login", "/login"),
    ] {
        let text = whole(&local(Answer::Redirect(0), Page::redirect(308, to).ok()));
        let expected = format!(
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(text, expected);
    }
}

#[test]
fn parts_are_copied_from_any_offset_into_any_room() {
    let parts: [&[u8]; 4] = [b"ab", b"", b"cde", b"f"];
    for offset in 0..8 {
        for room in 0..8 {
            let mut target = [0xa5; 8];
            let copied = copy(&parts, offset, &mut target[..room]);
            let expected = &b"abcdef"[offset.min(6)..(offset + room).min(6).max(offset.min(6))];
            assert_eq!(&target[..copied], expected, "{offset} {room}");
        }
    }
}

#[test]
fn alerts_are_records_of_one_alert() {
    let alerts = [
        (Alert::CloseNotify, [1, 0]),
        (Alert::DecodeError, [2, 50]),
        (Alert::InternalError, [2, 80]),
        (Alert::UnrecognizedName, [2, 112]),
    ];
    for (alert, [level, description]) in alerts {
        let local = local(Answer::Alert(alert), None);
        assert_eq!(parts(&local, b"HEAD ").concat(), [21, 3, 3, 0, 2, level, description]);
    }
}

#[test]
fn every_answer_has_words_for_every_kind() {
    for answer in ANSWERS {
        assert_eq!(in_the_clients_words(Kind::Http, answer), (answer, None));
        assert_eq!(in_the_clients_words(Kind::Tcp, answer), (Answer::Reset, Some(Happening::ResetUnplaced)));
        let (alert, reason) = in_the_clients_words(Kind::Tls, answer);
        assert!(matches!(alert, Answer::Alert(_)) && reason.is_some(), "{answer:?}");
    }
    for kind in [Kind::Http, Kind::Tcp, Kind::Tls] {
        assert_eq!(in_the_clients_words(kind, Answer::Reset), (Answer::Reset, None));
    }
}
