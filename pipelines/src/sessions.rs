//! Sessions by cookie: what a service's configuration says of them, and what a request's cookie means (docs/services.md).
//!
//! - `learn`: the application's own cookie. Its value is a stranger's text and a secret of the client's: only a keyed hash of it
//!   goes to the control core, which keeps the Cookie Map (Fig. 12).
//! - `encoded` and `insert`: the value is a tag (SipHash-2-4, 128 bits, with a configured key) over the service's name and the board's
//!   address. It tells nothing and cannot be made without the key; to know its board is to find it among the tags of all boards.
//!
//! Made when the configuration is read; read by the workers. Cost: a pass over the head, and a hash of the value or a binary search
//! (`ipos-bench cookies`).

use std::fmt;
use std::hash::Hasher as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128 as _, SipHasher24 as SipHasher24Wide};

use crate::answers::{LOCATION_OCTETS_MAX, Page};
use crate::counters::Happening;
use crate::handoff::{BoardId, Session, SessionKey};
use crate::request::cookie::{self, Found};
use crate::request::head::{Request, Version};

/// Octets of a key.
pub const KEY_OCTETS: usize = 16;

/// Octets of an encoded value: hexadecimal digits.
pub const VALUE_OCTETS: usize = 32;

/// The longest path and query that a client is redirected to, octets.
const RESOURCE_OCTETS_MAX: usize = LOCATION_OCTETS_MAX - 64;

/// A secret; it is not shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; KEY_OCTETS]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a cookie says whose value names a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(u128);

impl Value {
    /// The value for a board of a service.
    pub fn of(key: &Key, service: &str, board: Ipv4Addr) -> Self {
        let mut hasher = SipHasher24Wide::new_with_key(&key.0);
        hasher.write(b"ipos cookie 1");
        hasher.write(&board.octets());
        hasher.write(service.as_bytes());
        Self(hasher.finish128().as_u128())
    }

    /// Reads one: 32 digits, lower case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != VALUE_OCTETS {
            return None;
        }
        let digit = |octet: &u8| match octet {
            b'0'..=b'9' => Some(octet - b'0'),
            b'a'..=b'f' => Some(octet - b'a' + 10),
            _ => None,
        };
        text.iter().try_fold(0, |value, octet| Some(value << 4 | u128::from(digit(octet)?))).map(Self)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Where a value comes from, and what it means.
#[derive(Debug)]
enum Mode {
    Learn,
    Encoded(Box<[(Value, BoardId)]>),
    /// The same, and the appliance gives one to clients that have none: with these answers, by board.
    Insert(Box<[(Value, BoardId)]>, Box<[(BoardId, Arc<Page>)]>),
}

/// What a service says of its cookie.
#[derive(Debug)]
pub struct Cookie {
    name: Box<[u8]>,
    /// The key of the hashes that the control core is told, the same as long as the appliance runs.
    secret: Key,
    /// The service's number: equal values of two services are two sessions.
    service: u16,
    mode: Mode,
}

impl Cookie {
    /// The application's own.
    pub fn learned(name: &str, service: u16, secret: Key) -> Self {
        Self { name: name.as_bytes().into(), secret, service, mode: Mode::Learn }
    }

    /// One whose values name these boards. A board may have several.
    pub fn encoded(name: &str, service: u16, secret: Key, mut values: Vec<(Value, BoardId)>) -> Self {
        values.sort_unstable();
        Self { name: name.as_bytes().into(), secret, service, mode: Mode::Encoded(values.into()) }
    }

    /// One whose values name these boards, and that clients are given: by a redirect with what stands behind `Set-Cookie:` for a board.
    pub fn inserted(
        name: &str,
        service: u16,
        secret: Key,
        mut values: Vec<(Value, BoardId)>,
        given: impl IntoIterator<Item = (BoardId, String)>,
    ) -> Self {
        values.sort_unstable();
        let pages = given.into_iter().map(|(board, cookie)| (board, Arc::new(Page::assign(&cookie))));
        let mut pages: Vec<_> = pages.collect();
        pages.sort_unstable_by_key(|(board, _)| *board);
        let mode = Mode::Insert(values.into(), pages.into());
        Self { name: name.as_bytes().into(), secret, service, mode }
    }

    /// The answer that gives a client the cookie of a board.
    pub fn page(&self, board: BoardId) -> Option<&Arc<Page>> {
        let Mode::Insert(_, pages) = &self.mode else { return None };
        let place = pages.binary_search_by_key(&board, |(known, _)| *known).ok()?;
        pages.get(place).map(|(_, page)| page)
    }

