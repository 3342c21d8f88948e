//! Migration messages, types 0x03, 0x04 and 0x07 to 0x09: the answers to a connection message, and what is asked and told
//! about an endpoint afterwards (Fig. 11I; docs/wire.md "Messages"). Giving up, 0x05 and 0x06, is in `detach`.

use core::fmt;

use super::Error;
use super::header::{
    HEADER_LEN, Header, Protocol, TRAILER_LEN, TYPE_ACK, TYPE_CLOSED, TYPE_HOLDS, TYPE_REFUSED,
    TYPE_WHO_HOLDS, Trailer, seal, verify,
};
use super::octets::{first, first_mut, put, u8_at};
use crate::error::Layer;
use crate::flow::Flow;

/// Size of a message with a code and a trailer, octets.
const CODED_LEN: usize = CODE_END + TRAILER_LEN;
/// Where the trailer of such a message starts.
const CODE_END: usize = HEADER_LEN + 4;
/// Size of a message with a trailer alone, octets.
const BARE_LEN: usize = HEADER_LEN + TRAILER_LEN;

fn parse_coded(kind: u8, buffer: &[u8]) -> Result<(Header, u8, Trailer), Error> {
    let header = Header::of_connection(kind, buffer)?;
    first::<HEADER_LEN, CODE_END>(Layer::IposBody, buffer)?;
    let message = first::<CODE_END, CODED_LEN>(Layer::IposTrailer, buffer)?;
    verify(message)?;
    Ok((header, u8_at::<16, _>(message), Trailer::at::<CODE_END, _>(message)))
}

fn emit_coded(header: Header, code: u8, trailer: &Trailer, buffer: &mut [u8]) {
    let message = first_mut::<CODED_LEN>(buffer);
    header.emit(message);
    put::<16, 4, _>(message, [code, 0, 0, 0]);
    trailer.emit::<CODE_END, _>(message);
    seal(message);
}

fn emit_bare(header: Header, trailer: &Trailer, buffer: &mut [u8]) {
    let message = first_mut::<BARE_LEN>(buffer);
    header.emit(message);
    trailer.emit::<HEADER_LEN, _>(message);
    seal(message);
}

/// Endpoint migration acknowledgement, type 0x03 (Fig. 11I): the board has taken the endpoint over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// The attempt acknowledged; `None` for the bare frame of the figure.
    pub trailer: Option<Trailer>,
}

