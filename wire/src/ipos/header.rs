//! The ipOS header (Fig. 11B), the trailer of migration messages and the checksum over both (docs/wire.md).

use super::Error;
use super::octets::{first, first_mut, put, take, u8_at, u64_at};
use crate::checksum;
use crate::error::Layer;
use crate::flow::Flow;

/// Size of the header, octets (Fig. 11B).
pub const HEADER_LEN: usize = 16;
/// Size of the trailer of migration messages, octets (docs/wire.md "Trailer").
pub const TRAILER_LEN: usize = 24;

/// Connection (Figs 11E and 11F), appliance to board.
pub const TYPE_CONNECTION: u8 = 0x01;
/// A packet of a migrated connection (Figs 11G and 11H), appliance to board.
pub const TYPE_PACKET: u8 = 0x02;
/// Endpoint migration acknowledgement (Fig. 11I), board to appliance.
pub const TYPE_ACK: u8 = 0x03;
/// Migration refused, board to appliance.
pub const TYPE_REFUSED: u8 = 0x04;
/// Detach, appliance to board.
pub const TYPE_DETACH: u8 = 0x05;
/// Endpoint closed, or not held, board to appliance.
pub const TYPE_CLOSED: u8 = 0x07;
/// Who holds this endpoint? Appliance to all boards.
pub const TYPE_WHO_HOLDS: u8 = 0x08;
/// I do: the answer to [`TYPE_WHO_HOLDS`], board to appliance.
pub const TYPE_HOLDS: u8 = 0x09;
/// Hello and server state, board to appliance.
pub const TYPE_SERVER_STATE: u8 = 0x10;
/// Listening sockets, board to appliance.
pub const TYPE_LISTENING: u8 = 0x11;

/// Where the checksum lies in the header.
const CHECKSUM_AT: usize = 14;

/// The transport protocol of the connection that a message speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// The message speaks of no connection (0x10 and 0x11).
    None = 0,
    /// TCP.
    Tcp = 1,
    /// UDP.
    Udp = 2,
}

impl Protocol {
    /// The protocol with this number, if there is one.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Protocol> {
        match code {
            0 => Some(Protocol::None),
            1 => Some(Protocol::Tcp),
            2 => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// The number in the header.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// The ipOS header: which connection, and what about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source (the client) and destination (the endpoint it addressed), in every type and direction.
    pub flow: Flow,
    /// Message type, one of the `TYPE_` constants or one that this version does not know.
    pub kind: u8,
    /// Protocol of the connection.
    pub protocol: Protocol,
}

impl Header {
    /// Reads the first [`HEADER_LEN`] octets. The checksum is not verified, because what it covers depends on the type.
    ///
    /// # Errors
    /// [`Error::Length`] when the buffer is shorter, [`Error::Protocol`] when the protocol has no name.
    pub fn parse(buffer: &[u8]) -> Result<Header, Error> {
        let octets = first::<0, HEADER_LEN>(Layer::IposHeader, buffer)?;
        let (kind, code) = (u8_at::<12, _>(octets), u8_at::<13, _>(octets));
        let protocol = Protocol::from_code(code).ok_or(Error::Protocol { kind, protocol: code })?;
        let flow = Flow::from_octets(take::<0, { Flow::LEN }, _>(octets));
        Ok(Header { flow, kind, protocol })
    }

    /// Reads the header of a message that must be of type `kind` and speak of a connection.
    pub(super) fn of_connection(kind: u8, buffer: &[u8]) -> Result<Header, Error> {
        let header = Header::of_kind(kind, buffer)?;
        match header.protocol {
            Protocol::Tcp | Protocol::Udp => Ok(header),
            Protocol::None => Err(Error::Protocol { kind, protocol: Protocol::None.code() }),
        }
    }

    /// Reads the header of a message that must be of type `kind` and of one protocol.
    pub(super) fn of(kind: u8, protocol: Protocol, buffer: &[u8]) -> Result<Header, Error> {
        let header = Header::of_kind(kind, buffer)?;
        if header.protocol == protocol {
            Ok(header)
        } else {
            Err(Error::Protocol { kind, protocol: header.protocol.code() })
        }
    }

    fn of_kind(kind: u8, buffer: &[u8]) -> Result<Header, Error> {
        let header = Header::parse(buffer)?;
        if header.kind == kind { Ok(header) } else { Err(Error::Type { expected: kind, found: header.kind }) }
    }

    /// Writes the header with a checksum of zero; [`seal`] sets it once the covered octets are written.
    pub(super) fn emit<const N: usize>(&self, message: &mut [u8; N]) {
        put::<0, { Flow::LEN }, _>(message, self.flow.to_octets());
        put::<12, 1, _>(message, [self.kind]);
        put::<13, 1, _>(message, [self.protocol.code()]);
        put::<CHECKSUM_AT, 2, _>(message, [0; 2]);
    }
}

/// The end of every migration message: which attempt it speaks of, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// The migration id; never 0 but in [`super::Closed`] about a stray packet.
    pub id: u64,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; 16],
}

impl Trailer {
    /// The trailer of an open farm: no tag.
    #[must_use]
    pub const fn open(id: u64) -> Trailer {
        Trailer { id, tag: [0; 16] }
    }

    /// Reads the trailer at offset `AT` of a message.
    pub(super) fn at<const AT: usize, const N: usize>(message: &[u8; N]) -> Trailer {
        let octets: [u8; TRAILER_LEN] = take::<AT, TRAILER_LEN, N>(message);
        Trailer { id: u64_at::<0, _>(&octets), tag: take::<8, 16, _>(&octets) }
    }

    /// Writes the trailer at offset `AT` of a message.
    pub(super) fn emit<const AT: usize, const N: usize>(&self, message: &mut [u8; N]) {
        let mut octets = [0; TRAILER_LEN];
        put::<0, 8, _>(&mut octets, self.id.to_be_bytes());
        put::<8, 16, _>(&mut octets, self.tag);
        put::<AT, TRAILER_LEN, N>(message, octets);
    }
}

/// Sets the checksum over `covered`, which starts at the header and whose checksum field is zero.
///
/// # Panics
/// When `covered` is shorter than a header, which no caller in this crate allows.
pub(super) fn seal(covered: &mut [u8]) {
    let sum = checksum::of(covered);
    put::<CHECKSUM_AT, 2, HEADER_LEN>(first_mut(covered), sum.to_be_bytes());
}

/// Verifies the checksum over `covered`, which starts at the header.
pub(super) fn verify(covered: &[u8]) -> Result<(), Error> {
    if checksum::of(covered) == 0 { Ok(()) } else { Err(Error::Checksum { covered: covered.len() }) }
}
