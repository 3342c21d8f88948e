//! QUIC: connections stick by their id, so that a client that changes its address keeps its board (RFC 9000, section 9).
//!
//! Servers put a number of their board into the connection ids that they choose (the plaintext scheme of QUIC-LB,
//! draft-ietf-quic-load-balancers); every packet with a short header carries such an id. Long headers are of connections that are
//! being made: their id may be the client's own choice, and clients do not move before the handshake is over, so that they go
//! with their flow, or are placed like any first datagram.
//!
//! Input: datagrams of `udp` services with `[service.quic]`. Output: the board that the id names, which gets the datagram directly: boards
//! keep no state of flows. Owner: the worker. Cost: the first octets of each datagram, and a search among the service's boards. Ids
//! prove nothing: flows that they make have half of the table at most and count as new ones; what finds neither goes to its
//! board all the same, without a flow.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::quic::{Error, Header, SHORT_FRONT_LEN};
use ipos_wire::{ethernet, ipv4, udp};

use crate::core::Core;
use crate::counters::Happening;
use crate::datagram::UdpPacket;
use crate::handoff::{BoardId, Takes};

/// The longest number of a board within connection ids, octets.
pub const SERVER_ID_MAX_LEN: usize = 8;

/// Where the payload of a datagram lies in its frame: IPv4 options are refused.
const PAYLOAD_OFFSET: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;

/// Where connection ids of a service say which board they are of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIds {
    /// Octets of a connection id before the board's number.
    offset: usize,
    /// Octets of the number.
    len: usize,
    /// By number, sorted.
    boards: Vec<(u64, BoardId)>,
}

/// What a datagram says of its board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Its connection is this board's.
    Board(BoardId),
    /// A connection that is being made.
    Unsaid,
    /// A number that no board of the service has.
    Unknown,
    /// A short header that ends before the number does.
    TooShort,
    /// No QUIC.
    Malformed,
}

impl ServerIds {
    /// These numbers, of `len` octets each, behind `offset` octets of a connection id.
    pub fn new(offset: usize, len: usize, mut boards: Vec<(u64, BoardId)>) -> Self {
        boards.sort_unstable();
        Self { offset, len: len.min(SERVER_ID_MAX_LEN), boards }
    }

    /// What a datagram with this payload says.
    pub fn read(&self, payload: &[u8]) -> Named {
        match Header::parse(payload) {
            Ok(Header::Long { .. }) => Named::Unsaid,
            Ok(Header::Short { rest }) => match rest.get(self.offset..self.offset + self.len) {
                Some(octets) => self.board_of(octets),
                None => Named::TooShort,
            },
            Err(Error::Empty | Error::Cut) => Named::Malformed,
        }
    }

    fn board_of(&self, octets: &[u8]) -> Named {
        let number = octets.iter().fold(0, |number, octet| number << 8 | u64::from(*octet));
        let found = self.boards.binary_search_by_key(&number, |row| row.0).ok();
        found.and_then(|place| self.boards.get(place)).map_or(Named::Unknown, |row| Named::Board(row.1))
    }
}

const _: () = assert!(SHORT_FRONT_LEN == 1, "what `Header::Short` begins behind");

/// The board that a datagram's connection id names, if it lives. Counts what names none.
pub fn board(core: &Core, service: u16, packet: &UdpPacket, mbuf: &Mbuf) -> Option<BoardId> {
    let ids = core.services.server_ids(service)?;
    let payload = mbuf.data().get(PAYLOAD_OFFSET..usize::from(packet.frame_len)).unwrap_or_default();
    let reason = match ids.read(payload) {
        Named::Board(board)
            if core.place_of(board).is_some() && core.standings.takes(service, board) != Takes::None =>
        {
            return Some(board);
        }
        Named::Unsaid => return None,
        Named::Board(_) => Happening::QuicBoardGone,
        Named::Unknown => Happening::QuicUnknown,
        Named::TooShort => Happening::QuicTooShort,
        Named::Malformed => Happening::QuicMalformed,
    };
    core.happened(reason);
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> ServerIds {
        ServerIds::new(1, 2, vec![(0x0b02, BoardId(7)), (0x0a01, BoardId(3))])
    }

    #[test]
    fn a_short_header_names_the_board_at_the_configured_place() {
        let ids = ids();
        assert_eq!(ids.read(&[0x40, 0xff, 0x0a, 0x01, 9, 9]), Named::Board(BoardId(3)));
        assert_eq!(ids.read(&[0x7f, 0x00, 0x0b, 0x02]), Named::Board(BoardId(7)));
        assert_eq!(ids.read(&[0x40, 0x0a, 0x01, 0x0a, 0x01]), Named::Unknown);
        assert_eq!(ids.read(&[0x40, 0xff, 0x0a]), Named::TooShort);
        assert_eq!(ids.read(&[0x40]), Named::TooShort);
        assert_eq!(ids.read(&[]), Named::Malformed);
        let whole = ServerIds::new(12, 8, vec![(u64::MAX, BoardId(1))]);
        assert_eq!(whole.read(&[0xff; 30][..]), Named::Malformed, "a long header with ids of 255 octets");
        assert_eq!(whole.read(&[&[0x40; 13][..], &[0xff; 8]].concat()), Named::Board(BoardId(1)));
    }

    #[test]
    fn a_long_header_names_nobody_whatever_its_client_has_chosen() {
        let initial = [&[0xc0, 0, 0, 0, 1, 8, 0xff, 0x0a, 0x01][..], &[0; 30]].concat();
        assert_eq!(ids().read(&initial), Named::Unsaid);
        assert_eq!(ids().read(&initial[..10]), Named::Malformed);
    }

    proptest! {
        #[test]
        fn garbage_names_nobody_but_by_its_very_octets(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            offset in 0usize..20,
            len in 1usize..=SERVER_ID_MAX_LEN,
        ) {
            let number = 0x0102_0304_0506_0708_u64 >> (64 - 8 * len);
            let ids = ServerIds::new(offset, len, vec![(number, BoardId(1))]);
            let octets = &number.to_be_bytes()[8 - len..];
            let names = payload.first().is_some_and(|first| first & 0x80 == 0)
                && payload.get(1 + offset..1 + offset + len) == Some(octets);
            prop_assert_eq!(ids.read(&payload) == Named::Board(BoardId(1)), names);
        }
    }
}
