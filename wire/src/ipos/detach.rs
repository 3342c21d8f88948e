//! Giving an endpoint up, types 0x05 and 0x06: what the appliance asks and the board answers (docs/wire.md "Messages").
//!
//! Two different things go by 0x05. By force, an endpoint is given up whatever it is doing: the answer is "endpoint closed"
//! (0x07). Without force, it shall go to another board with the client's next request, which only works while nothing is
//! under way: the board compares that request's numbers with its socket and answers with 0x06.

use core::fmt;

use super::Error;
use super::header::{
    HEADER_LEN, Header, Protocol, TRAILER_LEN, TYPE_DETACH, TYPE_DETACHED, Trailer, seal, verify,
};
use super::octets::{first, first_mut, put, u8_at, u32_at};
use crate::error::Layer;
use crate::flow::Flow;
use crate::seq::Seq;

/// Where the code, the request's SEG.SEQ and its SEG.ACK are.
const CODE_AT: usize = HEADER_LEN;
const SEQ_AT: usize = HEADER_LEN + 4;
const ACK_AT: usize = HEADER_LEN + 8;
/// Where the trailer starts.
const TRAILER_AT: usize = HEADER_LEN + 12;
/// Size of either message, octets.
const LEN: usize = TRAILER_AT + TRAILER_LEN;

/// Bit of [`Detach`]'s flags.
const FLAG_FORCE: u8 = 1 << 0;

/// The client's next request, by its first segment: what the board judges by whether the endpoint is quiescent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextRequest {
    /// SEG.SEQ: what the board's socket must have received, all of it read, and nothing more.
    pub seq: Seq,
    /// SEG.ACK: what it must have sent, all of it, with at least one octet of an answer since the request before.
    pub ack: Seq,
}

impl NextRequest {
    /// None: what a detach by force carries.
    pub const NONE: NextRequest = NextRequest { seq: Seq(0), ack: Seq(0) };
}

fn parse(kind: u8, buffer: &[u8]) -> Result<(Header, u8, NextRequest, Trailer), Error> {
    let header = Header::of_connection(kind, buffer)?;
    first::<HEADER_LEN, TRAILER_AT>(Layer::IposBody, buffer)?;
    let message = first::<TRAILER_AT, LEN>(Layer::IposTrailer, buffer)?;
    verify(message)?;
    let next = NextRequest { seq: Seq(u32_at::<SEQ_AT, _>(message)), ack: Seq(u32_at::<ACK_AT, _>(message)) };
    Ok((header, u8_at::<CODE_AT, _>(message), next, Trailer::at::<TRAILER_AT, _>(message)))
}

fn emit(header: Header, code: u8, next: NextRequest, trailer: &Trailer, buffer: &mut [u8]) {
    let message = first_mut::<LEN>(buffer);
    header.emit(message);
    put::<CODE_AT, 4, _>(message, [code, 0, 0, 0]);
    put::<SEQ_AT, 4, _>(message, next.seq.0.to_be_bytes());
    put::<ACK_AT, 4, _>(message, next.ack.0.to_be_bytes());
    trailer.emit::<TRAILER_AT, _>(message);
    seal(message);
}

/// Detach, type 0x05: the board shall give the endpoint up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detach {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// Give it up whatever it is doing, silently towards the client. Without force: only if it is quiescent, which the
    /// client's next request shows.
    pub force: bool,
    /// The request that shall be another board's; [`NextRequest::NONE`] by force. With the id in the trailer it names the
    /// attempt: a repeated one is the same attempt and has the same answer.
    pub next: NextRequest,
    /// The record to give up: only one with this id is.
    pub trailer: Trailer,
}

impl Detach {
    /// Size of the message, octets.
    pub const LEN: usize = LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding. Unknown flags are ignored.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<Detach, Error> {
        let (Header { flow, protocol, .. }, flags, next, trailer) = parse(TYPE_DETACH, buffer)?;
        Ok(Detach { flow, protocol, force: flags & FLAG_FORCE != 0, next, trailer })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_DETACH, protocol: self.protocol };
        let flags = if self.force { FLAG_FORCE } else { 0 };
        emit(header, flags, self.next, &self.trailer, buffer);
    }
}

