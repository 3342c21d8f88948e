//! Any ipOS message, told apart by its type.

use super::header::{
    HEADER_LEN, Header, Protocol, TYPE_ACK, TYPE_CLOSED, TYPE_CONNECTION, TYPE_DETACH, TYPE_HOLDS,
    TYPE_LISTENING, TYPE_PACKET, TYPE_REFUSED, TYPE_SERVER_STATE, TYPE_WHO_HOLDS,
};
use super::octets::{first, u8_at};
use super::{
    Ack, Closed, Detach, Error, Holds, Listening, Refused, ServerState, TcpConnection, UdpConnection,
    WhoHolds, decapsulate,
};
use crate::error::Layer;

/// One message of the farm (docs/wire.md "Messages").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// 0x01, protocol TCP.
    TcpConnection(TcpConnection),
    /// 0x01, protocol UDP.
    UdpConnection(UdpConnection),
    /// 0x02.
    Packet {
        /// The connection that the packet belongs to.
        header: Header,
        /// The client's IPv4 packet, without Ethernet padding.
        packet: &'a [u8],
    },
    /// 0x03.
    Ack(Ack),
    /// 0x04.
    Refused(Refused),
    /// 0x05.
    Detach(Detach),
    /// 0x07.
    Closed(Closed),
    /// 0x08.
    WhoHolds(WhoHolds),
    /// 0x09.
    Holds(Holds),
    /// 0x10.
    ServerState(ServerState),
    /// 0x11.
    Listening(Listening<'a>),
}

impl<'a> Message<'a> {
    /// Reads the message that starts with the ipOS header at the start of `buffer`; Ethernet padding may follow it.
    /// `Ok(None)` is a type that this version does not know, to be counted and ignored.
    ///
    /// # Errors
    /// Whatever makes a message of a known type malformed; see [`Error`].
    pub fn parse(buffer: &'a [u8]) -> Result<Option<Message<'a>>, Error> {
        let header = first::<0, HEADER_LEN>(Layer::IposHeader, buffer)?;
        let (kind, protocol) = (u8_at::<12, _>(header), u8_at::<13, _>(header));
        Ok(Some(match kind {
            TYPE_CONNECTION if protocol == Protocol::Udp.code() => {
                Message::UdpConnection(UdpConnection::parse(buffer)?)
            }
            TYPE_CONNECTION => Message::TcpConnection(TcpConnection::parse(buffer)?),
            TYPE_PACKET => {
                let (header, packet) = decapsulate(buffer)?;
                Message::Packet { header, packet }
            }
            TYPE_ACK => Message::Ack(Ack::parse(buffer)?),
            TYPE_REFUSED => Message::Refused(Refused::parse(buffer)?),
            TYPE_DETACH => Message::Detach(Detach::parse(buffer)?),
            TYPE_CLOSED => Message::Closed(Closed::parse(buffer)?),
            TYPE_WHO_HOLDS => Message::WhoHolds(WhoHolds::parse(buffer)?),
            TYPE_HOLDS => Message::Holds(Holds::parse(buffer)?),
            TYPE_SERVER_STATE => Message::ServerState(ServerState::parse(buffer)?),
            TYPE_LISTENING => Message::Listening(Listening::parse(buffer)?),
            _ => return Ok(None),
        }))
    }
}
