//! Where the next request begins: the octets between a request's head and the next one, by Content-Length or chunk by chunk.
//!
//! Input: a parsed head, then the client's segments as they come, which go on to the board all the same. Output: the sequence number
//! at which the next request begins, or that nothing is sure any more. Owner: the worker. Cost: one comparison per segment of
//! a body whose length is known; of a chunked one, its chunk headers are read and its data is not.
//!
//! The board reads the same octets, and what it makes of them decides. So whatever could be read in two ways ends the watch
//! over the connection ([`Unsure`]): it stays where it is. Source: RFC 9112, sections 6 and 7.1.

use ipos_wire::seq::Seq;

use super::fields::fields;
use super::head::{Request, Version};

/// Bodies and chunks of so many octets are not waited for: sequence numbers are compared modulo 2^32.
const LENGTH_MAX: u64 = 1 << 30;

/// Hexadecimal digits of a chunk's size: eight say 2^32 - 1.
const SIZE_DIGITS_MAX: u8 = 8;

/// Why it is not known where the next request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsure {
    /// The client said that no further request follows, or speaks HTTP/1.0 without keep-alive.
    Last,
    /// The connection may become another protocol's: an upgrade, or CONNECT.
    Upgrade,
    /// A body or a chunk of 2^30 octets or more.
    Long,
    /// A chunk header that is none, or one that later segments went past.
    Chunks,
    /// The next request's octets came with this one's, or before its answer.
    Pipelined,
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing of the next request.
    Body,
    /// It begins where the next request does, or behind that.
    Next,
}

/// How far a request has been followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The next octet that matters: the next request's first one, or that of a chunk header.
    at: Seq,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `at` is where the next request begins.
    Done,
    /// In a chunk's size.
    Size {
        value: u32,
        digits: u8,
    },
    /// In a chunk's extension.
    Extension {
        value: u32,
    },
    /// Before the LF of a chunk header.
    SizeLf {
        value: u32,
    },
    /// Behind a chunk's data.
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    Line,
    /// In one.
    Trailer,
    /// Before its LF.
    TrailerLf,
    /// Before the very last LF.
    LastLf,
}

/// Nothing of a chunk's size yet.
const SIZE: Phase = Phase::Size { value: 0, digits: 0 };

impl Framing {
    /// Of a request whose head ends before `body_at`.
    ///
    /// # Errors
    /// Why nobody can say where its body ends.
    pub fn of(request: &Request<'_>, body_at: Seq) -> Result<Framing, Unsure> {
        if request.method == b"CONNECT" {
            return Err(Unsure::Upgrade);
        }
        let mut keeps_alive = request.version == Version::Http11;
        let mut framing = Framing { at: body_at, phase: Phase::Done };
        for (name, value) in fields(request.head) {
            if name.eq_ignore_ascii_case(b"content-length") {
                framing.at = body_at + length(value)?;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                // That the last coding is `chunked` was checked with the head.
                framing.phase = SIZE;
            } else if name.eq_ignore_ascii_case(b"upgrade") {
                return Err(Unsure::Upgrade);
            } else if name.eq_ignore_ascii_case(b"connection") {
                for option in value.split(|octet| *octet == b',').map(<[u8]>::trim_ascii) {
                    match option {
                        _ if option.eq_ignore_ascii_case(b"close") => return Err(Unsure::Last),
                        _ if option.eq_ignore_ascii_case(b"upgrade") => return Err(Unsure::Upgrade),
                        _ => keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                    }
                }
            }
        }
        if keeps_alive { Ok(framing) } else { Err(Unsure::Last) }
    }

    /// Where the next request begins, once that is known.
    pub fn boundary(&self) -> Option<Seq> {
        (self.phase == Phase::Done).then_some(self.at)
    }

    /// Takes note of a segment. Those of the body may come in any order, and more than once, as long as no chunk header is missed.
    ///
    /// # Errors
    /// Why it is not known any more where the next request begins.
    pub fn see(&mut self, seq: Seq, payload: &[u8]) -> Result<Seen, Unsure> {
        let end = seq + payload.len() as u32;
        if payload.is_empty() || end.diff(self.at) <= 0 {
            return Ok(Seen::Body);
        }
        let before = self.at.diff(seq);
        match (self.phase, usize::try_from(before)) {
            (Phase::Done, Ok(1..)) => Err(Unsure::Pipelined),
            (Phase::Done, _) => Ok(Seen::Next),
            (_, Err(_)) => Err(Unsure::Chunks),
            (_, Ok(before)) => self.read(payload.get(before..).unwrap_or_default()).map(|()| Seen::Body),
        }
    }

    /// Reads chunk headers, and goes past chunks.
    fn read(&mut self, mut octets: &[u8]) -> Result<(), Unsure> {
        while let [octet, rest @ ..] = octets {
            let (phase, data) = self.phase.after(*octet)?;
            self.phase = phase;
            self.at = self.at + 1 + data;
            octets = rest.get(data as usize..).unwrap_or_default();
            if phase == Phase::Done && !octets.is_empty() {
                return Err(Unsure::Pipelined);
            }
        }
        Ok(())
    }
}

impl Phase {
    /// The phase after an octet, and how many octets of data follow it.
    fn after(self, octet: u8) -> Result<(Phase, u32), Unsure> {
        let next = match (self, octet) {
            (Phase::Size { value, digits }, _) if octet.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(Unsure::Chunks);
                }
                let digit = char::from(octet).to_digit(16).unwrap_or(0);
                let (value, digits) = ((value << 4) | digit, digits + 1);
                if u64::from(value) >= LENGTH_MAX {
                    return Err(Unsure::Long);
                }
                Phase::Size { value, digits }
            }
            (Phase::Size { value, digits: 1.. }, b'\r') => Phase::SizeLf { value },
            (Phase::Size { value, digits: 1.. }, b';') => Phase::Extension { value },
            (Phase::Extension { value }, b'\r') => Phase::SizeLf { value },
            (Phase::Extension { value }, _) if octet != b'\n' => Phase::Extension { value },
            (Phase::SizeLf { value: 0 }, b'\n') => Phase::Line,
            (Phase::SizeLf { value }, b'\n') => return Ok((Phase::DataCr, value)),
            (Phase::DataCr, b'\r') => Phase::DataLf,
            (Phase::DataLf, b'\n') => SIZE,
            (Phase::Line, b'\r') => Phase::LastLf,
            (Phase::Line | Phase::Trailer, _) if !matches!(octet, b'\r' | b'\n') => Phase::Trailer,
            (Phase::Trailer, b'\r') => Phase::TrailerLf,
            (Phase::TrailerLf, b'\n') => Phase::Line,
            (Phase::LastLf, b'\n') => Phase::Done,
            _ => return Err(Unsure::Chunks),
        };
        Ok((next, 0))
    }
}

/// A Content-Length, which the head's check has found to be digits.
fn length(value: &[u8]) -> Result<u32, Unsure> {
    let length = value
        .iter()
        .fold(0u64, |sum, octet| sum.saturating_mul(10).saturating_add(u64::from(octet.wrapping_sub(b'0'))));
    u32::try_from(length).ok().filter(|length| u64::from(*length) < LENGTH_MAX).ok_or(Unsure::Long)
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
