//! Connection messages, type 0x01 (Figs 11E and 11F): the appliance hands a connection to a board.

use core::net::Ipv4Addr;

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_CONNECTION, seal, verify};
use super::octets::{first, first_mut, ipv4_at, put, take, u16_at};
use crate::error::Layer;
use crate::flow::Flow;
use crate::tcb::{self, Tcb};

/// A TCP connection (Fig. 11E): what the board needs to continue it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpConnection {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// The board's own address.
    pub server: Ipv4Addr,
    /// Port of the listening socket that shall own the connection.
    pub server_port: u16,
    /// The connection.
    pub tcb: Tcb,
}

impl TcpConnection {
    /// Size of the message, octets.
    pub const LEN: usize = HEADER_LEN + 6 + tcb::LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not TCP), [`Error::Checksum`] and [`Error::Tcb`].
    pub fn parse(buffer: &[u8]) -> Result<TcpConnection, Error> {
        let header = Header::of(TYPE_CONNECTION, Protocol::Tcp, buffer)?;
        let message = first::<HEADER_LEN, { Self::LEN }>(Layer::IposConnection, buffer)?;
        verify(message)?;
        Ok(TcpConnection {
            flow: header.flow,
            server: ipv4_at::<16, _>(message),
            server_port: u16_at::<20, _>(message),
            tcb: Tcb::parse(&take::<22, { tcb::LEN }, _>(message))?,
        })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = first_mut::<{ Self::LEN }>(buffer);
        Header { flow: self.flow, kind: TYPE_CONNECTION, protocol: Protocol::Tcp }.emit(message);
        put::<16, 4, _>(message, self.server.octets());
        put::<20, 2, _>(message, self.server_port.to_be_bytes());
        let mut block = [0; tcb::LEN];
        self.tcb.emit(&mut block);
        put::<22, { tcb::LEN }, _>(message, block);
        seal(message);
    }
}

/// A UDP flow (Fig. 11F): which board socket its packets are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpConnection {
    /// The client and the endpoint it addressed.
    pub flow: Flow,
    /// The board's own address.
    pub server: Ipv4Addr,
    /// Port of the socket that shall receive the flow.
    pub server_port: u16,
}

impl UdpConnection {
    /// Size of the message, octets.
    pub const LEN: usize = HEADER_LEN + 6;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not UDP) and [`Error::Checksum`].
    pub fn parse(buffer: &[u8]) -> Result<UdpConnection, Error> {
        let header = Header::of(TYPE_CONNECTION, Protocol::Udp, buffer)?;
        let message = first::<HEADER_LEN, { Self::LEN }>(Layer::IposConnection, buffer)?;
        verify(message)?;
        Ok(UdpConnection {
            flow: header.flow,
            server: ipv4_at::<16, _>(message),
            server_port: u16_at::<20, _>(message),
        })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = first_mut::<{ Self::LEN }>(buffer);
        Header { flow: self.flow, kind: TYPE_CONNECTION, protocol: Protocol::Udp }.emit(message);
        put::<16, 4, _>(message, self.server.octets());
        put::<20, 2, _>(message, self.server_port.to_be_bytes());
        seal(message);
    }
}
