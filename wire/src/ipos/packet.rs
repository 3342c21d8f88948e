//! Packet messages, type 0x02 (Figs 11G and 11H): an IPv4 packet of a migrated connection, as the client sent it.

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_PACKET, verify};
use super::octets::{first, first_mut};
use crate::error::Layer;
use crate::flow::Flow;
use crate::ipv4;

/// Writes the header that goes before an encapsulated packet. The checksum covers the header alone, so the packet need
/// not be touched.
///
/// # Panics
/// When `header` is shorter than [`HEADER_LEN`].
#[inline]
pub fn encapsulate(flow: Flow, protocol: Protocol, header: &mut [u8]) {
    let octets = first_mut::<HEADER_LEN>(header);
    Header { flow, kind: TYPE_PACKET, protocol }.emit_sealed(0, octets);
}

/// The header, and the IPv4 packet that follows it, without Ethernet padding. The packet's checksums are not verified:
/// the appliance has seen them, and whoever delivers the packet will.
///
/// # Errors
/// [`Error::Length`], [`Error::Type`], [`Error::Protocol`], [`Error::Checksum`], and [`Error::Packet`] when what follows
/// is not one whole IPv4 packet.
pub fn decapsulate(buffer: &[u8]) -> Result<(Header, &[u8]), Error> {
    let header = Header::of_connection(TYPE_PACKET, buffer)?;
    verify(first::<0, HEADER_LEN>(Layer::IposHeader, buffer)?)?;
    let rest = buffer.get(HEADER_LEN..).unwrap_or_default();
    let total_len = ipv4::Packet::new_checked(rest).map_err(Error::Packet)?.total_len();
    Ok((header, rest.get(..total_len).unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::LengthError;
    use crate::ipos::testing::{FLOW, any_flow, any_protocol, assert_emit_needs, emitted, reseal};
    use crate::{tcp, udp};

    /// The whole frame of Fig. 11G: 14 + 16 + 40 octets and 18 of data.
    const TCP_FRAME: [u8; 88] = [
        // destination and source MAC (Fig. 11A)
        0x02, 0x00, 0x00, 0x00, 0x00, 0x15, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // EtherType
        0x88, 0xb5, // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x02, 0x01, // checksum
        0x51, 0x6e, // IPv4 header
        0x45, 0x00, 0x00, 0x3a, 0x12, 0x34, 0x40, 0x00, 0x40, 0x06, 0x3c, 0x4b, 0xc0, 0x00, 0x02, 0x0a, 0xc6,
        0x33, 0x64, 0x01, // TCP header
        0xc0, 0x00, 0x00, 0x50, 0x21, 0x22, 0x23, 0x25, 0x11, 0x12, 0x13, 0x15, 0x50, 0x18, 0x01, 0xf5, 0xba,
        0x27, 0x00, 0x00, // GET / HTTP/1.0
        0x47, 0x45, 0x54, 0x20, 0x2f, 0x20, 0x48, 0x54, 0x54, 0x50, 0x2f, 0x31, 0x2e, 0x30, 0x0d, 0x0a, 0x0d,
        0x0a,
    ];

    /// The whole frame of Fig. 11H: 14 + 16 + 28 octets and 4 of data.
    const UDP_FRAME: [u8; 62] = [
        // destination and source MAC (Fig. 11A)
        0x02, 0x00, 0x00, 0x00, 0x00, 0x15, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // EtherType
        0x88, 0xb5, // source 192.0.2.10:49152
        0xc0, 0x00, 0x02, 0x0a, 0xc0, 0x00, // destination 198.51.100.1:80
        0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, // type, protocol
        0x02, 0x02, // checksum
        0x51, 0x6d, // IPv4 header
        0x45, 0x00, 0x00, 0x20, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x3c, 0x5a, 0xc0, 0x00, 0x02, 0x0a, 0xc6,
        0x33, 0x64, 0x01, // UDP header
        0xc0, 0x00, 0x00, 0x50, 0x00, 0x0c, 0x74, 0x75, // ping
        0x70, 0x69, 0x6e, 0x67,
    ];

    #[test]
    fn frames_have_the_sizes_of_the_figures() {
        assert_eq!((TCP_FRAME.len(), UDP_FRAME.len()), (70 + 18, 58 + 4));
    }

    #[test]
    fn deconstructs_fig_11g() {
        let (header, packet) = decapsulate(&TCP_FRAME[14..]).expect("golden");
        assert_eq!(header, Header { flow: FLOW, kind: TYPE_PACKET, protocol: Protocol::Tcp });
        let ip = ipv4::Packet::new_checked(packet).expect("IPv4");
        assert!(ip.checksum_ok());
        assert_eq!((ip.src(), ip.dst()), (FLOW.client, FLOW.endpoint));
        let segment = tcp::Segment::new_checked(ip.payload()).expect("TCP");
        assert!(segment.checksum_ok(ip.src(), ip.dst()));
        assert_eq!(segment.payload(), b"GET / HTTP/1.0\r\n\r\n");
    }

    #[test]
    fn deconstructs_fig_11h() {
        let (header, packet) = decapsulate(&UDP_FRAME[14..]).expect("golden");
        assert_eq!(header, Header { flow: FLOW, kind: TYPE_PACKET, protocol: Protocol::Udp });
        let ip = ipv4::Packet::new_checked(packet).expect("IPv4");
        let datagram = udp::Datagram::new_checked(ip.payload()).expect("UDP");
        assert!(datagram.checksum_ok(ip.src(), ip.dst()));
        assert_eq!(datagram.payload(), b"ping");
    }

    #[test]
    fn constructs_the_headers_of_figs_11g_and_11h_over_old_octets() {
        let tcp = emitted(HEADER_LEN, |buffer| encapsulate(FLOW, Protocol::Tcp, buffer));
        assert_eq!(tcp, TCP_FRAME[14..30]);
        let udp = emitted(HEADER_LEN, |buffer| encapsulate(FLOW, Protocol::Udp, buffer));
        assert_eq!(udp, UDP_FRAME[14..30]);
    }

    #[test]
    fn emit_panics_on_a_short_buffer_only() {
        assert_emit_needs(HEADER_LEN, |buffer| encapsulate(FLOW, Protocol::Tcp, buffer));
    }

    #[test]
    fn every_shorter_header_is_refused() {
        for len in 0..HEADER_LEN {
            let error = LengthError { layer: Layer::IposHeader, offset: 0, required: 16, actual: len };
            assert_eq!(decapsulate(&TCP_FRAME[14..14 + len]), Err(Error::Length(error)));
        }
    }

    #[test]
    fn a_cut_packet_is_refused() {
        let message = &TCP_FRAME[14..];
        for len in HEADER_LEN..message.len() {
            let outcome = decapsulate(&message[..len]);
            assert!(matches!(outcome, Err(Error::Packet(ipv4::Error::Length(_)))), "{len}: {outcome:?}");
        }
    }

    #[test]
    fn ethernet_padding_is_no_part_of_the_packet() {
        let bare = &UDP_FRAME[14..];
        let mut padded = [0xa5; 60];
        padded[..bare.len()].copy_from_slice(bare);
        assert_eq!(decapsulate(&padded), decapsulate(bare));
        assert_eq!(decapsulate(&padded).expect("padded").1.len(), 32);
    }

    #[test]
    fn the_checksum_covers_the_header_alone() {
        for octet in 0..TCP_FRAME.len() - 14 {
            let mut message = TCP_FRAME[14..].to_vec();
            message[octet] ^= 0x10;
            let damaged = decapsulate(&message) == Err(Error::Checksum { covered: HEADER_LEN });
            // Of a damaged type or protocol octet the other checks speak first.
            assert_eq!(damaged, octet < HEADER_LEN && octet != 12 && octet != 13, "octet {octet}");
        }
    }

    #[test]
    fn what_is_not_ipv4_is_refused() {
        let mut message = TCP_FRAME[14..].to_vec();
        message[HEADER_LEN] = 0x60;
        assert_eq!(decapsulate(&message), Err(Error::Packet(ipv4::Error::Version(6))));
    }

    #[test]
    fn a_packet_of_no_connection_is_refused() {
        let mut message = TCP_FRAME[14..].to_vec();
        message[13] = 0;
        reseal(&mut message, HEADER_LEN);
        assert_eq!(decapsulate(&message), Err(Error::Protocol { kind: TYPE_PACKET, protocol: 0 }));
    }

    #[test]
    fn another_type_is_refused() {
        let mut message = TCP_FRAME[14..].to_vec();
        message[12] = 0x03;
        reseal(&mut message, HEADER_LEN);
        assert_eq!(decapsulate(&message), Err(Error::Type { expected: 2, found: 3 }));
    }

    proptest! {
        #[test]
        fn packets_survive_a_round_trip(
            flow in any_flow(),
            protocol in any_protocol(),
            data in prop::collection::vec(any::<u8>(), 0..64),
            padding in 0_usize..32,
        ) {
            let mut message = emitted(HEADER_LEN, |buffer| encapsulate(flow, protocol, buffer));
            let total_len = 20 + data.len();
            let mut packet = [0x45, 0].to_vec();
            packet.extend((total_len as u16).to_be_bytes());
            packet.resize(20, 0);
            packet.extend(data);
            message.extend(&packet);
            message.resize(HEADER_LEN + total_len + padding, 0);
            let header = Header { flow, kind: TYPE_PACKET, protocol };
            prop_assert_eq!(decapsulate(&message), Ok((header, &packet[..])));
        }
    }
}
