//! Tests of the request head.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn complete(text: &[u8]) -> Request<'_> {
    match parse(text) {
        Head::Complete(request) => request,
        other => panic!("{other:?} of {}", String::from_utf8_lossy(text)),
    }
}

#[track_caller]
fn is_bad(text: &str, reason: BadReason) {
    assert_eq!(parse(text.as_bytes()), Head::Bad(reason), "{text:?}");
}

fn with_headers(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

#[test]
fn a_plain_request_is_parsed() {
    let text = b"GET /a/b?c=/d HTTP/1.1\r\nHost: www.example\r\nAccept: */*\r\n\r\nbody";
    let expected = Request {
        len: text.len() - 4,
        method: b"GET",
        host: Some(b"www.example"),
        path: b"/a/b",
        resource: b"/a/b?c=/d",
        head: &text[..text.len() - 4],
        version: Version::Http11,
    };
    assert_eq!(parse(text), Head::Complete(expected));
}

#[test]
fn a_head_is_complete_at_the_blank_line_only() {
    let text = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    for len in 0..text.len() {
        assert_eq!(parse(&text[..len]), Head::Incomplete, "{len}");
    }
    assert_eq!(complete(text).len, text.len());
}

#[test]
fn http_1_0_needs_no_host() {
    let request = complete(b"HEAD /x HTTP/1.0\r\n\r\n");
    assert_eq!((request.method, request.host, request.version), (b"HEAD".as_slice(), None, Version::Http10));
}

#[test]
fn host_loses_port_and_trailing_dot_and_keeps_its_case() {
    let cases = [
        ("Www.Example", Some("Www.Example")),
        ("a:8080", Some("a")),
        ("a.example.", Some("a.example")),
        ("a.example.:80", Some("a.example")),
        ("a:", Some("a")),
        ("  a \t ", Some("a")),
        ("", None),
        (":80", None),
        ("[2001:db8::1]:80", Some("[2001:db8::1]")),
        ("[2001:db8::1]", Some("[2001:db8::1]")),
        ("192.0.2.1:80", Some("192.0.2.1")),
    ];
    for (value, expected) in cases {
        let text = format!("GET / HTTP/1.1\r\nhOsT:{value}\r\n\r\n");
        assert_eq!(complete(text.as_bytes()).host, expected.map(str::as_bytes), "{value:?}");
    }
}

#[test]
fn hosts_that_are_none_are_refused() {
    for value in ["a b", "a/b", "u@a", "a:b", "a:1:2", "[::1", "[::1]x", "[x]", "a,[", "a..", ".a", "\u{e4}"]
    {
        is_bad(&format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"), BadReason::Host);
    }
    is_bad(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(256)), BadReason::Host);
}

#[test]
fn an_absolute_target_gives_host_and_path() {
    let cases = [
        ("http://b.example:81/x?y", "b.example", "/x", "/x?y"),
        ("HTTPS://b.EXAMPLE/", "b.EXAMPLE", "/", "/"),
        ("http://b.example", "b.example", "/", ""),
        ("http://b.example.?q=/z", "b.example", "/", "?q=/z"),
    ];
    for (target, host, path, resource) in cases {
        let text = format!("GET {target} HTTP/1.1\r\nHost: B.example:8080\r\n\r\n");
        let request = complete(text.as_bytes());
        assert_eq!((request.host, request.path), (Some(host.as_bytes()), path.as_bytes()), "{target}");
        assert_eq!(request.resource, resource.as_bytes(), "{target}");
    }
    let request = complete(b"GET http://b/ HTTP/1.0\r\n\r\n");
    assert_eq!((request.host, request.path), (Some(b"b".as_slice()), b"/".as_slice()));
    is_bad("GET http://b/ HTTP/1.1\r\n\r\n", BadReason::NoHost);
    for field in ["a", "", "b.example.org", "xb", "b@a"] {
        let text = format!("GET http://b/ HTTP/1.1\r\nHost: {field}\r\n\r\n");
        let reason = if field == "b@a" { BadReason::Host } else { BadReason::OtherHost };
        is_bad(&text, reason);
    }
    is_bad("GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::Host);
    is_bad("GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n", BadReason::Host);
}

#[test]
fn the_other_forms_of_target() {
    let options = complete(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((options.path, options.resource), (b"*".as_slice(), b"".as_slice()));
    let connect = complete(b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n");
    assert_eq!((connect.host, connect.path), (Some(b"b.example".as_slice()), b"/".as_slice()));
    assert_eq!(connect.resource, b"");
    for target in ["*", "a", "ftp://b/", "?q", "http:/b"] {
        is_bad(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), BadReason::RequestLine);
    }
    for target in ["a", "a:", ":443", "/a", "a:b", "http://a:1/", "u@a:1"] {
        is_bad(
            &format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            if target == ":443" { BadReason::OtherHost } else { BadReason::Host },
        );
    }
    is_bad("CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::OtherHost);
}

#[test]
fn a_target_has_no_fragment_and_whole_escapes() {
    for target in ["/a#b/../c", "/#", "/a?b#c", "http://a/#", "http://a#x"] {
        is_bad(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), BadReason::Fragment);
    }
    for target in ["/%", "/%a", "/a%zz", "/%u0041", "http://a/%", "/%%41?x"] {
        is_bad(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), BadReason::Escape);
    }
    for target in ["/%00", "/a%00/../b", "http://a/%00"] {
        is_bad(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), BadReason::Nul);
    }
    for target in ["/?x=100%", "/%41?%zz", "/?%00"] {
        complete(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    }
}

#[test]
fn empty_lines_before_the_request_are_skipped_and_counted() {
    let request = complete(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((request.len, request.method), (31, b"GET".as_slice()));
    is_bad("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::BareCr);
    is_bad("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::BareLf);
    assert_eq!(parse(b"\r\n\r"), Head::Incomplete);
}

#[test]
fn a_bare_line_feed_ends_no_line() {
    for text in [
        "GET /a HTTP/1.1\nHost: a\n\n",
        "GET /a HTTP/1.1\r\nHost: a\n\r\n",
        "GET /a HTTP/1.1\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: y\nZ: w\r\n\r\n",
    ] {
        is_bad(text, BadReason::BareLf);
        is_bad(&format!("{text}body"), BadReason::BareLf);
    }
}

#[test]
fn what_is_not_http_is_refused_at_its_first_wrong_octet() {
    let tls = b"\x16";
    let texts: [&[u8]; 9] =
        [tls, b"\0", b" ", b"{", b"GET\r", b"GET\t", b"G\xc3", b"SSH-2.0-OpenSSH_9.2\r", &[b'A'; 33]];
    for text in texts {
        assert_eq!(parse(text), Head::Bad(BadReason::NotHttp), "{text:?}");
        assert_eq!(parse(&text[..text.len() - 1]), Head::Incomplete, "{text:?}");
    }
    assert_eq!(parse(&[b'A'; 32]), Head::Incomplete);
}

#[test]
fn a_bad_request_line_is_refused_at_its_end() {
    for line in
        ["GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", "GET /a b HTTP/1.1", "GET / http/1.1", "GET / HTTP/1"]
    {
        is_bad(&format!("{line}\r\n"), BadReason::RequestLine);
    }
    is_bad("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", BadReason::RequestLine);
}

#[test]
fn other_versions_are_refused_at_the_lines_end() {
    for line in ["PRI * HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/1.2", "GET / HTTP/3.0"] {
        is_bad(&format!("{line}\r\n"), BadReason::Version);
    }
}

#[test]
fn headers_that_servers_read_differently_are_refused() {
    is_bad(&with_headers("X: a\r\n b\r\n"), BadReason::ObsFold);
    is_bad(&with_headers("X: a\r\n\tb\r\n"), BadReason::ObsFold);
    is_bad("GET / HTTP/1.1\r\n Host: a\r\n\r\n", BadReason::ObsFold);
    is_bad(&with_headers("X : a\r\n"), BadReason::SpaceBeforeColon);
    is_bad(&with_headers("Content-Length\t: 1\r\n"), BadReason::SpaceBeforeColon);
    is_bad(&with_headers("X: a\rb\r\n"), BadReason::BareCr);
    is_bad(&with_headers("X: a\r\r\n"), BadReason::BareCr);
    is_bad(&with_headers("X: a\0b\r\n"), BadReason::Nul);
    is_bad("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::Nul);
    is_bad("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::BareCr);
    is_bad("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::RequestLine);
    is_bad("GET :\x01 HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::RequestLine);
    is_bad(&with_headers("no colon\r\n"), BadReason::Header);
    is_bad(&with_headers(": a\r\n"), BadReason::Header);
    is_bad(&with_headers("X(: a\r\n"), BadReason::Header);
    is_bad(&with_headers("X: \x01\r\n"), BadReason::Header);
}

#[test]
fn host_and_framing_headers_must_not_contradict() {
    is_bad("GET / HTTP/1.1\r\n\r\n", BadReason::NoHost);
    is_bad(&with_headers("host: a\r\n"), BadReason::TwoHosts);
    is_bad("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", BadReason::TwoHosts);
    is_bad(
        &with_headers("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        BadReason::LengthAndEncoding,
    );
    complete(with_headers("Content-Length: 1\r\n").as_bytes());
    for good in ["chunked", "gzip, Chunked"] {
        complete(with_headers(&format!("Transfer-Encoding: {good}\r\n")).as_bytes());
    }
    for bad in ["identity", "chunked, identity", "xchunked", "chunked, chunked", ""] {
        is_bad(&with_headers(&format!("Transfer-Encoding: {bad}\r\n")), BadReason::TransferEncoding);
    }
    let twice = "Transfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n";
    is_bad(&with_headers(twice), BadReason::TransferEncoding);
    is_bad("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", BadReason::TransferEncoding);
    for bad in ["", "+1", "1, 1", "-1", "1 1", "0x1", "1111111111111111111"] {
        is_bad(&with_headers(&format!("Content-Length: {bad}\r\n")), BadReason::ContentLength);
    }
    for second in ["1", "2"] {
        let twice = format!("Content-Length: 1\r\nCONTENT-LENGTH: {second}\r\n");
        is_bad(&with_headers(&twice), BadReason::ContentLength);
    }
}

#[test]
fn a_head_may_fill_the_window_and_not_more() {
    let fixed = with_headers("X: \r\n").len();
    let fits = with_headers(&format!("X: {}\r\n", "x".repeat(MAX_HEAD_OCTETS - fixed)));
    assert_eq!(complete(fits.as_bytes()).len, MAX_HEAD_OCTETS);
    let longer = with_headers(&format!("X: {}\r\n", "x".repeat(MAX_HEAD_OCTETS - fixed + 1)));
    assert_eq!(parse(longer.as_bytes()), Head::TooLong);
    assert_eq!(parse(&longer.as_bytes()[..MAX_HEAD_OCTETS]), Head::TooLong, "no more can come");
    assert_eq!(parse(&longer.as_bytes()[..MAX_HEAD_OCTETS - 1]), Head::Incomplete);
    assert_eq!(parse(&b"\r\n".repeat(MAX_HEAD_OCTETS / 2)), Head::TooLong);
}

#[test]
fn a_hundred_headers_and_not_more() {
    complete(with_headers(&"X: y\r\n".repeat(MAX_HEADERS - 1)).as_bytes());
    assert_eq!(parse(with_headers(&"X: y\r\n".repeat(MAX_HEADERS)).as_bytes()), Head::TooLong);
}

#[test]
fn one_octet_at_a_time_looks_at_every_octet_once() {
    let text = with_headers(&format!("X: {}\r\n", "x".repeat(9000)));
    let mut scan = HeadScan::new();
    for len in 1..text.len() {
        let before = usize::from(scan.scanned);
        assert_eq!(scan.advance(&text.as_bytes()[..len]), Head::Incomplete);
        assert!(usize::from(scan.scanned) == len || usize::from(scan.scanned) == before && before + 1 == len);
    }
    assert!(matches!(scan.advance(text.as_bytes()), Head::Complete(request) if request.len == text.len()));
}

#[test]
fn a_verdict_stays() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\n\r\n";
    let mut scan = HeadScan::new();
    let first = scan.advance(text);
    assert!(matches!(first, Head::Complete(_)));
    assert_eq!(scan.advance(text), first);
    let mut scan = HeadScan::new();
    assert_eq!(scan.advance(b"\x16"), Head::Bad(BadReason::NotHttp));
    assert_eq!(scan.advance(b"\x16\x03"), Head::Bad(BadReason::NotHttp));
}

#[test]
fn reasons_are_numbered_as_listed() {
    for (number, reason) in BadReason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, number);
    }
}

#[test]
fn the_scan_state_is_small() {
    assert!(size_of::<HeadScan>() <= 12);
}

/// Texts near enough to heads that every branch is met.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "GET",
        " ",
        "/",
        "/a/../b",
        "?q",
        "*",
        "OPTIONS",
        "CONNECT",
        "http://h:1/",
        " HTTP/1.1\r\n",
        " HTTP/1.0\n",
        " HTTP/2.0\r\n",
        "GET / HTTP/1.1\r\n",
        "Host: a\r\n",
        "Host: b:80\n",
        "Content-Length: 1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X : y\r\n",
        "X: y",
        "\r\n",
        "\n",
        "\r",
        "\0",
        ":",
        "\t",
        "\u{e4}",
        "\r\n\r\n",
    ]);
    let near = prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat().into_bytes());
    let mutated = (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, octet)| {
        let mut text =
            b"\r\nPOST /a?b HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 3\r\nX: y\r\n\r\nabc".to_vec();
        let at = at.index(text.len());
        text[at] = octet;
        text
    });
    prop_oneof![3 => near, 2 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_does_not_depend_on_the_cuts(
        text in heads(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut lens: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        lens.sort_unstable();
        lens.push(text.len());
        let whole = parse(&text);
        let mut scan = HeadScan::new();
        let mut by_parts = Head::Incomplete;
        for len in lens {
            by_parts = scan.advance(&text[..len]);
            if by_parts != Head::Incomplete {
                break;
            }
        }
        prop_assert_eq!(by_parts, whole);
    }

    #[test]
    fn a_complete_head_ends_with_its_blank_line(text in heads()) {
        if let Head::Complete(request) = parse(&text) {
            let head = &text[..request.len];
            prop_assert!(head.ends_with(b"\r\n\r\n"));
            prop_assert!(!request.method.is_empty());
            prop_assert!(request.path.starts_with(b"/") || request.path == b"*");
            prop_assert_eq!(parse(head), parse(&text));
            prop_assert_eq!(parse(&head[..head.len() - 1]), Head::Incomplete);
        }
    }
}
