//! One spelling per path, before the URL map is asked (RFC 3986 section 6.2.2): `/a/../b/` must not be placed by
//! `/a/`.
//!
//! Only the look-up sees the normal form; the board gets the client's octets as they came. One difference to what
//! nginx makes of them remains: nginx decodes `%2F` to a slash, RFC 3986 section 2.2 forbids that. `/a%2F../b` is one
//! strange segment and `b` here, `/b` there. So the map places, and access control stays with the server. Cost: 15 ns
//! for `/a/b/c/index.html` (release, one AMD EPYC vCPU, measured ad hoc).

use super::assembly::WINDOW;

/// A buffer of this many octets is enough for every path of a head that the appliance accepts.
pub const PATH_OCTETS: usize = WINDOW;

/// The normal form of `path`, written to `buffer`, or `None` when the buffer is shorter than the path. With a buffer
/// of [`PATH_OCTETS`] that cannot happen for a parsed head; who meets it must treat the path as matching nothing,
/// never use it raw.
///
/// - Percent-encoded unreserved characters (letters, digits, `-._~`) are decoded, once. Others stay encoded, with
///   capital hexadecimal digits, so an encoded slash or NUL never becomes one; a `%` without two hexadecimal digits
///   stays as it is, and so does an escape that starts within the two octets after it (`%4%41` is not `%4A`).
/// - Runs of slashes become one, as nginx does by default, and before dot segments are looked at.
/// - Dot segments are removed (section 5.2.4); `..` above the root stays at the root.
/// - What does not start with a slash (the `*` of `OPTIONS *`) is returned as it is.
///
/// The result is never longer than `path`, and normalising it again changes nothing.
pub fn normalise<'a>(path: &'a [u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    if !path.starts_with(b"/") || (path.len() <= buffer.len() && is_normal(path)) {
        return Some(path);
    }
    let mut out = Out { buffer, len: 0 };
    out.push(b'/')?;
    let mut segment_start = 1;
    let mut rest = path.get(1..)?;
    // Octets left in which an escape stays as it is: decoded, it could complete the broken one before it.
    let mut literal_octets = 0_u8;
    while let Some((&octet, after)) = rest.split_first() {
        let decoded = percent_decoded(rest);
        rest = after;
        match (octet, decoded) {
            (b'/', _) => segment_start = out.end_segment(segment_start, true)?,
            (_, Some((value, after))) if literal_octets == 0 => {
                out.push_decoded(value)?;
                rest = after;
                continue;
            }
            (b'%', None) => {
                out.push(octet)?;
                literal_octets = 2;
                continue;
            }
            _ => out.push(octet)?,
        }
        literal_octets = literal_octets.saturating_sub(1);
    }
    out.end_segment(segment_start, false)?;
    let Out { buffer, len } = out;
    buffer.get(..len)
}

/// Whether a path that starts with a slash is surely in normal form: nothing is encoded, and no slash is followed by another
/// one or a dot.
fn is_normal(path: &[u8]) -> bool {
    let mut before = b' ';
    path.iter().all(|octet| {
        let is_plain = *octet != b'%' && !(before == b'/' && matches!(octet, b'/' | b'.'));
        before = *octet;
        is_plain
    })
}

/// The caller's buffer and how much of it is written.
struct Out<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    fn push(&mut self, octet: u8) -> Option<()> {
        *self.buffer.get_mut(self.len)? = octet;
        self.len += 1;
        Some(())
    }

    fn push_decoded(&mut self, value: u8) -> Option<()> {
        if is_unreserved(value) {
            return self.push(value);
        }
        self.push(b'%')?;
        self.push(upper_hex(value >> 4))?;
        self.push(upper_hex(value & 0xf))
    }

    /// Ends the segment that started at `segment_start`; says where the next one starts. What is written before a
    /// segment always ends with a slash.
    fn end_segment(&mut self, segment_start: usize, slash_follows: bool) -> Option<usize> {
        match self.buffer.get(segment_start..self.len)? {
            b"" => {}
            b"." => self.len = segment_start,
            b".." => {
                let parent = self.buffer.get(..segment_start.saturating_sub(1))?;
                self.len = parent.iter().rposition(|octet| *octet == b'/').map_or(1, |slash| slash + 1);
            }
            _ if slash_follows => self.push(b'/')?,
            _ => {}
        }
        Some(self.len)
    }
}

/// The octet that a `%XX` at the start of `text` stands for, and what follows it.
fn percent_decoded(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&[percent, high, low], after) = text.split_first_chunk::<3>()?;
    if percent != b'%' {
        return None;
    }
    Some((hex_value(high)? << 4 | hex_value(low)?, after))
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn upper_hex(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'A' + value - 10 }
}

