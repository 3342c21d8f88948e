//! The request head: found as octets arrive, parsed once when it is whole.
//!
//! Input: the contiguous stream from IRS+1 ([`super::assembly`]). Output: [`Head`]. Owner: the worker. Cost: each
//! octet is scanned once for its line's end however the client cuts its segments, and not at all when the head comes whole;
//! `httparse` runs once, over the whole head. Ad hoc, release, one AMD EPYC vCPU: 86 octets of curl 105 ns, 524 octets of Firefox 275 ns, a head
//! that comes one octet at a time 9 ns per octet.
//!
//! The board's server parses the same octets again, and what it sees decides. So whatever servers disagree about is
//! refused here with a 400 instead of being placed by our reading of it. (Tried against nginx 1.22: of 8,600
//! mutated heads that both accept, all had the same end and host in both, and the same path but for the encoded slash
//! of [`super::path`].) Fixed readings:
//!
//! - A line ends with CRLF or with a bare LF (RFC 9112 section 2.2; nginx does the same). A CR elsewhere is refused.
//! - Empty lines before the request line are skipped (same section), and count towards the head's length.
//! - Exactly one space between method, target and version; HTTP/1.0 and HTTP/1.1 only.
//! - Obsolete line folding, white space before a colon, two Host headers, Content-Length together with
//!   Transfer-Encoding: refused (RFC 9112 sections 5.1, 5.2, 3.2, 6.1).
//! - The authority of an absolute target takes precedence over Host (section 3.2.2), which HTTP/1.1 demands all the
//!   same.
//! - The path ends at `?` or `#`, as nginx reads it. Octets above 0x7f are accepted in it as UTF-8 only.

use core::mem::MaybeUninit;

use super::assembly::WINDOW;

/// Longest head that is accepted, octets, empty lines before it included.
pub const MAX_HEAD_OCTETS: usize = WINDOW;
/// Most headers that are accepted.
pub const MAX_HEADERS: usize = 100;
/// Longest method that is waited for, octets. The longest registered one (UPDATEREDIRECTREF) has 17.
pub const MAX_METHOD_OCTETS: usize = 32;
/// Longest host that is accepted, octets (RFC 1035 section 2.3.4).
pub const MAX_HOST_OCTETS: usize = 255;

/// What the stream's beginning is, so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head<'a> {
    /// No blank line yet, and nothing wrong so far.
    Incomplete,
    /// A whole head.
    Complete(Request<'a>),
    /// To be answered with 400.
    Bad(BadReason),
    /// To be answered with 431: longer than [`MAX_HEAD_OCTETS`], or more than [`MAX_HEADERS`] headers.
    TooLong,
}

/// What placement needs of a request head. The slices point into the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Octets from the stream's beginning to the end of the blank line.
    pub len: usize,
    /// The method, as sent.
    pub method: &'a [u8],
    /// The host without port and trailing dot, in the client's spelling: compare without regard to case. `None` when
    /// there is none, or it is empty.
    pub host: Option<&'a [u8]>,
    /// The path without query, as sent: to be normalised before a look-up. `*` for `OPTIONS *`, `/` for CONNECT and
    /// for an absolute target without a path.
    pub path: &'a [u8],
    /// The version.
    pub version: Version,
}

/// HTTP versions that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Why a head is refused with 400. One counter each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum BadReason {
    /// The stream does not begin with a method: TLS, SSH, noise.
    #[error("not HTTP")]
    NotHttp,
    /// The request line is not method, target, version.
    #[error("bad request line")]
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1, the HTTP/2 preface among them.
    #[error("unsupported HTTP version")]
    Version,
    /// A header line that is none.
    #[error("bad header")]
    Header,
    /// A header continued on the next line (RFC 9112 section 5.2).
    #[error("header folded over lines")]
    ObsFold,
    /// White space between header name and colon (RFC 9112 section 5.1).
    #[error("white space before the colon")]
    SpaceBeforeColon,
    /// A CR that no LF follows (RFC 9112 section 2.2).
    #[error("bare CR")]
    BareCr,
    /// A NUL octet.
    #[error("NUL octet")]
    Nul,
    /// A host that is none.
    #[error("bad host")]
    Host,
    /// More than one Host header.
    #[error("two Host headers")]
    TwoHosts,
    /// HTTP/1.1 without a Host header.
    #[error("no Host header")]
    NoHost,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 section 6.1).
    #[error("Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
}

