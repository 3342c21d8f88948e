//! Messages to frames: Ethernet header and ipOS message, or ARP, where the frame shall lie.

use std::net::Ipv4Addr;

use ipos_pipelines::segment::{packet_len, write_packet};
use ipos_wire::ipos::{
    self, CloseIdle, Detach, NextRequest, Order, Protocol, TcpConnection, Trailer, UdpConnection, WhoHolds,
};
use ipos_wire::mac::Mac;
use ipos_wire::{arp, ethernet};

use super::sink::Message;

/// Octets of the longest message: a Connection Packet (Fig. 11E).
pub const FRAME_MAX: usize = ethernet::HEADER_LEN + TcpConnection::LEN;

/// Octets of the shortest Ethernet frame without its check sequence: shorter ones are padded with zeros, because not
/// every driver does it.
const FRAME_MIN: usize = 60;

const _: () = assert!(FRAME_MAX == 176 && FRAME_MIN <= FRAME_MAX);

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The port's MAC address.
    pub mac: Mac,
    /// The appliance's address on it.
    pub address: Ipv4Addr,
    /// The farm's EtherType.
    pub ethertype: u16,
}

/// Octets of the frame that carries a message.
pub fn frame_len(message: &Message) -> usize {
    let len = match message {
        Message::Connection { .. } => TcpConnection::LEN,
        Message::UdpConnection { .. } => UdpConnection::LEN,
        Message::Detach { .. } | Message::GiveUp { .. } => Detach::LEN,
        Message::Question { .. } => WhoHolds::LEN,
        Message::Segment { segment, payload, .. } => {
            ipos::HEADER_LEN + packet_len(&segment.with(payload.as_deref().unwrap_or_default()))
        }
        Message::Order { .. } => Order::LEN,
        Message::CloseIdle { .. } => CloseIdle::LEN,
        Message::WhoHas(_) => arp::LEN,
    };
    (ethernet::HEADER_LEN + len).max(FRAME_MIN)
}

