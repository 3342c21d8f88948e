//! What the header fields of a head say of its host and its body; what contradicts itself, or is read differently by different
//! servers, is refused: a second request that hides in the first one's body would be served where this one is placed.
//!
//! - One Host at most (RFC 9112 section 3.2).
//! - Content-Length: once, digits only, below 2^63. Section 6.3 lets a recipient take equal ones for one, and not all do.
//! - Transfer-Encoding: once, never with Content-Length, never in HTTP/1.0 (section 6.1), codings of section 7 alone, the last and
//!   only the last of them `chunked` (section 6.3).

use super::head::Version;
use crate::counters::BadReason;

/// The value of the Host header.
///
/// # Errors
/// What the fields must not say, alone or together.
pub(super) fn check_fields<'a>(
    fields: &[httparse::Header<'a>],
    version: Version,
) -> Result<Option<&'a [u8]>, BadReason> {
    let mut host = None;
    let mut length = None;
    let mut encoding = None;
    for field in fields {
        // Lengths first: nearly every field is none of the three.
        match field.name.len() {
            4 if field.name.eq_ignore_ascii_case("host") => {
                once(&mut host, field.value, BadReason::TwoHosts)?;
            }
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                once(&mut length, field.value, BadReason::ContentLength)?;
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                once(&mut encoding, field.value, BadReason::TransferEncoding)?;
            }
            _ => {}
        }
    }
    if length.is_some() && encoding.is_some() {
        return Err(BadReason::LengthAndEncoding);
    }
    if length.is_some_and(|length| !is_length(length)) {
        return Err(BadReason::ContentLength);
    }
    if encoding.is_some_and(|encoding| version == Version::Http10 || !ends_chunked(encoding)) {
        return Err(BadReason::TransferEncoding);
    }
    Ok(host)
}

fn once<'a>(known: &mut Option<&'a [u8]>, value: &'a [u8], again: BadReason) -> Result<(), BadReason> {
    if known.replace(value).is_some() { Err(again) } else { Ok(()) }
}

/// Digits that every server's integer can hold.
fn is_length(value: &[u8]) -> bool {
    (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// Whether the codings are ones that are registered, and `chunked` is the last and only the last.
fn ends_chunked(value: &[u8]) -> bool {
    const CODINGS: [&[u8]; 5] = [b"gzip", b"deflate", b"compress", b"x-gzip", b"x-compress"];
    let mut codings = value.rsplit(|octet| *octet == b',').map(trim);
    codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"))
        && codings.all(|coding| CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known)))
}

/// Name and value of each field of a head that was parsed: white space around the value does not belong to it.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = head.split(|octet| *octet == b'\n').skip(1);
    lines.filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let (name, value) = line.split_at_checked(colon)?;
        Some((name, trim(value.get(1..)?)))
    })
}

/// Without white space at both ends, the line's CR included.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let is_blank = |octet: &u8| matches!(octet, b' ' | b'\t' | b'\r');
    let start = text.iter().position(|octet| !is_blank(octet)).unwrap_or(text.len());
    let end = text.iter().rposition(|octet| !is_blank(octet)).map_or(start, |at| at + 1);
    text.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_name_and_value_without_white_space() {
        let head = b"GET /: HTTP/1.1\r\nHost: a\r\nX:\t b: c \r\nEmpty:\r\n\r\n";
        let found: Vec<(&[u8], &[u8])> = fields(head).collect();
        assert_eq!(found, [(&b"Host"[..], &b"a"[..]), (b"X", b"b: c"), (b"Empty", b"")]);
        assert_eq!(fields(b"").count(), 0);
    }

    #[test]
    fn chunked_is_the_last_coding_and_only_the_last() {
        for good in ["chunked", "Chunked", "gzip, chunked", "gzip,\tdeflate , CHUNKED"] {
            assert!(ends_chunked(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ",",
            "identity",
            "gzip",
            "chunked, gzip",
            "chunked, chunked",
            "identity, chunked",
            "xchunked",
            "chunked;q=1",
            "chunked,",
            ",chunked",
            "\"chunked\"",
            "chunk ed",
            "\u{b}chunked",
            "cow, chunked",
        ] {
            assert!(!ends_chunked(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_length_is_digits() {
        assert!(is_length(b"0") && is_length(b"00012") && is_length(&[b'9'; 18]));
        for bad in [&b""[..], b"+1", b"-1", b"1 ", b"1,1", b"0x1", b"1e3", &[b'1'; 19]] {
            assert!(!is_length(bad), "{bad:?}");
        }
    }
}
