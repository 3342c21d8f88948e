//! Writing frames, and reading the TCP and UDP packets that come back.
//!
//! Payloads behind their first octets are zeros, which add nothing to a checksum: the cost of a frame's checksums does
//! not grow with its size.

use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{Flags, Options};
use ipos_wire::{arp, checksum, ethernet, ipv4, tcp, udp};

/// Octets of Ethernet and IPv4 header.
const L4_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
/// Where the checksum lies in a TCP header (RFC 9293 section 3.1).
const TCP_CHECKSUM_AT: usize = 16;
/// Hops that a client's packet has left.
const TTL: u8 = 64;

/// From whom to whom a frame goes on its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The sender.
    pub src: Mac,
    /// The next hop.
    pub dst: Mac,
}

/// A client's TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The connection.
    pub flow: Flow,
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Options.
    pub options: Options,
    /// The payload's first octets.
    pub payload: &'a [u8],
}

/// SEG.WND of every segment: no window is ever in the way of the answers.
const WINDOW: u16 = 0xffff;

impl Segment<'_> {
    fn repr(&self) -> tcp::Repr {
        tcp::Repr {
            src_port: self.flow.client_port,
            dst_port: self.flow.endpoint_port,
            seq: Seq(self.seq),
            ack: Seq(self.ack),
            flags: self.flags,
            window: WINDOW,
            options: self.options,
        }
    }

    /// Octets of the frame without padding and frame check sequence.
    #[must_use]
    pub fn frame_octets(&self) -> usize {
        L4_AT + self.repr().header_len() + self.payload.len()
    }

    /// Writes the frame; `frame` is as long as [`Segment::frame_octets`] or longer: the payload goes on with zeros.
    pub fn write(&self, way: Way, frame: &mut [u8]) {
        let repr = self.repr();
        let l4_octets = frame.len().saturating_sub(L4_AT);
        let short = repr.header_len() + self.payload.len();
        let Some(l4) = write_ipv4(way, &self.flow, ipv4::PROTOCOL_TCP, frame) else { return };
        let Some((head, rest)) = l4.split_at_mut_checked(short) else { return };
        repr.emit(head, self.payload, self.flow.client, self.flow.endpoint);
        rest.fill(0);
        // The pseudo header's length is what the zeros change.
        if let Some(field) = head.get_mut(TCP_CHECKSUM_AT..).and_then(|tail| tail.first_chunk_mut::<2>()) {
            let sum = u16::from_be_bytes(*field);
            *field = checksum::update_u16(sum, short as u16, l4_octets as u16).to_be_bytes();
        }
    }
}

/// Writes a datagram whose payload starts with `payload` and goes on with zeros to the end of `frame`.
pub fn write_udp(way: Way, flow: &Flow, payload: &[u8], frame: &mut [u8]) {
    let Some(l4) = write_ipv4(way, flow, ipv4::PROTOCOL_UDP, frame) else { return };
    let octets = l4.len() as u16;
    let short = udp::HEADER_LEN + payload.len();
    let Some((head, rest)) = l4.split_at_mut_checked(short) else { return };
    let repr = udp::Repr { src_port: flow.client_port, dst_port: flow.endpoint_port };
    repr.emit(head, payload, flow.client, flow.endpoint);
    rest.fill(0);
    if let Some([_, _, _, _, l0, l1, c0, c1]) = head.first_chunk_mut::<{ udp::HEADER_LEN }>() {
        let sum = u16::from_be_bytes([*c0, *c1]);
        // Once for the field, once for the pseudo header's copy of it.
        let sum = checksum::update_u16(sum, short as u16, octets);
        let sum = match checksum::update_u16(sum, short as u16, octets) {
            0 => 0xffff,
            sum => sum,
        };
        [*l0, *l1] = octets.to_be_bytes();
        [*c0, *c1] = sum.to_be_bytes();
    }
}

/// Octets of a UDP frame's headers.
pub const UDP_HEADERS: usize = L4_AT + udp::HEADER_LEN;

/// Ethernet and IPv4 header of a client's packet that fills the frame; what follows them.
fn write_ipv4<'a>(way: Way, flow: &Flow, protocol: u8, frame: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let (headers, l4) = frame.split_at_mut_checked(L4_AT)?;
    let (front, ip) = headers.split_at_mut(ethernet::HEADER_LEN);
    ethernet::Repr { dst: way.dst, src: way.src, ethertype: ethernet::ETHERTYPE_IPV4 }.emit(front);
    let repr = ipv4::Repr {
        src: flow.client,
        dst: flow.endpoint,
        protocol,
        ttl: TTL,
        ident: 0,
        dont_fragment: true,
        payload_len: l4.len(),
    };
    repr.emit(ip);
    Some(l4)
}

/// Octets of an ARP frame.
pub const ARP_OCTETS: usize = ethernet::HEADER_LEN + arp::LEN;

