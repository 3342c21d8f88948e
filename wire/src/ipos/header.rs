//! The ipOS header (Fig. 11B), the trailer of migration messages and the checksum over both (docs/wire.md).

use core::net::Ipv4Addr;

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
/// Detached, or still busy: the answer to [`TYPE_DETACH`] without force, board to appliance.
pub const TYPE_DETACHED: u8 = 0x06;
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
/// Application information, board to appliance.
pub const TYPE_APPLICATIONS: u8 = 0x12;
/// An appliance asks a board to close connections that are idle.
pub const TYPE_CLOSE_IDLE: u8 = 0x13;
/// Start or stop an application, appliance to board.
pub const TYPE_ORDER: u8 = 0x20;
/// What has come of an order, board to appliance.
pub const TYPE_OUTCOME: u8 = 0x21;
/// Applications that a board may start, board to appliance.
pub const TYPE_OFFERS: u8 = 0x22;

/// Where the type lies in the header.
pub const TYPE_AT: usize = 12;
/// Where the checksum lies in the header.
const CHECKSUM_AT: usize = 14;

/// The transport protocol of the connection that a message speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// The message speaks of no connection (0x10 and up).
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

    /// Writes the header with the checksum over it and a body of this sum. In two words: their sum need not wait for octets
    /// that were stored one by one. Little-endian words, so that fields that come from a packet are not turned around
    /// twice; the sum of turned words is the turned sum (RFC 1071 section 2 B).
    #[inline(always)]
    pub(super) fn emit_sealed<const N: usize>(&self, body: u64, message: &mut [u8; N]) {
        let Flow { client, client_port, endpoint, endpoint_port } = self.flow;
        let port = |port: u16| u64::from(u16::from_le_bytes(port.to_be_bytes()));
        let address = |address: Ipv4Addr| u64::from(u32::from_le_bytes(address.octets()));
        let head = address(client) | port(client_port) << 32 | address(endpoint) << 48;
        let kind = u64::from(self.kind) << 32 | u64::from(self.protocol.code()) << 40;
        let tail = address(endpoint) >> 16 | port(endpoint_port) << 16 | kind;
        let body = port(checksum::fold(body));
        let sum = checksum::add_with_carry(checksum::add_with_carry(head, tail), body);
        put::<0, 8, _>(message, head.to_le_bytes());
        put::<8, 8, _>(message, (tail | u64::from(!checksum::fold(sum)) << 48).to_le_bytes());
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::LengthError;
    use crate::ethernet;
    use crate::ipos::testing::{ETHERNET, FLOW, TRAILER, any_flow};
    use crate::mac::Mac;

    /// Fig. 11B with the acknowledgement's type; its checksum was reckoned apart from this crate.
    const GOLDEN: [u8; HEADER_LEN] =
        [192, 0, 2, 10, 0xc0, 0x00, 198, 51, 100, 1, 0x00, 0x50, 0x03, 0x01, 0x50, 0x6e];

    #[test]
    fn the_golden_frames_begin_as_fig_11a_says() {
        let frame = ethernet::Frame::new_checked(ETHERNET).expect("14 octets");
        assert_eq!(frame.dst(), Mac([2, 0, 0, 0, 0, 0x15]));
        assert_eq!(frame.src(), Mac([2, 0, 0, 0, 0, 0x01]));
        assert_eq!(frame.ethertype(), 0x88b5);
        assert_eq!(frame.payload(), []);
    }

    #[test]
    fn deconstructs_the_golden_header() {
        let header = Header { flow: FLOW, kind: TYPE_ACK, protocol: Protocol::Tcp };
        assert_eq!(Header::parse(&GOLDEN), Ok(header));
        assert_eq!(verify(&GOLDEN), Ok(()));
    }

    #[test]
    fn constructs_the_golden_header_over_old_octets() {
        let mut octets = [0xa5; HEADER_LEN];
        Header { flow: FLOW, kind: TYPE_ACK, protocol: Protocol::Tcp }.emit(&mut octets);
        seal(&mut octets);
        assert_eq!(octets, GOLDEN);
    }

    #[test]
    fn every_shorter_buffer_is_refused() {
        for len in 0..HEADER_LEN {
            let error = LengthError { layer: Layer::IposHeader, offset: 0, required: 16, actual: len };
            assert_eq!(Header::parse(&GOLDEN[..len]), Err(Error::Length(error)));
        }
    }

    #[test]
    fn only_three_protocols_have_names() {
        let mut octets = GOLDEN;
        for protocol in 0..=u8::MAX {
            octets[13] = protocol;
            match Header::parse(&octets) {
                Ok(header) => assert_eq!(header.protocol.code(), protocol),
                error => assert_eq!(error, Err(Error::Protocol { kind: TYPE_ACK, protocol })),
            }
            assert_eq!(Header::parse(&octets).is_ok(), protocol <= 2);
        }
    }

    #[test]
    fn a_header_of_another_type_or_protocol_is_refused() {
        let expected = Error::Type { expected: TYPE_DETACH, found: TYPE_ACK };
        assert_eq!(Header::of_connection(TYPE_DETACH, &GOLDEN), Err(expected));
        assert_eq!(Header::of(TYPE_DETACH, Protocol::Tcp, &GOLDEN), Err(expected));
        let expected = Error::Protocol { kind: TYPE_ACK, protocol: 1 };
        assert_eq!(Header::of(TYPE_ACK, Protocol::Udp, &GOLDEN), Err(expected));
        let mut none = GOLDEN;
        none[13] = 0;
        let expected = Error::Protocol { kind: TYPE_ACK, protocol: 0 };
        assert_eq!(Header::of_connection(TYPE_ACK, &none), Err(expected));
    }

    #[test]
    fn a_message_of_zeros_has_a_wrong_checksum() {
        assert_eq!(verify(&[0; HEADER_LEN]), Err(Error::Checksum { covered: HEADER_LEN }));
    }

    #[test]
    fn a_trailer_keeps_its_id_and_tag() {
        let tagged = Trailer { id: TRAILER.id, tag: core::array::from_fn(|at| at as u8) };
        let mut message = [0xa5; 26];
        tagged.emit::<1, _>(&mut message);
        assert_eq!(message[..9], [0xa5, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58]);
        assert_eq!(message[9..], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xa5]);
        assert_eq!(Trailer::at::<1, _>(&message), tagged);
    }

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(flow in any_flow(), kind: u8, code in 0_u8..=2) {
            let protocol = Protocol::from_code(code).expect("one of three");
            let header = Header { flow, kind, protocol };
            let mut octets = [0xa5; HEADER_LEN];
            header.emit(&mut octets);
            seal(&mut octets);
            prop_assert_eq!(Header::parse(&octets), Ok(header));
            prop_assert_eq!(verify(&octets), Ok(()));
        }
    }
}