impl BadReason {
    /// All reasons, in the order of their numbers (`reason as usize` is the index).
    pub const ALL: [Self; 12] = [
        Self::NotHttp,
        Self::RequestLine,
        Self::Version,
        Self::Header,
        Self::ObsFold,
        Self::SpaceBeforeColon,
        Self::BareCr,
        Self::Nul,
        Self::Host,
        Self::TwoHosts,
        Self::NoHost,
        Self::LengthAndEncoding,
    ];
}

/// How a client begins that speaks HTTP/2 without asking (RFC 9113, section 3.4). To HTTP/1.1 it is a request of a version that is
/// refused.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a stream begins with HTTP/2's preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// It does.
    Whole,
    /// What is there of it could become one; nothing yet could be told from it.
    Begun,
    /// It does not.
    Not,
}

/// Looks for HTTP/2's preface at a stream's beginning.
pub fn preface(contiguous: &[u8]) -> Preface {
    if contiguous.starts_with(PREFACE) {
        Preface::Whole
    } else if PREFACE.starts_with(contiguous) {
        Preface::Begun
    } else {
        Preface::Not
    }
}

/// Parses a stream's beginning in one go.
pub fn parse(contiguous: &[u8]) -> Head<'_> {
    HeadScan::new().advance(contiguous)
}

/// How far a stream has been looked at: 12 octets in the Temporary entry, so that a request that comes one octet at a
/// time costs no more than one that comes whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadScan {
    phase: Phase,
    /// Octets looked at.
    scanned: u16,
    /// Offset of the line being looked at.
    line_start: u16,
    /// Offset of the request line.
    request_start: u16,
    headers: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the request line's first octet.
    Leading,
    /// In the method.
    Method,
    /// In the rest of the request line.
    RequestLine,
    /// In the headers.
    Headers,
    /// The head ends at `line_start`.
    Whole,
    Bad(BadReason),
    TooLong,
}

const _: () = assert!(MAX_HEAD_OCTETS <= u16::MAX as usize && MAX_HEADERS < u8::MAX as usize);

impl HeadScan {
    /// Nothing looked at yet.
    pub const fn new() -> Self {
        Self { phase: Phase::Leading, scanned: 0, line_start: 0, request_start: 0, headers: 0 }
    }

