//! Targets for the headers that any packet from the network has.

use core::net::Ipv4Addr;

use ipos_wire::{
    arp as arp_packet, ethernet as ether, icmp as icmp_message, ipv4 as ip, tcp as segment, udp as dgram,
};

/// Addresses for pseudo headers; which they are changes nothing that a target looks at.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Ethernet: header and payload are the whole frame, and an untagged header survives writing.
pub fn ethernet(octets: &[u8]) {
    let Ok(frame) = ether::Frame::new_checked(octets) else { return };
    assert_eq!(frame.header_len() + frame.payload().len(), octets.len());
    assert_eq!(frame.vlan().is_some(), frame.header_len() == ether::HEADER_LEN + ether::VLAN_TAG_LEN);
    let repr = ether::Repr::parse(&frame);
    if frame.vlan().is_none() {
        let mut again = [0xa5; ether::HEADER_LEN];
        repr.emit(&mut again);
        assert_eq!(again, octets[..ether::HEADER_LEN]);
    }
    let mut frame = ether::Frame::new_checked(octets.to_vec()).expect("checked before");
    frame.set_dst(repr.src);
    frame.set_src(repr.dst);
    assert_eq!((frame.dst(), frame.src(), frame.ethertype()), (repr.src, repr.dst, repr.ethertype));
}

/// ARP: a request or reply survives writing, octet for octet.
pub fn arp(octets: &[u8]) {
    let Ok(packet) = arp_packet::Packet::new_checked(octets) else { return };
    if let Ok(repr) = arp_packet::Repr::parse(&packet) {
        let mut again = [0xa5; arp_packet::LEN];
        repr.emit(&mut again);
        assert_eq!(again, octets[..arp_packet::LEN]);
    } else {
        assert!(!matches!(packet.operation_code(), 1 | 2));
    }
}

/// IPv4: header, options and payload are the total length; what we would send of it reads the same.
pub fn ipv4(octets: &[u8]) {
    let Ok(packet) = ip::Packet::new_checked(octets) else { return };
    assert_eq!(packet.header_len(), ip::HEADER_LEN + packet.options_raw().len());
    assert_eq!(packet.header_len() + packet.payload().len(), packet.total_len());
    assert!(packet.total_len() <= octets.len());
    assert_eq!(packet.is_fragment(), packet.more_fragments() || packet.fragment_offset() != 0);
    let mut filled = ip::Packet::new_checked(octets.to_vec()).expect("checked before");
    filled.fill_checksum();
    assert!(filled.checksum_ok());
    assert_eq!(packet.checksum_ok(), packet.checksum() == filled.checksum() || octets_sum_to_zero(&packet));
    let repr = ip::Repr::parse(&packet);
    let mut again = vec![0xa5; ip::HEADER_LEN + repr.payload_len];
    repr.emit(&mut again);
    let again = ip::Packet::new_checked(&again[..]).expect("written by us");
    assert!(again.checksum_ok());
    assert_eq!(ip::Repr::parse(&again), repr);
}

/// A right checksum has two forms when the sum of the rest is zero in one's complement: 0 and 0xffff.
fn octets_sum_to_zero(packet: &ip::Packet<&[u8]>) -> bool {
    packet.checksum_ok() && matches!(packet.checksum(), 0 | 0xffff)
}

/// TCP: header and payload are the whole segment; header and options that we would send read the same.
pub fn tcp(octets: &[u8]) {
    let options = segment::Options::parse(octets);
    if let Ok(options) = options {
        let mut again = [0xa5; segment::MAX_OPTIONS_LEN];
        options.emit(&mut again);
        assert_eq!(segment::Options::parse(&again[..options.emitted_len()]), Ok(options));
    }
    let Ok(view) = segment::Segment::new_checked(octets) else { return };
    assert_eq!(view.header_len(), segment::HEADER_LEN + view.options_raw().len());
    assert_eq!(view.header_len() + view.payload().len(), octets.len());
    assert!(view.seg_len() as usize - view.payload().len() <= 2, "SYN and FIN count one each");
    let mut filled = segment::Segment::new_checked(octets.to_vec()).expect("checked before");
    filled.fill_checksum(CLIENT, ENDPOINT);
    assert!(filled.checksum_ok(CLIENT, ENDPOINT));
    let Ok(repr) = segment::Repr::parse(&view) else {
        assert!(segment::Options::parse(view.options_raw()).is_err());
        return;
    };
    let mut again = vec![0xa5; repr.header_len() + view.payload().len()];
    repr.emit(&mut again, view.payload(), CLIENT, ENDPOINT);
    let again = segment::Segment::new_checked(&again[..]).expect("written by us");
    assert!(again.checksum_ok(CLIENT, ENDPOINT));
    assert_eq!((segment::Repr::parse(&again), again.payload()), (Ok(repr), view.payload()));
}

/// UDP: header and payload are the length field; a datagram that we would send reads the same.
pub fn udp(octets: &[u8]) {
    let Ok(view) = dgram::Datagram::new_checked(octets) else { return };
    assert_eq!(dgram::HEADER_LEN + view.payload().len(), view.total_len());
    assert!(view.total_len() <= octets.len());
    let mut filled = dgram::Datagram::new_checked(octets.to_vec()).expect("checked before");
    filled.fill_checksum(CLIENT, ENDPOINT);
    assert!(filled.checksum() != 0 && filled.checksum_ok(CLIENT, ENDPOINT));
    let repr = dgram::Repr::parse(&view);
    let mut again = vec![0xa5; dgram::HEADER_LEN + view.payload().len()];
    repr.emit(&mut again, view.payload(), CLIENT, ENDPOINT);
    let again = dgram::Datagram::new_checked(&again[..]).expect("written by us");
    assert_eq!((dgram::Repr::parse(&again), again.payload()), (repr, view.payload()));
}

/// ICMP: an echo reply is as right or as wrong as its request; a quoted flow is one that the message holds.
pub fn icmp(octets: &[u8]) {
    let Ok(message) = icmp_message::Packet::new_checked(octets) else { return };
    if let Some(quoted) = message.quoted() {
        assert!(matches!(quoted.protocol, ip::PROTOCOL_TCP | ip::PROTOCOL_UDP));
        assert_eq!(octets[icmp_message::HEADER_LEN + 12..][..4], quoted.src.octets());
        assert_eq!(octets[icmp_message::HEADER_LEN + 16..][..4], quoted.dst.octets());
    }
    assert!(message.next_hop_mtu() != Some(0));
    let mut reply = octets.to_vec();
    if icmp_message::echo_reply_in_place(&mut reply).is_ok() {
        let reply = icmp_message::Packet::new_checked(&reply[..]).expect("same length");
        assert_eq!((reply.kind(), reply.code()), (icmp_message::ECHO_REPLY, 0));
        assert_eq!((reply.echo_ident(), reply.echo_seq()), (message.echo_ident(), message.echo_seq()));
        assert_eq!(reply.checksum_ok(), message.checksum_ok());
    } else {
        assert_eq!(reply, octets, "a refused message must stay as it was");
        assert!(!message.is_echo_request());
    }
}
