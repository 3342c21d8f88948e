//! Whole connections, from both ends.

use super::{Profile, Tally};
use crate::boards::Arrived;
use crate::client::{ClientSide, ConnectionCounters, ConnectionLatency, Io};
use crate::endpoint::Reply;
use crate::frame::Received;
use crate::latency::Latency;
use crate::schedule::Schedule;

/// The profile.
#[derive(Debug)]
pub struct Connections {
    clients: ClientSide,
}

impl Connections {
    /// Connections of these clients.
    #[must_use]
    pub fn new(clients: ClientSide) -> Self {
        Self { clients }
    }
}

impl Profile for Connections {
    fn next_trial(&mut self) {
        self.clients.next_trial();
    }

    fn start(&mut self, _number: u64, intended_ns: u64, io: &mut Io<'_>) -> bool {
        self.clients.start(intended_ns, io)
    }

    fn client_packet(&mut self, packet: &Received<'_>, _schedule: &Schedule, io: &mut Io<'_>) {
        self.clients.receive(packet, io);
    }

    fn arrived(&mut self, _arrived: &Arrived<'_>, _schedule: &Schedule, _io: &mut Io<'_>) -> bool {
        false
    }

    fn replied(&mut self, slot: u32, reply: &Reply, io: &mut Io<'_>) {
        self.clients.replied(slot, reply, io);
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        self.clients.sweep(io);
    }

    fn tally(&self) -> Tally {
        let counters = self.clients.counters();
        Tally { sent: counters.started, returned: counters.completed, ..Tally::default() }
    }

    fn is_settled(&self) -> bool {
        self.clients.under_way() == 0
    }

    fn latency(&self) -> &Latency {
        &self.clients.latency().first_octet
    }

    fn connections(&self) -> Option<(ConnectionCounters, &ConnectionLatency)> {
        Some((self.clients.counters(), self.clients.latency()))
    }
}