/// RFC 3986 section 2.3.
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &[u8]) -> Vec<u8> {
        let mut buffer = [0xa5; 64];
        normalise(path, &mut buffer).unwrap().to_vec()
    }

    #[track_caller]
    fn check(cases: &[(&str, &str)]) {
        for (path, expected) in cases {
            assert_eq!(String::from_utf8_lossy(&normal(path.as_bytes())), *expected, "of {path}");
        }
    }

    #[test]
    fn a_normal_path_stays() {
        check(&[
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/b.html", "/a/b.html"),
            ("/..a/.b/c..", "/..a/.b/c.."),
        ]);
    }

    #[test]
    fn dot_segments_are_removed() {
        check(&[
            ("/a/../b/", "/b/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/./", "/"),
        ]);
    }

    #[test]
    fn slashes_merge_before_dot_segments_go() {
        check(&[("//", "/"), ("/a//b///c", "/a/b/c"), ("/a//../b", "/b"), ("/a//", "/a/")]);
    }

    #[test]
    fn unreserved_characters_are_decoded_once() {
        check(&[
            ("/%61%2D%2e%5F%7e%39", "/a-._~9"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%252e%252e/b", "/%252e%252e/b"),
            ("/%2561", "/%2561"),
        ]);
    }

    #[test]
    fn other_escapes_stay_encoded_in_capitals() {
        check(&[
            ("/a%2fb", "/a%2Fb"),
            ("/%00", "/%00"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a/%2f../b", "/a/%2F../b"),
        ]);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        check(&[
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/%zz", "/%zz"),
            ("/%4gg%41", "/%4ggA"),
            ("/%%41", "/%%41"),
            ("/%2%65./b", "/%2%65./b"),
        ]);
    }

    #[test]
    fn what_is_no_path_stays() {
        check(&[("*", "*"), ("", "")]);
    }

    #[test]
    fn a_buffer_that_is_too_short_gives_nothing_rather_than_the_raw_path() {
        let mut buffer = [0; 5];
        assert_eq!(normalise(b"/abcde", &mut buffer), None);
        assert_eq!(normalise(b"/abcd", &mut buffer), Some(b"/abcd".as_slice()));
        assert_eq!(normalise(b"/", &mut []), None);
    }

    /// Paths made of what matters here.
    fn paths() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "/", "//", ".", "..", "%2e", "%2E", "%2f", "%", "%4", "%41", "a", "%zz", "\0",
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| format!("/{}", pieces.concat()).into_bytes())
    }

    /// The same by the RFC's words: decode, then split into segments and walk them.
    fn model(path: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut literal_until = 0;
        let mut at = 0;
        while at < path.len() {
            let digits = path.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            let value = digits.map(|hex| u8::from_str_radix(core::str::from_utf8(hex).unwrap(), 16).unwrap());
            match value {
                Some(value) if path[at] == b'%' && at >= literal_until => {
                    if is_unreserved(value) {
                        decoded.push(value);
                    } else {
                        decoded.extend(format!("%{value:02X}").bytes());
                    }
                    at += 3;
                    continue;
                }
                None if path[at] == b'%' => literal_until = at + 3,
                _ => {}
            }
            decoded.push(path[at]);
            at += 1;
        }
        let segments: Vec<&[u8]> = decoded.split(|octet| *octet == b'/').skip(1).collect();
        let directory = matches!(segments.last(), Some(&b"" | &b"." | &b".."));
        let mut kept: Vec<&[u8]> = Vec::new();
        for segment in segments {
            match segment {
                b"" | b"." => {}
                b".." => drop(kept.pop()),
                other => kept.push(other),
            }
        }
        let mut normal = b"/".to_vec();
        normal.extend(kept.join(&b'/'));
        if directory && !kept.is_empty() {
            normal.push(b'/');
        }
        normal
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_normal_form_is_the_models_and_final(path in paths()) {
            let mut buffer = [0xa5; 64];
            let once = normalise(&path, &mut buffer).unwrap().to_vec();
            prop_assert_eq!(&once, &model(&path));
            prop_assert!(once.len() <= path.len());
            prop_assert_eq!(normal(&once), once);
        }

        #[test]
        fn no_octets_make_it_panic(path in prop::collection::vec(any::<u8>(), 0..64), room in 0..64_usize) {
            let mut buffer = [0; 64];
            let written = normalise(&path, &mut buffer[..room]).map(<[u8]>::len);
            prop_assert!(written.is_none_or(|len| len <= path.len()));
            prop_assert!(written.is_some() || room < path.len());
        }
    }
}