impl Ack {
    /// Size of this message, octets: 16 as in the figure, or 40.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        match self.trailer {
            None => HEADER_LEN,
            Some(_) => BARE_LEN,
        }
    }

    /// Reads the message at the start of `buffer`. A trailer of all zeros is Ethernet padding behind the bare frame, so
    /// it reads as none; so does a buffer that has no room for a trailer.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<Ack, Error> {
        let header = Header::of_connection(TYPE_ACK, buffer)?;
        let trailer = match buffer.first_chunk::<BARE_LEN>() {
            Some(message) => {
                verify(message)?;
                Some(Trailer::at::<HEADER_LEN, _>(message)).filter(|trailer| *trailer != Trailer::open(0))
            }
            None => {
                verify(first::<0, HEADER_LEN>(Layer::IposHeader, buffer)?)?;
                None
            }
        };
        Ok(Ack { flow: header.flow, protocol: header.protocol, trailer })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::buffer_len`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_ACK, protocol: self.protocol };
        match &self.trailer {
            Some(trailer) => emit_bare(header, trailer, buffer),
            None => {
                let message = first_mut::<HEADER_LEN>(buffer);
                header.emit(message);
                seal(message);
            }
        }
    }
}

/// Why a board refuses a migration (docs/wire.md, body of 0x04).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// 1: nothing listens on the port.
    NoListener,
    /// 2: the listener is bound to another address than the service's.
    AddressNotCovered,
    /// 3: the listener's accept queue is full.
    AcceptQueueFull,
    /// 4: the board's endpoint table is full.
    EndpointTableFull,
    /// 5: the control block cannot be taken over.
    ControlBlock,
    /// 6: the client's MSS is below 536.
    MssTooSmall,
    /// 7: the listener speaks MPTCP.
    Mptcp,
    /// 8: the endpoint is held by another connection.
    HeldByOther,
    /// 9: the board does not take this protocol.
    ProtocolNotSupported,
    /// A code that this version does not know. Not for known codes: they parse as their names.
    Other(u8),
}

impl RefusalReason {
    /// The reason with this code.
    #[must_use]
    pub const fn from_code(code: u8) -> RefusalReason {
        match code {
            1 => RefusalReason::NoListener,
            2 => RefusalReason::AddressNotCovered,
            3 => RefusalReason::AcceptQueueFull,
            4 => RefusalReason::EndpointTableFull,
            5 => RefusalReason::ControlBlock,
            6 => RefusalReason::MssTooSmall,
            7 => RefusalReason::Mptcp,
            8 => RefusalReason::HeldByOther,
            9 => RefusalReason::ProtocolNotSupported,
            other => RefusalReason::Other(other),
        }
    }

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            RefusalReason::NoListener => 1,
            RefusalReason::AddressNotCovered => 2,
            RefusalReason::AcceptQueueFull => 3,
            RefusalReason::EndpointTableFull => 4,
            RefusalReason::ControlBlock => 5,
            RefusalReason::MssTooSmall => 6,
            RefusalReason::Mptcp => 7,
            RefusalReason::HeldByOther => 8,
            RefusalReason::ProtocolNotSupported => 9,
            RefusalReason::Other(code) => code,
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalReason::NoListener => "no listener on the port",
            RefusalReason::AddressNotCovered => "the listener does not cover the service address",
            RefusalReason::AcceptQueueFull => "accept queue full",
            RefusalReason::EndpointTableFull => "endpoint table full",
            RefusalReason::ControlBlock => "control block not acceptable",
            RefusalReason::MssTooSmall => "MSS below 536",
            RefusalReason::Mptcp => "the listener speaks MPTCP",
            RefusalReason::HeldByOther => "the endpoint is held by another connection",
            RefusalReason::ProtocolNotSupported => "protocol not supported",
            RefusalReason::Other(code) => return write!(f, "unknown reason {code}"),
        })
    }
}

/// Migration refused, type 0x04: the board does not take the endpoint over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// Why.
    pub reason: RefusalReason,
    /// The attempt refused.
    pub trailer: Trailer,
}

impl Refused {
    /// Size of the message, octets.
    pub const LEN: usize = CODED_LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<Refused, Error> {
        let (Header { flow, protocol, .. }, code, trailer) = parse_coded(TYPE_REFUSED, buffer)?;
        Ok(Refused { flow, protocol, reason: RefusalReason::from_code(code), trailer })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_REFUSED, protocol: self.protocol };
        emit_coded(header, self.reason.code(), &self.trailer, buffer);
    }
}

/// Why a board does not hold an endpoint (docs/wire.md, body of 0x07).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClosedReason {
    /// 0: the endpoint closed.
    Closed,
    /// 1: the board does not hold it (the answer to [`WhoHolds`]).
    NotHeld,
    /// 2: the board dropped a packet for an endpoint that it does not hold.
    Stray,
    /// 3: the board gave it up by force.
    Forced,
    /// A code that this version does not know. Not for known codes: they parse as their names.
    Other(u8),
}

impl ClosedReason {
    /// The reason with this code.
    #[must_use]
    pub const fn from_code(code: u8) -> ClosedReason {
        match code {
            0 => ClosedReason::Closed,
            1 => ClosedReason::NotHeld,
            2 => ClosedReason::Stray,
            3 => ClosedReason::Forced,
            other => ClosedReason::Other(other),
        }
    }

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            ClosedReason::Closed => 0,
            ClosedReason::NotHeld => 1,
            ClosedReason::Stray => 2,
            ClosedReason::Forced => 3,
            ClosedReason::Other(code) => code,
        }
    }
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClosedReason::Closed => "the endpoint closed",
            ClosedReason::NotHeld => "the endpoint is not held",
            ClosedReason::Stray => "stray packet for an endpoint that is not held",
            ClosedReason::Forced => "given up by force",
            ClosedReason::Other(code) => return write!(f, "unknown reason {code}"),
        })
    }
}

/// Endpoint closed, or not held, type 0x07.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// Why the board does not hold the endpoint.
    pub reason: ClosedReason,
    /// The record that closed; for [`ClosedReason::NotHeld`] the question; for [`ClosedReason::Stray`] id 0.
    pub trailer: Trailer,
}

impl Closed {
    /// Size of the message, octets.
    pub const LEN: usize = CODED_LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<Closed, Error> {
        let (Header { flow, protocol, .. }, code, trailer) = parse_coded(TYPE_CLOSED, buffer)?;
        Ok(Closed { flow, protocol, reason: ClosedReason::from_code(code), trailer })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_CLOSED, protocol: self.protocol };
        emit_coded(header, self.reason.code(), &self.trailer, buffer);
    }
}

/// Who holds this endpoint? Type 0x08.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhoHolds {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// An id chosen for the question.
    pub trailer: Trailer,
}

impl WhoHolds {
    /// Size of the message, octets.
    pub const LEN: usize = BARE_LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<WhoHolds, Error> {
        let Header { flow, protocol, .. } = Header::of_connection(TYPE_WHO_HOLDS, buffer)?;
        let message = first::<HEADER_LEN, { Self::LEN }>(Layer::IposTrailer, buffer)?;
        verify(message)?;
        Ok(WhoHolds { flow, protocol, trailer: Trailer::at::<HEADER_LEN, _>(message) })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_WHO_HOLDS, protocol: self.protocol };
        emit_bare(header, &self.trailer, buffer);
    }
}

/// How a board holds an endpoint (docs/wire.md, body of 0x09).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeldState {
    /// 1: the control block is stored, the socket does not exist yet.
    Pending,
    /// 2: the socket exists.
    Live,
    /// A code that this version does not know. Not for known codes: they parse as their names.
    Other(u8),
}

impl HeldState {
    /// The state with this code.
    #[must_use]
    pub const fn from_code(code: u8) -> HeldState {
        match code {
            1 => HeldState::Pending,
            2 => HeldState::Live,
            other => HeldState::Other(other),
        }
    }

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            HeldState::Pending => 1,
            HeldState::Live => 2,
            HeldState::Other(code) => code,
        }
    }
}

impl fmt::Display for HeldState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeldState::Pending => "pending",
            HeldState::Live => "live",
            HeldState::Other(code) => return write!(f, "unknown state {code}"),
        })
    }
}

/// I do, type 0x09: the board holds the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// How it is held.
    pub state: HeldState,
    /// The id of the record held.
    pub trailer: Trailer,
}

impl Holds {
    /// Size of the message, octets.
    pub const LEN: usize = CODED_LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<Holds, Error> {
        let (Header { flow, protocol, .. }, code, trailer) = parse_coded(TYPE_HOLDS, buffer)?;
        Ok(Holds { flow, protocol, state: HeldState::from_code(code), trailer })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_HOLDS, protocol: self.protocol };
        emit_coded(header, self.state.code(), &self.trailer, buffer);
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

    /// The whole frame of Fig. 11I: 14 + 16 octets.
    const ACK_FRAME: [u8; 30] = [
        // destination and source MAC (Fig. 11A)
        0x02, 0x00, 0x00, 0x00, 0x00, 0x15, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // EtherType
        0x88, 0xb5, // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x03, 0x01, // checksum
        0x50, 0x6e,
    ];

    const ACK: [u8; 40] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x03, 0x01, // checksum
        0xff, 0x18, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const REFUSED: [u8; 44] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x04, 0x01, // checksum
        0xfb, 0x18, // code, zero
        0x03, 0x00, 0x00, 0x00, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const CLOSED: [u8; 44] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x07, 0x01, // checksum
        0xf9, 0x18, // code, zero
        0x02, 0x00, 0x00, 0x00, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const WHO_HOLDS: [u8; 40] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x08, 0x01, // checksum
        0xfa, 0x18, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const HOLDS: [u8; 44] = [
        // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x09, 0x01, // checksum
        0xf7, 0x18, // code, zero
        0x02, 0x00, 0x00, 0x00, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const BARE: Ack = Ack { flow: FLOW, protocol: Protocol::Tcp, trailer: None };
    const TRAILED: Ack = Ack { flow: FLOW, protocol: Protocol::Tcp, trailer: Some(TRAILER) };

    fn golden_refused() -> Refused {
        let reason = RefusalReason::AcceptQueueFull;
        Refused { flow: FLOW, protocol: Protocol::Tcp, reason, trailer: TRAILER }
    }

    fn golden_closed() -> Closed {
        Closed { flow: FLOW, protocol: Protocol::Tcp, reason: ClosedReason::Stray, trailer: TRAILER }
    }

    fn golden_who_holds() -> WhoHolds {
        WhoHolds { flow: FLOW, protocol: Protocol::Tcp, trailer: TRAILER }
    }

    fn golden_holds() -> Holds {
        Holds { flow: FLOW, protocol: Protocol::Tcp, state: HeldState::Live, trailer: TRAILER }
    }

    #[test]
    fn sizes_are_those_of_the_figure_and_the_document() {
        assert_eq!((ACK_FRAME.len(), BARE.buffer_len(), TRAILED.buffer_len()), (30, 16, 40));
        assert_eq!((Refused::LEN, Closed::LEN, Holds::LEN), (44, 44, 44));
        assert_eq!(WhoHolds::LEN, 40);
    }

    #[test]
    fn deconstructs_fig_11i_bare_and_padded() {
        assert_eq!(Ack::parse(&ACK_FRAME[14..]), Ok(BARE));
        // Ethernet pads the 16 octets to 46.
        let mut padded = [0; 46];
        padded[..16].copy_from_slice(&ACK_FRAME[14..]);
        assert_eq!(Ack::parse(&padded), Ok(BARE));
    }

    #[test]
    fn constructs_fig_11i_over_old_octets() {
        assert_eq!(emitted(16, |buffer| BARE.emit(buffer)), ACK_FRAME[14..]);
    }

    #[test]
    fn an_acknowledgement_with_trailer_keeps_it() {
        assert_eq!(Ack::parse(&ACK), Ok(TRAILED));
        assert_eq!(emitted(40, |buffer| TRAILED.emit(buffer)), ACK);
    }

    #[test]
    fn a_tag_without_an_id_is_still_a_trailer() {
        let trailer = Trailer { id: 0, tag: [1; 16] };
        let ack = Ack { trailer: Some(trailer), ..BARE };
        assert_eq!(Ack::parse(&emitted(40, |buffer| ack.emit(buffer))), Ok(ack));
    }

    #[test]
    fn an_acknowledgement_cut_in_its_trailer_is_not_taken_for_a_bare_one() {
        for len in 0..ACK.len() {
            let outcome = Ack::parse(&ACK[..len]);
            if len < HEADER_LEN {
                let error = LengthError { layer: Layer::IposHeader, offset: 0, required: 16, actual: len };
                assert_eq!(outcome, Err(Error::Length(error)));
            } else {
                assert_eq!(outcome, Err(Error::Checksum { covered: HEADER_LEN }));
            }
        }
    }

    #[test]
    fn padding_that_is_not_zero_is_not_a_bare_acknowledgement() {
        let mut padded = [0xff; 46];
        padded[..16].copy_from_slice(&ACK_FRAME[14..]);
        padded[20] = 1;
        assert_eq!(Ack::parse(&padded), Err(Error::Checksum { covered: 40 }));
    }

    #[test]
    fn deconstructs_the_golden_messages() {
        assert_eq!(Refused::parse(&REFUSED), Ok(golden_refused()));
        assert_eq!(Closed::parse(&CLOSED), Ok(golden_closed()));
        assert_eq!(WhoHolds::parse(&WHO_HOLDS), Ok(golden_who_holds()));
        assert_eq!(Holds::parse(&HOLDS), Ok(golden_holds()));
    }

    #[test]
    fn constructs_the_golden_messages_over_old_octets() {
        assert_eq!(emitted(44, |buffer| golden_refused().emit(buffer)), REFUSED);
        assert_eq!(emitted(44, |buffer| golden_closed().emit(buffer)), CLOSED);
        assert_eq!(emitted(40, |buffer| golden_who_holds().emit(buffer)), WHO_HOLDS);
        assert_eq!(emitted(44, |buffer| golden_holds().emit(buffer)), HOLDS);
    }

    #[test]
    fn every_shorter_buffer_is_refused_and_padding_ignored() {
        assert_length(&REFUSED, Refused::parse);
        assert_length(&CLOSED, Closed::parse);
        assert_length(&WHO_HOLDS, WhoHolds::parse);
        assert_length(&HOLDS, Holds::parse);
    }

    #[test]
    fn a_cut_message_says_whether_body_or_trailer_is_missing() {
        let cut = |layer, offset, required, actual| LengthError { layer, offset, required, actual };
        let body = cut(Layer::IposBody, 16, 4, 3);
        assert_eq!(Refused::parse(&REFUSED[..19]), Err(Error::Length(body)));
        let trailer = cut(Layer::IposTrailer, 20, 24, 23);
        assert_eq!(Refused::parse(&REFUSED[..43]), Err(Error::Length(trailer)));
        let trailer = cut(Layer::IposTrailer, 16, 24, 0);
        assert_eq!(WhoHolds::parse(&WHO_HOLDS[..16]), Err(Error::Length(trailer)));
    }

    #[test]
    fn the_checksum_covers_the_whole_message() {
        assert_covered(&ACK_FRAME[14..], 16, Ack::parse);
        assert_covered(&ACK, 40, Ack::parse);
        assert_covered(&REFUSED, 44, Refused::parse);
        assert_covered(&CLOSED, 44, Closed::parse);
        assert_covered(&WHO_HOLDS, 40, WhoHolds::parse);
        assert_covered(&HOLDS, 44, Holds::parse);
    }

    #[test]
    fn emit_panics_on_a_short_buffer_only() {
        assert_emit_needs(16, |buffer| BARE.emit(buffer));
        assert_emit_needs(40, |buffer| TRAILED.emit(buffer));
        assert_emit_needs(44, |buffer| golden_refused().emit(buffer));
        assert_emit_needs(44, |buffer| golden_closed().emit(buffer));
        assert_emit_needs(40, |buffer| golden_who_holds().emit(buffer));
        assert_emit_needs(44, |buffer| golden_holds().emit(buffer));
    }

    #[test]
    fn a_message_is_not_read_as_another() {
        let found = |expected, found| Error::Type { expected, found };
        assert_eq!(Ack::parse(&WHO_HOLDS), Err(found(3, 8)));
        assert_eq!(Refused::parse(&CLOSED), Err(found(4, 7)));
        assert_eq!(Closed::parse(&HOLDS), Err(found(7, 9)));
        assert_eq!(WhoHolds::parse(&ACK), Err(found(8, 3)));
        assert_eq!(Holds::parse(&REFUSED), Err(found(9, 4)));
    }

    #[test]
    fn reserved_octets_are_ignored() {
        let mut message = REFUSED;
        message[17..20].fill(0xff);
        reseal(&mut message, 44);
        assert_eq!(Refused::parse(&message), Ok(golden_refused()));
    }

    #[test]
    fn every_code_survives_and_only_unknown_ones_are_other() {
        for code in 0..=u8::MAX {
            let reason = RefusalReason::from_code(code);
            assert_eq!(reason.code(), code);
            assert_eq!(matches!(reason, RefusalReason::Other(_)), !(1..=9).contains(&code));
            let reason = ClosedReason::from_code(code);
            assert_eq!(reason.code(), code);
            assert_eq!(matches!(reason, ClosedReason::Other(_)), code > 3);
            let state = HeldState::from_code(code);
            assert_eq!(state.code(), code);
            assert_eq!(matches!(state, HeldState::Other(_)), !(1..=2).contains(&code));
        }
    }

    #[test]
    fn codes_mean_what_the_document_says() {
        let refusals: [(u8, RefusalReason, &str); 9] = [
            (1, RefusalReason::NoListener, "no listener on the port"),
            (2, RefusalReason::AddressNotCovered, "the listener does not cover the service address"),
            (3, RefusalReason::AcceptQueueFull, "accept queue full"),
            (4, RefusalReason::EndpointTableFull, "endpoint table full"),
            (5, RefusalReason::ControlBlock, "control block not acceptable"),
            (6, RefusalReason::MssTooSmall, "MSS below 536"),
            (7, RefusalReason::Mptcp, "the listener speaks MPTCP"),
            (8, RefusalReason::HeldByOther, "the endpoint is held by another connection"),
            (9, RefusalReason::ProtocolNotSupported, "protocol not supported"),
        ];
        for (code, reason, words) in refusals {
            assert_eq!((reason.code(), reason.to_string().as_str()), (code, words));
        }
        let closed: [(u8, ClosedReason, &str); 4] = [
            (0, ClosedReason::Closed, "the endpoint closed"),
            (1, ClosedReason::NotHeld, "the endpoint is not held"),
            (2, ClosedReason::Stray, "stray packet for an endpoint that is not held"),
            (3, ClosedReason::Forced, "given up by force"),
        ];
        for (code, reason, words) in closed {
            assert_eq!((reason.code(), reason.to_string().as_str()), (code, words));
        }
        assert_eq!((HeldState::Pending.code(), HeldState::Pending.to_string().as_str()), (1, "pending"));
        assert_eq!((HeldState::Live.code(), HeldState::Live.to_string().as_str()), (2, "live"));
    }

    #[test]
    fn unknown_codes_are_told_by_number() {
        assert_eq!(RefusalReason::Other(77).to_string(), "unknown reason 77");
        assert_eq!(ClosedReason::Other(78).to_string(), "unknown reason 78");
        assert_eq!(HeldState::Other(79).to_string(), "unknown state 79");
    }

    proptest! {
        #[test]
        fn acknowledgements_survive_a_round_trip(
            flow in any_flow(),
            protocol in any_protocol(),
            trailer in prop::option::of(any_trailer()),
            padding in 0_usize..24,
        ) {
            let ack = Ack { flow, protocol, trailer };
            let mut message = emitted(ack.buffer_len(), |buffer| ack.emit(buffer));
            message.resize(message.len() + padding, 0);
            prop_assert_eq!(Ack::parse(&message), Ok(ack));
        }

        #[test]
        fn coded_messages_survive_a_round_trip(
            flow in any_flow(),
            protocol in any_protocol(),
            trailer in any_trailer(),
            code: u8,
        ) {
            let refused = Refused { flow, protocol, reason: RefusalReason::from_code(code), trailer };
            prop_assert_eq!(Refused::parse(&emitted(44, |buffer| refused.emit(buffer))), Ok(refused));
            let closed = Closed { flow, protocol, reason: ClosedReason::from_code(code), trailer };
            prop_assert_eq!(Closed::parse(&emitted(44, |buffer| closed.emit(buffer))), Ok(closed));
            let holds = Holds { flow, protocol, state: HeldState::from_code(code), trailer };
            prop_assert_eq!(Holds::parse(&emitted(44, |buffer| holds.emit(buffer))), Ok(holds));
            let who_holds = WhoHolds { flow, protocol, trailer };
            prop_assert_eq!(WhoHolds::parse(&emitted(40, |buffer| who_holds.emit(buffer))), Ok(who_holds));
        }
    }
}
