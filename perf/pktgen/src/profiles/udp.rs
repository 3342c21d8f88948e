//! Datagrams of N flows, stamped.

use super::returns::Returns;
use super::{Profile, Tally};
use crate::addressing::Clients;
use crate::boards::Arrived;
use crate::client::Io;
use crate::frame::{Received, write_udp};
use crate::latency::Latency;
use crate::schedule::Schedule;
use crate::size::{FCS_OCTETS, Sizes};
use crate::stamp::Stamp;

/// The profile.
#[derive(Debug)]
pub struct Udp {
    clients: Clients,
    flows: u32,
    sizes: Sizes,
    returns: Returns,
}

impl Udp {
    /// `flows` flows (at least 1), used in turn.
    #[must_use]
    pub fn new(clients: Clients, flows: u32, sizes: Sizes) -> Self {
        Self { clients, flows: flows.max(1), sizes, returns: Returns::default() }
    }
}

impl Profile for Udp {
    fn next_trial(&mut self) {
        self.returns.next_trial();
    }

    fn start(&mut self, number: u64, _intended_ns: u64, io: &mut Io<'_>) -> bool {
        let flow = self.clients.flow(number % u64::from(self.flows));
        let octets = usize::from(self.sizes.of(number) - FCS_OCTETS);
        let stamp = self.returns.stamp(number, io.now_ns).to_octets();
        let way = io.way;
        let sent = io.lane.send(octets, |frame| write_udp(way, &flow, &stamp, frame));
        if !sent {
            self.returns.take_back();
        }
        sent
    }

    fn client_packet(&mut self, _packet: &Received<'_>, _schedule: &Schedule, _io: &mut Io<'_>) {}

    fn arrived(&mut self, arrived: &Arrived<'_>, schedule: &Schedule, io: &mut Io<'_>) -> bool {
        if let Some(stamp) = Stamp::parse(arrived.packet.payload) {
            self.returns.back(stamp, schedule, io.now_ns);
        }
        true
    }

    fn tally(&self) -> Tally {
        self.returns.tally()
    }

    fn latency(&self) -> &Latency {
        self.returns.latency()
    }
}
