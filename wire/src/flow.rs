//! The four numbers that name a connection.
//!
//! A connection is named alike in every table, message and direction: by the client and by the endpoint that the client
//! addressed (design: wire.md, "Encapsulation"). The protocol is kept beside the flow, not in it.

use core::fmt;
use core::net::Ipv4Addr;

use crate::octets;

/// A connection's name, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The client's address.
    pub client: Ipv4Addr,
    /// The client's port.
    pub client_port: u16,
    /// The service address that the client spoke to.
    pub endpoint: Ipv4Addr,
    /// The service port that the client spoke to.
    pub endpoint_port: u16,
}

impl Flow {
    /// Octets of a flow on the wire.
    pub const LEN: usize = 12;

    /// The first 12 octets of the ipOS header (Fig 11B): client 4, port 2, endpoint 4, port 2; big-endian.
    #[inline]
    pub fn to_octets(&self) -> [u8; 12] {
        let mut out = [0; 12];
        octets::put(&mut out, 0, &self.client.octets());
        octets::put_u16(&mut out, 4, self.client_port);
        octets::put(&mut out, 6, &self.endpoint.octets());
        octets::put_u16(&mut out, 10, self.endpoint_port);
        out
    }

    /// The inverse of [`Flow::to_octets`].
    #[inline]
    pub fn from_octets(data: [u8; 12]) -> Flow {
        Flow {
            client: octets::ip(&data, 0),
            client_port: octets::u16(&data, 4),
            endpoint: octets::ip(&data, 6),
            endpoint_port: octets::u16(&data, 10),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} -> {}:{}", self.client, self.client_port, self.endpoint, self.endpoint_port)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    const FLOW: Flow = Flow {
        client: Ipv4Addr::new(203, 0, 113, 10),
        client_port: 4242,
        endpoint: Ipv4Addr::new(198, 51, 100, 1),
        endpoint_port: 80,
    };

    #[test]
    fn octets_are_those_of_the_ipos_header() {
        assert_eq!(FLOW.to_octets(), [203, 0, 113, 10, 0x10, 0x92, 198, 51, 100, 1, 0, 80]);
    }

    #[test]
    fn prints_client_then_endpoint() {
        assert_eq!(FLOW.to_string(), "203.0.113.10:4242 -> 198.51.100.1:80");
    }

    proptest! {
        #[test]
        fn octets_round_trip(octets: [u8; Flow::LEN]) {
            prop_assert_eq!(Flow::from_octets(octets).to_octets(), octets);
        }
    }
}
