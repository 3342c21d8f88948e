//! Parse: what a frame is, before anything is looked up.
//!
//! Input: a received frame and the port it came in by. Output: [`Parsed`], or the reason why it goes no further. Owner:
//! the worker. Touches the headers only; the TCP checksum is left to the stages that act on the payload
//! ([`TcpPacket::checksum_ok`]), because a board's kernel checks what is forwarded to it.

use std::net::Ipv4Addr;

use ipos_dpdk::mbuf::{Checksum, Mbuf};
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::{arp, ethernet, icmp, ipv4, tcp, udp};

use crate::config::PortSettings;
use crate::counters::Drop;
use crate::datagram::UdpPacket;
use crate::handoff::{CHECK_PORTS, PortIndex};
use crate::services::Services;

/// A frame that the appliance may act on.
#[derive(Debug)]
pub enum Parsed {
    /// TCP to one of our addresses.
    Tcp(TcpPacket),
    /// UDP to a service's address.
    Udp(UdpPacket),
    /// An ARP request for one of our addresses.
    ArpRequest(arp::Repr),
    /// Any other ARP from the farm: the control core learns from it.
    ArpFarm,
    /// An ICMP echo request to one of our addresses.
    Echo,
    /// An ICMP error about a TCP connection.
    IcmpError(Flow),
    /// An ipOS frame on a port that faces the farm.
    Ipos,
    /// A service's TCP packet to one of the ports that the control core checks boards from.
    Check,
}

/// The headers of a TCP packet, in host order, and where its parts lie in the frame.
#[derive(Clone, Copy, Debug)]
pub struct TcpPacket {
    /// The connection.
    pub flow: Flow,
    /// The port it came in by.
    pub port: PortIndex,
    /// Who sent the frame: answers go back there.
    pub source_mac: Mac,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// Control bits.
    pub flags: tcp::Flags,
    /// SEG.WND as it stands in the header, unscaled.
    pub window: u16,
    /// Octets of the frame up to the end of the IPv4 packet: what follows is Ethernet padding.
    pub frame_len: u16,
    /// Where the TCP header starts in the frame.
    pub tcp_offset: u16,
    /// Where the payload starts in the frame.
    pub payload_offset: u16,
}

impl TcpPacket {
    /// Octets of payload.
    #[inline]
    pub fn payload_len(&self) -> u32 {
        u32::from(self.frame_len) - u32::from(self.payload_offset)
    }

    /// The payload.
    #[inline]
    pub fn payload<'a>(&self, mbuf: &'a Mbuf) -> &'a [u8] {
        mbuf.data().get(usize::from(self.payload_offset)..usize::from(self.frame_len)).unwrap_or_default()
    }

    /// The TCP header with its payload.
    #[inline]
    fn segment<'a>(&self, mbuf: &'a Mbuf) -> &'a [u8] {
        mbuf.data().get(usize::from(self.tcp_offset)..usize::from(self.frame_len)).unwrap_or_default()
    }

    /// Whether the TCP checksum holds: the port's word, or our own sum.
    #[inline(always)]
    pub fn checksum_ok(&self, mbuf: &Mbuf) -> bool {
        match mbuf.l4_checksum() {
            Checksum::Good => true,
            Checksum::Bad => false,
            Checksum::Unknown => tcp::Segment::new_checked(self.segment(mbuf))
                .is_ok_and(|segment| segment.checksum_ok(self.flow.client, self.flow.endpoint)),
        }
    }

    /// The TCP options.
    ///
    /// # Errors
    /// [`Drop::BadTcpOptions`].
    #[inline(always)]
    pub fn options(&self, mbuf: &Mbuf) -> Result<tcp::Options, Drop> {
        let start = usize::from(self.tcp_offset) + tcp::HEADER_LEN;
        let octets = mbuf.data().get(start..usize::from(self.payload_offset)).ok_or(Drop::BadTcpOptions)?;
        match tcp::Options::parse(octets) {
            Ok(options) => Ok(options),
            Err(_) => Err(Drop::BadTcpOptions),
        }
    }
}