    /// Looks at what is new in `contiguous`, which begins with all that was given before. A verdict, once reached, is
    /// repeated by every later call.
    pub fn advance<'a>(&mut self, contiguous: &'a [u8]) -> Head<'a> {
        let window = contiguous.get(..MAX_HEAD_OCTETS).unwrap_or(contiguous);
        if let Some(request) = self.at_once(window) {
            return Head::Complete(request);
        }
        loop {
            let before = self.phase;
            self.phase = match before {
                Phase::Leading => self.scan_leading(window),
                Phase::Method => self.scan_method(window),
                Phase::RequestLine => self.scan_request_line(window),
                Phase::Headers => self.scan_headers(window),
                Phase::Whole => return self.parse_whole(window),
                Phase::Bad(reason) => return Head::Bad(reason),
                Phase::TooLong => return Head::TooLong,
            };
            if self.phase == before {
                // Every phase runs until it is left or the octets are used up.
                if window.len() < MAX_HEAD_OCTETS {
                    return Head::Incomplete;
                }
                self.phase = Phase::TooLong;
            }
        }
    }

    /// What nearly every client sends: a good head, all of it, and nothing behind it. `httparse` has a line end in no token,
    /// so it cannot end such a head elsewhere than the scan would, and the scan is spared. All else is left to the scan.
    fn at_once<'a>(&mut self, window: &'a [u8]) -> Option<Request<'a>> {
        let begins_here = window.first().is_some_and(|octet| is_token(*octet));
        if *self != Self::new() || !begins_here || !window.ends_with(b"\n\r\n") {
            return None;
        }
        let request =
            parse_request(window).ok().filter(|request| request.method.len() <= MAX_METHOD_OCTETS)?;
        self.phase = Phase::Whole;
        self.scanned = window.len() as u16;
        self.line_start = self.scanned;
        Some(request)
    }

    /// Skips empty lines.
    fn scan_leading(&mut self, window: &[u8]) -> Phase {
        while let [octet, rest @ ..] = window.get(usize::from(self.scanned)..).unwrap_or_default() {
            match (*octet, rest.first()) {
                (b'\n', _) => self.scanned += 1,
                (b'\r', Some(b'\n')) => self.scanned += 2,
                (b'\r', None) => return Phase::Leading,
                (b'\r', Some(_)) => return Phase::Bad(BadReason::BareCr),
                _ => {
                    self.request_start = self.scanned;
                    self.line_start = self.scanned;
                    return Phase::Method;
                }
            }
        }
        Phase::Leading
    }

    /// Refuses what is not HTTP at its first wrong octet: 400 at once instead of 408 after the time-out.
    fn scan_method(&mut self, window: &[u8]) -> Phase {
        while let Some(&octet) = window.get(usize::from(self.scanned)) {
            let len = usize::from(self.scanned - self.request_start);
            if octet == b' ' && len > 0 {
                return Phase::RequestLine;
            }
            if !is_token(octet) || len == MAX_METHOD_OCTETS {
                return Phase::Bad(BadReason::NotHttp);
            }
            self.scanned += 1;
        }
        Phase::Method
    }

    fn scan_request_line(&mut self, window: &[u8]) -> Phase {
        match self.next_line(window) {
            None => Phase::RequestLine,
            Some(line) => check_request_line(line).map_or_else(Phase::Bad, |()| Phase::Headers),
        }
    }

    fn scan_headers(&mut self, window: &[u8]) -> Phase {
        while let Some(line) = self.next_line(window) {
            match line.first() {
                None => return Phase::Whole,
                Some(b' ' | b'\t') => return Phase::Bad(BadReason::ObsFold),
                Some(_) if usize::from(self.headers) == MAX_HEADERS => return Phase::TooLong,
                Some(_) => self.headers += 1,
            }
        }
        Phase::Headers
    }

    /// The next line without its end, when it is whole.
    fn next_line<'a>(&mut self, window: &'a [u8]) -> Option<&'a [u8]> {
        let unseen = window.get(usize::from(self.scanned)..)?;
        let Some(at) = memchr::memchr(b'\n', unseen) else {
            self.scanned = window.len() as u16;
            return None;
        };
        let line_feed = usize::from(self.scanned) + at;
        let line = window.get(usize::from(self.line_start)..line_feed)?;
        self.scanned = (line_feed + 1) as u16;
        self.line_start = self.scanned;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn parse_whole<'a>(&self, window: &'a [u8]) -> Head<'a> {
        let Some(text) = window.get(usize::from(self.request_start)..usize::from(self.line_start)) else {
            return Head::Incomplete;
        };
        match parse_request(text) {
            Ok(request) => Head::Complete(Request { len: usize::from(self.line_start), ..request }),
            Err(reason) => Head::Bad(reason),
        }
    }
}

impl Default for HeadScan {
    fn default() -> Self {
        Self::new()
    }
}

/// Three words and a version that is served; the target is checked with the head.
fn check_request_line(line: &[u8]) -> Result<(), BadReason> {
    let mut words = line.splitn(3, |octet| *octet == b' ');
    let (Some(_method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(BadReason::RequestLine);
    };
    match version {
        _ if target.is_empty() => Err(BadReason::RequestLine),
        b"HTTP/1.0" | b"HTTP/1.1" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(BadReason::Version)
        }
        _ => Err(BadReason::RequestLine),
    }
}