/// What became of a detach without force (docs/wire.md, body of 0x06).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DetachOutcome {
    /// 1: the endpoint is given up, silently towards the client; nothing of it will leave this board any more.
    Detached,
    /// 2: something is under way; the endpoint stays as it was.
    Busy,
    /// 3: no record with this id is held.
    NotHeld,
    /// A code that this version does not know. Not for known codes: they parse as their names.
    Other(u8),
}

impl DetachOutcome {
    /// The outcome with this code.
    #[must_use]
    pub const fn from_code(code: u8) -> DetachOutcome {
        match code {
            1 => DetachOutcome::Detached,
            2 => DetachOutcome::Busy,
            3 => DetachOutcome::NotHeld,
            other => DetachOutcome::Other(other),
        }
    }

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            DetachOutcome::Detached => 1,
            DetachOutcome::Busy => 2,
            DetachOutcome::NotHeld => 3,
            DetachOutcome::Other(code) => code,
        }
    }
}

impl fmt::Display for DetachOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DetachOutcome::Detached => "detached",
            DetachOutcome::Busy => "still busy",
            DetachOutcome::NotHeld => "not held",
            DetachOutcome::Other(code) => return write!(f, "unknown outcome {code}"),
        })
    }
}

/// Detached, or still busy, type 0x06: the answer to a [`Detach`] without force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detached {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// What became of it.
    pub outcome: DetachOutcome,
    /// The request of the detach that is answered: tells the answer to one attempt from a late one to an earlier attempt
    /// for the same record.
    pub next: NextRequest,
    /// The id of the detach that is answered, which is that of the record to give up.
    pub trailer: Trailer,
}

impl Detached {
    /// Size of the message, octets.
    pub const LEN: usize = LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<Detached, Error> {
        let (Header { flow, protocol, .. }, code, next, trailer) = parse(TYPE_DETACHED, buffer)?;
        Ok(Detached { flow, protocol, outcome: DetachOutcome::from_code(code), next, trailer })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_DETACHED, protocol: self.protocol };
        emit(header, self.outcome.code(), self.next, &self.trailer, buffer);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;
    use crate::error::LengthError;
    use crate::ipos::testing::{
        FLOW, TRAILER, any_flow, any_protocol, any_trailer, assert_covered, assert_emit_needs, assert_length,
        emitted, reseal,
    };

    const NEXT: NextRequest = NextRequest { seq: Seq(0x6162_6364), ack: Seq(0x7172_7374) };

    const DETACH: [u8; 52] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x05, 0x01, // checksum
        0x53, 0x6b, // flags, zero
        0x00, 0x00, 0x00, 0x00, // SEG.SEQ, SEG.ACK
        0x61, 0x62, 0x63, 0x64, 0x71, 0x72, 0x73, 0x74, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const FORCED: [u8; 52] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x05, 0x01, // checksum
        0xfc, 0x18, // flags, zero
        0x01, 0x00, 0x00, 0x00, // SEG.SEQ, SEG.ACK
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const BUSY: [u8; 52] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x06, 0x01, // checksum
        0x50, 0x6b, // code, zero
        0x02, 0x00, 0x00, 0x00, // SEG.SEQ, SEG.ACK
        0x61, 0x62, 0x63, 0x64, 0x71, 0x72, 0x73, 0x74, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    fn golden_detach() -> Detach {
        Detach { flow: FLOW, protocol: Protocol::Tcp, force: false, next: NEXT, trailer: TRAILER }
    }

    fn golden_forced() -> Detach {
        Detach { force: true, next: NextRequest::NONE, ..golden_detach() }
    }

    fn golden_busy() -> Detached {
        let outcome = DetachOutcome::Busy;
        Detached { flow: FLOW, protocol: Protocol::Tcp, outcome, next: NEXT, trailer: TRAILER }
    }

