//! What came out of the worker, read and checked as its receiver would.

use ipos_wire::ethernet::ETHERTYPE_IPV4;
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{Flags, Options};
use ipos_wire::{ethernet, ipos, ipv4, tcp};

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub flow: Flow,
    pub seq: Seq,
    pub ack: Seq,
    pub flags: Flags,
    pub window: u16,
    pub options: Options,
    pub payload: Vec<u8>,
    pub ttl: u8,
    pub dont_fragment: bool,
    pub source_mac: Mac,
    pub destination_mac: Mac,
}

impl Segment {
    /// Reads a frame that goes to a client.
    pub fn to_client(frame: &[u8]) -> Self {
        let (mac, bytes) = ethernet_of(frame, ETHERTYPE_IPV4);
        let segment = Self::read(bytes, mac);
        // On the way to the client the endpoint is the source.
        let Flow { client, client_port, endpoint, endpoint_port } = segment.flow;
        let flow = Flow {
            client: endpoint,
            client_port: endpoint_port,
            endpoint: client,
            endpoint_port: client_port,
        };
        Self { flow, ..segment }
    }

    /// Reads an IPv4 packet, which must be whole, without padding, and right in every checksum.
    fn read(bytes: &[u8], (destination_mac, source_mac): (Mac, Mac)) -> Self {
        let packet = ipv4::Packet::new_checked(bytes).expect("an IPv4 packet");
        assert_eq!(packet.total_len(), bytes.len(), "no padding is left");
        assert!(packet.checksum_ok(), "the IPv4 checksum");
        assert_eq!(packet.protocol(), ipv4::PROTOCOL_TCP);
        let segment = tcp::Segment::new_checked(packet.payload()).expect("a TCP segment");
        assert!(segment.checksum_ok(packet.src(), packet.dst()), "the TCP checksum");
        let repr = tcp::Repr::parse(&segment).expect("TCP options");
        Self {
            flow: Flow {
                client: packet.src(),
                client_port: repr.src_port,
                endpoint: packet.dst(),
                endpoint_port: repr.dst_port,
            },
            seq: repr.seq,
            ack: repr.ack,
            flags: repr.flags,
            window: repr.window,
            options: repr.options,
            payload: segment.payload().to_vec(),
            ttl: packet.ttl(),
            dont_fragment: packet.dont_fragment(),
            source_mac,
            destination_mac,
        }
    }
}

/// An ipOS packet (0x02) that goes to a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encapsulated {
    /// The whole frame.
    pub frame: Vec<u8>,
    /// The ipOS header.
    pub header: ipos::Header,
    /// The client's IPv4 packet inside.
    pub packet: Vec<u8>,
    pub source_mac: Mac,
    pub destination_mac: Mac,
}

impl Encapsulated {
    /// Reads a frame that goes to a board.
    pub fn read(frame: &[u8], ethertype: u16) -> Self {
        let ((destination_mac, source_mac), bytes) = ethernet_of(frame, ethertype);
        let (header, packet) = ipos::decapsulate(bytes).expect("an ipOS packet");
        assert_eq!(bytes.len(), ipos::HEADER_LEN + packet.len(), "no padding is left");
        Self { frame: frame.to_vec(), header, packet: packet.to_vec(), source_mac, destination_mac }
    }

    /// The TCP segment inside.
    pub fn segment(&self) -> Segment {
        Segment::read(&self.packet, (self.destination_mac, self.source_mac))
    }
}

fn ethernet_of(frame: &[u8], ethertype: u16) -> ((Mac, Mac), &[u8]) {
    let view = ethernet::Frame::new_checked(frame).expect("an Ethernet frame");
    assert_eq!(view.ethertype(), ethertype, "{frame:02x?}");
    ((view.dst(), view.src()), &frame[ethernet::HEADER_LEN..])
}
