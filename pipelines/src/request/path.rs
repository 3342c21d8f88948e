//! One spelling per path, before the URL map is asked (RFC 3986 sections 5.2.4 and 6.2.2): `/a/../b/` must not be placed by
//! `/a/`.
//!
//! Only the look-up sees the normal form; the board gets the client's octets as they came. So the form is the one that servers
//! reach when they look for content, which is more than section 6.2.2 asks: nginx, Apache and others decode every escape, merge
//! slashes and remove dot segments. What a row of the map is for must be placed by that row in every such spelling.
//!
//! Servers disagree about one escape: `%2F` is a slash for nginx, an octet of its segment for section 2.2. Both readings are made
//! of such a path ([`Slash`]), and one that they place differently is refused ([`super::route`]).
//!
//! Cost: 15 ns for `/a/b/c/index.html` (release, one AMD EPYC vCPU, measured ad hoc).

use super::assembly::WINDOW;

/// A buffer of this many octets is enough for every path of a head that the appliance accepts.
pub const PATH_OCTETS: usize = WINDOW;

/// How an encoded slash is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slash {
    /// As an octet of its segment (RFC 3986 section 2.2). It stays encoded.
    Encoded,
    /// As a slash, which ends its segment (nginx).
    Decoded,
}

/// Why no server should be asked for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    /// A `%` without two hexadecimal digits (section 2.1).
    Escape,
    /// An encoded NUL, where many a server's text ends.
    Nul,
}

/// Whether the escapes of a path are ones.
///
/// # Errors
/// The first fault.
pub fn check(path: &[u8]) -> Result<(), PathFault> {
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let escape = rest.get(at..).unwrap_or_default();
        let (value, after) = percent_decoded(escape).ok_or(PathFault::Escape)?;
        if value == 0 {
            return Err(PathFault::Nul);
        }
        rest = after;
    }
    Ok(())
}

/// Whether the readings of [`Slash`] can differ.
pub fn has_encoded_slash(path: &[u8]) -> bool {
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = rest.get(at + 1..).unwrap_or_default();
        if matches!(rest, [b'2', b'f' | b'F', ..]) {
            return true;
        }
    }
    false
}

/// The normal form of `path`, written to `buffer`, with an encoded slash as it is. `None` when a `%` has no two hexadecimal
/// digits behind it, or the buffer is shorter than the path: neither can happen for a parsed head and a buffer of
/// [`PATH_OCTETS`]; who meets it must treat the path as matching nothing, never use it raw.
///
/// - Escapes are decoded, once: unreserved characters as section 6.2.2.2 wants it; other printable ones and octets above
///   0x7f as servers do. `%`, `/`, `?`, `#`, controls and the space stay encoded, with capital hexadecimal digits, so none of
///   them ever becomes one that has a meaning here.
/// - Runs of slashes become one, as nginx does by default, and before dot segments are looked at.
/// - Dot segments are removed (section 5.2.4), encoded ones too; `..` above the root stays at the root.
/// - What does not start with a slash (the `*` of `OPTIONS *`) is returned as it is.
///
/// The result is never longer than `path`, and normalising it again changes nothing.
pub fn normalise<'a>(path: &'a [u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    normalise_as(path, Slash::Encoded, buffer)
}

/// As [`normalise`], with this reading of an encoded slash.
pub fn normalise_as<'a>(path: &'a [u8], slash: Slash, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    if !path.starts_with(b"/") || (path.len() <= buffer.len() && is_normal(path)) {
        return Some(path);
    }
    let mut out = Out { buffer, len: 0 };
    out.push(b'/')?;
    let mut segment_start = 1;
    let mut rest = path.get(1..)?;
    while let Some((&octet, after)) = rest.split_first() {
        if octet != b'%' {
            rest = after;
            match octet {
                b'/' => segment_start = out.end_segment(segment_start, true)?,
                _ => out.push(octet)?,
            }
            continue;
        }
        let (value, after) = percent_decoded(rest)?;
        rest = after;
        match value {
            b'/' if slash == Slash::Decoded => segment_start = out.end_segment(segment_start, true)?,
            _ => out.push_decoded(value)?,
        }
    }
    out.end_segment(segment_start, false)?;
    let Out { buffer, len } = out;
    buffer.get(..len)
}

/// Whether a path is surely in normal form: it starts with a slash, nothing is encoded, and no slash is followed by another one or
/// a dot. Every octet is looked at, which vectorises.
pub fn is_normal(path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(b"/") else { return false };
    let doubts = path.iter().zip(rest).fold(0, |doubts, (before, octet)| {
        let begins_segment = u8::from(*before == b'/');
        let is_slash_or_dot = u8::from(*octet == b'/') | u8::from(*octet == b'.');
        doubts | u8::from(*octet == b'%') | (begins_segment & is_slash_or_dot)
    });
    doubts == 0
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
        if is_decoded(value) {
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

/// Whether an octet is looked up decoded.
fn is_decoded(octet: u8) -> bool {
    octet > 0x7f || (octet.is_ascii_graphic() && !matches!(octet, b'%' | b'/' | b'?' | b'#'))
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
