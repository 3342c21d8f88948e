//! Tests of where requests belong: no spelling of a path reaches a board that the map does not allow for what the board's own
//! server makes of it.

use proptest::prelude::*;

use super::*;
use crate::request::head::{self, Head};
use crate::request::path::PATH_OCTETS;
use crate::urlmap::Rule;

/// `/a/` is pool 1, `/b/` pool 2, `/@c/` pool 3, the rest pool 9.
fn map() -> UrlMap {
    UrlMap::build(&[
        Rule::prefix(None, "/a/", 1),
        Rule::prefix(None, "/b/", 2),
        Rule::prefix(None, "/@c/", 3),
    ])
    .unwrap()
}

/// The pool of a whole head, or why it is refused; `None` for a head that is no request yet, or too long.
fn placed(head: &[u8]) -> Option<Result<u16, BadReason>> {
    let mut buffer = vec![0; PATH_OCTETS];
    Some(match head::parse(head) {
        Head::Complete(request) => route(&map(), &request, &mut buffer).map(|action| match action {
            Some(Action::Pool(pool)) => pool,
            Some(Action::Answer(answer)) => panic!("{answer:?}"),
            None => 9,
        }),
        Head::Bad(reason) => Err(reason),
        Head::Incomplete | Head::TooLong => return None,
    })
}

fn get(path: &[u8]) -> Option<Result<u16, BadReason>> {
    placed(&[b"GET ", path, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat())
}

#[test]
fn spellings_of_a_path_are_placed_as_the_path_or_refused() {
    use BadReason::{Escape, Fragment, Nul, TwoReadings};
    let cases: [(&str, Result<u16, BadReason>); 40] = [
        ("/a/x", Ok(1)),
        ("/b/x", Ok(2)),
        ("/c", Ok(9)),
        ("/a", Ok(9)),
        ("/a/../b/x", Ok(2)),
        ("/a/./x", Ok(1)),
        ("/a/%2e%2e/b/x", Ok(2)),
        ("/a/.%2E/b/x", Ok(2)),
        ("/a/%2e%2e//b/x", Ok(2)),
        ("//b/x", Ok(2)),
        ("///b///x", Ok(2)),
        ("/./b/x", Ok(2)),
        ("/../b/x", Ok(2)),
        ("/%62/x", Ok(2)),
        ("/%62%2Fx", Err(TwoReadings)),
        ("/b%2fx", Err(TwoReadings)),
        ("/b%2F", Err(TwoReadings)),
        ("/%2Fb/x", Err(TwoReadings)),
        ("/a%2F..%2Fb/x", Err(TwoReadings)),
        ("/a%2f../b/x", Err(TwoReadings)),
        ("/a/..%2Fb/x", Err(TwoReadings)),
        ("/a/%2e%2e%2fb/x", Err(TwoReadings)),
        ("/a/x%2f..%2f..%2fb/x", Err(TwoReadings)),
        ("/a/x%2Fy", Ok(1)),
        ("/a/x%2F..%2Fy", Ok(1)),
        ("/c%2Fx", Ok(9)),
        ("/%252e%252e/b/x", Ok(9)),
        ("/a/%252e%252e/b/x", Ok(1)),
        ("/b%252Fx", Ok(9)),
        ("/a/..;/b/x", Ok(1)),
        ("/a\\..\\b\\x", Ok(9)),
        ("/%40c/x", Ok(3)),
        ("/@%63/x", Ok(3)),
        ("/a/x?/../../b/x", Ok(1)),
        ("/a/x?%2f%", Ok(1)),
        ("/b/x#/a/", Err(Fragment)),
        ("/b%00/x", Err(Nul)),
        ("/b%/x", Err(Escape)),
        ("/%b/x", Err(Escape)),
        ("/%u0062/x", Err(Escape)),
    ];
    for (path, expected) in cases {
        assert_eq!(get(path.as_bytes()), Some(expected), "{path}");
    }
}

/// What nginx 1.22 makes of a path, by its own state machine (`ngx_http_parse_complex_uri`): an escape is decoded once, and an
/// octet that it gives counts as if it had been written. `None` where it answers 400.
fn nginx(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        if *octet == b'%' {
            let digits = core::str::from_utf8(after.get(..2)?).ok()?;
            let value = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let value = value.then(|| u8::from_str_radix(digits, 16).ok()).flatten()?;
            rest = &after[2..];
            if value == 0 {
                return None;
            }
            decoded.push(value);
        } else {
            decoded.push(*octet);
        }
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let segments: Vec<&[u8]> = decoded.split(|octet| *octet == b'/').skip(1).collect();
    for segment in &segments {
        match *segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()?),
            other => kept.push(other),
        }
    }
    let is_directory = matches!(segments.last(), Some(&b"" | &b"." | &b".."));
    let mut uri = b"/".to_vec();
    uri.extend(kept.join(&b'/'));
    if is_directory && !kept.is_empty() {
        uri.push(b'/');
    }
    Some(uri)
}

/// The pool that the map has for content that nginx would look for.
fn allowed(uri: &[u8]) -> u16 {
    [(&b"/a/"[..], 1), (b"/b/", 2), (b"/@c/", 3)]
        .into_iter()
        .find(|(prefix, _)| uri.starts_with(prefix))
        .map_or(9, |(_, pool)| pool)
}

fn spellings() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "/", "//", "a", "b", "@c", "x", ".", "..", "%2e", "%2E%2e", "%2f", "%2F", "%61", "%62", "%40", "%63",
        "%25", "%00", "%", ";", "\\", "%5c", "/a/", "/b/", "/@c/", "\u{e9}", "%c3%a9", "%3f", "%23", "%20",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_spelling_reaches_a_board_that_is_not_allowed_for_what_nginx_makes_of_it(path in spellings()) {
        if let Some(Ok(pool)) = get(&path)
            && let Some(uri) = nginx(&path)
        {
            prop_assert_eq!(pool, allowed(&uri), "{} is {}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&uri));
        }
    }

    /// The same for a server that keeps an encoded slash as an octet of its segment.
    #[test]
    fn nor_for_what_a_strict_server_makes_of_it(path in spellings()) {
        let strict: Vec<u8> = String::from_utf8_lossy(&path).replace("%2f", "%01").replace("%2F", "%01").into_bytes();
        if let Some(Ok(pool)) = get(&path)
            && let Some(uri) = nginx(&strict)
        {
            prop_assert_eq!(pool, allowed(&uri), "{}", String::from_utf8_lossy(&path));
        }
    }
}
