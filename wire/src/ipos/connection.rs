//! Connection messages, type 0x01 (Figs 11E and 11F): the appliance hands a connection to a board.

use core::net::Ipv4Addr;

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_CONNECTION, seal, verify};
use super::octets::{first, first_mut, ipv4_at, put, take, u16_at};
use crate::checksum;
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
        Self::emit_parts(self.flow, self.server, self.server_port, &self.tcb, buffer);
    }

    /// As [`Self::emit`], for who has the parts and need not put them together.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit_parts(flow: Flow, server: Ipv4Addr, server_port: u16, tcb: &Tcb, buffer: &mut [u8]) {
        let message = first_mut::<{ Self::LEN }>(buffer);
        put::<16, 4, _>(message, server.octets());
        put::<20, 2, _>(message, server_port.to_be_bytes());
        let (_, block) = message.split_at_mut(22);
        let body = u64::from(server.to_bits()) + u64::from(server_port);
        let sum = checksum::add_with_carry(tcb.write(block), body);
        Header { flow, kind: TYPE_CONNECTION, protocol: Protocol::Tcp }.emit_sealed(sum, message);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipos::testing::{
        BOARD, FLOW, any_address, any_flow, assert_covered, assert_emit_needs, assert_length, emitted, reseal,
    };
    use crate::tcb::tests::golden as golden_tcb;

    /// The whole frame of Fig. 11E: 14 + 16 + 146 octets.
    const TCP_FRAME: [u8; 176] = [
        // destination and source MAC (Fig. 11A)
        0x02, 0x00, 0x00, 0x00, 0x00, 0x15, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // EtherType
        0x88, 0xb5, // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x01, 0x01, // checksum
        0x31, 0x6a, // server 10.0.0.21:8080
        0x0a, 0x00, 0x00, 0x15, 0x1f, 0x90, // version, state
        0x01, 0x04, // options: timestamps, SACK, window scale
        0x00, 0x07, // client's MSS 1460, ours 1440
        0x05, 0xb4, 0x05, 0xa0, // client's window scale 7, ours 9
        0x07, 0x09, // zero
        0x00, 0x00, // ISS, IRS
        0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24, // SND.UNA, SND.NXT
        0x11, 0x12, 0x13, 0x15, 0x11, 0x12, 0x13, 0x15, // SND.WND 64000, SND.WL1, SND.WL2
        0x00, 0x00, 0xfa, 0x00, 0x21, 0x22, 0x23, 0x25, 0x11, 0x12, 0x13, 0x15,
        // RCV.NXT, RCV.WND 65536
        0x21, 0x22, 0x23, 0x25, 0x00, 0x01, 0x00, 0x00, // TS.Recent, last TSval
        0x31, 0x32, 0x33, 0x34, 0x41, 0x42, 0x43, 0x44, // SRTT 1500 us, RTTVAR 750 us
        0x00, 0x00, 0x05, 0xdc, 0x00, 0x00, 0x02, 0xee,
        // congestion window 14400, slow-start threshold
        0x00, 0x00, 0x38, 0x40, 0x7f, 0xff, 0xff, 0xff, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // established at
        0x00, 0x06, 0x50, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5, // service id, 300 octets follow
        0x61, 0x62, 0x63, 0x64, 0x00, 0x00, 0x01, 0x2c, // appliance id, epoch
        0x71, 0x72, 0x81, 0x82, // zero
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    /// The whole frame of Fig. 11F: 14 + 16 + 6 octets.
    const UDP_FRAME: [u8; 36] = [
        // destination and source MAC (Fig. 11A)
        0x02, 0x00, 0x00, 0x00, 0x00, 0x15, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // EtherType
        0x88, 0xb5, // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x01, 0x02, // checksum
        0x28, 0xc8, // server 10.0.0.21:8080
        0x0a, 0x00, 0x00, 0x15, 0x1f, 0x90,
    ];

    fn golden_tcp() -> TcpConnection {
        TcpConnection { flow: FLOW, server: BOARD, server_port: 8080, tcb: golden_tcb() }
    }

    fn golden_udp() -> UdpConnection {
        UdpConnection { flow: FLOW, server: BOARD, server_port: 8080 }
    }

    #[test]
    fn messages_have_the_sizes_of_the_figures() {
        assert_eq!((TcpConnection::LEN, UdpConnection::LEN), (162, 22));
        assert_eq!((TCP_FRAME.len(), UDP_FRAME.len()), (176, 36));
    }

    #[test]
    fn deconstructs_fig_11e() {
        assert_eq!(TcpConnection::parse(&TCP_FRAME[14..]), Ok(golden_tcp()));
    }

    #[test]
    fn constructs_fig_11e_over_old_octets() {
        let message = emitted(TcpConnection::LEN, |buffer| golden_tcp().emit(buffer));
        assert_eq!(message, TCP_FRAME[14..]);
    }

    #[test]
    fn deconstructs_fig_11f() {
        assert_eq!(UdpConnection::parse(&UDP_FRAME[14..]), Ok(golden_udp()));
    }

    #[test]
    fn constructs_fig_11f_over_old_octets() {
        let message = emitted(UdpConnection::LEN, |buffer| golden_udp().emit(buffer));
        assert_eq!(message, UDP_FRAME[14..]);
    }

    #[test]
    fn every_shorter_buffer_is_refused_and_padding_ignored() {
        assert_length(&TCP_FRAME[14..], TcpConnection::parse);
        assert_length(&UDP_FRAME[14..], UdpConnection::parse);
    }

    #[test]
    fn emit_panics_on_a_short_buffer_only() {
        assert_emit_needs(TcpConnection::LEN, |buffer| golden_tcp().emit(buffer));
        assert_emit_needs(UdpConnection::LEN, |buffer| golden_udp().emit(buffer));
    }

    #[test]
    fn the_checksum_covers_header_and_connection_information() {
        assert_covered(&TCP_FRAME[14..], TcpConnection::LEN, TcpConnection::parse);
        assert_covered(&UDP_FRAME[14..], UdpConnection::LEN, UdpConnection::parse);
        let mut message = TCP_FRAME[14..].to_vec();
        message[40] ^= 1;
        assert_eq!(TcpConnection::parse(&message), Err(Error::Checksum { covered: 162 }));
    }

    #[test]
    fn one_protocol_is_not_read_as_the_other() {
        let found = |protocol| Error::Protocol { kind: TYPE_CONNECTION, protocol };
        assert_eq!(TcpConnection::parse(&UDP_FRAME[14..]), Err(found(2)));
        assert_eq!(UdpConnection::parse(&TCP_FRAME[14..]), Err(found(1)));
    }

    #[test]
    fn a_control_block_of_another_version_is_refused() {
        let mut message = TCP_FRAME[14..].to_vec();
        message[22] = 2;
        reseal(&mut message, TcpConnection::LEN);
        assert_eq!(TcpConnection::parse(&message), Err(Error::Tcb(tcb::Error::Version(2))));
    }

    proptest! {
        #[test]
        fn tcp_connections_survive_a_round_trip(
            flow in any_flow(),
            server in any_address(),
            server_port: u16,
            mut block in prop::collection::vec(any::<u8>(), tcb::LEN),
        ) {
            block[0] = tcb::VERSION;
            let tcb = Tcb::parse(&block).expect("version 1");
            let connection = TcpConnection { flow, server, server_port, tcb };
            let message = emitted(TcpConnection::LEN, |buffer| connection.emit(buffer));
            prop_assert_eq!(TcpConnection::parse(&message), Ok(connection));
        }

        #[test]
        fn udp_connections_survive_a_round_trip(
            flow in any_flow(),
            server in any_address(),
            server_port: u16,
        ) {
            let connection = UdpConnection { flow, server, server_port };
            let message = emitted(UdpConnection::LEN, |buffer| connection.emit(buffer));
            prop_assert_eq!(UdpConnection::parse(&message), Ok(connection));
        }
    }
}
