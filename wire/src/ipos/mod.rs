//! ipOS messages: what appliance and boards say to each other (Figs 11A-11I; docs/wire.md).
//!
//! Every buffer starts at the ipOS header, right after the Ethernet header. `parse` reads the message at its start and
//! leaves Ethernet padding behind it alone, because lengths come from the formats, never from the frame. `parse` never
//! panics, whatever the octets; `emit` panics only when its buffer is shorter than the message.

mod application;
mod connection;
mod detach;
mod header;
mod idle;
mod list;
mod listening;
mod message;
mod migration;
pub(crate) mod octets;
mod packet;
mod spawn;
mod state;
#[cfg(test)]
pub(crate) mod testing;

use crate::error::LengthError;
use crate::{ipv4, tcb};

pub use application::{ApplicationRow, Applications};
pub use connection::{TcpConnection, UdpConnection};
pub use detach::{Detach, DetachOutcome, Detached, NextRequest};
pub use header::{
    HEADER_LEN, Header, Protocol, TRAILER_LEN, TYPE_ACK, TYPE_APPLICATIONS, TYPE_AT, TYPE_CLOSE_IDLE,
    TYPE_CLOSED, TYPE_CONNECTION, TYPE_DETACH, TYPE_DETACHED, TYPE_HOLDS, TYPE_LISTENING, TYPE_OFFERS,
    TYPE_ORDER, TYPE_OUTCOME, TYPE_PACKET, TYPE_REFUSED, TYPE_SERVER_STATE, TYPE_WHO_HOLDS, Trailer,
};
pub use idle::CloseIdle;
pub use list::{List, NAME_LEN, ROW_LEN, ROWS_MAX, ReportPart, Row, name_from, name_str};
pub use listening::{Listening, ListeningRow};
pub use message::Message;
pub use migration::{Ack, Closed, ClosedReason, HeldState, Holds, RefusalReason, Refused, WhoHolds};
pub use packet::{decapsulate, encapsulate};
pub use spawn::{Action, ApplicationName, OFFER_LEN, OFFERS_MAX, Offer, Offers, Order, Outcome, Progress};
pub use state::{Pressure, ServerState};

/// Why octets are not the message that they claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The buffer ends before the message does.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// The RFC 1071 sum over the covered octets is wrong.
    #[error("wrong checksum over the first {covered} octets of the ipOS message")]
    Checksum {
        /// Octets that the checksum covers, from the start of the header.
        covered: usize,
    },
    /// A parser of one type met another.
    #[error("ipOS type {found:#04x}, not {expected:#04x}")]
    Type {
        /// The type that the parser reads.
        expected: u8,
        /// The type in the header.
        found: u8,
    },
    /// The protocol has no name, or is not one that the type can speak of.
    #[error("protocol {protocol} in an ipOS message of type {kind:#04x}")]
    Protocol {
        /// The type in the header.
        kind: u8,
        /// The protocol in the header.
        protocol: u8,
    },
    /// The body is of a version that this crate does not know.
    #[error("version {version} of the body of ipOS type {kind:#04x} is not known")]
    Version {
        /// The type in the header.
        kind: u8,
        /// The version in the body.
        version: u8,
    },
    /// The control block cannot be read.
    #[error(transparent)]
    Tcb(#[from] tcb::Error),
    /// What follows the header is not an IPv4 packet; offsets count from that packet.
    #[error("encapsulated packet: {0}")]
    Packet(ipv4::Error),
    /// More rows than a message may have.
    #[error("{0} rows in one message, more than {ROWS_MAX} sockets or {OFFERS_MAX} applications")]
    Rows(u8),
    /// A part that the report does not have.
    #[error("part {part} of {parts}, counted from 0")]
    Part {
        /// The part in the message.
        part: u8,
        /// The number of parts in the message.
        parts: u8,
    },
}
