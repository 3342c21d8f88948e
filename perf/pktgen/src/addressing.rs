//! Client addresses: every flow has a number, and its addresses and ports follow from the number and tell it again.

use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;

/// The first port that a client uses; those below belong to services.
const FIRST_PORT: u16 = 1024;

/// Ports that each client address has.
pub const PORTS: u32 = 65_536 - FIRST_PORT as u32;

/// The clients, and the service that they talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clients {
    first: u32,
    count: u32,
    service: Ipv4Addr,
    service_port: u16,
}

impl Clients {
    /// `count` addresses (at least 1) from `first` on, which talk to one service.
    #[must_use]
    pub fn new(first: Ipv4Addr, count: u32, service: Ipv4Addr, service_port: u16) -> Self {
        Self { first: first.to_bits(), count: count.max(1), service, service_port }
    }

    /// Number of flows that there can be.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.count) * u64::from(PORTS)
    }

    /// The flow of this number (taken modulo [`Clients::capacity`]): neighbours differ in their address.
    #[inline]
    #[must_use]
    pub fn flow(&self, slot: u64) -> Flow {
        let (client, port) = (slot % u64::from(self.count), slot / u64::from(self.count) % u64::from(PORTS));
        Flow {
            client: Ipv4Addr::from_bits(self.first.wrapping_add(client as u32)),
            client_port: FIRST_PORT + port as u16,
            endpoint: self.service,
            endpoint_port: self.service_port,
        }
    }

    /// The number of a flow, if it is one of ours.
    #[inline]
    #[must_use]
    pub fn slot(&self, flow: &Flow) -> Option<u64> {
        let client = flow.client.to_bits().wrapping_sub(self.first);
        let port = flow.client_port.checked_sub(FIRST_PORT)?;
        let ours =
            client < self.count && flow.endpoint == self.service && flow.endpoint_port == self.service_port;
        ours.then(|| u64::from(port) * u64::from(self.count) + u64::from(client))
    }

    /// Whether one of the clients has the address.
    #[must_use]
    pub fn has(&self, address: Ipv4Addr) -> bool {
        address.to_bits().wrapping_sub(self.first) < self.count
    }

    /// The first client's address: who asks for the way to the service.
    #[must_use]
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    /// The service's address.
    #[must_use]
    pub fn service(&self) -> Ipv4Addr {
        self.service
    }

    /// The service's port.
    #[must_use]
    pub fn service_port(&self) -> u16 {
        self.service_port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(count: u32) -> Clients {
        Clients::new(Ipv4Addr::new(198, 18, 0, 1), count, Ipv4Addr::new(198, 51, 100, 1), 80)
    }

    #[test]
    fn a_flow_tells_its_number() {
        for count in [1, 2, 255, 1000] {
            let clients = clients(count);
            for slot in [0, 1, 254, 255, 256, 64_511, 64_512, 1_000_000] {
                let slot = slot % clients.capacity();
                assert_eq!(clients.slot(&clients.flow(slot)), Some(slot), "{count}");
            }
        }
    }

    #[test]
    fn flows_of_others_have_no_number() {
        let clients = clients(2);
        let flow = clients.flow(3);
        let others = [
            Flow { client: Ipv4Addr::new(198, 18, 0, 0), ..flow },
            Flow { client: Ipv4Addr::new(198, 18, 0, 3), ..flow },
            Flow { client_port: 1023, ..flow },
            Flow { endpoint_port: 81, ..flow },
            Flow { endpoint: Ipv4Addr::new(198, 51, 100, 2), ..flow },
        ];
        assert!(others.iter().all(|flow| clients.slot(flow).is_none()));
        assert!(clients.has(Ipv4Addr::new(198, 18, 0, 2)) && !clients.has(Ipv4Addr::new(198, 18, 0, 3)));
    }
}