    #[test]
    fn deconstructs_the_golden_messages() {
        assert_eq!(Detach::parse(&DETACH), Ok(golden_detach()));
        assert_eq!(Detach::parse(&FORCED), Ok(golden_forced()));
        assert_eq!(Detached::parse(&BUSY), Ok(golden_busy()));
    }

    #[test]
    fn constructs_the_golden_messages_over_old_octets() {
        assert_eq!(emitted(52, |buffer| golden_detach().emit(buffer)), DETACH);
        assert_eq!(emitted(52, |buffer| golden_forced().emit(buffer)), FORCED);
        assert_eq!(emitted(52, |buffer| golden_busy().emit(buffer)), BUSY);
    }

    #[test]
    fn every_shorter_buffer_is_refused_and_padding_ignored() {
        assert_length(&DETACH, Detach::parse);
        assert_length(&BUSY, Detached::parse);
    }

    #[test]
    fn a_cut_message_says_whether_body_or_trailer_is_missing() {
        let cut = |layer, offset, required, actual| LengthError { layer, offset, required, actual };
        let body = cut(Layer::IposBody, 16, 12, 11);
        assert_eq!(Detach::parse(&DETACH[..27]), Err(Error::Length(body)));
        // As long as the message was before it named the next request.
        let trailer = cut(Layer::IposTrailer, 28, 24, 16);
        assert_eq!(Detach::parse(&DETACH[..44]), Err(Error::Length(trailer)));
    }

    #[test]
    fn the_checksum_covers_the_whole_message() {
        assert_covered(&DETACH, 52, Detach::parse);
        assert_covered(&BUSY, 52, Detached::parse);
    }

    #[test]
    fn emit_panics_on_a_short_buffer_only() {
        assert_emit_needs(52, |buffer| golden_detach().emit(buffer));
        assert_emit_needs(52, |buffer| golden_busy().emit(buffer));
    }

    #[test]
    fn a_message_is_not_read_as_another() {
        let found = |expected, found| Error::Type { expected, found };
        assert_eq!(Detach::parse(&BUSY), Err(found(5, 6)));
        assert_eq!(Detached::parse(&DETACH), Err(found(6, 5)));
    }

    #[test]
    fn unknown_flags_and_reserved_octets_are_ignored() {
        let mut message = DETACH;
        message[16] = 0xfe;
        message[17..20].fill(0xff);
        reseal(&mut message, 52);
        assert_eq!(Detach::parse(&message), Ok(golden_detach()));
    }

    #[test]
    fn every_outcome_survives_and_means_what_the_document_says() {
        for code in 0..=u8::MAX {
            let outcome = DetachOutcome::from_code(code);
            assert_eq!(outcome.code(), code);
            assert_eq!(matches!(outcome, DetachOutcome::Other(_)), !(1..=3).contains(&code));
        }
        let outcomes = [
            (1, DetachOutcome::Detached, "detached"),
            (2, DetachOutcome::Busy, "still busy"),
            (3, DetachOutcome::NotHeld, "not held"),
            (77, DetachOutcome::Other(77), "unknown outcome 77"),
        ];
        for (code, outcome, words) in outcomes {
            assert_eq!((outcome.code(), outcome.to_string().as_str()), (code, words));
        }
    }

    proptest! {
        #[test]
        fn both_survive_a_round_trip(
            flow in any_flow(),
            protocol in any_protocol(),
            trailer in any_trailer(),
            (seq, ack) in any::<(u32, u32)>(),
            code: u8,
            force: bool,
        ) {
            let next = NextRequest { seq: Seq(seq), ack: Seq(ack) };
            let detach = Detach { flow, protocol, force, next, trailer };
            prop_assert_eq!(Detach::parse(&emitted(52, |buffer| detach.emit(buffer))), Ok(detach));
            let outcome = DetachOutcome::from_code(code);
            let detached = Detached { flow, protocol, outcome, next, trailer };
            prop_assert_eq!(Detached::parse(&emitted(52, |buffer| detached.emit(buffer))), Ok(detached));
        }
    }
}
