//! Target for the datagrams of QUIC services: the header of the first packet, and the board that its connection id names.

use ipos_pipelines::handoff::BoardId;
use ipos_pipelines::quic::{Named, SERVER_ID_MAX_LEN, ServerIds};
use ipos_wire::quic::{Error, Header};
use ipos_wire::udp::Datagram;

/// UDP datagrams (the first octet says where server ids lie and how long they are, the rest is UDP header and payload): the ids of a
/// long header lie where a second reading finds them, and it names nobody; a short header names a board by its very octets and no others.
pub fn quic(octets: &[u8]) {
    let Some((place, octets)) = octets.split_first() else { return };
    let Ok(datagram) = Datagram::new_checked(octets) else { return };
    let payload = datagram.payload();
    let offset = usize::from(place >> 3) % 20;
    let len = 1 + usize::from(place & 7) % SERVER_ID_MAX_LEN;
    let id = payload.get(1 + offset..1 + offset + len);
    let number = id.map_or(7, |id| id.iter().fold(0u64, |number, octet| number * 256 + u64::from(*octet)));
    // One board has the very number, others its neighbours.
    let boards =
        vec![(number.wrapping_add(1), BoardId(2)), (number, BoardId(1)), (number ^ 0x80, BoardId(3))];
    let named = ServerIds::new(offset, len, boards).read(payload);
    match Header::parse(payload) {
        Err(Error::Empty) => assert!(payload.is_empty() && named == Named::Malformed),
        Err(Error::Cut) => {
            assert!(payload[0] >= 0x80 && ids(payload).is_none());
            assert_eq!(named, Named::Malformed);
        }
        Ok(Header::Short { rest }) => {
            assert!(payload[0] < 0x80 && rest == &payload[1..]);
            assert_eq!(named, id.map_or(Named::TooShort, |_| Named::Board(BoardId(1))));
            assert!(matches!(
                ServerIds::new(offset, len, Vec::new()).read(payload),
                Named::TooShort | Named::Unknown
            ));
        }
        Ok(Header::Long { version, destination, source }) => {
            assert!(payload[0] >= 0x80);
            assert_eq!(version.to_be_bytes(), payload[1..5]);
            assert_eq!(ids(payload), Some((destination, source)));
            assert_eq!(named, Named::Unsaid);
        }
    }
}

/// The ids of a long header, octet by octet.
fn ids(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let destination_end = 6 + usize::from(*payload.get(5)?);
    let source_end = destination_end + 1 + usize::from(*payload.get(destination_end)?);
    Some((payload.get(6..destination_end)?, payload.get(destination_end + 1..source_end)?))
}
