//! A client: what it sends, as segments to be changed by the test and then put on the wire.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::WorkerId;
use ipos_pipelines::steer::Owners;
use ipos_wire::ethernet::ETHERTYPE_IPV4;
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{Flags, Options, Timestamps};
use ipos_wire::{ethernet, ipv4, tcp};

use super::seen::Segment;
use super::setup::HASH_KEY;
use super::{SERVER_FIRST, SERVICE, SERVICE_PORT, WAN_MAC};

/// The client's router: where its frames come from.
pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0xc1, 1]);
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A segment that a client sends; its fields are the test's to change.
#[derive(Clone, Debug)]
pub struct Seg {
    pub source_mac: Mac,
    pub destination_mac: Mac,
    pub flow: Flow,
    pub seq: Seq,
    pub ack: Seq,
    pub flags: Flags,
    pub window: u16,
    pub options: Options,
    pub payload: Vec<u8>,
    /// Octets behind the IPv4 packet.
    pub padding: usize,
}

impl Seg {
    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let repr = tcp::Repr {
            src_port: self.flow.client_port,
            dst_port: self.flow.endpoint_port,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: self.options,
        };
        let mut segment = vec![0; repr.header_len() + self.payload.len()];
        repr.emit(&mut segment, &self.payload, self.flow.client, self.flow.endpoint);
        self.around(&segment)
    }

    /// The frame with these option octets instead of the options, which must be as long as they are then.
    pub fn frame_with_options(&self, octets: &[u8]) -> Vec<u8> {
        assert_eq!(octets.len() % 4, 0, "TCP counts its header in words");
        let bare = Seg { options: Options::default(), padding: 0, ..self.clone() }.frame();
        let (header, payload) = bare[34..].split_at(tcp::HEADER_LEN);
        let mut segment = [header, octets, payload].concat();
        segment[12] = (((tcp::HEADER_LEN + octets.len()) / 4) << 4) as u8;
        tcp::Segment::new_checked(&mut segment[..])
            .expect("a header")
            .fill_checksum(self.flow.client, self.flow.endpoint);
        self.around(&segment)
    }

    /// Ethernet and IPv4 around a TCP segment.
    fn around(&self, segment: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ethernet::HEADER_LEN + ipv4::HEADER_LEN];
        ethernet::Repr { dst: self.destination_mac, src: self.source_mac, ethertype: ETHERTYPE_IPV4 }
            .emit(&mut frame);
        ipv4::Repr {
            src: self.flow.client,
            dst: self.flow.endpoint,
            protocol: ipv4::PROTOCOL_TCP,
            ttl: 57,
            ident: 0x4242,
            dont_fragment: true,
            payload_len: segment.len(),
        }
        .emit(&mut frame[ethernet::HEADER_LEN..]);
        frame.extend_from_slice(segment);
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }
}

/// A client's end of one connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub flow: Flow,
    /// The client's initial sequence number.
    pub irs: Seq,
    /// The appliance's, once the SYN-ACK has been heard.
    pub iss: Seq,
    /// What the SYN offers. With timestamps, every later segment carries them.
    pub offers: Options,
    /// TSval of what is sent.
    pub tsval: u32,
    /// TSecr of what is sent.
    pub tsecr: u32,
    /// Window field of what is sent.
    pub window: u16,
}

impl Client {
    /// A client as Linux is one: MSS 1460, SACK, timestamps, window scale 9.
    pub fn new() -> Self {
        Self::on_port(40_000)
    }

    /// The same from another port.
    pub fn on_port(port: u16) -> Self {
        let timestamps = Some(Timestamps { tsval: 7_000, tsecr: 0 });
        Self {
            flow: Flow { client: CLIENT, client_port: port, endpoint: SERVICE, endpoint_port: SERVICE_PORT },
            // Near the end of the number space, so that every test also crosses it.
            irs: Seq(0xffff_fff0),
            iss: Seq(0),
            offers: Options { mss: Some(1460), window_scale: Some(9), sack_permitted: true, timestamps },
            tsval: 7_000,
            tsecr: 0,
            window: 502,
        }
    }

    /// A client without any option but the MSS.
    pub fn plain() -> Self {
        let offers = Options { mss: Some(1460), ..Options::default() };
        Self { offers, ..Self::new() }
    }

    /// A client of another service.
    pub fn of(endpoint: Ipv4Addr) -> Self {
        let client = Self::new();
        Self { flow: Flow { endpoint, ..client.flow }, ..client }
    }

    /// A client of the service whose server may speak first.
    pub fn of_server_first() -> Self {
        Self::of(SERVER_FIRST)
    }

    /// A client that takes part in no handshake: its numbers mean nothing to anybody.
    pub fn stranger(port: u16) -> Self {
        Self { irs: Seq(0x0102_0304), iss: Seq(0x0506_0708), ..Self::on_port(port) }
    }

    /// A client whose connection one of so many workers owns.
    pub fn owned_by(worker: u8, workers: u8) -> Self {
        let owners = Owners::new(workers, HASH_KEY);
        (1..u16::MAX)
            .map(Self::on_port)
            .find(|client| owners.owner(&client.flow) == WorkerId(worker))
            .expect("flows spread over all workers")
    }

    fn segment(&self, flags: Flags, offset: u32, payload: &[u8]) -> Seg {
        let stamps = Timestamps { tsval: self.tsval, tsecr: self.tsecr };
        Seg {
            source_mac: CLIENT_MAC,
            destination_mac: WAN_MAC,
            flow: self.flow,
            seq: self.irs + 1 + offset,
            ack: self.iss + 1,
            flags,
            window: self.window,
            options: Options { timestamps: self.offers.timestamps.map(|_| stamps), ..Options::default() },
            payload: payload.to_vec(),
            padding: 0,
        }
    }

    pub fn syn(&self) -> Seg {
        let timestamps = self.offers.timestamps.map(|_| Timestamps { tsval: self.tsval, tsecr: 0 });
        Seg {
            seq: self.irs,
            ack: Seq(0),
            options: Options { timestamps, ..self.offers },
            window: 64_240,
            ..self.segment(Flags::SYN, 0, &[])
        }
    }

    /// Takes note of a SYN-ACK.
    pub fn hears(&mut self, syn_ack: &Segment) {
        assert!(syn_ack.flags.contains(Flags::SYN | Flags::ACK), "{syn_ack:?}");
        assert_eq!(syn_ack.ack, self.irs + 1);
        self.iss = syn_ack.seq;
        self.tsecr = syn_ack.options.timestamps.map_or(0, |stamps| stamps.tsval);
    }

    /// An ACK without data; `offset` counts the client's octets from IRS+1 on.
    pub fn ack(&self, offset: u32) -> Seg {
        self.segment(Flags::ACK, offset, &[])
    }

    /// An ACK that acknowledges `answered` octets of the server's.
    pub fn acks(&self, offset: u32, answered: u32) -> Seg {
        Seg { ack: self.iss + 1 + answered, ..self.ack(offset) }
    }

    /// Data from `offset` on.
    pub fn data(&self, offset: u32, payload: &[u8]) -> Seg {
        self.segment(Flags::ACK | Flags::PSH, offset, payload)
    }

    /// FIN, after `offset` octets.
    pub fn fin(&self, offset: u32) -> Seg {
        self.segment(Flags::ACK | Flags::FIN, offset, &[])
    }

    /// RST, after `offset` octets.
    pub fn rst(&self, offset: u32) -> Seg {
        Seg { options: Options::default(), window: 0, ..self.segment(Flags::RST | Flags::ACK, offset, &[]) }
    }
}
