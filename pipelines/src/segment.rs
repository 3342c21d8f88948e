//! TCP segments that the appliance itself builds: answers to clients, and replays to boards.

use std::net::Ipv4Addr;

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::{ethernet, ipos, ipv4, tcp};

/// Time to live of what the appliance sends, hops: what Linux uses.
const TTL: u8 = 64;

/// The TCP part of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// Control bits.
    pub flags: tcp::Flags,
    /// SEG.WND as it goes into the header, unscaled.
    pub window: u16,
    /// Options.
    pub options: tcp::Options,
    /// Payload.
    pub payload: &'a [u8],
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The port's own MAC address.
    pub source: Mac,
    /// The next hop's.
    pub destination: Mac,
}

/// Writes a segment from the endpoint to the client over what `mbuf` held. False when the buffer has no room.
#[inline(always)]
pub fn to_client(mbuf: &mut Mbuf, way: Way, flow: &Flow, segment: &Segment<'_>) -> bool {
    let from = (flow.endpoint, flow.endpoint_port);
    let to = (flow.client, flow.client_port);
    let ip_len = packet_len(segment);
    let Some(frame) = resized(mbuf, ethernet::HEADER_LEN + ip_len) else { return false };
    let Some((ethernet, packet)) = frame.split_at_mut_checked(ethernet::HEADER_LEN) else { return false };
    write_ethernet(ethernet, way, ethernet::ETHERTYPE_IPV4);
    write_packet(packet, from, to, segment);
    true
}

/// Writes an ipOS packet (0x02, Fig. 11G) over what `mbuf` held: a segment from the client to the endpoint. False when
/// the buffer has no room.
#[inline]
pub fn to_board(mbuf: &mut Mbuf, way: Way, ethertype: u16, flow: &Flow, segment: &Segment<'_>) -> bool {
    let from = (flow.client, flow.client_port);
    let to = (flow.endpoint, flow.endpoint_port);
    let ip_len = packet_len(segment);
    let headers = ethernet::HEADER_LEN + ipos::HEADER_LEN;
    let Some(frame) = resized(mbuf, headers + ip_len) else { return false };
    let Some((front, packet)) = frame.split_at_mut_checked(headers) else { return false };
    write_ipos(front, way, ethertype, flow);
    write_packet(packet, from, to, segment);
    true
}

/// Writes Ethernet and ipOS header of a TCP packet (0x02): the first 30 octets of a frame.
#[inline]
pub fn write_ipos(front: &mut [u8], way: Way, ethertype: u16, flow: &Flow) {
    let Some((ethernet, header)) = front.split_at_mut_checked(ethernet::HEADER_LEN) else { return };
    write_ethernet(ethernet, way, ethertype);
    ipos::encapsulate(*flow, ipos::Protocol::Tcp, header);
}

/// Writes an Ethernet header.
#[inline]
pub fn write_ethernet(header: &mut [u8], way: Way, ethertype: u16) {
    ethernet::Repr { dst: way.destination, src: way.source, ethertype }.emit(header);
}

#[inline]
fn tcp_len(segment: &Segment<'_>) -> usize {
    tcp::HEADER_LEN + segment.options.emitted_len() + segment.payload.len()
}

/// Octets of the IPv4 packet that carries a segment.
#[inline]
pub fn packet_len(segment: &Segment<'_>) -> usize {
    ipv4::HEADER_LEN + tcp_len(segment)
}

/// Writes the IPv4 packet that carries a segment, [`packet_len`] octets.
#[inline(always)]
pub fn write_packet(packet: &mut [u8], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), segment: &Segment<'_>) {
    let Some((header, rest)) = packet.split_at_mut_checked(ipv4::HEADER_LEN) else { return };
    ipv4::Repr {
        src: from.0,
        dst: to.0,
        protocol: ipv4::PROTOCOL_TCP,
        ttl: TTL,
        ident: 0,
        dont_fragment: true,
        payload_len: rest.len(),
    }
    .emit(header);
    let repr = tcp::Repr {
        src_port: from.1,
        dst_port: to.1,
        seq: segment.seq,
        ack: segment.ack,
        flags: segment.flags,
        window: segment.window,
        options: segment.options,
    };
    repr.emit(rest, segment.payload, from.0, to.0);
}

/// Makes the frame exactly `len` octets long; its content is undefined then.
#[inline]
fn resized(mbuf: &mut Mbuf, len: usize) -> Option<&mut [u8]> {
    let have = mbuf.len();
    if have > len {
        mbuf.truncate(len);
    } else if have < len {
        mbuf.append(len - have)?;
    }
    Some(mbuf.data_mut())
}
