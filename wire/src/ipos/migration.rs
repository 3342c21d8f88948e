//! Migration messages, types 0x03 to 0x09: the answers to a connection message, and what is asked and told about an
//! endpoint afterwards (Fig. 11I; docs/wire.md "Messages").

use core::fmt;

use super::Error;
use super::header::{
    HEADER_LEN, Header, Protocol, TRAILER_LEN, TYPE_ACK, TYPE_CLOSED, TYPE_DETACH, TYPE_HOLDS, TYPE_REFUSED,
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

/// Bit of [`Detach`]'s flags.
const FLAG_FORCE: u8 = 1 << 0;

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

/// Detach, type 0x05: the board shall give the endpoint up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detach {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// Protocol of the connection.
    pub protocol: Protocol,
    /// Give it up whatever it is doing, silently towards the client.
    pub force: bool,
    /// The attempt to give up: only a record with this id is given up.
    pub trailer: Trailer,
}

impl Detach {
    /// Size of the message, octets.
    pub const LEN: usize = CODED_LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding. Unknown flags are ignored.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<Detach, Error> {
        let (Header { flow, protocol, .. }, flags, trailer) = parse_coded(TYPE_DETACH, buffer)?;
        Ok(Detach { flow, protocol, force: flags & FLAG_FORCE != 0, trailer })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let header = Header { flow: self.flow, kind: TYPE_DETACH, protocol: self.protocol };
        let flags = if self.force { FLAG_FORCE } else { 0 };
        emit_coded(header, flags, &self.trailer, buffer);
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