/// Writes an ARP frame of [`ARP_OCTETS`].
pub fn write_arp(way: Way, repr: &arp::Repr, frame: &mut [u8]) {
    if let Some((front, body)) = frame.split_at_mut_checked(ethernet::HEADER_LEN)
        && body.len() >= arp::LEN
    {
        ethernet::Repr { dst: way.dst, src: way.src, ethertype: ethernet::ETHERTYPE_ARP }.emit(front);
        repr.emit(body);
    }
}

/// Reads an ARP frame's payload.
#[must_use]
pub fn parse_arp(payload: &[u8]) -> Option<arp::Repr> {
    arp::Repr::parse(&arp::Packet::new_checked(payload).ok()?).ok()
}

/// A received IPv4 packet, as far as the generator cares.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// SEG.SEQ; 0 in UDP.
    pub seq: u32,
    /// SEG.ACK; 0 in UDP.
    pub ack: u32,
    /// Control bits; none in UDP.
    pub flags: Flags,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// Reads an IPv4 packet with TCP or UDP in it. Checksums are not verified: cables and memory are trusted here, and
    /// whoever receives in earnest verifies them.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let ip = ipv4::Packet::new_checked(packet).ok()?;
        let (src, dst, l4) = (ip.src(), ip.dst(), ip.payload());
        match ip.protocol() {
            ipv4::PROTOCOL_TCP => {
                let segment = tcp::Segment::new_checked(l4).ok()?;
                Some(Self {
                    src,
                    dst,
                    src_port: segment.src_port(),
                    dst_port: segment.dst_port(),
                    seq: segment.seq().0,
                    ack: segment.ack().0,
                    flags: segment.flags(),
                    payload: segment.payload(),
                })
            }
            ipv4::PROTOCOL_UDP => {
                let datagram = udp::Datagram::new_checked(l4).ok()?;
                let (src_port, dst_port, payload) =
                    (datagram.src_port(), datagram.dst_port(), datagram.payload());
                Some(Self { src, dst, src_port, dst_port, seq: 0, ack: 0, flags: Flags(0), payload })
            }
            _ => None,
        }
    }

    /// The flow of a packet that a client sent.
    #[must_use]
    pub fn from_client(&self) -> Flow {
        Flow {
            client: self.src,
            client_port: self.src_port,
            endpoint: self.dst,
            endpoint_port: self.dst_port,
        }
    }

    /// The flow of a packet that is for a client.
    #[must_use]
    pub fn to_client(&self) -> Flow {
        Flow {
            client: self.dst,
            client_port: self.dst_port,
            endpoint: self.src,
            endpoint_port: self.src_port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way { src: Mac([2, 0, 0, 0, 0, 1]), dst: Mac([2, 0, 0, 0, 0, 2]) };

    fn flow() -> Flow {
        Flow {
            client: Ipv4Addr::new(198, 18, 3, 4),
            client_port: 40_000,
            endpoint: Ipv4Addr::new(198, 51, 100, 1),
            endpoint_port: 80,
        }
    }

    #[test]
    fn frames_of_every_length_have_right_checksums_and_zeros_behind_their_payload() {
        let options = Options { mss: Some(1460), ..Options::default() };
        let segment =
            Segment { flow: flow(), seq: 7, ack: 9, flags: Flags::ACK, options, payload: b"stamp!" };
        for octets in segment.frame_octets()..segment.frame_octets() + 1450 {
            let mut frame = vec![0xa5; octets];
            segment.write(WAY, &mut frame);
            let ip = ipv4::Packet::new_checked(&frame[14..]).expect("an IPv4 packet");
            let tcp = tcp::Segment::new_checked(ip.payload()).expect("a segment");
            assert!(ip.checksum_ok() && tcp.checksum_ok(ip.src(), ip.dst()), "{octets}");
            let received = Received::parse(&frame[14..]).expect("a packet");
            assert_eq!((received.from_client(), received.seq, received.ack), (flow(), 7, 9));
            let (head, rest) = received.payload.split_at(6);
            assert!(head == b"stamp!" && rest.iter().all(|octet| *octet == 0));
        }
    }

    #[test]
    fn datagrams_too() {
        for octets in UDP_HEADERS + 6..1514 {
            let mut frame = vec![0xa5; octets];
            write_udp(WAY, &flow(), b"stamp!", &mut frame);
            let ip = ipv4::Packet::new_checked(&frame[14..]).expect("an IPv4 packet");
            let udp = udp::Datagram::new_checked(ip.payload()).expect("a datagram");
            assert!(
                ip.checksum_ok() && udp.checksum() != 0 && udp.checksum_ok(ip.src(), ip.dst()),
                "{octets}"
            );
            let received = Received::parse(&frame[14..]).expect("a packet");
            assert_eq!(received.payload.len(), octets - UDP_HEADERS);
            assert!(received.payload.starts_with(b"stamp!\0") || octets == UDP_HEADERS + 6);
        }
    }

    #[test]
    fn what_is_no_packet_is_none() {
        let mut frame = vec![0; 60];
        write_udp(WAY, &flow(), b"stamp!", &mut frame);
        for cut in 0..frame.len() - 14 {
            assert!(Received::parse(&frame[14..14 + cut]).is_none(), "{cut}");
        }
        assert!(parse_arp(&frame[14..]).is_none());
    }
}