    /// The session of a client's request, and what is to be counted about it.
    pub fn session(&self, request: &Request<'_>, client: Ipv4Addr) -> (Session, Option<Happening>) {
        let found = cookie::find(request.head, &self.name);
        let learned = |value| Session::Learned(self.key_of(&[value]));
        let (values, again) = match &self.mode {
            Mode::Learn => return (found.value.map_or(Session::None, learned), None),
            Mode::Encoded(values) => (values, None),
            Mode::Insert(values, _) => (values, self.redirectable(request, &found, client)),
        };
        match found.value.map(|value| board_of(values, value)) {
            Some(Ok(board)) => (Session::Named { board, again }, None),
            nothing => (again.map_or(Session::None, Session::Fresh), nothing.and_then(Result::err)),
        }
    }

    /// The hash of a request that may be redirected to itself: one without a body, that every client repeats, and whose path no
    /// client takes for a host. Of a client that comes again without the cookie it is the same.
    fn redirectable(&self, request: &Request<'_>, found: &Found<'_>, client: Ipv4Addr) -> Option<SessionKey> {
        let is_safe = matches!(request.method, b"GET" | b"HEAD") && !found.is_bound;
        let is_own_path = match request.resource {
            // Browsers take a backslash for a slash, and what follows two of them for a host.
            [b'/', b'/' | b'\\', ..] => false,
            [b'/', ..] => request.resource.len() <= RESOURCE_OCTETS_MAX,
            _ => false,
        };
        // An older client does not know the status.
        let is_new = request.version == Version::Http11;
        (is_safe && is_own_path && is_new).then(|| self.key_of(&[&client.octets(), request.head]))
    }

    /// A keyed hash of something of this service.
    fn key_of(&self, parts: &[&[u8]]) -> SessionKey {
        let mut hasher = SipHasher24::new_with_key(&self.secret.0);
        hasher.write(&self.service.to_be_bytes());
        parts.iter().for_each(|part| hasher.write(part));
        SessionKey::of(hasher.finish())
    }
}