/// Parses a frame. Connections to the addresses of services that were removed go on.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn parse(
    mbuf: &mut Mbuf,
    port: &PortSettings,
    ethertype: u16,
    services: &Services,
) -> Result<Parsed, Drop> {
    if !mbuf.is_contiguous() && !mbuf.linearize() {
        return Err(Drop::Segmented);
    }
    let data = mbuf.data();
    let frame = ethernet::Frame::new_checked(data).map_err(|_| Drop::BadEthernet)?;
    if frame.vlan().is_some() || mbuf.vlan_stripped().is_some() {
        return Err(Drop::Vlan);
    }
    if frame.src().is_multicast() {
        return Err(Drop::BadSource);
    }
    let destination = frame.dst();
    if destination != port.mac && destination != Mac::BROADCAST {
        return Err(Drop::OtherMac);
    }
    match frame.ethertype() {
        ethernet::ETHERTYPE_IPV4 if destination == port.mac => ipv4(data, frame.src(), port, services),
        ethernet::ETHERTYPE_IPV4 => Err(Drop::OtherMac),
        ethernet::ETHERTYPE_ARP => arp(frame.payload(), port, services),
        found if found == ethertype && port.role.faces_farm() => Ok(Parsed::Ipos),
        found if found == ethertype => Err(Drop::IposOnWan),
        _ => Err(Drop::OtherEthertype),
    }
}

fn arp(payload: &[u8], port: &PortSettings, services: &Services) -> Result<Parsed, Drop> {
    let packet = arp::Packet::new_checked(payload).map_err(|_| Drop::BadArp)?;
    let repr = arp::Repr::parse(&packet).map_err(|_| Drop::BadArp)?;
    let asks_us =
        repr.target_ip == port.address || (port.role.faces_clients() && services.has_address(repr.target_ip));
    match repr.operation {
        arp::Operation::Request if asks_us => Ok(Parsed::ArpRequest(repr)),
        _ if port.role.faces_farm() => Ok(Parsed::ArpFarm),
        _ => Err(Drop::OtherArp),
    }
}

#[inline]
fn ipv4(data: &[u8], source_mac: Mac, port: &PortSettings, services: &Services) -> Result<Parsed, Drop> {
    let bytes = data.get(ethernet::HEADER_LEN..).ok_or(Drop::BadEthernet)?;
    let packet = ipv4::Packet::new_checked(bytes).map_err(|_| Drop::BadIpv4)?;
    let destination = packet.dst();
    let to_service = port.role.faces_clients() && services.knows_address(destination);
    if !to_service && destination != port.address {
        return Err(Drop::OtherAddress);
    }
    if !packet.checksum_ok() {
        return Err(Drop::BadIpv4Checksum);
    }
    if packet.is_fragment() {
        return Err(Drop::Fragment);
    }
    if packet.header_len() != ipv4::HEADER_LEN {
        return Err(Drop::IpOptions);
    }
    let source = packet.src();
    if !to_service && port.role.faces_farm() && services.knows_address(source) && is_to_check_port(&packet) {
        return Ok(Parsed::Check);
    }
    if !may_be_a_client(source) || source == destination || services.knows_address(source) {
        return Err(Drop::BadSource);
    }
    match packet.protocol() {
        ipv4::PROTOCOL_TCP if to_service => tcp(&packet, source_mac, port),
        ipv4::PROTOCOL_UDP if to_service => udp(&packet),
        ipv4::PROTOCOL_ICMP => match icmp(packet.payload())? {
            // The address of removed services is nobody's here, but for the connections that are left.
            Parsed::Echo if to_service && !services.has_address(destination) => Err(Drop::OtherAddress),
            parsed => Ok(parsed),
        },
        _ => Err(Drop::OtherProtocol),
    }
}

