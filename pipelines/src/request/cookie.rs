//! The cookie of a request: one value out of the Cookie fields of its head (RFC 6265, section 5.4).
//!
//! Input: a head that was parsed. Output: a slice of it. Owner: the worker. Cost: each octet is looked at a few times however many
//! fields and cookies there are; nothing is copied.
//!
//! Fixed readings, where servers may differ; a cookie only places a request, and the board's server reads it again:
//!
//! - Several Cookie fields (HTTP/1.1 clients send one) are one after the other; of a name that stands twice the first counts.
//! - Cookies end at `;`, also within quotes: no value holds one (section 4.1.1). Blanks around name and value do not belong to them.
//! - The name ends at the first `=`, and has a case; what has no `=` has no name.
//! - Quotes around the whole value do not belong to it. An empty value is none: nobody's session.

use crate::request::fields::trim;

/// What is looked for in a head, found in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found<'a> {
    /// The cookie's value, if it has one.
    pub value: Option<&'a [u8]>,
    /// The request has, or may have, a body, or asks for another protocol: it is no request to be redirected.
    pub is_bound: bool,
}

/// Looks for the cookie of this name.
pub fn find<'a>(head: &'a [u8], name: &[u8]) -> Found<'a> {
    let mut found = Found::default();
    let mut seen = false;
    for (field, value) in lines(head) {
        // Lengths first: nearly every field is none of these.
        match field.len() {
            6 if !seen && field.eq_ignore_ascii_case(b"cookie") => {
                if let Some(value) = value_of(value, name) {
                    seen = true;
                    found.value = Some(value).filter(|value| !value.is_empty());
                }
            }
            7 => found.is_bound |= field.eq_ignore_ascii_case(b"upgrade"),
            14 if field.eq_ignore_ascii_case(b"content-length") => {
                found.is_bound |= trim(value).iter().any(|octet| *octet != b'0');
            }
            17 => found.is_bound |= field.eq_ignore_ascii_case(b"transfer-encoding"),
            _ => {}
        }
    }
    found
}

/// Name and value of each field, the blanks around the value included.
fn lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = head;
    let lines = std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let (line, after) = rest.split_at_checked(end)?;
        rest = after.get(1..)?;
        Some(line)
    });
    lines.skip(1).filter_map(|line| {
        let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        Some((name, value.get(1..)?))
    })
}

/// The value of the first cookie of this name in a field, without its quotes; empty where it has none.
fn value_of<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(|| {
        let from = rest?;
        let end = memchr::memchr(b';', from);
        rest = end.and_then(|end| from.get(end + 1..));
        from.get(..end.unwrap_or(from.len()))
    })
    .find_map(|pair| {
        let (found, value) = pair.split_at_checked(memchr::memchr(b'=', pair)?)?;
        (trim(found) == name).then(|| unquoted(trim(value.get(1..).unwrap_or_default())))
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value<'a>(fields: &[&str], buffer: &'a mut String) -> Option<&'a str> {
        *buffer = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fields.join("\r\n"));
        let found = find(buffer.as_bytes(), b"sid").value;
        found.map(|value| std::str::from_utf8(value).expect("text"))
    }

    #[test]
    fn the_first_cookie_of_the_name_counts() {
        let mut head = String::new();
        for (fields, wanted) in [
            (&["Cookie: sid=1"][..], Some("1")),
            (&["cookie:sid=1;sid=2"], Some("1")),
            (&["Cookie: a=b; sid=1; c=d"], Some("1")),
            (&["Cookie: a=b", "X: sid=0", "COOKIE: c=d;\tsid=1"], Some("1")),
            (&["Cookie: sid=1", "Cookie: sid=2"], Some("1")),
            (&["Cookie: sid=a=b=="], Some("a=b==")),
            (&["Cookie: sid=\"a b\""], Some("a b")),
            (&["Cookie: sid = 1 "], Some("1")),
            (&["Cookie: sid=\""], Some("\"")),
            (&["Cookie: sid=\"1"], Some("\"1")),
            (&["Cookie: ;;; sid=1;"], Some("1")),
            (&["Cookie: xsid=1; sidx=2; SID=3; =4; sid"], None),
            (&["Cookie: sid=; sid=1"], None),
            (&["Cookie: sid=\"\""], None),
            (&["Cookie:"], None),
            (&["Set-Cookie: sid=1", "Cookie2: sid=1"], None),
            (&["X: y"], None),
        ] {
            assert_eq!(value(fields, &mut head), wanted, "{fields:?}");
        }
    }

    #[test]
    fn sixteen_kilobytes_and_two_thousand_cookies_are_looked_through() {
        let mut head = String::new();
        let many: String = (0..2_000).map(|n| format!("c{n}=v; ")).collect();
        assert_eq!(value(&[&format!("Cookie: {many}sid=last")], &mut head), Some("last"));
        let long = format!("Cookie: sid={}", "x".repeat(16_000));
        assert_eq!(value(&[&long], &mut head).map(str::len), Some(16_000));
        assert_eq!(value(&[&format!("Cookie: {}", ";".repeat(16_000))], &mut head), None);
    }

    #[test]
    fn requests_with_a_body_or_an_upgrade_are_told_apart() {
        let bound =
            |fields: &str| find(format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes(), b"sid").is_bound;
        for fields in ["Upgrade: websocket", "content-length: 5", "Transfer-Encoding: chunked"] {
            assert!(bound(fields), "{fields}");
        }
        for fields in ["Content-Length: 0", "Content-Length:  00", "X-Upgrade: a", "Connection: upgrade"] {
            assert!(!bound(fields), "{fields}");
        }
    }

    /// The slow way: all cookies of all fields, as text.
    fn slowly(head: &str) -> Option<String> {
        let fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let cookies = fields.filter(|(name, _)| name.eq_ignore_ascii_case("cookie"));
        let pairs = cookies.flat_map(|(_, value)| value.split(';')).filter_map(|pair| pair.split_once('='));
        let blanks = [' ', '\t'];
        let mut named = pairs.filter(|(name, _)| name.trim_matches(blanks) == "sid");
        let value = named.next()?.1.trim_matches(blanks);
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some(inner.unwrap_or(value).to_owned()).filter(|value| !value.is_empty())
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_the_slow_way_finds(
            fields in prop::collection::vec("(Cookie|cookie|X): ?((sid|a|)(=| = |)[\"ab= \t]{0,5};?){0,6}", 0..5)
        ) {
            let head = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
            let found = find(head.as_bytes(), b"sid").value.map(|value| String::from_utf8_lossy(value).into_owned());
            prop_assert_eq!(found, slowly(&head));
        }

        #[test]
        fn any_octets_at_all_are_looked_through(head in prop::collection::vec(any::<u8>(), 0..600)) {
            let found = find(&head, b"sid");
            prop_assert!(found.value.is_none_or(|value| !value.is_empty() && value.len() < head.len()));
        }
    }
}
