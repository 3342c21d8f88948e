//! One spelling per path, before the URL map is asked (RFC 3986 section 6.2.2): `/a/../b/` must not be placed by `/a/`.
//!
//! Only the look-up sees the normal form; the board gets the client's octets as they came.

use super::assembly::WINDOW;

/// A buffer of this many octets is enough for every path of a head that the appliance accepts.
pub const PATH_OCTETS: usize = WINDOW;

/// The normal form of `path`, written to `buffer`, or `None` when the buffer is shorter than the path. With a buffer of
/// [`PATH_OCTETS`] that cannot happen for a parsed head; who meets it must treat the path as matching nothing, never use
/// it raw.
///
/// - Percent-encoded unreserved characters (letters, digits, `-._~`) are decoded, once. Others stay encoded, with
///   capital hexadecimal digits, so an encoded slash or NUL never becomes one; a `%` without two hexadecimal digits
///   stays as it is.
/// - Runs of slashes become one, as nginx does by default, and before dot segments are looked at.
/// - Dot segments are removed (section 5.2.4); `..` above the root stays at the root.
/// - What does not start with a slash (the `*` of `OPTIONS *`) is returned as it is.
///
/// The result is never longer than `path`, and normalising it again changes nothing.
pub fn normalise<'a>(path: &'a [u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    if !path.starts_with(b"/") {
        return Some(path);
    }
    let mut out = Out { buffer, len: 0 };
    out.push(b'/')?;
    let mut segment_start = 1;
    let mut rest = path.get(1..)?;
    while let Some((&octet, after)) = rest.split_first() {
        if octet == b'/' {
            segment_start = out.end_segment(segment_start, true)?;
            rest = after;
        } else if let Some((value, after)) = percent_decoded(rest) {
            out.push_decoded(value)?;
            rest = after;
        } else {
            out.push(octet)?;
            rest = after;
        }
    }
    out.end_segment(segment_start, false)?;
    let Out { buffer, len } = out;
    buffer.get(..len)
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