/// Whether a packet goes to a port of the control core's, which checks it whole.
fn is_to_check_port(packet: &ipv4::Packet<&[u8]>) -> bool {
    packet.protocol() == ipv4::PROTOCOL_TCP
        && tcp::Segment::new_checked(packet.payload())
            .is_ok_and(|segment| CHECK_PORTS.contains(&segment.dst_port()))
}

/// Answers never go to addresses that no single host can have.
#[inline]
pub fn may_be_a_client(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    // 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 240.0.0.0/4
    first != 0 && first != 127 && first < 224
}

#[inline]
fn tcp(packet: &ipv4::Packet<&[u8]>, source_mac: Mac, port: &PortSettings) -> Result<Parsed, Drop> {
    let segment = tcp::Segment::new_checked(packet.payload()).map_err(|_| Drop::BadTcp)?;
    let flags = segment.flags();
    if !flags_make_sense(flags) {
        return Err(Drop::BadTcpFlags);
    }
    let tcp_offset = ethernet::HEADER_LEN + packet.header_len();
    // The view has checked that the lengths nest; IPv4's total length is 16 bits, so the sums fit.
    let frame_len = ethernet::HEADER_LEN + packet.total_len();
    Ok(Parsed::Tcp(TcpPacket {
        flow: Flow {
            client: packet.src(),
            client_port: segment.src_port(),
            endpoint: packet.dst(),
            endpoint_port: segment.dst_port(),
        },
        port: port.index,
        source_mac,
        seq: segment.seq(),
        ack: segment.ack(),
        flags,
        window: segment.window(),
        frame_len: u16::try_from(frame_len).map_err(|_| Drop::BadIpv4)?,
        tcp_offset: tcp_offset as u16,
        payload_offset: (tcp_offset + segment.header_len()) as u16,
    }))
}

/// The checksum is left to the board's kernel.
fn udp(packet: &ipv4::Packet<&[u8]>) -> Result<Parsed, Drop> {
    let datagram = udp::Datagram::new_checked(packet.payload()).map_err(|_| Drop::BadUdp)?;
    let frame_len = ethernet::HEADER_LEN + packet.total_len();
    Ok(Parsed::Udp(UdpPacket {
        flow: Flow {
            client: packet.src(),
            client_port: datagram.src_port(),
            endpoint: packet.dst(),
            endpoint_port: datagram.dst_port(),
        },
        frame_len: u16::try_from(frame_len).map_err(|_| Drop::BadIpv4)?,
    }))
}

/// A SYN alone, or anything with ACK or RST but no SYN; and never FIN or RST beside SYN, or FIN beside RST.
#[inline]
fn flags_make_sense(flags: tcp::Flags) -> bool {
    let core =
        tcp::Flags(flags.0 & (tcp::Flags::SYN.0 | tcp::Flags::ACK.0 | tcp::Flags::RST.0 | tcp::Flags::FIN.0));
    if core.contains(tcp::Flags::SYN) {
        return core == tcp::Flags::SYN;
    }
    if core.contains(tcp::Flags::RST) {
        return !core.contains(tcp::Flags::FIN);
    }
    core.contains(tcp::Flags::ACK)
}

fn icmp(payload: &[u8]) -> Result<Parsed, Drop> {
    let packet = icmp::Packet::new_checked(payload).map_err(|_| Drop::BadIcmp)?;
    if !packet.checksum_ok() {
        return Err(Drop::BadIcmp);
    }
    if packet.is_echo_request() {
        return Ok(Parsed::Echo);
    }
    match packet.quoted() {
        // The quoted packet is one that a board sent: its source is the endpoint.
        Some(quoted) if quoted.protocol == ipv4::PROTOCOL_TCP => Ok(Parsed::IcmpError(Flow {
            client: quoted.dst,
            client_port: quoted.dst_port,
            endpoint: quoted.src,
            endpoint_port: quoted.src_port,
        })),
        _ => Err(Drop::OtherIcmp),
    }
}