/// Writes the frame that carries a message.
///
/// # Panics
/// When the buffer is shorter than [`frame_len`].
pub fn emit(from: Sender, to: Mac, message: &Message, frame: &mut [u8]) {
    let ethertype = match message {
        Message::WhoHas(_) => ethernet::ETHERTYPE_ARP,
        _ => from.ethertype,
    };
    ethernet::Repr { dst: to, src: from.mac, ethertype }.emit(frame);
    let (_, body) = frame.split_at_mut(ethernet::HEADER_LEN);
    let written = match message {
        Message::Connection { flow, server: (server, server_port), tcb } => {
            TcpConnection::emit_parts(*flow, *server, *server_port, tcb, body);
            TcpConnection::LEN
        }
        Message::UdpConnection { flow, server: (server, server_port) } => {
            UdpConnection { flow: *flow, server: *server, server_port: *server_port }.emit(body);
            UdpConnection::LEN
        }
        Message::Detach { flow, id } => {
            let trailer = Trailer::open(*id);
            let next = NextRequest::NONE;
            Detach { flow: *flow, protocol: Protocol::Tcp, force: true, next, trailer }.emit(body);
            Detach::LEN
        }
        Message::GiveUp { flow, id, next } => {
            let trailer = Trailer::open(*id);
            Detach { flow: *flow, protocol: Protocol::Tcp, force: false, next: *next, trailer }.emit(body);
            Detach::LEN
        }
        Message::Question { flow, id } => {
            WhoHolds { flow: *flow, protocol: Protocol::Tcp, trailer: Trailer::open(*id) }.emit(body);
            WhoHolds::LEN
        }
        Message::Segment { flow, segment, payload } => {
            let segment = segment.with(payload.as_deref().unwrap_or_default());
            let (header, packet) = body.split_at_mut(ipos::HEADER_LEN);
            ipos::encapsulate(*flow, Protocol::Tcp, header);
            let len = packet_len(&segment);
            let (client, endpoint) = ((flow.client, flow.client_port), (flow.endpoint, flow.endpoint_port));
            let (packet, _) = packet.split_at_mut(len);
            write_packet(packet, client, endpoint, &segment);
            ipos::HEADER_LEN + len
        }
        Message::Order { server, action, id, name } => {
            let (board, appliance, tag) = (*server, from.address, [0; 16]);
            Order { board, appliance, action: *action, id: *id, name: *name, tag }.emit(body);
            Order::LEN
        }
        Message::CloseIdle { board, idle_ms } => {
            let (board, appliance) = (*board, from.address);
            CloseIdle { board, appliance, idle_ms: *idle_ms, tag: [0; 16] }.emit(body);
            CloseIdle::LEN
        }
        Message::WhoHas(address) => {
            let request = arp::Repr {
                operation: arp::Operation::Request,
                sender_mac: from.mac,
                sender_ip: from.address,
                target_mac: Mac::default(),
                target_ip: *address,
            };
            request.emit(body);
            arp::LEN
        }
    };
    if let Some(padding) = body.get_mut(written..) {
        padding.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipos_wire::flow::Flow;
    use ipos_wire::tcb::Tcb;

    const FROM: Sender =
        Sender { mac: Mac([2, 0, 0, 0, 0, 1]), address: Ipv4Addr::new(192, 0, 2, 1), ethertype: 0x88b5 };
    const TO: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const FLOW: Flow = Flow {
        client: Ipv4Addr::new(203, 0, 113, 7),
        client_port: 40_000,
        endpoint: Ipv4Addr::new(198, 51, 100, 1),
        endpoint_port: 80,
    };

    fn frame(message: &Message) -> (Vec<u8>, u16) {
        let mut buffer = vec![0xa5; frame_len(message)];
        emit(FROM, TO, message, &mut buffer);
        let frame = ethernet::Frame::new_checked(&buffer[..]).expect("a frame");
        assert_eq!((frame.dst(), frame.src()), (TO, FROM.mac));
        (frame.payload().to_vec(), frame.ethertype())
    }

    #[test]
    fn a_connection_packet_is_that_of_figure_11e() {
        let tcb = Tcb { state: 4, migration_id: 77, ..Tcb::default() };
        let server = (Ipv4Addr::new(192, 0, 2, 11), 8080);
        let (payload, ethertype) = frame(&Message::Connection { flow: FLOW, server, tcb });
        assert_eq!((payload.len() + 14, ethertype), (176, 0x88b5));
        let parsed = ipos::TcpConnection::parse(&payload).expect("a connection");
        assert_eq!(
            (parsed.flow, parsed.server, parsed.server_port, parsed.tcb),
            (FLOW, server.0, server.1, tcb)
        );
    }

    #[test]
    fn detach_and_question_carry_their_ids_and_are_no_shorter_than_ethernet_allows() {
        let (payload, _) = frame(&Message::Detach { flow: FLOW, id: 5 });
        let detach = ipos::Detach::parse(&payload).expect("a detach");
        assert_eq!(
            (detach.flow, detach.force, detach.trailer.id, payload.len()),
            (FLOW, true, 5, ipos::Detach::LEN)
        );
        let (payload, _) = frame(&Message::Question { flow: FLOW, id: 6 });
        let question = ipos::WhoHolds::parse(&payload).expect("a question");
        assert_eq!((question.flow, question.trailer.id, payload.len()), (FLOW, 6, 46));
    }

    #[test]
    fn an_order_names_board_appliance_and_application() {
        let name = ipos::ApplicationName::new("web").expect("a name");
        let server = Ipv4Addr::new(192, 0, 2, 11);
        let (payload, _) = frame(&Message::Order { server, action: ipos::Action::Stop, id: 9, name });
        let order = ipos::Order::parse(&payload).expect("an order");
        assert_eq!((order.board, order.appliance, order.id, order.name), (server, FROM.address, 9, name));
        assert_eq!((order.action, payload.len()), (ipos::Action::Stop, ipos::Order::LEN));
    }

    #[test]
    fn arp_asks_for_the_board_in_the_appliances_name() {
        let wanted = Ipv4Addr::new(192, 0, 2, 11);
        let (payload, ethertype) = frame(&Message::WhoHas(wanted));
        assert_eq!(ethertype, ethernet::ETHERTYPE_ARP);
        let packet = arp::Packet::new_checked(&payload[..]).expect("ARP");
        let request = arp::Repr::parse(&packet).expect("a request");
        assert_eq!((request.operation, request.sender_ip), (arp::Operation::Request, FROM.address));
        assert_eq!((request.sender_mac, request.target_ip), (FROM.mac, wanted));
    }
}