/// Parses a whole head that begins with the request line and ends with the blank line. `len` of the result is
/// `text`'s.
fn parse_request(text: &[u8]) -> Result<Request<'_>, BadReason> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(text, &mut headers) {
        Ok(httparse::Status::Complete(len)) if len == text.len() => {}
        // The scan found the blank line at the very end: another opinion means a malformed head.
        Ok(_) => return Err(diagnose(text, BadReason::Header)),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine) => {
            return Err(diagnose(text, BadReason::Header));
        }
        Err(_) => return Err(diagnose(text, BadReason::RequestLine)),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(BadReason::RequestLine);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let header_host = check_headers(parsed.headers)?;
    if header_host.is_none() && version == Version::Http11 {
        return Err(BadReason::NoHost);
    }
    let header_host = header_host.map_or(Ok(None), host_of)?;
    let target = Target::parse(method.as_bytes(), target.as_bytes())?;
    let host = match target.authority {
        Some(authority) => host_of(authority)?,
        None => header_host,
    };
    Ok(Request { len: text.len(), method: method.as_bytes(), host, path: target.path, version })
}

/// The value of the Host header; refuses what headers must not say together.
fn check_headers<'a>(headers: &[httparse::Header<'a>]) -> Result<Option<&'a [u8]>, BadReason> {
    let mut host = None;
    let mut hosts = 0;
    let mut has_length = false;
    let mut has_encoding = false;
    for header in headers {
        // Lengths first: nearly every header is none of the three.
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => {
                hosts += 1;
                host = Some(header.value);
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => has_length = true,
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => has_encoding = true,
            _ => {}
        }
    }
    if hosts > 1 {
        return Err(BadReason::TwoHosts);
    }
    if has_length && has_encoding {
        return Err(BadReason::LengthAndEncoding);
    }
    Ok(host)
}

/// A request target (RFC 9112 section 3.2) as far as placement needs it.
struct Target<'a> {
    authority: Option<&'a [u8]>,
    path: &'a [u8],
}

impl<'a> Target<'a> {
    fn parse(method: &[u8], target: &'a [u8]) -> Result<Self, BadReason> {
        if method == b"CONNECT" {
            return Ok(Self { authority: Some(target), path: b"/" });
        }
        if target.starts_with(b"/") {
            return Ok(Self { authority: None, path: path_of(target) });
        }
        if target == b"*" && method == b"OPTIONS" {
            return Ok(Self { authority: None, path: target });
        }
        let rest = strip_scheme(target).ok_or(BadReason::RequestLine)?;
        let end = rest.iter().position(|octet| matches!(octet, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end).ok_or(BadReason::RequestLine)?;
        if authority.is_empty() {
            return Err(BadReason::Host);
        }
        let path = path_of(rest);
        Ok(Self { authority: Some(authority), path: if path.is_empty() { b"/" } else { path } })
    }
}

/// Cuts `http://` or `https://` off, in any case.
fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn path_of(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|octet| matches!(octet, b'?' | b'#')).unwrap_or(target.len());
    target.get(..end).unwrap_or(target)
}

/// The host of `host [":" port]` without trailing dot; `None` when it is empty.
fn host_of(authority: &[u8]) -> Result<Option<&[u8]>, BadReason> {
    let colon_from = match authority.first() {
        // The colons of an IPv6 address are inside brackets.
        Some(b'[') => authority.iter().position(|octet| *octet == b']').ok_or(BadReason::Host)?,
        _ => 0,
    };
    let after = authority.get(colon_from..).unwrap_or_default();
    let (host, port) = match after.iter().position(|octet| *octet == b':') {
        Some(at) => authority.split_at_checked(colon_from + at).ok_or(BadReason::Host)?,
        None => (authority, b"".as_slice()),
    };
    let port_is_number = port.iter().skip(1).all(u8::is_ascii_digit);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let host_is_name = match host {
        [b'[', address @ .., b']'] => {
            address.iter().all(|octet| octet.is_ascii_hexdigit() || b":.".contains(octet))
        }
        _ => host.iter().all(|octet| is_host(*octet)) && !host.starts_with(b".") && !host.ends_with(b"."),
    };
    if !port_is_number || !host_is_name || host.len() > MAX_HOST_OCTETS {
        return Err(BadReason::Host);
    }
    Ok((!host.is_empty()).then_some(host))
}

