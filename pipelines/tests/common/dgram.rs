//! Datagrams that clients send.

use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;
use ipos_wire::{ethernet, ipv4, udp};

use super::client::{CLIENT, CLIENT_MAC};
use super::{SERVICE, SERVICE_PORT, WAN_MAC};

/// A datagram that a client sends.
#[derive(Clone, Debug)]
pub struct Dgram {
    pub flow: Flow,
    pub payload: Vec<u8>,
}

impl Dgram {
    pub fn on_port(client_port: u16) -> Self {
        Self::of(CLIENT, client_port)
    }

    pub fn of(client: Ipv4Addr, client_port: u16) -> Self {
        let flow = Flow { client, client_port, endpoint: SERVICE, endpoint_port: SERVICE_PORT };
        Self { flow, payload: b"query".to_vec() }
    }

    pub fn frame(&self) -> Vec<u8> {
        let len = udp::HEADER_LEN + self.payload.len();
        let mut frame = vec![0; ethernet::HEADER_LEN + ipv4::HEADER_LEN + len];
        ethernet::Repr { dst: WAN_MAC, src: CLIENT_MAC, ethertype: ethernet::ETHERTYPE_IPV4 }
            .emit(&mut frame);
        ipv4::Repr {
            src: self.flow.client,
            dst: self.flow.endpoint,
            protocol: ipv4::PROTOCOL_UDP,
            ttl: 57,
            ident: 1,
            dont_fragment: true,
            payload_len: len,
        }
        .emit(&mut frame[ethernet::HEADER_LEN..]);
        let repr = udp::Repr { src_port: self.flow.client_port, dst_port: self.flow.endpoint_port };
        let body = &mut frame[ethernet::HEADER_LEN + ipv4::HEADER_LEN..];
        repr.emit(body, &self.payload, self.flow.client, self.flow.endpoint);
        frame
    }
}