/// The board that a value names.
fn board_of(values: &[(Value, BoardId)], text: &[u8]) -> Result<BoardId, Happening> {
    let value = Value::parse(text).ok_or(Happening::CookieMalformed)?;
    let place = values.binary_search_by_key(&value, |known| known.0);
    let known = place.ok().and_then(|place| values.get(place));
    known.map(|known| known.1).ok_or(Happening::CookieUnknown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::request::head::{Head, parse};

    const KEY: Key = Key([7; KEY_OCTETS]);

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn session(cookie: &Cookie, fields: &str) -> (Session, Option<Happening>) {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let Head::Complete(request) = parse(head.as_bytes()) else { panic!("a good head: {head}") };
        cookie.session(&request, address(200))
    }

    fn encoded() -> Cookie {
        let boards = (1..=20).map(|board| (Value::of(&KEY, "web", address(board)), BoardId(board.into())));
        Cookie::encoded("srv", 3, Key([1; KEY_OCTETS]), boards.collect())
    }

    #[test]
    fn a_learned_value_is_told_as_a_hash_that_depends_on_service_and_secret() {
        let cookie = |service, secret| Cookie::learned("sid", service, Key([secret; KEY_OCTETS]));
        let key = |cookie: &Cookie, fields| match session(cookie, fields) {
            (Session::Learned(key), None) => key,
            other => panic!("a hash, not {other:?}"),
        };
        let first = key(&cookie(1, 1), "Cookie: sid=abc\r\n");
        assert_eq!(key(&cookie(1, 1), "Cookie: x=y; sid=\"abc\"\r\n"), first);
        for other in [
            key(&cookie(1, 1), "Cookie: sid=abd\r\n"),
            key(&cookie(2, 1), "Cookie: sid=abc\r\n"),
            key(&cookie(1, 2), "Cookie: sid=abc\r\n"),
        ] {
            assert_ne!(other, first);
        }
        for none in ["", "Cookie: sid=\r\n", "Cookie: Sid=abc\r\n"] {
            assert_eq!(session(&cookie(1, 1), none), (Session::None, None), "{none}");
        }
    }

    #[test]
    fn an_encoded_value_names_its_board_and_nothing_else_does() {
        let cookie = encoded();
        for board in 1..=20 {
            let value = Value::of(&KEY, "web", address(board));
            let named = Session::Named { board: BoardId(board.into()), again: None };
            assert_eq!(session(&cookie, &format!("Cookie: srv={value}\r\n")), (named, None));
            let text = value.to_string();
            let malformed = [
                text[..31].to_owned(),
                format!("{text}0"),
                text.replacen(&text[..1], "G", 1),
                text.to_uppercase() + "A",
            ];
            for wrong in malformed {
                let told = session(&cookie, &format!("Cookie: srv={wrong}\r\n"));
                assert_eq!(told, (Session::None, Some(Happening::CookieMalformed)), "{wrong}");
            }
        }
        let forged = [
            Value::of(&KEY, "web", address(21)),
            Value::of(&KEY, "other", address(1)),
            Value::of(&Key([8; KEY_OCTETS]), "web", address(1)),
            Value(0),
        ];
        for value in forged {
            let told = session(&cookie, &format!("Cookie: srv={value}\r\n"));
            assert_eq!(told, (Session::None, Some(Happening::CookieUnknown)));
        }
        assert_eq!(session(&cookie, ""), (Session::None, None));
    }

    #[test]
    fn a_client_without_a_board_may_be_given_one_where_its_request_can_be_repeated() {
        let values = vec![(Value::of(&KEY, "web", address(1)), BoardId(1))];
        let given = [(BoardId(1), "srv=1".to_owned()), (BoardId(0), "srv=0".to_owned())];
        let cookie = Cookie::inserted("srv", 3, Key([1; KEY_OCTETS]), values, given);
        assert!(cookie.page(BoardId(1)).is_some() && cookie.page(BoardId(2)).is_none());
        let asked = |line: &str, fields: &str, client: u8| {
            let head = format!("{line}\r\nHost: a\r\n{fields}\r\n");
            let Head::Complete(request) = parse(head.as_bytes()) else { panic!("a good head: {head}") };
            cookie.session(&request, address(client))
        };
        let fresh = |line: &str, fields: &str, client: u8| match asked(line, fields, client) {
            (Session::Fresh(key), None) => key,
            other => panic!("{line} {fields}: {other:?}"),
        };
        let get = "GET /a?b=c HTTP/1.1";
        let first = fresh(get, "", 200);
        assert_eq!(fresh(get, "", 200), first, "the same again");
        for other in
            [fresh(get, "", 201), fresh(get, "X: y\r\n", 200), fresh("HEAD /a?b=c HTTP/1.1", "", 200)]
        {
            assert_ne!(other, first);
        }
        fresh(get, "Content-Length: 0\r\n", 200);
        let long = format!("GET /{} HTTP/1.1", "x".repeat(RESOURCE_OCTETS_MAX));
        for (line, fields) in [
            ("POST /a HTTP/1.1", ""),
            ("OPTIONS * HTTP/1.1", ""),
            ("GET http://a HTTP/1.1", ""),
            ("GET //evil.example/ HTTP/1.1", ""),
            ("GET /\\evil.example/ HTTP/1.1", ""),
            ("GET /a HTTP/1.0", ""),
            (&long, ""),
            (get, "Content-Length: 1\r\n"),
            (get, "Transfer-Encoding: chunked\r\n"),
            (get, "Connection: upgrade\r\nUpgrade: websocket\r\n"),
        ] {
            assert_eq!(asked(line, fields, 200), (Session::None, None), "{line} {fields}");
        }
        let named = format!("Cookie: srv={}\r\n", Value::of(&KEY, "web", address(1)));
        assert!(matches!(asked(get, &named, 200).0, Session::Named { board: BoardId(1), again: Some(_) }));
        assert!(matches!(asked("POST /a HTTP/1.1", &named, 200).0, Session::Named { again: None, .. }));
        let (forged, fault) = asked(get, "Cookie: srv=1\r\n", 200);
        assert!(matches!(forged, Session::Fresh(_)) && fault == Some(Happening::CookieMalformed));
    }

    #[test]
    fn values_stay_what_they_are() {
        // Clients keep them for as long as their operator says: another release must read them.
        let value = Value::of(&KEY, "web", address(1));
        assert_eq!(value.to_string(), "050062acd29754a03511d0fb27e57517");
        assert_eq!(format!("{KEY:?}"), "Key(..)");
    }

    proptest! {
        #[test]
        fn a_value_reads_as_it_is_written_and_no_other_text_does(value in any::<u128>(), text in "[0-9a-fA-F x]{0,40}") {
            prop_assert_eq!(Value::parse(Value(value).to_string().as_bytes()), Some(Value(value)));
            if let Some(read) = Value::parse(text.as_bytes()) {
                prop_assert_eq!(read.to_string(), text);
            }
        }

        #[test]
        fn no_changed_octet_is_taken(place in 0usize..VALUE_OCTETS, by in 1u8..=255) {
            let mut value = Value::of(&KEY, "web", address(1)).to_string().into_bytes();
            value[place] ^= by;
            let values = [(Value::of(&KEY, "web", address(1)), BoardId(1))];
            prop_assert!(board_of(&values, &value).is_err());
        }
    }
}