/// Why `httparse` refused the head: the first line with something that has a name of its own.
fn diagnose(text: &[u8], otherwise: BadReason) -> BadReason {
    for (number, line) in text.split(|octet| *octet == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.contains(&0) {
            return BadReason::Nul;
        }
        if line.contains(&b'\r') {
            return BadReason::BareCr;
        }
        let name = line.split(|octet| *octet == b':').next().unwrap_or_default();
        if number > 0 && name.len() < line.len() && matches!(name.last(), Some(b' ' | b'\t')) {
            return BadReason::SpaceBeforeColon;
        }
    }
    otherwise
}

/// RFC 9110 section 5.6.2.
fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// An octet of a registered name (RFC 3986 section 3.2.2).
fn is_host(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&octet)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            (request.method, request.host, request.version),
            (b"HEAD".as_slice(), None, Version::Http10)
        );
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
        for value in
            ["a b", "a/b", "u@a", "a:b", "a:1:2", "[::1", "[::1]x", "[x]", "a,[", "a..", ".a", "\u{e4}"]
        {
            is_bad(&format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"), BadReason::Host);
        }
        is_bad(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(256)), BadReason::Host);
    }

    #[test]
    fn an_absolute_target_gives_host_and_path() {
        let cases = [
            ("http://b.example:81/x?y", "b.example", "/x"),
            ("HTTPS://b/", "b", "/"),
            ("http://b", "b", "/"),
            ("http://b?q=/z", "b", "/"),
            ("http://b#f", "b", "/"),
        ];
        for (target, host, path) in cases {
            let text = format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n");
            let request = complete(text.as_bytes());
            assert_eq!((request.host, request.path), (Some(host.as_bytes()), path.as_bytes()), "{target}");
        }
        is_bad("GET http://b/ HTTP/1.1\r\n\r\n", BadReason::NoHost);
        is_bad("GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::Host);
        is_bad("GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::Host);
    }

    #[test]
    fn the_other_forms_of_target() {
        assert_eq!(complete(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path, b"*");
        let connect = complete(b"CONNECT b.example:443 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((connect.host, connect.path), (Some(b"b.example".as_slice()), b"/".as_slice()));
        assert_eq!(complete(b"GET /a#b/../c HTTP/1.1\r\nHost: a\r\n\r\n").path, b"/a");
        for target in ["*", "a", "ftp://b/", "?q", "http:/b"] {
            is_bad(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), BadReason::RequestLine);
        }
    }

    #[test]
    fn empty_lines_before_the_request_are_skipped_and_counted() {
        let request = complete(b"\r\n\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((request.len, request.method), (32, b"GET".as_slice()));
        is_bad("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", BadReason::BareCr);
        assert_eq!(parse(b"\r\n\r"), Head::Incomplete);
    }

    #[test]
    fn a_bare_line_feed_ends_a_line() {
        for text in [
            "GET /a HTTP/1.1\nHost: a\n\n",
            "GET /a HTTP/1.1\r\nHost: a\n\r\n",
            "GET /a HTTP/1.1\nHost: a\r\n\n",
        ] {
            let request = complete(text.as_bytes());
            assert_eq!((request.path, request.host), (b"/a".as_slice(), Some(b"a".as_slice())), "{text:?}");
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
        for line in [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /a b HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1",
        ] {
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
        complete(with_headers("Transfer-Encoding: chunked\r\n").as_bytes());
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
        assert_eq!(parse(&[b'\n'; MAX_HEAD_OCTETS]), Head::TooLong);
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
            assert!(
                usize::from(scan.scanned) == len || usize::from(scan.scanned) == before && before + 1 == len
            );
        }
        assert!(
            matches!(scan.advance(text.as_bytes()), Head::Complete(request) if request.len == text.len())
        );
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
        for (number, reason) in BadReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
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
                b"\r\nPOST /a?b HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 3\r\nX: y\r\n\r\nabc"
                    .to_vec();
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
                prop_assert!(head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n"));
                prop_assert!(!request.method.is_empty());
                prop_assert!(request.path.starts_with(b"/") || request.path == b"*");
                prop_assert_eq!(parse(head), parse(&text));
                prop_assert_eq!(parse(&head[..head.len() - 1]), Head::Incomplete);
            }
        }
    }
}
