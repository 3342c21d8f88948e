//! The request head: found as octets arrive, parsed once when it is whole.
//!
//! Input: the contiguous stream from IRS+1 ([`super::assembly`]). Output: [`Head`]. Owner: the worker. Cost: each
//! octet is scanned once for its line's end however the client cuts its segments, and not at all when the head comes whole;
//! `httparse` runs once, over the whole head, and its CRs are counted. Ad hoc, release, one AMD EPYC vCPU, before they were: 86
//! octets of curl 105 ns, 524 octets of Firefox 275 ns, a head that comes one octet at a time 9 ns per octet.
//!
//! The board's server parses the same octets again, and what it sees decides. So whatever servers disagree about is
//! refused here with a 400 instead of being placed by our reading of it. Fixed readings:
//!
//! - A line ends with CRLF. RFC 9112 section 2.2 lets a recipient take a bare LF for one, and not all do: refused, as is a CR
//!   elsewhere.
//! - Empty lines before the request line are skipped (same section), and count towards the head's length.
//! - Exactly one space between method, target and version; HTTP/1.0 and HTTP/1.1 only.
//! - Obsolete line folding, white space before a colon, header names that are no token, NUL: refused (sections 5.1, 5.2).
//! - What the fields say of host and body, see [`super::fields`]; what the target says, see [`super::target`].
//! - Octets above 0x7f are accepted in the target as UTF-8 only.

use core::mem::MaybeUninit;

use super::assembly::WINDOW;
use super::fields::check_fields;
use super::target::Target;
pub use crate::counters::BadReason;

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
    /// The path without query, as sent, every escape in it one: to be normalised before a look-up. `*` for `OPTIONS *`, `/` for
    /// CONNECT and for an absolute target without a path.
    pub path: &'a [u8],
    /// Path and query, as sent; empty for `OPTIONS *`, CONNECT and an absolute target with neither.
    pub resource: &'a [u8],
    /// The head, from the request line to the blank line.
    pub head: &'a [u8],
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
                (b'\r', Some(b'\n')) => self.scanned += 2,
                (b'\n', _) => return Phase::Bad(BadReason::BareLf),
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
            Some(line) => match line.strip_suffix(b"\r") {
                None => Phase::Bad(BadReason::BareLf),
                Some(line) => check_request_line(line).map_or_else(Phase::Bad, |()| Phase::Headers),
            },
        }
    }

    fn scan_headers(&mut self, window: &[u8]) -> Phase {
        while let Some(line) = self.next_line(window) {
            let Some(line) = line.strip_suffix(b"\r") else { return Phase::Bad(BadReason::BareLf) };
            match line.first() {
                None => return Phase::Whole,
                Some(b' ' | b'\t') => return Phase::Bad(BadReason::ObsFold),
                Some(_) if usize::from(self.headers) == MAX_HEADERS => return Phase::TooLong,
                Some(_) => self.headers += 1,
            }
        }
        Phase::Headers
    }

    /// The next line without its LF, when it is whole.
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
        Some(line)
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
    // A CR that no LF follows is refused above, so that there are as many pairs as CRs; lines are the request line, one for each
    // field and the last one.
    if count(b'\r', text) != parsed.headers.len() + 2 {
        return Err(BadReason::BareLf);
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(BadReason::RequestLine);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let header_host = check_fields(parsed.headers, version)?;
    if header_host.is_none() && version == Version::Http11 {
        return Err(BadReason::NoHost);
    }
    let target = Target::parse(method.as_bytes(), target.as_bytes())?;
    let host = target.host(header_host)?;
    Ok(Request {
        len: text.len(),
        method: method.as_bytes(),
        host,
        path: target.path,
        resource: target.resource,
        head: text,
        version,
    })
}

/// How often an octet is in a text; in pieces whose count fits an octet, which vectorises.
fn count(wanted: u8, text: &[u8]) -> usize {
    let pieces = text.chunks(usize::from(u8::MAX));
    pieces
        .map(|piece| usize::from(piece.iter().fold(0, |count, octet| count + u8::from(*octet == wanted))))
        .sum()
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
        if number > 0 && matches!(line.first(), Some(b' ' | b'\t')) {
            return BadReason::ObsFold;
        }
        let name = line.split(|octet| *octet == b':').next().unwrap_or_default();
        if number > 0 && name.len() < line.len() && matches!(name.last(), Some(b' ' | b'\t')) {
            return BadReason::SpaceBeforeColon;
        }
    }
    otherwise
}

/// An octet of a token (RFC 9110 section 5.6.2).
pub fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
